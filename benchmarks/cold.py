"""Iterations in processes of their own, one process after the other, with nothing cached in memory.

Each way of doing a thing is a child process that stays: it does an iteration when it is told to,
and says what that took. So several ways take turns, each keeps what it holds in its own memory, and
that memory can be measured. Before each turn the system forgets the pages of all files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

_SAMPLE_SECONDS = 0.02
_COUNTED = ("RssAnon:", "RssShmem:")


def forget(paths: Iterable[Path]) -> None:
    """Have the system forget the pages of these files, once the disk has them."""
    for path in paths:
        with suppress(OSError):  # gone, or not to be opened
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fdatasync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def nameless_files(process: int) -> list[Path]:
    """The files without a name that a process has open: what it has spilled."""
    found = []
    with suppress(OSError):
        for link in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):
                target = os.readlink(link)
                if target.endswith(" (deleted)") and not target.startswith("/memfd:"):
                    found.append(link)
    return found


def anonymous_bytes(process: int) -> int:
    """What a process holds beside pages of files."""
    found = 0
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(_COUNTED):
                found += int(line.split()[1]) << 10
    return found


@dataclass(frozen=True)
class Cold:
    """What a way has taken: seconds of its iterations, bytes that it held at most, before its
    first iteration (`start`) and in all (`peak`), and what it gave."""

    name: str
    seconds: tuple[float, ...]
    start: int
    peak: int
    result: Any

    @property
    def typical(self) -> float:
        """The median of the later iterations: in the first one tables are loaded."""
        return median(self.seconds[1:] or self.seconds)


class Child:
    """A process that does an iteration at a time; its largest memory is watched."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.seconds: list[float] = []
        self.start = self.peak = 0
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._done = threading.Event()
        self.told = self._hear()  # once it is ready
        self.start = self.peak = anonymous_bytes(self._process.pid)
        self._watch.start()

    def _look(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            self.peak = max(self.peak, anonymous_bytes(self._process.pid))

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} has ended with code {self._process.wait()}")
        return json.loads(line)

    def _tell(self, word: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return self._hear()

    def iterate(self, paths: Iterable[Path]) -> None:
        """One iteration; before it the pages of these files, and of its own, are forgotten."""
        forget([*paths, *nameless_files(self._process.pid)])
        self.seconds.append(float(self._tell("go")))

    def finish(self) -> Cold:
        """Its result; the process ends."""
        result = self._tell("stop")
        self.close()
        return Cold(self.name, tuple(self.seconds), self.start, self.peak, result)

    def close(self) -> None:
        """End the process, whatever it does."""
        self._done.set()
        self._process.kill()
        self._process.communicate()


def in_turn(
    commands: Mapping[str, Sequence[str]],
    paths: Sequence[Path],
    iterations: int,
    environment: Mapping[str, str] | None = None,
) -> list[Cold]:
    """Iterations of all ways, each round beginning with another, so that drift hits all alike."""
    with ExitStack() as ends:
        children = []
        for name, command in commands.items():
            children.append(Child(name, command, environment))
            ends.callback(children[-1].close)
        for i in range(iterations):
            first = i % len(children)
            for child in children[first:] + children[:first]:
                child.iterate(paths)
        return [child.finish() for child in children]


# In the child.


def serve(step: Callable[[], None], result: Callable[[], Any], told: Any = None) -> None:
    """Do steps as the parent asks for them; at the end say the result."""
    answer(told)
    while next_word() == "go":
        begin = perf_counter()
        step()
        answer(perf_counter() - begin)
    answer(result())


def next_word() -> str:
    """What the parent says next; where it has gone, that all is done."""
    return sys.stdin.readline().strip() or "stop"


def answer(value: Any) -> None:
    """Tell the parent."""
    print(json.dumps(value), flush=True)

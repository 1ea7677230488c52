"""Running a Python program under a limit of memory that the system enforces.

A memory control group (version 1 or 2) where this process may make one, which root may: more than
the limit ends the process. Pages of files count there, too, but the system drops them when memory
is short. Without groups the address space is limited (`RLIMIT_AS`).
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from benchmarks.cold import anonymous_bytes

_GROUPS = Path("/sys/fs/cgroup")
_EVERY = 0.02  # seconds between two looks at a process's memory


@dataclass(frozen=True)
class Ended:
    """How a limited process has ended; bytes of anonymous memory that it had at most, by what it
    was limited."""

    code: int
    output: str
    errors: str
    peak: int
    by: str


class Group:
    """A control group of its own for one process; `path` is None where none can be made."""

    def __init__(self, limit: int) -> None:
        self.path: Path | None = None
        first = _GROUPS / "memory"
        for root, name in ((first, "memory.limit_in_bytes"), (_GROUPS, "memory.max")):
            if not (root / "cgroup.procs").exists():
                continue
            with suppress(OSError):
                path = Path(mkdtemp(prefix="scalops-limit-", dir=root))
                try:
                    (path / name).write_text(str(limit))
                    self.path = path
                    return
                except OSError:
                    path.rmdir()

    def enter(self) -> None:
        """Let the calling process be a member."""
        assert self.path is not None
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self) -> None:
        """Remove the group, whose process has ended."""
        if self.path is not None:
            with suppress(OSError):
                self.path.rmdir()


def run_limited(arguments: Sequence[str], limit: int, timeout: float | None = None) -> Ended:
    """Run `python *arguments` with `limit` bytes of memory.

    Raises: subprocess.TimeoutExpired after so many seconds.
    """
    group = Group(limit)

    def limited() -> None:
        if group.path is not None:
            group.enter()
        else:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    try:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=limited,
        )
        peak = [0]
        ended = threading.Event()
        watch = threading.Thread(target=_watch, args=(process.pid, peak, ended))
        watch.start()
        try:
            output, errors = process.communicate(timeout=timeout)
        finally:
            process.kill()
            process.wait()
            ended.set()
            watch.join()
        by = "control group" if group.path is not None else "address space"
        return Ended(process.returncode, output, errors, peak[0], by)
    finally:
        group.remove()


def _watch(pid: int, peak: list[int], ended: threading.Event) -> None:
    while not ended.wait(_EVERY):
        peak[0] = max(peak[0], anonymous_bytes(pid))

"""A worker process of this machine, as its driver sees it: started, told, watched, ended."""

from __future__ import annotations

import mmap
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from scalops.engine.processes import launching
from scalops.engine.processes.messages import Message, send
from scalops.engine.progress import BYTES, Place, overdue, places

MODULE = "scalops.engine.cluster.worker_process"


class LocalProcess:
    """A direct child that ends when its standard input closes, whatever ends this process."""

    def __init__(self, told: Mapping[str, Any], module: str = MODULE) -> None:
        """`told`: what it is to know, in a message on its standard input: never on its command
        line, which all users can read. `module` is what it runs.
        """
        notes = os.memfd_create("scalops-notes", os.MFD_CLOEXEC)
        try:
            os.ftruncate(notes, BYTES)
            self._notes = mmap.mmap(notes, BYTES)
            self._process = subprocess.Popen(
                launching.command(module),
                stdin=subprocess.PIPE,
                env=launching.environment(),
                process_group=0,  # Ctrl-C is the driver's to answer
                pass_fds=[notes],
            )
        finally:
            os.close(notes)
        assert self._process.stdin is not None
        self.end = os.pidfd_open(self._process.pid)  # readable once it has ended
        by_main = threading.current_thread() is threading.main_thread()
        greeting = {"path": sys.path, "by_main_thread": by_main, "notes": notes}
        with suppress(OSError):  # it has ended already: that is seen where ends are looked for
            send(self._process.stdin.fileno(), Message(greeting | dict(told), []))
        self._computed: float | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    def reason(self) -> str | None:
        """What it ended by; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        if code >= 0:
            return f"exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            return f"killed by signal {-code}"
        return f"killed by signal {-code} ({name})"

    def places(self) -> list[Place]:
        """Where its threads are, or were when it ended."""
        return places(self._notes)

    def overdue(self, seconds: float) -> Place | None:
        """A call of a user's function that has taken longer, if there is one."""
        return overdue(self._notes, seconds)

    def has_computed(self) -> bool:
        """Whether it has used the processor since it was last asked, or `heard`.

        A function that keeps the interpreter's lock for long lets no sign of life out.
        """
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return False
        before, self._computed = self._computed, float(fields[11]) + float(fields[12])
        return before is not None and self._computed > before

    def heard(self) -> None:
        """It has given a sign of life."""
        self._computed = None

    def dismiss(self) -> None:
        """Close its standard input: it ends by itself."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def kill(self) -> None:
        """End it, and wait for that."""
        self._process.kill()
        self._process.wait()
        self.dismiss()
        os.close(self.end)


def end_all(processes: list[LocalProcess], grace: float) -> None:
    """End processes: by themselves within `grace` seconds, or killed."""
    for process in processes:
        process.dismiss()
    waiting = select.poll()
    left = {p.end for p in processes}
    for end in left:
        waiting.register(end, select.POLLIN)
    deadline = monotonic() + grace
    while left and (seconds := deadline - monotonic()) > 0:
        for end, _ in waiting.poll(seconds * 1e3):
            waiting.unregister(end)
            left.discard(end)
    for process in processes:
        process.kill()

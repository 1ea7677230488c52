"""Where a worker is at: the partition, and the user's function, of each of its threads.

It is noted in memory that the driver maps as well, to read it when the worker has died or takes
too long. In other processes nothing is noted, and that costs nothing.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Sequence
from itertools import count
from time import monotonic_ns
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from scalops.algebra.captured import Captured
from scalops.algebra.errors import Location, UserFunctionError

Memory: TypeAlias = "mmap.mmap | bytearray"
THREADS = 64  # that have a page of their own
BYTES = THREADS * mmap.PAGESIZE
_WORDS = mmap.PAGESIZE // 8  # of a thread: partition + 1, begin of the call, bytes of its text
_TEXT = 24  # where that is
_NAME, _PATH, _OVER = 100, 600, 200  # characters of the text's parts, at most


class Place(NamedTuple):
    """What a thread was at: a partition (-1: none), and a call of a user's function ("": none).

    `over` says of which records, as part of a sentence; `since` is when it began, in seconds of
    this machine's monotonic clock.
    """

    partition: int = -1
    function: str = ""
    location: Location | None = None
    over: str = ""
    since: float = 0.0


class Notes:
    """The notes of one process; each thread has a page of the memory."""

    def __init__(self, memory: Memory) -> None:
        self._memory, self._words = memory, memoryview(memory).cast("q")
        self._numbers = count()
        self._thread = threading.local()
        self.timeout: float | None = None  # seconds that a call may take

    def _page(self) -> int:
        """The number of the calling thread's first word."""
        found: int | None = getattr(self._thread, "page", None)
        if found is None:  # threads beyond the last share its page
            found = self._thread.page = min(next(self._numbers), THREADS - 1) * _WORDS
        return found

    def enter(self, partition: int) -> int:
        """The thread begins a partition; what `leave` is to be given afterwards."""
        page, words = self._page(), self._words
        outer = words[page]
        words[page] = partition + 1
        return outer

    def leave(self, outer: int) -> None:
        """The thread has done with a partition."""
        self._words[self._page()] = outer

    def call(self, captured: Captured, over: str) -> None:
        """The thread calls a function."""
        page, where = self._page(), captured.location
        # A path that does not fit is none.
        path = "" if where is None or len(where.file) > _PATH else where.file
        line = 0 if where is None else where.line
        parts = captured.name[:_NAME], path, str(line), over[:_OVER]
        text = "\0".join(parts).encode(errors="replace")
        at = page * 8 + _TEXT
        self._memory[at : at + len(text)] = text
        self._words[page + 2] = len(text)
        self._words[page + 1] = monotonic_ns()

    def called(self) -> None:
        """The function has returned."""
        self._words[self._page() + 1] = 0

    def overdue(self) -> Place | None:
        """A call that takes longer than it may, if there is one."""
        return None if self.timeout is None else overdue(self._memory, self.timeout)

    @property
    def partition(self) -> int:
        """One that is being read; -1 for none."""
        return max((p.partition for p in places(self._memory)), default=-1)


_own: Notes | None = None


def notes() -> Notes | None:
    """Those of this process, if it keeps any."""
    return _own


def keep_notes(memory: Memory) -> Notes:
    """Have this process note from now on where it is, in `BYTES` bytes of zeros; forks do not."""
    global _own
    _own = Notes(memory)
    os.register_at_fork(after_in_child=_forget)
    return _own


def _forget() -> None:
    global _own
    _own = None


class calling:
    """A user's function is called inside: `over` gives the records, as `Place.over`.

    In a worker no change that it makes to NumPy's handling of floating-point errors stays, and
    a KeyboardInterrupt is the function's own: nobody else interrupts a worker.
    """

    __slots__ = ("_captured", "_notes", "_over", "_state")

    def __init__(self, captured: Captured, over: Callable[[], str]) -> None:
        self._captured, self._over, self._notes = captured, over, _own

    def __enter__(self) -> None:
        if self._notes is not None:
            self._state: Any = np.geterr()
            self._notes.call(self._captured, self._over())

    def __exit__(self, kind: object, error: BaseException | None, tb: object) -> None:
        if self._notes is None:
            return
        self._notes.called()
        np.seterr(**self._state)
        if isinstance(error, KeyboardInterrupt):
            name = self._captured.name
            raise UserFunctionError(
                f"{name} raised KeyboardInterrupt: {error}", location=self._captured.location
            ) from error


def seconds_for_call() -> float | None:
    """Seconds that a call may take in this process; None for any time, or where others count."""
    return None if _own is None else _own.timeout


# As the driver reads them.


def places(memory: Memory) -> list[Place]:
    """Where threads are, or were when their process died; not those that are nowhere."""
    words = memoryview(memory).cast("q")
    found = []
    for page in range(0, len(words), _WORDS):
        partition, begin, size = words[page : page + 3]
        if begin:
            at = page * 8 + _TEXT
            found.append(_called_at(partition - 1, begin, bytes(memory[at : at + size])))
        elif partition:
            found.append(Place(partition - 1))
    return found


def _called_at(partition: int, begin: int, text: bytes) -> Place:
    name, path, line, over = text.decode(errors="replace").split("\0", 3)
    location = Location(path, int(line)) if path else None
    return Place(partition, name, location, over, begin / 1e9)


def shown(found: Sequence[Place]) -> str:
    """Where a process was when it died, as the end of a sentence."""
    parts = []
    for place in found:
        partition = [f"partition {place.partition}"] * (place.partition >= 0)
        function = [f"{place.function}{place.over}"] * bool(place.function)
        parts.append(f", in {', in '.join(function + partition)}")
    return "".join(parts)


def overdue(memory: Memory, seconds: float) -> Place | None:
    """A call that began more than so many seconds ago, if there is one."""
    latest = monotonic_ns() / 1e9 - seconds
    return next((p for p in places(memory) if p.function and p.since < latest), None)

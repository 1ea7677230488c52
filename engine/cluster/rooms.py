"""Memory for the large arrays that messages bring, used again for the next ones.

The system gives fresh memory page by page, which takes twice as long as the copy into it; a loop
whose state is large would pay that in each iteration, at each end.
"""

from __future__ import annotations

import sys
import threading

import numpy as np

from scalops.engine.columns import Array

LEAST_BYTES = 1 << 20  # smaller ones come from the allocator's own memory
MOST_BYTES = 256 << 20  # of all that wait to be used again
_PATIENCE = 16  # arrays that are made without any use of a room, until it is given back
_UNUSED = 2  # references: the list's, and that of the question


class Rooms:
    """Rooms that were made before; one is free when nothing shows a part of it any more."""

    def __init__(self) -> None:
        self._rooms: list[Array] = []  # the one used last is the last
        self._used: dict[int, int] = {}  # when, counted in takes
        self._takes = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> Array:
        """uint8[size] of any content. Raises MemoryError."""
        if size < LEAST_BYTES:
            return np.empty(size, np.uint8)
        with self._lock:
            self._takes += 1
            self._drop()
            number = next((i for i in range(len(self._rooms)) if self._fits(i, size)), None)
            room = np.empty(size, np.uint8) if number is None else self._rooms.pop(number)
            if size <= MOST_BYTES:
                self._rooms.append(room)
                self._used[id(room)] = self._takes
            return room[:size]

    def _fits(self, number: int, size: int) -> bool:
        room = self._rooms[number]
        # Its references: the list's, this one, and that of the question.
        return size <= len(room) <= size + size // 4 and sys.getrefcount(room) == _UNUSED + 1

    def _drop(self) -> None:
        """Let go what has not been used for long, and what is too much."""
        kept: list[Array] = []
        left = MOST_BYTES
        for room in reversed(self._rooms):
            left -= len(room)
            if left >= 0 and self._takes - self._used[id(room)] <= _PATIENCE:
                kept.append(room)
            else:
                del self._used[id(room)]
        self._rooms = kept[::-1]

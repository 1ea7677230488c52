"""Memory for blocks that are read one after the other and that anybody may keep.

Fresh memory costs 0.1 to 0.3 ms a megabyte, because the system gives it page by page; and what
has just been computed on lies in the processor's caches. So an array is given again as soon as
nothing shows it any more. Arrays are cut from pieces large enough for large pages, each an object
of its own: one that is kept keeps its piece, whose other arrays go on being used.
"""

from __future__ import annotations

import sys
import threading

import numpy as np

from scalops.engine.columns import Array
from scalops.engine.output_memory import LEAST_BYTES, mark_own

PIECE_BYTES = 32 << 20
KEPT_BYTES = 32 << 20  # that wait to be given again, in each thread
_LEAST_KEPT = 2
_ALIGNMENT = 4_096
_LARGE_PAGE = 2 << 20
_UNUSED = 3  # references: the list's, the loop's, and that of the question


class BlockMemory(threading.local):
    """Each thread's own; arrays given may be kept, and let go, by any thread."""

    def __init__(self) -> None:
        self._given: list[Array] = []  # those given last stand last: they are in the caches
        self._kept = 0
        self._piece: memoryview | None = None
        self._at = 0

    def take(self, size: int) -> Array:
        """uint8[size] of any content, aligned to 64 bytes at least."""
        if size < LEAST_BYTES:
            return _aligned(size)
        for place in range(len(self._given) - 1, -1, -1):
            array = self._given[place]
            if len(array) == size and sys.getrefcount(array) == _UNUSED:
                self._given.append(self._given.pop(place))
                return array
        array = self._cut(size)
        self._given.append(array)
        self._kept += size
        while self._kept > KEPT_BYTES and len(self._given) > _LEAST_KEPT:
            self._kept -= len(self._given.pop(0))
        return array

    def _cut(self, size: int) -> Array:
        """An array that owns its part of a piece; one of its own if it is large."""
        if size > PIECE_BYTES // 4:
            return mark_own(_aligned(size))
        if self._piece is None or self._at + size > len(self._piece):
            whole = np.empty(PIECE_BYTES + _LARGE_PAGE, np.uint8)
            begin = -whole.ctypes.data % _LARGE_PAGE
            self._piece, self._at = whole.data[begin : begin + PIECE_BYTES], 0
        # Over a memoryview: views of a view of `whole` would count as its own.
        array = np.frombuffer(self._piece[self._at : self._at + size], np.uint8)
        self._at += -(-size // _ALIGNMENT) * _ALIGNMENT
        return mark_own(array)


def _aligned(size: int) -> Array:
    if size == 0:
        return np.empty(0, np.uint8)
    whole = np.empty(size + 64, np.uint8)
    begin = -whole.ctypes.data % 64
    return np.frombuffer(whole.data[begin : begin + size], np.uint8)


MEMORY = BlockMemory()

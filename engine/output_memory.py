"""Memory for columns that are made block by block and may be kept, in large pieces.

A fresh array of half a megabyte costs more than what is computed into it: the system gives it
page by page. NumPy asks for large pages where an array has 4 MiB or more, so blocks are cut from
such pieces, beginning with a whole large page. The C library gives pieces of this size back to the
system; smaller ones come from an arena, whose ends are small pages. A piece is used again when no
block of it is left.
"""

from __future__ import annotations

import sys
from math import prod
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from scalops.engine.columns import Array

PIECE_BYTES = 32 << 20
LEAST_BYTES = 256 << 10  # a smaller column comes from the allocator's own pools
_LARGE_PAGE = 2 << 20
_UNUSED = 2  # references: the list's, and that of the question

_pieces: WeakValueDictionary[int, Array] = WeakValueDictionary()


class OutputMemory:
    """One thread's memory for one column of blocks."""

    def __init__(self) -> None:
        self._held: list[Array] = []  # the piece in use, and the one before it
        self._at = self._end = 0

    def take(self, rows: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array | None:
        """An array [rows, *shape] of any content; None where it is not worth a piece."""
        size = rows * prod(shape) * dtype.itemsize
        if not LEAST_BYTES <= size <= PIECE_BYTES:
            return None
        if not self._held or self._at + size > self._end:
            self._turn()
        made: Array = self._held[0][self._at : self._at + size].view(dtype).reshape(rows, *shape)
        self._at += -(-size // 64) * 64
        return made

    def _turn(self) -> None:
        if len(self._held) == 2:
            self._held.reverse()
            if sys.getrefcount(self._held[0]) == _UNUSED:
                self._begin(self._held[0])
                return
            self._held.pop(0)
        piece: Array = np.empty(PIECE_BYTES + _LARGE_PAGE, np.uint8)
        self._held.insert(0, mark_own(piece))
        self._begin(piece)

    def _begin(self, piece: Array) -> None:
        """Cut from the first whole large page: what lies before it would come in small ones."""
        self._at = -piece.ctypes.data % _LARGE_PAGE
        self._end = self._at + PIECE_BYTES


def mark_own(piece: Array) -> Array:
    """The same array: what shows a part of it is the engine's own memory."""
    _pieces[id(piece)] = piece
    return piece


def is_own(array: Array) -> bool:
    """Whether an array is a part of such a piece, large enough not to be copied out of it."""
    base: Any = array.base
    return base is not None and _pieces.get(id(base)) is base and array.nbytes >= LEAST_BYTES

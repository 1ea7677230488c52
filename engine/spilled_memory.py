"""Memory that the budget has no room for: mapped from files, which the system reads and writes.

What lasts (the columns of a table that a join searches, the state of a loop, an index) is kept in
`Room`s. Where the budget has room it lies in memory as ever; where it has none, in pages of a
file without a name, of which the system keeps in memory what is used and writes out the rest: so
code above knows no difference, and the bits are the same. Random access to much more than the
machine's memory is slow, but ends.

Disk space is taken before a page is mapped, so that a full disk is an error with a name and no
signal. Mapped pages have no checksum, since they are written at any place: only blocks that are
written once and read as a whole have (`spill.py`).
"""

from __future__ import annotations

import mmap
import os
import threading
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Sequence
from math import prod
from typing import Any
from weakref import finalize

import numpy as np

from scalops.algebra.dtypes import ArrayType
from scalops.engine.blocks import Block
from scalops.engine.column_codec import decode_column, encode_column
from scalops.engine.columns import Array, ColumnData, SparseColumn, concatenated
from scalops.engine.memory import MemoryBudget
from scalops.engine.spill_folder import nameless_file, no_room

FIRST_BYTES, MOST_BYTES = 1 << 20, 64 << 20  # by which a file grows: ever more, at most so much
_ALIGNMENT = 64


class _Extents:
    """The mapped ranges of this process: which arrays lie in files."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starts: list[int] = []
        self._stops: dict[int, int] = {}
        # Ranges that are gone. A finalizer may run anywhere, with the lock held too: it only notes.
        self.gone: deque[int] = deque()

    def add(self, start: int, size: int) -> None:
        with self._lock:
            self._settle()
            insort(self._starts, start)
            self._stops[start] = start + size

    def _settle(self) -> None:
        while self.gone:
            start = self.gone.popleft()
            self._starts.remove(start)
            del self._stops[start]

    def has(self, address: int) -> bool:
        if not self._starts:
            return False
        with self._lock:
            self._settle()
            at = bisect_right(self._starts, address) - 1
            return at >= 0 and address < self._stops[self._starts[at]]


_extents = _Extents()


class _Mapped(mmap.mmap):
    """Says that its range is gone before the system may give the addresses to another: weak
    references to it die after that."""

    start = 0

    def __del__(self, gone: deque[int] = _extents.gone) -> None:
        if self.start:
            gone.append(self.start)


def is_spilled(column: ColumnData) -> bool:
    """Whether a column (or a mask) lies in files, and takes nothing of the budget."""
    if isinstance(column, np.ndarray):
        return bool(column.nbytes) and _extents.has(column.__array_interface__["data"][0])
    if isinstance(column, SparseColumn):
        return is_spilled(column.values) or is_spilled(column.indptr)
    found = [b for b in column.buffers() if b is not None and b.size]
    return bool(found) and _extents.has(found[-1].address)


class FileMemory:
    """Arrays in one file without a name; they live as long as something shows them."""

    def __init__(self, folder: str | None = None) -> None:
        """Raises: SpillError where no file can be made."""
        self._descriptor, self._folder = nameless_file(folder)
        self._lock = threading.Lock()
        self._end = 0  # of the file
        self._extent: Array | None = None
        self._at = 0  # in the extent
        self.close = finalize(self, os.close, self._descriptor)

    def empty(self, shape: Sequence[int], dtype: Any) -> Array:
        """An array of any content. Raises: SpillError where the disk is full."""
        dtype = np.dtype(dtype)
        size = prod(shape) * dtype.itemsize
        if size == 0:
            return np.empty(tuple(shape), dtype)
        with self._lock:
            if self._extent is None or self._at + size > len(self._extent):
                grown = min(max(self._end, FIRST_BYTES), MOST_BYTES)
                self._extent, self._at = self._mapped(max(size, grown)), 0
            own = self._extent[self._at : self._at + size]
            self._at += -(-size // _ALIGNMENT) * _ALIGNMENT
        made: Array = own.view(dtype).reshape(tuple(shape))
        return made

    def _mapped(self, size: int) -> Array:
        size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            os.posix_fallocate(self._descriptor, self._end, size)
            made = _Mapped(self._descriptor, size, offset=self._end)
        except OSError as error:
            raise no_room(self._folder, size, self._end, error) from error
        self._end += size
        whole: Array = np.frombuffer(made, np.uint8)
        start = int(whole.__array_interface__["data"][0])
        _extents.add(start, size)
        made.start = start
        return whole


class Room:
    """Where what lasts of one owner lies: in memory while the budget has room, else in a file.

    Threads may share it. The owner gives all back by `MemoryBudget.release(owner)`, and files by
    dropping the arrays.
    """

    def __init__(self, budget: MemoryBudget, owner: str) -> None:
        self.budget, self.owner = budget, owner
        self._file: FileMemory | None = None
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Count `size` bytes more in memory, if there is room."""
        return self.budget.room(size, self.owner)

    def release(self, size: int) -> None:
        """Give so many counted bytes back."""
        self.budget.release(self.owner, size)

    def drop(self, *columns: ColumnData | None) -> None:
        """Give back what these columns (or masks) count, since nobody needs them any more."""
        self.release(sum(int(c.nbytes) for c in columns if c is not None and not is_spilled(c)))

    def empty(self, shape: int | Sequence[int], dtype: Any) -> Array:
        """An array of any content, counted or in the file. Raises: SpillError."""
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        size = prod(shape) * np.dtype(dtype).itemsize
        return np.empty(shape, dtype) if self.take(size) else self._spilled(shape, dtype)

    def full(self, shape: int | Sequence[int], value: Any, dtype: Any) -> Array:
        """An array of one value."""
        made = self.empty(shape, dtype)
        made.fill(value)
        return made

    def column(self, values: ColumnData) -> ColumnData:
        """A column that is there already, to be kept: itself and counted, or the same in a file."""
        if is_spilled(values) or self.take(int(values.nbytes)):
            return values
        return self._moved(values)

    def joined(self, parts: Sequence[ColumnData], kind: ArrayType) -> ColumnData:
        """The columns of consecutive records as one, to be kept; the parts stay as they are."""
        if len(parts) == 1:
            return self.column(parts[0])
        size = sum(int(p.nbytes) for p in parts)
        if self.take(size):
            try:
                return concatenated(parts, kind)
            except BaseException:
                self.release(size)
                raise
        first = parts[0] if parts else None
        if not isinstance(first, np.ndarray):
            return self._moved(concatenated(parts, kind))
        rows = sum(map(len, parts))
        made = self._spilled((rows, *first.shape[1:]), first.dtype)
        return np.concatenate(parts, out=made)

    def block(self, block: Block, resident: frozenset[int] = frozenset()) -> Block:
        """A block to be kept: itself and counted, or the same in a file.

        Views of arrays that are there anyway (`resident`: see `own_bytes`) take nothing.
        """
        from scalops.engine.pipelines.base import own_bytes

        size = own_bytes(block, resident)
        if size == 0 or self.take(size):
            return block
        made = Block(block.rows, {})
        for name, values in block.columns.items():
            made.columns[name] = self._moved(values)
        for name, mask in block.valid.items():
            made.valid[name] = self._moved(mask)
        made.identity = block.identity
        return made

    def _moved(self, values: ColumnData) -> ColumnData:
        if isinstance(values, np.ndarray) and values.flags.c_contiguous:
            made = self._spilled(values.shape, values.dtype)
            made[...] = values
            return made
        buffers: list[Array] = []
        item = encode_column(values, None, buffers)
        for i, buffer in enumerate(buffers):
            own = self._spilled(buffer.shape, np.uint8)
            own[...] = buffer
            buffers[i] = own
        return decode_column(item, buffers)[0]

    def _spilled(self, shape: Sequence[int], dtype: Any) -> Array:
        with self._lock:
            if self._file is None:
                self._file = FileMemory(self.budget.folder)
        made = self._file.empty(shape, dtype)
        self.budget.count_spilled(int(made.nbytes), self.owner)
        return made

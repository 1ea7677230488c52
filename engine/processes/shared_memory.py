"""Memory that worker processes map as well: a held table's arrays in a file without a name.

The file is a `memfd`: it has no name in any folder, so that nothing is left behind however the
driver ends, and it is not bounded by the size of /dev/shm, which is 64 MB in many containers.
Workers of the same user open it as /proc/<driver>/fd/<number>; the system frees it when the last
process that maps it ends.

An array moves with its shape, its type and its address modulo `ALIGNMENT`, so that no kernel can
tell it from the one it was.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scalops.engine.blocks import Array, Block
from scalops.engine.columns import ColumnData, SparseColumn

ALIGNMENT = 64  # bytes: a cache line, and the widest vector register
_NAME = "scalops"


@dataclass(frozen=True)
class Place:
    """Where an array lies in the file."""

    offset: int
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, array: Array, offset: int) -> Place:
        """An array's place, were it at `offset`."""
        return cls(offset, array.dtype.str, array.shape)

    def shown(self, memory: mmap.mmap) -> Array:
        """The array, in the file's memory."""
        return np.ndarray(self.shape, np.dtype(self.dtype), memory, self.offset)


@dataclass(frozen=True)
class SparsePlace:
    """Where a column of sparse vectors lies."""

    parts: tuple[Place, Place, Place]
    dimension: int

    def shown(self, memory: mmap.mmap) -> SparseColumn:
        """The column, in the file's memory."""
        indptr, indices, values = (p.shown(memory) for p in self.parts)
        return SparseColumn(indptr, indices, values, self.dimension)


@dataclass(frozen=True)
class BlockPlace:
    """Where a block's columns and masks lie."""

    rows: int
    columns: Mapping[str, Place | SparsePlace]
    valid: Mapping[str, Place]
    identity: tuple[int, ...] | None

    def shown(self, memory: mmap.mmap) -> Block:
        """The block, in the file's memory."""
        columns = {n: p.shown(memory) for n, p in self.columns.items()}
        block = Block(self.rows, columns, {n: p.shown(memory) for n, p in self.valid.items()})
        block.identity = self.identity
        return block


@dataclass(frozen=True)
class TablePlace:
    """What another process needs to map a table: plain data."""

    process: int
    file: int
    size: int
    source_bytes: int
    partitions: tuple[tuple[BlockPlace, ...], ...]

    def mapped(self) -> list[list[Block]]:
        """The table's blocks by partition. Raises OSError where the file cannot be opened."""
        file = os.open(f"/proc/{self.process}/fd/{self.file}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            memory = mmap.mmap(file, self.size, prot=mmap.PROT_READ)
        finally:
            os.close(file)
        return [[b.shown(memory) for b in part] for part in self.partitions]


def is_shareable(column: ColumnData) -> bool:
    """Whether a column is made of plain arrays; Arrow's strings and lists are not."""
    if isinstance(column, np.ndarray):
        return not column.dtype.hasobject
    return isinstance(column, SparseColumn)


class SharedTable:
    """Held partitions that move to shared memory, one after the other.

    Nothing of the file is memory before a partition has moved.
    """

    def __init__(self, partitions: Sequence[list[Block]], source_bytes: int) -> None:
        """`source_bytes` as of the table. Raises OSError where there can be no such file."""
        self._partitions = partitions
        self._end = 0
        placed = tuple(tuple(map(self._placed, part)) for part in partitions)
        self.bytes = sum(b.bytes for part in partitions for b in part)
        size = max(1, self._end)
        file = os.memfd_create(_NAME, os.MFD_CLOEXEC)
        self._close = weakref.finalize(self, os.close, file)
        os.ftruncate(file, size)
        self._memory = mmap.mmap(file, size)
        self.place = TablePlace(os.getpid(), file, size, source_bytes, placed)

    def move(self, partition: int) -> None:
        """Copy a partition's arrays; its blocks show the copies from then on.

        Raises: OSError where the machine has not the memory.
        """
        blocks, places = self._partitions[partition], self.place.partitions[partition]
        spans = [(p.offset, _size(p)) for place in places for p in _all_places(place)]
        if spans:
            first, last = min(a for a, _ in spans), max(a + n for a, n in spans)
            # Memory that is not there would be a bus error when it is written to.
            os.posix_fallocate(self.place.file, first, max(1, last - first))
        for block, place in zip(blocks, places, strict=True):
            shown = place.shown(self._memory)
            for old, new in zip(_arrays(block), _arrays(shown), strict=True):
                np.copyto(new, old)
            # In place: others hold the block too, and what it showed is to be given back.
            block.columns, block.valid = shown.columns, shown.valid

    def _placed(self, block: Block) -> BlockPlace:
        columns: dict[str, Place | SparsePlace] = {}
        for name, column in block.columns.items():
            if isinstance(column, SparseColumn):
                parts = (column.indptr, column.indices, column.values)
                a, b, c = map(self._next, parts)
                columns[name] = SparsePlace((a, b, c), column.dimension)
            else:
                columns[name] = self._next(column)
        valid = {n: self._next(v) for n, v in block.valid.items()}
        return BlockPlace(block.rows, columns, valid, block.identity)

    def _next(self, array: Array) -> Place:
        """The next free place where an array lies modulo `ALIGNMENT` as it does now."""
        self._end += (array.ctypes.data - self._end) % ALIGNMENT
        place = Place.of(array, self._end)
        self._end += array.nbytes
        return place


def _arrays(block: Block) -> Iterator[Array]:
    for column in block.columns.values():
        if isinstance(column, SparseColumn):
            yield from (column.indptr, column.indices, column.values)
        else:
            yield column
    yield from block.valid.values()


def _all_places(block: BlockPlace) -> Iterator[Place]:
    for place in block.columns.values():
        if isinstance(place, SparsePlace):
            yield from place.parts
        else:
            yield place
    yield from block.valid.values()


def _size(place: Place) -> int:
    return int(np.prod(place.shape)) * np.dtype(place.dtype).itemsize


# Who takes which task.


class Tokens:
    """Numbers that several processes take in turn, each once: bytes in a pipe.

    Taking one is a system call of a microsecond, so that nobody hands tasks out.
    """

    MOST = 256

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        for file in (self._read, self._write):
            os.set_blocking(file, False)
        self._close = weakref.finalize(self, _close_both, self._read, self._write)
        self.take: Callable[[], int | None] = TakenTokens(self._read).take
        self.where = [os.getpid(), self._read]

    def put(self, count: int) -> None:
        """Offer the numbers from 0 to count - 1; at most MOST."""
        os.write(self._write, bytes(range(count)))

    def drain(self) -> None:
        """Leave none for anybody."""
        while self.take() is not None:
            pass


class TakenTokens:
    """The end of the pipe from which they are taken."""

    def __init__(self, file: int) -> None:
        self._file = file

    @classmethod
    def opened(cls, process: int, file: int) -> TakenTokens:
        """In another process than the one that made them. Raises OSError."""
        path = f"/proc/{process}/fd/{file}"
        return cls(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))

    def take(self) -> int | None:
        """A number that nobody else gets; None where there is none left."""
        try:
            taken = os.read(self._file, 1)
        except BlockingIOError:
            return None
        return taken[0] if taken else None

    def drain(self) -> None:
        """Leave none for anybody."""
        while self.take() is not None:
            pass

    def close(self) -> None:
        os.close(self._file)


def _close_both(*files: int) -> None:
    for file in files:
        os.close(file)

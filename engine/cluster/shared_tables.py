"""The driver's tables where workers of the same machine map them: a file without a name each.

The file is a `memfd` (see `processes/shared_memory.py`): workers of the same user open it as
/proc/<driver>/fd/<number>. It is written once for a table and the columns that plans read, and
lives as long as the table does. Arrays keep their type, the order of their axes and their address
modulo `ALIGNMENT`; Arrow's strings and lists lie there as Arrow's own streams.
"""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from scalops.algebra.dtypes import ArrayType
from scalops.engine.blocks import Array, Block
from scalops.engine.columns import ColumnData, SparseColumn
from scalops.engine.free_memory import LEAST_FREE
from scalops.engine.processes.shared_memory import ALIGNMENT, Place
from scalops.engine.storage.arrow import to_column
from scalops.engine.storage.memory_columns import MemoryColumn, number_chunks
from scalops.engine.storage.memory_source import MemorySource

_TOKEN_BYTES = 16
_NAME = "scalops"
_MOST_AT_ONCE = 1 << 30  # bytes of one write


@cache
def machine() -> str:
    """What is the same for processes that see each other in /proc, until the next start."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


# Where things lie.


@dataclass(frozen=True)
class ArrayPlace:
    """An array whose axes lie in this order in memory; None: in that of the indices."""

    place: Place
    order: tuple[int, ...] | None

    def shown(self, memory: mmap.mmap) -> Array:
        """The array, in the file's memory."""
        found = self.place.shown(memory)
        return found if self.order is None else found.transpose(np.argsort(self.order))


@dataclass(frozen=True)
class SparsePlace:
    """A column of sparse vectors."""

    parts: tuple[ArrayPlace, ArrayPlace, ArrayPlace]
    dimension: int

    def shown(self, memory: mmap.mmap) -> SparseColumn:
        """The column, in the file's memory."""
        indptr, indices, values = (p.shown(memory) for p in self.parts)
        return SparseColumn(indptr, indices, values, self.dimension)


@dataclass(frozen=True)
class NumbersPlace:
    """An Arrow column of numbers, none of them null, chunk by chunk."""

    chunks: tuple[ArrayPlace, ...]
    type: pa.DataType

    def shown(self, memory: mmap.mmap) -> pa.ChunkedArray:
        """The column, in the file's memory."""
        arrays = [c.shown(memory) for c in self.chunks]
        made = [
            pa.Array.from_buffers(self.type, len(a), [None, pa.py_buffer(a)], 0) for a in arrays
        ]
        return pa.chunked_array(made, self.type)


@dataclass(frozen=True)
class StreamPlace:
    """Arrow data as an Arrow stream; `chunked` says which of Arrow's two kinds it was."""

    offset: int
    size: int
    chunked: bool

    def shown(self, memory: mmap.mmap) -> Any:
        """The column, in the file's memory."""
        data = pa.py_buffer(memory).slice(self.offset, self.size)
        column = pa.ipc.open_stream(data).read_all().column(0)
        return column if self.chunked else column.chunk(0)


ColumnPlace = ArrayPlace | SparsePlace | NumbersPlace | StreamPlace


@dataclass(frozen=True)
class HeldBlock:
    """A block of a table that is held as blocks."""

    rows: int
    columns: Mapping[str, ColumnPlace]
    valid: Mapping[str, ArrayPlace]

    def shown(self, memory: mmap.mmap) -> Block:
        """The block, in the file's memory."""
        valid = {n: p.shown(memory) for n, p in self.valid.items()}
        return Block(self.rows, {n: p.shown(memory) for n, p in self.columns.items()}, valid)


@dataclass(frozen=True)
class Placement:
    """What a process of this machine needs to map a table: whole columns, or blocks.

    `token` is what the file begins with, so that no other one is taken for it.
    """

    machine: str
    process: int
    file: int
    size: int
    token: bytes
    columns: Mapping[str, ColumnPlace] | None
    partitions: tuple[tuple[HeldBlock, ...], ...] = ()

    def mapped(self) -> mmap.mmap:
        """The file's memory. Raises OSError where it cannot be had."""
        if self.machine != machine():
            raise OSError("the table lies in the memory of another machine")
        file = os.open(f"/proc/{self.process}/fd/{self.file}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            memory = mmap.mmap(file, self.size, prot=mmap.PROT_READ)
        except ValueError as error:  # the file is shorter
            raise OSError(str(error)) from error
        finally:
            os.close(file)
        if memory[:_TOKEN_BYTES] != self.token:
            raise OSError("the file is another one")
        return memory


# Writing.


class _Writer:
    """Puts columns into a new file, one after the other. Methods raise OSError."""

    def __init__(self) -> None:
        self.file = os.memfd_create(_NAME, os.MFD_CLOEXEC)
        self.token = secrets.token_bytes(_TOKEN_BYTES)
        self.end = 0
        self._write(np.frombuffer(self.token, np.uint8).data)

    def column(self, column: MemoryColumn | ColumnData, kind: ArrayType) -> ColumnPlace:
        if isinstance(column, np.ndarray):
            return self.array(column)
        if isinstance(column, SparseColumn):
            indptr, indices, values = map(
                self.array, (column.indptr, column.indices, column.values)
            )
            return SparsePlace((indptr, indices, values), column.dimension)
        if isinstance(column, pa.ChunkedArray) and number_chunks(column, kind) is not None:
            return self._numbers(column, kind)
        return self._stream(column)

    def array(self, array: Array) -> ArrayPlace:
        order = None
        if not array.flags.c_contiguous:
            order = tuple(sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis])))
            array = array.transpose(order)
        self.end += (array.ctypes.data - self.end) % ALIGNMENT
        place = Place.of(array, self.end)
        if array.nbytes:
            self._write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return ArrayPlace(place, order)

    def block(
        self, block: Block, names: Sequence[str], kinds: Mapping[str, ArrayType]
    ) -> HeldBlock:
        columns = {n: self.column(block.columns[n], kinds[n]) for n in names}
        valid = {n: self.array(block.valid[n]) for n in names if n in block.valid}
        return HeldBlock(block.rows, columns, valid)

    def _numbers(self, column: pa.ChunkedArray, kind: ArrayType) -> NumbersPlace:
        chunks = []
        for chunk in column.chunks:
            values, _ = to_column(chunk, kind, "")
            assert isinstance(values, np.ndarray)
            chunks.append(self.array(values))
        return NumbersPlace(tuple(chunks), column.type)

    def _stream(self, column: Any) -> StreamPlace:
        chunked = isinstance(column, pa.ChunkedArray)
        made = pa.BufferOutputStream()
        with pa.ipc.new_stream(made, pa.schema([pa.field("v", column.type)])) as stream:
            for chunk in column.chunks if chunked else [column]:
                stream.write_batch(pa.record_batch([chunk], ["v"]))
        data = made.getvalue()
        self.end += -self.end % ALIGNMENT
        place = StreamPlace(self.end, data.size, chunked)
        self._write(memoryview(data))
        return place

    def _write(self, data: memoryview) -> None:
        while data:
            written = os.pwrite(self.file, data[:_MOST_AT_ONCE], self.end)
            data, self.end = data[written:], self.end + written


def _written(source: Any, names: Sequence[str]) -> Placement:
    """A new file with these columns of a source, whole where it has them so, else its blocks."""
    kinds = source.schema.types
    blocks: list[tuple[HeldBlock, ...]] = []
    columns: dict[str, ColumnPlace] | None = None
    writer = _Writer()
    try:
        if isinstance(source, MemorySource):
            columns = {n: writer.column(source.columns[n], kinds[n]) for n in names}
        else:
            for partition in source.partitions():
                read = source.read(partition, tuple(names))
                blocks.append(tuple(writer.block(b, names, kinds) for b in read))
        os.ftruncate(writer.file, writer.end)  # what comes last may be empty
    except BaseException:
        os.close(writer.file)
        raise
    own = os.getpid()
    return Placement(machine(), own, writer.file, writer.end, writer.token, columns, tuple(blocks))


class _Placed:
    """A file, and whose columns are in it; it is closed when nobody knows of it any more."""

    def __init__(self, owner: Any, columns: frozenset[str], placement: Placement) -> None:
        self._owner, self.columns, self.placement = weakref.ref(owner), columns, placement
        weakref.finalize(self, os.close, placement.file)

    def is_of(self, owner: Any) -> bool:
        return self._owner() is owner


class SharedTables:
    """A session's tables in shared memory, each as long as its source lives."""

    def __init__(self) -> None:
        self._placed: dict[int, _Placed] = {}

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(p.placement.size for p in list(self._placed.values()))

    def place(self, source: Any, columns: Sequence[str]) -> Placement:
        """Where workers find the source's columns; they are copied there if they are not yet.

        Raises: OSError where the machine has not the memory.
        """
        owner = getattr(source, "table", source)  # of a kept table there is a source for each plan
        known = self._placed.get(id(owner))
        wanted = frozenset(columns)
        if known is not None and known.is_of(owner):
            if known.columns >= wanted:
                return known.placement
            wanted |= known.columns
        _require_memory(source, wanted)
        names = [n for n in source.schema.names if n in wanted]
        placement = _written(source, names)
        self._placed[id(owner)] = _Placed(owner, wanted, placement)
        weakref.finalize(owner, self._placed.pop, id(owner), None).atexit = False
        return placement

    def clear(self) -> None:
        """Give everything back."""
        self._placed.clear()


def _require_memory(source: Any, wanted: frozenset[str]) -> None:
    """Raise OSError where a copy of the columns would leave the machine with too little."""
    import psutil

    share = sum(source.schema[n].bytes for n in wanted) / max(1, source.schema.bytes_per_row)
    memory = psutil.virtual_memory()
    if share * source.bytes > memory.available - LEAST_FREE * memory.total:
        raise OSError(errno.ENOMEM, "no memory for a copy of the table that workers can map")

"""Blocks that do not fit into the memory budget: on disk, until they are read again.

A spill file has no name (see `spill_folder.py`). Each block in it has a checksum, which stays in
memory.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias
from zlib import crc32

import msgpack
import numpy as np
import pyarrow as pa

from scalops.algebra.explain import bytes_text
from scalops.algebra.schema import Schema
from scalops.engine.block_codec import blocks_of_piece, piece_of_blocks
from scalops.engine.blocks import Block
from scalops.engine.collective import Piece
from scalops.engine.columns import Array, ColumnData, SparseColumn
from scalops.engine.memory import MemoryBudget
from scalops.engine.pipelines.base import HeldTable, Stored, own_bytes
from scalops.engine.spill_folder import SpillError, nameless_file, no_room

ALIGNMENT = 64  # bytes: of each buffer in a batch
_PADDING = memoryview(bytes(ALIGNMENT))
_AT_ONCE = 1024  # buffers that one call of the system writes


class Batch(NamedTuple):
    """A block in a spill file: `size` bytes from `at` on."""

    at: int
    size: int
    parts: tuple[int, ...]  # bytes of the header and of each buffer
    rows: int
    checksum: int


class SpillFile:
    """Blocks of one schema on disk, read in any order; threads may share it."""

    def __init__(self, schema: Schema, folder: str | None = None, lane_bytes: int = 0) -> None:
        """In the folder for spill files, unless another is given.

        With `lane_bytes` each thread writes to places of so many bytes, so that its blocks lie one
        behind the other. Raises: SpillError where no file can be made there.
        """
        self._schema, self._end, self._lane_bytes = schema, 0, lane_bytes
        self._lock = threading.Lock()
        self._lanes: dict[int, tuple[int, int]] = {}  # by thread: from where to where
        self.descriptor, self._folder = nameless_file(folder)
        self._open = [self.descriptor]
        self._own = threading.local()
        self.close = weakref.finalize(self, _close, self._open)

    @property
    def bytes(self) -> int:
        """How long it is."""
        return self._end

    def _place(self, size: int) -> int:
        """Where to write so many bytes."""
        with self._lock:
            at, end = self._lanes.get(threading.get_ident(), (0, 0))
            if at + size > end:
                at, end = self._end, self._end + max(size, self._lane_bytes)
                self._end = end
            self._lanes[threading.get_ident()] = at + size, end
            return at

    def _reader(self) -> int:
        """This thread's descriptor: what the system reads ahead follows each one's place."""
        found: int | None = getattr(self._own, "descriptor", None)
        if found is None:
            try:
                found = os.open(f"/proc/self/fd/{self.descriptor}", os.O_RDONLY | os.O_CLOEXEC)
                self._open.append(found)
            except OSError:  # none may be opened: the common one does
                found = self.descriptor
            self._own.descriptor = found
        return found

    def write(self, block: Block) -> Batch:
        """Append a block. Raises: SpillError where the disk is full, or fails."""
        return self.write_all([block])[0]

    def write_all(self, blocks: Sequence[Block]) -> list[Batch]:
        """Append blocks one behind the other, all at once. Raises: SpillError as `write`."""
        written: list[tuple[int, tuple[int, ...], int]] = []
        buffers: list[memoryview] = []
        for block in blocks:
            piece = piece_of_blocks([block])
            contents = [np.frombuffer(msgpack.packb(piece.header), np.uint8), *piece.buffers]
            parts, checksum = tuple(int(c.nbytes) for c in contents), 0
            for content, size in zip(contents, parts, strict=True):
                checksum = crc32(content.data, checksum)
                buffers += (content.data, _PADDING[: _padded(size) - size])
            written.append((sum(map(_padded, parts)), parts, checksum))
        at = self._place(sum(size for size, _, _ in written))
        self._put([b for b in buffers if b], at)
        found = []
        for block, (size, parts, checksum) in zip(blocks, written, strict=True):
            found.append(Batch(at, size, parts, block.rows, checksum))
            at += size
        return found

    def _put(self, buffers: list[memoryview], at: int) -> None:
        first = 0
        try:
            while first < len(buffers):
                written = os.pwritev(self.descriptor, buffers[first : first + _AT_ONCE], at)
                at += written
                while first < len(buffers) and written >= len(buffers[first]):
                    written -= len(buffers[first])
                    first += 1
                if written:
                    buffers[first] = buffers[first][written:]
        except OSError as error:
            left = sum(map(len, buffers[first:]))
            raise no_room(self._folder, left, at, error) from error

    def read(self, batch: Batch, memory: Array | None = None) -> Block:
        """A block again, which shows `memory` (uint8[batch.size]) where it is given.

        Raises: SpillError where it is not what was written.
        """
        whole: Array = np.empty(batch.size, np.uint8) if memory is None else memory
        self._get(whole, batch)
        contents, place, checksum = [], 0, 0
        for size in batch.parts:
            contents.append(whole[place : place + size])
            checksum = crc32(contents[-1].data, checksum)
            place += _padded(size)
        if checksum != batch.checksum:
            raise self._damaged(batch, "its checksum is another")
        header = msgpack.unpackb(contents[0].tobytes())
        (block,) = blocks_of_piece(Piece(header, contents[1:]), self._schema)
        return block

    def _get(self, whole: Array, batch: Batch) -> None:
        left, at = whole.data, batch.at
        end = batch.at + batch.size
        while left:
            try:
                count = os.preadv(self._reader(), [left], at)
            except OSError as error:
                raise self._damaged(batch, str(error.strerror)) from error
            if count == 0:
                break
            left, at = left[count:], at + count
        if left:
            raise self._damaged(batch, f"it ends {bytes_text(end - at)} before")

    def _damaged(self, batch: Batch, why: str) -> SpillError:
        return SpillError(
            f"a spill file in {self._folder} is damaged: a block of {batch.rows} records,"
            f" {bytes_text(batch.size)} from byte {batch.at} on, cannot be read: {why}",
            hint="run it again; if it happens again, look at that disk or choose another:"
            " so.session(spill=...)",
        )


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def detached(block: Block) -> Block:
    """The same records in arrays of their own, in the same layout."""
    columns = {n: _copied(c) for n, c in block.columns.items()}
    return Block(block.rows, columns, {n: m.copy() for n, m in block.valid.items()})


def _copied(column: ColumnData) -> ColumnData:
    if isinstance(column, np.ndarray):
        return column.copy(order="K")
    if isinstance(column, SparseColumn):
        parts = column.indptr.copy(), column.indices.copy(), column.values.copy()
        return SparseColumn(*parts, column.dimension)
    return pa.concat_arrays([column, column.slice(0, 0)])  # of two arrays it makes a third


Kept: TypeAlias = "Block | Batch"


class SpilledBlocks:
    """Blocks of one schema that are held while the budget has room, and spilled where it has none.

    What `add` gives stands for a block; `get` reads it. Threads may share it.
    """

    def __init__(
        self,
        budget: MemoryBudget,
        owner: str,
        schema: Schema,
    ) -> None:
        self._budget, self._owner, self._schema = budget, owner, schema
        self._lock = threading.Lock()
        self.file: SpillFile | None = None

    def add(self, block: Block, resident: frozenset[int] = frozenset()) -> Kept:
        """Keep a block, which has exactly the schema's columns.

        Views of arrays that are there anyway (`resident`: see `own_bytes`) take nothing; such
        blocks cannot be `drained`, which gives back what they would take.
        """
        size = own_bytes(block, resident) if resident else block.bytes
        if (resident and not size) or self._budget.room(size, self._owner):
            return block
        return self._written([block])[0]

    def _written(self, blocks: Sequence[Block]) -> list[Batch]:
        batches = self._opened().write_all(blocks)
        self._budget.count_spilled(sum(b.size for b in batches), self._owner)
        return batches

    def add_parts(self, parts: Sequence[Block], detach: bool = False) -> list[Kept]:
        """Keep views of one block: all of them in memory or none, for each holds the whole.

        With `detach` they become arrays of their own, so that each can be given back alone.
        """
        if self._budget.room(sum(p.bytes for p in parts), self._owner):
            return list(map(detached, parts) if detach else parts)
        return list(self._written(parts))

    def make_room(self, parts: Sequence[list[Kept]], size: int) -> None:
        """Spill blocks that are in memory, until the budget has so many bytes left."""
        for part in parts:
            for i, kept in enumerate(part):
                left = self._budget.left
                if left is None or left >= size:
                    return
                if isinstance(kept, Block):
                    (part[i],) = self._written([kept])
                    self._budget.release(self._owner, kept.bytes)

    def get(self, kept: Kept) -> Block:
        """A block that was kept."""
        if isinstance(kept, Block):
            return kept
        assert self.file is not None
        return self.file.read(kept)

    def drained(self, kept: list[Kept]) -> Iterator[Block]:
        """Blocks that were kept, one after the other; the list and the memory are given back."""
        kept.reverse()
        while kept:
            last = kept.pop()
            if isinstance(last, Block):
                self._budget.release(self._owner, last.bytes)
            yield self.get(last)

    def table(self, parts: Sequence[list[Kept]], source_bytes: int) -> Stored:
        """The table of blocks that were kept, by partition."""
        if self.file is not None:
            return SpilledTable(parts, self, source_bytes)
        return HeldTable([[self.get(k) for k in part] for part in parts], source_bytes)

    def _opened(self) -> SpillFile:
        with self._lock:
            if self.file is None:
                self.file = SpillFile(self._schema, self._budget.folder)
            return self.file


class SpilledTable(Stored):
    """A table some of whose blocks are on disk; the file goes with it."""

    def __init__(
        self, parts: Sequence[list[Kept]], blocks: SpilledBlocks, source_bytes: int
    ) -> None:
        self._parts, self._kept = parts, blocks
        self.bytes = source_bytes

    def partitions(self) -> int:
        return len(self._parts)

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        return map(self._kept.get, self._parts[partition])

    def rows(self, partition: int) -> int | None:
        return sum(kept.rows for kept in self._parts[partition])

    def held(self, partition: int) -> list[Block] | None:
        found = [kept for kept in self._parts[partition] if isinstance(kept, Block)]
        return found if len(found) == len(self._parts[partition]) else None

    def turns(self) -> bool:
        return not all(isinstance(kept, Block) for part in self._parts for kept in part)

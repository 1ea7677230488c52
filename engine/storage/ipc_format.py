"""Arrow IPC files (Feather 2): schema and batches from the footers, records through cursors."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import ClassVar

import numpy as np
import pyarrow as pa

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.schema import Schema
from scalops.engine.block_memory import MEMORY
from scalops.engine.blocks import Array, Block, ColumnData, partition_bounds
from scalops.engine.columns import SparseColumn
from scalops.engine.storage.arrow import block_of, schema_from_arrow, to_column
from scalops.engine.storage.arrow_records import flat_schema
from scalops.engine.storage.cursor_pool import CursorPool
from scalops.engine.storage.files import File, other_columns, reading
from scalops.engine.storage.ipc_cursor import FORM, Batch, BatchCursor, Part
from scalops.engine.storage.ipc_footer import check_sizes, footer_of, headers_of
from scalops.engine.storage.partitions import Partition, pieces


@dataclass(frozen=True)
class IpcFormat:
    """Arrow's file format, compressed or not; its stream format is another."""

    name: ClassVar[str] = "ipc"
    suffixes: ClassVar[tuple[str, ...]] = (".ipc", ".arrow", ".feather")

    def inspect(self, files: tuple[File, ...], columns: Sequence[str] | None = None) -> IpcContents:
        """Read every footer. All files have the first one's columns, in any order."""
        digest = hashlib.blake2b(digest_size=16)
        batches: list[Batch] = []
        rows = 0
        schema: Schema | None = None
        for file in files:
            footer = footer_of(file)
            digest.update(footer)
            with reading(file.path, FORM), file.open_input() as stream:
                found = pa.ipc.open_file(stream).schema
                check_sizes(found)
                own = schema_from_arrow(flat_schema(found, file.path), file.path, columns)
            if schema is None:
                schema = own
            elif schema.types != own.types:
                raise other_columns(files[0], schema, file, own)
            mark = hashlib.blake2b(footer, digest_size=16).digest()
            for index, (at, header, count, packed) in enumerate(headers_of(file, footer)):
                if count:
                    stop = rows + count
                    batches.append(Batch(file, index, rows, stop, packed, at, header, mark))
                    rows = stop
        assert schema is not None  # find_files gives at least one file
        return IpcContents(files, tuple(batches), schema, digest.hexdigest())


@dataclass(frozen=True, eq=False)
class IpcContents:
    """Record batches laid end to end."""

    files: tuple[File, ...]
    batches: tuple[Batch, ...]
    schema: Schema
    digest: str

    @cached_property
    def _offsets(self) -> list[int]:
        return [0, *(batch.stop for batch in self.batches)]

    @property
    def rows(self) -> int:
        return self._offsets[-1]

    @property
    def any_order(self) -> bool:
        """Whether no batch is decoded as a whole."""
        return not any(batch.compressed for batch in self.batches)

    @property
    def likely_rows(self) -> float:
        return self.rows

    @cached_property
    def _cursors(self) -> CursorPool[Part]:
        return CursorPool(self.batches, BatchCursor)

    @cached_property
    def offsets(self) -> list[int]:
        """File i holds the rows offsets[i]..offsets[i + 1] - 1."""
        rows = [0] * len(self.files)
        at, last = 0, -1
        for batch in self.batches:
            if batch.index <= last and batch.file == self.files[at]:  # the same file once more
                at, last = at + 1, -1
            while batch.file != self.files[at]:
                at += 1
            rows[at] += batch.stop - batch.start
            last = batch.index
        return list(accumulate(rows, initial=0))

    def only(self, kept: Sequence[bool]) -> IpcContents:
        """The batches of these files alone, laid end to end; the files keep their numbers."""
        files = {file for file, is_kept in zip(self.files, kept, strict=True) if is_kept}
        batches: list[Batch] = []
        for batch in self.batches:
            if batch.file in files:
                start, rows = batches[-1].stop if batches else 0, batch.stop - batch.start
                batches.append(replace(batch, start=start, stop=start + rows))
        return replace(self, batches=tuple(batches))

    def partitions(self, schema: Schema) -> list[Partition]:
        """Row ranges; a compressed batch stays whole, because it is decoded as a whole."""
        ends = sorted({self._end(stop) for _, stop in partition_bounds(self.rows, schema)})
        bounds = pairwise([0, *ends])
        return [Partition(i, a, b, self._path(a, b), b - a) for i, (a, b) in enumerate(bounds)]

    def _end(self, row: int) -> int:
        index = bisect_left(self._offsets, row)
        inside = index < len(self._offsets) and self._offsets[index] != row
        return self._offsets[index] if inside and self.batches[index - 1].compressed else row

    def _path(self, start: int, stop: int) -> str | None:
        within = {self.batches[i].file.path for i, _, _ in pieces(self._offsets, start, stop)}
        return within.pop() if len(within) == 1 else None

    def heads(self, rows: int) -> Iterator[Partition]:
        """The first rows."""
        stop = min(rows, self.rows)
        yield Partition(0, 0, stop, self._path(0, stop), stop)

    def read(
        self, partition: Partition, columns: tuple[str, ...], block_rows: int
    ) -> Iterator[Block]:
        """Read `columns` alone, to memory of the blocks' own.

        Raises: DataError for a file that is damaged, cut or changed, also while it is read.
        """
        bounds = range(partition.start, partition.stop, block_rows)
        if not columns:
            for start in bounds:
                yield Block(min(block_rows, partition.stop - start), {})
            return
        with self._cursors.cursor(partition.start, columns, block_rows) as cursor:
            for start in bounds:
                stop = min(start + block_rows, partition.stop)
                yield self._block(cursor.take(stop - start), start, stop, columns)
            cursor.check()

    def _block(
        self, parts: Iterable[Part], start: int, stop: int, columns: tuple[str, ...]
    ) -> Block:
        path = self._path(start, stop) or f"{self.files[0].path} and others"
        made = {
            name: _Column(name, self.schema[name], stop - start, f"column {name!r} of {path}")
            for name in columns
        }
        for part in parts:  # each is read before the next one's file is opened
            others = [name for name in columns if part.numbers(name) is None]
            for column in made.values():
                column.add(part, others)
        return block_of({name: column.made() for name, column in made.items()}, stop - start)


class _Column:
    """A column of a block while it is put together, part by part."""

    def __init__(self, name: str, kind: ArrayType, rows: int, where: str) -> None:
        self._name, self._kind, self._where = name, kind, where
        self._chunks: list[pa.Array] = []
        self._is_decoded = False
        self._row_bytes = 0 if self._stays_arrow else kind.numpy.itemsize * kind.size
        self._bytes = MEMORY.take(rows * self._row_bytes)
        self._valid: Array | None = None
        self._rows, self._at = rows, 0

    @property
    def _stays_arrow(self) -> bool:
        return self._kind.is_arrow or self._kind.is_sparse

    def add(self, part: Part, others: list[str]) -> None:
        """Read the next rows; `others` are the columns that are more than numbers."""
        numbers = part.numbers(self._name)
        if self._stays_arrow:
            self._chunks.append(part.array(self._name, others))
            self._is_decoded |= part.is_decoded(self._name)
            return
        first, self._at = self._at, self._at + part.rows
        if numbers is not None and numbers.row_bytes == self._row_bytes:
            part.fill(self._bytes[first * self._row_bytes : self._at * self._row_bytes], numbers)
            return
        values, valid = to_column([part.array(self._name, others)], self._kind, self._where)
        self._values[first : self._at] = values
        if valid is not None:
            if self._valid is None:
                self._valid = np.ones(self._rows, bool)
            self._valid[first : self._at] = valid

    @property
    def _values(self) -> Array:
        return self._bytes.view(self._kind.numpy).reshape(self._rows, *self._kind.shape)

    def made(self) -> tuple[ColumnData, Array | None]:
        """The column, and which of its values are not null."""
        if not self._stays_arrow:
            return self._values, self._valid
        values, valid = to_column(self._chunks, self._kind, self._where)
        return _owned(values) if self._is_decoded else values, valid


def _owned(values: ColumnData) -> ColumnData:
    """A column that does not keep the batch which it is a part of."""
    if isinstance(values, np.ndarray):
        return values if values.base is None else values.copy()
    if isinstance(values, SparseColumn):
        return SparseColumn(
            _owned(values.indptr), _owned(values.indices), _owned(values.values), values.dimension
        )
    return pa.concat_arrays([values, values.slice(0, 0)])

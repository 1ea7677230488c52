"""Parquet files: schema, rows and row groups from the footers, records through cursors."""

from __future__ import annotations

import base64
import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, ClassVar

import pyarrow as pa

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Block, partition_bounds
from scalops.engine.storage.arrow import (
    block_of,
    schema_from_arrow,
    to_column,
    type_from_arrow,
)
from scalops.engine.storage.arrow_records import flat_schema
from scalops.engine.storage.cursor_pool import CursorPool
from scalops.engine.storage.files import File, other_columns, reading
from scalops.engine.storage.parquet_cursor import Cursor, RowGroup
from scalops.engine.storage.parquet_footers import KEPT_BYTES, Extent, Footers, footers
from scalops.engine.storage.partitions import Partition, pieces


@dataclass(frozen=True)
class ParquetFormat:
    """Apache Parquet."""

    name: ClassVar[str] = "parquet"
    suffixes: ClassVar[tuple[str, ...]] = (".parquet", ".pq")

    def inspect(
        self, files: tuple[File, ...], columns: Sequence[str] | None = None
    ) -> ParquetContents:
        """Read every footer. All files have the first one's columns, in any order."""
        digest = hashlib.blake2b(digest_size=16)
        groups: list[RowGroup] = []
        offsets = [0]
        schema: Schema | None = None
        kept: list[Any] = []
        size = 0
        like: Any = None
        for file, (raw, metadata) in zip(files, footers(files), strict=True):
            digest.update(raw)
            size += len(raw)
            if size <= KEPT_BYTES:
                kept.append(metadata)
            if like is None or not _same_schema(like, metadata):
                with reading(file.path, "Parquet"):
                    own = _as_written(metadata, file.path)
                found = schema_from_arrow(own, file.path, columns)
                if schema is None:
                    schema = found
                elif schema.types != found.types:
                    raise other_columns(files[0], schema, file, found)
                like = metadata
            start = offsets[-1]
            for index in range(metadata.num_row_groups):
                count = metadata.row_group(index).num_rows
                groups.append(RowGroup(file, index, start, start + count))
                start += count
            offsets.append(start)
        assert schema is not None  # find_files gives at least one file
        full = tuple(group for group in groups if group.start < group.stop)
        told = Footers(files, kept)
        return ParquetContents(files, full, tuple(offsets), schema, digest.hexdigest(), told)


@dataclass(frozen=True, eq=False)
class ParquetContents:
    """Row groups laid end to end; file i holds the rows offsets[i]..offsets[i + 1] - 1."""

    files: tuple[File, ...]
    groups: tuple[RowGroup, ...]
    offsets: tuple[int, ...]
    schema: Schema
    digest: str
    footers: Footers

    @property
    def rows(self) -> int:
        return self.offsets[-1]

    @property
    def any_order(self) -> bool:
        """A row group is decoded from its beginning on."""
        return False

    @property
    def likely_rows(self) -> float:
        return self.offsets[-1]

    @cached_property
    def _cursors(self) -> CursorPool[pa.RecordBatch]:
        return CursorPool(self.groups, Cursor)

    @cached_property
    def group_files(self) -> list[int]:
        """The number of the file that each row group is in."""
        return [bisect_right(self.offsets, group.start) - 1 for group in self.groups]

    @cached_property
    def _extents(self) -> dict[str, list[Extent]]:
        return {}

    def extents(self, column: str, kind: ArrayType, groups: Sequence[int]) -> list[Extent]:
        """What the footers tell of a column in these row groups, all of them being looked at
        once. Raises: DataError where a footer has to be read again and cannot."""
        known = self._extents.get(column)
        if known is None:
            places = [
                (file, group.index)
                for file, group in zip(self.group_files, self.groups, strict=True)
            ]
            if len(groups) < len(places):
                return self.footers.extents(column, kind, [places[i] for i in groups])
            known = self._extents[column] = self.footers.extents(column, kind, places)
        return [known[i] for i in groups]

    def range_of(self, column: str) -> tuple[float, float] | None:
        """The least and greatest value of a column of numbers, as the footers have them."""
        kind = self.schema[column]
        if kind.shape or kind.is_list or kind.is_sparse or kind.numpy.kind not in "iuf":
            return None
        extents = self.extents(column, kind, range(len(self.groups)))
        if not extents or any(extent.low is None for extent in extents):
            return None
        return min(e.low for e in extents).item(), max(e.high for e in extents).item()

    def only(self, groups: Sequence[int]) -> ParquetContents:
        """These row groups alone, laid end to end; the files keep their numbers."""
        made: list[RowGroup] = []
        rows = [0] * len(self.files)
        for i in groups:
            group = self.groups[i]
            start, count = made[-1].stop if made else 0, group.stop - group.start
            made.append(replace(group, start=start, stop=start + count))
            rows[self.group_files[i]] += count
        offsets = tuple(accumulate(rows, initial=0))
        return replace(self, groups=tuple(made), offsets=offsets)

    def partitions(self, schema: Schema) -> list[Partition]:
        """Row ranges."""
        bounds = partition_bounds(self.rows, schema)
        return [Partition(i, a, b, self._path(a, b), b - a) for i, (a, b) in enumerate(bounds)]

    def _path(self, start: int, stop: int) -> str | None:
        within = {self.files[index].path for index, _, _ in pieces(self.offsets, start, stop)}
        return within.pop() if len(within) == 1 else None

    def heads(self, rows: int) -> Iterator[Partition]:
        """The first rows."""
        stop = min(rows, self.rows)
        yield Partition(0, 0, stop, self._path(0, stop), stop)

    def read(
        self, partition: Partition, columns: tuple[str, ...], block_rows: int
    ) -> Iterator[Block]:
        """Decode `columns` alone; none at all is answered from the footers."""
        bounds = range(partition.start, partition.stop, block_rows)
        if not columns:
            for start in bounds:
                yield Block(min(block_rows, partition.stop - start), {})
            return
        with self._cursors.cursor(partition.start, columns, block_rows) as cursor:
            for start in bounds:
                stop = min(start + block_rows, partition.stop)
                yield self._block(list(cursor.take(stop - start)), start, stop, columns)
            cursor.check()

    def _block(
        self, batches: list[pa.RecordBatch], start: int, stop: int, columns: tuple[str, ...]
    ) -> Block:
        path = self._path(start, stop) or f"{self.files[0].path} and others"
        found = {
            name: to_column(
                [batch.column(name) for batch in batches],
                self.schema[name],
                f"column {name!r} of {path}",
            )
            for name in columns
        }
        return block_of(found, stop - start)


def _same_schema(a: Any, b: Any) -> bool:
    """Whether two footers describe the same columns, with the same notes of the writer."""
    if not a.schema.equals(b.schema):
        return False
    notes = ((m.metadata or {}).get(b"ARROW:schema") for m in (a, b))
    return next(notes) == next(notes)


def _as_written(metadata: Any, path: str) -> pa.Schema:
    """The schema, with seconds where the writer had them: Parquet itself has milliseconds."""
    stored = flat_schema(metadata.schema.to_arrow_schema(), path)
    coded = (metadata.metadata or {}).get(b"ARROW:schema")
    if coded is None or not any("timestamp[ms]" in str(field.type) for field in stored):
        return stored
    written = flat_schema(pa.ipc.read_schema(pa.BufferReader(base64.b64decode(coded))), path)
    if written.names != stored.names:
        return stored
    fields = []
    for now, before in zip(stored, written, strict=True):
        seconds, found = type_from_arrow(before.type), type_from_arrow(now.type)
        same = str(seconds).replace("timestamp[s]", "timestamp[ms]") == str(found)
        fields.append(now.with_type(before.type) if same and seconds != found else now)
    return pa.schema(fields, stored.metadata)

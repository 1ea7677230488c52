"""Parquet files: schema, rows and row groups from the footers, records through cursors."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import pyarrow as pa

from scalops.algebra.errors import DataError
from scalops.algebra.schema import FIELD, Schema
from scalops.engine.blocks import Block, partition_bounds
from scalops.engine.storage.arrow import (
    block_of,
    schema_from_arrow,
    to_column,
    type_from_arrow,
)
from scalops.engine.storage.arrow_records import flat_schema
from scalops.engine.storage.files import File, other_columns, reading
from scalops.engine.storage.parquet_cursor import CursorPool, RowGroup, opened
from scalops.engine.storage.partitions import Partition, pieces

_MAGIC = b"PAR1"
_TRAILER_BYTES = 8  # the footer's length and the magic bytes


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
        for file in files:
            digest.update(_footer(file))
            with opened(file) as parquet, reading(file.path, "Parquet"):
                metadata, own = parquet.metadata, _as_written(parquet, file.path)
                rows = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
            found = schema_from_arrow(own, file.path, columns)
            if schema is None:
                schema = found
            elif schema.types != found.types:
                raise other_columns(files[0], schema, file, found)
            start = offsets[-1]
            for index, count in enumerate(rows):
                groups.append(RowGroup(file, index, start, start + count))
                start += count
            offsets.append(start)
        assert schema is not None  # find_files gives at least one file
        full = tuple(group for group in groups if group.start < group.stop)
        return ParquetContents(files, full, tuple(offsets), schema, digest.hexdigest())


@dataclass(frozen=True, eq=False)
class ParquetContents:
    """Row groups laid end to end; file i holds the rows offsets[i]..offsets[i + 1] - 1."""

    files: tuple[File, ...]
    groups: tuple[RowGroup, ...]
    offsets: tuple[int, ...]
    schema: Schema
    digest: str

    @property
    def rows(self) -> int:
        return self.offsets[-1]

    @property
    def likely_rows(self) -> float:
        return self.offsets[-1]

    @cached_property
    def _cursors(self) -> CursorPool:
        return CursorPool(self.groups)

    @cached_property
    def _ranges(self) -> dict[str, tuple[float, float] | None]:
        """By column the least and greatest number of all row groups; None where one is silent."""
        found: dict[str, tuple[float, float] | None] = {}
        for file in self.files:
            with opened(file) as parquet, reading(file.path, "Parquet"):
                metadata = parquet.metadata
                for g in range(metadata.num_row_groups):
                    for c in range(metadata.num_columns):
                        column = metadata.row_group(g).column(c)
                        name, own = column.path_in_schema, _range(column.statistics)
                        before = found.get(name, own)
                        known = own is not None and before is not None
                        found[name] = _widened(own, before) if known else None
        return found

    def range_of(self, column: str) -> tuple[float, float] | None:
        """The least and greatest value of a column of numbers, as the footers have them."""
        return self._ranges.get(column.replace(FIELD, "."))

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
                yield self._block(cursor.take(stop - start), start, stop, columns)

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


def _as_written(parquet: Any, path: str) -> pa.Schema:
    """The schema, with seconds where the writer had them: Parquet itself has milliseconds."""
    stored = flat_schema(parquet.schema_arrow, path)
    coded = (parquet.metadata.metadata or {}).get(b"ARROW:schema")
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


def _range(statistics: Any) -> tuple[float, float] | None:
    """The least and greatest number of a column in a row group."""
    if statistics is None or not statistics.has_min_max:
        return None
    low, high = statistics.min, statistics.max
    if isinstance(low, bool) or not isinstance(low, (int, float)):
        return None
    return low, high


def _widened(a: Any, b: Any) -> tuple[float, float]:
    return min(a[0], b[0]), max(a[1], b[1])


def _footer(file: File) -> bytes:
    """The footer as it stands in the file: schema, row groups, sizes and statistics."""
    with reading(file.path, "Parquet"), open(file.path, "rb") as stream:
        if file.size < len(_MAGIC) + _TRAILER_BYTES:
            raise DataError(
                f"{file.path} is not a Parquet file: it has {file.size} bytes",
                hint="was it written to its end?",
            )
        stream.seek(-_TRAILER_BYTES, os.SEEK_END)
        trailer = stream.read()
        if trailer[4:] != _MAGIC:
            stream.seek(0)
            if stream.read(len(_MAGIC)) == _MAGIC:
                raise DataError(
                    f"{file.path} is a Parquet file without its end",
                    hint="it was cut, or is still being written",
                )
            raise DataError(
                f"{file.path} is not a Parquet file", hint="read_csv reads delimited text"
            )
        length = int.from_bytes(trailer[:4], "little")
        stream.seek(max(0, file.size - _TRAILER_BYTES - length))
        return stream.read(length)

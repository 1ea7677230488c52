"""Formats of files that are written: a table goes to them part by part, in order."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalops.algebra.dtypes import ArrayType, ListType
from scalops.algebra.errors import ExecutionError, PlanError, SchemaError
from scalops.algebra.schema import FIELD, Schema
from scalops.engine.storage.arrow_records import flattened
from scalops.engine.storage.arrow_types import schema_from_arrow
from scalops.engine.storage.csv_format import check_delimiter
from scalops.engine.storage.lines import COMPRESSED

_PARQUET_CODECS = ("none", "snappy", "gzip", "brotli", "zstd", "lz4")
_IPC_CODECS = ("none", "lz4", "zstd")
_BATCH_ROWS = 1 << 16
# Of a Parquet row group: a reader holds one of them, and a filter passes one over.
GROUP_ROWS, GROUP_BYTES = 1 << 20, 64 << 20
BATCH_BYTES = 4 << 20  # of a batch of the other formats


class FileWriter(Protocol):
    """Writes one file."""

    def write(self, table: pa.Table) -> None:
        """Append records: in Parquet a row group, in IPC a batch."""

    def close(self) -> None:
        """End the file; the stream stays open."""


@dataclass(frozen=True)
class Format:
    """A format of files: `open(stream, name, schema)` begins one of this name.

    `rows` and `bytes` are what is appended at once; `suffix` is that of files which have no name
    of their own yet. `check(schema)` raises SchemaError for what it cannot hold.
    """

    suffix: str
    rows: int
    bytes: int
    open: Callable[[BinaryIO, str, pa.Schema], FileWriter]
    check: Callable[[Schema], None] = lambda schema: None


def parquet_format(compression: str | None = "zstd") -> Format:
    """Apache Parquet. Raises: PlanError for an unknown compression."""
    codec = _codec(compression, _PARQUET_CODECS)

    def check(schema: Schema) -> None:
        for name, kind in schema:
            if kind.is_plain and kind.size == 0:
                raise SchemaError(
                    f"write_parquet cannot hold the column {name!r} of {kind}, which has no"
                    " elements",
                    hint=f"write_ipc can; or write table.drop({name!r})",
                )

    def opened(stream: BinaryIO, name: str, schema: pa.Schema) -> FileWriter:
        return _Parquet(stream, schema, codec)

    return Format("parquet", GROUP_ROWS, GROUP_BYTES, opened, check)


class _Parquet:
    def __init__(self, stream: BinaryIO, schema: pa.Schema, codec: str) -> None:
        from pyarrow import parquet as pq

        self._codec = codec
        try:
            self._file = pq.ParquetWriter(stream, schema, compression=codec)
        except pa.ArrowException as error:
            raise self._refused(schema.empty_table(), error) from error

    def write(self, table: pa.Table) -> None:
        try:
            self._file.write_table(table, row_group_size=max(1, table.num_rows))
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise self._refused(table, error) from error

    def _refused(self, table: pa.Table, error: pa.ArrowException) -> ExecutionError | SchemaError:
        """The error that names the column that Arrow cannot write."""
        from pyarrow import parquet as pq

        with suppress(pa.ArrowException):
            self._file.close()
        for name in table.column_names:
            try:
                pq.write_table(table.select([name]), pa.BufferOutputStream())
            except pa.ArrowException as inner:
                return SchemaError(
                    f"the column {name!r} of the Arrow type {table.schema.field(name).type} "
                    f"cannot be written: {inner}",
                    hint="write_ipc can hold every column",
                )
        return ExecutionError(f"the table cannot be written: {error}")

    def close(self) -> None:
        self._file.close()


def ipc_format(compression: str | None = None) -> Format:
    """Arrow's file format. Raises: PlanError for an unknown compression."""
    codec = _codec(compression, _IPC_CODECS)
    options = pa.ipc.IpcWriteOptions(compression=None if codec == "none" else codec)

    def opened(stream: BinaryIO, name: str, schema: pa.Schema) -> FileWriter:
        return _Ipc(pa.ipc.new_file(stream, schema, options=options))

    return Format("arrow", _BATCH_ROWS, BATCH_BYTES, opened)


class _Ipc:
    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, table: pa.Table) -> None:
        self._file.write_table(table.combine_chunks())

    def close(self) -> None:
        self._file.close()


def csv_format(delimiter: str = ",", header: bool = True) -> Format:
    """Delimited text. Raises: PlanError for what is no delimiter."""
    check_delimiter(delimiter)

    def check(schema: Schema) -> None:
        _check_scalars(schema)
        for name, kind in schema:
            if delimiter in " :" and kind.name.startswith("timestamp"):
                raise SchemaError(
                    f"write_csv cannot hold the column {name!r} of {kind} with"
                    f" delimiter={delimiter!r}, which is in the text of a time",
                    hint="usual are ',', ';', '|' and '\\t'",
                )

    def opened(stream: BinaryIO, name: str, schema: pa.Schema) -> FileWriter:
        return _Csv(stream, name, schema, delimiter, header)

    return Format("csv", _BATCH_ROWS, BATCH_BYTES, opened, check)


def _check_scalars(schema: Schema) -> None:
    for name in schema.columns:
        if schema.holds_records(name):
            raise SchemaError(
                f"write_csv cannot hold the column {name!r}, which holds records; a field of CSV"
                " is one value",
                hint="write_parquet can; or select() their fields: x=lambda p: p.a.x",
            )
    for name, kind in schema:
        if kind.shape or kind.is_list or kind.is_sparse:
            raise SchemaError(
                f"write_csv cannot hold the column {name!r} of {kind}; a field of CSV is one value",
                hint=f"write_parquet can; or write table.drop({name!r})",
            )


class _Csv:
    def __init__(
        self, stream: BinaryIO, name: str, schema: pa.Schema, delimiter: str, header: bool
    ) -> None:
        self._text, self._delimiter = _Text(stream, name), delimiter
        self._schema, self._header = schema, header

    def write(self, table: pa.Table) -> None:
        from pyarrow import csv as pacsv

        options = pacsv.WriteOptions(include_header=self._header, delimiter=self._delimiter)
        pacsv.write_csv(_written_out(table), self._text.stream, options)
        self._header = False

    def close(self) -> None:
        if self._header:
            self.write(self._schema.empty_table())
        self._text.close()


def json_format() -> Format:
    """One object on each line."""

    def opened(stream: BinaryIO, name: str, schema: pa.Schema) -> FileWriter:
        return _Json(stream, name)

    return Format("json", _BATCH_ROWS, BATCH_BYTES, opened)


class _Json:
    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._text = _Text(stream, name)

    def write(self, table: pa.Table) -> None:
        table = flattened(table)
        kinds = schema_from_arrow(table.schema, "the table")
        has_records = kinds.columns != kinds.names
        for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
            columns = [_plain(batch.column(name), kind).to_pylist() for name, kind in kinds]
            for row in zip(*columns, strict=True):
                record = dict(zip(kinds.names, row, strict=True))
                if has_records:
                    record = _nested_object(record)
                self._text.stream.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")

    def close(self) -> None:
        self._text.close()


class _Text:
    """A stream, compressed where the file's name says so."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.stream: Any = stream
        self._packed: gzip.GzipFile | None = None
        if name.lower().endswith(COMPRESSED):
            # Without name and time, so that equal tables give equal files.
            self.stream = self._packed = gzip.GzipFile("", "wb", 6, stream, mtime=0)

    def close(self) -> None:
        if self._packed is not None:
            self._packed.close()


def _nested_object(record: dict[str, Any]) -> dict[str, Any]:
    """The object of flat names; a column that holds records is an object in it."""
    made: dict[str, Any] = {}
    for name, value in record.items():
        *outer, last = name.split(FIELD)
        inner = made
        for column in outer:
            inner = inner.setdefault(column, {})
        inner[last] = value
    return made


def _codec(compression: str | None, known: tuple[str, ...]) -> str:
    codec = "none" if compression is None else compression
    if codec not in known:
        raise PlanError(f"compression={compression!r}", hint=f"known are {', '.join(known)}")
    return codec


def _written_out(table: pa.Table) -> pa.Table:
    """Columns that Arrow's CSV writer has no text for as what `read_csv` takes for them.

    A lone column's null would be an empty line, which is no record: it becomes an empty text.
    """
    columns = []
    for column in table.columns:
        if pa.types.is_duration(column.type):
            column = column.cast(pa.int64())
        elif pa.types.is_float16(column.type):
            column = column.cast(pa.float32())
        if table.num_columns == 1 and column.null_count:
            column = pc.fill_null(column.cast(pa.string()), "")
        columns.append(column)
    return pa.table(columns, names=table.column_names)


def _plain(column: pa.Array, kind: ArrayType) -> pa.Array:
    """A column whose Python values JSON has: times as text, durations as counts of their unit."""
    if isinstance(kind, ListType):
        items = _plain(column.values, kind.item)
        missing = column.is_null() if column.null_count else None
        return pa.ListArray.from_arrays(column.offsets, items, mask=missing)
    if kind.is_sparse or kind.is_string:
        return column
    if kind.shape:
        return _nested(column.storage if isinstance(column, pa.ExtensionArray) else column, kind)
    if kind.name.startswith("timestamp"):
        return column.cast(pa.string())
    return column.cast(pa.int64()) if kind.name.startswith("duration") else column


def _nested(column: pa.Array, kind: ArrayType) -> pa.Array:
    """Arrays as lists of lists; null where the array is."""
    missing = column.is_null() if column.null_count else None
    if kind.size == 0:
        return pa.array([np.empty(kind.shape).tolist()] * len(column))
    while pa.types.is_fixed_size_list(column.type):
        size = column.type.list_size
        column = column.values.slice(column.offset * size, len(column) * size)
    column = _plain(column, ArrayType(kind.name))
    for size in reversed(kind.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return pa.FixedSizeListArray.from_arrays(column, kind.shape[0], mask=missing)

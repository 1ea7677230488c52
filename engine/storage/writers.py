"""Tables to files: written beside their destination and moved there when they are complete."""

from __future__ import annotations

import gzip
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalops.algebra.dtypes import ArrayType, ListType
from scalops.algebra.errors import ExecutionError, PlanError, SchemaError
from scalops.algebra.schema import FIELD, Schema
from scalops.engine.storage.arrow_records import flattened
from scalops.engine.storage.arrow_types import schema_from_arrow
from scalops.engine.storage.files import local_path
from scalops.engine.storage.lines import COMPRESSED

_PARQUET_CODECS = ("none", "snappy", "gzip", "brotli", "zstd", "lz4")
_IPC_CODECS = ("none", "lz4", "zstd")
_BATCH_ROWS = 1 << 16

Writer = Callable[[pa.Table, BinaryIO], None]


def destination(path: object) -> str:
    """Where to write. Raises: PlanError for what is no local path, ExecutionError where nothing
    can be written."""
    target = os.path.realpath(local_path(path, "writing to"))
    folder = os.path.dirname(target)
    if os.path.isdir(target):
        raise ExecutionError(f"{target} is a folder, not a file", hint="give the file a name")
    if os.path.lexists(target) and not stat.S_ISREG(os.stat(target).st_mode):
        raise ExecutionError(f"{target} is not a regular file")
    if not os.path.isdir(folder):
        raise ExecutionError(f"{target} cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ExecutionError(f"{target} cannot be written: permission denied for {folder}")
    return target


def write(table: pa.Table, target: str, writer: Writer) -> None:
    """Write a table; until all of it is on disk, what was at `target` stays as it was.

    Raises: ExecutionError, naming the file, for what the system refuses.
    """
    try:
        with _replaced(target) as stream:
            writer(table, stream)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ExecutionError(f"{target} cannot be written: {reason}") from error


@contextmanager
def _replaced(target: str) -> Iterator[BinaryIO]:
    """A new file in the same folder, which takes the place of `target` at the end, or goes."""
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name[:200]}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if os.path.exists(target):
            os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
        os.replace(temporary, target)
    except BaseException:  # an interrupt too
        with suppress(OSError):
            os.unlink(temporary)
        raise
    with suppress(OSError):  # not every file system can sync a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def parquet_writer(schema: Schema, compression: str | None = "zstd") -> Writer:
    """Apache Parquet. Raises: SchemaError for vectors of no elements, PlanError."""
    codec = _codec(compression, _PARQUET_CODECS)
    for name, kind in schema:
        if kind.is_plain and kind.size == 0:
            raise SchemaError(
                f"write_parquet cannot hold the column {name!r} of {kind}, which has no elements",
                hint=f"write_ipc can; or write table.drop({name!r})",
            )

    def writer(table: pa.Table, stream: BinaryIO) -> None:
        from pyarrow import parquet as pq

        _by_column(table, lambda part, to: pq.write_table(part, to, compression=codec), stream)

    return writer


def ipc_writer(compression: str | None = None) -> Writer:
    """Arrow's file format. Raises: PlanError for an unknown compression."""
    codec = _codec(compression, _IPC_CODECS)
    options = pa.ipc.IpcWriteOptions(compression=None if codec == "none" else codec)

    def writer(table: pa.Table, stream: BinaryIO) -> None:
        with pa.ipc.new_file(stream, table.schema, options=options) as file:
            file.write_table(table)

    return writer


def csv_writer(schema: Schema, target: str, delimiter: str = ",", header: bool = True) -> Writer:
    """Delimited text. Raises: SchemaError for a column that is not of scalars, PlanError."""
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n':
        raise PlanError(f"delimiter={delimiter!r} must be one ASCII character, not a quote")
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

    def writer(table: pa.Table, stream: BinaryIO) -> None:
        from pyarrow import csv as pacsv

        options = pacsv.WriteOptions(include_header=header, delimiter=delimiter)
        with _text(stream, target) as text:
            pacsv.write_csv(_written_out(table), text, options)

    return writer


def json_writer(target: str) -> Writer:
    """One object on each line."""

    def writer(table: pa.Table, stream: BinaryIO) -> None:
        table = flattened(table)
        kinds = schema_from_arrow(table.schema, "the table")
        has_records = kinds.columns != kinds.names
        with _text(stream, target) as text:
            for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
                columns = [_plain(batch.column(name), kind).to_pylist() for name, kind in kinds]
                for row in zip(*columns, strict=True):
                    record = dict(zip(kinds.names, row, strict=True))
                    if has_records:
                        record = _nested_object(record)
                    text.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")

    return writer


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


@contextmanager
def _text(stream: BinaryIO, target: str) -> Iterator[Any]:
    """The stream, compressed where the name says so."""
    if not target.lower().endswith(COMPRESSED):
        yield stream
        return
    # Without name and time, so that equal tables give equal files.
    with gzip.GzipFile("", "wb", 6, stream, mtime=0) as packed:
        yield packed


def _by_column(table: pa.Table, write: Callable[[pa.Table, Any], None], stream: BinaryIO) -> None:
    """Write; where Arrow cannot, name the column."""
    try:
        write(table, stream)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
        for name in table.column_names:
            try:
                write(table.select([name]), pa.BufferOutputStream())
            except pa.ArrowException as inner:
                raise SchemaError(
                    f"the column {name!r} of the Arrow type {table.schema.field(name).type} "
                    f"cannot be written: {inner}",
                    hint="write_ipc can hold every column",
                ) from error
        raise ExecutionError(f"the table cannot be written: {error}") from error


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

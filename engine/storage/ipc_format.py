"""Arrow IPC files (Feather 2): schema and batches from the footers, records from mapped memory."""

from __future__ import annotations

import hashlib
import os
import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from scalops.algebra.errors import DataError
from scalops.algebra.schema import FIELD, Schema
from scalops.engine.blocks import Block, ColumnData, partition_bounds
from scalops.engine.columns import SparseColumn
from scalops.engine.storage.arrow import block_of, schema_from_arrow, to_column
from scalops.engine.storage.arrow_records import flat_schema, flattened
from scalops.engine.storage.files import File, other_columns, reading
from scalops.engine.storage.partitions import Partition, pieces

_MAGIC = b"ARROW1"
_TRAILER_BYTES = 4 + len(_MAGIC)  # the footer's length and the magic bytes


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
            digest.update(_footer(file))
            with _opened(file) as reader, reading(file.path, "an Arrow file"):
                flat = flat_schema(reader.schema, file.path)
                own = schema_from_arrow(flat, file.path, columns)
            headers = _headers(file)
            if schema is None:
                schema = own
            elif schema.types != own.types:
                raise other_columns(files[0], schema, file, own)
            for index, (length, compressed) in enumerate(headers):
                if length:
                    batches.append(Batch(file, index, rows, rows + length, compressed))
                    rows += length
        assert schema is not None  # find_files gives at least one file
        return IpcContents(files, tuple(batches), schema, digest.hexdigest())


@dataclass(frozen=True)
class Batch:
    """Record batch `index` of a file: the rows start..stop-1 of the whole table."""

    file: File
    index: int
    start: int
    stop: int
    compressed: bool


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
    def likely_rows(self) -> float:
        return self.rows

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
        """Copies of the mapped `columns`: a block stays what it is if the file is written to."""
        bounds = range(partition.start, partition.stop, block_rows)
        if not columns:
            for start in bounds:
                yield Block(min(block_rows, partition.stop - start), {})
            return
        with _Batches(self.batches, columns) as found:
            for start in bounds:
                stop = min(start + block_rows, partition.stop)
                parts = [
                    found.at(index).slice(first, last - first)
                    for index, first, last in pieces(self._offsets, start, stop)
                ]
                yield self._block(parts, start, stop, columns)

    def _block(
        self, parts: list[pa.RecordBatch], start: int, stop: int, columns: tuple[str, ...]
    ) -> Block:
        path = self._path(start, stop) or f"{self.files[0].path} and others"
        found = {}
        for name in columns:
            where = f"column {name!r} of {path}"
            chunks = [part.column(name) for part in parts]
            with reading(path, "an Arrow file"):
                for chunk in chunks:
                    chunk.validate(full=True)
            values, valid = to_column(chunks, self.schema[name], where)
            found[name] = (_owned(values), valid)
        return block_of(found, stop - start)


class _Batches:
    """The batches of one reader, one file open at a time, the last batch kept."""

    def __init__(self, batches: tuple[Batch, ...], columns: tuple[str, ...]) -> None:
        self._batches, self._columns = batches, columns
        self._file: File | None = None
        self._open = ExitStack()
        self._reader: Any = None
        self._index = -1
        self._batch: pa.RecordBatch | None = None

    def __enter__(self) -> _Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self._batch = None
        self._open.close()

    def at(self, index: int) -> pa.RecordBatch:
        """Batch number `index` of all."""
        batch = self._batches[index]
        if batch.file != self._file:
            self._open.close()
            self._reader = self._open.enter_context(_opened(batch.file, self._columns))
            self._file = batch.file
        if index != self._index or self._batch is None:
            with reading(batch.file.path, "an Arrow file"):
                self._batch = flattened(self._reader.get_batch(batch.index))
            self._index = index
        if len(self._batch) != batch.stop - batch.start:
            raise DataError(
                f"{batch.file.path}: batch {batch.index} has not the "
                f"{batch.stop - batch.start} rows of its header",
                hint="did the file change after the table was made?",
            )
        return self._batch


def _owned(values: ColumnData) -> ColumnData:
    if isinstance(values, np.ndarray):
        return values if values.base is None else values.copy()
    if isinstance(values, SparseColumn):
        return SparseColumn(
            _owned(values.indptr), _owned(values.indices), _owned(values.values), values.dimension
        )
    return pa.concat_arrays([values, values.slice(0, 0)])


@contextmanager
def _opened(file: File, columns: tuple[str, ...] | None = None) -> Iterator[Any]:
    """A reader of these columns alone."""
    with reading(file.path, "an Arrow file"):
        mapped = pa.memory_map(file.path)
    with mapped:
        # Beyond the end of a file that has become shorter, mapped memory ends the process.
        if mapped.size() != file.size:
            raise DataError(
                f"{file.path} changed after the table was made: {file.size} bytes then, "
                f"{mapped.size()} now",
                hint="make a new table",
            )
        with reading(file.path, "an Arrow file"):
            reader = pa.ipc.open_file(mapped)
            if columns is not None:
                names = reader.schema.names
                read = list(dict.fromkeys(name.split(FIELD)[0] for name in columns))
                missing = [name for name in read if name not in names]
                if missing:
                    raise DataError(
                        f"{file.path} has no column {missing[0]!r} any more",
                        hint="did the file change after the table was made?",
                    )
                options = pa.ipc.IpcReadOptions(
                    included_fields=[names.index(name) for name in read], use_threads=False
                )
                reader = pa.ipc.open_file(mapped, options=options)
        yield reader


def _footer(file: File) -> bytes:
    """The footer as it stands in the file: schema and places of the batches."""
    with reading(file.path, "an Arrow file"), open(file.path, "rb") as stream:
        start = stream.read(len(_MAGIC))
        if start != _MAGIC:
            raise DataError(f"{file.path} is not an Arrow file", hint=_way_out(start))
        stream.seek(-min(file.size, _TRAILER_BYTES), os.SEEK_END)
        trailer = stream.read()
        if trailer[4:] != _MAGIC or file.size < 2 * _TRAILER_BYTES:
            raise DataError(
                f"{file.path} is an Arrow file without its end",
                hint="it was cut, or is still being written",
            )
        length = int.from_bytes(trailer[:4], "little")
        stream.seek(max(0, file.size - _TRAILER_BYTES - length))
        return stream.read(length)


def _way_out(start: bytes) -> str:
    if start[:4] == b"FEA1":
        return "it is of the first version of Feather: write it again with a later one"
    if start[:4] == b"\xff\xff\xff\xff":
        return "it is an Arrow stream: read it with pyarrow.ipc.open_stream and so.from_arrow"
    if start[:4] == b"PAR1":
        return "it is a Parquet file: use read_parquet"
    return "read_csv and read_text read text"


def _headers(file: File) -> list[tuple[int, bool]]:
    """Rows of each batch and whether it is compressed, from the messages that stand before them.

    The footer has not the rows, and asking for a batch would decompress it.
    """
    found: list[tuple[int, bool]] = []
    with reading(file.path, "an Arrow file"), pa.memory_map(file.path) as mapped:
        expected = pa.ipc.open_file(mapped).num_record_batches
        mapped.seek(8)
        messages = pa.ipc.MessageReader.open_stream(mapped)
        while len(found) < expected:
            try:
                message = messages.read_next_message()
            except StopIteration as error:
                raise OSError("it ends before its last batch") from error
            if message.type == "record batch":
                found.append(_header(message.metadata.to_pybytes()))
    return found


def _header(metadata: bytes) -> tuple[int, bool]:
    """The length of a record batch, and whether its header has the field of the compression.

    A FlatBuffers table: https://arrow.apache.org/docs/format/Columnar.html
    """
    try:
        message = int.from_bytes(metadata[:4], "little")
        place = _field(metadata, message, 2)
        batch = place + int.from_bytes(metadata[place : place + 4], "little")
        place = _field(metadata, batch, 0)
        length = int.from_bytes(metadata[place : place + 8], "little") if place else 0
        if length < 0:
            raise OSError("the header of a batch is damaged")
        return length, _field(metadata, batch, 3) > 0
    except struct.error as error:
        raise OSError("the header of a batch is damaged") from error


def _field(buffer: bytes, table: int, number: int) -> int:
    """Where a field of a table lies; 0 if the table has it not."""
    vtable = table - struct.unpack_from("<i", buffer, table)[0]
    if 4 + 2 * number >= struct.unpack_from("<H", buffer, vtable)[0]:
        return 0
    offset = int(struct.unpack_from("<H", buffer, vtable + 4 + 2 * number)[0])
    return table + offset if offset else 0

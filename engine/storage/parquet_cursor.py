"""Cursors over row groups: consecutive partitions decode each row group once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scalops.algebra.errors import DataError
from scalops.algebra.schema import FIELD
from scalops.engine.storage.arrow_records import flattened
from scalops.engine.storage.files import File, reading

# Row groups are read through buffers, one per column. With pre_buffer, or without a buffer size,
# Arrow would hold the whole row group.
MOST_BUFFER_BYTES = 1 << 20
LEAST_BUFFER_BYTES = 64 << 10
BUFFERS_BYTES = 16 << 20  # of all columns together, while they have more than the least


@dataclass(frozen=True)
class RowGroup:
    """Row group `index` of a file: the rows start..stop-1 of the whole table."""

    file: File
    index: int
    start: int
    stop: int


@contextmanager
def opened(file: File) -> Iterator[Any]:
    """A pyarrow ParquetFile, closed at the end."""
    parquet = _open(file)
    try:
        yield parquet
    finally:
        parquet.close(force=True)


def _open(file: File, columns: int = 1) -> Any:
    buffer = max(LEAST_BUFFER_BYTES, min(MOST_BUFFER_BYTES, BUFFERS_BYTES // max(1, columns)))
    with reading(file.path, "Parquet"):
        source = file.path if file.store is None else file.open_input()
        return pq.ParquetFile(
            source,
            pre_buffer=False,
            buffer_size=buffer,
            page_checksum_verification=True,  # where a writer has left checksums
        )


class Cursor:
    """Reads some columns forward from `position`; used by one reader at a time."""

    def __init__(self, groups: tuple[RowGroup, ...], columns: tuple[str, ...], rows: int) -> None:
        self.columns = columns
        self.batch_rows = rows
        self.position = 0
        self._groups = groups
        self._starts = [group.start for group in groups]
        self._group: RowGroup | None = None
        self._file: Any = None
        self._path = ""
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rest: pa.RecordBatch | None = None

    def distance(self, row: int) -> int | None:
        """Rows to decode before `row`, where the open row group leads there; else None."""
        if self.position == row:
            return 0
        group = self._group
        ahead = group is not None and self.position < row < group.stop
        return row - self.position if ahead else None

    def move(self, row: int) -> None:
        """Go to a row, decoding again only what must be."""
        if self._group is not None:  # a store is asked at the end: what is read lies between
            self._group.file.check_local()
        if self.distance(row) is None:
            self._start_group(row)
        while self.position < row:
            self._next(row - self.position)

    def take(self, rows: int) -> list[pa.RecordBatch]:
        """The next `rows` records; there must be as many."""
        taken = []
        while rows > 0:
            if self._group is None or self.position == self._group.stop:
                self._start_group(self.position)
            taken.append(self._next(rows))
            rows -= len(taken[-1])
        return taken

    def check(self) -> None:
        """Raise DataError if the open file is not what it was when the table was made."""
        if self._file is not None and self._group is not None:
            self._group.file.check_read()

    def close(self) -> None:
        """Close the file."""
        self._batches, self._rest, self._group = iter(()), None, None
        if self._file is not None:
            self._file.close(force=True)
            self._file = None

    def _start_group(self, row: int) -> None:
        """Open the row group that holds `row`, at its first row."""
        group = self._groups[bisect_right(self._starts, row) - 1]
        if self._file is None or self._path != group.file.path:
            self.check()
            self.close()
            group.file.check_unchanged()
            self._file = _open(group.file, len(self.columns))
            self._path = group.file.path
        with reading(group.file.path, _form(group)):
            if group.index >= self._file.num_row_groups:
                raise _changed(group)
            self._batches = self._file.iter_batches(
                self.batch_rows,
                [group.index],
                [name.replace(FIELD, ".") for name in self.columns],
                use_threads=False,
            )
        self._group, self._rest, self.position = group, None, group.start

    def _next(self, most: int) -> pa.RecordBatch:
        """At most `most` records of the open row group, at least one."""
        assert self._group is not None
        batch = self._rest
        if batch is None:
            with reading(self._group.file.path, _form(self._group)):
                batch = next(self._batches, None)
                batch = batch if batch is None else flattened(batch)
            if batch is not None:
                _check_texts(batch, self._group)
        if batch is None or len(batch) == 0 or self.position + len(batch) > self._group.stop:
            raise _changed(self._group)
        self._rest = batch.slice(most) if most < len(batch) else None
        taken = batch.slice(0, most)
        self.position += len(taken)
        return taken


def _check_texts(batch: pa.RecordBatch, group: RowGroup) -> None:
    """Raise DataError for a column whose strings are not UTF-8: Arrow decodes them unseen."""
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if not _holds_text(field.type):
            continue
        try:
            column.validate(full=True)
        except (pa.ArrowInvalid, pa.ArrowIndexError) as error:
            name = field.name.replace(FIELD, ".")
            where = f"{group.file.path}: column {name!r} of row group {group.index}"
            raise DataError(
                f"{where} is damaged: {error}",
                hint="write the file again; strings are UTF-8",
            ) from error


def _holds_text(kind: pa.DataType) -> bool:
    """Whether a type is one of strings, or of lists or a dictionary of them."""
    types = pa.types
    if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind):
        return _holds_text(kind.value_type)
    return any(is_it(kind) for is_it in (types.is_string, types.is_large_string, _is_view))


def _is_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string_view(kind))


def _form(group: RowGroup) -> str:
    """What is being read, for the reader of a message."""
    return f"Parquet (row group {group.index})"


def _changed(group: RowGroup) -> DataError:
    return DataError(
        f"{group.file.path}: row group {group.index} has not the "
        f"{group.stop - group.start} rows of its footer",
        hint="did the file change after the table was made?",
    )

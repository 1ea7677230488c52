"""Footers of Parquet files: read a few at a time, kept within bounds, asked for statistics."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import DataError
from scalops.engine.storage.files import File, reading

KEPT_BYTES = 32 << 20  # of footers as they are in the files; others are read again when needed
_THREADS = 8  # reading at a time, so many files are open at most
_AT_ONCE = 256
_MAGIC = b"PAR1"
_TRAILER_BYTES = 8  # the footer's length and the magic bytes


@dataclass(frozen=True)
class Extent:
    """What is known of a column in some records: `low` and `high` bound all values that are
    neither null nor NaN (None: not known), `nulls` is the number of nulls (None: not known)."""

    rows: int
    nulls: int | None
    low: Any = None
    high: Any = None


def footer(file: File) -> bytes:
    """The footer as it stands in the file: schema, row groups, sizes and statistics.

    Raises: DataError for what is no whole Parquet file.
    """
    with reading(file.path, "Parquet"), file.open() as stream:
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


def parsed(file: File, found: bytes) -> Any:
    """A footer as pyarrow's FileMetaData."""
    length = len(found).to_bytes(4, "little")
    with reading(file.path, "Parquet"):
        return pq.read_metadata(pa.BufferReader(_MAGIC + found + length + _MAGIC))


def footers(files: Sequence[File]) -> Iterator[tuple[bytes, Any]]:
    """The footers of the files in their order, as they stand there and parsed."""
    if len(files) < _THREADS:
        for file in files:
            found = footer(file)
            yield found, parsed(file, found)
        return

    def read(file: File) -> tuple[bytes, Any]:
        found = footer(file)
        return found, parsed(file, found)

    with ThreadPoolExecutor(_THREADS) as threads:
        waiting = iter(files)
        while some := list(islice(waiting, _AT_ONCE)):
            yield from threads.map(read, some)


class Footers:
    """The parsed footers of files, of the first ones kept in memory."""

    def __init__(self, files: Sequence[File], kept: Sequence[Any] = ()) -> None:
        """`kept` are those of the first files."""
        self.files, self._kept = tuple(files), tuple(kept)

    def __reduce__(self) -> tuple[object, ...]:
        return (Footers, (self.files,))

    def of(self, file: int) -> Any:
        """The footer of file number `file`. Raises: DataError where it cannot be read again."""
        if file < len(self._kept):
            return self._kept[file]
        self.files[file].check_local()
        return parsed(self.files[file], footer(self.files[file]))

    def extents(
        self, column: str, kind: ArrayType, groups: Sequence[tuple[int, int]]
    ) -> list[Extent]:
        """What is known of a column, by (file, row group), these in file order."""
        found: list[Extent] = []
        at, place, unit = -1, None, None
        metadata: Any = None
        for file, group in groups:
            if file != at:
                at, metadata = file, self.of(file)
                place, unit = _place(metadata, column, place), None
                if place is not None and kind.numpy.kind == "M":
                    unit = _unit(metadata, place)
            rows = metadata.row_group(group)
            statistics = None if place is None else rows.column(place).statistics
            found.append(_extent(rows.num_rows, statistics, kind, unit))
        return found


def _place(metadata: Any, column: str, likely: int | None) -> int | None:
    """The number of a column that is no part of a record or list; None where that is open."""
    schema = metadata.schema
    if likely is not None and likely < len(schema) and schema.column(likely).path == column:
        return likely
    found = [i for i in range(len(schema)) if schema.column(i).path == column]
    if len(found) != 1 or "." in column:  # a field of a record has such a path too
        return None
    return found[0] if schema.column(found[0]).max_repetition_level == 0 else None


_UNITS = {"milliseconds": "ms", "microseconds": "us", "nanoseconds": "ns"}


def _unit(metadata: Any, place: int) -> str | None:
    """The unit in which a file has a column of times or dates; None for what is neither."""
    text = str(metadata.schema.column(place).logical_type)
    if text == "Date":
        return "D"
    return next((unit for name, unit in _UNITS.items() if f"timeUnit={name}" in text), None)


def _extent(rows: int, statistics: Any, kind: ArrayType, unit: str | None) -> Extent:
    if statistics is None:
        return Extent(rows, None)
    nulls = statistics.null_count if statistics.has_null_count else None
    unknown = Extent(rows, nulls)
    if not statistics.has_min_max:
        return unknown
    try:
        low, high = _bounds(statistics, kind, unit)
    except (TypeError, ValueError, OverflowError, pa.ArrowException):  # such as half of a letter
        return unknown
    # NaN is no bound. Bounds in the wrong order are those of a faulty writer.
    return Extent(rows, nulls, low, high) if low is not None and bool(low <= high) else unknown


def _bounds(statistics: Any, kind: ArrayType, unit: str | None) -> tuple[Any, Any]:
    """The bounds as the column has its values; None for types of which they tell nothing."""
    if kind.is_string:
        low, high = statistics.min, statistics.max
        return (low, high) if isinstance(low, str) and isinstance(high, str) else (None, None)
    dtype = kind.numpy
    if dtype.kind == "M":
        if unit is None:
            return None, None
        raw = np.array([statistics.min_raw, statistics.max_raw], np.int64).view(f"M8[{unit}]")
        low, high = raw.astype(dtype)
        return low, high
    if dtype.kind not in "biuf" or (dtype.itemsize == 2 and dtype.kind == "f"):
        return None, None
    low, high = statistics.min, statistics.max
    if not isinstance(low, (bool, int, float)) or not isinstance(high, (bool, int, float)):
        return None, None
    # Checked: an integer that the type has not raises OverflowError.
    return np.array(low, dtype)[()], np.array(high, dtype)[()]

"""Cursors over record batches: rows read from a file, or from the batch decoded last."""

from __future__ import annotations

import hashlib
import os
import weakref
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from scalops.algebra.errors import DataError
from scalops.algebra.schema import FIELD
from scalops.engine.columns import Array
from scalops.engine.storage.arrow_records import flattened
from scalops.engine.storage.files import File, reading
from scalops.engine.storage.ipc_columns import BatchReader, Numbers, is_ranged, numbers_of, only
from scalops.engine.storage.ipc_footer import footer_of
from scalops.engine.storage.ipc_layout import Places, is_little_endian, layout_of, places_of
from scalops.engine.storage.read_ahead import RangeReader

FORM = "an Arrow file"


@dataclass(frozen=True)
class Batch:
    """Record batch `index` of a file: the rows start..stop-1 of the whole table.

    Its header begins at byte `at` and has `header` bytes; `footer` is a digest of the file's.
    """

    file: File
    index: int
    start: int
    stop: int
    compressed: bool
    at: int
    header: int
    footer: bytes


class Part:
    """The rows first..last-1 of a batch: columns read by range, others of the decoded `whole`."""

    def __init__(
        self,
        file: OpenFile,
        reader: BatchReader | None,
        whole: pa.RecordBatch | None,
        first: int,
        last: int,
    ) -> None:
        self.rows = last - first
        self._file, self._reader, self._whole = file, reader, whole
        self._first, self._last = first, last
        self._made: dict[str, pa.Array] | None = None

    def numbers(self, name: str) -> Numbers | None:
        """Where a column of numbers without nulls lies; None for other columns."""
        place = self._file.ranged.get(name)
        if self._reader is None or place is None:
            return None
        return numbers_of(place, self._reader.layout)

    def fill(self, into: Array, numbers: Numbers) -> None:
        """Read numbers to `into`, uint8[n]."""
        assert self._reader is not None
        with reading(self._file.file.path, FORM):
            self._reader.fill(into, numbers.buffer, self._first * numbers.row_bytes)

    def is_decoded(self, name: str) -> bool:
        """Whether a column is a part of a batch that is in memory as a whole."""
        return self._reader is None or _top(name) not in self._file.ranged

    def array(self, name: str, names: Sequence[str]) -> pa.Array:
        """A column, checked. The first one that is asked for reads all of `names`."""
        with reading(self._file.file.path, FORM):
            if self._made is None:
                self._made = self._read([n for n in names if not self.is_decoded(n)])
            if name in self._made:
                found = self._made[name]
            else:
                assert self._whole is not None
                found = self._whole.column(name).slice(self._first, self.rows)
            found.validate(full=True)
            return found

    def _read(self, names: list[str]) -> dict[str, pa.Array]:
        if not names:
            return {}
        assert self._reader is not None
        tops = list(dict.fromkeys(map(_top, names)))
        places = [only(self._file.ranged[top], top, names) for top in tops]
        arrays = [self._reader.array(place, self._first, self._last) for place in places]
        batch = flattened(pa.RecordBatch.from_arrays(arrays, names=tops))
        return {n: batch.column(n) for n in batch.schema.names}


def _top(name: str) -> str:
    return name.split(FIELD)[0]


class OpenFile:
    """An open file with the columns that are wanted of it: `ranged` has those read by range."""

    def __init__(self, file: File, columns: tuple[str, ...], footer: bytes) -> None:
        """Raises: DataError where the file is not the one that had this footer."""
        self.file = file
        self._ranges: RangeReader | None = None
        if file.store is None:
            with reading(file.path):
                descriptor = os.open(file.path, os.O_RDONLY)
            self.close = weakref.finalize(self, os.close, descriptor)
            self._ranges = RangeReader(descriptor)
        file.check_unchanged()
        found = footer_of(file)
        if hashlib.blake2b(found, digest_size=16).digest() != footer:
            raise DataError(
                f"{file.path} changed after the table was made: its footer is another",
                hint="make a new table",
            )
        tops = list(dict.fromkeys(map(_top, columns)))
        with reading(file.path, FORM):
            self._input = file.open_input()
            schema = pa.ipc.open_file(self._input).schema
            self._names = schema.names
            local = self._ranges is not None and is_little_endian(found)
            self._places: Places | None = places_of(schema) if local else None
        own = {} if self._places is None else self._places.columns
        self.ranged = {top: own[top] for top in tops if top in own and is_ranged(own[top])}
        self._tops = tops
        self._decoders: dict[tuple[str, ...], Any] = {}

    def check(self) -> None:
        """Raise DataError if the file is not any more what it was when the table was made."""
        self.file.check_read()

    def is_current(self) -> bool:
        """Whether the file of this name is still the one that is open here."""
        if self._ranges is None:
            return True
        now, own = os.stat(self.file.path), os.fstat(self._ranges.descriptor)
        return os.path.samestat(now, own)

    def batch(self, batch: Batch) -> tuple[BatchReader | None, pa.RecordBatch | None]:
        """What reads its columns by range, and a batch of the others."""
        with reading(self.file.path, FORM):
            reader = self._reader(batch)
            ranged = {} if reader is None else self.ranged
            others = tuple(top for top in self._tops if top not in ranged)
            whole = self._decoded(batch, others) if others else None
        found = {len(whole)} if whole is not None else set()
        if reader is not None:
            found.add(reader.layout.rows)
        if found != {batch.stop - batch.start}:
            raise DataError(
                f"{self.file.path}: batch {batch.index} has not the "
                f"{batch.stop - batch.start} rows of its header",
                hint="did the file change after the table was made?",
            )
        return reader, whole

    def _reader(self, batch: Batch) -> BatchReader | None:
        """None where no column can be read by range."""
        if self._ranges is None or self._places is None or not self.ranged or batch.compressed:
            return None
        header = np.empty(batch.header, np.uint8)
        self._ranges.fill(header, batch.at)
        layout = layout_of(header.tobytes(), batch.at, self.file.size)
        if layout.compressed or not self._places.fit(layout):
            return None
        return BatchReader(self._ranges, layout)

    def _decoded(self, batch: Batch, tops: tuple[str, ...]) -> pa.RecordBatch:
        """A batch of these columns alone, read and decoded."""
        decoder = self._decoders.get(tops)
        if decoder is None:
            missing = [top for top in tops if top not in self._names]
            if missing:
                raise DataError(
                    f"{self.file.path} has no column {missing[0]!r} any more",
                    hint="did the file change after the table was made?",
                )
            fields = [self._names.index(top) for top in tops]
            options = pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
            decoder = self._decoders[tops] = pa.ipc.open_file(self._input, options=options)
        return flattened(decoder.get_batch(batch.index))

    def closed(self) -> None:
        """Give the descriptors back."""
        self._decoders.clear()
        self._input.close()
        if self._ranges is not None:
            self.close()


class BatchCursor:
    """Reads some columns forward from `position`; used by one reader at a time."""

    def __init__(self, batches: tuple[Batch, ...], columns: tuple[str, ...], rows: int) -> None:
        self.columns, self.batch_rows, self.position = columns, rows, 0
        self._batches = batches
        self._starts = [batch.start for batch in batches]
        self._open: OpenFile | None = None
        self._batch: Batch | None = None
        self._found: tuple[BatchReader | None, pa.RecordBatch | None] = (None, None)

    def distance(self, row: int) -> int | None:
        """0 if it stands there, more if it can go there at no cost; None if it would have to
        decode another batch."""
        if self.position == row:
            return 0
        batch, (_, whole) = self._batch, self._found
        inside = batch is not None and batch.start <= row < batch.stop
        return 1 if inside or whole is None else None

    def move(self, row: int) -> None:
        """Go to a row. Raises: DataError if the open file has changed."""
        self.position = row
        if self._open is not None:
            self._open.file.check_local()
            if not self._open.is_current():
                self.close()

    def check(self) -> None:
        """Raise DataError if what was read may not be what was there when the table was made."""
        if self._open is not None:
            self._open.check()

    def take(self, rows: int) -> Iterator[Part]:
        """The next `rows` records, each part to be read before the next; there must be as many."""
        stop = self.position + rows
        while self.position < stop:
            batch = self._batches[bisect_right(self._starts, self.position) - 1]
            file = self._file_of(batch)
            if batch is not self._batch:
                self._batch, self._found = None, (None, None)  # two would take twice the memory
                self._found = file.batch(batch)
                self._batch = batch
            last = min(stop, batch.stop)
            first, self.position = self.position - batch.start, last
            yield Part(file, *self._found, first, last - batch.start)

    def _file_of(self, batch: Batch) -> OpenFile:
        if self._open is None or self._open.file != batch.file:
            self.check()
            self.close()
            self._open = OpenFile(batch.file, self.columns, batch.footer)
        return self._open

    def close(self) -> None:
        """Give back descriptors and memory."""
        self._batch, self._found = None, (None, None)
        if self._open is not None:
            self._open.closed()
            self._open = None

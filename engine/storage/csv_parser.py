"""Delimited text to columns, and what is wrong with a line that cannot be read."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.csv as pacsv

from scalops.algebra.schema import Schema
from scalops.engine.blocks import Block
from scalops.engine.storage.arrow import block_of, to_column
from scalops.engine.storage.bad_records import Sifted, Unreadable
from scalops.engine.storage.csv_sifting import sifted
from scalops.engine.storage.files import File
from scalops.engine.storage.lines import encoding_hint

# Null is not NaN: "nan" is a number.
_NULLS = [t for t in pacsv.ConvertOptions().null_values if "nan" not in t.lower()]
_NULL_BYTES = frozenset(text.encode() for text in _NULLS)
_HALF, _SINGLE = pa.float16(), pa.float32()
_MOST_BYTES = 2**31 - 1  # Arrow's limit for one block of text

_ROW = re.compile(r"Row #(\d+)")
_BAD_VALUE = re.compile(
    r"In CSV column #(?P<column>\d+): (?:Row #\d+: )?"
    r"CSV conversion error to (?P<kind>[^:]+): (?P<reason>.*)",
    re.DOTALL,
)
_BAD_FIELDS = re.compile(r"Expected (?P<expected>\d+) columns, got (?P<found>\d+)")
_VALUE = re.compile(r"(?:invalid value|in) '(?P<value>.*)'", re.DOTALL)


@dataclass(frozen=True)
class CsvParser:
    """`names`: the columns of each file; before they are inferred, `types` of some are missing."""

    files: tuple[File, ...]
    names: tuple[tuple[str, ...], ...]
    delimiter: str
    types: Mapping[str, pa.DataType]
    schema: Schema

    def parse(self, file: int, data: bytes, columns: tuple[str, ...]) -> Block:
        """The columns of all lines. Raises: Unreadable."""
        # Rows are counted by a column, and any will do.
        table = self.table(file, data, columns or self.names[file][:1])
        path = self.files[file].path
        found = {
            name: to_column(table.column(name), self.schema[name], f"column {name!r} of {path}")
            for name in columns
        }
        return block_of(found, table.num_rows)

    def rescue(self, file: int, line: bytes, columns: tuple[str, ...]) -> Block:
        """Fields count from the left: missing ones are null, surplus ones are left out."""
        names = self._present(file, line)
        found = {name: pa.nulls(1, self.types[name]) for name in columns}
        found.update(self._readable(names, line, tuple(n for n in columns if n in names)))
        return block_of({n: to_column(a, self.schema[n], n) for n, a in found.items()}, 1)

    def sift(
        self, file: int, lines: Sequence[bytes], columns: tuple[str, ...], fill: bool
    ) -> Sifted:
        """Lines by whether they can be read; see `csv_sifting`."""
        names = self.names[file]
        types = {name: self.types[name] for name in columns or names[:1]}
        return sifted(lines, self.delimiter.encode(), names, types, _NULL_BYTES, fill)

    def lines(self, data: bytes) -> list[bytes]:
        """Lines end at "\\n", "\\r\\n" or "\\r"; empty ones are no records."""
        return data.splitlines(keepends=True)

    def table(self, file: int, data: bytes, columns: tuple[str, ...] | None) -> pa.Table:
        """The columns, all if None. Raises: Unreadable."""
        names = self.names[file]
        if not data.strip(b"\r\n"):
            kinds = {name: self.types.get(name, pa.null()) for name in columns or names}
            return pa.schema(list(kinds.items())).empty_table()
        try:
            table = self._parsed(names, data, columns)
        except (pa.ArrowException, OverflowError, UnicodeDecodeError) as error:
            raise self._explained(file, str(error)) from error
        # A line is judged by itself: rows that are as many as lines end where these do, and what
        # the parser lets be open is the end of the last one.
        if b'"' in data and (
            table.num_rows != _lines(data) or self._leaves_quote_open(_last_line(data))
        ):
            raise Unreadable(
                ": a quoted value goes on in the next line, which is not supported yet",
                "check the quotes of this line, or replace the line breaks in the texts",
            )
        return table

    def _parsed(
        self, names: tuple[str, ...], data: bytes, columns: tuple[str, ...] | None
    ) -> pa.Table:
        if len(data) > _MOST_BYTES:
            raise OverflowError("a line or range of more than 2 GiB")
        table = pacsv.read_csv(
            pa.BufferReader(data),
            pacsv.ReadOptions(column_names=names, use_threads=False, block_size=max(1, len(data))),
            pacsv.ParseOptions(delimiter=self.delimiter),
            pacsv.ConvertOptions(
                # Arrow's parser has no float16.
                column_types={n: _SINGLE if k == _HALF else k for n, k in self.types.items()},
                include_columns=columns,
                null_values=_NULLS,
                strings_can_be_null=False,
            ),
        )
        for place, field in enumerate(table.schema):
            if self.types.get(field.name) == _HALF:
                table = table.set_column(place, field.name, table.column(place).cast(_HALF))
        return table

    def _present(self, file: int, line: bytes) -> tuple[str, ...]:
        """The columns that a line has fields for, and names for those beyond."""
        if self._leaves_quote_open(line):
            return ()
        try:
            text = line.decode("latin-1").rstrip("\r\n")
            count = len(next(csv.reader([text], delimiter=self.delimiter)))
        except csv.Error:  # a field of more than 128 KiB
            return ()
        names = self.names[file]
        return (*names[:count], *(f"\0{i}" for i in range(count - len(names))))

    def _readable(
        self, names: tuple[str, ...], line: bytes, columns: tuple[str, ...]
    ) -> dict[str, pa.ChunkedArray]:
        """Those of the columns whose field fits, found by halving."""
        if not columns:
            return {}
        try:
            table = self._parsed(names, line, columns)
        except (pa.ArrowException, OverflowError, UnicodeDecodeError):
            middle = len(columns) // 2
            if middle == 0:
                return {}
            left = self._readable(names, line, columns[:middle])
            return {**left, **self._readable(names, line, columns[middle:])}
        return {name: table.column(name) for name in columns} if table.num_rows == 1 else {}

    def _leaves_quote_open(self, line: bytes) -> bool:
        """Whether a field that begins with a quote has no end; quotes elsewhere are text."""
        delimiter, at = self.delimiter.encode(), 0
        while True:
            if line.startswith(b'"', at):
                at = _end_of_quoted(line, at + 1)
                if at < 0:
                    return True
            at = line.find(delimiter, at) + 1
            if at == 0:
                return False

    def _explained(self, file: int, message: str) -> Unreadable:
        made = self._reason(file, message)
        row = _ROW.search(message)
        made.row = None if row is None else int(row[1]) - 1
        return made

    def _reason(self, file: int, message: str) -> Unreadable:
        fields = _BAD_FIELDS.search(message)
        if fields is not None:
            found, expected = int(fields["found"]), int(fields["expected"])
            return Unreadable(
                f" has {found} field{'s' * (found != 1)}, expected {expected}",
                f"check the delimiter ({self.delimiter!r}) and the quotes of this line",
            )
        value = _BAD_VALUE.search(message)
        if value is None:
            return Unreadable(f" cannot be read as CSV: {message}")
        name = self.names[file][int(value["column"])]
        if "UTF8" in value["reason"]:
            hint = encoding_hint(self.files[file])
            return Unreadable(f": column {name!r} is not UTF-8 text", hint)
        text = _VALUE.search(value["reason"])
        held = f"holds {text['value']!r}" if text is not None else value["reason"]
        wanted = _type_for("" if text is None else text["value"])
        return Unreadable(
            f": column {name!r} {held}, expected {_KINDS.get(value['kind'], value['kind'])}",
            f'correct the value or give column_types={{"{name}": "{wanted}"}}',
        )


_KINDS = {"double": "float64", "float": "float32"}


def _lines(data: bytes) -> int:
    return sum(map(bool, data.splitlines()))


def _last_line(data: bytes) -> bytes:
    """The last one that is not empty, without its end."""
    text = data.rstrip(b"\r\n")
    return text[max(text.rfind(b"\n"), text.rfind(b"\r")) + 1 :]


def _end_of_quoted(line: bytes, at: int) -> int:
    """Where the quote of a value is that goes on at `at`, a double one being text; -1: nowhere."""
    while (at := line.find(b'"', at)) >= 0 and line.startswith(b'""', at):
        at += 2
    return at


def _type_for(text: str) -> str:
    """A type that holds this value and most like it."""
    for kind, convert in (("int64", int), ("float64", float)):
        try:
            convert(text)
        except ValueError:
            continue
        return kind
    return "string"

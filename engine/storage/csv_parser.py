"""Text to Arrow columns, and the line, column and value at fault when that fails."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.csv as pacsv

from scalops.algebra.errors import DataError
from scalops.engine.storage.csv_lines import encoding_hint, line_number
from scalops.engine.storage.files import File

# Null is not NaN: "nan" is a number.
_NULLS = [t for t in pacsv.ConvertOptions().null_values if "nan" not in t.lower()]
_MOST_BYTES = 2**31 - 1  # Arrow's limit for one block of text

_BAD_VALUE = re.compile(
    r"In CSV column #(?P<column>\d+): (?:Row #\d+: )?"
    r"CSV conversion error to (?P<kind>[^:]+): (?P<reason>.*)",
    re.DOTALL,
)
_BAD_FIELDS = re.compile(r"Expected (?P<expected>\d+) columns, got (?P<found>\d+)")
_VALUE = re.compile(r"(?:invalid value|in) '(?P<value>.*)'", re.DOTALL)


@dataclass(frozen=True)
class CsvParser:
    """Parses whole lines of a file whose columns are `names`; `types` of some may be missing."""

    file: File
    names: tuple[str, ...]
    delimiter: str
    types: Mapping[str, pa.DataType]

    def parse(self, data: bytes, begin: int, columns: tuple[str, ...] | None) -> pa.Table:
        """The columns, all if None, of the lines that begin at byte `begin` of the file.

        Raises: DataError with the line of the first record that does not fit.
        """
        if not data.strip(b"\r\n"):
            kinds = {name: self.types.get(name, pa.null()) for name in columns or self.names}
            return pa.schema(list(kinds.items())).empty_table()
        try:
            table = self._parsed(data, columns)
        except (pa.ArrowException, OverflowError, UnicodeDecodeError) as error:
            raise self._diagnosis(data, begin, columns, error) from error
        if b'"' in data and table.num_rows != _lines(data):
            raise self._broken_line(data, begin)
        return table

    def _parsed(self, data: bytes, columns: tuple[str, ...] | None) -> pa.Table:
        if len(data) > _MOST_BYTES:
            raise OverflowError("a line or range of more than 2 GiB")
        return pacsv.read_csv(
            pa.BufferReader(data),
            pacsv.ReadOptions(
                column_names=self.names, use_threads=False, block_size=max(1, len(data))
            ),
            pacsv.ParseOptions(delimiter=self.delimiter),
            pacsv.ConvertOptions(
                column_types=dict(self.types),
                include_columns=columns,
                null_values=_NULLS,
                strings_can_be_null=False,
            ),
        )

    def _diagnosis(
        self, data: bytes, begin: int, columns: tuple[str, ...] | None, error: Exception
    ) -> DataError:
        """What is wrong with the first line at fault."""
        lines = data.splitlines(keepends=True)
        low, high = 0, len(lines)
        while high - low > 1:
            middle = (low + high) // 2
            try:
                self._parsed(b"".join(lines[low:middle]), columns)
                low = middle
            except (pa.ArrowException, OverflowError, UnicodeDecodeError) as found:
                high, error = middle, found
        try:
            self._parsed(lines[low], columns)
        except (pa.ArrowException, OverflowError, UnicodeDecodeError) as found:
            error = found
        number = line_number(self.file, begin + sum(map(len, lines[:low])))
        return self._explained(f"{self.file.path}:{number}", str(error))

    def _explained(self, where: str, message: str) -> DataError:
        fields = _BAD_FIELDS.search(message)
        if fields is not None:
            found, expected = int(fields["found"]), int(fields["expected"])
            return DataError(
                f"{where} has {found} field{'s' * (found != 1)}, expected {expected}",
                hint=f"check the delimiter ({self.delimiter!r}) and the quotes of this line",
            )
        value = _BAD_VALUE.search(message)
        if value is None:
            return DataError(f"{where} cannot be read as CSV: {message}")
        name = self.names[int(value["column"])]
        if "UTF8" in value["reason"]:
            return DataError(
                f"{where}: column {name!r} is not UTF-8 text", hint=encoding_hint(self.file)
            )
        text = _VALUE.search(value["reason"])
        held = f"holds {text['value']!r}" if text is not None else value["reason"]
        wanted = _type_for("" if text is None else text["value"])
        return DataError(
            f"{where}: column {name!r} {held}, expected {_KINDS.get(value['kind'], value['kind'])}",
            hint=f'correct the value or give column_types={{"{name}": "{wanted}"}}',
        )

    def _broken_line(self, data: bytes, begin: int) -> DataError:
        """Of the lines that open a quote and do not close it, the first."""
        opening = (b'"', self.delimiter.encode() + b'"')
        position = begin
        for line in data.splitlines(keepends=True):
            if line.count(b'"') % 2 and (line.startswith(opening[0]) or opening[1] in line):
                break
            position += len(line)
        return DataError(
            f"{self.file.path}:{line_number(self.file, position)}: a quoted value goes on in the "
            "next line, which is not supported yet",
            hint="check the quotes of this line, or replace the line breaks in the texts",
        )


_KINDS = {"double": "float64", "float": "float32"}


def _lines(data: bytes) -> int:
    return sum(map(bool, data.splitlines()))


def _type_for(text: str) -> str:
    """A type that holds this value and most like it."""
    for kind, convert in (("int64", int), ("float64", float)):
        try:
            convert(text)
        except ValueError:
            continue
        return kind
    return "string"

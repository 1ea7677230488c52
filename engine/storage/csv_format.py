"""Delimited text: options, header, types from the head, records from byte ranges."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pyarrow as pa

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import DataError, PlanError, SchemaError
from scalops.algebra.schema import Schema
from scalops.engine.storage.arrow import schema_from_arrow, type_to_arrow
from scalops.engine.storage.bad_records import OnError, Unreadable, checked_mode
from scalops.engine.storage.csv_parser import CsvParser
from scalops.engine.storage.files import File
from scalops.engine.storage.lines import BOM, encoding_hint, first_line, head
from scalops.engine.storage.text_contents import (
    TextContents,
    digest_of,
    first_unreadable,
    or_compressed,
    readable_lines,
    unreadable_line,
)
from scalops.engine.storage.type_names import SCALAR_NAMES

HEAD_BYTES = 1 << 20


def check_delimiter(delimiter: object) -> None:
    """Raises: PlanError for what is no delimiter, or occurs in values that have no quotes."""
    one = isinstance(delimiter, str) and len(delimiter) == 1 and delimiter.isascii()
    if not one or str(delimiter) in '"\r\n\0':
        raise PlanError(f"delimiter={delimiter!r} must be one ASCII character, not a quote")
    if str(delimiter).isalnum() or str(delimiter) in "+-.":
        raise PlanError(
            f"delimiter={delimiter!r} cannot be told from the values: numbers and truth values are"
            " written with letters, digits, '+', '-' and '.'",
            hint="usual are ',', ';', '|' and '\\t'",
        )


@dataclass(frozen=True)
class CsvFormat:
    """Options as the user gave them; see `read_csv`."""

    column_names: tuple[str, ...] | None
    delimiter: str
    has_header: bool
    column_types: tuple[tuple[str, str], ...]
    on_error: OnError = "raise"

    name: ClassVar[str] = "csv"
    suffixes: ClassVar[tuple[str, ...]] = or_compressed(".csv", ".tsv")

    @classmethod
    def of_options(
        cls,
        column_names: Sequence[str] | None = None,
        delimiter: str = ",",
        has_header: bool | None = None,
        column_types: Mapping[str, str] | None = None,
        on_error: str = "raise",
    ) -> CsvFormat:
        """Check the options. Raises: PlanError, SchemaError for types that there are not."""
        check_delimiter(delimiter)
        if isinstance(column_names, str) or (column_names is not None and not column_names):
            raise PlanError(f"column_names={column_names!r} must be a list of names")
        types = {name: str(kind) for name, kind in (column_types or {}).items()}
        for name, kind in types.items():
            if kind not in SCALAR_NAMES:
                raise SchemaError(
                    f"column_types gives {name!r} the type {kind!r}",
                    hint=f"the types are {', '.join(SCALAR_NAMES)}",
                )
        names = None if column_names is None else tuple(column_names)
        header = names is None if has_header is None else has_header
        return cls(names, delimiter, header, tuple(types.items()), checked_mode(on_error))

    def inspect(
        self, files: tuple[File, ...], columns: Sequence[str] | None = None
    ) -> TextContents:
        """Read the first line of each file, and the head of the first that has records."""
        layouts = [self._layout(file) for file in files]
        names = next((layout.names for layout in layouts if layout.names), ())
        typed = {name for name, _ in self.column_types}
        if not names or (all(layout.empty for layout in layouts) and not typed >= set(names)):
            raise DataError(
                f"no line in {' and '.join(file.path for file in files[:3])}, so "
                f"{'no column has a type' if names else 'there are no columns'}",
                hint="give column_names= and column_types=, or leave empty files out",
            )
        self._check_names(files, layouts, names)
        types = dict.fromkeys(names, pa.string())
        named = tuple(layout.names for layout in layouts)
        # Where bad values are passed over, they must not prevent the inference either.
        known = self._given_types() if self.on_error == "raise" else {}
        untyped = CsvParser(files, named, self.delimiter, known, Schema(()))
        for index, layout in enumerate(layouts):
            if not layout.empty and self._infer(untyped, index, layout, types):
                break
        types.update(self._given_types())
        schema = schema_from_arrow(
            pa.schema([pa.field(name, types[name]) for name in names]), files[0].path
        )
        parser = CsvParser(files, named, self.delimiter, types, schema)
        starts = tuple(layout.start for layout in layouts)
        return TextContents(files, starts, parser, schema, digest_of(files), self.on_error)

    def _layout(self, file: File) -> Layout:
        """Where the records begin and what the columns are called."""
        line, stop = first_line(file)
        if not line:
            return Layout(stop, self.column_names or (), empty=True)
        start = stop if self.has_header else (len(BOM) if line.startswith(BOM) else 0)
        if self.column_names is not None:
            return Layout(start, self.column_names)
        try:
            text = line.removeprefix(BOM).decode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{file.path}:1: the first line is not UTF-8 text", hint=encoding_hint(file)
            ) from error
        fields = next(csv.reader([text], delimiter=self.delimiter))
        if not self.has_header:
            return Layout(start, tuple(f"f{i}" for i in range(len(fields))))
        twice = sorted(name for name, times in Counter(fields).items() if times > 1)
        if twice:
            raise SchemaError(
                f"{file.path}: its header has the columns {twice} twice",
                hint="give column_names= and has_header=True",
            )
        return Layout(start, tuple(fields))

    def _check_names(
        self, files: tuple[File, ...], layouts: list[Layout], names: tuple[str, ...]
    ) -> None:
        first = next(f for f, layout in zip(files, layouts, strict=True) if layout.names)
        for file, layout in zip(files, layouts, strict=True):
            if layout.names and set(layout.names) != set(names):
                raise SchemaError(
                    f"{file.path} has the columns {list(layout.names)}, "
                    f"{first.path} has {list(names)}",
                    hint="read files of one schema together",
                )
        unknown = [name for name, _ in self.column_types if name not in names]
        if unknown:
            raise SchemaError(
                f"column_types names {unknown}; {first.path} has {list(names)}",
            )
        if len(set(names)) < len(names):
            raise SchemaError(f"column_names={list(names)} has a name twice")

    def _given_types(self) -> dict[str, pa.DataType]:
        return {name: type_to_arrow(ArrayType(kind)) for name, kind in self.column_types}

    def _infer(
        self, parser: CsvParser, index: int, layout: Layout, types: dict[str, pa.DataType]
    ) -> bool:
        """Put the types of the head's columns into `types`; False if the head has no record.

        A column without any value there is one of strings, because any value is a string.
        """
        file, strict = parser.files[index], self.on_error == "raise"
        data = head(file, layout.start, HEAD_BYTES)
        if not strict:
            data = b"".join(readable_lines(_fields(parser, index), parser.lines(data)))
        try:
            table = parser.table(index, data, None)
            for field in table.schema:
                if strict and pa.types.is_binary(field.type):  # not UTF-8: name its line
                    typed = replace(parser, types={field.name: pa.string()})
                    typed.table(index, data, (field.name,))
        except Unreadable as error:
            raise self._bad_head(parser, index, layout, data, error) from error
        if table.num_rows == 0:
            return False
        for field in table.schema:
            kind = field.type
            if pa.types.is_date(kind):
                kind = pa.timestamp("s")
            elif pa.types.is_null(kind) or pa.types.is_time(kind) or pa.types.is_binary(kind):
                kind = pa.string()
            types[field.name] = kind
        return True

    def _bad_head(
        self, parser: CsvParser, index: int, layout: Layout, data: bytes, error: Unreadable
    ) -> DataError:
        strings = {n: k for n, k in parser.types.items()}
        for name in parser.names[index]:
            strings.setdefault(name, pa.string())

        def parse(lines: bytes) -> object:
            return replace(parser, types=strings).table(index, lines, None)

        offset, error = first_unreadable(parse, parser.lines(data), error)
        return unreadable_line(parser.files[index], layout.start + offset, error)


def _fields(parser: CsvParser, index: int) -> Callable[[bytes], object]:
    """Parses lines whose fields may hold anything, if there are as many as columns."""
    names = parser.names[index]
    loose = replace(parser, types=dict.fromkeys(names, pa.binary()))
    return lambda data: loose.table(index, data, None)


@dataclass(frozen=True)
class Layout:
    """Where the first record begins, in bytes, and the columns in the file's order.

    `empty` is a file without any line, be it a header.
    """

    start: int
    names: tuple[str, ...]
    empty: bool = False

"""Delimited text: options, header, types from the head, records from byte ranges."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import ClassVar

import pyarrow as pa

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import DataError, PlanError, SchemaError
from scalops.algebra.schema import Schema
from scalops.engine.blocks import MAX_PARTITIONS, MIN_PARTITION_BYTES, Block
from scalops.engine.storage.arrow import block_of, schema_from_arrow, to_column, type_to_arrow
from scalops.engine.storage.csv_lines import (
    encoding_hint,
    first_line,
    head,
    lines_beginning,
    sampled,
)
from scalops.engine.storage.csv_parser import CsvParser
from scalops.engine.storage.files import File
from scalops.engine.storage.partitions import Partition, pieces

HEAD_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"
_TYPE_NAMES = (
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    "float32",
    "float64",
    "string",
    *(f"{name}[{unit}]" for name in ("timestamp", "duration") for unit in ("s", "ms", "us", "ns")),
)


@dataclass(frozen=True)
class CsvFormat:
    """Options as the user gave them; see `read_csv`."""

    column_names: tuple[str, ...] | None
    delimiter: str
    has_header: bool
    column_types: tuple[tuple[str, str], ...]

    name: ClassVar[str] = "csv"
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv")

    @classmethod
    def of_options(
        cls,
        column_names: Sequence[str] | None = None,
        delimiter: str = ",",
        has_header: bool | None = None,
        column_types: Mapping[str, str] | None = None,
    ) -> CsvFormat:
        """Check the options. Raises: PlanError, SchemaError for types that there are not."""
        if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n':
            raise PlanError(f"delimiter={delimiter!r} must be one ASCII character, not a quote")
        if isinstance(column_names, str) or (column_names is not None and not column_names):
            raise PlanError(f"column_names={column_names!r} must be a list of names")
        types = {name: str(kind) for name, kind in (column_types or {}).items()}
        for name, kind in types.items():
            if kind not in _TYPE_NAMES:
                raise SchemaError(
                    f"column_types gives {name!r} the type {kind!r}",
                    hint=f"the types are {', '.join(_TYPE_NAMES)}",
                )
        names = None if column_names is None else tuple(column_names)
        header = names is None if has_header is None else has_header
        return cls(names, delimiter, header, tuple(types.items()))

    def inspect(self, files: tuple[File, ...]) -> CsvContents:
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
        for file, layout in zip(files, layouts, strict=True):
            if layout.start < file.size and self._infer(file, layout, types):
                break
        types.update(self._given_types())
        schema = schema_from_arrow(
            pa.schema([pa.field(name, types[name]) for name in names]), files[0].path
        )
        digest = hashlib.blake2b(digest_size=16)
        for file in files:
            digest.update(sampled(file))
        return CsvContents(files, self, tuple(layouts), types, schema, digest.hexdigest())

    def _layout(self, file: File) -> Layout:
        """Where the records begin and what the columns are called."""
        line, stop = first_line(file)
        if not line:
            return Layout(file.size, self.column_names or (), empty=True)
        start = stop if self.has_header else (len(_BOM) if line.startswith(_BOM) else 0)
        if self.column_names is not None:
            return Layout(start, self.column_names)
        try:
            text = line.removeprefix(_BOM).decode()
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

    def _infer(self, file: File, layout: Layout, types: dict[str, pa.DataType]) -> bool:
        """Put the types of the head's columns into `types`; False if the head has no record.

        A column without any value there is one of strings, because any value is a string.
        """
        data = head(file, layout.start, HEAD_BYTES)
        parser = CsvParser(file, layout.names, self.delimiter, self._given_types())
        table = parser.parse(data, layout.start, None)
        if table.num_rows == 0:
            return False
        for field in table.schema:
            kind = field.type
            if pa.types.is_binary(kind):  # not UTF-8: parsed as a string it fails, at its line
                CsvParser(file, layout.names, self.delimiter, {field.name: pa.string()}).parse(
                    data, layout.start, (field.name,)
                )
            if pa.types.is_date(kind):
                kind = pa.timestamp("s")
            elif pa.types.is_null(kind) or pa.types.is_time(kind):
                kind = pa.string()
            types[field.name] = kind
        return True


@dataclass(frozen=True)
class Layout:
    """Where the first record begins, in bytes, and the columns in the file's order.

    `empty` is a file without any line, be it a header.
    """

    start: int
    names: tuple[str, ...]
    empty: bool = False


@dataclass(frozen=True, eq=False)
class CsvContents:
    """Byte ranges of files laid end to end; a record belongs to the range its line begins in."""

    files: tuple[File, ...]
    form: CsvFormat
    layouts: tuple[Layout, ...]
    types: Mapping[str, pa.DataType]
    schema: Schema
    digest: str

    @property
    def rows(self) -> None:
        return None

    @cached_property
    def likely_rows(self) -> float:
        """Bytes over the length of the lines in the first 64 KiB of records."""
        for file, layout in zip(self.files, self.layouts, strict=True):
            lines = head(file, layout.start, 65_536)
            if lines:
                records = sum(
                    f.size - x.start for f, x in zip(self.files, self.layouts, strict=True)
                )
                return records * max(1, lines.count(b"\n")) / len(lines)
        return 0.0

    @cached_property
    def _offsets(self) -> list[int]:
        return list(accumulate((file.size for file in self.files), initial=0))

    def partitions(self, schema: Schema) -> list[Partition]:
        """Near-equal byte ranges of at least 256 KiB, at most 1,024 of them."""
        offsets = self._offsets
        total = offsets[-1]
        count = min(MAX_PARTITIONS, max(1, total // MIN_PARTITION_BYTES))
        bounds = [total * i // count for i in range(count + 1)]
        found = []
        for index, (start, stop) in enumerate(pairwise(bounds)):
            within = {self.files[file].path for file, _, _ in pieces(offsets, start, stop)}
            path = within.pop() if len(within) == 1 else None
            found.append(Partition(index, start, stop, path))
        return found

    def heads(self, rows: int) -> Iterator[Partition]:
        """The first 64 KiB, then 16 times as much each time."""
        total, stop = self._offsets[-1], 65_536
        while stop < total:
            yield Partition(0, 0, stop)
            stop *= 16
        yield Partition(0, 0, total)

    def read(
        self, partition: Partition, columns: tuple[str, ...], block_rows: int
    ) -> Iterator[Block]:
        """Parse the range as a whole, for text knows its rows only then; cut it into blocks."""
        tables = []
        for index, start, stop in pieces(self._offsets, partition.start, partition.stop):
            file, layout = self.files[index], self.layouts[index]
            begin, data = lines_beginning(file, layout.start, start, stop)
            if data:
                parser = CsvParser(file, layout.names, self.form.delimiter, self.types)
                # Rows are counted by a column, and any will do.
                tables.append(parser.parse(data, begin, columns or layout.names[:1]))
        where = partition.path or self.files[0].path
        whole = {
            name: pa.chunked_array(
                [chunk for table in tables for chunk in table.column(name).chunks],
                self.types[name],
            )
            for name in columns
        }
        rows = sum(table.num_rows for table in tables)
        for first in range(0, rows, block_rows):
            count = min(block_rows, rows - first)
            found = {
                name: to_column(
                    column.slice(first, count), self.schema[name], f"column {name!r} of {where}"
                )
                for name, column in whole.items()
            }
            yield block_of(found, count)

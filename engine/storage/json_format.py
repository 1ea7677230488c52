"""JSON objects on lines: options, and types from the head."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pyarrow as pa

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import DataError, SchemaError
from scalops.algebra.schema import Schema
from scalops.engine.storage.arrow import schema_from_arrow
from scalops.engine.storage.arrow_types import is_list, is_sparse
from scalops.engine.storage.bad_records import OnError, Unreadable, checked_mode
from scalops.engine.storage.files import File
from scalops.engine.storage.json_parser import JsonParser
from scalops.engine.storage.lines import head, text_start
from scalops.engine.storage.text_contents import (
    TextContents,
    digest_of,
    first_unreadable,
    or_compressed,
    unreadable_line,
)
from scalops.engine.storage.type_names import FORMS, type_named

HEAD_BYTES = 1 << 20
_MOST_LISTS = 50  # in each other, in one column


@dataclass(frozen=True)
class JsonFormat:
    """Options as the user gave them; see `read_json`."""

    column_types: tuple[tuple[str, str], ...] = ()
    on_error: OnError = "raise"

    name: ClassVar[str] = "json"
    suffixes: ClassVar[tuple[str, ...]] = or_compressed(".json", ".jsonl", ".ndjson")

    @classmethod
    def of_options(cls, column_types: Mapping[str, str] | None, on_error: str) -> JsonFormat:
        """Check the options. Raises: PlanError, SchemaError for types that there are not."""
        types = {name: str(kind) for name, kind in (column_types or {}).items()}
        for name, kind in types.items():
            if type_named(kind) is None:
                raise SchemaError(
                    f"column_types gives {name!r} the type {kind!r}", hint=f"the types are {FORMS}"
                )
        return cls(tuple(types.items()), checked_mode(on_error))

    def inspect(
        self, files: tuple[File, ...], columns: Sequence[str] | None = None
    ) -> TextContents:
        """Find columns and types in the head of the first file that has records."""
        given = {name: _known(kind) for name, kind in self.column_types}
        starts = tuple(text_start(file) for file in files)
        types: dict[str, ArrayType] = {}
        parser = JsonParser(files, Schema(tuple(given.items())))
        for index, start in enumerate(starts):
            types = self._infer(parser, index, start, columns)
            if types:
                break
        types.update(given)
        if not types:
            raise DataError(
                f"no record in {' and '.join(file.path for file in files[:3])}, so there are no "
                "columns",
                hint="give column_types=, or leave empty files out",
            )
        schema = Schema(tuple(types.items()))
        parser = replace(parser, schema=schema)
        return TextContents(files, starts, parser, schema, digest_of(files), self.on_error)

    def _infer(
        self, parser: JsonParser, index: int, start: int, columns: Sequence[str] | None
    ) -> dict[str, ArrayType]:
        """The columns of a file's head with their types; none if it has no record."""
        file = parser.files[index]
        data = head(file, start, HEAD_BYTES)
        lines = parser.lines(data)

        def checked(data: bytes) -> pa.Table:
            table = parser.inferred(data)
            _check_lists(table, columns)
            return table

        try:
            table = checked(data)
        except Unreadable as error:
            if self.on_error != "raise":
                table = checked(b"".join(_readable(checked, lines)))
            else:
                offset, error = first_unreadable(checked, lines, error)
                raise unreadable_line(file, start + offset, error) from error
        given = parser.schema.types
        first = _first_keys(lines)
        fields = sorted(table.schema, key=lambda f: first.get(f.name, len(first)))
        for field in fields:
            if is_sparse(field.type) and field.name not in given:
                raise SchemaError(
                    f"{file.path}: column {field.name!r} holds lists of index and value, whose "
                    "dimension is not known",
                    hint=f'give column_types={{"{field.name}": "sparse[1000]"}}',
                )
        fields = [f for f in fields if f.name in given or columns is None or f.name in columns]
        inferred = [f.with_type(_with_items(f.type)) for f in fields if f.name not in given]
        types = {**given, **schema_from_arrow(pa.schema(inferred), file.path).types}
        return {field.name: types[field.name] for field in fields}


def _known(text: str) -> ArrayType:
    kind = type_named(text)
    assert kind is not None  # checked with the options
    return kind


def _first_keys(lines: list[bytes]) -> dict[str, int]:
    """The place of each key in the first object."""
    for line in lines:
        if line.strip():
            try:
                return {name: place for place, name in enumerate(json.loads(line))}
            except (ValueError, RecursionError, TypeError):
                return {}
    return {}


def _with_items(kind: pa.DataType) -> pa.DataType:
    """The type where only nulls and empty lists were seen: strings, and lists of numbers."""
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_date(kind):
        return pa.timestamp("s")
    if is_list(kind):
        item = kind.value_type
        return pa.list_(pa.float64() if pa.types.is_null(item) else _with_items(item))
    return kind


def _check_lists(table: pa.Table, columns: Sequence[str] | None) -> None:
    """Raise Unreadable for a wanted column of too many lists in each other."""
    for field in table.schema:
        kind, depth = field.type, 0
        while is_list(kind):
            kind, depth = kind.value_type, depth + 1
        if depth > _MOST_LISTS and (columns is None or field.name in columns):
            raise Unreadable(
                f": column {field.name!r} is nested {depth:,} deep; at most {_MOST_LISTS} is read",
                "name the columns that are wanted by columns=",
            )


def _readable(inferred: Callable[[bytes], object], lines: list[bytes]) -> list[bytes]:
    """Those of the lines that are objects and fit together, from the first on."""
    if not lines:
        return []
    try:
        inferred(b"".join(lines))
        return lines
    except Unreadable:
        if len(lines) == 1:
            return []
    middle = len(lines) // 2
    left, right = _readable(inferred, lines[:middle]), _readable(inferred, lines[middle:])
    try:
        inferred(b"".join([*left, *right]))
        return [*left, *right]
    except Unreadable:  # they do not fit together
        return left or right

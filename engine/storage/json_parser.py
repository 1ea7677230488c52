"""JSON lines to columns, and what is wrong with a line that cannot be read."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pajson

from scalops.algebra.dtypes import ArrayType, ListType
from scalops.algebra.errors import DataError
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Block
from scalops.engine.storage.arrow import block_of, to_column
from scalops.engine.storage.arrow_types import type_to_arrow
from scalops.engine.storage.bad_records import Unreadable
from scalops.engine.storage.files import File
from scalops.engine.storage.lines import encoding_hint
from scalops.engine.storage.text_contents import lines_with_ends

_FAILURES = (pa.ArrowException, OverflowError, UnicodeDecodeError)
_ROW = re.compile(r"in row (\d+)")
_CHANGED = re.compile(r"Column\(/([^/)]*)[^)]*\) changed from (\w+) to (\w+)")
_MOST_BYTES = 2**31 - 1
_MOST_DEPTH = 250  # of lists and objects in each other: Arrow goes down the stack with them
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True)
class JsonParser:
    """Objects of the columns of `schema`; other keys are passed over."""

    files: tuple[File, ...]
    schema: Schema

    def parse(self, file: int, data: bytes, columns: tuple[str, ...]) -> Block:
        """The columns of all lines that are not empty. Raises: Unreadable."""
        try:
            return self._block(data, columns, f"of {self.files[file].path}")
        except _Misfit as error:
            if len(_records(data)) == 1:
                raise self._explained(file, data.strip(), columns) from error
            row = _ROW.search(str(error))
            raise Unreadable(str(error), row=None if row is None else int(row[1])) from error

    def rescue(self, file: int, line: bytes, columns: tuple[str, ...]) -> Block:
        """Null where the value does not fit; in all columns if the line is no object.

        Raises: DataError where the column is one of arrays or sparse vectors.
        """
        readable: dict[str, Any] = {}
        for name in columns:
            try:
                block = self._block(line, (name,), "")
            except _Misfit:
                continue
            readable[name] = (block.columns[name], block.valid.get(name))
        for name in columns:
            kind = self.schema[name]
            if name not in readable and (kind.shape or kind.is_sparse):
                raise DataError(
                    f"{self.files[file].path}: column {name!r} of {kind} has a bad value, and "
                    "refuses nulls",
                    hint='use on_error="skip"',
                )
            if name not in readable:
                nulls = pa.nulls(1, type_to_arrow(kind))
                readable[name] = to_column(nulls, kind, name)
        return block_of({name: readable[name] for name in columns}, 1)

    def lines(self, data: bytes) -> list[bytes]:
        """The lines with their ends."""
        return lines_with_ends(data)

    def inferred(self, data: bytes) -> pa.Table:
        """All columns, those of the schema in its types. Raises: Unreadable."""
        if not data.strip():
            return pa.schema([]).empty_table()
        try:
            return self._parsed(data, self.schema.names, "infer")
        except _Misfit as error:
            if len(_records(data)) == 1:
                raise self._explained(0, data.strip(), self.schema.names) from error
            changed = _CHANGED.search(str(error))
            if changed is None:
                raise Unreadable(f" cannot be read with the lines before it: {error}") from error
            name, was, now = changed.groups()
            found = f": column {name!r} holds a {now}, before it held a {was}"
            raise Unreadable(found, "give column_types= for this column") from error

    def _block(self, data: bytes, columns: tuple[str, ...], where: str) -> Block:
        if not data.strip():
            empty = {n: pa.array([], type_to_arrow(self.schema[n])) for n in columns}
            return block_of({n: to_column(a, self.schema[n], n) for n, a in empty.items()}, 0)
        table = self._parsed(data, columns, "ignore")
        found = {}
        for name in columns:
            kind = self.schema[name]
            chunks = [_fitted(chunk, kind) for chunk in table.column(name).chunks]
            try:
                found[name] = to_column(chunks, kind, f"column {name!r} {where}")
            except DataError as error:
                raise _Misfit(str(error)) from error
        return block_of(found, table.num_rows)

    def _parsed(self, data: bytes, columns: tuple[str, ...], others: str) -> pa.Table:
        fields = [(name, _parsed_as(self.schema[name])) for name in columns]
        try:
            if len(data) > _MOST_BYTES:
                raise OverflowError("a line or range of more than 2 GiB")
            if any(_depth(line) > _MOST_DEPTH for line in _long_lines(data)):
                raise OverflowError("a line is nested too deep")
            table = pajson.read_json(
                pa.BufferReader(data),
                pajson.ReadOptions(use_threads=False, block_size=len(data) + 1),
                pajson.ParseOptions(
                    explicit_schema=pa.schema(fields), unexpected_field_behavior=others
                ),
            )
            table.validate(full=True)
        except _FAILURES as error:
            raise _Misfit(str(error).removeprefix("JSON parse error: ")) from error
        lines = data.count(b"\n") + (not data.endswith(b"\n"))
        if table.num_rows != lines and table.num_rows != len(_records(data)):
            raise _Misfit("a line is not one object")
        return table

    def _explained(self, file: int, line: bytes, columns: tuple[str, ...]) -> Unreadable:
        """What is wrong with one line."""
        one = "there must be one object on each line"
        depth = _depth(line)
        if depth > _MOST_DEPTH:
            return Unreadable(
                f" is nested {depth:,} deep; at most {_MOST_DEPTH:,} is read", "make it flatter"
            )
        flaws: list[str] = []
        try:
            found = _loaded(line, flaws)
        except UnicodeDecodeError:
            hint = encoding_hint(self.files[file])
            return Unreadable(f": {_shown(line)} is not UTF-8 text", hint)
        except (ValueError, RecursionError) as error:
            return Unreadable(f": {_shown(line)} is not JSON: {error}", one)
        if not isinstance(found, dict):
            return Unreadable(f" holds {_shown(found)}, not an object", one)
        if flaws:
            return Unreadable(f": {flaws[0]}", "correct the line")
        for name in columns:
            try:
                self._block(line, (name,), "")
            except _Misfit as error:
                return self._wrong_value(name, found.get(name), str(error))
        return Unreadable(" cannot be read as an object", one)

    def _wrong_value(self, name: str, value: Any, message: str) -> Unreadable:
        kind = self.schema[name]
        if value is None and (kind.shape or kind.is_sparse):
            return Unreadable(f": column {name!r} is null or missing; {kind} refuses nulls")
        wanted = _type_for(value)
        hint = f'correct the value or give column_types={{"{name}": "{wanted}"}}'
        return Unreadable(
            f": column {name!r} holds {_shown(value)}, expected {kind}",
            "correct the value" if wanted is None or wanted == str(kind) else hint,
        )


class _Misfit(Exception):
    """Lines that are no objects of these types."""


def _loaded(line: bytes, flaws: list[str]) -> Any:
    """A line as Python's own reader has it, which takes what Arrow refuses: that is put down in
    `flaws`. Raises: ValueError, UnicodeDecodeError, RecursionError."""

    def paired(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                flaws.append(f"the key {_shown(name)} stands twice in one object")
            found[name] = value
        return found

    def number(text: str) -> float:
        if np.isinf(float(text)):
            flaws.append(f"the number {text} is beyond float64")
        return float(text)

    found = json.loads(line, object_pairs_hook=paired, parse_float=number)
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.end]
        flaws.append(f"{half!r} is half of a pair of surrogates, which is no character")
    return found


def _long_lines(data: bytes) -> list[bytes]:
    """The lines that are long enough to be nested too deep."""
    if len(data) <= 2 * _MOST_DEPTH:
        return []
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
    bounds = np.concatenate([[-1], ends, [len(data)]])
    (long,) = np.nonzero(np.diff(bounds) > 2 * _MOST_DEPTH)
    return [data[bounds[i] + 1 : bounds[i + 1]] for i in long]


def _depth(line: bytes) -> int:
    """How many lists and objects lie in each other; exact where it may be too many."""
    most = line.count(b"[") + line.count(b"{")
    if most <= _MOST_DEPTH:
        return most
    marks = np.frombuffer(_TEXT.sub(b"", line), np.uint8)
    opening = (marks == ord("[")) | (marks == ord("{"))
    closing = (marks == ord("]")) | (marks == ord("}"))
    return int(np.cumsum(opening.astype(np.int64) - closing).max(initial=0))


def _records(data: bytes) -> list[bytes]:
    return [line for line in data.split(b"\n") if line.strip()]


def _parsed_as(kind: ArrayType) -> pa.DataType:
    """The type that Arrow's parser knows: it has no durations, short floats and fixed sizes."""
    if kind.is_sparse:
        return type_to_arrow(kind)
    if isinstance(kind, ListType):
        return pa.list_(_parsed_as(kind.item))
    if kind.name.startswith("duration"):
        item = pa.int64()
    elif kind.name == "float16":
        item = pa.float32()
    else:
        item = type_to_arrow(ArrayType(kind.name))
    for _ in kind.shape:
        item = pa.list_(item)
    return item


def _fitted(found: pa.Array, kind: ArrayType) -> pa.Array:
    """What Arrow parsed, as the type it stands for. Raises: _Misfit for another shape."""
    if kind.is_sparse or kind.is_string:
        return found
    if isinstance(kind, ListType):
        items = _fitted(found.values, kind.item)
        mask = found.is_null() if found.null_count else None
        return pa.ListArray.from_arrays(found.offsets, items, mask=mask)
    scalar = type_to_arrow(ArrayType(kind.name))
    for size in kind.shape:
        if found.null_count or pc.any(pc.not_equal(pc.list_value_length(found), size)).as_py():
            raise _Misfit(f"an array of another shape than {kind.shape}")
        found = found.flatten()
    try:
        found = found.cast(scalar)
    except pa.ArrowInvalid as error:
        raise _Misfit(str(error)) from error
    if kind.shape and found.null_count:
        raise _Misfit("an array that holds a null")
    for size in reversed(kind.shape):
        rows = len(found) // size if size else 0
        found = pa.FixedSizeListArray.from_arrays(found, size) if rows else found
    return found


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _type_for(value: Any) -> str | None:
    match value:
        case bool():
            return "bool"
        case int():
            return "int64" if abs(value) < 2**63 else "float64"
        case float():
            return "float64"
        case str():
            return "string"
        case list():
            kinds = {_type_for(v) for v in value}
            inner = kinds.pop() if len(kinds) == 1 else "float64"
            return f"list[{inner}]"
    return None

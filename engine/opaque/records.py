"""Records as a row function sees them, and how what it returns becomes columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from scalops.algebra.errors import SchemaError, user_location
from scalops.algebra.schema import FIELD
from scalops.engine.opaque.rows import Row, no_position, unchangeable, unknown_column


class Record(Row):
    """A row: `r.x`, `r["x"]`, and `r[0]` by position.

    Its values are symbols while a function is traced, and anything else where few are made.
    """

    __slots__ = ("_values",)
    _values: dict[str, Any]

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_values":
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, int):
            try:
                return list(self._values.values())[key]
            except IndexError:
                raise no_position(key, len(self._values)) from None
        try:
            return self._values[key]
        except (KeyError, TypeError):
            raise unknown_column(key, list(self._values)) from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "_values":
            raise unchangeable(name)
        object.__setattr__(self, name, value)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values.values())

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Record({', '.join(self._values)})"

    def __reduce__(self) -> tuple[object, ...]:
        return Record, (self._values,)


def nested_record(values: Mapping[str, Any]) -> Record:
    """A record of columns by their flat names; those that hold records are records in it."""
    columns: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        column, _, field = name.partition(FIELD)
        if field:
            columns.setdefault(column, None)
            inner.setdefault(column, {})[field] = value
        else:
            columns[name] = value
    for column, fields in inner.items():
        columns[column] = nested_record(fields)
    return Record(columns)


def flat_values(record: Row) -> dict[str, Any]:
    """A record's values by flat names, as `nested_record` takes them."""
    found: dict[str, Any] = {}
    for name, value in record._values.items():
        if isinstance(value, Row):
            found |= {name + FIELD + n: v for n, v in flat_values(value).items()}
        else:
            found[name] = value
    return found


Parts = tuple[tuple[str, ...] | None, list[Any]]


def take_apart(result: Any) -> Parts:
    """Names and values of a row function's result; names are None for one bare value.

    A tuple gives `_0`, `_1`, ...; a dict, NamedTuple, dataclass or record its own names.
    """
    if isinstance(result, Row):
        return tuple(result._values), list(result._values.values())
    if isinstance(result, dict):
        return tuple(map(str, result)), list(result.values())
    if isinstance(result, tuple):
        names = getattr(result, "_fields", None) or [f"_{i}" for i in range(len(result))]
        return tuple(names), list(result)
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        own = [f.name for f in dataclasses.fields(result)]
        return tuple(own), [getattr(result, name) for name in own]
    return None, [result]


def take_all_apart(result: Any) -> Parts:
    """As `take_apart`; a part that is a structure itself is its own parts, by flat names.

    Inside another structure a plain tuple is an array, unless it holds a structure.
    Raises: SchemaError for a name that holds the separator of flat names.
    """
    names, values = take_apart(result)
    if names is None:
        return None, values
    if any(FIELD in name for name in names):
        taken = next(name for name in names if FIELD in name)
        raise SchemaError(
            f"a column is called {taken!r}; the character {FIELD!r} stands between a column that"
            " holds records and their fields",
            location=user_location(),
            hint="give the column another name",
        )
    if not any(map(is_structure, values)):
        return names, values
    flat_names: list[str] = []
    flat: list[Any] = []
    for name, value in zip(names, values, strict=True):
        inner, parts = take_all_apart(value) if is_structure(value) else (None, [value])
        if inner == ():
            raise SchemaError(
                f"{name!r} is a record without fields",
                location=user_location(),
                hint="leave it out, or give it a field",
            )
        flat_names += [name] if inner is None else [name + FIELD + n for n in inner]
        flat += parts
    return tuple(flat_names), flat


def is_structure(value: Any) -> bool:
    """Whether a part of a record is a record itself."""
    if isinstance(value, tuple):
        return hasattr(value, "_fields") or any(map(is_structure, value))
    return isinstance(value, (Row, dict)) or (
        hasattr(type(value), "__dataclass_fields__") and not isinstance(value, type)
    )

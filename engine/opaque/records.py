"""Records as a row function sees them, and how what it returns becomes columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

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

"""Records as a row function sees them, and how what it returns becomes columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from scalops.algebra.errors import SchemaError, user_location


class Record:
    """A row: `r.x`, `r["x"]`, and `r[0]` by position.

    Its values are symbols while a function is traced, numbers and arrays when it runs.
    """

    __slots__ = ("_values",)
    __hash__ = None  # type: ignore[assignment]

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
                raise SchemaError(
                    f"a record of {len(self._values)} columns has no position {key}",
                    location=user_location(),
                ) from None
        try:
            return self._values[key]
        except (KeyError, TypeError):
            near = get_close_matches(str(key), self._values, n=1)
            raise SchemaError(
                f"a record has no column {key!r}; its columns are {list(self._values)}",
                location=user_location(),
                hint=f"did you mean {near[0]!r}?" if near else None,
            ) from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_values":
            object.__setattr__(self, name, value)
            return
        raise SchemaError(
            f"a record cannot be changed: r.{name} = ...",
            location=user_location(),
            hint="return the new columns, or use with_columns",
        )

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values.values())

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Record({', '.join(self._values)})"

    def __getstate__(self) -> Any:
        return self._values

    def __setstate__(self, state: Any) -> None:
        object.__setattr__(self, "_values", state)


Parts = tuple[tuple[str, ...] | None, list[Any]]


def take_apart(result: Any) -> Parts:
    """Names and values of a row function's result; names are None for one bare value.

    A tuple gives `_0`, `_1`, ...; a dict, NamedTuple, dataclass or record its own names.
    """
    if isinstance(result, Record):
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

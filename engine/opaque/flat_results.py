"""What a flat_map's function returns: any number of records for one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from scalops.algebra.errors import Location, TraceError, UserFunctionError
from scalops.engine.opaque.records import nested_record, take_all_apart, take_apart
from scalops.engine.opaque.rows import Row

Function = Callable[..., Any]


class _Wrapped:
    """A user's function in another form; messages name the function itself."""

    def __init__(self, func: Function) -> None:
        self.func = func

    @property
    def location(self) -> Location | None:
        """Where the function was defined."""
        code = getattr(self.func, "__code__", None)
        return None if code is None else Location(code.co_filename, code.co_firstlineno)


class Flattened(_Wrapped):
    """As one record: the parts of record i under `"i name"`, or `"i "` where it is a bare value.

    A list expression of the record is handed on as it is.
    """

    def __call__(self, record: Any) -> Any:
        result = self.func(record)
        if hasattr(result, "expression"):
            return result
        parts: dict[str, Any] = {}
        for i, item in enumerate(items_of(result, self.location)):
            names, values = take_apart(item)
            own = ("",) if names is None else names
            parts |= {f"{i} {name}": v for name, v in zip(own, values, strict=True)}
        if not parts:
            raise TraceError(
                "the function of flat_map returns no records, whatever the record is",
                location=self.location,
                hint="return a list of records, or a list column: lambda r: r.tags",
            )
        return parts


class Listed(_Wrapped):
    """As one list of what it gives."""

    def __call__(self, record: Any) -> list[Any]:
        return items_of(self.func(record), self.location)


class Collected(_Wrapped):
    """As lists that go together: one by each name, or one where the records are bare values."""

    def __init__(self, func: Function, names: tuple[str, ...] | None) -> None:
        super().__init__(func)
        self.names = names

    def __call__(self, record: Any) -> Any:
        columns: list[list[Any]] = [[] for _ in self.names or ("",)]
        for item in items_of(self.func(record), self.location):
            names, values = take_all_apart(item)
            if names != self.names:
                raise UserFunctionError(
                    f"the function of flat_map gives {_named(names)} after {_named(self.names)}",
                    location=self.location,
                    hint="make all its records alike, or say so.udf(returns=...)",
                )
            for column, value in zip(columns, values, strict=True):
                column.append(value)
        if self.names is None:
            return columns[0]
        return nested_record(dict(zip(self.names, columns, strict=True)))


def _named(names: tuple[str, ...] | None) -> str:
    return "bare values" if names is None else f"records of {list(names)}"


def items_of(result: Any, location: Location | None) -> list[Any]:
    """The records of a result; UserFunctionError where it is none, or one record."""
    one = isinstance(result, (str, bytes, Mapping, Row)) or hasattr(result, "_fields")
    if one or dataclasses.is_dataclass(result) or not isinstance(result, Iterable):
        raise UserFunctionError(
            f"the function of flat_map returns a {type(result).__name__}; expected a list of"
            " records",
            location=location,
            hint="put it into a list: [record]; [] for none",
        )
    return list(result)

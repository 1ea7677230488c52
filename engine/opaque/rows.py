"""Records with values, as opaque functions receive them: made in bulk, quick to read.

A class with slots for each set of column names: reading `r.x` is one slot access, and the
records of a block are made column by column without a call per record.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import cache
from itertools import repeat
from typing import Any

from scalops.algebra.errors import SchemaError, TraceError, user_location
from scalops.algebra.schema import FIELD


class Row:
    """Base of all records: `r.x`, `r["x"]`, and `r[0]` by position. They cannot be changed."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]
    _names: tuple[str, ...] = ()
    _members: tuple[str, ...] = ()  # the slots, in the order of the names

    @property
    def _values(self) -> dict[str, Any]:
        return dict(zip(self._names, self, strict=True))

    def __getitem__(self, key: str | int) -> Any:
        if type(key) is str:
            try:
                return getattr(self, self._members[self._names.index(key)])
            except ValueError:
                raise unknown_column(key, self._names) from None
        if isinstance(key, int):
            try:
                return getattr(self, self._members[key])
            except IndexError:
                raise no_position(key, len(self._members)) from None
        if isinstance(key, str):
            return self[str(key)]
        raise unknown_column(key, self._names)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        raise TraceError(
            f"a record is compared; its fields are {list(self._values)}",
            location=user_location(),
            hint="compare values: p[0].id == p[1].id",
        )

    def __setattr__(self, name: str, value: Any) -> None:
        raise unchangeable(name)

    def __delattr__(self, name: str) -> None:
        raise unchangeable(name, f"del r.{name}")

    def __setitem__(self, key: Any, value: Any) -> None:
        raise unchangeable(key, f"r[{key!r}] = ...")

    def __delitem__(self, key: Any) -> None:
        raise unchangeable(key, f"del r[{key!r}]")

    def __iter__(self) -> Iterator[Any]:
        return iter([getattr(self, m) for m in self._members])

    def __len__(self) -> int:
        return len(self._members)

    def __repr__(self) -> str:
        return f"Record({', '.join(self._names)})"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuilt, (self._names, list(self))


def _rebuilt(names: tuple[str, ...], values: list[Any]) -> Row:
    made: Row = make_rows(names, [[v] for v in values], 1)[0]
    return made


def unknown_column(name: Any, names: Sequence[str]) -> SchemaError:
    """The error of reading a column that a record has not."""
    near = get_close_matches(str(name), names, n=1)
    return SchemaError(
        f"a record has no column {name!r}; its columns are {list(names)}",
        location=user_location(),
        hint=f"did you mean {near[0]!r}?" if near else None,
    )


def no_position(position: int, count: int) -> SchemaError:
    """The error of reading beyond a record's last column."""
    return SchemaError(
        f"a record of {count} columns has no position {position}", location=user_location()
    )


def unchangeable(name: Any, written: str | None = None) -> SchemaError:
    """The error of assigning to a record; `written` is how, where it is not as an attribute."""
    return SchemaError(
        f"a record cannot be changed: {written or f'r.{name} = ...'}",
        location=user_location(),
        hint="return the new columns, or use with_columns",
    )


@cache
def row_class(names: tuple[str, ...]) -> type[Row]:
    """The class of records with these columns."""
    # A name that Python or the class itself has taken is reached by r["name"] alone.
    prefix = "_column"
    while any(n.startswith(prefix) for n in names):
        prefix += "_"
    members = tuple(
        n if n.isidentifier() and not n.startswith("__") and not hasattr(Row, n) else f"{prefix}{i}"
        for i, n in enumerate(names)
    )
    made: type[Row] = type(
        "Record", (Row,), {"__slots__": members, "__module__": __name__, "__qualname__": "Record"}
    )
    made._names, made._members = names, members
    return made


def make_rows(names: tuple[str, ...], columns: Sequence[Sequence[Any]], count: int) -> list[Any]:
    """`count` records from their columns' values."""
    kind = row_class(names)
    rows = list(map(object.__new__, repeat(kind, count)))
    for member, values in zip(kind._members, columns, strict=True):
        # The slot's own setter, called from C for each record.
        deque(map(kind.__dict__[member].__set__, rows, values), maxlen=0)
    return rows


def make_nested_rows(
    names: tuple[str, ...], columns: Sequence[Sequence[Any]], count: int
) -> list[Any]:
    """`make_rows` of flat names: the columns that hold records are records in the records."""
    if not any(FIELD in n for n in names):
        return make_rows(names, columns, count)
    own: dict[str, Sequence[Any]] = {}
    inner: dict[str, list[tuple[str, Sequence[Any]]]] = {}
    for name, values in zip(names, columns, strict=True):
        column, _, field = name.partition(FIELD)
        own.setdefault(column, values)
        if field:
            inner.setdefault(column, []).append((field, values))
    for column, fields in inner.items():
        parts = tuple(n for n, _ in fields)
        own[column] = make_nested_rows(parts, [v for _, v in fields], count)
    return make_rows(tuple(own), list(own.values()), count)

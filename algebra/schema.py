"""A table's columns: names and types, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from scalops.algebra.dtypes import ArrayType

# A column that holds records is a column for each of their fields, named "pair․title": the
# character between is no full stop, so that a user's own "a.b" stays what it is.
HIDDEN = "@\u2025"  # how the names of columns begin that no user sees, nor gives
FIELD = "\u2024"


@dataclass(frozen=True)
class Schema:
    """Columns in order.

    The fields of a column of records stand side by side, each a column of its own.

    A `bare` table holds one value per record and nothing to name it by: its one column is
    called `value`, and a row function's argument is that value itself.
    """

    fields: tuple[tuple[str, ArrayType], ...]
    bare: bool = False

    @cached_property
    def types(self) -> dict[str, ArrayType]:
        return dict(self.fields)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.fields)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns as the user sees them: one that holds records is one."""
        return tuple(dict.fromkeys(name.split(FIELD)[0] for name in self.names))

    def holds_records(self, column: str) -> bool:
        """Whether a column of the user's holds records."""
        return column not in self.types and bool(self.fields_of(column))

    def fields_of(self, column: str) -> tuple[str, ...]:
        """The names that a column of the user's stands for: itself, or its records' fields."""
        if column in self.types:
            return (column,)
        return tuple(name for name in self.names if name.startswith(column + FIELD))

    @cached_property
    def bytes_per_row(self) -> int:
        return sum(t.bytes for _, t in self.fields)

    def __contains__(self, name: object) -> bool:
        return name in self.types

    def __getitem__(self, name: str) -> ArrayType:
        return self.types[name]

    def __iter__(self) -> Iterator[tuple[str, ArrayType]]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def __repr__(self) -> str:
        return f"Schema({self}{', bare' if self.bare else ''})"

    def __str__(self) -> str:
        return _text(self.fields)


def _text(fields: Sequence[tuple[str, ArrayType]]) -> str:
    """Names and types; of a column of records those of its fields, in brackets."""
    columns: dict[str, list[tuple[str, ArrayType]]] = {}
    for name, kind in fields:
        column, _, inner = name.partition(FIELD)
        columns.setdefault(column, []).append((inner, kind))
    return ", ".join(
        f"{c}: record[{_text(own)}]" if own[0][0] else f"{c}: {own[0][1]}"
        for c, own in columns.items()
    )

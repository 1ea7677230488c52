"""Tables by key that are to be joined or grouped with others: what `Table.by` gives."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NoReturn

from scalops.algebra.errors import Location, PlanError, user_location
from scalops.algebra.expressions import Expression
from scalops.algebra.operators import Operator

if TYPE_CHECKING:
    from scalops.rows import RowFunction
    from scalops.table import Table

_JOINED = 'branches go together: so.join(a.by("k"), b.by("k")), or so.cogroup'


class NoMethod(PlanError, AttributeError):
    """Something that a branch has not: `hasattr` is to say so too."""


@dataclass(frozen=True, eq=False)
class KeyFunction:
    """A row function behind a key, and the table whose records it reads."""

    source: Operator
    function: RowFunction


@dataclass(frozen=True, eq=False)
class Branch:
    """A table and the keys, by name, by which `so.join` and `so.cogroup` take it.

    The keys are expressions over the table's columns. An inner branch restricts a cogroup to
    the keys that it has. `origins` are the row functions behind the keys.
    """

    table: Table
    keys: tuple[Expression, ...]
    names: tuple[str, ...]
    is_inner: bool = False
    location: Location | None = None
    origins: tuple[RowFunction, ...] = field(default=(), repr=False)

    _value_hint = _JOINED
    _capture_refusal = f"it reads a table by key; {_JOINED}"

    def inner(self) -> Branch:
        """The branch such that only keys of its own are in a cogroup."""
        return replace(self, is_inner=True)

    def __repr__(self) -> str:
        return f"Branch(by {', '.join(self.names)}, of ({self.table.schema}))"

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        raise NoMethod(f"a branch has no {name!r}", location=user_location(), hint=_JOINED)

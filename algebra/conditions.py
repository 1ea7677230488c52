"""What a filter asks of single columns: comparisons with constants, as data for sources."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

COMPARISONS = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")


@dataclass(frozen=True)
class Condition:
    """A test of a column of single values with constants.

    `test` is one of COMPARISONS (one constant), "is_in" (any of them), "is_null" or "is_valid"
    (none). Constants are Python's numbers, which take the column's type as NumPy's do, NumPy's
    scalars, or strings. A null passes no test but "is_null".
    """

    column: str
    test: str
    values: tuple[Any, ...] = ()
    text: str = field(default="", compare=False)  # for readers

    def __repr__(self) -> str:
        """Different for constants that only their types tell apart."""
        kinds = [type(v).__name__ for v in self.values]
        return f"Condition({self.column!r}, {self.test}, {self.values!r}, {kinds})"

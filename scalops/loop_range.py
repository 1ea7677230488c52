"""`so.range`: a loop's elements with bounds that a plan computes."""

from __future__ import annotations

import builtins
from typing import Any, NoReturn

from scalops.algebra.errors import LoopError, user_location
from scalops.algebra.expressions import Constant, Expression, columns, constant
from scalops.algebra.operators import Range
from scalops.value import lift


class ValueRange:
    """The elements of a loop from `start` to `stop`, without it, by `step`.

    The bounds are read when the loop starts, an inner loop's at each outer iteration.
    """

    def __init__(self, elements: Range) -> None:
        self.elements = elements

    def __iter__(self) -> NoReturn:
        raise TypeError(
            "so.range is a loop's condition, so.loop(start, so.range(n)); its bounds are not known"
            " before the plan runs. For Python's own `for` write range(int(n))"
        )

    __len__ = __contains__ = __getitem__ = __iter__

    def __repr__(self) -> str:
        shown = (str(e.value) if isinstance(e, Constant) else "Value" for e in self.elements.bounds)
        return f"so.range({', '.join(shown)})"


def range(start: Any, stop: Any = None, step: Any = 1) -> ValueRange:
    """A loop's elements as Python's `range`, with ints or int Values as bounds.

    `so.range(n)` counts from 0 to n-1. Nothing is run: a loop reads the bounds when it starts.
    """
    first, last = (0, start) if stop is None else (start, stop)
    bounds = [_bound(n, e) for n, e in (("start", first), ("stop", last), ("step", step))]
    if isinstance(bounds[2], Constant) and bounds[2].value == 0:
        raise LoopError("the step of so.range is 0", location=user_location())
    return ValueRange(Range(*bounds))


def _bound(name: str, value: Any) -> Expression:
    expression = None if isinstance(value, (str, list, tuple)) else lift(value)
    fits = expression is not None and not expression.type.shape
    if not fits or expression.type.name[:3] not in ("int", "uin"):  # type: ignore[union-attr]
        found = type(value).__name__ if expression is None else str(expression.type)
        raise LoopError(
            f"the {name} of so.range is {found}; expected an int or a Value of one",
            location=user_location(),
            hint='write n // m for a whole quotient, or so.cast(n, "int64")',
        )
    assert expression is not None
    if columns([expression]):
        raise LoopError(
            f"the {name} of so.range is a record's column; expected one value",
            location=user_location(),
            hint="fold the table: .max(...), .count()",
        )
    if isinstance(expression, Constant):
        return constant(int(expression.value))
    return expression


def elements_of(condition: builtins.range | ValueRange) -> Range:
    """The elements of a loop over a range."""
    if isinstance(condition, ValueRange):
        return condition.elements
    return Range(*(constant(int(n)) for n in (condition.start, condition.stop, condition.step)))

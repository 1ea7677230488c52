"""Which share of a table's records a predicate keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from scalops.algebra.expressions import Call, Constant, Expression, columns
from scalops.optimizer.cost import Provenance

SELECTIVITY = 0.5  # assumed, where nothing tells

# The share of the records that some of the parts keep together, and the others.
Known = Callable[[Sequence[Expression]], tuple[float, list[Expression]]]

_Bounds = tuple[float, float]
_MIRRORED = {
    "less": "greater",
    "less_equal": "greater_equal",
    "greater": "less",
    "greater_equal": "less_equal",
}


def selectivity(predicate: Expression, known: Known | None = None) -> tuple[float, Provenance]:
    """The share that is expected, and how it is known.

    A random number of a record lies evenly in 0..1: `u >= a` and `u < b` keep b - a of them, as
    `sample` and `random_split` do. Numbers of other seeds or keys are independent. `known` is
    asked for the other parts; what it does not know is together assumed to keep half.
    """
    drawn: dict[Expression, _Bounds] = {}
    rest: list[Expression] = []
    for part in conjuncts(predicate):
        found = _bounds(part)
        if found is None:
            rest.append(part)
            continue
        number, (low, high) = found
        least, most = drawn.get(number, (0.0, 1.0))
        drawn[number] = (max(least, low), min(most, high))
    share = prod(max(0.0, high - low) for low, high in drawn.values())
    if rest and known is not None:
        told, rest = known(rest)
        share *= told
    return (share * SELECTIVITY, "assumed") if rest else (share, "estimated")


def conjuncts(predicate: Expression) -> list[Expression]:
    """The parts of which all must hold."""
    found: list[Expression] = []
    stack = [predicate]
    while stack:
        e = stack.pop()
        if isinstance(e, Call) and e.function.name in ("bitwise_and", "logical_and"):
            stack.extend(reversed(e.arguments))
        else:
            found.append(e)
    return found


def _bounds(part: Expression) -> tuple[Expression, _Bounds] | None:
    """The random number that is compared with a constant, and where it has to lie."""
    if not isinstance(part, Call) or part.function.name not in _MIRRORED:
        return None
    (number, limit), name = part.arguments, part.function.name
    if isinstance(number, Constant):
        number, limit, name = limit, number, _MIRRORED[name]
    if not isinstance(number, Call) or number.function.name != "random_uniform":
        return None
    if not isinstance(limit, Constant) or part.type.shape or not columns([number]):
        return None
    at = min(1.0, max(0.0, float(limit.value)))
    return number, ((0.0, at) if name.startswith("less") else (at, 1.0))

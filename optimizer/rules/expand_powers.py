"""Small powers are products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scalops.algebra.expressions import Call, Constant, Expression, call, columns
from scalops.algebra.functions import function
from scalops.algebra.tree import Node


def expand_powers(node: Node) -> Node | None:
    """x ** 2 -> square(x), x ** 3 -> square(x)·x, x ** 4 -> square(square(x)), and for floats

    x ** 1 -> x and x ** -1 -> 1 / x.

    For x of a record and an exponent that is a constant number, where the type stays. A general
    power costs 100 ns an element, a product less than one. Sound up to rounding; integers wrap
    around alike. Not x ** 0.5: a number's is ∞ at -∞, where the square root has none.
    """
    if not isinstance(node, Call) or node.function.name != "power" or not columns([node]):
        return None
    base, exponent = node.arguments
    if not isinstance(exponent, Constant) or np.ndim(exponent.value) or not base.type.is_plain:
        return None
    power = float(exponent.value)
    forms = _OF_FLOATS if base.type.name in ("float32", "float64") else _OF_ALL
    if power not in forms:
        return None
    made = forms[power](base)
    return made if made.type == node.type else None


def _square(x: Expression) -> Expression:
    return call(function("square"), x)


_Form = Callable[[Expression], Expression]
_OF_ALL: dict[float, _Form] = {
    2.0: _square,
    3.0: lambda x: call(function("multiply"), _square(x), x),
    4.0: lambda x: _square(_square(x)),
}
_OF_FLOATS: dict[float, _Form] = {
    **_OF_ALL,
    1.0: lambda x: x,
    -1.0: lambda x: call(function("reciprocal"), x),
}

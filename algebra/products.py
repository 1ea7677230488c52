"""Products of numbers in one normal form: however they were written, they are one expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from scalops.algebra.expressions import Call, Constant, Expression, call, constant, within
from scalops.algebra.functions import function

_LEAST, _MOST = 1e-30, 1e30  # of a constant that may meet others: their product stays a float32


@dataclass(frozen=True)
class Product:
    """coefficient · Π numerators / Π denominators, the factors being scalars of one float type."""

    coefficient: float = 1.0
    numerators: tuple[Expression, ...] = ()
    denominators: tuple[Expression, ...] = ()

    @property
    def is_number(self) -> bool:
        """Whether there is nothing but the coefficient."""
        return not (self.numerators or self.denominators)

    def __mul__(self, other: Product) -> Product:
        return Product(
            self.coefficient * other.coefficient,
            self.numerators + other.numerators,
            self.denominators + other.denominators,
        )

    def __truediv__(self, other: Product) -> Product:
        return self * Product(1.0 / other.coefficient, other.denominators, other.numerators)

    def __neg__(self) -> Product:
        return replace(self, coefficient=-self.coefficient)

    @property
    def expression(self) -> Expression:
        """±n₁·n₂ / (d₁·d₂) or c·n₁·n₂ / (d₁·d₂), factors in an order of their own.

        The small ones come first, equally large ones by their text: no order that a process, a
        loop's number or the way of writing decides.
        """
        top = _times(self.numerators)
        c = self.coefficient
        if top is None:
            below = _times(self.denominators)
            if below is None:
                return Constant(c)
            if c == 1.0:
                return call(function("reciprocal"), below)
            return call(function("divide"), Constant(c), below)
        if c == -1.0:
            top = call(function("negative"), top)
        elif c != 1.0:
            top = call(function("multiply"), Constant(c), top)
        below = _times(self.denominators)
        return top if below is None else call(function("divide"), top, below)


def factors(e: Expression, dtype: str) -> Product:
    """A scalar as a product of factors of the float type `dtype`.

    Products, quotients and signs are taken apart as far as they are of that type: what narrower
    numbers make among themselves, where it may overflow, stays one factor. Constants meet in
    the coefficient, but for 0, infinity, NaN, and such as are almost one of these.
    """
    if isinstance(e, Constant):
        value = float(np.asarray(e.value))
        if _LEAST < abs(value) < _MOST:
            return Product(value)
    if e.type.name != dtype:
        return Product(numerators=(in_type(e, dtype),))
    if isinstance(e, Call) and all(not a.type.shape for a in e.arguments):
        match e.function.name, e.arguments:
            case "multiply", (a, b):
                return factors(a, dtype) * factors(b, dtype)
            case "divide", (a, b):
                return factors(a, dtype) / factors(b, dtype)
            case "reciprocal", (a,):
                return Product() / factors(a, dtype)
            case "negative", (a,) if a.type.name == dtype:
                return -factors(a, dtype)
    return Product(numerators=(e,))


def in_type(e: Expression, dtype: str) -> Expression:
    """A scalar as one of that type."""
    if e.type.name == dtype:
        return e
    if isinstance(e, Constant):
        return constant(np.asarray(e.value).astype(dtype)[()])
    return call(function("cast"), e, dtype=dtype)


def _times(parts: Sequence[Expression]) -> Expression | None:
    if not parts:
        return None
    multiply = function("multiply")
    return reduce(lambda a, b: call(multiply, a, b), sorted(parts, key=_order))


def _order(e: Expression) -> tuple[int, str]:
    from scalops.algebra.printing import text  # which reads the operators

    return len(within([e])), text(e)

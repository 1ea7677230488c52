"""Products of numbers in one normal form: however they were written, they are one expression."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from scalops.algebra.expressions import Call, Constant, Expression, call, constant, within
from scalops.algebra.functions import function

_FACTORS = 8
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
    def in_order(self) -> Product:
        """The same product with its factors in an order that the way of writing does not decide.

        The small ones come first, equally large ones by their text, in which are no numbers of
        loops, nor anything else of this process.
        """
        top, below = (tuple(sorted(f, key=_order)) for f in (self.numerators, self.denominators))
        return replace(self, numerators=top, denominators=below)

    @property
    def expression(self) -> Expression:
        """±n₁·n₂ / (d₁·d₂) or c·n₁·n₂ / (d₁·d₂)."""
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


def factors(e: Expression, dtype: str, whole: Collection[Expression] = ()) -> Product:
    """A scalar as a product of factors of the float type `dtype`.

    Products, quotients and signs are taken apart as far as they are of that type: what narrower
    numbers make among themselves, where it may overflow, stays one factor. Constants meet in
    the coefficient, but for 0, infinity, NaN, and such as are almost one of these. A product of
    more than 8 factors stays whole: others may share it. So do those that are to stay `whole`.
    """
    made = Product()
    waiting = [(e, False)]
    while waiting:
        part, below = waiting.pop()
        inner = None if part in whole else _apart(part, dtype)
        if inner is not None:
            coefficient, parts = inner
            made = replace(made, coefficient=made.coefficient * coefficient)
            waiting.extend((p, below != inverse) for p, inverse in reversed(parts))
        else:
            own = _factor(part, dtype)
            made = made / own if below else made * own
        if len(made.numerators) + len(made.denominators) + len(waiting) > _FACTORS:
            return _factor(e, dtype)
    return made


_Parts = list[tuple[Expression, bool]]  # with whether it divides


def _apart(e: Expression, dtype: str) -> tuple[float, _Parts] | None:
    """A product's coefficient and parts; None where it is no product of that type."""
    if not isinstance(e, Call) or e.type.name != dtype or any(a.type.shape for a in e.arguments):
        return None
    match e.function.name, e.arguments:
        case "multiply", (a, b):
            return 1.0, [(a, False), (b, False)]
        case "divide", (a, b):
            return 1.0, [(a, False), (b, True)]
        case "reciprocal", (a,):
            return 1.0, [(a, True)]
        case "negative", (a,) if a.type.name == dtype:
            return -1.0, [(a, False)]
    return None


def _factor(e: Expression, dtype: str) -> Product:
    if isinstance(e, Constant):
        value = float(np.asarray(e.value))
        if _LEAST < abs(value) < _MOST:
            return Product(value)
    return Product(numerators=(in_type(e, dtype),))


def in_type(e: Expression, dtype: str) -> Expression:
    """A scalar as one of that type."""
    if e.type.name == dtype:
        return e
    if isinstance(e, Constant):
        with np.errstate(over="ignore"):  # infinity, as where the plan runs
            return constant(np.asarray(e.value).astype(dtype)[()])
    return call(function("cast"), e, dtype=dtype)


def _times(parts: Sequence[Expression]) -> Expression | None:
    if not parts:
        return None
    multiply = function("multiply")
    return reduce(lambda a, b: call(multiply, a, b), parts)


def _order(e: Expression) -> tuple[int, str]:
    from scalops.algebra.printing import text  # which reads the operators

    return len(within([e])), text(e)

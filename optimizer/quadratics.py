"""Sums of squared differences, however they are written: which vector, from which, weighed how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scalops.algebra.expressions import Call, Constant, Expression, call, columns
from scalops.algebra.functions import function
from scalops.optimizer.invariance import is_uniform

FULL = ("slice", None, None, None)
_OUTSIDE = ("sqrt", "negative", "multiply", "divide")  # what may stand around the sum


@dataclass(frozen=True)
class Quadratic:
    """± Π factors · Σ_j w_kj (x_j - c_kj)², or its root.

    x is one vector a record, c one or several that all records share. `weights` are pairs of a
    shared array and how it enters (`algebra/distance_bounds.py`); `factors` are pairs of a scalar
    and "multiply" or "divide".
    """

    x: Expression
    c: Expression
    weights: tuple[tuple[Expression, str], ...] = ()
    factors: tuple[tuple[Expression, str], ...] = ()
    negative: bool = False
    root: bool = False
    location: Any = None

    @property
    def several(self) -> bool:
        """Whether c holds several vectors."""
        return len(self.c.type.shape) == 2

    def weighed(self) -> tuple[Expression, str] | None:
        """The weights as one array."""
        if len(self.weights) < 2:
            return self.weights[0] if self.weights else None
        made: Expression | None = None
        for a, weight in self.weights:
            own = call(function("square"), a) if weight.endswith("_squared") else a
            if made is None:
                made = own if weight.startswith("times") else call(function("reciprocal"), own)
            else:
                name = "multiply" if weight.startswith("times") else "divide"
                made = call(function(name), made, own)
        assert made is not None
        return made, "times"

    def distances(self, form: str) -> Expression:
        """The expression of these distances: one function, and what is outside of its sum."""
        weighed = self.weighed()
        if weighed is None:
            made = self._call("squared_distances", form=form)
        else:
            made = self._call("weighted_squared_distances", form=form)
        if self.root:
            made = call(function("sqrt"), made, location=self.location)
        if self.negative:
            made = call(function("negative"), made, location=self.location)
        for factor, name in self.factors:
            made = call(function(name), made, factor, location=self.location)
        return made

    def nearest(self, form: str) -> Expression:
        """The expression of the least of them."""
        more = {"root": True} if self.root else {}
        name = "nearest" if self.weighed() is None else "weighted_nearest"
        return self._call(name, form=form, **more)

    def _call(self, name: str, **parameters: Any) -> Call:
        weighed = self.weighed()
        given = (self.x, self.c)
        if weighed is not None:
            given = (*given, weighed[0])  # type: ignore[assignment]
            if weighed[1] != "times":
                parameters["weight"] = weighed[1]
        return call(function(name), *given, location=self.location, **parameters)


def quadratic(e: Expression) -> Quadratic | None:
    """The sum of squared differences that an expression is, or None."""
    if not isinstance(e, Call):
        return None
    found = _summed(e)
    if found is None or found.x.type.is_sparse:
        return None
    found = replace(found, location=e.location)
    return found if _same_types(e, found) else None


def decided(e: Expression) -> Quadratic | None:
    """The distances of which an expression is the position of the least, or None."""
    if not isinstance(e, Call) or e.function.name not in ("argmin", "argmax"):
        return None
    parameters = dict(e.parameters)
    if parameters.get("axis") not in (None, 0, (0,)) or parameters.get("keepdims"):
        return None
    (argument,) = e.arguments
    found = _signed(argument)
    if found is None or not found.several or found.negative != (e.function.name == "argmax"):
        return None
    if not all(_power_of_two(f) for f, _ in found.factors):
        return None
    return replace(found, factors=(), negative=False, location=e.location)


def _power_of_two(factor: Expression) -> bool:
    """A positive one scales without rounding: no order changes, and no two numbers meet."""
    if not isinstance(factor, Constant) or factor.type.shape:
        return False
    value = float(np.asarray(factor.value))
    return 2.0**-20 <= value <= 2.0**20 and float(np.frexp(value)[0]) == 0.5


def _signed(e: Expression) -> Quadratic | None:
    """A quadratic behind signs, constants and a root."""
    if not isinstance(e, Call):
        return None
    found = quadratic(e)
    if found is not None:
        return found
    match e.function.name, e.arguments:
        case "negative", (a,):
            inner = _signed(a)
            return None if inner is None else replace(inner, negative=not inner.negative)
        case "sqrt", (a,):
            inner = _signed(a)
            if inner is None or inner.root or inner.negative or inner.factors:
                return None
            return replace(inner, root=True)
        case "multiply" | "divide", (a, b):
            if isinstance(a, Constant) and e.function.name == "multiply":
                a, b = b, a
            inner = _signed(a) if isinstance(b, Constant) and not b.type.shape else None
            return None if inner is None else _scaled(inner, b, e.function.name)
    return None


def _scaled(found: Quadratic, factor: Expression, name: str) -> Quadratic:
    if isinstance(factor, Constant) and float(np.asarray(factor.value)) < 0:
        positive = Constant(-factor.value)
        made = replace(found, negative=not found.negative)
        return replace(made, factors=(*found.factors, (positive, name)))
    return replace(found, factors=(*found.factors, (factor, name)))


def _same_types(e: Expression, found: Quadratic) -> bool:
    """Whether what is made has the expression's type, all the way."""
    made = found.distances("direct")
    kinds = [made.type]
    while isinstance(made, Call) and made.function.name in (
        "sqrt",
        "negative",
        "multiply",
        "divide",
    ):
        made = made.arguments[0]
        kinds.append(made.type)
    return all(k == e.type for k in kinds)


def _summed(e: Call) -> Quadratic | None:
    """Sums over the last axis, products with a vector, norms."""
    parameters = dict(e.parameters)
    match e.function.name, e.arguments:
        case "sum" | "mean", (a,) if _last_axis(a, parameters):
            found = squares(a)
            if found is not None and e.function.name == "mean":
                width = Constant(float(a.type.shape[-1]))
                found = replace(found, factors=(*found.factors, (width, "divide")))
            return found
        case "norm", (a,) if parameters.get("ord") in (None, 2):
            if not _last_axis(a, parameters):
                return None
            apart = _difference(a)
            return None if apart is None else replace(apart, root=True)
        case "matmul", (a, b) if len(b.type.shape) == 1:
            if a == b:
                return _difference(a)
            for one, other in ((a, b), (b, a)):
                if is_uniform(other) and len(other.type.shape) == 1:
                    found = squares(one)
                    if found is not None:
                        return replace(found, weights=(*found.weights, (other, "times")))
    return None


def _last_axis(a: Expression, parameters: dict[str, Any]) -> bool:
    rank, axis = len(a.type.shape), parameters.get("axis")
    if parameters.get("keepdims") or rank not in (1, 2):
        return False
    return axis in (rank - 1, (rank - 1,)) or (axis is None and rank == 1)


def squares(e: Expression) -> Quadratic | None:
    """w · (x - c)², in which the factors that are the same for all elements stand apart."""
    if not isinstance(e, Call):
        return None
    match e.function.name, e.arguments:
        case "square", (a,):
            return _difference(a)
        case "power", (a, Constant(value=value)) if np.ndim(value) == 0 and value == 2:
            return _difference(a)
        case "negative", (a,):
            found = squares(a)
            return None if found is None else replace(found, negative=not found.negative)
        case "multiply", (a, b):
            if a == b:
                return _difference(a)
            for one, other in ((a, b), (b, a)):
                found = squares(one)
                if found is not None:
                    return _weighed(found, other, "multiply")
        case "divide", (a, b):
            found = squares(a)
            return None if found is None else _weighed(found, b, "divide")
    return None


def _weighed(found: Quadratic, other: Expression, name: str) -> Quadratic | None:
    if not other.type.shape:
        return _scaled(found, other, name)
    if not _is_weight(found, other):
        return None
    weight = "times" if name == "multiply" else "over"
    return replace(found, weights=(*found.weights, (other, weight)))


def _is_weight(found: Quadratic, a: Expression) -> bool:
    shape = found.c.type.shape
    fits = len(a.type.shape) <= len(shape) and np.broadcast_shapes(a.type.shape, shape) == shape
    return fits and is_uniform(a) and a.type.is_plain and not a.type.weak


def _difference(e: Expression) -> Quadratic | None:
    """x - c or c - x; also scaled by a shared array, or with another sign."""
    if not isinstance(e, Call):
        return None
    match e.function.name, e.arguments:
        case "negative", (a,):
            return _difference(a)
        case "subtract", (a, b):
            return _apart(a, b) or _apart(b, a)
        case "multiply", (a, b):
            for one, other in ((a, b), (b, a)):
                found = _difference(one)
                if found is not None:
                    fits = _is_weight(found, other)
                    own = (*found.weights, (other, "times_squared"))
                    return replace(found, weights=own) if fits else None
        case "divide", (a, b):
            found = _difference(a)
            if found is not None and _is_weight(found, b):
                return replace(found, weights=(*found.weights, (b, "over_squared")))
    return None


def _apart(x: Expression, c: Expression) -> Quadratic | None:
    x = _without_axis(x)
    if len(x.type.shape) != 1 or not columns([x]) or not x.type.is_numeric:
        return None
    if not is_uniform(c) or not c.type.is_plain or len(c.type.shape) not in (1, 2):
        return None
    if c.type.weak or x.type.weak or c.type.shape[-1:] != x.type.shape:
        return None
    return Quadratic(x, c)


def _without_axis(e: Expression) -> Expression:
    """x of x[None, :], of x.reshape(1, d) and of x broadcast to rows."""
    if not isinstance(e, Call) or not e.arguments or len(e.type.shape) != 2:
        return e
    inner, parameters = e.arguments[0], dict(e.parameters)
    if inner.type.shape != e.type.shape[1:]:
        return e
    match e.function.name:
        case "index" if _adds_axis(parameters["key"]):
            return inner
        case "reshape" if e.type.shape[0] == 1:
            return inner
        case "broadcast_to":
            return inner
    return e


def _adds_axis(key: Sequence[Any]) -> bool:
    return len(key) > 0 and key[0] is None and all(k == FULL for k in key[1:])

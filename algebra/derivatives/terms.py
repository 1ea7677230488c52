"""Expressions written as formulas, and simplified as they are made.

Simplified is what a derivative is full of: signs, factors of 1, the same summand twice. Exact in
floating point but for the sign of a zero: a + 0 is a, -a + b is b - a. Products of numbers take
the normal form of `algebra/products.py`, which is exact up to rounding.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import Location
from scalops.algebra.expressions import (
    Call,
    Constant,
    Expression,
    call,
    columns_read,
    constant,
    within,
)
from scalops.algebra.functions import function
from scalops.algebra.products import factors

_FLOATS = ("float32", "float64")


class _Place(threading.local):
    location: Location | None = None
    shared: set[Expression] | None = None  # factors of several gradients, while one is made


_place = _Place()


@contextmanager
def written_at(location: Location | None) -> Iterator[None]:
    """What is made meanwhile belongs to that line of the user's."""
    before, _place.location = _place.location, location
    try:
        yield
    finally:
        _place.location = before


@contextmanager
def sharing() -> Iterator[None]:
    """What is marked by `share` meanwhile is a factor that products do not take apart."""
    before, _place.shared = _place.shared, set()
    try:
        yield
    finally:
        _place.shared = before


def share(term: Term) -> None:
    """Keep a number whole that several gradients have as a factor: it is computed once for all."""
    e = term.e
    if _place.shared is not None and isinstance(e, Call) and not e.type.shape:
        _place.shared.add(e)


class Term:
    """An expression with Python's operators."""

    __slots__ = ("e",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, e: Expression) -> None:
        self.e = e

    @property
    def type(self) -> ArrayType:
        return self.e.type

    @property
    def shape(self) -> tuple[int, ...]:
        return self.e.type.shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __add__(self, other: Any) -> Term:
        return Term(add(self.e, expression(other)))

    def __radd__(self, other: Any) -> Term:
        return Term(add(expression(other), self.e))

    def __sub__(self, other: Any) -> Term:
        return Term(add(self.e, negative(expression(other))))

    def __rsub__(self, other: Any) -> Term:
        return Term(add(expression(other), negative(self.e)))

    def __neg__(self) -> Term:
        return Term(negative(self.e))

    def __mul__(self, other: Any) -> Term:
        return Term(multiply(self.e, expression(other)))

    def __rmul__(self, other: Any) -> Term:
        return Term(multiply(expression(other), self.e))

    def __truediv__(self, other: Any) -> Term:
        return Term(divide(self.e, expression(other)))

    def __rtruediv__(self, other: Any) -> Term:
        return Term(divide(expression(other), self.e))

    def __pow__(self, other: Any) -> Term:
        return fn("power", self, other)

    def __matmul__(self, other: Any) -> Term:
        return fn("matmul", self, other)

    def __eq__(self, other: object) -> Any:
        return fn("equal", self, other)

    def __lt__(self, other: Any) -> Term:
        return fn("less", self, other)

    def __gt__(self, other: Any) -> Term:
        return fn("greater", self, other)

    # Of arrays; axes counted from the front.

    def reshape(self, *shape: int) -> Term:
        return self if shape == self.shape else fn("reshape", self, shape=shape)

    def transpose(self, *axes: int) -> Term:
        order = axes or tuple(reversed(range(self.ndim)))
        return self if order == tuple(range(self.ndim)) else fn("transpose", self, axes=order)

    def swap_last(self) -> Term:
        """The transposed matrices of a stack of them."""
        n = self.ndim
        return self.transpose(*range(n - 2), n - 1, n - 2)

    def sum(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Term:
        if not self.shape:
            return self
        return fn("sum", self, axis=axis, keepdims=keepdims)

    def broadcast_to(self, shape: tuple[int, ...]) -> Term:
        return self if shape == self.shape else fn("broadcast_to", self, shape=tuple(shape))

    def cast(self, dtype: str) -> Term:
        return self if self.type.name == dtype else fn("cast", self, dtype=dtype)


def expression(value: Any) -> Expression:
    """The expression of a term, of an expression, or of a number or array."""
    if isinstance(value, Term):
        return value.e
    return value if isinstance(value, Expression) else constant(value)


def fn(name: str, *arguments: Any, **parameters: Any) -> Term:
    """A function of the table."""
    return Term(_call(name, *map(expression, arguments), **parameters))


def _call(name: str, *arguments: Expression, **parameters: Any) -> Call:
    return call(function(name), *arguments, location=_place.location, **parameters)


def number_of(e: Expression) -> float | None:
    """The value of a Python number; None of anything else."""
    if isinstance(e, Constant) and type(e.value) in (int, float):
        return float(e.value)
    return None


def where(condition: Any, left: Any, right: Any) -> Term:
    """A choice; a Python number among its sides takes the type of the other one."""
    a, b = expression(left), expression(right)
    if a.type.weak and not b.type.weak:
        a = _as_type(a, b.type.name)
    elif b.type.weak and not a.type.weak:
        b = _as_type(b, a.type.name)
    return fn("where", condition, a, b)


def _as_type(e: Expression, dtype: str) -> Expression:
    if isinstance(e, Constant):
        with np.errstate(over="ignore"):  # infinity, as where the plan runs
            return constant(np.asarray(e.value).astype(dtype)[()])
    return _call("cast", e, dtype=dtype)


def zeros(kind: ArrayType) -> Expression:
    """An array of zeros of a type."""
    return constant(np.zeros(kind.shape, kind.numpy)[()])


def dense(term: Term) -> Term:
    """Every element stored."""
    return fn("dense", term) if term.type.is_sparse else term


_MIND_NULLS = ("coalesce", "is_null", "only_if", "list_item", "where", "bitwise_and", "bitwise_or",
               "logical_and", "logical_or")  # fmt: skip


def minds_nulls(*roots: Expression) -> bool:
    """Whether a null below need not make the whole null, or the reverse."""
    return any(isinstance(n, Call) and n.function.name in _MIND_NULLS for n in within(list(roots)))


def zero_if_null(term: Term) -> Term:
    """A record's gradient, 0 where it is null: the loss did not choose what has no value."""
    if not columns_read([term.e]):
        return term
    term = dense(term)
    filler = term.type.strong().numpy.type(0)
    shaped = fn("broadcast_to", filler, shape=term.shape) if term.shape else filler
    return fn("coalesce", term, shaped)


def only_if_known(loss: Expression, term: Term, summed: bool = False) -> Term:
    """A record's gradient where its loss is no null, 0 where the gradient itself is one.

    Of what is `summed` a null adds nothing: sparse vectors stay sparse.
    """
    known = fn("logical_not", fn("is_null", loss))
    return fn("only_if", known, term if summed and term.type.is_sparse else zero_if_null(term))


def full(term: Term, kind: ArrayType) -> Term:
    """A gradient whose one number stands for all elements, as an array of that shape."""
    return term.broadcast_to(kind.shape) if term.shape != kind.shape else term


# The three operations that derivatives are made of.


def negative(e: Expression) -> Expression:
    """-e, a sign inside taken away."""
    value = number_of(e)
    if value is not None:
        return Constant(-value)
    stripped = _without_sign(e)
    if stripped is not None:
        return stripped
    scale, vector = _scale_of(e)
    if scale is not None:  # the sign of one number, not of each element
        return _call("multiply", negative(scale), vector)
    return _call("negative", e)


def _without_sign(e: Expression, depth: int = 4) -> Expression | None:
    """-e where that is e without a sign; an integer's is not to be touched: it may wrap around.

    Not of long products: each may be a part of the next one twice.
    """
    if not isinstance(e, Call) or e.type.name not in _FLOATS or depth == 0:
        return None
    if e in (_place.shared or ()) and e.function.name != "negative":
        return None
    match e.function.name, e.arguments:
        case "negative", (a,):
            return a if a.type.name in _FLOATS else None
        case "multiply" | "divide" as name, (a, b):
            left, right = _without_sign(a, depth - 1), _without_sign(b, depth - 1)
            if left is not None:
                return _call(name, left, b)
            if right is not None:
                return _call(name, a, right)
            if number_of(a) is not None and (number_of(a) or 0) < 0:
                return _scaled(-(number_of(a) or 0), b) if name == "multiply" else None
    return None


def _scaled(value: float, e: Expression) -> Expression:
    return e if value == 1 and e.type.name in _FLOATS else _call("multiply", Constant(value), e)


def add(a: Expression, b: Expression) -> Expression:
    """a + b; a difference where one has a sign, twice the one where they are the same."""
    x, y = number_of(a), number_of(b)
    if x is not None and y is not None:
        return Constant(x + y)
    if x == 0 and b.type.name in _FLOATS:
        return b
    if y == 0 and a.type.name in _FLOATS:
        return a
    if a == b and a.type.name in _FLOATS:
        return multiply(Constant(2.0), a)
    minus_b, minus_a = _without_sign(b), _without_sign(a)
    if minus_b is not None and minus_a is not None:
        return negative(add(minus_a, minus_b))
    if minus_b is not None:
        return _call("subtract", a, minus_b)
    if minus_a is not None:
        return _call("subtract", b, minus_a)
    return _call("add", a, b)


def multiply(a: Expression, b: Expression) -> Expression:
    """a · b: numbers in their normal form, before an array."""
    x, y = number_of(a), number_of(b)
    if x is not None and y is not None:
        return Constant(x * y)
    for value, other in ((x, b), (y, a)):
        if value is not None and other.type.name in _FLOATS:
            if value == 1:
                return other
            if value == -1:
                return negative(other)
    if not a.type.shape and not b.type.shape:
        return _product(a, b) or _call("multiply", a, b)
    if a.type.shape and not b.type.shape:
        a, b = b, a
    if not a.type.shape:
        scale, vector = _scale_of(b)
        if scale is not None:
            together = _product(a, scale)
            if together is not None:
                return multiply(together, vector)
        return _call("multiply", a, b)
    for left, right in ((_without_sign(a), b), (a, _without_sign(b))):
        if left is not None and right is not None:
            return negative(multiply(left, right))
    return _call("multiply", a, b)


def divide(a: Expression, b: Expression) -> Expression:
    """a / b: numbers in their normal form, before an array."""
    x, y = number_of(a), number_of(b)
    if x is not None and y:
        return Constant(x / y)
    if y == 1 and a.type.name in _FLOATS:
        return a
    if not a.type.shape and not b.type.shape:
        return _product(a, b, inverse=True) or _call("divide", a, b)
    if not b.type.shape:
        scale, vector = _scale_of(a)
        if scale is not None:
            together = _product(scale, b, inverse=True)
            if together is not None:
                return multiply(together, vector)
    for top, below in ((_without_sign(a), b), (a, _without_sign(b))):
        if top is not None and below is not None:
            return negative(divide(top, below))
    return _call("divide", a, b)


def _product(a: Expression, b: Expression, inverse: bool = False) -> Expression | None:
    """Two numbers in their normal form; None where they are of two types."""
    kind = _call("divide" if inverse else "multiply", a, b).type
    if kind.name not in _FLOATS:
        return None
    if any(e.type.name != kind.name and number_of(e) is None for e in (a, b)):
        return None
    left, right = (factors(e, kind.name, _place.shared or ()) for e in (a, b))
    return (left / right if inverse else left * right).expression


def _scale_of(e: Expression) -> tuple[Expression | None, Expression]:
    """(s, v) with e = s·v, s a number of v's type."""
    if isinstance(e, Call) and e.function.name == "multiply":
        s, v = e.arguments
        if v.type.shape and not s.type.shape and s.type.name == v.type.name == e.type.name:
            return s, v
    if isinstance(e, Call) and e.function.name == "negative" and e.type.name in _FLOATS:
        return Constant(-1.0), e.arguments[0]
    return None, e

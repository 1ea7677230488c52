"""Derivatives of NumPy's universal functions, by the textbook; how they stay finite is beside them.

A function that is flat almost everywhere is listed as such. At a kink one side is taken: of
`maximum` and `minimum` the second argument at a tie, of `absolute` 0. Where an exponential and
a logarithm meet, what they make together is differentiated, so that no overflow is in between:
the derivative of log(1 + e^u) is 1 / (1 + e^-u).
"""

from __future__ import annotations

from math import log, pi

import numpy as np

from scalops.algebra.derivatives.rules import (
    FLAT,
    Gradients,
    Site,
    elementwise,
    rule,
    spread,
    summed_to,
    total,
)
from scalops.algebra.derivatives.terms import Term, dense, fn, number_of, where
from scalops.algebra.expressions import Call, Constant, Expression

_LN2, _LN10 = log(2.0), log(10.0)


def zero(like: Term) -> Term:
    """0 in a term's type."""
    return Term(Constant(like.type.numpy.type(0)))


def one_plus_exp(u: Term) -> Term:
    """1 + e^u."""
    return 1 + fn("exp", u)


# Arithmetic.

elementwise("add", lambda g, y, a, b: g, lambda g, y, a, b: g, sparse=True)
elementwise("subtract", lambda g, y, a, b: g, lambda g, y, a, b: -g, sparse=True)
elementwise("multiply", lambda g, y, a, b: g * b, lambda g, y, a, b: g * a, sparse=True)
elementwise("negative", lambda g, y, a: -g, sparse=True)
elementwise("positive", lambda g, y, a: g, sparse=True)
elementwise(np.conjugate, lambda g, y, a: g)
elementwise("square", lambda g, y, a: 2.0 * g * a)
elementwise("sqrt", lambda g, y, a: g / (2.0 * y))
elementwise("cbrt", lambda g, y, a: g / (3.0 * (y * y)))
elementwise("hypot", lambda g, y, a, b: g * (a / y), lambda g, y, a, b: g * (b / y))
elementwise("absolute", lambda g, y, a: g * fn("sign", a))
elementwise("fabs", lambda g, y, a: g * fn("sign", a))
elementwise(
    "remainder", lambda g, y, a, b: g, lambda g, y, a, b: -g * fn("floor_divide", a, b)
)  # fmt: skip
elementwise("fmod", lambda g, y, a, b: g, lambda g, y, a, b: -g * fn("trunc", a / b))
elementwise(
    "copysign", lambda g, y, a, b: g * fn("copysign", 1.0, a) * fn("copysign", 1.0, b), None
)
elementwise("deg2rad", lambda g, y, a: g * (pi / 180))
elementwise("rad2deg", lambda g, y, a: g * (180 / pi))
elementwise(np.radians, lambda g, y, a: g * (pi / 180))
elementwise(np.degrees, lambda g, y, a: g * (180 / pi))


def exponent_of(e: Expression) -> Expression | None:
    """u, of 1 + e^u."""
    if isinstance(e, Call) and e.function.name == "add":
        for one, other in (e.arguments, e.arguments[::-1]):
            if number_of(one) == 1 and isinstance(other, Call) and other.function.name == "exp":
                return other.arguments[0]
    return None


@rule("divide")
def _divide(site: Site) -> Gradients:
    a, b = site.arguments
    g, shape = site.g, site.call.type.shape
    if site.wants(0):
        yield a.e, summed_to(g / b, shape, a.shape)
    if site.wants(1):
        yield _below(site, a, b)


@rule("reciprocal")
def _reciprocal(site: Site) -> Gradients:
    (b,) = site.arguments
    yield _below(site, Term(Constant(1.0)), b)


def _below(site: Site, a: Term, b: Term) -> tuple[Expression, Term]:
    """The gradient by b of a / b; b = 1 + e^u is passed by: its e^u may be infinite."""
    g, shape = site.g, site.call.type.shape
    u = exponent_of(b.e)
    if u is None:
        return b.e, summed_to(-(g * a) / (b * b), shape, b.shape)
    inner = -(g * a) / (one_plus_exp(Term(u)) * one_plus_exp(-Term(u)))
    return u, summed_to(inner, shape, u.type.shape)


def _power_base(g: Term, y: Term, a: Term, b: Term) -> Term:
    """b·a^(b-1); 0 where b is 0, at a = 0 too."""
    n = number_of(b.e)
    if n is None:
        return g * b * a ** where(b == 0, 1.0, b - 1)
    if n == 0:
        return g * 0.0 * a
    if n == 2:
        return n * g * a
    less = n - 1
    whole = int(less) if type(b.e.value) is int else less  # type: ignore[attr-defined]
    return n * g * (a if whole == 1 else a**whole)


def _power_exponent(g: Term, y: Term, a: Term, b: Term) -> Term:
    """a^b·log(a); 0 where a is 0."""
    return g * y * fn("log", where(a == 0, 1.0, a))


for _name in ("power", "float_power"):
    elementwise(_name, _power_base, _power_exponent)

# Choices. At a tie the second argument has it all.

elementwise(
    "maximum",
    lambda g, y, a, b: where(a > b, g, zero(y)),
    lambda g, y, a, b: where(a > b, zero(y), g),
)
elementwise(
    "minimum",
    lambda g, y, a, b: where(a < b, g, zero(y)),
    lambda g, y, a, b: where(a < b, zero(y), g),
)


def _known(greater: Term, b: Term) -> Term:
    """Whether the first is chosen: it is the better one, or the other is NaN."""
    return fn("logical_or", greater, fn("isnan", b))


elementwise(
    "fmax",
    lambda g, y, a, b: where(_known(a > b, b), g, zero(y)),
    lambda g, y, a, b: where(_known(a > b, b), zero(y), g),
)
elementwise(
    "fmin",
    lambda g, y, a, b: where(_known(a < b, b), g, zero(y)),
    lambda g, y, a, b: where(_known(a < b, b), zero(y), g),
)
elementwise(
    "where",
    None,
    lambda g, y, c, a, b: where(c, g, zero(y)),
    lambda g, y, c, a, b: where(c, zero(y), g),
)
elementwise(
    "coalesce",
    lambda g, y, a, b: where(fn("is_null", a), zero(y), g),
    lambda g, y, a, b: where(fn("is_null", a), g, zero(y)),
)
elementwise("only_if", None, lambda g, y, c, a: g)  # where it is null, a fold skips it
elementwise("nan_to_num", lambda g, y, a: where(fn("isfinite", a), g, zero(y)))
# In the type of the result: NumPy's promotion, and one cast of the whole gradient, see to types.
elementwise("cast", lambda g, y, a: g)

# Exponentials and logarithms.

elementwise("exp", lambda g, y, a: g * y)
elementwise("exp2", lambda g, y, a: g * _LN2 * y)
elementwise("expm1", lambda g, y, a: g * (y + 1))
elementwise("sigmoid", lambda g, y, a: g * (y * (1 - y)))
elementwise(
    "logaddexp",
    lambda g, y, a, b: g / one_plus_exp(b - a),
    lambda g, y, a, b: g / one_plus_exp(a - b),
)
elementwise(
    "logaddexp2",
    lambda g, y, a, b: g / (1 + fn("exp2", b - a)),
    lambda g, y, a, b: g / (1 + fn("exp2", a - b)),
)


@rule("log")
def _log(site: Site) -> Gradients:
    return of_log(site.g, site.call.arguments[0])


@rule("log2")
def _log2(site: Site) -> Gradients:
    return of_log(site.g * (1 / _LN2), site.call.arguments[0])


@rule("log10")
def _log10(site: Site) -> Gradients:
    return of_log(site.g * (1 / _LN10), site.call.arguments[0])


@rule("log1p")
def _log1p(site: Site) -> Gradients:
    (a,) = site.arguments
    inner = a.e
    if isinstance(inner, Call) and inner.function.name == "exp":
        yield from _softplus(site.g, Term(inner.arguments[0]))
        return
    u = _complement(inner)
    if u is not None:
        yield u.e, -site.g / one_plus_exp(-u)
        return
    yield inner, site.g / (1 + dense(a))


def _softplus(g: Term, u: Term) -> Gradients:
    """Of log(1 + e^u)."""
    yield u.e, g / one_plus_exp(-u)


def _complement(e: Expression) -> Term | None:
    """u, of -sigmoid(u)."""
    if isinstance(e, Call) and e.function.name == "negative":
        inner = e.arguments[0]
        if isinstance(inner, Call) and inner.function.name == "sigmoid":
            return Term(inner.arguments[0])
    return None


def of_log(g: Term, e: Expression, depth: int = 4) -> Gradients:
    """The gradients of log(e), passing by what e is made of where that is 0 or infinite.

    Of a product by its factors, if they are few.
    """
    if not isinstance(e, Call) or depth == 0:
        yield e, g / Term(e)
        return
    shape = e.type.shape
    exponent = exponent_of(e)
    match e.function.name, tuple(map(Term, e.arguments)):
        case "add", _ if exponent is not None:
            u = Term(exponent)
            yield from _softplus(summed_to(g, shape, u.shape), u)
        case "exp", (u,):
            yield u.e, g
        case "sigmoid", (u,):
            yield u.e, g / one_plus_exp(u)
        case "subtract", (a, b) if _is_complement(a, b):
            u = Term(b.e.arguments[0])  # type: ignore[attr-defined]
            yield u.e, -summed_to(g, shape, u.shape) / one_plus_exp(-u)
        case "multiply", (a, b):
            yield from of_log(summed_to(g, shape, a.shape), a.e, depth - 1)
            yield from of_log(summed_to(g, shape, b.shape), b.e, depth - 1)
        case "divide", (a, b):
            yield from of_log(summed_to(g, shape, a.shape), a.e, depth - 1)
            yield from of_log(summed_to(-g, shape, b.shape), b.e, depth - 1)
        case "reciprocal", (b,):
            yield from of_log(-g, b.e, depth - 1)
        case "sum", (a,) if isinstance(a.e, Call) and a.e.function.name == "exp":
            axis, u = dict(e.parameters).get("axis"), Term(a.e.arguments[0])
            along = 0 if u.ndim == 1 else axis
            yield u.e, spread(g, u.type, axis) * fn("softmax", u, axis=along)
        case ("softmax", (u,)) if g.shape or not u.shape:
            axis = dict(e.parameters)["axis"]
            yield u.e, g - Term(e) * _over(g, axis)
        case (("take" | "index"), (p, *_)) if _is_softmax(p):
            # The elements' logarithms are elements of the logarithms.
            from scalops.algebra.derivatives.arrays import scattered

            yield from of_log(scattered(g, e), p.e, depth - 1)
        case _:
            yield e, g / dense(Term(e))


def _is_softmax(p: Term) -> bool:
    return isinstance(p.e, Call) and p.e.function.name == "softmax"


def _is_complement(a: Term, b: Term) -> bool:
    """Whether a - b is 1 - sigmoid(u)."""
    return number_of(a.e) == 1 and isinstance(b.e, Call) and b.e.function.name == "sigmoid"


def _over(g: Term, axis: object) -> Term:
    """The sum of a gradient along softmax's axis, beside the elements."""
    if g.ndim == 1 or axis is None:
        return total(g)
    return g.sum(axis, keepdims=True)  # type: ignore[arg-type]


# Trigonometry.

elementwise("sin", lambda g, y, a: g * fn("cos", a))
elementwise("cos", lambda g, y, a: -g * fn("sin", a))
elementwise("tan", lambda g, y, a: g * (1 + y * y))
elementwise("arcsin", lambda g, y, a: g / fn("sqrt", 1 - a * a))
elementwise("arccos", lambda g, y, a: -g / fn("sqrt", 1 - a * a))
elementwise("arctan", lambda g, y, a: g / (1 + a * a))
elementwise(
    "arctan2",
    lambda g, y, a, b: g * b / (a * a + b * b),
    lambda g, y, a, b: -g * a / (a * a + b * b),
)
elementwise("sinh", lambda g, y, a: g * fn("cosh", a))
elementwise("cosh", lambda g, y, a: g * fn("sinh", a))
elementwise("tanh", lambda g, y, a: g * (1 - y * y))
elementwise("arcsinh", lambda g, y, a: g / fn("sqrt", a * a + 1))
elementwise("arccosh", lambda g, y, a: g / fn("sqrt", (a - 1) * (a + 1)))
elementwise("arctanh", lambda g, y, a: g / ((1 - a) * (1 + a)))

FLAT |= dict.fromkeys(
    ("sign", "floor", "ceil", "trunc", "rint", "floor_divide", "heaviside", "spacing"),
    "constant between its steps",
)
FLAT |= dict.fromkeys(
    (
        "equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "isnan", "isinf",
        "isfinite", "signbit", "logical_and", "logical_or", "logical_not", "logical_xor",
    ),
    "true or false",
)  # fmt: skip
FLAT |= dict.fromkeys(
    ("bitwise_and", "bitwise_or", "bitwise_xor", "invert", "left_shift", "right_shift",
     "gcd", "lcm", "bitwise_count", "bitwise_invert"),
    "of whole numbers",
)  # fmt: skip

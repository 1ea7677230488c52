"""Derivatives of SciPy's universal functions (DLMF 5 to 10)."""

from __future__ import annotations

from math import pi, sqrt

from scipy import special

from scalops.algebra.derivatives.rules import elementwise
from scalops.algebra.derivatives.terms import Term, fn, where
from scalops.algebra.functions.table import ufunc_function

_ROOT_PI = sqrt(pi)


def _sf(name: str, *arguments: object) -> Term:
    return fn(ufunc_function(getattr(special, name)).name, *arguments)


def _normal_density(a: Term) -> Term:
    return fn("exp", a * a * -0.5) * (1 / sqrt(2 * pi))


elementwise(special.erf, lambda g, y, a: g * fn("exp", -(a * a)) * (2 / _ROOT_PI))
elementwise(special.erfc, lambda g, y, a: g * fn("exp", -(a * a)) * (-2 / _ROOT_PI))
elementwise(special.erfcx, lambda g, y, a: g * (2.0 * a * y - 2 / _ROOT_PI))
elementwise(special.erfinv, lambda g, y, a: g * fn("exp", y * y) * (_ROOT_PI / 2))
elementwise(special.ndtr, lambda g, y, a: g * _normal_density(a))
elementwise(special.ndtri, lambda g, y, a: g / _normal_density(y))
elementwise(
    special.log_ndtr,
    lambda g, y, a: g * fn("exp", a * a * -0.5 - y) * (1 / sqrt(2 * pi)),
)
elementwise(special.logit, lambda g, y, a: g / (a * (1 - a)))
elementwise(special.log_expit, lambda g, y, a: g / (1 + fn("exp", a)))
elementwise(special.gammaln, lambda g, y, a: g * _sf("psi", a))
elementwise(special.loggamma, lambda g, y, a: g * _sf("psi", a))
elementwise(special.gamma, lambda g, y, a: g * y * _sf("psi", a))
elementwise(
    special.betaln,
    lambda g, y, a, b: g * (_sf("psi", a) - _sf("psi", a + b)),
    lambda g, y, a, b: g * (_sf("psi", b) - _sf("psi", a + b)),
)
elementwise(
    special.beta,
    lambda g, y, a, b: g * y * (_sf("psi", a) - _sf("psi", a + b)),
    lambda g, y, a, b: g * y * (_sf("psi", b) - _sf("psi", a + b)),
)
elementwise(special.exp10, lambda g, y, a: g * y * 2.302585092994046)
elementwise(special.j0, lambda g, y, a: -g * _sf("j1", a))
elementwise(special.i0, lambda g, y, a: g * _sf("i1", a))
elementwise(special.entr, lambda g, y, a: -g * (fn("log", a) + 1))
elementwise(
    special.rel_entr,
    lambda g, y, a, b: g * (fn("log", a / b) + 1),
    lambda g, y, a, b: -g * (a / b),
)
elementwise(
    special.kl_div,
    lambda g, y, a, b: g * fn("log", a / b),
    lambda g, y, a, b: g * (1 - a / b),
)
elementwise(
    special.xlogy,
    lambda g, y, a, b: g * where(a == 0, 0.0, fn("log", b)),
    lambda g, y, a, b: g * (a / b),
)
elementwise(
    special.xlog1py,
    lambda g, y, a, b: g * where(a == 0, 0.0, fn("log1p", b)),
    lambda g, y, a, b: g * (a / (1 + b)),
)
elementwise(
    special.huber,
    lambda g, y, d, r: g * where(fn("absolute", r) > d, fn("absolute", r) - d, 0.0),
    lambda g, y, d, r: g * fn("maximum", fn("minimum", r, d), -d),
)
elementwise(
    special.pseudo_huber,
    lambda g, y, d, r: g * (2.0 * y / d - r * r / d / fn("sqrt", 1 + (r / d) * (r / d))),
    lambda g, y, d, r: g * r / fn("sqrt", 1 + (r / d) * (r / d)),
)

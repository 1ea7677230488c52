"""Elementwise functions: NumPy's universal functions, and `where`."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.functions.choices import choice_type
from scalops.algebra.functions.table import Function, register, register_ufunc

# Costs in flops per element, relative to an addition: measured once on AVX2, rounded.
_OPERATORS: tuple[tuple[np.ufunc, str], ...] = (
    (np.add, "+"),
    (np.subtract, "-"),
    (np.multiply, "*"),
    (np.divide, "/"),
    (np.floor_divide, "//"),
    (np.remainder, "%"),
    (np.power, "**"),
    (np.equal, "=="),
    (np.not_equal, "!="),
    (np.less, "<"),
    (np.less_equal, "<="),
    (np.greater, ">"),
    (np.greater_equal, ">="),
    (np.bitwise_and, "&"),
    (np.bitwise_or, "|"),
    (np.bitwise_xor, "^"),
    (np.left_shift, "<<"),
    (np.right_shift, ">>"),
)
_PREFIXES: tuple[tuple[np.ufunc, str], ...] = (
    (np.negative, "-"),
    (np.positive, "+"),
    (np.invert, "~"),
)
_CHEAP: tuple[np.ufunc, ...] = (
    np.absolute, np.fabs, np.sign, np.maximum, np.minimum, np.fmax, np.fmin, np.square,
    np.floor, np.ceil, np.trunc, np.rint, np.isnan, np.isinf, np.isfinite, np.signbit,
    np.logical_and, np.logical_or, np.logical_not, np.logical_xor, np.reciprocal,
    np.deg2rad, np.rad2deg, np.copysign,
)  # fmt: skip
_ROOTS: tuple[np.ufunc, ...] = (np.sqrt, np.hypot, np.fmod, np.cbrt)
_TRANSCENDENTAL: tuple[np.ufunc, ...] = (
    np.exp, np.exp2, np.expm1, np.log, np.log2, np.log10, np.log1p, np.logaddexp, np.logaddexp2,
    np.sin, np.cos, np.tan, np.arcsin, np.arccos, np.arctan, np.arctan2,
    np.sinh, np.cosh, np.tanh, np.arcsinh, np.arccosh, np.arctanh, np.float_power,
)  # fmt: skip

for _ufunc, _form in _OPERATORS:
    register_ufunc(_ufunc.__name__, _ufunc, flops=20.0 if _ufunc is np.power else 1.0, form=_form)
for _ufunc, _form in _PREFIXES:
    register_ufunc(_ufunc.__name__, _ufunc, form=_form)
for _ufunc in _CHEAP:
    register_ufunc(_ufunc.__name__, _ufunc)
for _ufunc in _ROOTS:
    register_ufunc(_ufunc.__name__, _ufunc, flops=8.0)
for _ufunc in _TRANSCENDENTAL:
    register_ufunc(_ufunc.__name__, _ufunc, flops=20.0)
register_ufunc("sigmoid", special.expit, flops=20.0)


def _where_type(condition: ArrayType, left: ArrayType, right: ArrayType) -> ArrayType:
    if not condition.is_plain:
        raise TypeError(f"where cannot choose between {left} and {right} by {condition}")
    return choice_type("where", left, right, condition)


def _where(condition: Any, left: Any, right: Any) -> Any:
    if isinstance(left, (str, list)):  # of which NumPy would make an array of another type
        return left if condition else right
    return np.where(condition, left, right)


WHERE = register(Function("where", _where_type, _where))

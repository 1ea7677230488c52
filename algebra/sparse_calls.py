"""Calls in which a constant decides whether a sparse vector stays sparse."""

from __future__ import annotations

import numpy as np

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import Location
from scalops.algebra.expressions import Call, Constant, Expression, call
from scalops.algebra.functions.sparse import STORED
from scalops.algebra.functions.table import Function

_SCALING = ("multiply", "divide")  # by any number; the optimizer looks for these


def elementwise_call(
    entry: Function, *arguments: Expression, location: Location | None = None
) -> Call:
    """entry(x, c) as a function of x alone where x is sparse and c a constant number.

    A type does not say that c is 2 in `x ** 2`, or 0 in `np.maximum(x, 0)`.
    """
    if len(arguments) == 2 and entry.ufunc is not None and entry.name not in _SCALING:
        side = 0 if _is_sparse(arguments[0]) else 1
        vector, other = arguments[side], arguments[1 - side]
        if _is_sparse(vector) and isinstance(other, Constant) and _is_number(other):
            number = np.asarray(other.value).item()
            return call(
                STORED, vector, location=location, ufunc=entry.name, constant=number, side=side
            )
    return call(entry, *arguments, location=location)


def _is_sparse(e: Expression) -> bool:
    return isinstance(e.any_type, ArrayType) and e.any_type.is_sparse


def _is_number(e: Expression) -> bool:
    return e.type.is_numeric and not e.type.shape and not e.type.is_sparse

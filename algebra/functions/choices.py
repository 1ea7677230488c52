"""Functions that see nulls: what is null, and what stands in its place."""

from __future__ import annotations

from typing import Any

import numpy as np

from scalops.algebra.dtypes import BOOL, ArrayType, name_of
from scalops.algebra.functions.table import Function, example, register


def choice_type(name: str, left: ArrayType, right: ArrayType, *others: ArrayType) -> ArrayType:
    """The type of one of two values, broadcast with `others`; TypeError where they have none."""
    shape = np.broadcast_shapes(left.shape, right.shape, *(o.shape for o in others))
    refused = TypeError(f"{name} cannot choose between {left} and {right}")
    if left.is_arrow or right.is_arrow:
        if left != right:
            raise refused
        return left
    try:
        dtype = np.result_type(*(example(t) if t.weak else t.numpy for t in (left, right)))
    except TypeError:
        raise refused from None
    found = name_of(dtype)
    if found is None:
        raise refused
    return ArrayType(found, shape)  # of two Python numbers NumPy makes a definite type


def _coalesce_type(left: ArrayType, right: ArrayType) -> ArrayType:
    return choice_type("coalesce", left, right)


def _coalesce(left: Any, right: Any) -> Any:
    return right if left is None else left


def _is_null_type(_: ArrayType) -> ArrayType:
    return BOOL


def _is_null(value: Any) -> np.bool_:
    return np.bool_(value is None)


def _only_if_type(condition: ArrayType, kind: ArrayType) -> ArrayType:
    if condition.name != "bool" or condition.shape:
        raise TypeError(f"only_if needs one true or false for each record, not {condition}")
    return kind.strong()


def _only_if(condition: Any, value: Any) -> Any:
    return value if condition else None


COALESCE = register(Function("coalesce", _coalesce_type, _coalesce))
IS_NULL = register(Function("is_null", _is_null_type, _is_null, sparse=_is_null_type))
# The second argument where the first is true, else null: a filter below a fold, as a value.
ONLY_IF = register(Function("only_if", _only_if_type, _only_if, sparse=_only_if_type))

"""Functions that reshape, index, join and fold the axes of one record's array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from scalops.algebra import sparse_rules
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.functions.table import Function, example, infer_by_example, register

Parameters = Any


def _entry(
    name: str,
    evaluate: Callable[..., Any],
    flops_of: Callable[..., float] | None = None,
    sparse: Callable[..., ArrayType] | None = None,
) -> Function:
    rule = infer_by_example(name, evaluate)
    return register(Function(name, rule, evaluate, flops_of=flops_of, sparse=sparse))


def _input_size(kind: ArrayType, **_: Parameters) -> float:
    return float(kind.size)


def _index(array: Any, key: tuple[Any, ...]) -> Any:
    """Basic indexing; `key` holds ints, None, ... and slices written as ("slice", a, b, c)."""
    return array[tuple(slice(*k[1:]) if isinstance(k, tuple) else k for k in key)]


def _index_type(kind: ArrayType, key: tuple[Any, ...]) -> ArrayType:
    if kind.is_arrow:
        raise TypeError(f"indexing has no meaning for {kind}")
    try:
        shape = np.shape(_index(example(kind.strong()), key))
    except IndexError as error:
        raise IndexError(f"{error}; the array is {kind}") from None
    return ArrayType(kind.name, shape)


INDEX = register(Function("index", _index_type, _index, flops=0.0, sparse=sparse_rules.index_type))


def _take(array: Any, indices: Any, axis: int = 0) -> Any:
    return np.take(array, indices, axis=axis)


def _take_type(kind: ArrayType, indices: ArrayType, axis: int = 0) -> ArrayType:
    if not kind.shape:
        raise ValueError("cannot index a scalar")
    if indices.numpy.kind not in "iu":
        raise TypeError(f"an index must be an integer, not {indices}")
    shape = (*kind.shape[:axis], *indices.shape, *kind.shape[axis + 1 :])
    return ArrayType(kind.name, shape)


TAKE = register(Function("take", _take_type, _take, can_fail=True, sparse=sparse_rules.take_type))

RESHAPE = _entry("reshape", lambda a, shape: np.reshape(a, shape), lambda *_, **__: 0.0)
TRANSPOSE = _entry("transpose", lambda a, axes: np.transpose(a, axes), lambda *_, **__: 0.0)
BROADCAST_TO = _entry("broadcast_to", lambda a, shape: np.broadcast_to(a, shape))


def _stack(*arrays: Any, axis: int = 0) -> Any:
    return np.stack(arrays, axis=axis)


def _concatenate(*arrays: Any, axis: int = 0) -> Any:
    return np.concatenate(arrays, axis=axis)


STACK = _entry("stack", _stack)
CONCATENATE = _entry("concatenate", _concatenate)


def _fold(name: str, evaluate: Callable[..., Any], sparse: Any = None) -> Function:
    """A fold over axes: `axis` is None, an int or a tuple, counted from the front."""

    def apply(a: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return evaluate(a, axis=axis, keepdims=keepdims)

    return _entry(name, apply, _input_size, sparse)


SUM = _fold("sum", np.sum, sparse_rules.fold_type("sum"))
PROD = _fold("prod", np.prod)
MEAN = _fold("mean", np.mean, sparse_rules.fold_type("mean"))
MAX = _fold("max", np.max, sparse_rules.fold_type("max"))
MIN = _fold("min", np.min, sparse_rules.fold_type("min"))
ANY = _fold("any", np.any, sparse_rules.fold_type("any", "bool"))
ALL = _fold("all", np.all, sparse_rules.fold_type("all", "bool"))
ARGMAX = _fold("argmax", np.argmax)
ARGMIN = _fold("argmin", np.argmin)


def _moment(name: str, evaluate: Callable[..., Any]) -> Function:
    def apply(a: Any, axis: Any = None, keepdims: bool = False, ddof: int = 0) -> Any:
        return evaluate(a, axis=axis, keepdims=keepdims, ddof=ddof)

    return _entry(name, apply, lambda kind, **_: 4.0 * kind.size)


VAR = _moment("var", np.var)
STD = _moment("std", np.std)

CUMSUM = _entry("cumsum", lambda a, axis=None: np.cumsum(a, axis=axis))
CUMPROD = _entry("cumprod", lambda a, axis=None: np.cumprod(a, axis=axis))
SORT = _entry("sort", lambda a, axis=-1: np.sort(a, axis=axis), lambda a, **_: 20.0 * a.size)
ARGSORT = _entry(
    "argsort",
    lambda a, axis=-1: np.argsort(a, axis=axis, kind="stable"),
    lambda a, **_: 20.0 * a.size,
)
DIAG = _entry("diag", lambda a, k=0: np.diag(a, k))
DIAGONAL = _entry("diagonal", lambda a, offset=0: np.diagonal(a, offset))
TRACE = _entry("trace", lambda a, offset=0: np.trace(a, offset), _input_size)
ROUND = _entry("round", lambda a, decimals=0: np.round(a, decimals), sparse=sparse_rules.same_type)
NAN_TO_NUM = _entry("nan_to_num", lambda a: np.nan_to_num(a), sparse=sparse_rules.same_type)
FLIP = _entry("flip", lambda a, axis=None: np.flip(a, axis))


def _assemble_type(*parts: ArrayType) -> ArrayType:
    for part in parts:
        if part.shape or not part.is_numeric:
            raise TypeError(f"assemble needs numbers, not {part}")
    return ArrayType("float64", (len(parts),))


def _assemble(*parts: Any) -> Any:
    return np.array(parts, dtype=np.float64)


# Scalars to one vector; a null among them is an error, since vectors hold none.
ASSEMBLE = register(Function("assemble", _assemble_type, _assemble, can_fail=True))

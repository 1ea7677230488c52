"""Functions that rearrange, repeat, order and compare the elements of one record's arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.functions.table import FUNCTIONS, Function, infer_by_example, register


def _entry(
    name: str, evaluate: Callable[..., Any], flops_of: Callable[..., float] | None = None
) -> Function:
    return register(Function(name, infer_by_example(name, evaluate), evaluate, flops_of=flops_of))


def _size(kind: ArrayType, *_: Any, **__: Any) -> float:
    return float(kind.size)


TILE = _entry("tile", lambda a, reps: np.tile(a, reps))
REPEAT = _entry("repeat", lambda a, repeats, axis: np.repeat(a, repeats, axis))
ROLL = _entry("roll", lambda a, shift, axis=None: np.roll(a, shift, axis))
TRIL = _entry("tril", lambda a, k=0: np.tril(a, k))
TRIU = _entry("triu", lambda a, k=0: np.triu(a, k))
DIFF = _entry("diff", lambda a, n=1, axis=-1: np.diff(a, n, axis))
KRON = _entry("kron", lambda a, b: np.kron(a, b))
CROSS = _entry("cross", lambda a, b: np.cross(a, b))
INTERP = _entry("interp", lambda x, xp, fp: np.interp(x, xp, fp))
SEARCHSORTED = _entry("searchsorted", lambda a, v, side="left": np.searchsorted(a, v, side))
DIGITIZE = _entry("digitize", lambda x, bins, right=False: np.digitize(x, bins, right))
ISCLOSE = _entry(
    "isclose",
    lambda a, b, rtol=1e-5, atol=1e-8, equal_nan=False: np.isclose(a, b, rtol, atol, equal_nan),
)


def _einsum(*operands: Any, subscripts: str) -> Any:
    return np.einsum(subscripts, *operands)


EINSUM = _entry("einsum", _einsum, lambda *kinds, **_: float(max(k.size for k in kinds)))


# Folds of one record's axes: `axis` is None, an int or a tuple, counted from the front.


def _fold(name: str, fold: Callable[..., Any]) -> Function:
    def apply(a: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return fold(a, axis=axis, keepdims=keepdims)

    return _entry(name, apply, lambda kind, **_: 4.0 * kind.size)


PTP = _fold("ptp", np.ptp)
COUNT_NONZERO = _fold("count_nonzero", np.count_nonzero)
MEDIAN = _fold("median", np.median)
NANSUM, NANPROD, NANMEAN = (
    _fold(f.__name__, f)
    for f in (np.nansum, np.nanprod, np.nanmean)
)  # fmt: skip
NANMIN, NANMAX, NANMEDIAN = (
    _fold(f.__name__, f)
    for f in (np.nanmin, np.nanmax, np.nanmedian)
)  # fmt: skip


def _quantile(
    a: Any, q: Any, axis: Any = None, keepdims: bool = False, method: Any = "linear"
) -> Any:
    return np.quantile(a, q, axis=axis, keepdims=keepdims, method=method)


QUANTILE = _entry("quantile", _quantile, lambda kind, **_: 20.0 * kind.size)


def ufunc_method(ufunc: np.ufunc, method: str) -> Function:
    """The entry of `ufunc.accumulate` or `ufunc.reduce`, added when first used."""
    name = f"{ufunc.__name__}_{method}"
    if name not in FUNCTIONS:
        apply = getattr(ufunc, method)
        return _entry(name, lambda a, axis, **more: apply(a, axis=axis, **more), _size)
    return FUNCTIONS[name]

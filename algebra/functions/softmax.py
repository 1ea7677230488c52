"""Exponentials that are added up without overflow."""

from __future__ import annotations

from typing import Any

import numpy as np

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.functions.table import Function, infer_by_example, register

Axis = int | tuple[int, ...] | None


def softmax(x: Any, axis: Axis = -1) -> Any:
    """exp(x) / sum(exp(x)) along the axis; SciPy's `softmax`."""
    x = _floats(x)
    made = np.exp(x - np.max(x, axis=axis, keepdims=True))
    made /= np.sum(made, axis=axis, keepdims=True)
    return made


def logsumexp(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """log(sum(exp(x))) along the axis; SciPy's `logsumexp`."""
    x = _floats(x)
    greatest = np.max(x, axis=axis, keepdims=True)
    # Infinity - infinity is none; the sum below is then what the infinities make it.
    shift = np.where(np.isfinite(greatest), greatest, np.zeros((), x.dtype))
    with np.errstate(divide="ignore"):
        made = np.log(np.sum(np.exp(x - shift), axis=axis, keepdims=True)) + shift
    return made if keepdims else np.squeeze(made, axis=axis)[()]


def _floats(x: Any) -> Any:
    array = np.asarray(x)
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _flops(kind: ArrayType, **_: Any) -> float:
    return 25.0 * kind.size


SOFTMAX = register(
    Function("softmax", infer_by_example("softmax", softmax), softmax, flops_of=_flops)
)
LOGSUMEXP = register(
    Function("logsumexp", infer_by_example("logsumexp", logsumexp), logsumexp, flops_of=_flops)
)

"""What functions make of sparse vectors: a sparse vector, a dense array, or nothing.

A sparse vector keeps its form under functions that leave 0 at 0. What is not stored is taken
for an exact 0, as in scipy.sparse: 0 * inf and 0 / 0 stay 0. Where a result would be dense
beyond what was written, the user is asked to write `so.dense(x)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from scalops.algebra.dtypes import FLOAT64, ArrayType, SparseType

# f(0, s) is 0 for every number s that is finite and, for a quotient, not 0.
_KEEPS_ZERO_ON_THE_LEFT = ("divide", "floor_divide", "remainder", "fmod")
_NORMS = (None, 1, 2, np.inf)


def needs_dense(name: str, *types: Any) -> TypeError:
    """The error of a function that sparse vectors have not."""
    listed = " and ".join(str(t) for t in types)
    return TypeError(f"{name} has no sparse form for {listed}; write so.dense(x)")


def _not_at_zero(ufunc: np.ufunc, arguments: Sequence[Any], at_zero: float) -> TypeError:
    listed = ", ".join(f"{a:g}" for a in arguments)
    return TypeError(
        f"{ufunc.__name__}({listed}) is {at_zero:g}, so that the result would not be sparse;"
        " write so.dense(x)"
    )


def _shapes_differ(name: str, *types: ArrayType) -> ValueError:
    return ValueError(f"{name} cannot combine the shapes of {' and '.join(str(t) for t in types)}")


@cache
def _at_zero(ufunc: np.ufunc) -> Any:
    """f(0) or f(0, 0): float64, or TypeError."""
    return _evaluated(ufunc, (0.0,) * ufunc.nin)


def _evaluated(ufunc: np.ufunc, arguments: tuple[Any, ...]) -> float:
    with np.errstate(all="ignore"):
        try:
            value = ufunc(*arguments)
        except TypeError:
            raise TypeError(f"{ufunc.__name__} has no meaning for sparse vectors") from None
    if ufunc.nout > 1 or value.dtype != np.float64:
        found = "several results" if ufunc.nout > 1 else str(value.dtype)
        raise TypeError(
            f"{ufunc.__name__} gives {found}, and sparse vectors hold float64; write so.dense(x)"
        )
    return float(value)


def elementwise_type(
    ufunc: np.ufunc, types: Sequence[ArrayType], constants: Sequence[Any] = ()
) -> ArrayType:
    """The type of a universal function's result; at least one argument is sparse.

    `constants` are the scalars among the arguments as far as they are known, None for others.
    """
    name = ufunc.__name__
    if not all(t.is_numeric for t in types):
        raise TypeError(f"{name} has no meaning for {' and '.join(str(t) for t in types)}")
    vector = next(t for t in types if t.is_sparse)
    if len(types) > 2:
        raise needs_dense(name, *types)
    if len(types) == 1 or all(t.is_sparse for t in types):
        if any(t.shape != vector.shape for t in types):
            raise _shapes_differ(name, *types)
        at_zero = _at_zero(ufunc)
        if at_zero != 0:
            raise _not_at_zero(ufunc, (0,) * ufunc.nin, at_zero)
        return vector
    side = 0 if types[0].is_sparse else 1
    other = types[1 - side]
    if other.shape not in ((), vector.shape):
        try:
            np.broadcast_shapes(other.shape, vector.shape)
        except ValueError:
            raise _shapes_differ(name, *types) from None
        raise needs_dense(name, *types)
    if name in ("add", "subtract") and other.shape:
        return vector.dense()
    if name == "multiply" or (side == 0 and name in _KEEPS_ZERO_ON_THE_LEFT):
        return vector
    constant = constants[1 - side] if constants else None
    if constant is None:
        raise needs_dense(name, *types)
    given = (0.0, constant) if side == 0 else (constant, 0.0)
    at_zero = _evaluated(ufunc, given)
    if at_zero != 0:
        raise _not_at_zero(ufunc, given, at_zero)
    return vector


def same_type(kind: ArrayType, **_: Any) -> ArrayType:
    """The rule of functions of each element that leave 0 at 0."""
    return kind


def matmul_type(a: ArrayType, b: ArrayType) -> ArrayType:
    """x @ w, x @ W, w @ x, W @ x and x @ x: dense."""
    if not (a.is_numeric and b.is_numeric):
        raise TypeError(f"matmul has no meaning for {a} and {b}")
    if not a.shape or not b.shape:
        raise ValueError(f"matmul needs vectors or matrices, not {a} and {b}")
    if len(a.shape) > 2 or len(b.shape) > 2:
        raise needs_dense("matmul", a, b)
    if a.shape[-1] != b.shape[0]:
        raise ValueError(f"matmul cannot multiply {a} by {b}: {a.shape[-1]} is not {b.shape[0]}")
    return ArrayType("float64", (*a.shape[:-1], *b.shape[1:]))


def outer_type(a: ArrayType, b: ArrayType) -> ArrayType:
    """A dense matrix; one side is dense."""
    if not (a.is_numeric and b.is_numeric):
        raise TypeError(f"outer has no meaning for {a} and {b}")
    if a.is_sparse and b.is_sparse:
        raise needs_dense("outer", a, b)
    return ArrayType("float64", (a.size, b.size))


def fold_type(name: str, result: str = "float64") -> Any:
    """The rule of a fold over all elements."""

    def infer(kind: ArrayType, axis: Any = None, keepdims: bool = False) -> ArrayType:
        if axis not in (None, 0, (0,)) or keepdims:
            raise needs_dense(f"{name} with axis={axis}, keepdims={keepdims}", kind)
        return ArrayType(result)

    return infer


def norm_type(
    kind: ArrayType, ord: Any = None, axis: Any = None, keepdims: bool = False
) -> ArrayType:
    """The 1-, the 2- and the greatest norm."""
    if axis not in (None, 0, (0,)) or keepdims or ord not in _NORMS:
        raise needs_dense(f"norm with ord={ord}, axis={axis}, keepdims={keepdims}", kind)
    return FLOAT64


def index_type(kind: ArrayType, key: tuple[Any, ...]) -> ArrayType:
    """x[i]: one element."""
    if len(key) != 1 or not isinstance(key[0], int):
        raise needs_dense("indexing by anything but one integer", kind)
    if not -kind.size <= key[0] < kind.size:
        raise IndexError(
            f"index {key[0]} is out of bounds for axis 0 with size {kind.size}; the array is {kind}"
        )
    return FLOAT64


def take_type(kind: ArrayType, indices: ArrayType, axis: int = 0) -> ArrayType:
    """x[i] where i is a value of one integer."""
    if not isinstance(kind, SparseType) or indices.shape or axis != 0:
        raise needs_dense("indexing by anything but one integer", kind, indices)
    if indices.numpy.kind not in "iu":
        raise TypeError(f"an index must be an integer, not {indices}")
    return FLOAT64

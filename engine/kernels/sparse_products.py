"""Products of sparse columns with dense arrays, added to what is there.

SciPy's compiled loops, called as its own matrices call them, but without making a matrix of each
block and without a fresh array of the dimension for each product: a block costs what it stores.
Either way the elements of a sum are added one by one in the order in which they are stored, so
that the blocks of a leaf, one after the other, give the bits of one product.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import _sparsetools

from scalops.engine.columns import Array, SparseColumn

# Names and argument orders of these have been the same since SciPy 0.8 (2010); they check the
# types and the contiguity of arrays, and let other threads run meanwhile.
_matvec: Any = _sparsetools.csr_matvec
_matvecs: Any = _sparsetools.csr_matvecs
_turned_matvec: Any = _sparsetools.csc_matvec
_turned_matvecs: Any = _sparsetools.csc_matvecs


def rows_times(x: SparseColumn, right: Array, out: Array | None = None) -> Array:
    """x @ right for each record: float64[rows] or float64[rows, k].

    `right`: float64[dimension] or float64[dimension, k], contiguous. `out` may lie in any way.
    """
    if out is not None and out.flags.c_contiguous:
        made = out
        made.fill(0.0)
    else:
        made = np.zeros((len(x), *right.shape[1:]))
    if right.ndim == 1:
        _matvec(len(x), x.dimension, *_stored(x), right, made)
    else:
        _matvecs(len(x), x.dimension, made.shape[1], *_stored(x), _flat(right), _flat(made))
    if out is None or made is out:
        return made
    out[...] = made
    return out


def add_products(x: SparseColumn, factors: Array, total: Array) -> None:
    """total += Σ s·x for `factors` float64[rows], Σ outer(x, u) for float64[rows, k]; contiguous.

    `total`: float64[dimension] or float64[dimension, k], contiguous.
    """
    if factors.ndim == 1:
        _turned_matvec(x.dimension, len(x), *_stored(x), factors, total)
    else:
        size = factors.shape[1]
        _turned_matvecs(x.dimension, len(x), size, *_stored(x), _flat(factors), _flat(total))


def _stored(x: SparseColumn) -> tuple[Array, Array, Array]:
    """Where records start, indices of the same integer type, values; made once for a column."""
    known: tuple[Array, Array, Array] | None = x.__dict__.get("_stored")
    if known is None:
        kind = np.int32 if len(x.values) < 2**31 else np.int64
        starts, indices = (np.ascontiguousarray(a, kind) for a in (x.indptr, x.indices))
        known = starts, indices, np.ascontiguousarray(x.values, np.float64)
        object.__setattr__(x, "_stored", known)
    return known


def _flat(array: Array) -> Array:
    """A contiguous array's elements, as a view: a copy would lose what is added."""
    return array.reshape(-1, copy=False)

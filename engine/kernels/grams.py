"""Weighted sums of outer products of a vector with itself: one triangle of a product."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from scalops.algebra.folds import Fold
from scalops.engine.blocks import Array

_PIECE = 64  # columns; products of fewer are slower per element


def gram(fold: Fold) -> Callable[[Any, Any], Array]:
    """(s, x) -> Xᵀ diag(s) X over a block, exactly symmetric.

    Where no weight is negative, with R = diag(√s) X it is Rᵀ R, BLAS's symmetric product: half
    the work of a product. Else one triangle is computed in stripes and mirrored.
    """
    own = threading.local()

    def scaled(s: Array, x: Array) -> Array:
        room: Array | None = getattr(own, "room", None)
        if room is None or len(room) < len(x):
            room = own.room = np.empty(x.shape, x.dtype)
        return np.multiply(s[:, None], x, out=room[: len(x)])

    def product(s: Array, x: Array) -> Array:
        if s.min() >= 0:
            root = scaled(np.sqrt(s), x)
            symmetric: Array = np.matmul(root.T, root)  # seen as A.T @ A: syrk
            return symmetric
        return _triangle(scaled(s, x), x)

    return product


def _triangle(u: Array, x: Array) -> Array:
    """Uᵀ X of a symmetric product: stripes of the upper triangle, mirrored."""
    size = x.shape[1]
    made = np.empty((size, size), x.dtype)
    for start in range(0, size, _PIECE):
        stop = min(size, start + _PIECE)
        np.matmul(u[:, start:stop].T, x[:, start:], out=made[start:stop, start:])
        made[stop:, start:stop] = made[start:stop, stop:].T
        corner = made[start:stop, start:stop]
        corner[...] = np.triu(corner) + np.triu(corner, 1).T
    return made

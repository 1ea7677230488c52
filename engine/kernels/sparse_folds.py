"""Folds of sparse columns to dense partials: sums, means, products and extremes.

A sum is added to the leaf's own partial: an array of the dimension is made once a leaf, and a
block costs what it stores where that is little beside the dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scalops.algebra.folds import Fold
from scalops.engine.columns import Array, SparseColumn, filtered
from scalops.engine.kernels.fold_forms import Form, Partial
from scalops.engine.kernels.kernel import Vector
from scalops.engine.kernels.sparse import rows_of, transposed_matrix

# A numeric constant: where the dimension is more than this many times what a block stores,
# elements are added one by one. Measured once: 3.1 ns for one, 1.8 ns in a product, which also
# costs 0.3 ns for each element of the dimension (AVX2, 75,000 stored, a dimension of 1e5).
_SCATTER_FACTOR = 4


class _Added(Form):
    """A sum of what `_records` gives, in place; with the number of records for a mean."""

    def __init__(self, fold: Fold) -> None:
        super().__init__(fold)
        self._mean = fold.kind.startswith("mean")

    def block(self, vectors: Sequence[Vector], rows: int) -> Partial:
        return self.extend(None, vectors, rows, None)

    def extend(
        self, partial: Partial, vectors: Sequence[Vector], rows: int, source: object
    ) -> Partial:
        masks = [m for _, m in vectors if m is not None]
        columns = [v for v, _ in vectors]
        if masks:
            mask = np.logical_and.reduce(masks)
            columns = [filtered(c, mask) for c in columns]
            rows = int(np.count_nonzero(mask))
        if rows == 0:
            return partial
        total, count = (partial or (None, 0)) if self._mean else (partial, 0)
        total = self._added(total, columns)
        return (total, count + rows) if self._mean else total

    def _added(self, total: Array | None, columns: Sequence[Any]) -> Array:
        raise NotImplementedError

    def merge(self, left: Partial, right: Partial) -> Partial:
        if self._mean:
            return left[0] + right[0], left[1] + right[1]
        return left + right

    def whole(self, partial: Partial) -> Any:
        return partial[0] / partial[1] if self._mean and partial is not None else partial


class Sum(_Added):
    """Σ x."""

    def _added(self, total: Array | None, columns: Sequence[Any]) -> Array:
        (x,) = columns
        if total is None:
            return np.bincount(x.indices, x.values, minlength=x.dimension)
        if _is_scattered(x):
            np.add.at(total, x.indices, x.values)
        else:
            total += np.bincount(x.indices, x.values, minlength=x.dimension)
        return total


class Scaled(_Added):
    """Σ s·x, without the products."""

    def _added(self, total: Array | None, columns: Sequence[Any]) -> Array:
        s, x = columns
        if total is None or not _is_scattered(x):
            made: Array = transposed_matrix(x) @ np.asarray(s, np.float64)
            if total is None:
                return made
            total += made
            return total
        np.add.at(total, x.indices, x.values * np.repeat(s, x.lengths))
        return total


class Outer(_Added):
    """Σ outer(u, x) or Σ outer(x, u); either way the sum is held as [dimension, k]."""

    def __init__(self, fold: Fold) -> None:
        super().__init__(fold)
        self._side = 0 if fold.arguments[0].type.is_sparse else 1

    def _added(self, total: Array | None, columns: Sequence[Any]) -> Array:
        x, u = columns[self._side], np.asarray(columns[1 - self._side], np.float64)
        if total is None or not _is_scattered(x):
            made: Array = transposed_matrix(x) @ np.ascontiguousarray(u)
            if total is None:
                return made
            total += made
            return total
        size = u.shape[1]
        at = (x.indices.astype(np.int64) * size)[:, None] + np.arange(size)
        products = x.values[:, None] * u[rows_of(x)]
        np.add.at(total.reshape(-1), at.reshape(-1), products.reshape(-1))
        return total

    def whole(self, partial: Partial) -> Any:
        found = super().whole(partial)
        return found if found is None or self._side == 0 else np.ascontiguousarray(found.T)


class Extreme(Form):
    """(greatest or least of what is stored, how many records store each element, records)."""

    def __init__(self, fold: Fold) -> None:
        super().__init__(fold)
        self._ufunc = np.maximum if fold.kind == "maximum" else np.minimum
        self._lowest = -np.inf if fold.kind == "maximum" else np.inf

    def block(self, vectors: Sequence[Vector], rows: int) -> Partial:
        values, mask = vectors[0]
        x: SparseColumn = values if mask is None else filtered(values, mask)
        if len(x) == 0:
            return None
        found: Array = np.full(x.dimension, self._lowest)
        self._ufunc.at(found, x.indices, x.values)
        return found, np.bincount(x.indices, minlength=x.dimension), len(x)

    def merge(self, left: Partial, right: Partial) -> Partial:
        return self._ufunc(left[0], right[0]), left[1] + right[1], left[2] + right[2]

    def whole(self, partial: Partial) -> Any:
        if partial is None:
            return None
        found, stored, records = partial
        return np.where(stored < records, self._ufunc(found, 0.0), found)


def _is_scattered(x: SparseColumn) -> bool:
    return x.dimension > _SCATTER_FACTOR * len(x.values)


SPARSE_FORMS: dict[str, Callable[[Fold], Form]] = {
    "sum": Sum,
    "add": Sum,
    "mean": Sum,
    "minimum": Extreme,
    "maximum": Extreme,
    "sum_scaled": Scaled,
    "add_scaled": Scaled,
    "mean_scaled": Scaled,
    "sum_outer": Outer,
    "add_outer": Outer,
    "mean_outer": Outer,
}

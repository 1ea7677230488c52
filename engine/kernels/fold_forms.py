"""What a fold does to a block and to two partials: sums, extremes, truths, means, products.

A form is about records that are there: where none contributed, a partial is None, and that is
the `FoldKernel`'s matter. Merging keeps the order of its operands: only associativity is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from scalops.algebra.folds import Fold, terms
from scalops.engine.columns import filtered
from scalops.engine.kernels.grams import gram
from scalops.engine.kernels.kernel import Vector

Partial = Any
BlockFold = Callable[[Sequence[Vector], int], Partial]

UFUNCS: dict[str, np.ufunc] = {
    "sum": np.add, "add": np.add, "multiply": np.multiply, "minimum": np.minimum,
    "maximum": np.maximum, "any": np.logical_or, "all": np.logical_and,
    "logical_or": np.logical_or, "logical_and": np.logical_and,
    "bitwise_or": np.bitwise_or, "bitwise_and": np.bitwise_and,
}  # fmt: skip


class Form:
    """How one kind of fold is computed."""

    def __init__(self, fold: Fold) -> None:
        self.fold = fold

    def bind(self, slots: Sequence[Any], version: int) -> None:
        """Bind driver values, where a user's functions read them."""

    def block(self, vectors: Sequence[Vector], rows: int) -> Partial:
        """The partial of a block; None where no record contributes."""
        raise NotImplementedError

    def merge(self, left: Partial, right: Partial) -> Partial:
        """The partial of left's records followed by right's; neither is None."""
        raise NotImplementedError

    def extend(
        self, partial: Partial, vectors: Sequence[Vector], rows: int, source: object
    ) -> Partial:
        """The partial after a block more; `source` tells blocks apart, see `Block.identity`."""
        made = self.block(vectors, rows)
        if made is None or partial is None:
            return owned(partial if made is None else made)
        return self.merge(partial, owned(made))

    def whole(self, partial: Partial) -> Any:
        """The result, or what all of its parts are taken from; the partial may be None."""
        return partial

    def part(self, whole: Any, fold: Fold) -> Any:
        """The result of a fold that shares this computation."""
        return whole


def owned(partial: Partial) -> Partial:
    """A partial that is no view of a reused buffer."""
    if isinstance(partial, np.ndarray) and partial.base is not None:
        return partial.copy()
    return partial


def known(vector: Vector) -> Any:
    """A column without its nulls."""
    values, mask = vector
    return values if mask is None else filtered(values, mask)


class Count(Form):
    """Records, or those whose argument is not null."""

    def block(self, vectors: Sequence[Vector], rows: int) -> Partial:
        if not vectors or vectors[0][1] is None:
            return rows
        return int(np.count_nonzero(vectors[0][1]))

    def merge(self, left: Partial, right: Partial) -> Partial:
        return left + right

    def part(self, whole: Any, fold: Fold) -> Any:
        return not whole if fold.kind == "is_empty" else whole


class Elementwise(Form):
    """A NumPy function's `reduce` over the block axis."""

    def __init__(self, fold: Fold) -> None:
        super().__init__(fold)
        self._ufunc = UFUNCS[fold.kind]
        truths = ("any", "all", "logical_and", "logical_or")
        same = fold.arguments[0].type.name == fold.type.name or fold.kind in truths
        self._dtype = None if same else fold.type.numpy

    def block(self, vectors: Sequence[Vector], rows: int) -> Partial:
        values = known(vectors[0])
        if len(values) == 0:
            return None
        return self._ufunc.reduce(values, axis=0, dtype=self._dtype)

    def merge(self, left: Partial, right: Partial) -> Partial:
        return self._ufunc(left, right)


class StringExtreme(Form):
    """The least or greatest string, by code points."""

    def __init__(self, fold: Fold) -> None:
        super().__init__(fold)
        least = fold.kind == "minimum"
        self._of_block, self._of_two = (pc.min, min) if least else (pc.max, max)

    def block(self, vectors: Sequence[Vector], rows: int) -> Partial:
        return self._of_block(known(vectors[0])).as_py()

    def merge(self, left: Partial, right: Partial) -> Partial:
        return self._of_two(left, right)


class Product(Form):
    """Σ s·x or Σ outer(u, v), as one product of matrices."""

    def __init__(self, fold: Fold) -> None:
        super().__init__(fold)
        _, form = fold.kind.split("_")
        if form == "terms":
            self._products = [(_PRODUCTS[f](fold), own) for f, own in terms(fold)]
        else:
            self._products = [(_PRODUCTS[form](fold), slice(None))]

    def block(self, vectors: Sequence[Vector], rows: int) -> Partial:
        columns = _all_known(vectors)
        if len(columns[0]) == 0:
            return None
        (product, own), *others = self._products
        total = product(*columns[own])
        for product, own in others:
            total = total + product(*columns[own])
        return total

    def merge(self, left: Partial, right: Partial) -> Partial:
        return left + right


def _all_known(vectors: Sequence[Vector]) -> list[Any]:
    """Columns without the records that have a null in any of them."""
    masks = [m for _, m in vectors if m is not None]
    if not masks:
        return [v for v, _ in vectors]
    mask = np.logical_and.reduce(masks)
    return [filtered(v, mask) for v, _ in vectors]


def _scaled(fold: Fold) -> Callable[[Any, Any], Any]:
    shape, size = fold.type.shape, fold.type.size
    if len(shape) == 1:
        return np.matmul
    return lambda s, x: np.matmul(s, x.reshape(len(x), size)).reshape(shape)


def _outer_products(fold: Fold) -> Callable[[Any, Any], Any]:
    return lambda u, v: np.matmul(u.T, v)


def _same(fold: Fold) -> Callable[[Any], Any]:
    """n·c, of a column that is c for every record."""
    return lambda c: len(c) * c[0]


_PRODUCTS: dict[str, Callable[[Fold], Callable[..., Any]]] = {
    "scaled": _scaled,
    "outer": _outer_products,
    "gram": gram,
    "same": _same,
}


class Mean(Form):
    """(sum, number of records); the sum is of the column or of products."""

    def __init__(self, fold: Fold) -> None:
        super().__init__(fold)
        # As np.mean: integers are added up in float64, float16 in float32.
        single = fold.type.name == "float16"
        self._dtype = np.dtype("float32") if single else fold.type.numpy
        self._product = Product(fold) if fold.kind != "mean" else None

    def block(self, vectors: Sequence[Vector], rows: int) -> Partial:
        if self._product is None:
            values = known(vectors[0])
            if len(values) == 0:
                return None
            return np.add.reduce(values, axis=0, dtype=self._dtype), len(values)
        masks = [m for _, m in vectors if m is not None]
        count = int(np.count_nonzero(np.logical_and.reduce(masks))) if masks else rows
        total = self._product.block(vectors, rows)
        return None if total is None else (total, count)

    def merge(self, left: Partial, right: Partial) -> Partial:
        return left[0] + right[0], left[1] + right[1]

    def whole(self, partial: Partial) -> Any:
        return None if partial is None else partial[0] / partial[1]


class Moments(Form):
    """(number, mean, its remainder, sum of squared deviations); the result is a variance.

    In float64, merged as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm
    for computing sample variances" (1979). The remainder is what rounding has taken from the
    mean, so that nothing cancels, however far from 0 the numbers lie.
    """

    def block(self, vectors: Sequence[Vector], rows: int) -> Partial:
        values = known(vectors[0])
        count = len(values)
        if count == 0:
            return None
        mean = np.add.reduce(values, axis=0, dtype=np.float64) / count
        apart = values - mean
        rest = np.add.reduce(apart, axis=0)
        squares = np.add.reduce(np.square(apart, out=apart), axis=0)
        return count, mean, rest / count, squares - rest * rest / count

    def merge(self, left: Partial, right: Partial) -> Partial:
        (n, mean, rest, squares), (m, other, remainder, others) = left, right
        apart, count = (other - mean) + (remainder - rest), n + m
        moved = rest + apart * (m / count)
        new = mean + moved
        together = squares + others + apart * apart * (n * m / count)
        return count, new, moved - (new - mean), together

    def whole(self, partial: Partial) -> Any:
        if partial is None:
            return None
        ddof = dict(self.fold.parameters)["ddof"]
        count, _, _, squares = partial
        variance = np.divide(squares, max(count - ddof, 0))
        return np.sqrt(variance) if self.fold.kind == "std" else variance

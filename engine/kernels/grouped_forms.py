"""What a fold does to the records of each group: counts, sums, means, extremes, moments.

As in `fold_forms.py`, but for all groups at once: a partial has an entry for each group. Of two
partials the left one's groups are the first of the merged ones, and `places` says which of them
the right one's are, int64[groups of the right one]; no two are the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import sparse

from scalops.algebra.folds import Fold
from scalops.engine.blocks import BLOCK_BYTES
from scalops.engine.columns import Array, SparseColumn, filtered
from scalops.engine.kernels.fold_forms import UFUNCS
from scalops.engine.kernels.grouping import Groups
from scalops.engine.kernels.kernel import Vector
from scalops.engine.kernels.sparse import rows_of

Partial = Any


class GroupedForm:
    """How one kind of fold is computed for groups.

    `by_group`: it needs a group's records together, in order; partials cannot be merged.
    """

    by_group = False

    def __init__(self, fold: Fold) -> None:
        self.fold = fold

    def bind(self, slots: Sequence[Any], version: int) -> None:
        """Bind driver values, where a user's functions read them."""

    def block(self, groups: Groups, vectors: Sequence[Vector]) -> Partial:
        """The partial of these records."""
        raise NotImplementedError

    def merge(self, left: Partial, right: Partial, places: Array, count: int) -> Partial:
        """The partial of left's records followed by right's, with `count` groups."""
        raise NotImplementedError

    def take(self, partial: Partial, rows: Array, count: int) -> Partial:
        """The partial of these groups alone, int[...], of the `count` that it has."""
        if isinstance(partial, tuple):
            return tuple(values[rows] for values in partial)
        return partial[rows]

    def whole(self, partial: Partial, count: int) -> Any:
        """The results, or what all parts of them are taken from."""
        return partial

    def part(self, whole: Any, fold: Fold, count: int) -> Vector:
        """The values of a fold that shares this computation, and which groups have one."""
        raise NotImplementedError


def grown(values: Array, count: int) -> Array:
    """The array with `count` entries, those that are new being 0; a new one."""
    made = np.zeros((count, *values.shape[1:]), values.dtype)
    made[: len(values)] = values
    return made


def known(groups: Groups, vectors: Sequence[Vector]) -> tuple[Groups, list[Any]]:
    """The records in which no vector is null."""
    masks = [m for _, m in vectors if m is not None]
    columns = [v for v, _ in vectors]
    if not masks:
        return groups, columns
    mask = masks[0] if len(masks) == 1 else np.logical_and.reduce(masks)
    return groups.where(mask), [filtered(c, mask) for c in columns]


def flat(values: Array) -> Array:
    """The array as [rows, size]."""
    return values.reshape(len(values), math.prod(values.shape[1:]))


class Count(GroupedForm):
    """Records, or those whose argument is not null."""

    def block(self, groups: Groups, vectors: Sequence[Vector]) -> Partial:
        return groups.where(vectors[0][1] if vectors else None).counts

    def merge(self, left: Partial, right: Partial, places: Array, count: int) -> Partial:
        made = grown(left, count)
        made[places] += right
        return made

    def part(self, whole: Any, fold: Fold, count: int) -> Vector:
        return (whole == 0 if fold.kind == "is_empty" else whole), None


class Total(GroupedForm):
    """(sum, number of records): of columns, of scaled columns or of outer products.

    Sums and means of the same share it. Floats are added up in float64, in table order.
    """

    def __init__(self, fold: Fold) -> None:
        super().__init__(fold)
        self._dtype = accumulator(fold)
        self._of = _outer_sums if "outer" in fold.kind else _scaled_sums

    @staticmethod
    def computation(fold: Fold) -> Any:
        """What is computed for the fold: equal for those that can share it."""
        return fold.kind.partition("_")[2], fold.arguments, accumulator(fold)

    def block(self, groups: Groups, vectors: Sequence[Vector]) -> Partial:
        groups, columns = known(groups, vectors)
        totals = self._of(groups, columns, self._dtype)
        return totals.reshape(groups.count, *self.fold.type.shape), groups.counts

    def merge(self, left: Partial, right: Partial, places: Array, count: int) -> Partial:
        totals, numbers = grown(left[0], count), grown(left[1], count)
        totals[places] += right[0]
        numbers[places] += right[1]
        return totals, numbers

    def part(self, whole: Any, fold: Fold, count: int) -> Vector:
        totals, numbers = whole
        if fold.kind.startswith("mean"):
            axes = tuple(range(1, totals.ndim))
            with np.errstate(all="ignore"):
                totals = totals / np.expand_dims(numbers, axes)
        return totals, numbers > 0


def accumulator(fold: Fold) -> np.dtype[Any]:
    """The type in which a sum is added up."""
    own = fold.type.numpy
    return np.dtype(np.float64) if own.kind == "f" else own


def _scaled_sums(groups: Groups, columns: Sequence[Any], dtype: np.dtype[Any]) -> Array:
    """dtype[groups, size]: Σ x, or Σ s·x."""
    x = columns[-1]
    s = None if len(columns) == 1 else np.asarray(columns[0], dtype)
    if isinstance(x, SparseColumn):
        values = x.values if s is None else x.values * np.repeat(s, x.lengths)
        at = groups.ids[rows_of(x)] * x.dimension + x.indices
        return _sums(at, values, groups.count * x.dimension)
    if x.ndim > 1:
        return _products(groups, s, flat(x), dtype)
    if s is not None:
        x = s * x
    if dtype.kind == "f":
        return _sums(groups.ids, x, groups.count)
    totals = np.zeros(groups.count, dtype)
    np.add.at(totals, groups.ids, x.astype(dtype, copy=False))
    return totals


def _sums(ids: Array, values: Array, count: int) -> Array:
    """float64[count]: what is added up in order; bincount of nothing would be integers."""
    return np.bincount(ids, values, count) if len(ids) else np.zeros(count)


def _products(groups: Groups, s: Array | None, x: Array, dtype: np.dtype[Any]) -> Array:
    """The product of the groups' matrix, one entry in each column, with x[rows, size]."""
    rows, count = len(x), groups.count
    if not x.size:
        return np.zeros((count, x.shape[1]), dtype)
    kind = np.int32 if max(rows, count) < 2**31 else np.int64
    entries = np.ones(rows, dtype) if s is None else s
    places: Any = (entries, groups.ids.astype(kind), np.arange(rows + 1, dtype=kind))
    made: Array = sparse.csc_array(places, shape=(count, rows)) @ x.astype(dtype, copy=False)
    return made


def _outer_sums(groups: Groups, columns: Sequence[Any], dtype: np.dtype[Any]) -> Array:
    """dtype[groups, k, l]: Σ outer(u, v)."""
    u, v = columns
    if isinstance(u, SparseColumn):
        return _sparse_outer(groups, u, v, dtype)
    if isinstance(v, SparseColumn):
        return _sparse_outer(groups, v, u, dtype).transpose(0, 2, 1)
    u, v = (flat(np.asarray(c, dtype)) for c in (u, v))
    made = np.zeros((groups.count, u.shape[1], v.shape[1]), dtype)
    order, starts = groups.segments.order, groups.segments.starts
    # Groups of one size are multiplied together: there are few sizes, however many groups.
    by_size = np.argsort(groups.counts, kind="stable")
    sizes, ends = np.unique(groups.counts[by_size], return_index=True)
    bounds = [*ends.tolist(), groups.count]
    for size, (first, last) in zip(sizes.tolist(), pairwise(bounds), strict=True):
        if size == 0:
            continue
        width = dtype.itemsize * (size * (u.shape[1] + v.shape[1]) + u.shape[1] * v.shape[1])
        step = max(1, BLOCK_BYTES // max(1, width))
        for at in range(first, last, step):
            some = by_size[at : min(at + step, last)]
            rows = order[starts[some][:, None] + np.arange(size)]
            left = u.take(rows, axis=0)
            right = left if columns[0] is columns[1] else v.take(rows, axis=0)
            made[some] = np.matmul(left.transpose(0, 2, 1), right)
    return made


def _sparse_outer(groups: Groups, x: SparseColumn, u: Any, dtype: np.dtype[Any]) -> Array:
    """dtype[groups, dimension, k]: Σ outer(x, u)."""
    rows = rows_of(x)
    entries = Groups(groups.ids[rows] * x.dimension + x.indices, groups.count * x.dimension)
    wide = flat(np.asarray(u, dtype))
    made = _products(entries, x.values, wide[rows], dtype)
    return made.reshape(groups.count, x.dimension, wide.shape[1])


class Extreme(GroupedForm):
    """(values, which groups have one): a NumPy function's `reduce` over each group."""

    def __init__(self, fold: Fold) -> None:
        super().__init__(fold)
        self._ufunc = UFUNCS[fold.kind]
        if fold.kind == "add":  # bools: a + b is a or b
            self._ufunc = np.logical_or
        self._truth = self._ufunc in (np.logical_or, np.logical_and)
        self._extreme = fold.kind in ("minimum", "maximum")

    def block(self, groups: Groups, vectors: Sequence[Vector]) -> Partial:
        groups, (values,) = known(groups, vectors)
        there = groups.counts > 0
        if self._truth:
            values = values.astype(bool, copy=False)
        if values.ndim == 1 and self._extreme and values.dtype.kind in "iuf":
            made = extremes(groups, values, self.fold.kind == "minimum")
        elif values.ndim == 1 and self._truth:
            every = self._ufunc is np.logical_and
            made = extremes(groups, values.view(np.uint8), every).view(bool)
        else:
            made = self._reduced(groups, values, there)
        return made, there

    def _reduced(self, groups: Groups, values: Array, there: Array) -> Array:
        made = np.zeros((groups.count, *values.shape[1:]), values.dtype)
        starts = groups.segments.starts[:-1][there]
        if len(starts) and made.size:
            ordered = values[groups.segments.order]
            kind = None if values.dtype.kind in "mM" else values.dtype  # small integers stay so
            made[there] = self._ufunc.reduceat(ordered, starts, axis=0, dtype=kind)
        return made

    def merge(self, left: Partial, right: Partial, places: Array, count: int) -> Partial:
        made, there = grown(left[0], count), grown(left[1], count)
        both = there[places] & right[1]
        made[places[both]] = self._ufunc(made[places[both]], right[0][both])
        new = right[1] & ~there[places]
        made[places[new]] = right[0][new]
        there[places] |= right[1]
        return made, there

    def part(self, whole: Any, fold: Fold, count: int) -> Vector:
        values, there = whole
        return values, there


def extremes(groups: Groups, values: Array, least: bool) -> Array:
    """The least or greatest number of each group; where there is none, what does not matter."""
    kind = values.dtype
    if kind.kind == "f":
        start: Any = np.inf if least else -np.inf
    else:
        start = np.iinfo(kind).max if least else np.iinfo(kind).min
    made = np.full(groups.count, start, kind)
    (np.minimum if least else np.maximum).at(made, groups.ids, values)
    if kind == np.uint8:  # of truths: nothing is 0
        made[groups.counts == 0] = 0
    return made


class SparseExtreme(GroupedForm):
    """(greatest or least of what is stored, how many store each element, records)."""

    def __init__(self, fold: Fold) -> None:
        super().__init__(fold)
        self._least = fold.kind == "minimum"
        self._ufunc = np.minimum if self._least else np.maximum

    def block(self, groups: Groups, vectors: Sequence[Vector]) -> Partial:
        groups, (x,) = known(groups, vectors)
        at = groups.ids[rows_of(x)] * x.dimension + x.indices
        entries = Groups(at, groups.count * x.dimension)
        shape = (groups.count, x.dimension)
        found = extremes(entries, x.values, self._least).reshape(shape)
        return found, entries.counts.reshape(shape), groups.counts

    def merge(self, left: Partial, right: Partial, places: Array, count: int) -> Partial:
        found, stored, records = (grown(a, count) for a in left)
        found[len(left[0]) :] = np.inf if self._least else -np.inf
        found[places] = self._ufunc(found[places], right[0])
        stored[places] += right[1]
        records[places] += right[2]
        return found, stored, records

    def part(self, whole: Any, fold: Fold, count: int) -> Vector:
        found, stored, records = whole
        some = stored < records[:, None]
        return np.where(some, self._ufunc(found, 0.0), found), records > 0


class Moments(GroupedForm):
    """(number, mean, its remainder, sum of squared deviations), as `fold_forms.Moments`."""

    def block(self, groups: Groups, vectors: Sequence[Vector]) -> Partial:
        groups, (values,) = known(groups, vectors)
        wide = values.astype(np.float64, copy=False)
        numbers = groups.counts.reshape(-1, *[1] * (wide.ndim - 1))
        shape = (groups.count, *wide.shape[1:])

        def totals(x: Array) -> Array:
            return _scaled_sums(groups, [x], np.dtype(np.float64)).reshape(shape)

        with np.errstate(all="ignore"):
            divisor = np.maximum(numbers, 1)
            mean = totals(wide) / divisor
            apart = wide - mean[groups.ids]
            rest = totals(apart)
            squares = totals(np.square(apart, out=apart))
            return numbers, mean, rest / divisor, squares - rest * rest / divisor

    def merge(self, left: Partial, right: Partial, places: Array, count: int) -> Partial:
        own = [grown(a, count) for a in left]
        n, mean, rest, squares = (a[places] for a in own)
        m, other, remainder, others = right
        with np.errstate(all="ignore"):
            total = n + m
            divisor = np.maximum(total, 1)
            apart = (other - mean) + (remainder - rest)
            moved = rest + apart * (m / divisor)
            new = mean + moved
            both = (total, new, moved - (new - mean),
                    squares + others + apart * apart * (n * m / divisor))  # fmt: skip
        for target, made, theirs in zip(own, both, right, strict=True):
            target[places] = np.where(n == 0, theirs, np.where(m == 0, target[places], made))
        return tuple(own)

    def part(self, whole: Any, fold: Fold, count: int) -> Vector:
        numbers, _, _, squares = whole
        with np.errstate(all="ignore"):
            made = np.divide(squares, np.maximum(numbers - dict(fold.parameters)["ddof"], 0))
        there = numbers.reshape(count) > 0
        return (np.sqrt(made) if fold.kind == "std" else made), there

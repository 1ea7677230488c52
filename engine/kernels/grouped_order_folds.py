"""Folds of groups that choose or order values: first, last, argmin, argmax, n_unique, quantile.

Either a partial is the chosen records with their groups, and merging chooses among those of both
sides; or it is all values with their groups, in table order, which are arranged at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from scalops.algebra.dtypes import INT64, ListType
from scalops.algebra.explain import bytes_text
from scalops.algebra.folds import Fold
from scalops.engine.columns import (
    Array,
    ColumnData,
    blank,
    filtered,
    taken,
)
from scalops.engine.free_memory import require_free
from scalops.engine.kernels.grouped_forms import GroupedForm, Partial, extremes, flat, known
from scalops.engine.kernels.grouping import Groups, group_rows
from scalops.engine.kernels.kept_folds import lists_of, scattered, together
from scalops.engine.kernels.kernel import Vector

NOWHERE = -1
_HINT = (
    "group by more keys, so that each group has fewer records, filter() records, or fold the whole"
    " table without groups: that goes on in files; or use a machine with more memory"
)
_MOST_PIECES = 8  # of values of which those that differ are wanted


class Chosen(GroupedForm):
    """(groups, vectors): at most one record for each group, the values of which are results."""

    def _rows(self, groups: Groups, vectors: Sequence[Vector]) -> Array:
        """int64[groups]: which record is chosen, -1 for none."""
        raise NotImplementedError

    def block(self, groups: Groups, vectors: Sequence[Vector]) -> Partial:
        rows = self._rows(groups, vectors)
        owners = np.flatnonzero(rows != NOWHERE)
        return owners, [_taken(v, rows[owners]) for v in vectors]

    def merge(self, left: Partial, right: Partial, places: Array, count: int) -> Partial:
        owners = np.concatenate([left[0], places[right[0]]])
        kinds = [a.type for a in self.fold.arguments]
        return self.block(Groups(owners, count), together([left[1], right[1]], kinds))

    def take(self, partial: Partial, rows: Array, count: int) -> Partial:
        owners, vectors = partial
        return _of_groups(owners, vectors, rows, count)

    def part(self, whole: Any, fold: Fold, count: int) -> Vector:
        owners, vectors = whole
        values, mask = vectors[self._number(fold)]
        there: Array = np.zeros(count, bool)
        there[owners] = True if mask is None else mask
        at = np.zeros(count, np.int64)
        at[owners] = np.arange(len(owners))
        if len(owners) == 0:
            return blank(fold.type, count), there
        return taken(values, at), there

    def _number(self, fold: Fold) -> int:
        """Which vector has the values of a fold of this computation."""
        return 0


def _taken(vector: Vector, rows: Array) -> Vector:
    values, mask = vector
    return taken(values, rows), None if mask is None else mask[rows]


def _of_groups(
    owners: Array, vectors: Sequence[Vector], groups: Array, count: int
) -> tuple[Array, list[Vector]]:
    """The records of these groups of `count`, with the groups' new numbers."""
    numbers = np.full(count, NOWHERE, np.int64)
    numbers[groups] = np.arange(len(groups))
    own = numbers[owners]
    rows = np.flatnonzero(own != NOWHERE)
    return own[rows], [_taken(v, rows) for v in vectors]


def first_rows(groups: Groups, rows: Array | None = None) -> Array:
    """int64[groups]: the first of the records, or of these of them, in each group; -1: none."""
    if rows is None:
        rows = np.arange(groups.rows)
    made = np.full(groups.count, NOWHERE, np.int64)
    # Of several values for one place NumPy keeps the last.
    made[groups.ids[rows[::-1]]] = rows[::-1]
    return made


class End(Chosen):
    """The first or last value that is not null; of a whole record, the values as they are."""

    def __init__(self, fold: Fold) -> None:
        super().__init__(fold)
        self._last, self._record = fold.kind.startswith("last"), fold.kind.endswith("record")

    def _rows(self, groups: Groups, vectors: Sequence[Vector]) -> Array:
        mask = None if self._record else vectors[0][1]
        rows = np.arange(groups.rows) if mask is None else np.flatnonzero(mask)
        return first_rows(groups, rows[::-1] if self._last else rows)

    def _number(self, fold: Fold) -> int:
        return fold.output if self._record else 0


class Best(Chosen):
    """The record whose `by` is least or greatest, the first of equals; or a least string.

    A NaN comes before all numbers, as in np.argmax and np.argmin.
    """

    def __init__(self, fold: Fold) -> None:
        super().__init__(fold)
        self._least = fold.kind in ("argmin", "minimum")

    def _rows(self, groups: Groups, vectors: Sequence[Vector]) -> Array:
        by, mask = vectors[0]
        rows: Array | None = None
        if mask is not None:
            rows = np.flatnonzero(mask)
            groups, by = groups.where(mask), filtered(by, mask)
        values, bad = _comparable(by)
        numbers: Array | None = None
        if bad is not None:
            numbers = np.flatnonzero(~bad)
            found = first_rows(groups, np.flatnonzero(bad))
            groups, values = Groups(groups.ids[numbers], groups.count), values[numbers]
        best = extremes(groups, values, self._least)
        made = first_rows(groups, np.flatnonzero(values == best[groups.ids]))
        if numbers is not None:
            made = np.where(found != NOWHERE, found, numbers[made] if len(numbers) else made)
            made[(found == NOWHERE) & (groups.counts == 0)] = NOWHERE
        if rows is not None and len(rows):
            made = np.where(made != NOWHERE, rows[made], NOWHERE)
        return made

    def _number(self, fold: Fold) -> int:
        return 1 + fold.output if fold.kind.startswith("arg") else 0


def _comparable(by: ColumnData) -> tuple[Array, Array | None]:
    """Numbers in the values' order, and which of them come before all: NaN, and NaT."""
    if not isinstance(by, np.ndarray):
        ranks: Array = np.asarray(pc.rank(by, tiebreaker="dense")).astype(np.int64)
        return ranks, None
    if by.dtype.kind == "b":
        return by.view(np.uint8), None
    if by.dtype.kind == "f":
        bad = np.isnan(by)
        return by, bad if bad.any() else None
    if by.dtype.kind in "mM":
        bad = np.isnat(by)
        return by.view(np.int64), bad if bad.any() else None
    return by, None


class Kept(GroupedForm):
    """[(groups, vectors), ...]: records in table order, with the group of each.

    What is kept lies in files where the budget has no room, but what groups that are worked on at
    once have kept is arranged in memory: that takes `WORK` times as much.
    """

    WORK = 3.0
    nulls = False  # whether records with nulls are kept

    def block(self, groups: Groups, vectors: Sequence[Vector]) -> Partial:
        if self.nulls:
            return [(groups.ids, list(vectors))]
        own, columns = known(groups, vectors)
        return [self._compact(own, [(c, None) for c in columns])]

    def _compact(self, groups: Groups, vectors: list[Vector]) -> tuple[Array, list[Vector]]:
        """What is kept of a block."""
        return groups.ids, vectors

    def merge(self, left: Partial, right: Partial, places: Array, count: int) -> Partial:
        return [*left, *((places[owners], vectors) for owners, vectors in right)]

    def take(self, partial: Partial, rows: Array, count: int) -> Partial:
        return [_of_groups(owners, vectors, rows, count) for owners, vectors in partial]

    def together(self, partial: Partial, count: int) -> tuple[Groups, list[Vector]]:
        """All records that are kept, in table order.

        Raises: OutOfMemoryError where arranging them needs more memory than is left.
        """
        kept = sum(int(o.nbytes) + sum(int(v.nbytes) for v, _ in own) for o, own in partial)
        word, size = self.fold.word, int(self.WORK * kept)
        require_free(size, f"{word} of {count} groups, which keep {bytes_text(kept)}", _HINT)
        owners = np.concatenate([np.zeros(0, np.int64), *(o for o, _ in partial)])
        kinds = [a.type for a in self.fold.arguments]
        return Groups(owners, count), together([v for _, v in partial], kinds)


class Distinct(Kept):
    """How many values differ: NaN is one value, and 0.0 and -0.0 are one."""

    WORK = 8.0

    def _compact(self, groups: Groups, vectors: list[Vector]) -> tuple[Array, list[Vector]]:
        ids = (groups.ids, None)
        kinds = [INT64, self.fold.arguments[0].type]
        _, firsts = group_rows([ids, vectors[0]], kinds, groups.rows)
        return groups.ids[firsts], [_taken(vectors[0], firsts)]

    def merge(self, left: Partial, right: Partial, places: Array, count: int) -> Partial:
        made = super().merge(left, right, places, count)
        if len(made) > _MOST_PIECES:  # most values may be there many times
            made = [self._compact(*self.together(made, count))]
        return made

    def part(self, whole: Any, fold: Fold, count: int) -> Vector:
        owners, _ = self._compact(*self.together(whole, count))
        return np.bincount(owners, minlength=count), None


class Listed(Kept):
    """The values in table order, as lists."""

    def part(self, whole: Any, fold: Fold, count: int) -> Vector:
        groups, ((values, _),) = self.together(whole, count)
        kind = fold.type
        assert isinstance(kind, ListType)
        segments = groups.segments
        return lists_of(taken(values, segments.order), segments.starts, kind), None


class Scattered(Kept):
    """Arrays of the values by index, and which of them there are."""

    nulls = True

    def whole(self, partial: Partial, count: int) -> Any:
        groups, (index, values) = self.together(partial, count)
        return scattered(self.fold, index, values, groups.ids, count)

    def part(self, whole: Any, fold: Fold, count: int) -> Vector:
        return whole[fold.output], None


class Quantile(Kept):
    """np.quantile, linear between neighbours, of each group's values."""

    def part(self, whole: Any, fold: Fold, count: int) -> Vector:
        groups, ((values, _),) = self.together(whole, count)
        levels = np.asarray(dict(fold.parameters)["q"], np.float64)
        columns = flat(values)
        made = np.empty((count, levels.size, columns.shape[1]), fold.type.numpy)
        for j in range(columns.shape[1]):
            made[:, :, j] = quantiles(groups, columns[:, j], levels.reshape(-1), fold.type.numpy)
        return made.reshape(count, *fold.type.shape), groups.counts > 0


def quantiles(groups: Groups, values: Array, levels: Array, dtype: np.dtype[Any]) -> Array:
    """dtype[groups, levels]; NaN where a group has a NaN, what does not matter where it is empty.

    As NumPy has it: at place q (n - 1) of the sorted values, on the line between neighbours.
    """
    if not len(values):
        return np.zeros((groups.count, len(levels)), dtype)
    if values.dtype.kind == "b":
        values = values.view(np.uint8)
    ordered = values[np.lexsort((values, groups.ids))]
    last = np.cumsum(groups.counts) - 1
    first = last - groups.counts + 1
    places = np.maximum(groups.counts - 1, 0)[:, None] * levels
    below = np.floor(places).astype(np.int64)
    share = (places - below).astype(dtype)
    most = len(ordered) - 1
    low = np.minimum(first[:, None] + below, most)
    high = np.minimum(np.minimum(low + 1, np.maximum(last, 0)[:, None]), most)
    a, b = ordered[low].astype(dtype), ordered[high].astype(dtype)
    with np.errstate(all="ignore"):
        apart = b - a
        made = np.where(share < 0.5, a + apart * share, b - apart * (1 - share))
        made = np.where(a == b, a, made)
    result: Array = made
    if ordered.dtype.kind == "f":  # NaN is the greatest
        result[np.isnan(ordered[np.maximum(last, 0)])] = np.nan
    return result

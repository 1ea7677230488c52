"""Folds of groups by a user's function: an associative one in rounds, others group by group."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from scalops.algebra.folds import Fold
from scalops.engine.columns import Array, concatenated, sliced, taken
from scalops.engine.kernels.fold_forms import Form
from scalops.engine.kernels.grouped_forms import GroupedForm, Partial, known
from scalops.engine.kernels.grouped_order_folds import Chosen
from scalops.engine.kernels.grouping import Groups
from scalops.engine.kernels.kernel import Vector
from scalops.engine.kernels.pairwise import Combiner
from scalops.engine.opaque.results import column_of
from scalops.engine.value_program import typed

if TYPE_CHECKING:
    from scalops.engine.processes.runner import ProcessRunner


class Combined(Chosen):
    """Neighbours of a group are combined, for all groups at once, until each has one left.

    Records keep their order, so the function need not commute.
    """

    def __init__(self, fold: Fold, runner: ProcessRunner | None) -> None:
        super().__init__(fold)
        self._combiner = Combiner(fold, runner)

    def bind(self, slots: Sequence[Any], version: int) -> None:
        self._combiner.bind(slots, version)

    def block(self, groups: Groups, vectors: Sequence[Vector]) -> Partial:
        groups, columns = known(groups, vectors)
        columns = [taken(c, groups.segments.order) for c in columns]
        sizes = groups.counts[groups.counts > 0]
        while len(sizes) and int(sizes.max()) > 1:
            columns, sizes = self._round(columns, sizes)
        return np.flatnonzero(groups.counts), [(c, None) for c in columns]

    def _round(self, columns: list[Any], sizes: Array) -> tuple[list[Any], Array]:
        """The pairs of each run of `sizes` combined; what is left over keeps its place."""
        starts = np.cumsum(sizes) - sizes
        place = np.arange(int(sizes.sum())) - np.repeat(starts, sizes)
        even = place % 2 == 0
        paired = even & (place + 1 < np.repeat(sizes, sizes))
        at, alone = np.flatnonzero(paired), np.flatnonzero(even & ~paired)
        made = self._combiner.columns(
            [taken(c, at) for c in columns], [taken(c, at + 1) for c in columns]
        )
        order = np.argsort(np.concatenate([at, alone]), kind="stable")
        parts = zip(made, columns, self._combiner.kinds, strict=True)
        together = [concatenated([new, taken(old, alone)], kind) for new, old, kind in parts]
        return [taken(c, order) for c in together], (sizes + 1) // 2

    def _number(self, fold: Fold) -> int:
        return fold.output


class OneByOne(GroupedForm):
    """A fold whose records are gone through one by one, group after group."""

    by_group = True

    def __init__(self, fold: Fold, form: Form) -> None:
        super().__init__(fold)
        self._form = form

    def bind(self, slots: Sequence[Any], version: int) -> None:
        self._form.bind(slots, version)

    def block(self, groups: Groups, vectors: Sequence[Vector]) -> Partial:
        segments = groups.segments
        ordered = [
            (taken(v, segments.order), None if m is None else m[segments.order]) for v, m in vectors
        ]
        partials = []
        ends = segments.starts.tolist()
        for start, stop in pairwise(ends):
            own = [
                (sliced(v, start, stop), None if m is None else m[start:stop]) for v, m in ordered
            ]
            partials.append(self._form.extend(None, own, stop - start, None))
        return partials

    def merge(self, left: Partial, right: Partial, places: Array, count: int) -> Partial:
        made = [*left, *[None] * (count - len(left))]
        for place, other in zip(places.tolist(), right, strict=True):
            own = made[place]
            if other is not None:
                made[place] = other if own is None else self._form.merge(own, other)
        return made

    def whole(self, partial: Partial, count: int) -> Any:
        return [self._form.whole(p) for p in partial]

    def part(self, whole: Any, fold: Fold, count: int) -> Vector:
        items = [typed(self._form.part(one, fold), fold.type) for one in whole]
        return column_of(items, fold.type.strong())

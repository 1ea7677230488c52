"""The folds of groups: records to partials by group, partials merged, partials to columns.

A fold that has no value over a group is null there, or what the fold is over no records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalops.algebra.folds import Fold, OpaqueAggregate, Transition
from scalops.engine.columns import Array, arrow_type
from scalops.engine.kernels import grouped_forms, grouped_order_folds
from scalops.engine.kernels.folds import form_of
from scalops.engine.kernels.grouped_forms import GroupedForm, Partial
from scalops.engine.kernels.grouping import Groups
from scalops.engine.kernels.kernel import Vector

if TYPE_CHECKING:
    from scalops.engine.processes.runner import ProcessRunner

Run = Callable[[Callable[[int, int], None], int], None]

_FORMS: dict[str, type[GroupedForm]] = {
    **dict.fromkeys(("count", "is_empty"), grouped_forms.Count),
    **dict.fromkeys(
        ("sum", "add", "mean", "sum_scaled", "add_scaled", "mean_scaled", "sum_outer",
         "add_outer", "mean_outer"),
        grouped_forms.Total,
    ),
    **dict.fromkeys(("var", "std"), grouped_forms.Moments),
    **dict.fromkeys(
        ("first", "last", "first_record", "last_record"), grouped_order_folds.End
    ),
    **dict.fromkeys(("argmin", "argmax"), grouped_order_folds.Best),
    "n_unique": grouped_order_folds.Distinct,
    "quantile": grouped_order_folds.Quantile,
    "collect_list": grouped_order_folds.Listed,
    "to_array": grouped_order_folds.Scattered,
}  # fmt: skip


def _form(fold: Fold, runner: ProcessRunner | None) -> GroupedForm:
    if isinstance(fold, (Transition, OpaqueAggregate)) or fold.kind == "reduce":
        from scalops.engine.kernels.grouped_functions import Combined, OneByOne

        return (
            Combined(fold, runner)
            if fold.kind == "reduce"
            else OneByOne(fold, form_of(fold, runner))
        )
    if fold.kind in ("minimum", "maximum") and fold.arguments[0].type.is_string:
        return grouped_order_folds.Best(fold)
    if fold.kind in ("minimum", "maximum") and fold.arguments[0].type.is_sparse:
        return grouped_forms.SparseExtreme(fold)
    if fold.kind == "add" and fold.type.name == "bool":
        return grouped_forms.Extreme(fold)
    return _FORMS.get(fold.kind, grouped_forms.Extreme)(fold)


def _computation(fold: Fold) -> Any:
    """What is equal for folds whose values are parts of one computation."""
    if _FORMS.get(fold.kind) is grouped_forms.Total:
        return grouped_forms.Total.computation(fold)
    return fold.computation


class GroupedFolds:
    """The folds over groups; parts of one computation are computed once.

    `arguments` are the names of the columns that they read, in the order of `block`'s vectors.
    A leaf is a list of partials, one for each computation.
    """

    def __init__(self, folds: Sequence[Fold], runner: ProcessRunner | None = None) -> None:
        shared: dict[Any, list[int]] = {}
        for i, fold in enumerate(folds):
            shared.setdefault(_computation(fold), []).append(i)
        self._folds = list(folds)
        self._members = list(shared.values())
        self._forms = [_form(folds[m[0]], runner) for m in self._members]
        self.by_group = any(f.by_group for f in self._forms)
        self.keeps_records = any(isinstance(f, grouped_order_folds.Kept) for f in self._forms)

    def __len__(self) -> int:
        return len(self._forms)

    def bind(self, slots: Sequence[Any], version: int) -> None:
        """Bind driver values."""
        for form in self._forms:
            form.bind(slots, version)

    def block(self, groups: Groups, vectors: Mapping[str, Vector]) -> list[Partial]:
        """The partials of these records, whose columns are `vectors`."""
        return [self.one(i, groups, vectors) for i in range(len(self._forms))]

    def one(self, number: int, groups: Groups, vectors: Mapping[str, Vector]) -> Partial:
        """The partial of one computation."""
        form = self._forms[number]
        own = [vectors[a.name] for a in form.fold.arguments]  # type: ignore[attr-defined]
        return form.block(groups, own)

    def merge(
        self, left: list[Partial], right: list[Partial], places: Array, count: int
    ) -> list[Partial]:
        """Two leaves as one, left's records before right's; see `grouped_forms`."""
        parts = zip(self._forms, left, right, strict=True)
        return [f.merge(a, b, places, count) for f, a, b in parts]

    def take(self, leaf: list[Partial], rows: Array, count: int) -> list[Partial]:
        """The partials of these groups alone, of the `count` that there are."""
        return [f.take(p, rows, count) for f, p in zip(self._forms, leaf, strict=True)]

    def finish(self, leaf: list[Partial], count: int) -> list[Vector]:
        """The folds' columns, in their order."""
        columns: list[Vector] = [(None, None)] * len(self._folds)
        for form, partial, members in zip(self._forms, leaf, self._members, strict=True):
            whole = form.whole(partial, count)
            for m in members:
                columns[m] = self._column(form, whole, self._folds[m], count)
        return columns

    def over(self, groups: Groups, vectors: Mapping[str, Vector], run: Run) -> list[Vector]:
        """The folds' columns over all records, each computation a task."""
        leaf: list[Partial] = [None] * len(self._forms)

        def task(worker: int, index: int) -> None:
            leaf[index] = self.one(index, groups, vectors)

        run(task, len(leaf))
        return self.finish(leaf, groups.count)

    def _column(self, form: GroupedForm, whole: Any, fold: Fold, count: int) -> Vector:
        values, there = form.part(whole, fold, count)
        kind = fold.type.strong()
        if isinstance(values, np.ndarray):
            # In the order of its indices, so that it lies in memory alike wherever it was made.
            values = values.astype(kind.numpy, order="C", copy=False)
        if there is None or there.all():
            return values, None
        if fold.empty is None:
            if isinstance(values, pa.Array):  # which keeps its nulls
                values = pc.if_else(pa.array(there), values, pa.scalar(None, values.type))
            elif isinstance(values, np.ndarray):
                values = values.copy()  # which other folds may read
                values[~there] = np.zeros((), values.dtype)
            return values, there
        if isinstance(values, pa.Array):
            filled = pa.scalar(fold.empty, arrow_type(kind))
            return pc.if_else(pa.array(there), values, filled), None
        values = values.copy()
        values[~there] = np.asarray(fold.empty, kind.numpy)
        return values, None

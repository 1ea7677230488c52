"""Kernels of folds: a block to a partial, two partials to one, a partial to the result.

A partial is None where no record contributed, so that over nothing each fold can say what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scalops.algebra.errors import DataError
from scalops.algebra.expressions import Expression
from scalops.algebra.folds import Fold, OpaqueAggregate, Transition
from scalops.algebra.segment_folds import Segment
from scalops.engine.kept_values import KeptValues
from scalops.engine.kernels import fold_forms, kept_folds, order_folds
from scalops.engine.kernels.fold_forms import Form, Partial
from scalops.engine.kernels.kernel import Vector
from scalops.engine.kernels.pairwise import Pairwise
from scalops.engine.kernels.segment_folds import Segmented
from scalops.engine.kernels.sparse_folds import SPARSE_FORMS, Added
from scalops.engine.kernels.squares import WeightedSquares
from scalops.engine.value_program import typed

if TYPE_CHECKING:
    from scalops.engine.processes.runner import ProcessRunner

__all__ = ["FoldKernel", "FoldSet", "Partial"]

_FORMS: dict[str, type[Form]] = {
    "count": fold_forms.Count,
    "is_empty": fold_forms.Count,
    "mean": fold_forms.Mean,
    "mean_scaled": fold_forms.Mean,
    "mean_outer": fold_forms.Mean,
    "sum_scaled": fold_forms.Product,
    "add_scaled": fold_forms.Product,
    "sum_outer": fold_forms.Product,
    "add_outer": fold_forms.Product,
    **dict.fromkeys(("sum_terms", "add_terms"), fold_forms.Product),
    "mean_terms": fold_forms.Mean,
    "sum_gram": fold_forms.Product,
    "add_gram": fold_forms.Product,
    "mean_gram": fold_forms.Mean,
    **dict.fromkeys(("sum_squares", "add_squares", "mean_squares"), WeightedSquares),
    "var": fold_forms.Moments,
    "std": fold_forms.Moments,
    "first": order_folds.End,
    "last": order_folds.End,
    "first_record": order_folds.End,
    "last_record": order_folds.End,
    "argmin": order_folds.Best,
    "argmax": order_folds.Best,
    "n_unique": order_folds.Distinct,
    "quantile": order_folds.Quantile,
    "collect_list": kept_folds.Listed,
    "to_array": kept_folds.Scattered,
}


def form_of(fold: Fold, runner: ProcessRunner | None) -> Form:
    """How the fold is computed over a table."""
    if isinstance(fold, Transition):
        from scalops.engine.kernels.transitions import Sequential

        return Sequential(fold, runner)
    if isinstance(fold, OpaqueAggregate):
        from scalops.engine.kernels.opaque_aggregates import Opaque

        return Opaque(fold, runner)
    if isinstance(fold, Segment):
        return Segmented(fold)
    if fold.kind == "reduce":
        return Pairwise(fold, runner)
    if fold.kind in ("minimum", "maximum") and fold.arguments[0].type.is_string:
        return fold_forms.StringExtreme(fold)
    if any(a.type.is_sparse for a in fold.arguments) and fold.kind in SPARSE_FORMS:
        return SPARSE_FORMS[fold.kind](fold)
    return _FORMS.get(fold.kind, fold_forms.Elementwise)(fold)


class FoldKernel:
    """One computation: `extend(partial, vectors, rows)`, `merge(a, b)`, `finish(partial)`."""

    def __init__(
        self, fold: Fold, slots: Sequence[Any] = (), runner: ProcessRunner | None = None
    ) -> None:
        self.fold = fold
        self.form = self._form = form_of(fold, runner)
        self.block = self._form.block
        self.extend = self._form.extend

    def bind(self, slots: Sequence[Any], version: int) -> None:
        """Bind driver values (a user's functions may read them)."""
        self._form.bind(slots, version)

    def merge(self, left: Partial, right: Partial) -> Partial:
        """The partial of left's records followed by right's."""
        if left is None or right is None:
            return right if left is None else left
        return self._form.merge(left, right)

    def finish(self, partial: Partial) -> Any:
        """The fold's value; DataError where no records have none."""
        return self.parts(partial, [self.fold])[0]

    def parts(self, partial: Partial, folds: Sequence[Fold]) -> list[Any]:
        """The values of folds that share this computation."""
        whole = self._form.whole(partial)
        return [_nothing(f) if whole is None else self._part(whole, f) for f in folds]

    def _part(self, whole: Any, fold: Fold) -> Any:
        value = self._form.part(whole, fold)
        return value if value is None else typed(value, fold.type)


def _nothing(fold: Fold) -> Any:
    """A fold's value over no records."""
    kind = fold.type
    if fold.empty is None:
        raise DataError(
            f"{fold.word} over no records has no value",
            location=fold.location,
            hint="check the filters before it, or use sum() or count()",
        )
    if kind.is_string or kind.weak:
        return fold.empty
    return np.array(np.broadcast_to(np.asarray(fold.empty, kind.numpy), kind.shape))[()]


class FoldSet:
    """The folds of one pass; parts of one computation are computed once.

    A leaf is a list of partials, one for each computation.
    """

    def __init__(
        self,
        folds: Sequence[Fold],
        slots: Sequence[Any] = (),
        runner: ProcessRunner | None = None,
        kept: KeptValues | None = None,
    ) -> None:
        """Values that are kept until the end lie in `kept`; None: in memory."""
        self.kept = kept
        shared: dict[Fold, list[int]] = {}
        for i, fold in enumerate(folds):
            shared.setdefault(fold.computation, []).append(i)
        self._folds = list(folds)
        self._members = list(shared.values())
        self._kernels = [FoldKernel(folds[m[0]], slots, runner) for m in self._members]
        self._spans: list[tuple[int, int]] = []
        self.arguments: list[Expression] = []
        for kernel in self._kernels:
            start = len(self.arguments)
            self.arguments.extend(kernel.fold.arguments)
            self._spans.append((start, len(self.arguments)))
        forms = [(i, kernel.form) for i, kernel in enumerate(self._kernels)]
        for _, form in forms:
            if kept is not None and isinstance(form, order_folds.Pieces):
                form.kept = kept
        self._added = [(i, form) for i, form in forms if isinstance(form, Added)]

    @property
    def may_wait(self) -> bool:
        """Whether there are folds that may add blocks up at the end of a leaf."""
        return bool(self._added)

    def wait(self, staying: Sequence[bool]) -> None:
        """Say which of `arguments` are in memory anyway until a leaf ends."""
        for i, form in self._added:
            form.waits = staying[self._spans[i][0] + form.side]

    def seal(self, leaf: list[Partial]) -> None:
        """Add up what waits, after a leaf's last block."""
        for i, form in self._added:
            form.seal(leaf[i])

    def bind(self, slots: Sequence[Any], version: int) -> None:
        """Bind driver values."""
        for kernel in self._kernels:
            kernel.bind(slots, version)
        self.forget()

    def forget(self) -> None:
        """Give back the memory of values that were kept: the pass has ended here."""
        if self.kept is not None:
            self.kept.forget()

    def blank(self) -> list[Partial]:
        """A leaf over no records."""
        return [None] * len(self._kernels)

    def extend(
        self, leaf: list[Partial], vectors: Sequence[Vector], rows: int, source: object = None
    ) -> None:
        """Fold a block into a leaf; `vectors` are the values of `arguments`."""
        for i, (kernel, (start, stop)) in enumerate(zip(self._kernels, self._spans, strict=True)):
            leaf[i] = kernel.extend(leaf[i], vectors[start:stop], rows, source)

    @property
    def computations(self) -> list[Fold]:
        """One fold for each computation, as their arguments stand in `arguments`."""
        return [k.fold for k in self._kernels]

    def add(self, leaf: list[Partial], partials: Sequence[Partial]) -> None:
        """Add the partials of the next block to a leaf."""
        for i, (kernel, partial) in enumerate(zip(self._kernels, partials, strict=True)):
            leaf[i] = kernel.merge(leaf[i], partial)

    def merge(self, left: list[Partial], right: list[Partial]) -> list[Partial]:
        """Two leaves as one, left's records before right's."""
        return [k.merge(a, b) for k, a, b in zip(self._kernels, left, right, strict=True)]

    def finish(self, leaf: list[Partial]) -> tuple[Any, ...]:
        """The folds' values, in their order."""
        values: list[Any] = [None] * len(self._folds)
        for kernel, partial, members in zip(self._kernels, leaf, self._members, strict=True):
            own = kernel.parts(partial, [self._folds[m] for m in members])
            for m, value in zip(members, own, strict=True):
                values[m] = value
        self.forget()
        return tuple(values)

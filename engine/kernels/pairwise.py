"""A user's associative function of two records, or of two states, over a block."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import UserFunctionError
from scalops.algebra.folds import Fold
from scalops.engine.blocks import Block
from scalops.engine.columns import concatenated, filtered, sliced
from scalops.engine.kernels.fold_forms import Form, Partial
from scalops.engine.kernels.kernel import Frame, Kernel, Vector

if TYPE_CHECKING:
    from scalops.engine.processes.runner import ProcessRunner


class Combiner:
    """`combine` over pairs of records: columns of the left ones and of the right ones."""

    def __init__(self, fold: Fold, runner: ProcessRunner | None) -> None:
        self._fold, self._runner = fold, runner
        self.kinds: list[ArrayType] = [c.type.strong() for c in fold.combine]
        self._kernel = Kernel(fold.combine, 64)
        self._slots: Sequence[Any] = ()
        self._version = -1
        self._own = threading.local()

    def bind(self, slots: Sequence[Any], version: int) -> None:
        """Bind driver values."""
        self._slots, self._version = slots, version

    def columns(self, left: list[Any], right: list[Any]) -> list[Any]:
        """One column for each part, from those of the two sides."""
        fold = self._fold
        columns = dict(zip(fold.fields, left, strict=True))
        columns.update({f"{n}'1": c for n, c in zip(fold.fields, right, strict=True)})
        frame: Frame | None = getattr(self._own, "frame", None)
        if frame is None:
            frame = self._own.frame = self._kernel.frame(runner=self._runner)
        self._kernel.prepare(frame, self._slots, self._version)
        results = self._kernel.run(frame, Block(len(left[0]), columns))
        if any(m is not None and not m.all() for _, m in results):
            raise UserFunctionError(
                f"the function of {'reduce' if fold.kind == 'reduce' else 'merge'} gives None for"
                " two records that have values",
                location=fold.location,
                hint="return a value of the records' type",
            )
        return [v for v, _ in results]

    def values(self, left: Sequence[Any], right: Sequence[Any]) -> list[Any]:
        """One value for each part, from those of two records."""
        sides = [list(map(_column, side, self.kinds)) for side in (left, right)]
        return [first(c) for c in self.columns(*sides)]


def _column(value: Any, kind: ArrayType) -> Any:
    if kind.is_string:
        return pa.array([value], pa.string())
    return np.asarray(value, kind.numpy)[None]


def first(column: Any) -> Any:
    """A column's first value, no view of it: the next block may overwrite what it shows."""
    return np.array(column[0])[()] if isinstance(column, np.ndarray) else column[0].as_py()


class Pairwise(Form):
    """Neighbours are combined, log2(rows) times, vectorised.

    Record order is kept, so the function need not commute.
    """

    def __init__(self, fold: Fold, runner: ProcessRunner | None) -> None:
        super().__init__(fold)
        self._combiner = Combiner(fold, runner)

    def bind(self, slots: Sequence[Any], version: int) -> None:
        self._combiner.bind(slots, version)

    def block(self, vectors: Sequence[Vector], rows: int) -> Partial:
        columns = [v for v, _ in vectors]
        masks = [m for _, m in vectors if m is not None]
        if masks:
            keep = np.logical_and.reduce(masks)
            columns = [filtered(c, keep) for c in columns]
        while len(columns[0]) > 1:
            columns = self._halved(columns)
        if len(columns[0]) == 0:
            return None
        return [first(c) for c in columns]

    def _halved(self, columns: list[Any]) -> list[Any]:
        count = len(columns[0])
        even = count - count % 2
        combined = self._combiner.columns(
            [_every_other(c, 0, even) for c in columns], [_every_other(c, 1, even) for c in columns]
        )
        if even == count:
            return combined
        return [
            concatenated([c, sliced(old, even, count)], kind)
            for c, old, kind in zip(combined, columns, self._combiner.kinds, strict=True)
        ]

    def merge(self, left: Partial, right: Partial) -> Partial:
        return self._combiner.values(left, right)

    def part(self, whole: Any, fold: Fold) -> Any:
        return whole[fold.output]


def _every_other(column: Any, start: int, stop: int) -> Any:
    if isinstance(column, np.ndarray):
        return column[start:stop:2]
    return column.take(pa.array(np.arange(start, stop, 2)))

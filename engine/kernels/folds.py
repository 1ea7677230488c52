"""Kernels of folds: a block to a partial, two partials to one, a partial to the result.

A partial is None where no record contributed, so that over nothing each fold can say what it
is. Merging keeps the order of its operands: only associativity is used.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import DataError, UserFunctionError
from scalops.algebra.folds import Fold
from scalops.engine.blocks import Block
from scalops.engine.kernels.kernel import Frame, Kernel, Vector

if TYPE_CHECKING:
    from scalops.engine.processes import ProcessRunner

Partial = Any
BlockFold = Callable[[Sequence[Vector], int], Partial]
Merge = Callable[[Partial, Partial], Partial]

_UFUNCS: dict[str, np.ufunc] = {
    "sum": np.add, "add": np.add, "multiply": np.multiply, "minimum": np.minimum,
    "maximum": np.maximum, "any": np.logical_or, "all": np.logical_and,
    "logical_or": np.logical_or, "logical_and": np.logical_and,
    "bitwise_or": np.bitwise_or, "bitwise_and": np.bitwise_and,
}  # fmt: skip
_ADDED = ("sum_scaled", "add_scaled", "sum_outer", "add_outer")


class FoldKernel:
    """One fold: `block(vectors, rows)`, `merge(a, b)`, `finish(partial)`."""

    def __init__(
        self, fold: Fold, slots: Sequence[Any], runner: ProcessRunner | None = None
    ) -> None:
        self.fold = fold
        self.arity = len(fold.arguments)
        self.block: BlockFold
        self._merge: Merge
        kind = fold.kind
        if kind in ("count", "is_empty"):
            self.block, self._merge = _count, lambda a, b: a + b
        elif kind == "mean":
            self.block, self._merge = _mean(fold), _add_both
        elif kind in ("mean_scaled", "mean_outer"):
            product = _scaled(fold) if kind == "mean_scaled" else _outer(fold)
            self.block, self._merge = _counted(product), _add_both
        elif kind == "reduce":
            self._pairs = _Pairwise(fold, slots, runner)
            self.block, self._merge = self._pairs.block, self._pairs.merge
        elif kind in _ADDED:
            self.block = _scaled(fold) if "scaled" in kind else _outer(fold)
            self._merge = np.add
        elif fold.arguments[0].type.is_string:
            least = kind == "minimum"
            self.block = _string_extreme(least)
            self._merge = min if least else max
        else:
            ufunc = _UFUNCS[kind]
            self.block, self._merge = _ufunc(fold, ufunc), ufunc

    def bind(self, slots: Sequence[Any], version: int) -> None:
        """Bind driver values (a user's combine may read them)."""
        if self.fold.kind == "reduce":
            self._pairs.bind(slots, version)

    def merge(self, left: Partial, right: Partial) -> Partial:
        """The partial of left's records followed by right's."""
        if left is None or right is None:
            return right if left is None else left
        return self._merge(left, right)

    def finish(self, partial: Partial) -> Any:
        """The fold's value; DataError where no records have none."""
        fold, kind = self.fold, self.fold.type
        if fold.kind == "is_empty":
            return np.bool_(not partial)
        if fold.kind == "count":
            return int(partial or 0)
        if partial is None:
            if fold.empty is None:
                what = {"add": "reduce", "minimum": "min", "maximum": "max"}.get(
                    fold.kind, "reduce"
                )
                raise DataError(
                    f"{what} over no records has no value",
                    location=fold.location,
                    hint="check the filters before it, or use sum() or count()",
                )
            return np.full(kind.shape, fold.empty, kind.numpy)[()]
        if fold.kind.startswith("mean"):
            return np.asarray(partial[0] / partial[1], dtype=kind.numpy)[()]
        if fold.kind == "reduce":
            partial = partial[fold.output]
        if kind.is_string:
            return partial
        return np.asarray(partial, dtype=kind.numpy)[()]


def _known(vector: Vector) -> Any:
    """A column without its nulls."""
    values, mask = vector
    if mask is None:
        return values
    return values[mask] if isinstance(values, np.ndarray) else values.filter(pa.array(mask))


def _count(vectors: Sequence[Vector], rows: int) -> Partial:
    if not vectors or vectors[0][1] is None:
        return rows
    return int(np.count_nonzero(vectors[0][1]))


def _ufunc(fold: Fold, ufunc: np.ufunc) -> BlockFold:
    dtype = fold.type.numpy
    widen = None if fold.arguments[0].type.name == fold.type.name else dtype
    if fold.kind in ("any", "all", "logical_and", "logical_or"):
        widen = None

    def block(vectors: Sequence[Vector], rows: int) -> Partial:
        values = _known(vectors[0])
        if len(values) == 0:
            return None
        if widen is None:
            return ufunc.reduce(values, axis=0)
        return ufunc.reduce(values, axis=0, dtype=widen)

    return block


def _mean(fold: Fold) -> BlockFold:
    # As np.mean: integers are added up in float64, float16 in float32.
    dtype = np.dtype("float32") if fold.type.name == "float16" else fold.type.numpy

    def block(vectors: Sequence[Vector], rows: int) -> Partial:
        values = _known(vectors[0])
        return (np.add.reduce(values, axis=0, dtype=dtype), len(values)) if len(values) else None

    return block


def _add_both(a: Partial, b: Partial) -> Partial:
    return a[0] + b[0], a[1] + b[1]


def _counted(product: BlockFold) -> BlockFold:
    """A sum of products with the number of records behind it."""

    def block(vectors: Sequence[Vector], rows: int) -> Partial:
        masks = [m for _, m in vectors if m is not None]
        known = int(np.count_nonzero(np.logical_and.reduce(masks))) if masks else rows
        total = product(vectors, rows)
        return None if total is None else (total, known)

    return block


def _both_known(vectors: Sequence[Vector]) -> tuple[Any, Any]:
    (a, mask_a), (b, mask_b) = vectors
    if mask_a is None and mask_b is None:
        return a, b
    mask = mask_a if mask_b is None else mask_b if mask_a is None else mask_a & mask_b
    return a[mask], b[mask]


def _scaled(fold: Fold) -> BlockFold:
    shape = fold.type.shape
    size = fold.type.size

    def block(vectors: Sequence[Vector], rows: int) -> Partial:
        s, x = _both_known(vectors)
        if len(s) == 0:
            return None
        if len(shape) == 1:
            return np.matmul(s, x)
        return np.matmul(s, x.reshape(len(x), size)).reshape(shape)

    return block


def _outer(fold: Fold) -> BlockFold:
    def block(vectors: Sequence[Vector], rows: int) -> Partial:
        u, v = _both_known(vectors)
        return np.matmul(u.T, v) if len(u) else None

    return block


def _string_extreme(least: bool) -> BlockFold:
    function = pc.min if least else pc.max

    def block(vectors: Sequence[Vector], rows: int) -> Partial:
        return function(_known(vectors[0])).as_py()

    return block


class _Pairwise:
    """A user's associative function: neighbours are combined, log2(rows) times, vectorised.

    Record order is kept, so the function need not commute.
    """

    def __init__(self, fold: Fold, slots: Sequence[Any], runner: ProcessRunner | None) -> None:
        self._fields, self._location = fold.fields, fold.location
        self._kinds: list[ArrayType] = [c.type.strong() for c in fold.combine]
        self._kernel = Kernel(fold.combine, 64)
        self._slots: Sequence[Any] = slots
        self._version = -1
        self._runner = runner
        self._own = threading.local()

    def bind(self, slots: Sequence[Any], version: int) -> None:
        """Bind driver values."""
        self._slots, self._version = slots, version

    def block(self, vectors: Sequence[Vector], rows: int) -> Partial:
        columns = [v for v, _ in vectors]
        masks = [m for _, m in vectors if m is not None]
        if masks:
            keep = np.logical_and.reduce(masks)
            columns = [
                c[keep] if isinstance(c, np.ndarray) else c.filter(pa.array(keep)) for c in columns
            ]
        while len(columns[0]) > 1:
            columns = self._halved(columns)
        if len(columns[0]) == 0:
            return None
        return [_first(c) for c in columns]

    def _halved(self, columns: list[Any]) -> list[Any]:
        count = len(columns[0])
        even = count - count % 2
        combined = self._combine([c[0:even:2] for c in columns], [c[1:even:2] for c in columns])
        if even == count:
            return combined
        return [
            np.concatenate([c, old[even:]])
            if isinstance(c, np.ndarray)
            else pa.concat_arrays([c, old[even:]])
            for c, old in zip(combined, columns, strict=True)
        ]

    def _combine(self, left: list[Any], right: list[Any]) -> list[Any]:
        columns = dict(zip(self._fields, left, strict=True))
        columns.update({f"{n}'1": c for n, c in zip(self._fields, right, strict=True)})
        frame: Frame | None = getattr(self._own, "frame", None)
        if frame is None:
            frame = self._own.frame = self._kernel.frame(runner=self._runner)
        self._kernel.prepare(frame, self._slots, self._version)
        results = self._kernel.run(frame, Block(len(left[0]), columns))
        if any(m is not None and not m.all() for _, m in results):
            raise UserFunctionError(
                "the function of reduce gives None for two records that have values",
                location=self._location,
                hint="return a value of the records' type",
            )
        return [v for v, _ in results]

    def merge(self, a: Partial, b: Partial) -> Partial:
        """Two partials as a block of one pair."""
        columns = []
        for x, y, kind in zip(a, b, self._kinds, strict=True):
            if kind.is_string:
                columns.append((pa.array([x], pa.string()), pa.array([y], pa.string())))
            else:
                columns.append((np.asarray(x, kind.numpy)[None], np.asarray(y, kind.numpy)[None]))
        combined = self._combine([c[0] for c in columns], [c[1] for c in columns])
        return [_first(c) for c in combined]


def _first(column: Any) -> Any:
    """A column's first value, no view of it: the next block may overwrite what it shows."""
    return np.array(column[0])[()] if isinstance(column, np.ndarray) else column[0].as_py()

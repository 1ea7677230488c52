"""Blocks folded by a compiled loop, with the partials that NumPy's kernels give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalops.algebra.expressions import Expression
from scalops.algebra.folds import Fold
from scalops.engine.blocks import Array, Block
from scalops.engine.kernels.fold_forms import Partial
from scalops.engine.kernels.jit.accumulators import COUNTS
from scalops.engine.kernels.jit.compilation import compiled
from scalops.engine.kernels.jit.elementwise import FLOATS
from scalops.engine.kernels.jit.source import written
from scalops.engine.value_program import ValueProgram


@dataclass
class _Bound:
    """What is the same for all records, as one thread has it; None where some of it is null."""

    program: ValueProgram
    version: int = -1
    given: tuple[Array, ...] | None = None


class CompiledFolds:
    """Folds of a block in one loop; `folds` are one for each computation."""

    def __init__(self, folds: Sequence[Fold], arguments: Sequence[Expression]) -> None:
        self._written = written(folds, arguments)
        inputs = self._written.inputs
        self._columns = [name for name, _ in inputs.columns]
        self._call = compiled(
            self._written.text,
            [(kind.name, 1 + len(kind.shape)) for _, kind in inputs.columns],
            [(e.type.name, len(e.type.shape)) for e, _ in inputs.arrays],
            [kind for kind, _ in self._written.results],
        )
        self._results = [(size, np.dtype(kind)) for kind, size in self._written.results]
        self._partials = [_partial_of(fold) for fold in folds]
        self._bound: dict[int, _Bound] = {}

    def partials(
        self, worker: int, block: Block, slots: Sequence[Any], version: int
    ) -> list[Partial] | None:
        """A block's partials; None where it holds nulls or an index without a place.

        NumPy's kernels know what to make of those.
        """
        if block.valid:
            return None
        bound = self._bound.get(worker)
        if bound is None:
            inputs = self._written.inputs
            roots = [*inputs.numbers, *(e for e, _ in inputs.arrays)]
            bound = self._bound[worker] = _Bound(ValueProgram(roots))
        if bound.version != version:
            bound.given, bound.version = self._values(bound.program.run(slots)), version
        if bound.given is None:
            return None
        columns = [_plain(block.columns[name]) for name in self._columns]
        results = [np.zeros(size, dtype) for size, dtype in self._results]
        numbers, integers, *arrays = bound.given
        if self._call(block.rows, numbers, integers, *columns, *arrays, *results):
            return None
        rows = block.rows
        return [made(r, rows) for made, r in zip(self._partials, results, strict=True)]

    def _values(self, values: Sequence[Any]) -> tuple[Array, ...] | None:
        if any(v is None for v in values):
            return None
        inputs = self._written.inputs
        count = len(inputs.numbers)
        floats, integers = np.zeros(count), np.zeros(count, np.int64)
        for i, (e, value) in enumerate(zip(inputs.numbers, values[:count], strict=True)):
            (floats if e.type.name in FLOATS else integers)[i] = value
        arrays = []
        for (e, transposed), value in zip(inputs.arrays, values[count:], strict=True):
            whole = np.broadcast_to(np.asarray(value, e.type.numpy), e.type.shape)
            arrays.append(np.ascontiguousarray(whole.T if transposed else whole))
        return floats, integers, *arrays


def _plain(column: Array) -> Array:
    flags = column.flags
    if flags.c_contiguous and flags.aligned:
        return column
    return np.require(column, requirements=["C", "A"])


def _partial_of(fold: Fold) -> Callable[[Array, int], Partial]:
    """What a fold's kernel makes of a block, from the loop's result and the number of records."""
    shape = fold.type.shape
    if fold.kind in COUNTS:
        return lambda result, rows: rows
    if fold.kind.startswith("mean"):
        return lambda result, rows: (result.reshape(shape)[()], rows)
    if len(shape) == 1:
        return lambda result, rows: result
    return lambda result, rows: result.reshape(shape)[()]

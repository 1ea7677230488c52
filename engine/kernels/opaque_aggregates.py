"""Aggregates of the user's that run as they are, in this process or in worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scalops.algebra.expressions import Column
from scalops.algebra.folds import Fold, OpaqueAggregate
from scalops.engine.kernels.fold_forms import Form, Partial
from scalops.engine.kernels.kernel import Vector
from scalops.engine.opaque.aggregate_results import typed_part
from scalops.engine.opaque.arguments import Argument, column
from scalops.engine.opaque.calls import python_value
from scalops.engine.opaque.folds import AggregateFunctions, OpaqueFold
from scalops.engine.value_program import ValueProgram

if TYPE_CHECKING:
    from scalops.engine.processes.runner import ProcessRunner


class Opaque(Form):
    """A state as bytes, carried over a leaf's records in their order."""

    def __init__(self, fold: OpaqueAggregate, runner: ProcessRunner | None) -> None:
        super().__init__(fold)
        functions = AggregateFunctions(
            fold.transition, fold.merge, fold.initialize, finalize=fold.finalize
        )
        self._names = fold.names
        self._running = OpaqueFold(functions, fold.names, runner)
        self._reads = {
            f: ValueProgram(slots) for f, slots in zip(fold.functions, fold.slots, strict=True)
        }
        self._is_bound = False
        self._bind_once = not any(fold.slots)
        names = [a.name for a in fold.arguments if isinstance(a, Column)]
        self._columns = tuple(names) if len(names) == len(fold.arguments) else None

    def bind(self, slots: Sequence[Any], version: int) -> None:
        if self._is_bound and self._bind_once:
            return
        self._is_bound = True
        self._running.bind(lambda f: [python_value(v) for v in self._reads[f].run(slots)], version)

    def extend(
        self, partial: Partial, vectors: Sequence[Vector], rows: int, source: object
    ) -> Partial:
        argument = Argument(self._names, tuple(column(v, m) for v, m in vectors))
        told = source is not None and self._columns is not None
        content = (source, self._names, self._columns) if told else None
        return self._running.extend(partial, argument, rows, content)

    def block(self, vectors: Sequence[Vector], rows: int) -> Partial:
        return self.extend(None, vectors, rows, None)

    def merge(self, left: Partial, right: Partial) -> Partial:
        return self._running.merge_states(left, right)

    def whole(self, partial: Partial) -> Any:
        return self._running.finish_state(partial)

    def part(self, whole: Any, fold: Fold) -> Any:
        assert isinstance(fold, OpaqueAggregate)
        return typed_part(fold, whole)

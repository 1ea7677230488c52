"""Traced aggregates: the user's transition, record by record, as generated Python.

What depends on the record alone has been computed for the whole block before. What is left reads
the state: it becomes the body of one Python loop, in which float64, int64 and bool scalars are
Python's own numbers where these mean the same, and all else is NumPy's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import ExecutionError, ScalopsError
from scalops.algebra.folds import Fold, Transition
from scalops.algebra.tree import Node, substitute
from scalops.engine.kernels.fold_forms import Form, Partial, owned
from scalops.engine.kernels.kernel import Vector
from scalops.engine.kernels.pairwise import Combiner
from scalops.engine.kernels.scalar_code import Source, is_native, native
from scalops.engine.opaque.arguments import rows_of
from scalops.engine.value_program import ValueProgram, typed

if TYPE_CHECKING:
    from scalops.engine.processes.runner import ProcessRunner

_PARAMETER = 2  # the record number of what is the same for every record


class Sequential(Form):
    """A state carried over a leaf's records in their order; leaves are merged by `combine`.

    A partial is the list of the state's fields.
    """

    def __init__(self, fold: Transition, runner: ProcessRunner | None) -> None:
        super().__init__(fold)
        self._combiner = Combiner(fold, runner)
        self._kinds = self._combiner.kinds
        found = _uniform(fold.step)
        mapping: dict[Node, Node] = {
            e: ex.Column(str(i), e.type, _PARAMETER) for i, e in enumerate(found)
        }
        self._step = tuple(substitute(e, mapping, ex.in_record) for e in fold.step)
        self._parameter_kinds = [e.type for e in found]
        self._parameters = ValueProgram(found)
        self._zero = ValueProgram(fold.zero)
        self._reads = [_inputs_read(e) for e in self._step]
        self._guardable = all(_skips_nulls(e) for e in self._step)
        self._compiled: dict[tuple[bool, ...], Callable[..., Any]] = {}
        self._start: list[Any] = []
        self._given: list[Any] = []
        self._version: int | None = None

    def bind(self, slots: Sequence[Any], version: int) -> None:
        self._combiner.bind(slots, version)
        if version == self._version:
            return
        self._version = version
        self._start = list(map(typed, self._zero.run(slots), self._kinds))
        self._given = list(map(typed, self._parameters.run(slots), self._parameter_kinds))

    def extend(
        self, partial: Partial, vectors: Sequence[Vector], rows: int, source: object
    ) -> Partial:
        state = self._start if partial is None else partial
        if rows == 0:
            return partial
        try:
            if any(v is None for v in self._given) or (
                not self._guardable and any(m is not None for _, m in vectors)
            ):
                return self._one_by_one(state, vectors, rows)
            return self._run(state, vectors, rows)
        except ScalopsError:
            raise
        except Exception as error:
            raise ExecutionError(
                f"the transition of an aggregate failed: {error}", location=self.fold.location
            ) from error

    def _run(self, state: list[Any], vectors: Sequence[Vector], rows: int) -> list[Any]:
        kinds = [a.type for a in self.fold.arguments]
        columns: list[Any] = [_items(v, k) for (v, _), k in zip(vectors, kinds, strict=True)]
        guards = []
        for reads in self._reads:
            masks = [m for m in (vectors[i][1] for i in reads) if m is not None]
            guards.append(np.logical_and.reduce(masks) if masks else None)
        key = tuple(g is not None for g in guards)
        if key not in self._compiled:
            self._compiled[key] = self._compile(key)
        columns += [g.tolist() for g in guards if g is not None]
        inside = [native(v) if is_native(k) else v for v, k in zip(state, self._kinds, strict=True)]
        given = [
            native(v) if is_native(k) else v
            for v, k in zip(self._given, self._parameter_kinds, strict=True)
        ]
        with np.errstate(all="ignore"):
            found = self._compiled[key](inside, given, columns, rows)
        return [owned(typed(v, k)) for v, k in zip(found, self._kinds, strict=True)]

    def _compile(self, guarded: tuple[bool, ...]) -> Callable[..., Any]:
        fold = self.fold
        state = {(n, 0): f"s{i}" for i, n in enumerate(fold.fields)}
        inputs = {(str(i), 1): f"x{i}" for i in range(len(fold.arguments))}
        given = {(str(i), _PARAMETER): f"p{i}" for i in range(len(self._parameter_kinds))}
        source = Source({**state, **inputs, **given})
        made = [source.name(e, k) for e, k in zip(self._step, self._kinds, strict=True)]
        guards = [f"g{i}" for i, g in enumerate(guarded) if g]
        names = [*inputs.values(), *guards]
        new = [
            f"({value} if g{i} else s{i})" if guarded[i] else value for i, value in enumerate(made)
        ]
        each = f"for {', '.join(names)}, in zip(*columns):" if names else "for _ in range(rows):"
        lines = [
            f"{''.join(f'{n}, ' for n in state.values())} = state",
            *([f"{''.join(f'{n}, ' for n in given.values())} = given"] if given else []),
            each,
            *(f"    {line}" for line in source.lines),
            f"    {', '.join(state.values())} = {', '.join(new)}",
            f"return {', '.join(state.values())},",
        ]
        return source.function(["state", "given", "columns", "rows"], lines)

    def _one_by_one(self, state: list[Any], vectors: Sequence[Vector], rows: int) -> list[Any]:
        """The same with nulls that the step itself looks at, or that are in every record."""
        from scalops.engine.witness.interpreter import Interpreter

        fold = self.fold
        evaluate = Interpreter().evaluator(self._step)
        given = {str(i): v for i, v in enumerate(self._given)}
        columns = [
            _nullable(vector, a.type) for vector, a in zip(vectors, fold.arguments, strict=True)
        ]
        for at in range(rows):
            record = {str(i): c[at] for i, c in enumerate(columns)}
            made = evaluate((dict(zip(fold.fields, state, strict=True)), record, given))
            state = [
                old if new is None else typed(new, k)
                for old, new, k in zip(state, made, self._kinds, strict=True)
            ]
        return state

    def block(self, vectors: Sequence[Vector], rows: int) -> Partial:
        return self.extend(None, vectors, rows, None)

    def merge(self, left: Partial, right: Partial) -> Partial:
        return self._combiner.values(left, right)

    def whole(self, partial: Partial) -> Any:
        return self._start if partial is None else partial

    def part(self, whole: Any, fold: Fold) -> Any:
        return whole[fold.output]


def _items(values: Any, kind: ArrayType) -> Any:
    """A column's values one by one; those at nulls do not matter."""
    if not isinstance(values, np.ndarray):
        empty: Any = "" if kind.is_string else []
        return [empty if v is None else v for v in rows_of(values, None)]
    if is_native(kind):
        return values.tolist()
    # Arrays of the block's memory, which the next block may use again: a state keeps none.
    return list(values.copy())


def _nullable(vector: Vector, kind: ArrayType) -> list[Any]:
    values, mask = vector
    items = list(values.copy()) if isinstance(values, np.ndarray) else rows_of(values, None)
    return items if mask is None else [v if ok else None for v, ok in zip(items, mask, strict=True)]


def _uniform(roots: Sequence[ex.Expression]) -> list[ex.Expression]:
    """The largest expressions that read neither state nor record."""
    found: dict[ex.Expression, None] = {}
    seen: set[Node] = set()
    stack: list[Node] = list(reversed(roots))
    while stack:
        node = stack.pop()
        if node in seen or not isinstance(node, ex.Expression):
            continue
        seen.add(node)
        if not ex.columns([node]):
            found[node] = None
        else:
            stack.extend(reversed(node.children))
    return list(found)


def _inputs_read(e: ex.Expression) -> list[int]:
    return sorted({int(c.name) for c in ex.columns([e]) if c.record == 1})


def _skips_nulls(root: ex.Expression) -> bool:
    """Whether the value is null as soon as something that it reads is."""
    return all(
        not isinstance(n, ex.Call)
        or n.function.name == "matmul"
        or (
            n.function.ufunc is not None
            and not (n.function.name in ("bitwise_and", "bitwise_or") and n.type.name == "bool")
        )
        for n in ex.within([root])
    )

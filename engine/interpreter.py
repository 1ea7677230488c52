"""The meaning of a logical plan, one record at a time, in plain Python.

Slow and obvious. It finds the types of opaque functions on the first records of their sources,
compares traced expressions with the plain functions they stand for, and is the witness that
optimized plans give the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.dtypes import BOOL, ArrayType, TupleType, Type
from scalops.algebra.errors import DataError, OptimizerError, ScalopsError
from scalops.algebra.folds import FOLDS, Fold
from scalops.algebra.tree import Node, walk
from scalops.engine.blocks import Block
from scalops.engine.kernels.nulls import ARRAY_MAKERS, null_inside
from scalops.engine.opaque import Text, bind, describe, python_value, user_error
from scalops.engine.records import Record, take_apart

Row = dict[str, Any]
Starts = Mapping[int, Mapping[str, ex.Expression]]
Environment = dict[tuple[str, int, str], Any]

_KLEENE: dict[str, Callable[[Any, Any], Any]] = {
    "bitwise_and": lambda a, b: False if a is False or b is False else None,
    "bitwise_or": lambda a, b: True if a is True or b is True else None,
}


class Interpreter:
    """Evaluates tables, values and loops.

    With `sample`, sources give only their first `sample` records, and a loop's result is its
    start: nothing takes longer than reading a file's head. `starts` then holds the start of
    loops whose bodies are being traced.
    """

    def __init__(self, sample: int | None = None, starts: Starts | None = None) -> None:
        self._sample = sample
        self._environment: Environment = {}
        self._samples: dict[Node, list[Row]] = {}
        self._changes: dict[int, int] = {}
        self._tokens: dict[Node, frozenset[int]] = {}
        self._known: dict[Node, tuple[tuple[int, ...], Row]] = {}
        for token, fields in (starts or {}).items():
            for name, start in fields.items():
                self._set("state", token, name, as_numpy(self.value(start), start.type.strong()))
            self._set("iteration", token, "", 0)

    # Tables.

    def records(self, node: Node) -> Iterable[Row]:
        """A table's records, in order."""
        chain = [node]
        while not isinstance(chain[-1], op.Scan):
            source = getattr(chain[-1], "source", None)
            if source is None:
                raise OptimizerError(f"{type(chain[-1]).__name__} is no table of records")
            chain.append(source)
        rows: Iterable[Row] = ()
        for table in reversed(chain):
            if self._sample is None:
                rows = self._over(table, rows)
            else:  # few records: kept, for the next operator of a long chain to read
                if table not in self._samples:
                    self._samples[table] = list(self._over(table, rows))
                rows = self._samples[table]
        return rows

    def _over(self, node: Node, rows: Iterable[Row]) -> Iterator[Row]:
        """An operator's records, from those of its source."""
        match node:
            case op.Scan():
                yield from self._scan(node)
            case op.Cache() | op.Repartition():
                yield from rows
            case op.Limit(count=count):
                yield from islice(rows, count)
            case op.Project(outputs=outputs):
                evaluator = self.evaluator([e for _, e in outputs])
                kinds = [e.type.strong() for _, e in outputs]
                names = [name for name, _ in outputs]
                for row in rows:
                    values = map(as_numpy, evaluator((row,)), kinds)
                    yield dict(zip(names, values, strict=True))
            case op.Filter(predicate=predicate):
                evaluator = self.evaluator([predicate])
                for row in rows:
                    kept = evaluator((row,))[0]
                    if kept is not None and bool(kept):
                        yield row
            case _:
                raise OptimizerError(f"{type(node).__name__} is no table of records")

    def _scan(self, node: op.Scan) -> Iterator[Row]:
        names = node.schema.names
        source: Any = node.source
        if self._sample is not None:
            yield from block_rows(source.head(self._sample, names), node.schema.types)
            return
        for partition in source.partitions():
            for block in source.read(partition, names):
                yield from block_rows(block, node.schema.types)

    # Values.

    def value(self, expression: ex.Expression) -> Any:
        """The value of an expression that reads no record."""
        return self.evaluator([expression])(())[0]

    def evaluator(self, roots: Sequence[ex.Expression]) -> Callable[[tuple[Row, ...]], list[Any]]:
        """A function from records to the expressions' values."""
        order = [n for n in _expressions(roots)]
        functions = {n: self._bind(n) for n in order if isinstance(n, ex.Opaque)}

        def evaluate(records: tuple[Row, ...]) -> list[Any]:
            values: dict[Node, Any] = {}
            with np.errstate(all="ignore"):
                for node in order:
                    values[node] = self._node(node, values, records, functions)
            return [values[root] for root in roots]

        return evaluate

    def _bind(self, node: ex.Opaque) -> Callable[..., Any]:
        return bind(node.function, [python_value(self.value(s)) for s in node.slots])

    def _node(
        self,
        node: ex.Expression,
        values: Mapping[Node, Any],
        records: tuple[Row, ...],
        functions: Mapping[ex.Opaque, Callable[..., Any]],
    ) -> Any:
        match node:
            case ex.Constant(value=value):
                return value
            case ex.Column(name=name, record=record):
                return records[record][name]
            case ex.State(name=name, loop=loop):
                return self._environment["state", loop, name]
            case ex.Bound(name=name, loop=loop):
                return self._environment["bound", loop, name]
            case ex.Reduced(name=name):
                return self._environment["reduced", 0, name]
            case ex.Iteration(loop=loop):
                return self._environment["iteration", loop, ""]
            case ex.Item(source=source, index=index):
                several = values[source]
                return None if several is None else several[index]
            case ex.Call():
                given = [values[a] for a in node.arguments]
                if self._sample is None or records:
                    return apply_function(node, given)
                try:
                    return apply_function(node, given)
                except Exception:
                    # A few records may make a singular matrix that all of them do not make.
                    return _stand_in(node.any_type)
            case ex.Opaque():
                return self._opaque(node, values, functions[node])
            case ex.Subquery(source=source, name=name):
                return self.aggregate(source)[name]
            case ex.LoopOutput(loop=loop, name=name):
                return self._loop_output(loop, name)
            case _:
                raise OptimizerError(f"{type(node).__name__} has no meaning here")

    def _opaque(
        self, node: ex.Opaque, values: Mapping[Node, Any], function: Callable[..., Any]
    ) -> tuple[Any, ...]:
        arguments = []
        for record in node.records:
            if isinstance(record, ex.Expression):
                arguments.append(python_value(values[record]))
            else:
                arguments.append(Record({n: python_value(values[e]) for n, e in record}))
        try:
            _, parts = take_apart(function(*arguments))
        except ScalopsError:
            raise
        except Exception as error:
            shown = (
                describe(arguments[0]) if len(arguments) == 1 else list(map(describe, arguments))
            )
            raise user_error(node.function, error, shown, "the record is") from error
        return tuple(
            part if part is None else as_numpy(part, kind)
            for part, kind in zip(parts, node.outputs, strict=True)
        )

    # Folds.

    def aggregate(self, node: op.Aggregate) -> Row:
        """The one record of an Aggregate."""
        return self._once(node, lambda: self._fold(node.folds, self.records(node.source), node))

    def _set(self, kind: str, loop: int, name: str, value: Any) -> None:
        self._environment[kind, loop, name] = value
        self._changes[loop] = self._changes.get(loop, 0) + 1

    def _once(self, node: Node, compute: Callable[[], Row]) -> Row:
        """A result, computed again only when a loop that it reads has moved on."""
        state = tuple(self._changes.get(t, 0) for t in sorted(self._read(node)))
        if node not in self._known or self._known[node][0] != state:
            self._known[node] = state, compute()
        return self._known[node][1]

    def _read(self, root: Node) -> frozenset[int]:
        """The loops around a node whose environment it reads; 0 stands for reduced values."""
        if root not in self._tokens:
            for node in walk(root):
                read: frozenset[int] = frozenset().union(*(self._tokens[c] for c in node.children))
                if isinstance(node, (ex.State, ex.Bound, ex.Iteration)):
                    read |= {node.loop}
                elif isinstance(node, ex.Reduced):
                    read |= {0}
                elif isinstance(node, op.Loop):
                    read -= {node.token, 0}
                self._tokens[node] = read
        return self._tokens[root]

    def _fold(self, folds: tuple[Fold, ...], rows: Iterable[Row], node: Node) -> Row:
        evaluator = self.evaluator([a for f in folds for a in f.arguments])
        counts = [len(f.arguments) for f in folds]
        states: list[Any] = [None] * len(folds)
        combiners = [self.evaluator(f.combine) for f in folds]
        for row in rows:
            values = evaluator((row,))
            for i, fold in enumerate(folds):
                own, values = values[: counts[i]], values[counts[i] :]
                states[i] = _step(fold, states[i], own, combiners[i])
        return {
            f.name: self._finish(f, state, node) for f, state in zip(folds, states, strict=True)
        }

    def _finish(self, fold: Fold, state: Any, node: Node) -> Any:
        if state is None:
            if fold.empty is None and self._sample is None:
                raise DataError(f"{fold.kind} over no records has no value", location=fold.location)
            empty = 0 if fold.empty is None else fold.empty
            if fold.kind == "count":
                return 0
            return as_numpy(np.full(fold.type.shape, empty), fold.type)
        match fold.kind:
            case "count":
                return state
            case "mean" | "mean_scaled" | "mean_outer":
                return as_numpy(state[0] / state[1], fold.type)
            case "reduce":
                return as_numpy(state[fold.output], fold.type)
            case _:
                return as_numpy(state, fold.type)

    # Loops.

    def _loop_output(self, loop: op.Loop, name: str) -> Any:
        if self._sample is not None:
            if name in loop.state_types:
                return as_numpy(self.value(dict(loop.start)[name]), loop.state_types[name])
            return np.int64(0) if name == ex.ITERATIONS else np.bool_(False)
        return self._once(loop, lambda: self.run_loop(loop))[name]

    def run_loop(self, loop: op.Loop) -> Row:
        """The final environment, with `iterations` and `converged`."""
        state = {n: as_numpy(self.value(e), loop.state_types[n]) for n, e in loop.start}
        for name, e in loop.bindings:
            self._set("bound", loop.token, name, self.value(e))
        iterations, converged = 0, False
        elements = None
        if loop.range is not None:
            elements = range(loop.range.start, loop.range.stop, loop.range.step)
        while True:
            for name, value in state.items():
                self._set("state", loop.token, name, value)
            if elements is not None and iterations >= len(elements):
                converged = True
                break
            if loop.condition is not None and not bool(self.value(loop.condition)):
                converged = True
                break
            if loop.max_iterations is not None and iterations >= loop.max_iterations:
                break
            element = iterations if elements is None else elements[iterations]
            self._set("iteration", loop.token, "", element)
            if isinstance(loop.body, op.MapReduceUpdate):
                self._map_reduce(loop.body)
            new = [(n, self.value(e)) for n, e in loop.body.update]
            state = {n: as_numpy(v, loop.state_types[n]) for n, v in new}
            iterations += 1
        return state | {ex.ITERATIONS: np.int64(iterations), ex.CONVERGED: np.bool_(converged)}

    def _map_reduce(self, body: op.MapReduceUpdate) -> None:
        evaluator = self.evaluator([e for _, e in body.map])
        names = [n for n, _ in body.map]
        rows = (
            row | dict(zip(names, evaluator((row,)), strict=True))
            for row in self.records(body.source)
        )
        for name, value in self._fold(body.reduce, rows, body).items():
            self._set("reduced", 0, name, value)


def _expressions(roots: Sequence[ex.Expression]) -> list[ex.Expression]:
    """Expressions below the roots, children first, not entering the tables of subqueries."""
    done: dict[Node, None] = {}
    stack: list[tuple[Node, bool]] = [(r, False) for r in reversed(roots)]
    while stack:
        node, entered = stack.pop()
        if node in done:
            continue
        if entered:
            done[node] = None
            continue
        stack.append((node, True))
        inner: Iterable[Node] = node.children
        if isinstance(node, ex.Opaque):  # its slots are bound once, not per record
            inner = _arguments(node)
        stack.extend((c, False) for c in inner if isinstance(c, ex.Expression))
    return [n for n in done if isinstance(n, ex.Expression)]


def _stand_in(kind: Type) -> Any:
    """A value of the type, where a sample has none."""
    if isinstance(kind, TupleType):
        return tuple(map(_stand_in, kind.items))
    assert isinstance(kind, ArrayType)
    return "" if kind.is_string else as_numpy(np.zeros(kind.shape, kind.numpy), kind.strong())


def _arguments(node: ex.Opaque) -> Iterator[ex.Expression]:
    for record in node.records:
        if isinstance(record, ex.Expression):
            yield record
        else:
            yield from (e for _, e in record)


def apply_function(node: ex.Call, arguments: list[Any]) -> Any:
    """A function of the table on single-record values; null in, null out."""
    name = node.function.name
    kind = node.any_type
    if any(a is None for a in arguments):
        if name == "where":
            chosen = arguments[1] if arguments[0] is not None and arguments[0] else arguments[2]
            return as_numpy(chosen, node.type)
        if name in _KLEENE and kind == BOOL:
            known = [None if a is None else bool(a) for a in arguments]
            return _KLEENE[name](*known)
        if name in ARRAY_MAKERS:
            raise null_inside(node)
        return None
    value = node.function.evaluate(*arguments, **dict(node.parameters))
    if isinstance(kind, ArrayType) and kind.is_string:
        return value if isinstance(value, Text) else Text(value)  # np.where gives an array
    if isinstance(kind, ArrayType) and kind.weak and not kind.shape:
        return kind.python(value)  # NumPy's own result would not be weak any more
    return value


def _step(fold: Fold, state: Any, values: list[Any], combine: Callable[..., list[Any]]) -> Any:
    """The state after one more record; nulls are skipped."""
    if fold.kind == "count":
        skipped = bool(values) and values[0] is None
        return (state or 0) + (0 if skipped else 1)
    if fold.kind == "is_empty":
        return False
    if any(v is None for v in values):
        return state
    if fold.kind == "reduce":
        if state is None:
            return values
        left = dict(zip(fold.fields, state, strict=True))
        right = dict(zip(fold.fields, values, strict=True))
        return combine((left, right))
    with np.errstate(all="ignore"):
        value = _contribution(fold, values)
        if fold.kind.startswith("mean"):
            return (value, 1) if state is None else (state[0] + value, state[1] + 1)
        return value if state is None else _COMBINE[fold.kind](state, value)


def _contribution(fold: Fold, values: list[Any]) -> Any:
    match fold.kind:
        case "sum_scaled" | "add_scaled" | "mean_scaled":
            return np.multiply(values[0], values[1])
        case "sum_outer" | "add_outer" | "mean_outer":
            return np.multiply.outer(values[0], values[1])
        case "sum" | "mean" | "any" | "all":
            return np.asarray(values[0]).astype(fold.type.numpy)[()]
        case _:
            return values[0]


_COMBINE: dict[str, Callable[[Any, Any], Any]] = {
    "sum": np.add, "add": np.add, "multiply": np.multiply,
    "sum_scaled": np.add, "add_scaled": np.add, "sum_outer": np.add, "add_outer": np.add,
    "minimum": lambda a, b: min(a, b) if isinstance(a, str) else np.minimum(a, b),
    "maximum": lambda a, b: max(a, b) if isinstance(a, str) else np.maximum(a, b),
    "any": np.logical_or, "all": np.logical_and, "logical_or": np.logical_or,
    "logical_and": np.logical_and, "bitwise_or": np.bitwise_or, "bitwise_and": np.bitwise_and,
}  # fmt: skip
assert set(_COMBINE) | {"count", "is_empty", "mean", "mean_scaled", "mean_outer"} == set(FOLDS)


def as_numpy(value: Any, kind: ArrayType) -> Any:
    """A value in its declared type: a NumPy scalar, an array, a string; None is null."""
    if value is None or kind.is_string:
        return value
    if kind.weak:
        return value
    array = np.asarray(value)
    if array.dtype != kind.numpy:
        array = array.astype(kind.numpy)
    return array[()]


def block_rows(block: Block, kinds: Mapping[str, ArrayType]) -> Iterator[Row]:
    """A block's records."""
    columns: dict[str, list[Any]] = {}
    for name, values in block.columns.items():
        items: list[Any]
        if isinstance(values, np.ndarray):
            items = list(values)
        else:
            items = [None if v is None else Text(v) for v in values.to_pylist()]
        if name in block.valid:
            mask = block.valid[name]
            items = [v if ok else None for v, ok in zip(items, mask, strict=True)]
        columns[name] = items
    for i in range(block.rows):
        yield {name: items[i] for name, items in columns.items()}


def same_value(left: Any, right: Any) -> bool:
    """Whether two single-record values agree up to rounding; NaN equals NaN, null null."""
    if left is None or right is None:
        return left is None and right is None
    if isinstance(left, str) or isinstance(right, str):
        return bool(left == right)
    a, b = np.asarray(left), np.asarray(right)
    if a.shape != b.shape:
        return False
    if {a.dtype.kind, b.dtype.kind} & set("MmUO"):
        return bool(np.array_equal(a, b))
    tolerance = 1e-4 if np.float32 in (a.dtype, b.dtype) else 1e-9
    scale = max(1.0, *(float(np.max(np.abs(x), initial=0.0)) for x in (a * 1.0, b * 1.0)))
    if not math.isfinite(scale):
        scale = 1.0
    return bool(np.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True))

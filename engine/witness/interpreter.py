"""The meaning of a logical plan, one record at a time, in plain Python.

Slow and obvious. It finds the types of opaque functions on the first records of their sources,
compares traced expressions with the plain functions they stand for, and is the witness that
optimized plans give the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from itertools import islice
from typing import Any

import numpy as np

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.definitions import over_source
from scalops.algebra.dtypes import ArrayType, TupleType, Type
from scalops.algebra.errors import OptimizerError, ScalopsError
from scalops.algebra.folds import Fold
from scalops.algebra.relations import GroupKey, LoopTable, StateTable
from scalops.algebra.sparse import SparseVector, united
from scalops.algebra.tree import Node, walk
from scalops.engine.blocks import Block
from scalops.engine.columns import SparseColumn
from scalops.engine.kernels.nulls import minds_nulls, neutral, of_none
from scalops.engine.kernels.sparse import vectors_of
from scalops.engine.opaque.batches import call_one
from scalops.engine.opaque.calls import bind, describe, python_value, user_error
from scalops.engine.opaque.driver_calls import DriverFunction
from scalops.engine.opaque.records import nested_record, take_all_apart
from scalops.engine.opaque.text import with_methods
from scalops.engine.witness.folds import as_numpy as as_numpy
from scalops.engine.witness.folds import fold_records

Row = dict[str, Any]
Starts = Mapping[int, Mapping[str, ex.Expression | op.Operator]]
Environment = dict[tuple[str, int, str], Any]


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
        self._wider: Interpreter | None = None
        self._changes: dict[int, int] = {}
        self._tokens: dict[Node, frozenset[int]] = {}
        self._known: dict[Node, tuple[tuple[int, ...], Row]] = {}
        for token, fields in (starts or {}).items():
            for name, start in fields.items():
                if isinstance(start, op.Operator):
                    self._set("table", token, name, start)
                    continue
                self._set("state", token, name, as_numpy(self.value(start), start.type.strong()))
            self._set("iteration", token, "", 0)

    @property
    def sampling(self) -> bool:
        """Whether sources give their first records only."""
        return self._sample is not None

    @property
    def most(self) -> int | None:
        """How many records sources give at most."""
        return self._sample

    def wider(self, sample: int) -> Interpreter:
        """One in the same environment that sees more of the sources' records."""
        if self._sample is None or self._sample >= sample:
            return self
        if self._wider is None:
            self._wider = copy(self)
            self._wider._sample, self._wider._samples = sample, {}
        return self._wider

    # Tables.

    def records(self, node: Node) -> Iterable[Row]:
        """A table's records, in order."""
        chain = [node]
        while isinstance(source := getattr(chain[-1], "source", None), op.Operator):
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
            case StateTable(name=name, loop=loop):
                held = self._environment["table", loop, name]
                # A start, computed as far as it is asked for, or an iteration's records.
                yield from self.records(held) if isinstance(held, op.Operator) else held
            case LoopTable(loop=loop, name=name):
                if self.sampling:
                    yield from self.records(dict(loop.tables)[name])
                else:
                    yield from self._once(loop, lambda: self.run_loop(loop))[name]
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
            case op.Filter(label="sample") if self.sampling:
                yield from rows  # a small share of a few records would be none of them
            case op.Filter(predicate=predicate):
                evaluator = self.evaluator([predicate])
                for row in rows:
                    kept = evaluator((row,))[0]
                    if kept is not None and bool(kept):
                        yield row
            case op.Operator():
                from scalops.engine.witness import (
                    tables as table_meaning,  # which reads this module
                )

                yield from table_meaning.records(self, node, rows)

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
            case ex.Constant(value=value) | ex.Held(value=value):
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
            case GroupKey() if self.sampling:
                return stand_in(node.any_type)
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
                    return stand_in(node.any_type)
            case ex.Opaque():
                return self._opaque(node, values, functions[node])
            case ex.DriverCall(arguments=arguments, slots=slots):
                if self.sampling:  # the user's function may take long: its result's example will do
                    return node.example or tuple(map(stand_in, node.outputs))
                return DriverFunction(node)(*(values[e] for e in (*arguments, *slots)))
            case ex.Subquery(source=source, name=name):
                return self.aggregate(source)[name]
            case ex.LoopOutput(loop=loop, name=name):
                return self._loop_output(loop, name)
            case _:
                raise OptimizerError(f"{type(node).__name__} has no meaning here")

    def _opaque(
        self, node: ex.Opaque, values: Mapping[Node, Any], function: Callable[..., Any]
    ) -> tuple[Any, ...]:
        if node.function.batch:
            return call_one(node, values, function)
        arguments = []
        for record in node.records:
            if isinstance(record, ex.Expression):
                arguments.append(python_value(values[record]))
            else:
                arguments.append(nested_record({n: python_value(values[e]) for n, e in record}))
        try:
            _, parts = take_all_apart(function(*arguments))
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
                if isinstance(node, (ex.State, ex.Bound, ex.Iteration, StateTable)):
                    read |= {node.loop}
                elif isinstance(node, ex.Reduced):
                    read |= {0}
                elif isinstance(node, op.Loop):
                    read -= {node.token, 0}
                self._tokens[node] = read
        return self._tokens[root]

    def _fold(self, folds: tuple[Fold, ...], rows: Iterable[Row], node: Node) -> Row:
        return fold_records(self, folds, rows)

    # Loops.

    def _loop_output(self, loop: op.Loop, name: str) -> Any:
        if self._sample is not None:
            if name in loop.state_types:
                return as_numpy(self.value(dict(loop.start)[name]), loop.state_types[name])
            return np.int64(0) if name == ex.ITERATIONS else np.bool_(False)
        return self._once(loop, lambda: self.run_loop(loop))[name]

    def run_loop(self, loop: op.Loop) -> Row:
        """The final environment, its tables as lists, with `iterations` and `converged`."""
        tables = {n: list(self.records(t)) for n, t in loop.tables}
        state = {n: as_numpy(self.value(e), loop.state_types[n]) for n, e in loop.start}
        for name, e in loop.bindings:
            self._set("bound", loop.token, name, self.value(e))
        iterations, converged = 0, False
        elements = None
        if loop.range is not None:
            elements = range(*(int(self.value(e)) for e in loop.range.bounds))
        while True:
            for name, value in state.items():
                self._set("state", loop.token, name, value)
            for name, rows in tables.items():
                self._set("table", loop.token, name, rows)
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
            if isinstance(loop.body, op.Update):
                tables = {n: list(self.records(t)) for n, t in loop.body.tables}
            state = {n: as_numpy(v, loop.state_types[n]) for n, v in new}
            iterations += 1
        ended = {ex.ITERATIONS: np.int64(iterations), ex.CONVERGED: np.bool_(converged)}
        return state | tables | ended

    def _map_reduce(self, body: op.MapReduceUpdate) -> None:
        names = [n for n, _ in body.map]
        columns = [ex.Column(n, body.mapped[n]) for n in names]
        evaluator = self.evaluator(over_source(body.map, columns))
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


def stand_in(kind: Type) -> Any:
    """A value of the type, where a sample has none."""
    if isinstance(kind, TupleType):
        return tuple(map(stand_in, kind.items))
    assert isinstance(kind, ArrayType)
    return with_methods(neutral(kind)) if kind.is_arrow else as_numpy(neutral(kind), kind.strong())


def _arguments(node: ex.Opaque) -> Iterator[ex.Expression]:
    for record in node.records:
        if isinstance(record, ex.Expression):
            yield record
        else:
            yield from (e for _, e in record)


def apply_function(node: ex.Call, arguments: list[Any]) -> Any:
    """A function of the table on single-record values; null in, null out."""
    kind = node.any_type
    if any(a is None for a in arguments):
        value = of_none(node, arguments)
        return value if value is None else as_numpy(value, node.type)
    value = node.function.evaluate(*arguments, **dict(node.parameters))
    if isinstance(kind, ArrayType) and kind.is_arrow:
        return with_methods(value)
    if minds_nulls(node):  # a list's item, say, is Python's
        return as_numpy(value, node.type)
    if isinstance(kind, ArrayType) and kind.weak and not kind.shape:
        return kind.python(value)  # NumPy's own result would not be weak any more
    return value


def block_rows(block: Block, kinds: Mapping[str, ArrayType]) -> Iterator[Row]:
    """A block's records."""
    columns: dict[str, list[Any]] = {}
    for name, values in block.columns.items():
        items: list[Any]
        if isinstance(values, np.ndarray):
            items = list(values)
        elif isinstance(values, SparseColumn):
            items = vectors_of(values)
        else:
            items = list(map(with_methods, values.to_pylist()))
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
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_value, left, right))
    if isinstance(left, str) or isinstance(right, str):
        return bool(left == right)
    if isinstance(left, SparseVector) and isinstance(right, SparseVector):
        return left.shape == right.shape and same_value(*united(left, right)[1:])
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

"""From a logical plan to a physical one.

Each fold, cache, exchange and loop becomes an instruction of the outermost loop that it depends
on; what depends on none runs once, at the beginning. Expressions over other results read them
from slots.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.dtypes import BOOL, INT64, ArrayType
from scalops.algebra.errors import OptimizerError
from scalops.algebra.fingerprint import fingerprint
from scalops.algebra.folds import Fold
from scalops.algebra.functions import function
from scalops.algebra.tree import Node, substitute
from scalops.engine import physical_plan as pp
from scalops.optimizer.invariance import Tokens, free_tokens


@dataclass
class _Scope:
    """A program being written: the top level's (token None) or a loop's."""

    token: int | None
    instructions: list[pp.Instruction] = field(default_factory=list)


def lower(job: op.Job) -> pp.PhysicalPlan:
    """The physical plan of an optimized job."""
    return _Lowering(job).plan()


class _Lowering:
    def __init__(self, job: op.Job) -> None:
        self._job = job
        self._free = free_tokens(job)
        self._scopes = [_Scope(None)]
        self._slots: list[tuple[str, ArrayType]] = []
        self._stages: list[pp.Stage] = []
        self._loops: list[pp.Iterate] = []
        self._tables = 0
        self._leaves: dict[Node, ex.Slot] = {}
        self._stored: dict[Node, pp.PhysicalTable] = {}
        self._loop_numbers: dict[op.Loop, int] = {}

    def plan(self) -> pp.PhysicalPlan:
        """Lower every output."""
        outputs = []
        for node in self._job.outputs:
            if isinstance(node, op.Loop):
                outputs.append(pp.Output("loop", self._loop(node)))
            elif isinstance(node, op.Operator):
                stage = self._stage(self._table(node), pp.Gather())
                self._emit(frozenset(), pp.RunStage(stage))
                outputs.append(pp.Output("table", stage))
            elif isinstance(node, ex.Expression):
                outputs.append(pp.Output("value", self._value(node, "result").number))
            else:
                raise OptimizerError(f"{type(node).__name__} is no output of a job")
        program = tuple(self._scopes[0].instructions)
        return pp.PhysicalPlan(
            tuple(self._stages),
            program,
            tuple(self._slots),
            tuple(outputs),
            tuple(self._loops),
            fingerprint(*self._stages, *program),
        )

    # Slots and scopes.

    def _slot(self, name: str, kind: ArrayType) -> ex.Slot:
        self._slots.append((name, kind))
        return ex.Slot(name, kind, len(self._slots) - 1)

    def _unused(self, name: str) -> str:
        """The name, with a number where another slot has it."""
        taken = {n for n, _ in self._slots}
        number, made = 1, name
        while made in taken:
            number += 1
            made = f"{name}{number}"
        return made

    def _scope(self, tokens: Tokens) -> _Scope:
        """The innermost open scope whose loop is among the tokens, else the top level."""
        for scope in reversed(self._scopes):
            if scope.token in tokens:
                return scope
        return self._scopes[0]

    def _emit(self, tokens: Tokens, instruction: pp.Instruction) -> None:
        self._scope(tokens).instructions.append(instruction)

    def _start_values(self, loop: op.Loop) -> list[ex.Slot]:
        """Slots of the start environment, evaluated together before the loop."""
        assignments, slots = [], []
        for (name, e), kind in zip(loop.start, loop.types, strict=True):
            if e.type != kind and not kind.is_string:
                e = ex.call(function("cast"), e, dtype=kind.name)
            slot = self._slot(f"start {name}", kind)
            assignments.append((slot.number, self._expression(e)))
            slots.append(slot)
        self._emit(self._tokens(loop), pp.Evaluate(tuple(assignments)))
        return slots

    def _tokens(self, node: Node) -> Tokens:
        if node not in self._free:
            self._free.update(free_tokens(node))
        return self._free[node]

    # Expressions.

    def _expression(self, root: ex.Expression) -> ex.Expression:
        """The expression over slots; what it reads is scheduled before."""
        mapping: dict[Node, Node] = {}
        seen: set[Node] = set()
        stack: list[Node] = [root]
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            slot = self._leaf(node)
            if slot is not None:
                mapping[node] = slot
            else:
                stack.extend(reversed(node.children))
        return substitute(root, mapping)

    def _leaf(self, node: Node) -> ex.Slot | None:
        if node in self._leaves:
            return self._leaves[node]
        match node:
            case ex.Subquery(source=source):
                self._aggregate(source)
            case ex.LoopOutput(loop=loop):
                self._loop(loop)
            case ex.State() | ex.Bound() | ex.Iteration() | ex.Reduced():
                raise OptimizerError(f"{type(node).__name__} outside its loop")
            case _:
                return None
        return self._leaves[node]

    def _value(self, e: ex.Expression, name: str) -> ex.Slot:
        """A slot that holds the expression's value."""
        lowered = self._expression(e)
        if isinstance(lowered, ex.Slot):
            return lowered
        slot = self._slot(name, e.type)
        self._emit(self._tokens(e), pp.Evaluate(((slot.number, lowered),)))
        return slot

    # Tables.

    def _table(self, node: op.Operator) -> pp.PhysicalTable:
        if node in self._stored:
            return self._stored[node]
        match node:
            case op.Scan(source=source):
                return pp.TableScan(source, node.schema.names, location=node.location)
            case op.Project(source=source, outputs=outputs):
                below = self._table(source)
                named = tuple((n, self._expression(e)) for n, e in outputs)
                return pp.Compute(below, named, node.bare, location=node.location)
            case op.Filter(source=source, predicate=predicate):
                below = self._table(source)
                return pp.Select(below, self._expression(predicate), location=node.location)
            case op.Limit(source=source, count=count):
                below = self._table(source)
                number = self._number()
                stage = self._stage(below, pp.CountPrefix(number, count))
                self._emit(self._tokens(node), pp.RunStage(stage))
                return self._keep(node, pp.TakePrefix(below, number, location=node.location))
            case op.Repartition(source=source, count=count):
                required = pp.Properties(partitions=count, layout="range")
                return self._keep(node, self._enforced(node, self._table(source), required))
            case op.Cache(source=source):
                below = self._table(source)
                number = self._number()
                stage = self._stage(below, pp.CacheTable(number))
                self._emit(self._tokens(node), pp.RunStage(stage))
                made = pp.Properties(**{**vars(below.delivered), "cached": True})
                return self._keep(node, pp.StoredTable(number, node.schema, made))
        raise OptimizerError(f"{type(node).__name__} is no table")

    def _enforced(
        self, node: op.Operator, below: pp.PhysicalTable, required: pp.Properties
    ) -> pp.PhysicalTable:
        """The table with the required properties: an Exchange where it does not deliver them."""
        if below.delivered.satisfies(required):
            return below
        number = self._number()
        stage = self._stage(below, pp.Exchange(number, required))
        self._emit(self._tokens(node), pp.RunStage(stage))
        return pp.StoredTable(number, below.schema, required)

    def _keep(self, node: op.Operator, table: pp.PhysicalTable) -> pp.PhysicalTable:
        self._stored[node] = table
        return table

    def _number(self) -> int:
        self._tables += 1
        return self._tables

    def _stage(self, source: pp.PhysicalTable, sink: pp.Sink) -> int:
        self._stages.append(pp.Stage(len(self._stages), source, sink))
        return len(self._stages) - 1

    def _aggregate(self, node: op.Aggregate) -> None:
        self._fold(node.source, node.folds, self._tokens(node))
        for fold, slot in zip(node.folds, self._last_fold, strict=True):
            self._leaves[ex.Subquery(node, fold.name)] = slot

    def _fold(
        self,
        source: op.Operator,
        folds: tuple[Fold, ...],
        tokens: Tokens,
        mapped: tuple[op.Named, ...] = (),
    ) -> None:
        below = self._table(source)
        lowered = tuple(self._lowered_fold(f) for f in folds)
        slots = tuple(self._slot(self._unused(f.name), f.type) for f in lowered)
        named = tuple((n, self._expression(e)) for n, e in mapped)
        sink = pp.TreeAggregate(lowered, tuple(s.number for s in slots), named)
        self._emit(tokens, pp.RunStage(self._stage(below, sink)))
        self._last_fold = slots

    def _lowered_fold(self, fold: Fold) -> Fold:
        return replace(
            fold,
            arguments=tuple(self._expression(a) for a in fold.arguments),
            combine=tuple(self._expression(c) for c in fold.combine),
            origin=None,
        )

    # Loops.

    def _loop(self, loop: op.Loop) -> int:
        if loop in self._loop_numbers:
            return self._loop_numbers[loop]
        outer = self._tokens(loop)
        starts = self._start_values(loop)
        state = [self._slot(n, k) for n, k in loop.state_types.items()]
        for slot, (name, kind) in zip(state, loop.state_types.items(), strict=True):
            self._leaves[ex.State(name, kind, loop.token)] = slot
        counter = ex.Iteration(loop.token)
        self._leaves[counter] = self._slot("iteration", counter.type)
        self._scopes.append(_Scope(loop.token))
        for name, e in loop.bindings:
            # Evaluated outside: a binding reads nothing of its own loop.
            self._leaves[ex.Bound(name, e.type, loop.token)] = self._value(e, name)
        condition = None if loop.condition is None else self._expression(loop.condition)
        test = self._scopes[-1].instructions
        self._scopes[-1] = _Scope(loop.token)
        body = loop.body
        if isinstance(body, op.MapReduceUpdate):
            self._fold(body.source, body.reduce, frozenset({loop.token}), body.map)
            for fold, slot in zip(body.reduce, self._last_fold, strict=True):
                self._leaves[ex.Reduced(fold.name, fold.type)] = slot
        assignments = [(n, self._expression(e)) for n, e in body.update]
        new = [self._slot(f"next {n}", loop.state_types[n]) for n, _ in assignments]
        program = self._scopes.pop().instructions
        program.append(
            pp.Evaluate(tuple((s.number, e) for s, (_, e) in zip(new, assignments, strict=True)))
        )
        done = (self._slot("iterations", INT64), self._slot("converged", BOOL))
        iterate = pp.Iterate(
            len(self._loops), tuple(loop.state_types), loop.types,
            tuple(s.number for s in starts), tuple(s.number for s in state),
            tuple(s.number for s in new), self._leaves[counter].number,
            (done[0].number, done[1].number), tuple(test), condition, tuple(program),
            loop.range, loop.max_iterations, loop.allow_nonfinite, loop.warn,
            self._scope(outer).token is not None, name=loop.name, location=loop.location,
        )  # fmt: skip
        self._loops.append(iterate)
        self._emit(outer, iterate)
        for name, slot in zip(loop.state_types, state, strict=True):
            self._leaves[ex.LoopOutput(loop, name)] = slot
        self._leaves[ex.LoopOutput(loop, ex.ITERATIONS)] = done[0]
        self._leaves[ex.LoopOutput(loop, ex.CONVERGED)] = done[1]
        self._loop_numbers[loop] = iterate.index
        return iterate.index

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
from scalops.algebra.schema import Schema
from scalops.algebra.tree import Node, find, substitute, walk, with_children
from scalops.engine import physical_plan as pp
from scalops.engine.origins import Origins
from scalops.optimizer.definitions import as_definitions
from scalops.optimizer.invariance import Tokens, free_tokens, is_uniform
from scalops.optimizer.lockstep import in_lockstep
from scalops.optimizer.lower_relations import INDEXED, RELATIONS
from scalops.optimizer.lower_state import StateTables
from scalops.optimizer.naming import fresh_name


@dataclass
class _Scope:
    """A program being written: the top level's (token None) or a loop's."""

    token: int | None
    instructions: list[pp.Instruction] = field(default_factory=list)


def lower(job: op.Job) -> pp.PhysicalPlan:
    """The physical plan of an optimized job."""
    return Lowering(job).plan()


class Lowering:
    """A job being lowered: what is stored so far, and the programs being written."""

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
        self._counts: dict[op.Operator, int] = {}
        self._origins: dict[Node, op.Operator] = {}
        self.states: set[int] = set()  # numbers of tables that lie as a loop's state does
        self.whole: set[int] = set()  # numbers of tables in whole columns

    def plan(self) -> pp.PhysicalPlan:
        """Lower every output."""
        outputs = []
        for node in self._job.outputs:
            if isinstance(node, op.Loop):
                outputs.append(pp.Output("loop", self.loop(node)))
            elif isinstance(node, op.Operator):
                stage = self.stage(self.table(node), pp.Gather())
                self._emit(frozenset(), pp.RunStage(stage))
                outputs.append(pp.Output("table", stage))
            elif isinstance(node, ex.Expression):
                outputs.append(pp.Output("value", self._value(node, "result").number))
            else:
                raise OptimizerError(f"{type(node).__name__} is no output of a job")
        program = in_lockstep(self._scopes[0].instructions, self._stages)
        return pp.PhysicalPlan(
            tuple(self._stages),
            program,
            tuple(self._slots),
            tuple(outputs),
            tuple(self._loops),
            fingerprint(*self._stages, *program),
            origins=Origins(self._job, self._origins),
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

    def scope_of(self, node: Node) -> _Scope:
        """The program in which a node is computed."""
        return self._scope(self._tokens(node))

    @property
    def innermost(self) -> _Scope:
        """The program that is being written."""
        return self._scopes[-1]

    def _emit(self, tokens: Tokens, instruction: pp.Instruction) -> None:
        self._scope(tokens).instructions.append(instruction)

    def _start_values(self, loop: op.Loop) -> list[ex.Slot]:
        """Slots of the start environment, evaluated together before the loop."""
        assignments, slots = [], []
        for (name, e), kind in zip(loop.start, loop.types, strict=True):
            if e.type != kind and not kind.is_string:
                e = ex.call(function("cast"), e, dtype=kind.name)
            slot = self._slot(f"start {name}", kind)
            assignments.append((slot.number, self.expression(e)))
            slots.append(slot)
        if assignments:
            self._emit(self._tokens(loop), pp.Evaluate(tuple(assignments)))
        return slots

    def _elements(self, loop: op.Loop) -> op.Range | None:
        """The loop's range over slots of the program around it."""
        if loop.range is None:
            return None
        return op.Range(*(self.expression(e) for e in loop.range.bounds))

    def _tokens(self, node: Node) -> Tokens:
        if node not in self._free:
            self._free.update(free_tokens(node))
        return self._free[node]

    # Expressions.

    def expression(self, root: ex.Expression) -> ex.Expression:
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
                self.loop(loop)
            case ex.Item(source=ex.DriverCall() as made):
                self._driver_call(made)
            case ex.State() | ex.Bound() | ex.Iteration() | ex.Reduced():
                raise OptimizerError(f"{type(node).__name__} outside its loop")
            case _:
                return None
        return self._leaves[node]

    def _driver_call(self, node: ex.DriverCall) -> None:
        """Slots for its outputs, evaluated together: the user's function is called once."""
        lowered = replace(
            node,
            arguments=tuple(self.expression(a) for a in node.arguments),
            slots=tuple(self.expression(s) for s in node.slots),
        )
        tokens = self._tokens(node)
        if find((node,), ex.Reduced):  # of the body that is being lowered
            tokens |= {t for t in (self._scopes[-1].token,) if t is not None}
        assignments = []
        for i, kind in enumerate(node.outputs):
            slot = self._slot(self._unused("called"), kind)
            assignments.append((slot.number, ex.Item(lowered, i)))
            self._leaves[ex.Item(node, i)] = slot
        self._emit(tokens, pp.Evaluate(tuple(assignments)))

    def lowered(self, named: tuple[op.Named, ...]) -> tuple[op.Named, ...]:
        return tuple((n, self.expression(e)) for n, e in named)

    def _value(self, e: ex.Expression, name: str) -> ex.Slot:
        """A slot that holds the expression's value."""
        lowered = self.expression(e)
        if isinstance(lowered, ex.Slot):
            return lowered
        slot = self._slot(name, e.type)
        self._emit(self._tokens(e), pp.Evaluate(((slot.number, lowered),)))
        return slot

    # Tables.

    def table(self, node: op.Operator) -> pp.PhysicalTable:
        """The physical table of a logical one; what it reads is scheduled before."""
        return self._made(self._table(node), node)

    def _made(self, made: pp.PhysicalTable, node: op.Operator) -> pp.PhysicalTable:
        self._origins.setdefault(made, node)
        return made

    def _table(self, node: op.Operator) -> pp.PhysicalTable:
        if node in self._stored:
            return self._stored[node]
        if getattr(node, "indexed", False) and type(node) in INDEXED:
            return self.keep(node, INDEXED[type(node)](self, node))
        if type(node) in RELATIONS:
            return self.keep(node, RELATIONS[type(node)](self, node))
        match node:
            case op.Scan(source=source):
                return pp.TableScan(source, node.schema.names, location=node.location)
            case op.Project(source=op.Sort() as source) if self._only_chooses(node, source):
                return self.keep(node, self._sorted(source, node.schema))
            case op.Project(source=source, outputs=outputs):
                source, mapped = as_definitions(source)
                below = self.table(source)
                defined, named = self.lowered(mapped), self.lowered(outputs)
                return pp.Compute(below, named, node.bare, defined, location=node.location)
            case op.Filter(source=source, predicate=predicate) if is_uniform(predicate):
                condition = self.present(predicate, "condition")
                return pp.Gate(self.table(source), condition, location=node.location)
            case op.Filter(source=source, predicate=predicate):
                below = self.table(source)
                return pp.Select(below, self.expression(predicate), location=node.location)
            case op.Limit(source=source, count=count):
                below = self.table(source)
                number = self.number()
                stage = self.stage(below, pp.CountPrefix(number, count))
                self._emit(self._tokens(node), pp.RunStage(stage))
                return self.keep(node, pp.TakePrefix(below, number, location=node.location))
            case op.Repartition(source=source, count=count):
                required = pp.Properties(partitions=count, layout="range")
                return self.keep(node, self._enforced(node, self.table(source), required))
            case op.Cache(source=op.Scan() as source, key=key) if key and source.source.in_memory:
                return self.table(source)  # kept by the session
            case op.Cache(source=source, key=key):
                below = self.table(source)
                if isinstance(below, pp.StoredTable) and not key:
                    return self.keep(node, below)  # an exchange has left it in memory
                number = self.number()
                stage = self.stage(below, pp.CacheTable(number, "" if self._tokens(node) else key))
                self._emit(self._tokens(node), pp.RunStage(stage))
                made = pp.Properties(**{**vars(below.delivered), "cached": True})
                return self.keep(node, pp.StoredTable(number, node.schema, made))
            case op.Union(sources=sources):
                return pp.Concatenate(tuple(map(self.table, sources)), location=node.location)
            case op.Slice(source=source, start=start, length=length):
                below = self.table(source)
                first = self.present(start, "start")
                many = None if length is None else self.present(length, "length")
                number, word = self._counted(source, below), node.label or "slice"
                return pp.TakeRange(below, number, first, many, word, location=node.location)
            case op.WithRowIndex(source=source, name=name):
                below = self.table(source)
                number = self._counted(source, below)
                return pp.NumberRows(below, name, number, location=node.location)
            case op.Sort():
                return self.keep(node, self._sorted(node, node.schema))
            case op.Distinct(source=source, columns=columns):
                below = self.table(source)
                number = self.number()
                self.run(node, below, pp.DistinctRows(number, columns, location=node.location))
                return self.keep(node, pp.StoredTable(number, node.schema))
            case op.Explode(source=source, names=names, index=index):
                below = self.table(source)
                return pp.Unnest(below, node.schema, names, index, location=node.location)
            case op.Expand(source=source, records=records):
                below = self.table(source)
                lowered = tuple(map(self.lowered, records))
                return pp.Interleave(below, node.schema, lowered, location=node.location)
            case op.MapBatches(source=source, function=function, slots=slots):
                below = self.table(source)
                given = tuple(self.present(e, "value") for e in slots)
                return pp.CallBatches(below, node.schema, function, given, location=node.location)
        raise OptimizerError(f"{type(node).__name__} is no table")

    def present(self, e: ex.Expression, name: str) -> ex.Expression:
        """A value for stages to read as it is: a constant, or a slot."""
        return e if isinstance(e, ex.Constant) else self._value(e, name)

    def run(self, node: op.Operator, below: pp.PhysicalTable, sink: pp.Sink) -> None:
        """A stage over the table, to run where the operator's loop does."""
        stage = self.stage(below, sink)
        self._emit(self._tokens(node), pp.RunStage(stage))

    def _counted(self, source: op.Operator, below: pp.PhysicalTable) -> int:
        """The number under which the records of each partition of `source` are counted."""
        if source not in self._counts:
            number = self._counts[source] = self.number()
            while isinstance(below, pp.Compute):  # as many records below
                below = below.source
            if isinstance(below, pp.TableScan):
                below = replace(below, columns=())
            self.run(source, below, pp.CountRows(number))
        return self._counts[source]

    def _only_chooses(self, node: op.Project, source: op.Sort) -> bool:
        """Whether a projection but leaves out columns of a sorted table that nobody else reads."""
        chosen = all(isinstance(e, ex.Column) and e.name == n for n, e in node.outputs)
        readers = [n for n in walk(self._job) if source in n.children]
        return chosen and readers == [node]

    def _sorted(self, node: op.Sort, kept: Schema) -> pp.PhysicalTable:
        """The columns `kept` of a sorted table; only they and the keys change places."""
        below = self.table(node.source)
        outputs: list[op.Named] = [(n, ex.Column(n, k)) for n, k in kept]
        names, taken = [], {*node.source.schema.names}
        for key in node.keys:
            plain = isinstance(key, ex.Column)
            names.append(key.name if isinstance(key, ex.Column) else fresh_name("@key", taken))
            if not plain or names[-1] not in kept:
                outputs.append((names[-1], self.expression(key)))
        if [n for n, _ in outputs] != list(below.schema.names):
            below = pp.Compute(below, tuple(dict(outputs).items()), location=node.location)
        number = self.number()
        keys = tuple(names)
        sink = pp.SortRows(number, keys, node.descending, kept.names, location=node.location)
        self.run(node, below, sink)
        return pp.StoredTable(number, kept, pp.Properties(layout="range"))

    def _enforced(
        self, node: op.Operator, below: pp.PhysicalTable, required: pp.Properties
    ) -> pp.PhysicalTable:
        """The table with the required properties: an Exchange where it does not deliver them."""
        if below.delivered.satisfies(required):
            return below
        number = self.number()
        stage = self.stage(below, pp.Exchange(number, required, location=node.location))
        self._emit(self._tokens(node), pp.RunStage(stage))
        return pp.StoredTable(number, below.schema, required)

    def stays(self, node: op.Operator, reader: op.Operator) -> bool:
        """Whether a table is made outside of a loop in which its reader is made anew."""
        return self._scope(self._tokens(node)) is not self._scope(self._tokens(reader))

    def is_stored(self, node: op.Operator) -> bool:
        """Whether a table has been lowered to a stored one."""
        return node in self._stored

    def keep(self, node: op.Operator, table: pp.PhysicalTable) -> pp.PhysicalTable:
        """Let every reader of the node read this table."""
        self._stored[node] = table
        return table

    def number(self) -> int:
        """The number of one more stored table."""
        self._tables += 1
        return self._tables

    def stage(self, source: pp.PhysicalTable, sink: pp.Sink) -> int:
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
        if not mapped:
            source, mapped = as_definitions(source)
        below = self.table(source)
        read = (*(a for f in folds for a in f.arguments), *(e for _, e in mapped))
        if isinstance(below, pp.TableScan) and not ex.columns_read(read):
            # Files are counted by their metadata; a column stays only so that the plan has one.
            below = self._made(replace(below, columns=()), source)
        lowered = tuple(self.fold(f) for f in folds)
        slots = tuple(self._slot(self._unused(f.name), f.type) for f in lowered)
        sink = pp.TreeAggregate(lowered, tuple(s.number for s in slots), self.lowered(mapped))
        self._emit(tokens, pp.RunStage(self.stage(below, sink)))
        self._last_fold = slots

    def fold(self, fold: Fold) -> Fold:
        """A fold over slots."""
        lowered: dict[Node, Node] = {}
        for e in fold.children:
            assert isinstance(e, ex.Expression)
            lowered[e] = self.expression(e)
        return replace(with_children(fold, lowered), origin=None)

    # Loops.

    def loop(self, loop: op.Loop) -> int:
        if loop in self._loop_numbers:
            return self._loop_numbers[loop]
        outer = self._tokens(loop)
        starts = self._start_values(loop)
        tables = StateTables(self, loop)
        tables.begin()
        elements = self._elements(loop)
        state = [self._slot(n, k) for n, k in loop.state_types.items()]
        for slot, (name, kind) in zip(state, loop.state_types.items(), strict=True):
            self._leaves[ex.State(name, kind, loop.token)] = slot
        counter = ex.Iteration(loop.token)
        self._leaves[counter] = self._slot("iteration", counter.type)
        self._scopes.append(_Scope(loop.token))
        for name, e in loop.bindings:
            # Evaluated outside: a binding reads nothing of its own loop.
            self._leaves[ex.Bound(name, e.type, loop.token)] = self._value(e, name)
        condition = None if loop.condition is None else self.expression(loop.condition)
        test = self._scopes[-1].instructions
        self._scopes[-1] = _Scope(loop.token)
        body = loop.body
        if isinstance(body, op.MapReduceUpdate):
            self._fold(body.source, body.reduce, frozenset({loop.token}), body.map)
            for fold, slot in zip(body.reduce, self._last_fold, strict=True):
                self._leaves[ex.Reduced(fold.name, fold.type)] = slot
        fields = tables.go_on()
        assignments = [(n, self.expression(e)) for n, e in body.update]
        new = [self._slot(f"next {n}", loop.state_types[n]) for n, _ in assignments]
        program = self._scopes.pop().instructions
        if new:
            pairs = zip(new, assignments, strict=True)
            program.append(pp.Evaluate(tuple((s.number, e) for s, (_, e) in pairs)))
        done = (self._slot("iterations", INT64), self._slot("converged", BOOL))
        iterate = pp.Iterate(
            len(self._loops), tuple(loop.state_types), loop.types,
            tuple(s.number for s in starts), tuple(s.number for s in state),
            tuple(s.number for s in new), self._leaves[counter].number,
            (done[0].number, done[1].number), tuple(test), condition, tuple(program),
            elements, loop.max_iterations, loop.allow_nonfinite, loop.warn,
            self._scope(outer).token is not None, fields, name=loop.name, location=loop.location,
        )  # fmt: skip
        self._loops.append(iterate)
        self._emit(outer, iterate)
        tables.end()
        for name, slot in zip(loop.state_types, state, strict=True):
            self._leaves[ex.LoopOutput(loop, name)] = slot
        self._leaves[ex.LoopOutput(loop, ex.ITERATIONS)] = done[0]
        self._leaves[ex.LoopOutput(loop, ex.CONVERGED)] = done[1]
        self._loop_numbers[loop] = iterate.index
        return iterate.index

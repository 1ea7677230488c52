"""The physical plan, as data: stages over partitioned tables and the program that runs them.

A stage is what every partition does by itself, ended by a sink where partitions meet: a
reduction, an exchange, a cache, a gather. The program is the driver's part: which stage when,
which values in between, and loops. Driver values live in numbered slots; a stage reads them by
`Slot` leaves, so an iteration rebinds numbers and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from scalops.algebra import expressions as ex
from scalops.algebra.captured import Captured
from scalops.algebra.dtypes import INT64, ArrayType
from scalops.algebra.folds import Fold, OpaqueAggregate
from scalops.algebra.operators import Named, Range
from scalops.algebra.schema import Schema
from scalops.algebra.tree import Node
from scalops.engine.origins import UNKNOWN, Origins


@dataclass(frozen=True)
class Properties:
    """How a table's records lie: what an operator delivers, or its reader requires.

    `partitions` is None where it does not matter or is not known; `keys` are those of a hash
    layout; `ordered` says that partitions follow each other in table order.
    """

    partitions: int | None = None
    layout: Literal["any", "range", "hash"] = "any"
    keys: tuple[str, ...] = ()
    ordered: bool = True
    cached: bool = False

    def satisfies(self, required: Properties) -> bool:
        """Whether a table that delivers this can be read as it is."""
        return (
            (required.partitions is None or required.partitions == self.partitions)
            and (required.layout == "any" or required.layout == self.layout)
            and (not required.keys or required.keys == self.keys)
            and (self.ordered or not required.ordered)
        )


# Tables: what a partition's blocks go through.


@dataclass(frozen=True, eq=False, repr=False)
class PhysicalTable(Node):
    """A partitioned table, read block by block."""

    @property
    def schema(self) -> Schema:
        raise NotImplementedError

    @property
    def delivered(self) -> Properties:
        raise NotImplementedError


@dataclass(frozen=True, eq=False, repr=False)
class TableScan(PhysicalTable):
    """Blocks of a source, with only these columns decoded."""

    source: Any
    columns: tuple[str, ...]

    @cached_property
    def schema(self) -> Schema:
        full = self.source.schema
        return Schema(tuple((n, full[n]) for n in self.columns), full.bare)

    @property
    def delivered(self) -> Properties:
        return Properties(layout="range")


@dataclass(frozen=True, eq=False, repr=False)
class Compute(PhysicalTable):
    """New columns for each block, by one kernel.

    `map` names what several of the outputs read, each over the input's columns and the names
    before it.
    """

    source: PhysicalTable
    outputs: tuple[Named, ...]
    bare: bool = False
    map: tuple[Named, ...] = ()

    @cached_property
    def schema(self) -> Schema:
        return Schema(tuple((n, e.type.strong()) for n, e in self.outputs), self.bare)

    @property
    def delivered(self) -> Properties:
        inner = self.source.delivered
        names = {n for n, e in self.outputs if isinstance(e, ex.Column) and e.name == n}
        kept = inner.layout != "hash" or set(inner.keys) <= names
        return inner if kept else Properties(inner.partitions, "any", (), inner.ordered)


@dataclass(frozen=True, eq=False, repr=False)
class Fewer(PhysicalTable):
    """Some of the records of `source`, as they are and where they are."""

    source: PhysicalTable

    @property
    def schema(self) -> Schema:
        return self.source.schema

    @property
    def delivered(self) -> Properties:
        return self.source.delivered


@dataclass(frozen=True, eq=False, repr=False)
class Select(Fewer):
    """The records of each block for which the predicate is true."""

    predicate: ex.Expression


@dataclass(frozen=True, eq=False, repr=False)
class TakePrefix(Fewer):
    """The first records of each partition, as many as the prefix `number` gives it."""

    number: int


@dataclass(frozen=True, eq=False, repr=False)
class TakeRange(Fewer):
    """The records from number `start` on, `length` of them at most.

    The records of each partition were counted under `number`, so that only partitions with some
    of the wanted ones are read. `start` and `length` are slots or constants.
    """

    number: int
    start: ex.Expression
    length: ex.Expression | None
    word: str = field(default="slice", compare=False)


@dataclass(frozen=True, eq=False, repr=False)
class Gate(Fewer):
    """All records where the slot or constant `condition` is true, else none: nothing is read."""

    condition: ex.Expression


@dataclass(frozen=True, eq=False, repr=False)
class NumberRows(PhysicalTable):
    """The records with their number as column `name`; partitions were counted under `number`."""

    source: PhysicalTable
    name: str
    number: int

    @cached_property
    def schema(self) -> Schema:
        return Schema(((self.name, INT64), *self.source.schema.fields))

    @property
    def delivered(self) -> Properties:
        return self.source.delivered


@dataclass(frozen=True, eq=False, repr=False)
class Concatenate(PhysicalTable):
    """The partitions of one table after those of another."""

    sources: tuple[PhysicalTable, ...]

    @property
    def schema(self) -> Schema:
        return self.sources[0].schema

    @property
    def delivered(self) -> Properties:
        return Properties()


@dataclass(frozen=True, eq=False, repr=False)
class Multiply(PhysicalTable):
    """Any number of new records of the schema `made` for each."""

    source: PhysicalTable
    made: Schema

    @property
    def schema(self) -> Schema:
        return self.made

    @property
    def delivered(self) -> Properties:
        return Properties(self.source.delivered.partitions)


@dataclass(frozen=True, eq=False, repr=False)
class Unnest(Multiply):
    """One record for each item of the lists or arrays in `names`, with its position."""

    names: tuple[str, ...]
    index: str | None


@dataclass(frozen=True, eq=False, repr=False)
class Interleave(Multiply):
    """Several new records for each, computed by one kernel."""

    records: tuple[tuple[Named, ...], ...]


@dataclass(frozen=True, eq=False, repr=False)
class CallBatches(Multiply):
    """A captured function of each block; `slots` are slots or constants that it had closed over."""

    function: Captured
    slots: tuple[ex.Expression, ...]


@dataclass(frozen=True, eq=False, repr=False)
class StoredTable(PhysicalTable):
    """What an earlier stage left behind under this number."""

    number: int
    stored: Schema
    properties: Properties = Properties()

    @property
    def schema(self) -> Schema:
        return self.stored

    @property
    def delivered(self) -> Properties:
        return self.properties


def base(table: PhysicalTable) -> PhysicalTable:
    """The table that it is computed from block by block: a scan, a stored one, several."""
    while isinstance(below := getattr(table, "source", None), PhysicalTable):
        table = below
    return table


# Sinks: where partitions meet.


@dataclass(frozen=True, eq=False, repr=False)
class Sink(Node):
    """The end of a stage."""

    @property
    def other_tables(self) -> tuple[int, ...]:
        """Numbers of stored tables that it reads beside the stage's own."""
        return ()

    @property
    def calls_functions(self) -> bool:
        """Whether it calls a user's function itself."""
        return False


@dataclass(frozen=True, eq=False, repr=False)
class TreeAggregate(Sink):
    """Fold each leaf (a run of partitions), combine leaves in the canonical binary tree.

    The results go to `slots`, one per fold. `map` names columns computed on the way, each from
    the input's and those before it, which the folds read like any other: one kernel.
    """

    folds: tuple[Fold, ...]
    slots: tuple[int, ...]
    map: tuple[Named, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class CacheTable(Sink):
    """Hold the blocks in memory as table `number`, as far as the budget reaches.

    With a `key` the session keeps them for later plans.
    """

    number: int
    key: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class StoreSink(Sink):
    """Leaves table `number` behind, wholly in memory."""

    number: int


@dataclass(frozen=True, eq=False, repr=False)
class Exchange(StoreSink):
    """Send records to the partitions of `required`."""

    required: Properties


@dataclass(frozen=True, eq=False, repr=False)
class CountPrefix(Sink):
    """How many of the first `count` records lie in each partition, as prefix `number`."""

    number: int
    count: int


@dataclass(frozen=True, eq=False, repr=False)
class CountRows(Sink):
    """How many records each partition has, as count `number`."""

    number: int


@dataclass(frozen=True, eq=False, repr=False)
class SortRows(StoreSink):
    """Bring the records into the order of the columns `keys`.

    The result has the columns `kept` and as many partitions as the input, of near-equal ranges.
    """

    keys: tuple[str, ...]
    descending: tuple[bool, ...]
    kept: tuple[str, ...]


@dataclass(frozen=True, eq=False, repr=False)
class DistinctRows(StoreSink):
    """Keep the first of equal records, each in its partition.

    With `columns` those are equal that are so in these.
    """

    columns: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class Gather(Sink):
    """Hand the records to the driver, in table order."""


@dataclass(frozen=True, eq=False, repr=False)
class Stage(Node):
    """What every partition does, and how they meet; `reads` are the slots bound before."""

    number: int
    source: PhysicalTable
    sink: Sink

    @cached_property
    def reads(self) -> tuple[int, ...]:
        from scalops.algebra.tree import find

        return tuple(sorted({s.number for s in find((self,), ex.Slot)}))

    @cached_property
    def calls_functions(self) -> bool:
        """Whether users' functions are called that could not be traced."""
        from scalops.algebra.tree import find

        if self.sink.calls_functions:
            return True
        return bool(find((self,), ex.Opaque) or find((self,), OpaqueAggregate))


# The driver's program.


@dataclass(frozen=True, eq=False, repr=False)
class Instruction(Node):
    """A step of the driver."""


@dataclass(frozen=True, eq=False, repr=False)
class RunStage(Instruction):
    """Run a stage; what its sink leaves is there afterwards."""

    stage: int


@dataclass(frozen=True, eq=False, repr=False)
class Evaluate(Instruction):
    """Compute driver values: slot = expression over slots."""

    assignments: tuple[tuple[int, ex.Expression], ...]


@dataclass(frozen=True, eq=False, repr=False)
class TableField(Node):
    """A table of a loop's state, by numbers of stored tables.

    At the beginning `state` becomes what is `start`, after an iteration what is `next`: `keeps`
    says of either whether it stays as it is, too, for others to read. The Gather stage `rows`
    hands the state's records out. `computed` columns must not become NaN or infinite.
    """

    name: str
    schema: Schema
    start: int
    state: int
    next: int
    keeps: tuple[bool, bool]
    rows: int
    computed: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class Iterate(Instruction):
    """A loop: slots of its state, the program of a test and of an iteration.

    `start`, `next` and `state` are parallel: the start's slots, the slots in which an iteration
    leaves the next state, and the state's own. `counter` is the slot of the range's element or
    iteration number, `done` those of `iterations` and `converged`. The bounds of `range` are
    over slots, and read when the loop starts. `tables` are those of the state.
    """

    index: int
    fields: tuple[str, ...]
    types: tuple[ArrayType, ...]
    start: tuple[int, ...]
    state: tuple[int, ...]
    next: tuple[int, ...]
    counter: int
    done: tuple[int, int]
    test: tuple[Instruction, ...]
    condition: ex.Expression | None
    body: tuple[Instruction, ...]
    range: Range | None
    max_iterations: int | None
    allow_nonfinite: bool
    warn: bool
    nested: bool
    tables: tuple[TableField, ...] = ()
    name: str | None = field(default=None, compare=False)


@dataclass(frozen=True, eq=False, repr=False)
class IterateTogether(Instruction):
    """Loops that do not need each other, in lock-step.

    Whenever several of them fold tables that rest on the same one, it is read once for all;
    a loop that has finished drops out. Stages of one of the `stacks` are folded as one.
    """

    loops: tuple[Iterate, ...]
    stacks: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Output:
    """What the job gives, in order: a slot's value, a gathered stage, or a loop by its slots."""

    kind: Literal["value", "table", "loop"]
    number: int


@dataclass(frozen=True)
class PhysicalPlan:
    """Stages by number, the program, and what to hand out."""

    stages: tuple[Stage, ...]
    program: tuple[Instruction, ...]
    slots: tuple[tuple[str, ArrayType], ...]
    outputs: tuple[Output, ...]
    loops: tuple[Iterate, ...]
    fingerprint: str
    compiling: tuple[tuple[int, str], ...] = ()  # of stages: why their folds are compiled, or not
    folding: tuple[tuple[int, str], ...] = ()  # of stages: on threads or processes, and why
    origins: Origins = field(default=UNKNOWN, compare=False, repr=False)

"""What folding a cached table in a loop takes, as data: read off a physical plan.

The facts that the choice between threads and processes rests on; the choice is the optimizer's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from scalops.algebra import expressions as ex
from scalops.algebra.expressions import columns_read, within
from scalops.algebra.folds import Fold, Transition
from scalops.algebra.schema import Schema
from scalops.algebra.tree import find
from scalops.engine import physical_plan as pp
from scalops.engine.blocks import block_rows, partition_bounds
from scalops.engine.kept_tables import KeptSource
from scalops.engine.physical_compiled import CompiledAggregate
from scalops.engine.reduction import leaf_bytes, leaf_count

# Steps that need nothing but a block and values of the driver.
_STEPS = (pp.Compute, pp.Select, pp.Gate, pp.Unnest, pp.Interleave)
# Folds whose partials grow with the records: all of them would pass through a pipe.
_KEEPING = frozenset(("quantile", "n_unique", "collect_list", "to_array"))
_OF_A_BLOCK = 4  # calls that a block costs beyond its kernels': slices, iterators, checks
_OF_A_FOLD = 2  # a block's partial, and adding it
ASSUMED_ITERATIONS = 20  # of a loop that runs until its condition is false


@dataclass(frozen=True)
class FoldWork:
    """A stage that folds the cached table `table` in a loop.

    `calls` of NumPy for each of `blocks`, that compute `expressions` and the `folds`; `passes` is
    how often it runs, `known` or assumed. `leaves` is 0 where nobody knows before how many records
    there are: then `rows` are those of one block. `moved_bytes` of the table have to be copied to
    where processes can map it. `refused` says why it cannot be on processes.
    """

    stage: int
    table: int
    rows: float
    blocks: float
    bytes: float
    moved_bytes: float
    calls: int
    expressions: tuple[ex.Expression, ...]
    folds: tuple[Fold, ...]
    by_record: bool
    partial_bytes: int
    leaves: int
    passes: float
    known: bool
    refused: str | None


def fold_works(plan: pp.PhysicalPlan) -> list[FoldWork]:
    """The stages that fold cached tables in loops, except where users' functions are called.

    Only of tables that are cached once, outside of all loops; of others nothing is said.
    """
    stages = plan.stages
    loads: dict[int, pp.Stage] = {}
    made: dict[int, pp.Stage] = {}
    for instruction in plan.program:
        if isinstance(instruction, pp.RunStage):
            stage = stages[instruction.stage]
            if isinstance(stage.sink, pp.CacheTable):
                loads[stage.sink.number] = stage
            if isinstance(stage.sink, (pp.CacheTable, pp.StoreSink)):
                made[stage.sink.number] = stage
    sources: list[KeptSource] = []
    found = []
    for stage_number, passes, known in _folding(plan.program, stages):
        stage = stages[stage_number]
        table = pp.base(stage.source)
        kept = kept_source(stage)
        if stage.calls_functions:
            continue
        if kept is not None:
            if kept not in sources:
                sources.append(kept)
            assert isinstance(table, pp.TableScan)
            number = -1 - sources.index(kept)
            shared = kept.table.shared is not None
            found.append(_work(stage, number, table, shared, passes, known))
        elif isinstance(table, pp.StoredTable) and table.number in loads:
            source = _source(loads[table.number].source, made)
            found.append(_work(stage, table.number, source, False, passes, known))
    return found


def kept_source(stage: pp.Stage) -> KeptSource | None:
    """The table on which a stage rests, if the session keeps it."""
    table = pp.base(stage.source)
    source = table.source if isinstance(table, pp.TableScan) else None
    return source if isinstance(source, KeptSource) else None


def _work(
    stage: pp.Stage,
    number: int,
    source: pp.TableScan | None,
    shared: bool,
    passes: float,
    known: bool,
) -> FoldWork:
    sink = stage.sink
    assert isinstance(sink, pp.TreeAggregate)
    roots = tuple(_computed(stage))
    schema = pp.base(stage.source).schema
    size = block_rows(schema)
    rows = float(size if source is None else source.source.likely_rows)
    partial = sum(f.type.bytes for f in sink.folds)
    leaves = 0 if source is None else leaves_of(source, sink.folds)
    size_in_bytes = rows * schema.bytes_per_row
    steps = sum(1 for _ in _chain(stage.source))
    calls = sum(isinstance(n, ex.Call) and bool(columns_read([n])) for n in within(roots))
    return FoldWork(
        stage=stage.number,
        table=number,
        rows=rows,
        blocks=blocks_of(schema, rows),
        bytes=size_in_bytes,
        moved_bytes=0.0 if shared else size_in_bytes,
        calls=calls + _OF_A_FOLD * len(sink.folds) + _OF_A_BLOCK * (1 + steps),
        expressions=roots,
        folds=sink.folds,
        by_record=any(isinstance(f, Transition) for f in sink.folds),
        partial_bytes=partial,
        leaves=leaves,
        passes=passes,
        known=known,
        refused=_refused(stage, schema),
    )


def leaves_of(source: pp.TableScan, folds: Sequence[Fold]) -> int:
    """Leaves of the canonical reduction over the partitions of a source."""
    partitions = len(partition_bounds(int(source.source.likely_rows), source.source.schema))
    return leaf_count(partitions, int(source.source.bytes), leaf_bytes(folds))


def rows_of_block(schema: Schema) -> int:
    """Records of this schema in a block, at most."""
    return block_rows(schema)


def partitions_in_group(scan: pp.TableScan) -> float:
    """Partitions that lie in one group of rows of a file, which is decoded from its beginning on;
    1 where each can be read alone."""
    groups = getattr(getattr(scan.source, "contents", None), "groups", ())
    partitions = len(partition_bounds(int(scan.source.likely_rows), scan.source.schema))
    return max(1.0, partitions / len(groups)) if groups else 1.0


def blocks_of(schema: Schema, rows: float) -> float:
    """Blocks in which so many records of this schema lie."""
    return float(-(-rows // block_rows(schema)))


def environment_bytes(plan: pp.PhysicalPlan, loop: pp.Iterate) -> int:
    """Bytes of the values that an iteration changes and its stages read."""
    stages = [plan.stages[i.stage] for i in find((*loop.test, *loop.body), pp.RunStage)]
    changing = {loop.counter, *loop.state, *loop.next}
    for evaluate in find((*loop.test, *loop.body), pp.Evaluate):
        changing.update(slot for slot, _ in evaluate.assignments)
    for stage in stages:
        if isinstance(stage.sink, pp.TreeAggregate):
            changing.update(stage.sink.slots)
    read = changing & {slot for stage in stages for slot in stage.reads}
    return sum(plan.slots[slot][1].bytes for slot in read)


def _refused(stage: pp.Stage, schema: Schema) -> str | None:
    """Why a stage cannot fold on processes."""
    if any(k.is_arrow or k.is_object for _, k in schema):
        return "strings and lists are not in shared memory"
    if not all(isinstance(s, _STEPS) for s in _chain(stage.source)):
        return "it reads other tables or counts of records"
    assert isinstance(stage.sink, pp.TreeAggregate)
    if isinstance(stage.sink, CompiledAggregate):
        return "a compiled loop lets go of the interpreter's lock"
    for fold in stage.sink.folds:
        if fold.kind in _KEEPING:
            return f"{fold.word} keeps the records' values"
        state = [e.type for e in fold.combine]
        if fold.kind.startswith(("first", "last", "arg")):
            state += [a.type for a in fold.arguments]
        if any(k.is_arrow or k.is_sparse or k.is_object for k in (fold.type, *state)):
            return f"{fold.word} gives no numbers"
    return None


def _folding(
    program: Sequence[pp.Instruction], stages: Sequence[pp.Stage]
) -> Iterator[tuple[int, float, bool]]:
    """The stages in loops that fold, how often each runs, and whether that is known."""
    for loop in _loops(program):
        times, known = times_of(loop)
        own = (*loop.test, *loop.body)
        for instruction in own:
            if isinstance(instruction, pp.RunStage) and isinstance(
                stages[instruction.stage].sink, pp.TreeAggregate
            ):
                yield instruction.stage, times, known
        for number, inner, sure in _folding(own, stages):
            yield number, inner * times, known and sure


def _loops(program: Sequence[pp.Instruction]) -> Iterator[pp.Iterate]:
    for instruction in program:
        if isinstance(instruction, pp.Iterate):
            yield instruction
        elif isinstance(instruction, pp.IterateTogether):
            yield from instruction.loops


def times_of(loop: pp.Iterate) -> tuple[float, bool]:
    """How many iterations a loop has, and whether that is known; else it is assumed."""
    if loop.range is not None and all(isinstance(b, ex.Constant) for b in loop.range.bounds):
        start, stop, step = (int(b.value) for b in loop.range.bounds if isinstance(b, ex.Constant))
        if step != 0:
            return float(
                min(len(range(start, stop, step)), loop.max_iterations or sys.maxsize)
            ), True
    most = ASSUMED_ITERATIONS if loop.max_iterations is None else loop.max_iterations
    return float(min(ASSUMED_ITERATIONS, most)), False


def _computed(stage: pp.Stage) -> Iterator[ex.Expression]:
    """What is computed of each block."""
    for step in _chain(stage.source):
        match step:
            case pp.Compute(outputs=outputs, map=mapped):
                yield from (e for _, e in (*mapped, *outputs))
            case pp.Select(predicate=predicate):
                yield predicate
            case pp.Interleave(records=records):
                yield from (e for record in records for _, e in record)
    sink = stage.sink
    assert isinstance(sink, pp.TreeAggregate)
    yield from (e for _, e in sink.map)
    for fold in sink.folds:
        yield from fold.arguments


def _chain(table: pp.PhysicalTable) -> Iterator[pp.PhysicalTable]:
    """The steps over the base."""
    while isinstance(below := getattr(table, "source", None), pp.PhysicalTable):
        yield table
        table = below


def _source(table: pp.PhysicalTable, made: Mapping[int, pp.Stage]) -> pp.TableScan | None:
    """The one source whose records a table has, as far as that can be seen."""
    found = pp.base(table)
    while isinstance(found, pp.StoredTable):
        stage = made.get(found.number)
        if stage is None or not isinstance(stage.sink, (pp.CacheTable, pp.Exchange, pp.SortRows)):
            return None
        found = pp.base(stage.source)
    return found if isinstance(found, pp.TableScan) else None

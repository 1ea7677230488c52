"""The embedded backend: stages run in this process, on threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine.backends import TableInfo
from scalops.engine.blocks import Block
from scalops.engine.cached_table import CachedTable, moved_kept
from scalops.engine.columns import empty
from scalops.engine.exchanges import (
    Parts,
    distinct_block,
    distinct_parts,
    repartitioned,
    sorted_parts,
)
from scalops.engine.kept_tables import KeptTable
from scalops.engine.memory import FreeMemory, MemoryBudget
from scalops.engine.passes import Pass, Reduction, in_partition, passes
from scalops.engine.pipelines.base import (
    BUFFERS,
    Counts,
    HeldTable,
    Pipeline,
    Runtime,
    own_bytes,
)
from scalops.engine.pipelines.compiled import build
from scalops.engine.process_folds import FoldPlace, ProcessFolds
from scalops.engine.relations.base import Relation
from scalops.engine.relations.compiled import RELATIONS, relation
from scalops.engine.relations.state import state_table
from scalops.engine.stacked import NullsFound, Stacks, stacks_of
from scalops.engine.threads import Task, ThreadPool

if TYPE_CHECKING:
    from scalops.engine.processes.runner import ProcessRunner


class EmbeddedBackend:
    """Fulfils `backends.Backend` within this process."""

    def __init__(
        self,
        pool: ThreadPool,
        budget: MemoryBudget,
        runner: ProcessRunner | None = None,
        keep: Mapping[str, KeptTable] | None = None,
        waiting: ThreadPool | None = None,
        folds: FoldPlace | None = None,
    ) -> None:
        """`waiting` runs the stages that mostly wait for the runner's processes.

        `folds` tells which stages fold on processes of the runner's.
        """
        self._place = folds
        self._folds: ProcessFolds | None = None
        self._pool, self._budget, self._runner = pool, budget, runner
        self._waiting = waiting or pool
        self._waits: frozenset[int] = frozenset()
        self._keep = keep or {}
        self._runtime: Runtime
        self._stages: list[pp.Stage] = []
        self._pipelines: dict[int, Pipeline] = {}
        self._reductions: dict[int, Reduction] = {}
        self._stacks: Stacks
        self._passes: dict[tuple[tuple[int, ...], ...], tuple[Any, list[Pass]]] = {}
        self._inline: frozenset[int] = frozenset()
        self._relations: dict[int, Relation] = {}
        self._gathered: dict[int, list[list[Block] | None]] = {}

    # Life.

    def start(self, plan: pp.PhysicalPlan) -> None:
        self._runtime = Runtime(plan, self._budget, self._runner)
        self._stages = list(plan.stages)
        if self._runner is not None:
            self._waits = frozenset(s.number for s in plan.stages if s.calls_functions)
            if self._place is not None:
                self._folds = ProcessFolds(plan, self._runtime, self._runner, self._place)
        for stage in plan.stages:
            pipeline = build(stage.source, self._runtime)
            self._pipelines[stage.number] = pipeline
            if isinstance(stage.sink, pp.TreeAggregate):
                self._reductions[stage.number] = Reduction(
                    stage, pipeline, self._runtime, self._runner
                )
            elif type(stage.sink) in RELATIONS:
                self._relations[stage.number] = relation(stage, pipeline, self._runtime)
        self._stacks = Stacks(stacks_of(plan), plan.stages, self._reductions, self._runtime)
        if self._folds is not None:
            self._share_kept()

    def stop(self) -> None:
        if not hasattr(self, "_runtime"):
            return
        if self._folds is not None:
            self._folds.stop()
            self._folds = None
        for number in list(self._runtime.tables):
            self.release(number)
        self._budget.release(BUFFERS)
        self._pipelines.clear()
        self._reductions.clear()
        self._relations.clear()
        self._passes.clear()
        self._gathered.clear()
        self._stages.clear()
        del self._stacks
        del self._runtime  # with its frames' buffers

    def cancel(self) -> None:
        if hasattr(self, "_runtime"):
            self._runtime.cancelled = True
        self._abandon()

    def _abandon(self) -> None:
        if self._runner is not None:
            self._runner.abandon()

    def _run(self, task: Task, count: int, *stages: int) -> None:
        pool = self._pool if self._waits.isdisjoint(stages) else self._waiting
        pool.run(task, count, abandon=self._abandon)

    def lost(self) -> tuple[str, ...]:
        return () if self._runner is None else self._runner.lost()

    def commit(self, iteration: int) -> None:
        pass  # array state is the driver's; nothing is kept here from one iteration to the next

    def change(self, change: pp.Change) -> None:
        self._inline = change.inline
        if self._folds is not None and change.processes:
            self._folds.choose(change.processes)
            self._share_kept()
            for number, table in self._runtime.tables.items():
                if isinstance(table, CachedTable):
                    self._share(number, table)

    def _share(self, number: int, table: CachedTable) -> None:
        """Put a table where workers can map it, if some are to fold it."""
        if self._folds is not None and self._folds.wants(number):
            self._folds.start()  # they import while the records are copied
            self._folds.hold(number, table.share(self._pool.run))

    def _share_kept(self) -> None:
        """The same for tables that the session keeps, which plans scan."""
        assert self._folds is not None
        for number, source in self._folds.kept():
            self._folds.start()
            self._folds.hold(number, moved_kept(source.table, self._budget, self._pool.run))

    def bind(self, values: Mapping[int, Any]) -> None:
        slots = self._runtime.slots
        for number, value in values.items():
            slots[number] = value
        self._runtime.version += 1
        self._runtime.slot_versions.update(dict.fromkeys(values, self._runtime.version))
        self._gathered.clear()

    # Stages.

    def partitions(self, stage: int) -> int:
        return self._pipelines[stage].partitions()

    def run_stage(self, stage: int) -> None:
        sink = self._stages[stage].sink
        if isinstance(sink, pp.CountPrefix):
            self._count_prefix(self._pipelines[stage], sink)
        elif isinstance(sink, pp.CountRows):
            self._count_rows(stage, sink)
        else:
            self._reduce((stage,))

    def run_stages(self, stages: Sequence[int]) -> None:
        self._reduce(stages)

    def combine(self, stage: int) -> tuple[Any, ...]:
        return self._reductions[stage].results

    def _reduce(self, stages: Sequence[int]) -> None:
        stages = [s for s in stages if not self._reductions[s].counted()]
        if not stages:
            return
        try:
            self._fold(stages, self._stacks.units(stages))
        except NullsFound as found:
            self._stacks.take_apart(found.reduction)
            self._reduce(stages)

    def _fold(self, stages: Sequence[int], units: Sequence[Reduction]) -> None:
        inline = self._inline.issuperset(stages)
        for made in self._passes_of(units):
            if inline:
                made.in_order()
                continue
            held = f"partials of stage {' and '.join(map(str, stages))}"
            if self._folds is not None and self._folds.run(made, self._budget, held):
                continue
            made.run(
                lambda task, count: self._run(task, count, *stages),
                lambda size, held=held: self._budget.reserve(size, held),  # type: ignore[misc]
                lambda held=held: self._budget.release(held),  # type: ignore[misc]
            )

    def _passes_of(self, units: Sequence[Reduction]) -> list[Pass]:
        """Their passes: those of the last time, where the partitions are the same."""
        key = tuple(u.stages for u in units)
        lie = [
            (id(u), p.active(), p.partitions(), p.source_bytes)
            for u, p in ((u, u.pipeline) for u in units)
        ]
        known = self._passes.get(key)
        if known is None or known[0] != lie:
            known = self._passes[key] = lie, passes(units)
        return known[1]

    def _count_prefix(self, pipeline: Pipeline, sink: pp.CountPrefix) -> None:
        """Partitions in order, as many as it takes to find `count` records."""
        left, counts = sink.count, []
        for partition in range(pipeline.partitions()):
            found = 0
            if left:
                for block in pipeline.blocks(partition, 0):
                    found = min(left, found + block.rows)
                    if found == left:
                        break
            counts.append(found)
            left -= found
        self._runtime.prefixes[sink.number] = counts

    def _count_rows(self, stage: int, sink: pp.CountRows) -> None:
        """Records of each partition; those that are known are not read."""
        pipeline = self._pipelines[stage]
        counts = [pipeline.rows(p) for p in range(pipeline.partitions())]
        unknown = [p for p, rows in enumerate(counts) if rows is None]

        def task(worker: int, index: int) -> None:
            partition = unknown[index]
            with in_partition(partition):
                counts[partition] = sum(b.rows for b in pipeline.blocks(partition, worker))

        self._run(task, len(unknown), stage)
        self._runtime.counts[sink.number] = Counts([c or 0 for c in counts])

    def load(self, stage: int) -> TableInfo:
        sink = self._stages[stage].sink
        assert isinstance(sink, pp.CacheTable)
        self.release(sink.number)
        kept = self._keep.get(sink.key)
        table = CachedTable(self._pipelines[stage], self._budget, f"cache {sink.number}", kept)
        self._runtime.tables[sink.number] = table
        missing = table.missing()

        def task(worker: int, index: int) -> None:
            table.fill(worker, missing[index])

        self._run(task, len(missing), stage)
        self._share(sink.number, table)
        if kept is not None:
            table.hand_over(kept)
        return table.info()

    def exchange(self, stage: int) -> TableInfo:
        sink, pipeline = self._stages[stage].sink, self._pipelines[stage]
        assert isinstance(sink, pp.StoreSink)
        owner = f"exchange {sink.number}"
        self.release(sink.number)
        try:
            if stage in self._relations:
                own = self._relations[stage]
                made = own.make(lambda t, n: self._run(t, n, stage))
                self._runtime.tables[sink.number] = made
                count = made.partitions()
                return TableInfo(count, 0, made.bytes, count, own.nan, own.infinite)
            assert isinstance(sink, (pp.Exchange, pp.SortRows, pp.DistinctRows))
            parts = self._exchanged(stage, sink, owner)
        except BaseException:
            self._budget.release(owner)
            raise
        self._runtime.tables[sink.number] = HeldTable(parts, pipeline.source_bytes)
        rows = sum(b.rows for p in parts for b in p)
        size = sum(b.bytes for p in parts for b in p)
        return TableInfo(len(parts), rows, size, len(parts))

    def _exchanged(
        self, stage: int, sink: pp.Exchange | pp.SortRows | pp.DistinctRows, owner: str
    ) -> Parts:
        """The records in their new places; the budget holds room for them."""
        pipeline = self._pipelines[stage]
        received: Parts = [[] for _ in range(pipeline.partitions())]
        distinct = sink if isinstance(sink, pp.DistinctRows) else None

        def task(worker: int, index: int) -> None:
            partition = active[index]
            with in_partition(partition):
                own = received[partition]
                for block in pipeline.blocks(partition, worker):
                    self._budget.require(block.bytes, owner)
                    own.append(Block(block.rows, dict(block.columns), block.valid))
                if distinct is not None and own:
                    before = sum(b.bytes for b in own)
                    own[:] = [distinct_block(own, pipeline.schema, distinct.columns)]
                    self._budget.release(owner, before - own[0].bytes)

        active = pipeline.active()
        self._run(task, len(active), stage)
        if not isinstance(sink, pp.Exchange) and not any(b.rows for p in received for b in p):
            return [[] for _ in received]
        match sink:
            case pp.Exchange(required=required):
                blocks = [b for p in received for b in p]
                return repartitioned(blocks, required, pipeline.schema)
            case pp.SortRows():
                return sorted_parts(received, sink, pipeline.schema)
            case pp.DistinctRows(columns=columns):
                blank = Block(0, {n: empty(k) for n, k in pipeline.schema})
                firsts = [p[0] if p else blank for p in received]
                return distinct_parts(firsts, pipeline.schema, columns)

    def adopt(self, moves: Sequence[tuple[int, int, bool]]) -> None:
        tables, budget = self._runtime.tables, self._budget
        made = {state: tables[source] for state, source, _ in moves}
        before = {tables[state].serial for state in made if state in tables}
        tables.update(made)
        kept = {source for _, source, keep in moves if keep}
        for source in {source for _, source, _ in moves} - kept - made.keys():
            tables.pop(source, None)
        left = {t.serial for t in tables.values()}
        for gone in before - left:
            budget.release(f"table {gone}")
        for state, source, _ in moves:  # its memory is no longer that of the stage that made it
            budget.transfer(f"exchange {source}", f"table {made[state].serial}")
        self._gathered.clear()

    def put(self, table: int, schema: Schema, blocks: list[Block]) -> None:
        self.release(table)
        made = self._runtime.tables[table] = state_table(schema, blocks)
        self._budget.require(sum(b.bytes for b in blocks), f"table {made.serial}")

    def fetch(self, stage: int, partition: int) -> list[Block]:
        blocks = self._gathered[stage][partition] if stage in self._gathered else None
        if blocks is None:  # not yet, or handed out before
            blocks = self._gather(stage)[partition]
        self._gathered[stage][partition] = None
        assert blocks is not None
        return blocks

    def _gather(self, stage: int) -> list[list[Block] | None]:
        pipeline = self._pipelines[stage]
        parts: list[list[Block] | None] = [[] for _ in range(pipeline.partitions())]

        active, free = pipeline.active(), FreeMemory()

        def task(worker: int, index: int) -> None:
            partition = active[index]
            own = parts[partition]
            assert own is not None
            with in_partition(partition):
                for block in pipeline.blocks(partition, worker):
                    free.take(own_bytes(block, pipeline.resident))
                    own.append(block)

        try:
            self._run(task, len(active), stage)
        except BaseException:
            for part in parts:  # which the error's traceback would hold
                if part is not None:
                    part.clear()
            raise
        self._gathered[stage] = parts
        return parts

    def release(self, table: int) -> None:
        held = self._runtime.tables.pop(table, None)
        if held is not None and all(t is not held for t in self._runtime.tables.values()):
            self._budget.release(f"table {held.serial}")
        self._budget.release(f"cache {table}")
        self._budget.release(f"exchange {table}")

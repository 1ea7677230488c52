"""One rank's share of a plan: its stages compiled, its tables, a program for each verb.

The embedded backend is the share of the only rank. Of several ranks each has one, and runs the
same programs over its own partitions; what it needs of the others it yields (`collective.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from scalops.algebra.errors import OutOfMemoryError
from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine.backends import TableInfo, Take
from scalops.engine.blocks import Block
from scalops.engine.cached_table import CachedTable
from scalops.engine.collective import ALONE, Piece, Program, Ranks, Receive, Send, Spans, gather_all
from scalops.engine.free_memory import FreeMemory
from scalops.engine.kept_tables import KeptTable
from scalops.engine.memory import MemoryBudget
from scalops.engine.neutral import NEUTRAL, Neutral
from scalops.engine.passes import Pass, Reduction, in_partition, passes
from scalops.engine.pipelines.base import BUFFERS, Pipeline, Runtime, own_bytes
from scalops.engine.pipelines.compiled import build
from scalops.engine.pipelines.counts import Counts
from scalops.engine.rank_folds import RankPass
from scalops.engine.relations.base import Relation
from scalops.engine.relations.compiled import RELATIONS, relation
from scalops.engine.relations.gathering import own_partitions, runs_by_home
from scalops.engine.relations.partitioned_index import PartitionedIndex, probed_by
from scalops.engine.relations.state import state_table
from scalops.engine.spill_folder import SpillError
from scalops.engine.stacked import NullsFound, Stacks, stacks_of
from scalops.engine.streaming import Results, stream
from scalops.engine.threads import Task

if TYPE_CHECKING:
    from scalops.engine.meter import Meter
    from scalops.engine.processes.runner import ProcessRunner

T = TypeVar("T")
Run = Callable[[Task, int], None]


class Threads(Protocol):
    """Who runs a stage's tasks."""

    def run(self, task: Task, count: int, *stages: int) -> None:
        """Call task(worker, index) for every index, for these stages."""


class Share:
    """A plan at one rank; verbs as of `backends.Backend`, those that need others as programs."""

    def __init__(
        self,
        plan: pp.PhysicalPlan,
        threads: Threads,
        budget: MemoryBudget,
        ranks: Ranks = ALONE,
        runner: ProcessRunner | None = None,
        keep: Mapping[str, KeptTable] | None = None,
        neutral: Neutral = NEUTRAL,
        meter: Meter | None = None,
    ) -> None:
        """`keep` are the tables that outlive the plan, by key; a `meter` measures its operators."""
        self.runtime = Runtime(plan, budget, runner, ranks, neutral, meter)
        if meter is not None:
            meter.begin(plan.stages, budget)
            threads = meter.threads(threads)
        self.ranks, self.stages = ranks, list(plan.stages)
        self._probed = probed_by(plan.stages)
        self._threads, self._budget, self._keep = threads, budget, keep or {}
        self.pipelines: dict[int, Pipeline] = {}
        self.reductions: dict[int, Reduction] = {}
        self._relations: dict[int, Relation] = {}
        self._passes: dict[tuple[tuple[int, ...], ...], tuple[Any, list[Pass]]] = {}
        self._rank_passes: dict[int, RankPass] = {}
        self._results: dict[int, Results] = {}
        for stage in plan.stages:
            pipeline = build(stage.source, self.runtime, stage)
            self.pipelines[stage.number] = pipeline
            if isinstance(stage.sink, pp.TreeAggregate):
                self.reductions[stage.number] = Reduction(stage, pipeline, self.runtime, runner)
            elif type(stage.sink) in RELATIONS:
                self._relations[stage.number] = relation(stage, pipeline, self.runtime)
        self.stacks = Stacks(stacks_of(plan), plan.stages, self.reductions, self.runtime)

    def stop(self) -> None:
        """Give everything back."""
        for number in list(self.runtime.tables):
            self.release(number)
        for stage in self._results:
            self._budget.release(f"results {stage}")
        self._results.clear()
        self._budget.release(BUFFERS)
        self.pipelines.clear()
        self.reductions.clear()
        self._relations.clear()
        self._passes.clear()
        self._rank_passes.clear()
        self.stages.clear()
        del self.stacks
        del self.runtime  # with its frames' buffers

    def cancel(self) -> None:
        """Stop what runs, as soon as may be."""
        self.runtime.cancelled = True

    def bind(self, values: Mapping[int, Any]) -> None:
        """Set driver values by slot."""
        self.runtime.bind(values)

    def run_tasks(self, task: Task, count: int, *stages: int) -> None:
        """Run a stage's tasks, on whatever threads there are."""
        self._threads.run(task, count, *stages)

    def _run(self, *stages: int) -> Run:
        return lambda task, count: self.run_tasks(task, count, *stages)

    def forget(self) -> None:
        """Drop what relations keep of earlier iterations: a rank that is new has nothing of it."""
        for own in self._relations.values():
            own.forget()
        self.stacks.forget()

    def _asks(self, stage: int) -> bool:
        """Whether a stage asks other ranks for something before it reads: the same at all ranks."""
        tables = self.runtime.tables
        return any(isinstance(tables.get(n), PartitionedIndex) for n in self._probed[stage])

    def prepared(self, program: Program[T], pipelines: Mapping[int, Pipeline]) -> Program[T]:
        """Run a program over blocks of these stages, once they have what that takes."""
        asking = [p for stage, p in pipelines.items() if self._asks(stage)]
        if not asking:
            return (yield from program)
        return (yield from self._asked(program, {p: p.active() for p in asking}))

    def _asked(self, program: Program[T], reads: Mapping[Pipeline, Sequence[int]]) -> Program[T]:
        """The same; it reads these partitions alone."""
        try:
            for pipeline, partitions in reads.items():
                own = own_partitions(pipeline, self.ranks, partitions)
                yield from pipeline.prepare(own, self._run())
            return (yield from program)
        finally:
            while self.runtime.prepared:
                self.runtime.prepared.pop()()

    # Folds and counts.

    def counted(self, stages: Iterable[int]) -> list[int]:
        """The stages that have to be run: not those whose answer is a number that is known."""
        return [s for s in stages if not self.reductions[s].counted()]

    def passes_of(self, units: Sequence[Reduction]) -> list[Pass]:
        """Their passes: those of the last time, where the partitions are the same."""
        key = tuple(u.stages for u in units)
        lie = [
            (id(u), p.active(), p.partitions(), p.source_bytes)
            for u, p in ((u, u.pipeline) for u in units)
        ]
        known = self._passes.get(key)
        if known is None or known[0] != lie:
            for old in known[1] if known is not None else ():
                self._rank_passes.pop(id(old), None)
            known = self._passes[key] = lie, passes(units)
        return known[1]

    def partials(self, stages: Sequence[int]) -> Program[list[tuple[Pass, Spans]]]:
        """What this rank has of TreeAggregate stages whose sources have one base: no stacks."""
        units = [self.reductions[s] for s in stages]
        pipelines = {u.number: u.pipeline for u in units}
        return (yield from self.prepared(self._of_passes(units), pipelines))

    def _of_passes(self, units: Sequence[Reduction]) -> Program[list[tuple[Pass, Spans]]]:
        found = []
        for made in self.passes_of(units):
            spans = yield from self._rank_pass(made).spans(self._run(*made.stages))
            found.append((made, spans))
        return found

    def fold(self, stages: Sequence[int]) -> Program[dict[int, tuple[Any, ...]]]:
        """Results of TreeAggregate stages whose sources have one base, at the root; else none.

        What their bits are is no other than of the embedded backend: stacks included.
        """
        units = self.stacks.units(stages)
        try:
            pipelines = {u.number: u.pipeline for u in units}
            yield from self.prepared(self._passed(units), pipelines)
        except NullsFound as found:
            self.stacks.take_apart(found.number)
            return (yield from self.fold(stages))
        if self.ranks.own != 0:
            return {}
        return {s: self.reductions[s].results for s in stages}

    def _passed(self, units: Sequence[Reduction]) -> Program[None]:
        for made in self.passes_of(units):
            yield from self._folded(made)

    def _folded(self, made: Pass) -> Program[None]:
        wholes = yield from self._rank_pass(made).folded(self._run(*made.stages))
        if wholes is None:
            made.forget()
        else:
            made.conclude(wholes)

    def _rank_pass(self, made: Pass) -> RankPass:
        own = self._rank_passes.get(id(made))
        if own is None:
            own = self._rank_passes[id(made)] = RankPass(made, self.ranks)
        return own

    def run_stage(self, stage: int) -> Program[None]:
        """Run a stage that counts."""
        sink, pipeline = self.stages[stage].sink, self.pipelines[stage]
        if isinstance(sink, pp.CountPrefix):
            count = self._count_asking if self._asks(stage) else self._count_prefix
            yield from count(pipeline, sink)
        else:
            assert isinstance(sink, pp.CountRows)
            yield from self.prepared(self._count_rows(stage, sink), {stage: pipeline})

    def _count_prefix(self, pipeline: Pipeline, sink: pp.CountPrefix) -> Program[None]:
        """Partitions in order, as many as it takes to find `count` records.

        One rank after the other: what lies behind the last of them is read by none, so that a
        function is called for no more records than with one rank.
        """
        runs = runs_by_home(pipeline, self.ranks)
        own: dict[int, int] = {}
        for i, (rank, partitions) in enumerate(runs):
            if rank != self.ranks.own:
                continue
            left = sink.count
            if i:
                piece = yield Receive(runs[i - 1][0])
                left = int(piece.header)
            for partition in partitions:
                own[partition] = _first_rows(pipeline, partition, left)
                left -= own[partition]
            if i + 1 < len(runs):
                yield Send(runs[i + 1][0], Piece(left, []))
        found = yield from self._together(own)
        every = range(pipeline.partitions())
        self.runtime.prefixes[sink.number] = [found.get(p, 0) for p in every]

    def _count_asking(self, pipeline: Pipeline, sink: pp.CountPrefix) -> Program[None]:
        """The same where others are asked before partitions are read: ever more at once."""
        left, at, active = sink.count, 0, pipeline.active()
        counts = [0] * pipeline.partitions()
        while left and at < len(active):
            some = active[at : 2 * at + 1]
            found = yield from self._asked(self._firsts(pipeline, some, left), {pipeline: some})
            for partition in some:
                counts[partition] = min(left, found[partition])
                left -= counts[partition]
            at += len(some)
        self.runtime.prefixes[sink.number] = counts

    def _firsts(
        self, pipeline: Pipeline, partitions: Sequence[int], count: int
    ) -> Program[dict[int, int]]:
        """The records of each of these partitions, as far as one is counted."""
        own = own_partitions(pipeline, self.ranks, partitions)
        return (yield from self._together({p: _first_rows(pipeline, p, count) for p in own}))

    def _count_rows(self, stage: int, sink: pp.CountRows) -> Program[None]:
        """Records of each partition; those that are known are not read."""
        pipeline = self.pipelines[stage]
        every = range(pipeline.partitions())
        own = {p: pipeline.rows(p) for p in own_partitions(pipeline, self.ranks, every)}
        unknown = [p for p, rows in own.items() if rows is None]

        def task(worker: int, index: int) -> None:
            partition = unknown[index]
            with in_partition(partition):
                own[partition] = sum(b.rows for b in pipeline.blocks(partition, worker))

        self._threads.run(task, len(unknown), stage)
        counts = yield from self._together({p: rows or 0 for p, rows in own.items()})
        self.runtime.counts[sink.number] = Counts([counts.get(p, 0) for p in every])

    def _together(self, own: Mapping[int, int]) -> Program[dict[int, int]]:
        """Numbers by partition, of all ranks."""
        parts = yield from gather_all(self.ranks, Piece(list(own.items()), []))
        return {partition: rows for part in parts for partition, rows in part.header}

    # Tables.

    def load(
        self, stage: int, filled: Callable[[int, CachedTable], None] = lambda number, table: None
    ) -> Program[TableInfo]:
        """Run a CacheTable stage and keep its own partitions; `filled` is told of the table."""
        sink = self.stages[stage].sink
        assert isinstance(sink, pp.CacheTable)
        self.release(sink.number)
        kept = self._keep.get(sink.key)
        pipeline = self.pipelines[stage]
        name = f"cache {sink.number}"
        neutral = self.runtime.neutral
        table = CachedTable(pipeline, self._budget, name, kept, self.ranks, neutral, sink.number)
        self.runtime.tables[sink.number] = table
        yield from self._filled(stage, table)
        filled(sink.number, table)
        if kept is not None:
            table.hand_over(kept)
        return table.info()

    def change(self, fan_ins: tuple[int, ...], held: Mapping[int, int]) -> Program[None]:
        """Meet along another tree, and hold other parts of cached tables; the same at all ranks."""
        if fan_ins:
            self.ranks.meet_along(fan_ins)
        growing = []
        for stage in self.stages:
            number = stage.sink.number if isinstance(stage.sink, pp.CacheTable) else -1
            table = self.runtime.tables.get(number)
            if isinstance(table, CachedTable) and number in held:
                most = held[number]
                if table.most is not None and most > table.most:
                    growing.append((stage.number, table))
                table.keep_within(most)
        for number, table in growing:  # once the others have given their memory back
            yield from self._filled(number, table)

    def _filled(self, stage: int, table: CachedTable) -> Program[None]:
        """Hold what a cached table may hold and does not."""
        missing = table.missing()

        def task(worker: int, index: int) -> None:
            table.fill(worker, missing[index])

        tasks = self._tasks(task, len(missing), stage)
        yield from self.prepared(tasks, {stage: self.pipelines[stage]})
        if self._asks(stage):
            parts = yield from gather_all(self.ranks, Piece(table.all_made(), []))
            table.is_complete = all(part.header for part in parts)

    def cached(self, stage: int) -> CachedTable:
        """The table of a CacheTable stage, once it is loaded."""
        sink = self.stages[stage].sink
        assert isinstance(sink, pp.CacheTable)
        found = self.runtime.tables[sink.number]
        assert isinstance(found, CachedTable)
        return found

    def exchange(self, stage: int) -> Program[TableInfo]:
        """Run a stage that leaves a table behind (a StoreSink), and keep it."""
        sink = self.stages[stage].sink
        assert isinstance(sink, pp.StoreSink)
        owner = f"exchange {sink.number}"
        self.release(sink.number)
        own = self._relations[stage]
        try:
            made = yield from self.prepared(own.make(self._run(stage)), {stage: own.pipeline})
        except BaseException as error:
            self._budget.release(owner)
            if isinstance(error, (SpillError, OutOfMemoryError)):
                error.location = error.location or sink.location
            raise
        self.runtime.tables[sink.number] = made
        count = made.partitions()
        lying = made.own(self.ranks)
        rows = sum(made.rows(p) or 0 for p in lying)
        size = made.bytes if self.ranks.own == 0 else 0  # known of the whole table: told once
        return TableInfo(count, rows, size, len(lying), own.nan, own.infinite)

    def adopt(self, moves: Sequence[tuple[int, int, bool]]) -> None:
        """As of a backend."""
        tables, budget = self.runtime.tables, self._budget
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

    def put(self, table: int, schema: Schema, blocks: list[Block]) -> None:
        """As of a backend; every rank has all records."""
        self.release(table)
        arriving = f"exchange {table}"
        try:
            made = state_table(schema, blocks, self.runtime.room(arriving))
        except BaseException:
            self._budget.release(arriving)
            raise
        self.runtime.tables[table] = made
        self._budget.transfer(arriving, f"table {made.serial}")

    def release(self, table: int) -> None:
        """Forget a kept table."""
        held = self.runtime.tables.pop(table, None)
        if held is not None and all(t is not held for t in self.runtime.tables.values()):
            self._budget.release(f"table {held.serial}")
        self._budget.release(f"cache {table}")
        self._budget.release(f"exchange {table}")

    def _tasks(self, task: Task, count: int, stage: int) -> Program[None]:
        yield from ()
        self._threads.run(task, count, stage)

    def gathered(self, stage: int, free: FreeMemory) -> Program[dict[int, list[Block]]]:
        """The blocks of a Gather stage's own partitions."""
        pipeline = self.pipelines[stage]
        active = own_partitions(pipeline, self.ranks)
        parts: dict[int, list[Block]] = {p: [] for p in active}

        def task(worker: int, index: int) -> None:
            partition = active[index]
            with in_partition(partition):
                for block in pipeline.blocks(partition, worker):
                    free.take(own_bytes(block, pipeline.resident))
                    parts[partition].append(block)

        try:
            tasks = self._tasks(task, len(active), stage)
            yield from self.prepared(tasks, {stage: pipeline})
        except BaseException:
            for part in parts.values():  # which the error's traceback would hold
                part.clear()
            raise
        return parts

    def streamed(self, stage: int, take: Take) -> Program[None]:
        """Hand the blocks of a Gather stage to `take`, in order; of the only rank."""
        pipeline = self.pipelines[stage]

        def program() -> Program[None]:
            yield from ()
            own = own_partitions(pipeline, self.ranks)
            stream(pipeline, own, self._run(stage), self._budget, f"results {stage}", take)

        yield from self.prepared(program(), {stage: pipeline})

    def results(self, stage: int, first: int = 0) -> Program[Results]:
        """The blocks of a Gather stage's own partitions from `first` on: those that are not there
        are computed.

        All ranks ask together, and compute if one of them lacks some.
        """
        pipeline = self.pipelines[stage]
        found = self._results.get(stage)
        if found is None:
            found = self._results[stage] = Results(pipeline, self._budget, f"results {stage}")
        own = own_partitions(pipeline, self.ranks)
        missing = [p for p in own if p >= first and not found.has(p)]
        told = yield from gather_all(self.ranks, Piece(bool(missing), []))
        if any(piece.header for piece in told):
            compute = found.compute
            tasks = self._tasks(lambda w, i: compute(missing[i], w), len(missing), stage)
            yield from self.prepared(tasks, {stage: pipeline})
        return found


def _first_rows(pipeline: Pipeline, partition: int, most: int) -> int:
    """How many records a partition has, up to so many; no block is read beyond them."""
    found = 0
    if most:
        for block in pipeline.blocks(partition, 0):
            found += block.rows
            if found >= most:
                break
    return min(most, found)

"""The embedded backend: a plan of one rank, in this process, on threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine.backends import TableInfo, Take
from scalops.engine.blocks import Block
from scalops.engine.cached_table import CachedTable, moved_kept
from scalops.engine.collective import Program, alone
from scalops.engine.free_memory import FreeMemory
from scalops.engine.kept_tables import KeptTable
from scalops.engine.memory import MemoryBudget
from scalops.engine.neutral import NEUTRAL, Change, Neutral
from scalops.engine.passes import Reduction
from scalops.engine.process_folds import FoldPlace, ProcessFolds
from scalops.engine.share import Share
from scalops.engine.stacked import NullsFound
from scalops.engine.threads import Task, ThreadPool

if TYPE_CHECKING:
    from scalops.engine.meter import Meter
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
        meter: Meter | None = None,
        neutral: Neutral = NEUTRAL,
    ) -> None:
        """`waiting` runs the stages that mostly wait for the runner's processes.

        `folds` tells which stages fold on processes of the runner's; a `meter` profiles the plan.
        """
        self._meter, self._neutral = meter, neutral
        self._place = folds
        self._folds: ProcessFolds | None = None
        self._pool, self._budget, self._runner = pool, budget, runner
        self._waiting = waiting or pool
        self._waits: frozenset[int] = frozenset()
        self._keep = keep or {}
        self._share: Share
        self._inline: frozenset[int] = frozenset()
        self._gathered: dict[int, list[list[Block] | None]] = {}

    # Life.

    def start(self, plan: pp.PhysicalPlan) -> None:
        self._share = Share(
            plan,
            self,
            self._budget,
            runner=self._runner,
            keep=self._keep,
            meter=self._meter,
            neutral=self._neutral,
        )
        if self._runner is not None:
            self._waits = frozenset(s.number for s in plan.stages if s.calls_functions)
            if self._place is not None:
                runtime = self._share.runtime
                self._folds = ProcessFolds(plan, runtime, self._runner, self._place)
                self._share_kept()

    def stop(self) -> None:
        if not hasattr(self, "_share"):
            return
        if self._folds is not None:
            self._folds.stop()
            self._folds = None
        self._share.stop()
        self._gathered.clear()
        del self._share

    def cancel(self) -> None:
        if hasattr(self, "_share"):
            self._share.cancel()
        self._abandon()

    def _abandon(self) -> None:
        if self._runner is not None:
            self._runner.abandon()

    def run(self, task: Task, count: int, *stages: int) -> None:
        """Run a stage's tasks on threads."""
        pool = self._pool if self._waits.isdisjoint(stages) else self._waiting
        pool.run(task, count, abandon=self._abandon)

    def lost(self) -> tuple[str, ...]:
        return () if self._runner is None else self._runner.lost()

    def commit(self, iteration: int) -> None:
        pass  # array state is the driver's; nothing is kept here from one iteration to the next

    def change(self, change: Change) -> None:
        self._inline = change.inline
        if change.held:
            alone(self._share.change((), change.held))
        if self._folds is not None and change.processes:
            self._folds.choose(change.processes)
            self._share_kept()
            for number, table in self._share.runtime.tables.items():
                if isinstance(table, CachedTable):
                    self._share_table(number, table)

    def _share_table(self, number: int, table: CachedTable) -> None:
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
        self._share.bind(values)
        self._gathered.clear()

    # Stages.

    def partial_bytes(self) -> Mapping[int, float]:
        return {}  # nothing is sent

    def partitions(self, stage: int) -> int:
        return self._share.pipelines[stage].partitions()

    def _at(self, stage: int) -> AbstractContextManager[None]:
        """What the calling thread does beside operators and tasks is the stage's sink's."""
        return nullcontext() if self._meter is None else self._meter.at(stage)

    def run_stage(self, stage: int) -> None:
        with self._at(stage):
            if stage in self._share.reductions:
                self._reduce((stage,))
            else:
                alone(self._share.run_stage(stage))

    def run_stages(self, stages: Sequence[int]) -> None:
        with self._at(stages[0]):
            self._reduce(stages)

    def combine(self, stage: int) -> tuple[Any, ...]:
        return self._share.reductions[stage].results

    def _reduce(self, stages: Sequence[int]) -> None:
        stages = self._share.counted(stages)
        if not stages:
            return
        try:
            self._fold(stages, self._share.stacks.units(stages))
        except NullsFound as found:
            self._share.stacks.take_apart(found.number)
            self._reduce(stages)

    def _fold(self, stages: Sequence[int], units: Sequence[Reduction]) -> None:
        """Passes of the only rank: they need no tree of ranks, and may go to processes."""
        pipelines = {u.number: u.pipeline for u in units}
        alone(self._share.prepared(self._folded(stages, units), pipelines))

    def _folded(self, stages: Sequence[int], units: Sequence[Reduction]) -> Program[None]:
        yield from ()
        inline = self._inline.issuperset(stages)
        held = f"partials of stage {' and '.join(map(str, stages))}"
        for made in self._share.passes_of(units):
            if inline:
                made.in_order()
                continue
            if self._folds is not None and self._folds.run(made, self._budget, held):
                continue
            made.run(
                lambda task, count: self._share.run_tasks(task, count, *stages),
                lambda size: self._budget.reserve(size, held),
                lambda: self._budget.release(held),
            )

    def load(self, stage: int) -> TableInfo:
        with self._at(stage):
            return alone(self._share.load(stage, self._share_table))

    def exchange(self, stage: int) -> TableInfo:
        with self._at(stage):
            return alone(self._share.exchange(stage))

    def settle(self) -> None:
        pass  # all is done at once

    def adopt(self, moves: Sequence[tuple[int, int, bool]]) -> None:
        self._share.adopt(moves)
        self._gathered.clear()

    def put(self, table: int, schema: Schema, blocks: list[Block]) -> None:
        self._share.put(table, schema, blocks)

    def fetch(self, stage: int, partition: int) -> list[Block]:
        blocks = self._gathered[stage][partition] if stage in self._gathered else None
        if blocks is None:  # not yet, or handed out before
            with self._at(stage):
                found = alone(self._share.gathered(stage, FreeMemory()))
            self._gathered[stage] = [found.get(p, []) for p in range(self.partitions(stage))]
            blocks = self._gathered[stage][partition]
        self._gathered[stage][partition] = None
        assert blocks is not None
        return blocks

    def stream(self, stage: int, take: Take) -> None:
        with self._at(stage):
            alone(self._share.streamed(stage, take))

    def release(self, table: int) -> None:
        self._share.release(table)

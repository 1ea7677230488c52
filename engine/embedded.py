"""The embedded backend: stages run in this process, on threads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from scalops.algebra.errors import ScalopsError
from scalops.algebra.expressions import Column
from scalops.algebra.tree import Node, substitute
from scalops.engine import physical_plan as pp
from scalops.engine.backends import TableInfo
from scalops.engine.blocks import Array, Block, block_rows, partition_bounds, reblock
from scalops.engine.kernels.folds import FoldKernel, Partial
from scalops.engine.kernels.kernel import Kernel, Vector
from scalops.engine.memory import MemoryBudget
from scalops.engine.pipelines import (
    BUFFERS,
    HeldTable,
    Pipeline,
    Runtime,
    Stored,
    build,
    contiguous,
    own_bytes,
)
from scalops.engine.reduction import combine_stream, combine_tree, leaf_count, leaf_ranges
from scalops.engine.threads import Task, ThreadPool

if TYPE_CHECKING:
    from scalops.engine.processes import ProcessRunner

SMALL_BYTES = 1 << 18  # waking a thread costs more than folding this


@dataclass
class _Reduction:
    """A TreeAggregate stage, compiled."""

    kernel: Kernel
    folds: list[FoldKernel]
    partial_bytes: int
    results: tuple[Any, ...] = ()


class EmbeddedBackend:
    """Fulfils `backends.Backend` within this process."""

    def __init__(
        self, pool: ThreadPool, budget: MemoryBudget, runner: ProcessRunner | None = None
    ) -> None:
        self._pool, self._budget, self._runner = pool, budget, runner
        self._runtime: Runtime
        self._stages: list[pp.Stage] = []
        self._pipelines: dict[int, Pipeline] = {}
        self._reductions: dict[int, _Reduction] = {}
        self._inline: frozenset[int] = frozenset()
        self._gathered: dict[int, list[list[Block]]] = {}

    # Life.

    def start(self, plan: pp.PhysicalPlan) -> None:
        self._runtime = Runtime(plan, self._budget, self._runner)
        self._stages = list(plan.stages)
        for stage in plan.stages:
            pipeline = build(stage.source, self._runtime)
            self._pipelines[stage.number] = pipeline
            if isinstance(stage.sink, pp.TreeAggregate):
                self._reductions[stage.number] = self._reduction(stage.sink, pipeline)

    def _reduction(self, sink: pp.TreeAggregate, pipeline: Pipeline) -> _Reduction:
        mapped: dict[Node, Node] = {Column(n, e.type.strong()): e for n, e in sink.map}
        arguments = [substitute(a, mapped) for f in sink.folds for a in f.arguments]
        kernel = Kernel(arguments, block_rows(pipeline.schema), transient=True)
        folds = [FoldKernel(f, self._runtime.slots, self._runner) for f in sink.folds]
        return _Reduction(kernel, folds, sum(f.type.bytes for f in sink.folds))

    def stop(self) -> None:
        if not hasattr(self, "_runtime"):
            return
        for number in list(self._runtime.tables):
            self.release(number)
        self._budget.release(BUFFERS)
        self._pipelines.clear()
        self._reductions.clear()
        self._gathered.clear()
        self._stages.clear()
        del self._runtime  # with its frames' buffers

    def cancel(self) -> None:
        if hasattr(self, "_runtime"):
            self._runtime.cancelled = True
        self._abandon()

    def _abandon(self) -> None:
        if self._runner is not None:
            self._runner.abandon()

    def _run(self, task: Task, count: int) -> None:
        self._pool.run(task, count, abandon=self._abandon)

    def lost(self) -> tuple[str, ...]:
        return () if self._runner is None else self._runner.lost()

    def commit(self, iteration: int) -> None:
        pass  # array state is the driver's; nothing is kept here from one iteration to the next

    def change(self, change: pp.Change) -> None:
        self._inline = change.inline

    def bind(self, values: Mapping[int, Any]) -> None:
        slots = self._runtime.slots
        for number, value in values.items():
            slots[number] = value
        self._runtime.version += 1
        self._gathered.clear()

    # Stages.

    def partitions(self, stage: int) -> int:
        return self._pipelines[stage].partitions()

    def run_stage(self, stage: int) -> None:
        sink = self._stages[stage].sink
        if isinstance(sink, pp.CountPrefix):
            self._count_prefix(self._pipelines[stage], sink)
        else:
            self._reduce(stage)

    def combine(self, stage: int) -> tuple[Any, ...]:
        return self._reductions[stage].results

    def _reduce(self, stage: int) -> None:
        pipeline, reduction = self._pipelines[stage], self._reductions[stage]
        runtime = self._runtime
        for fold in reduction.folds:
            fold.bind(runtime.slots, runtime.version)
        leaves = leaf_count(pipeline.partitions(), pipeline.source_bytes, reduction.partial_bytes)
        ranges = leaf_ranges(pipeline.partitions(), leaves)

        def leaf(worker: int, index: int) -> list[Partial]:
            partials: list[Partial] = [None] * len(reduction.folds)
            for partition in range(*ranges[index]):
                with in_partition(partition):
                    self._fold_partition(
                        reduction, pipeline.blocks(partition, worker), worker, partials
                    )
            return partials

        def merge(a: list[Partial], b: list[Partial]) -> list[Partial]:
            return [f.merge(x, y) for f, x, y in zip(reduction.folds, a, b, strict=True)]

        held = f"partials of stage {stage}"
        small = stage in self._inline or pipeline.source_bytes < SMALL_BYTES
        if leaves == 1 or small or not self._budget.reserve(leaves * reduction.partial_bytes, held):
            combined = combine_stream((leaf(0, i) for i in range(leaves)), merge)
        else:
            partials: list[Any] = [None] * leaves

            def task(worker: int, index: int) -> None:
                partials[index] = leaf(worker, index)

            try:
                self._run(task, leaves)
            finally:
                self._budget.release(held)
            combined = combine_tree(partials, merge)
        reduction.results = tuple(
            f.finish(p) for f, p in zip(reduction.folds, combined, strict=True)
        )

    def _fold_partition(
        self, reduction: _Reduction, blocks: Iterator[Block], worker: int, partials: list[Partial]
    ) -> None:
        """Fold a partition's blocks, in order, into a leaf's partials."""
        frame = self._runtime.frame(worker, reduction.kernel)
        for block in blocks:
            if block.rows == 0:
                continue
            vectors = reduction.kernel.run(frame, block)
            at = 0
            for i, fold in enumerate(reduction.folds):
                own = vectors[at : at + fold.arity]
                at += fold.arity
                partials[i] = fold.merge(partials[i], _owned(fold.block(own, block.rows)))

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

    def load(self, stage: int) -> TableInfo:
        sink = self._stages[stage].sink
        assert isinstance(sink, pp.CacheTable)
        self.release(sink.number)
        table = _CachedTable(self._pipelines[stage], self._budget, f"cache {sink.number}")
        self._runtime.tables[sink.number] = table
        self._run(table.fill, table.partitions())
        return table.info()

    def exchange(self, stage: int) -> TableInfo:
        sink = self._stages[stage].sink
        assert isinstance(sink, pp.Exchange)
        pipeline = self._pipelines[stage]
        owner = f"exchange {sink.number}"
        self.release(sink.number)
        received: list[list[Block]] = [[] for _ in range(pipeline.partitions())]

        def task(worker: int, partition: int) -> None:
            with in_partition(partition):
                for block in pipeline.blocks(partition, worker):
                    self._budget.require(block.bytes, owner)
                    received[partition].append(block)

        try:
            self._run(task, pipeline.partitions())
        except BaseException:
            self._budget.release(owner)
            raise
        parts = repartitioned([b for p in received for b in p], sink.required, pipeline)
        self._runtime.tables[sink.number] = HeldTable(parts, pipeline.source_bytes)
        rows = sum(b.rows for p in parts for b in p)
        size = sum(b.bytes for p in parts for b in p)
        return TableInfo(len(parts), rows, size, len(parts))

    def fetch(self, stage: int, partition: int) -> list[Block]:
        if stage not in self._gathered:
            self._gather(stage)
        blocks = self._gathered[stage][partition]
        self._gathered[stage][partition] = []
        return blocks

    def _gather(self, stage: int) -> None:
        pipeline = self._pipelines[stage]
        parts: list[list[Block]] = [[] for _ in range(pipeline.partitions())]

        def task(worker: int, partition: int) -> None:
            with in_partition(partition):
                parts[partition] = list(pipeline.blocks(partition, worker))

        self._run(task, len(parts))
        self._gathered[stage] = parts

    def release(self, table: int) -> None:
        self._runtime.tables.pop(table, None)
        self._budget.release(f"cache {table}")
        self._budget.release(f"exchange {table}")


class in_partition:
    """An error raised inside says in which partition."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, tb: object) -> None:
        if isinstance(error, ScalopsError):
            error.add_place(f"partition {self._number}")


def _owned(partial: Partial) -> Partial:
    """A partial that is no view of a reused buffer."""
    if isinstance(partial, np.ndarray) and partial.base is not None:
        return partial.copy()
    return partial


class _CachedTable(Stored):
    """Partitions held as far as the budget reaches; the rest is made again.

    Blocks have the same bounds and lie in memory alike, held or not.
    """

    def __init__(self, pipeline: Pipeline, budget: MemoryBudget, owner: str) -> None:
        self._pipeline, self._budget, self._owner = pipeline, budget, owner
        self._held: dict[int, list[Block]] = {}
        self.bytes = pipeline.source_bytes
        self._count = pipeline.partitions()

    def partitions(self) -> int:
        return self._count

    def fill(self, worker: int, partition: int) -> None:
        """Hold a partition if the budget allows; where it does not, stop reading."""
        held: list[Block] = []
        taken = 0
        with in_partition(partition):
            for block in self._fresh(partition, worker):
                size = own_bytes(block, self._pipeline.resident)
                if not self._budget.reserve(size, self._owner):
                    self._budget.release(self._owner, taken)
                    return
                held.append(block)
                taken += size
        self._held[partition] = held

    def _fresh(self, partition: int, worker: int) -> Iterator[Block]:
        blocks = reblock(self._pipeline.blocks(partition, worker), self._pipeline.schema)
        return map(contiguous, blocks)

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        held = self._held.get(partition)
        return iter(held) if held is not None else self._fresh(partition, worker)

    def info(self) -> TableInfo:
        """What is held."""
        rows = sum(b.rows for blocks in self._held.values() for b in blocks)
        size = sum(b.bytes for blocks in self._held.values() for b in blocks)
        return TableInfo(self._count, rows, size, len(self._held))


def repartitioned(
    blocks: list[Block], required: pp.Properties, pipeline: Pipeline
) -> list[list[Block]]:
    """Records sent to the partitions of a layout: contiguous ranges, or by hash of keys."""
    count = required.partitions or len(partition_bounds(0, pipeline.schema))
    if required.layout == "hash":
        return _by_hash(blocks, required.keys, count, pipeline)
    rows = sum(b.rows for b in blocks)
    bounds = [(i * rows // count, (i + 1) * rows // count) for i in range(count)]
    parts: list[list[Block]] = []
    for start, stop in bounds:
        own, at = [], 0
        for block in blocks:
            a, b = max(start, at), min(stop, at + block.rows)
            if a < b:
                own.append(block.slice(a - at, b - at))
            at += block.rows
        parts.append(list(reblock(own, pipeline.schema)))
    return parts


def _by_hash(
    blocks: list[Block], keys: tuple[str, ...], count: int, pipeline: Pipeline
) -> list[list[Block]]:
    parts: list[list[Block]] = [[] for _ in range(count)]
    for block in blocks:
        target = hash_rows([(block.columns[k], block.valid.get(k)) for k in keys], block.rows)
        target %= np.uint64(count)
        for i in range(count):
            kept = block.keep(target == i)
            if kept.rows:
                parts[i].append(kept)
    return [list(reblock(p, pipeline.schema)) for p in parts]


def hash_rows(columns: list[Vector], rows: int) -> Array:
    """A 64-bit hash of each record's keys (splitmix64's finaliser), the same on every machine.

    Equal keys have equal hashes: 0.0 and -0.0, all NaNs, all nulls.
    """
    total: Array = np.zeros(rows, np.uint64)
    for column, valid in columns:
        parts = _bits(column).reshape(rows, -1).T if rows else np.zeros((1, 0), np.uint64)
        for part in parts:
            values = part if valid is None else np.where(valid, part, np.uint64(0xA5A5A5A5))
            z = total * np.uint64(31) + values + np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            total = z ^ (z >> np.uint64(31))
    return total


def _bits(column: Any) -> Array:
    """Equal values of a column as equal 64-bit numbers."""
    if not isinstance(column, np.ndarray):
        return np.array([crc32((v or "").encode()) for v in column.to_pylist()], np.uint64)
    if column.dtype.kind == "f":
        numbers = column.astype(np.float64) + 0.0  # -0.0 + 0.0 is 0.0
        return np.where(np.isnan(numbers), np.nan, numbers).view(np.uint64)
    return column.astype(np.int64).view(np.uint64)

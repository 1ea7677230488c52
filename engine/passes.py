"""One pass over a table: for one reduction, or for several that rest on it.

Each reduction has its own kernel, leaves and tree, the same as when it runs alone, so that
sharing a pass changes no bit (one may stand for several stages: see `stacked.py`). Where some have
fewer leaves than others, a task is as long as the longest leaf; the bounds of shorter ones lie
inside, since their numbers are powers of two.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

from scalops.algebra.definitions import over_source
from scalops.algebra.errors import ScalopsError
from scalops.algebra.expressions import Column, columns_read
from scalops.engine import physical_plan as pp
from scalops.engine import progress
from scalops.engine.backends import StageFailure
from scalops.engine.blocks import Block, block_rows
from scalops.engine.kept_values import KeptValues
from scalops.engine.kernels.folds import FoldSet, Partial
from scalops.engine.kernels.kernel import Kernel
from scalops.engine.physical_compiled import CompiledAggregate
from scalops.engine.pipelines.base import Over, Pipeline, Runtime
from scalops.engine.reduction import RunningTree, combine_tree, leaf_bytes, leaf_count, leaf_ranges
from scalops.engine.threads import Task

if TYPE_CHECKING:
    from scalops.engine.kernels.jit.folds import CompiledFolds
    from scalops.engine.processes.runner import ProcessRunner

SMALL_BYTES = 1 << 18  # waking a thread costs more than folding this

Run = Callable[[Task, int], None]
Leaf = list[Partial]  # one for each computation
Merge = Callable[[Leaf, Leaf], Leaf]


class Reduction:
    """A TreeAggregate stage, compiled; `results` are those of its last pass."""

    def __init__(
        self,
        stage: pp.Stage,
        pipeline: Pipeline,
        runtime: Runtime,
        runner: ProcessRunner | None = None,
        rows: int | None = None,
    ) -> None:
        """`rows` is how many records come at once at most, if not a block's."""
        sink = stage.sink
        assert isinstance(sink, pp.TreeAggregate)
        self.stages: tuple[int, ...] = (stage.number,)
        self.number, self.pipeline, self._runtime = stage.number, pipeline, runtime
        kept = KeptValues(runtime.budget, f"values that stage {stage.number} keeps")
        self._folds = FoldSet(sink.folds, runtime.slots, runner, kept)
        arguments = over_source(sink.map, self._folds.arguments)
        self._kernel = Kernel(arguments, rows or block_rows(pipeline.schema), transient=True)
        self._compiled: CompiledFolds | None = None
        if isinstance(sink, CompiledAggregate):
            from scalops.engine.kernels.jit.folds import CompiledFolds

            self._compiled = CompiledFolds(self._folds.computations, arguments)
        pipeline.read_only(columns_read(arguments))
        self._columns = [isinstance(a, Column) for a in arguments]
        self.calls_functions = stage.calls_functions
        self.partial_bytes = sum(f.type.bytes for f in sink.folds)
        self.leaf_bytes = leaf_bytes(sink.folds)
        self.results: tuple[Any, ...] = ()
        stored = isinstance(pp.base(stage.source), pp.StoredTable) and not stage.calls_functions
        counts = all(f.kind in ("count", "is_empty") and not f.arguments for f in sink.folds)
        self._only_counts = stored and counts

    def counted(self) -> bool:
        """Whether the numbers of records are known and all that is asked: no block is read."""
        if not self._only_counts:
            return False
        total, leaf = 0, self.blank()
        for partition in self.pipeline.active():
            rows = self.pipeline.rows(partition)
            if rows is None:
                return False
            total += rows
        if total:
            self._folds.extend(leaf, (), total)
        self.finish(leaf)
        return True

    def begin(self, may_wait: bool = True) -> None:
        """Bind what the folds read. Blocks wait for the end of a leaf only where they may."""
        self._folds.bind(self._runtime.slots, self._runtime.version)
        if self._folds.may_wait:
            stays = may_wait and self.pipeline.stays()
            self._folds.wait([stays and is_column for is_column in self._columns])

    def blank(self) -> Leaf:
        """A leaf over no records."""
        return self._folds.blank()

    def pieces(self, block: Block) -> Iterator[Block]:
        """The block as the kernel takes it."""
        return self._kernel.pieces(block)

    def fold(self, blocks: Iterator[Block], worker: int, leaf: Leaf) -> Iterator[None]:
        """Fold blocks, in order, into a leaf; one at each step."""
        steps, meter = self._steps(blocks, worker, leaf), self._runtime.meter
        return steps if meter is None else meter.steps(meter.sink(self.number), steps)

    def _steps(self, blocks: Iterator[Block], worker: int, leaf: Leaf) -> Iterator[None]:
        runtime = self._runtime
        for block in blocks:
            for piece in self.pieces(block) if block.rows else ():
                if self._compiled is not None:
                    slots, version = runtime.slots, runtime.version
                    partials = self._compiled.partials(worker, piece, slots, version)
                    if partials is not None:
                        self._folds.add(leaf, partials)
                        continue
                vectors = self._kernel.run(runtime.frame(worker, self._kernel), piece)
                self._folds.extend(leaf, vectors, piece.rows, piece.identity)
            yield

    def seal(self, leaf: Leaf) -> None:
        """Do what is left to do after a leaf's last block."""
        self._folds.seal(leaf)

    def merge(self, a: Leaf, b: Leaf) -> Leaf:
        """Two leaves as one, a's records before b's."""
        if self._runtime.meter is None:
            return self._folds.merge(a, b)
        with self._runtime.meter.combining(self.number):
            return self._folds.merge(a, b)

    def finish(self, combined: Leaf) -> None:
        """Keep the folds' values."""
        self.results = self._folds.finish(combined)

    def forget(self) -> None:
        """Give back what the folds have kept."""
        self._folds.forget()


class Pass:
    """A pass for reductions whose tables have the same partitions, over the same base."""

    def __init__(
        self, reductions: Sequence[Reduction], active: Sequence[int], several: bool = False
    ) -> None:
        """With `several`, others were asked for too: an error says whose it is."""
        self._reductions, self._active = reductions, active
        self._several = several or len(reductions) > 1
        first = reductions[0].pipeline
        self.bytes = first.source_bytes * len(active) // max(1, first.partitions())
        self._leaves = [leaf_count(len(active), self.bytes, r.leaf_bytes) for r in reductions]
        self._ranges = [leaf_ranges(len(active), n) for n in self._leaves]
        self._tasks = min(self._leaves)
        self._task_ranges = leaf_ranges(len(active), self._tasks)
        self.partial_bytes = sum(
            n * r.partial_bytes for n, r in zip(self._leaves, reductions, strict=True)
        )
        self._sweeps = 0
        self._may_turn = not any(r.calls_functions for r in reductions)
        sharing = reductions if len(reductions) > 1 else ()
        self._feeds = [_Feed(_base(r.pipeline)) for r in sharing]
        self._fed = [_over(r.pipeline, f) for r, f in zip(sharing, self._feeds, strict=True)]

    def run(self, run: Run, reserve: Callable[[int], bool], release: Callable[[], None]) -> None:
        """Fold every partition; on threads where there is room for all partials."""
        self.begin()
        if self._tasks == 1 or self.bytes < SMALL_BYTES or not reserve(self.partial_bytes):
            self._in_order()
            return
        leaves: list[list[list[Leaf]]] = [[]] * self._tasks

        def task(worker: int, index: int) -> None:
            leaves[index] = self.task(worker, index)

        try:
            self.sweep(run, task, self._tasks)
        finally:
            release()
        self.finish(leaves)

    def sweep(self, run: Run, task: Task, count: int) -> None:
        """Run tasks; every other sweep over what memory does not hold goes from last to first.

        What was read last the system still has in memory. Who is folded first changes no tree. Of
        several errors that of the first task is raised, so tasks begin again where one fails.
        """
        self._sweeps += 1
        turns = self._may_turn and _base(self._reductions[0].pipeline).turns()
        if self._sweeps % 2 or not turns:
            run(task, count)
            return
        try:
            run(lambda worker, index: task(worker, count - 1 - index), count)
        except (ScalopsError, StageFailure):
            run(task, count)

    @property
    def stages(self) -> tuple[int, ...]:
        """The stages whose reductions share it."""
        return tuple(s for r in self._reductions for s in r.stages)

    @property
    def units(self) -> tuple[tuple[int, ...], ...]:
        """The stages of each reduction: several where they are folded as one."""
        return tuple(r.stages for r in self._reductions)

    @property
    def active(self) -> Sequence[int]:
        """The partitions that it reads."""
        return self._active

    @property
    def tasks(self) -> int:
        """How many tasks there are: a power of two."""
        return self._tasks

    @property
    def leaves(self) -> Sequence[int]:
        """How many leaves each reduction has."""
        return self._leaves

    def merge(self, reduction: int, a: Leaf, b: Leaf) -> Leaf:
        """Two partials of the reduction of this number, a's leaves before b's."""
        return self._reductions[reduction].merge(a, b)

    def home(self, position: int) -> int:
        """The rank that folds a partition of `active`."""
        return self._reductions[0].pipeline.home(self._active[position])

    def begin(self, may_wait: bool = True) -> None:
        """Bind what the folds read. Blocks wait for the end of a leaf only where they may."""
        for reduction in self._reductions:
            reduction.begin(may_wait)

    def forget(self) -> None:
        """Give back what the folds have kept: another rank has it all."""
        for reduction in self._reductions:
            reduction.forget()

    def conclude(self, wholes: Sequence[Leaf]) -> None:
        """Keep the folds' values, given what each reduction's tree gives."""
        for reduction, whole in zip(self._reductions, wholes, strict=True):
            with _of_stage(reduction, self._several):
                reduction.finish(whole)

    def chunk(self, worker: int, first: int, stop: int) -> list[list[Leaf]]:
        """For each reduction, its leaves among the partitions of consecutive tasks."""
        made = [self.task(worker, index) for index in range(first, stop)]
        return [[leaf for own in made for leaf in own[i]] for i in range(len(self._reductions))]

    def combined(self, made: Sequence[Sequence[Leaf]]) -> list[list[Leaf]]:
        """The leaves of a chunk, a power of two of tasks, as one for each reduction."""
        return [
            [combine_tree(leaves, r.merge)]
            for leaves, r in zip(made, self._reductions, strict=True)
        ]

    def finish(self, made: Sequence[Sequence[Sequence[Leaf]]]) -> None:
        """Combine the leaves of tasks or chunks, in their order, and keep the folds' values.

        Each is a whole part of the tree: who has combined how much of it makes no difference.
        """
        for i, reduction in enumerate(self._reductions):

            def whole(i: int = i, merge: Merge = reduction.merge) -> Leaf:
                return combine_tree([combine_tree(own[i], merge) for own in made], merge)

            self._finish(reduction, whole)

    def in_order(self) -> None:
        """Fold every partition on the calling thread."""
        self.begin()
        self._in_order()

    def _in_order(self) -> None:
        if len(self._reductions) == self._tasks == 1:
            self._finish(self._reductions[0], lambda: self.task(0, 0)[0][0])
            return
        trees = [RunningTree(r.merge) for r in self._reductions]
        for index in range(self._tasks):
            for tree, made in zip(trees, self.task(0, index), strict=True):
                for leaf in made:
                    tree.push(leaf)
        for reduction, tree in zip(self._reductions, trees, strict=True):
            self._finish(reduction, tree.result)

    def _finish(self, reduction: Reduction, combined: Callable[[], Leaf]) -> None:
        with _of_stage(reduction, self._several):
            reduction.finish(combined())

    def task(self, worker: int, index: int) -> list[list[Leaf]]:
        """For each reduction, its leaves among the partitions of a task."""
        return self.sealed(self.part(worker, index, *self.positions(index), self.opened()))

    # A task may be done in parts, by one rank after the other.

    def positions(self, index: int) -> tuple[int, int]:
        """The partitions of a task: from which to which of `active`."""
        return self._task_ranges[index]

    def opened(self) -> list[list[Leaf]]:
        """A task's leaves before its first partition."""
        shares = [n // self._tasks for n in self._leaves]
        return [
            [r.blank() for _ in range(n)] for r, n in zip(self._reductions, shares, strict=True)
        ]

    def part(
        self, worker: int, index: int, first: int, last: int, made: list[list[Leaf]]
    ) -> list[list[Leaf]]:
        """Fold some of a task's partitions, from which to which of `active`, into its leaves."""
        if len(self._reductions) == 1:
            for partition in self._active[first:last]:
                self._partition(worker, partition, made[0])
            return made
        shares = [n // self._tasks for n in self._leaves]
        at = [index * n for n in shares]  # the leaf of each reduction in which a partition lies
        for position in range(first, last):
            for i, ranges in enumerate(self._ranges):
                while position >= ranges[at[i]][1]:
                    at[i] += 1
            leaves = [own[a - index * n] for own, a, n in zip(made, at, shares, strict=True)]
            self._partition(worker, self._active[position], leaves)
        return made

    def sealed(self, made: list[list[Leaf]]) -> list[list[Leaf]]:
        """A task's leaves, behind its last partition."""
        for reduction, own in zip(self._reductions, made, strict=True):
            for leaf in own:
                reduction.seal(leaf)
        return made

    def _partition(self, worker: int, partition: int, leaves: list[Leaf]) -> None:
        if len(leaves) == 1:
            (reduction,) = self._reductions
            with _of_stage(reduction, self._several), in_partition(partition):
                blocks = reduction.pipeline.blocks(partition, worker)
                for _ in reduction.fold(blocks, worker, leaves[0]):
                    pass
            return
        blocks = _base(self._reductions[0].pipeline).blocks(partition, worker)
        for feed, own in zip(self._feeds, _shared(blocks, len(leaves)), strict=True):
            feed.given[worker] = partition, own
        steps = [
            (r, r.fold(f.blocks(partition, worker), worker, leaf))
            for r, f, leaf in zip(self._reductions, self._fed, leaves, strict=True)
        ]
        while steps:
            steps = [(r, step) for r, step in steps if self._step(r, step, partition)]
        for feed in self._feeds:
            feed.given.pop(worker, None)

    def _step(self, reduction: Reduction, step: Iterator[None], partition: int) -> bool:
        """Fold the next block; whether there was one."""
        with _of_stage(reduction, self._several), in_partition(partition):
            for _ in step:
                return True
        return False


def _shared(blocks: Iterator[Block], count: int) -> list[Iterator[Block]]:
    """The blocks for several readers. Each is dropped when the last has taken it.

    (itertools.tee would hold 57 of them.)
    """
    queues: list[deque[Block]] = [deque() for _ in range(count)]

    def read(own: deque[Block]) -> Iterator[Block]:
        try:
            while True:
                if not own:
                    block = next(blocks, None)
                    if block is None:
                        return
                    for queue in queues:
                        queue.append(block)
                    del block
                yield own.popleft()
        finally:  # one that has enough leaves nothing lying
            queues[:] = [q for q in queues if q is not own]

    return [read(own) for own in queues]


class _Feed(Pipeline):
    """Stands for a base whose blocks are read once for several pipelines."""

    def __init__(self, base: Pipeline) -> None:
        super().__init__(base.schema, base.resident)
        self._base = base
        self.given: dict[int, tuple[int, Iterator[Block]]] = {}  # by worker

    def partitions(self) -> int:
        return self._base.partitions()

    @property
    def source_bytes(self) -> int:
        return self._base.source_bytes

    def active(self) -> Sequence[int]:
        return self._base.active()

    def home(self, partition: int) -> int:
        return self._base.home(partition)

    def rows(self, partition: int) -> int | None:
        return self._base.rows(partition)

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        own, blocks = self.given.pop(worker, (None, None))
        if blocks is None or own != partition:  # one that reads a partition twice, or another
            return self._base.blocks(partition, worker)
        return blocks

    def between(self, partition: int, worker: int, start: int, stop: int) -> Iterator[Block]:
        return self._base.between(partition, worker, start, stop)


def _base(pipeline: Pipeline) -> Pipeline:
    while isinstance(pipeline, Over):
        pipeline = pipeline.source
    return pipeline


def _over(pipeline: Pipeline, base: Pipeline) -> Pipeline:
    """The pipeline, its kernels and buffers included, over another base."""
    if not isinstance(pipeline, Over):
        return base
    made = copy(pipeline)
    made.source = _over(pipeline.source, base)
    return made


def passes(reductions: Sequence[Reduction]) -> list[Pass]:
    """As few passes as the partitions allow that have records at present."""
    if len(reductions) == 1:
        (one,) = reductions
        return [Pass(reductions, one.pipeline.active(), len(one.stages) > 1)]
    groups: dict[tuple[int, ...], list[Reduction]] = {}
    for reduction in reductions:
        groups.setdefault(tuple(reduction.pipeline.active()), []).append(reduction)
    return [Pass(group, active, several=True) for active, group in groups.items()]


class in_partition:
    """An error raised inside says in which partition; a worker notes that it is there."""

    __slots__ = ("_notes", "_number", "_outer")

    def __init__(self, number: int) -> None:
        self._number = number

    def __enter__(self) -> None:
        self._notes = progress.notes()
        if self._notes is not None:
            self._outer = self._notes.enter(self._number)

    def __exit__(self, kind: object, error: BaseException | None, tb: object) -> None:
        if self._notes is not None:
            self._notes.leave(self._outer)
        if isinstance(error, ScalopsError):
            error.partition = self._number
            error.add_place(f"partition {self._number}")


class _of_stage:
    """Where several stages were asked for, an error raised inside says whose it is."""

    __slots__ = ("_reduction", "_several")

    def __init__(self, reduction: Reduction, several: bool) -> None:
        self._reduction, self._several = reduction, several

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, tb: object) -> None:
        if self._several and isinstance(error, ScalopsError):
            raise StageFailure(self._reduction.number, error) from error

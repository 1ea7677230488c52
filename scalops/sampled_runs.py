"""Short runs of a job on samples of its largest table: what its loops take, at several sizes.

The plan is that of the whole job, over fewer partitions of one source; other sources are read
whole, so that joins meet what they meet. Nothing of such a run is seen: no callback hears of it,
nothing is kept, saved or warned of. Functions that cannot be traced are called, though.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from scalops.algebra import operators as op
from scalops.algebra.errors import ExecutionError, ScalopsError, text_of
from scalops.algebra.tree import Node, find, transform
from scalops.clusters import cores, job_settings, threads_of_worker, told_workers
from scalops.deciding import decide
from scalops.engine import physical_plan as pp
from scalops.engine.backends import Backend
from scalops.engine.blas import single_threaded
from scalops.engine.driver import Driver
from scalops.engine.embedded import EmbeddedBackend
from scalops.engine.free_memory import usable_memory
from scalops.engine.memory import MemoryBudget
from scalops.engine.reading import rows_of
from scalops.engine.storage.file_source import FileSource
from scalops.engine.storage.sampled import sampled, spread_out
from scalops.engine.threads import ThreadPool
from scalops.optimizer.costs.program_rates import (
    FIRST,
    LoopRun,
    ProgramRates,
    ShortRun,
    fitted,
)
from scalops.planning import plan
from scalops.profiles import machine

if TYPE_CHECKING:
    from scalops.engine.cluster.session_workers import SessionWorkers
    from scalops.engine.processes.runner import ProcessRunner
    from scalops.options import Options

MOST_SHARE = 3 / 4  # of the sampled table
SIZES = (1 / 8, 1 / 2, 1)  # of samples, the largest being 1
CACHE_BYTES = 64 << 20  # what is larger is in no processor's cache
MEMORY = 4 * CACHE_BYTES  # a sample's caches may take, whatever the session has: P is without loads
MOST_SECONDS = 5.0  # that all runs of a program may take together
STEADY = 6  # iterations after the first ones
LEAST_SECONDS = 0.12  # of a run's steady iterations together, where there are more of them
MOST_ITERATIONS = 40
# An iteration with loops in it may take so many times as long as all runs are to take. On a part of
# the records a loop may not end at all.
LONGEST = 3


@dataclass(frozen=True)
class Way:
    """Where a short run runs: in this process (`workers` 0) or on workers, of so many threads."""

    workers: int
    threads: int


class _Enough(Exception):
    """A short run has run long enough."""


class _Endless(Exception):
    """An iteration has taken too long, by the loops in it."""


@dataclass
class _Timed:
    """Hears of stages and iterations, and knows when they are enough.

    `until` (of perf_counter) they may go on; an iteration with loops in it takes at most `longest`
    seconds.
    """

    until: float
    longest: float
    seconds: dict[int, list[float]] = field(default_factory=dict)
    stages: dict[int, list[dict[int, tuple[float, int]]]] = field(default_factory=dict)
    load_seconds: float = 0.0
    all_cached: bool = True
    _held: dict[int, int] = field(default_factory=dict)
    _open: dict[int, tuple[float, int]] = field(default_factory=dict)
    _since: float | None = None

    def emit(self, kind: str, **fields: Any) -> None:
        """Hear of an event of the driver."""
        if kind == "cache":
            self._held[fields["table"]] = fields["bytes"]
            # A worker may hold those of others, too, from the run before on fewer workers.
            self.all_cached &= fields["cached"] >= fields["partitions"]
            if not self.seconds:
                self.load_seconds += fields["seconds"]
        elif kind == "stage":
            for number in fields["stages"]:
                seconds, runs = self._open.get(number, (0.0, 0))
                own = fields["seconds"] / len(fields["stages"])
                self._open[number] = seconds + own, runs + 1

    def iteration(self, loop: pp.Iterate, seconds: float) -> None:
        """Hear of the end of an iteration of an outermost loop."""
        numbers = {s.stage for s in find((*loop.test, *loop.body), pp.RunStage)}
        ran = {s: self._open.pop(s) for s in numbers & self._open.keys()}
        self.seconds.setdefault(loop.index, []).append(seconds)
        self.stages.setdefault(loop.index, []).append(ran)
        self._since = None

    def inner_iteration(self) -> None:
        """Hear of the beginning of an iteration of a nested loop; raises `_Endless`."""
        now = perf_counter()
        if self._since is None:
            self._since = now
        if now - self._since > self.longest:
            raise _Endless

    @property
    def is_enough(self) -> bool:
        """Whether each loop so far has iterations enough, or the time is over."""
        if perf_counter() > self.until:
            return True
        return all(
            len(s) >= FIRST + STEADY and sum(s[FIRST:]) >= LEAST_SECONDS
            for s in self.seconds.values()
        )

    @property
    def held_bytes(self) -> int:
        """Bytes of all caches."""
        return sum(self._held.values())

    def loops(self) -> dict[int, LoopRun]:
        """What has been heard, by loop."""
        return {i: LoopRun(tuple(s), tuple(self.stages[i])) for i, s in self.seconds.items()}


class _ShortDriver(Driver):
    """A driver that tells which loop an iteration is of, and ends the only one early."""

    def __init__(self, physical: pp.PhysicalPlan, backend: Backend, timed: _Timed) -> None:
        super().__init__(physical, backend, events=timed)
        self._timed_by, self._may_end = timed, _has_one_loop(physical)
        self._inner = frozenset(loop.counter for loop in physical.loops if loop.nested)

    def set(self, values: dict[int, Any]) -> None:
        """Set slots; the counter of a nested loop tells that its iteration begins."""
        super().set(values)
        if not self._inner.isdisjoint(values):
            self._timed_by.inner_iteration()

    def listen(self, iterate: pp.Iterate, number: int, scalars: dict[str, Any], s: float) -> None:
        """Note the iteration."""
        super().listen(iterate, number, scalars, s)
        self._timed_by.iteration(iterate, s)
        if self._may_end and self._timed_by.is_enough:
            raise _Enough

    def rows_by_stage(self) -> dict[int, float]:
        """The records that each stage reads."""
        return {s.number: float(rows_of(s.source, self._infos)) for s in self._plan.stages}


def sampled_rates(
    job: op.Job,
    options: Options,
    workers: SessionWorkers | None = None,
    runner: ProcessRunner | None = None,
    most_seconds: float = MOST_SECONDS,
    counts: Sequence[int] = (1, 2),
) -> ProgramRates:
    """The rates of a job's loops by short runs in this process and, if there are any, on workers.

    Each size on one thread and on all, and on as many of `workers` as `counts` says, with the
    threads that they have. All takes about `most_seconds` at most, unless a single iteration over
    the smallest sample does; one with loops in it is given up after `LONGEST` times that. Where a
    sample cannot be run, or the job has no loop, there are no rates, and their `reason` says why.
    Nothing is raised but by a plan that cannot be made.
    """
    physical = plan(job, options.jit)
    source = _largest(physical)
    if not physical.loops:
        return ProgramRates(reason="the job has no loop")
    if source is None:
        return ProgramRates(reason="the job reads no table")
    if not _records(source):
        return ProgramRates(reason=f"the largest table, {source.title}, has no records")
    runs: list[ShortRun] = []
    reason = ""
    with _Ways(options, workers, runner, counts) as ways, single_threaded():
        try:
            _run_all(physical, source, ways, most_seconds, runs)
        except ScalopsError as error:
            reason = f"a run on a sample has failed: {text_of(error)}"
    if isinstance(source, FileSource):
        source.forget_bad_records()
    if not any(r.loops for r in runs):
        return ProgramRates(reason=reason or "no iteration of a loop was run")
    parts, moving = len(source.partitions()), _moving(physical)
    return replace(
        fitted(runs, _records(source), source.title, parts, moving),
        reason=reason,
        is_counted=source.rows is not None,
        in_memory=not isinstance(source, FileSource),
    )


def _has_one_loop(physical: pp.PhysicalPlan) -> bool:
    """Whether there is one outermost loop."""
    return sum(not loop.nested for loop in physical.loops) == 1


def _moving(physical: pp.PhysicalPlan) -> set[int]:
    """The loops of which an iteration leaves tables behind."""
    stored = {s.number for s in physical.stages if isinstance(s.sink, pp.StoreSink)}
    return {
        loop.index
        for loop in physical.loops
        if any(s.stage in stored for s in find((*loop.test, *loop.body), pp.RunStage))
    }


def _run_all(
    physical: pp.PhysicalPlan,
    source: Any,
    ways: _Ways,
    most_seconds: float,
    runs: list[ShortRun],
) -> None:
    """Add the runs of all sizes for which there is time, the smallest first."""
    begin, longest = perf_counter(), LONGEST * most_seconds
    for share in _shares(source):
        part = sampled(source, share)
        if part is None:
            raise ExecutionError(f"no part of {source.title} can be read here")
        short = _shortened(physical, source, part)
        if not runs:  # what is done for the first time takes longer, and workers have to start
            for way in ways.ways:
                _run(short, ways.backend(way, short), way, part, 0.0, longest)
            begin = perf_counter()
        left = most_seconds - (perf_counter() - begin)
        if runs and (left <= 0 or _expected(runs, part) > left):
            break
        for way in ways.ways:
            until = perf_counter() + left / len(ways.ways)
            run = _run(short, ways.backend(way, short), way, part, until, longest)
            if run.all_cached:  # else mapping and loading cannot be told apart
                runs.append(run)
        if not runs:
            raise ExecutionError(
                f"{_records(part):,.0f} records of {part.title} find no room in the caches",
                hint="so.session(memory=...) says how much they may hold",
            )


def _largest(physical: pp.PhysicalPlan) -> Any | None:
    """The source of the most bytes."""
    sources = [scan.source for scan in find(physical.stages, pp.TableScan)]
    return max(sources, key=lambda s: s.bytes, default=None)


def _records(source: Any) -> float:
    return float(source.likely_rows if source.rows is None else source.rows)


def _shares(source: Any) -> list[float]:
    """Of ever larger samples: the largest fits the processor's cache only where all does.

    None is the whole table, but for one of a single partition.
    """
    count = len(source.partitions())
    top = min(MOST_SHARE, CACHE_BYTES / max(1, source.bytes))
    chosen = {len(spread_out(count, s * top)): s * top for s in reversed(SIZES)}
    return sorted(s for n, s in chosen.items() if n < count) or [1.0]


class _Ways:
    """The ways in which short runs run, and what they run on."""

    def __init__(
        self,
        options: Options,
        workers: SessionWorkers | None,
        runner: ProcessRunner | None,
        counts: Sequence[int],
    ) -> None:
        self._options, self._workers, self._runner = options, workers, runner
        self.ways = [Way(0, n) for n in sorted({1, cores()})]
        if workers is not None:
            there = len(workers.hub.workers()) or told_workers(options) or 0
            threads = threads_of_worker(options)
            self.ways += [Way(n, threads) for n in counts if n <= there]
        self._pools = {w.threads: ThreadPool(w.threads) for w in self.ways if not w.workers}

    def __enter__(self) -> _Ways:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools.values():
            pool.close()

    def backend(self, way: Way, physical: pp.PhysicalPlan) -> Backend:
        """What runs a plan in this way."""
        options = self._options
        if not way.workers:
            free = usable_memory()
            limit = free if options.memory is None else max(options.memory, min(free, MEMORY))
            return EmbeddedBackend(self._pools[way.threads], MemoryBudget(limit), self._runner)
        assert self._workers is not None
        own = options if options.connect is not None else replace(options, workers=way.workers)
        decided = decide(physical, own, machine(), way.workers)
        return self._workers.backend(job_settings(decided.neutral, own))


def _expected(runs: Sequence[ShortRun], part: Any) -> float:
    """Seconds that the next size takes if they grow with it."""
    last = max(r.records for r in runs)
    spent = [r.load_seconds + sum(sum(x.seconds) for x in r.loops.values()) for r in runs]
    spent = [s for s, r in zip(spent, runs, strict=True) if r.records == last]
    return sum(spent) * _records(part) / max(1.0, last)


def _shortened(physical: pp.PhysicalPlan, source: Any, part: Any) -> pp.PhysicalPlan:
    """The plan over a part of a source, its outermost loops of few iterations and without words."""

    # A single loop is ended when it has run long enough; of several none may end the others.
    enough = MOST_ITERATIONS if _has_one_loop(physical) else FIRST + STEADY

    def change(node: Node) -> Node:
        if isinstance(node, pp.TableScan) and node.source is source:
            return replace(node, source=part)
        if isinstance(node, pp.CacheTable) and node.key:
            return replace(node, key="")  # nothing is kept for others
        if isinstance(node, pp.Iterate):
            told = node.max_iterations
            most = told if node.nested else min(enough, enough if told is None else told)
            return replace(node, warn=False, max_iterations=most)
        return node

    return replace(
        physical,
        stages=tuple(transform(s, change) for s in physical.stages),
        program=tuple(transform(i, change) for i in physical.program),
        loops=tuple(transform(i, change) for i in physical.loops),
        fingerprint=f"{physical.fingerprint} of {_records(part):.0f}",
    )


def _run(
    physical: pp.PhysicalPlan, backend: Backend, way: Way, part: Any, until: float, longest: float
) -> ShortRun:
    timed = _Timed(until, longest)
    driver = _ShortDriver(physical, backend, timed)
    try:
        with suppress(_Enough):
            driver.run()
    except _Endless:
        raise ExecutionError(
            f"over {_records(part):,.0f} records of {part.title} the loops inside of an iteration"
            f" have not ended in {longest:g} s"
        ) from None
    return ShortRun(
        way.workers, way.threads, _records(part), driver.rows_by_stage(), timed.loops(),
        timed.load_seconds, timed.held_bytes, timed.all_cached,
    )  # fmt: skip

"""From a job to its results: optimize, lower, run."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from scalops.algebra import operators as op
from scalops.algebra.schema import Schema
from scalops.clusters import job_settings
from scalops.deciding import Decided, replan_or_go_on
from scalops.engine.blas import single_threaded
from scalops.engine.driver import BeginTaking, Driver, Listener, Replan
from scalops.engine.embedded import EmbeddedBackend
from scalops.engine.events import SILENT, EventLog
from scalops.engine.free_memory import usable_memory
from scalops.engine.kept_tables import OWNER, KeptTable, KeptTables
from scalops.engine.loop_runner import LoopControl
from scalops.engine.memory import MemoryBudget
from scalops.engine.output_memory import is_own
from scalops.engine.physical_plan import PhysicalPlan
from scalops.engine.physical_work import fold_works
from scalops.engine.process_folds import FoldPlace
from scalops.engine.recording import NO_RECORDER, Recorder
from scalops.engine.storage.arrow import blocks_to_table
from scalops.engine.threads import ThreadPool
from scalops.just_in_time import just_in_time
from scalops.optimizer.lowering import lower
from scalops.optimizer.phases import PHASES
from scalops.optimizer.placement import Cores, Placement, placement
from scalops.optimizer.replan import Replanner, replan
from scalops.optimizer.rewriter import Firing, rewrite
from scalops.profiles import machine

if TYPE_CHECKING:
    from scalops.engine.cluster.session_workers import SessionWorkers
    from scalops.engine.processes.runner import ProcessRunner
    from scalops.options import Options

_pools: dict[int, ThreadPool] = {}
_pools_lock = threading.Lock()


# A forked child has none of the threads: it makes pools of its own.
os.register_at_fork(after_in_child=_pools.clear)


def optimize(job: op.Job) -> tuple[op.Job, list[Firing]]:
    """The optimized job and what the rules did."""
    return rewrite(job, PHASES)


def plan(job: op.Job, jit: str | bool = "auto") -> PhysicalPlan:
    """The physical plan of a job; `jit` is the session's option."""
    return just_in_time(lower(optimize(job)[0]), jit)


def _pool(threads: int) -> ThreadPool:
    size = threads or len(os.sched_getaffinity(0))
    with _pools_lock:
        if size not in _pools:
            _pools[size] = ThreadPool(size)
        return _pools[size]


def place(
    physical: PhysicalPlan, options: Options, runner: ProcessRunner | None
) -> Placement | None:
    """Which stages fold on processes; None where none may."""
    cores = _cores(options, runner)
    if cores.workers == 0 or options.folds == "threads":
        return None
    return placement(fold_works(physical), cores, options.folds, machine())


def with_notes(physical: PhysicalPlan, placed: Placement | None) -> PhysicalPlan:
    """The plan with notes on what folds on threads and what on processes, for readers."""
    return physical if placed is None else replace(physical, folding=tuple(placed.notes.items()))


def _cores(options: Options, runner: ProcessRunner | None) -> Cores:
    """This process and workers, together as many as there are threads."""
    if runner is None:
        return Cores(0)
    threads = options.threads or len(os.sched_getaffinity(0))
    least = 1 if options.folds == "processes" else 0
    return Cores(max(least, min(threads - 1, runner.count)), len(runner.workers()))


WAITING_THREADS = 3  # for each worker process


def _budget(options: Options, kept: KeptTables, used: Collection[str]) -> MemoryBudget:
    """The memory of a run, of which the session's tables have their part already."""
    limit = _memory(options)
    if options.memory is None:
        limit += kept.bytes  # which are not free now
    budget = MemoryBudget(limit, options.spill)
    budget.spare = lambda size: (OWNER, kept.spare(size, used))
    budget.require(kept.bytes, OWNER)
    return budget


def _memory(options: Options) -> int:
    """The budget: as given, else 60 % of what is free on this machine now."""
    return usable_memory() if options.memory is None else options.memory


def execute(
    job: op.Job,
    physical: PhysicalPlan,
    decided: Decided,
    options: Options,
    listener: Listener | None = None,
    runner: ProcessRunner | None = None,
    control: LoopControl | None = None,
    kept: KeptTables | None = None,
    tables: Mapping[str, KeptTable] | None = None,
    workers: SessionWorkers | None = None,
    events: EventLog = SILENT,
    recorder: Recorder = NO_RECORDER,
    begin: BeginTaking | None = None,
) -> list[Any]:
    """Run a job by its plan and what is decided: values, pyarrow tables and outcomes, in order.

    Opaque functions are called by `runner`, or in this process where there is none. `control`
    is that of the one loop which the job gives. What the session keeps, `kept`, counts against
    the memory; of it the job reads and fills `tables`. With `workers` they run the plan. A
    `recorder` hears of what is run, and measures it. With `begin` the one table of the job goes
    to what that makes.
    """
    events.emit("plan", fingerprint=physical.fingerprint, stages=len(physical.stages))
    with single_threaded():
        if workers is not None:
            results = _on_workers(
                physical, decided, options, workers, listener, control, tables, events, recorder,
                begin,
            )  # fmt: skip
        else:
            embedded, again = _embedded(
                physical, decided, options, runner, kept or KeptTables(), tables, recorder
            )
            results = Driver(
                physical, embedded, listener, again, control, events, recorder, begin
            ).run()
    if begin is not None:
        return results
    for i, node in enumerate(job.outputs):
        if isinstance(node, op.Operator) and not isinstance(node, op.Loop):
            results[i] = arrow_table(results[i], node.schema)
    return results


def _on_workers(
    physical: PhysicalPlan,
    decided: Decided,
    options: Options,
    workers: SessionWorkers,
    listener: Listener | None,
    control: LoopControl | None,
    tables: Mapping[str, KeptTable] | None,
    events: EventLog,
    recorder: Recorder,
    begin: BeginTaking | None,
) -> list[Any]:
    from scalops.engine.cluster.going_back import run_again

    def run(own: LoopControl | None) -> list[Any]:
        backend = workers.backend(job_settings(decided.neutral, options), events, tables, recorder)
        again = _replanner(decided, options)
        return Driver(physical, backend, listener, again, own, events, recorder, begin).run()

    return run_again(run, control, events)


def _embedded(
    physical: PhysicalPlan,
    decided: Decided,
    options: Options,
    runner: ProcessRunner | None,
    kept: KeptTables,
    tables: Mapping[str, KeptTable] | None,
    recorder: Recorder,
) -> tuple[EmbeddedBackend, Replan]:
    """What runs a plan in this process, and may change its neutral decisions."""
    caches = tables or {}
    budget = _budget(options, kept, caches)
    # Threads that only hand records over: enough of them for no worker to run out of records.
    waiting = None if runner is None else _pool(WAITING_THREADS * runner.count)
    placed = place(physical, options, runner)
    folds = (
        None
        if placed is None
        else FoldPlace(_cores(options, runner).workers, placed.stages, options.folds == "processes")
    )
    pool = _pool(options.threads)
    recorder.placed(0, pool.size)
    backend = EmbeddedBackend(
        pool, budget, runner, caches, waiting, folds, recorder.meter, decided.neutral
    )
    return backend, _replanner(decided, options, placed)


def _replanner(decided: Decided, options: Options, placed: Placement | None = None) -> Replan:
    """What looks at the plan again while it runs."""
    if decided.choice is None:
        return replan if placed is None else partial(replan, placement=placed)
    return replan_or_go_on(Replanner(decided.choice, decided.reads, options.fan_in, placed))


_RELEASE_BYTES = 64 << 20  # that are copied out of it before the pool gives back what is unused


def arrow_table(blocks: list[Any], schema: Schema) -> pa.Table:
    """Records as the user gets them."""
    copied = 0
    for block in blocks:
        for name, values in block.columns.items():
            if isinstance(values, np.ndarray) and values.base is not None and not is_own(values):
                block.columns[name] = values.copy()  # the result is no view of a user's array
                copied += values.nbytes
        if copied > _RELEASE_BYTES:  # else Arrow's pool keeps what files were decoded into
            pa.default_memory_pool().release_unused()
            copied = 0
    return blocks_to_table((b for b in blocks if b.rows), schema)

"""What the engine spends beside its kernels: stages, threads, processes for folds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from time import perf_counter

import numpy as np

from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import FLOAT64
from scalops.algebra.folds import Fold
from scalops.engine import physical_plan as pp
from scalops.engine.blocks import Block
from scalops.engine.calibration.measurement import (
    Effort,
    Outcome,
    Probe,
    rate,
    seconds_of,
    summary,
    timed,
)
from scalops.engine.embedded import EmbeddedBackend
from scalops.engine.memory import MemoryBudget
from scalops.engine.processes.handle import WorkerHandle
from scalops.engine.processes.messages import Message
from scalops.engine.processes.runner import ProcessRunner
from scalops.engine.processes.shared_memory import SharedTable
from scalops.engine.storage.memory_source import MemorySource
from scalops.engine.threads import ThreadPool

_STARTS = 3  # processes are started so often: each takes a while
_START_SECONDS = 60.0
_REPLY_SECONDS = 10.0
_SHARED_BYTES = 16 << 20


def _stage(effort: Effort) -> Iterator[Outcome]:
    """A fold over a cached table of one record: what it takes is not the record's."""
    source = MemorySource.of_arrays({"x": np.ones(1)})
    cached = pp.StoredTable(0, source.schema)
    fold = Fold("s", "sum", (ex.Column("x", FLOAT64),))
    stages = (
        pp.Stage(0, pp.TableScan(source, ("x",)), pp.CacheTable(0)),
        pp.Stage(1, cached, pp.TreeAggregate((fold,), (0,))),
    )
    plan = pp.PhysicalPlan(stages, (), (("s", FLOAT64),), (), (), "")
    backend = EmbeddedBackend(ThreadPool(1), MemoryBudget())

    def run() -> None:
        backend.bind({0: 0.0})
        backend.run_stage(1)
        backend.combine(1)

    try:
        backend.start(plan)
        backend.load(0)
        samples = seconds_of(run, effort)
    finally:
        backend.stop()
    yield summary("stage", "s", samples)


def _thread(effort: Effort) -> Iterator[Outcome]:
    """Two tasks of which the calling thread's waits for the other one's: that has to wake up."""
    woken = threading.Semaphore(0)
    own = threading.get_ident()

    def task(worker: int, index: int) -> None:
        if threading.get_ident() == own:
            woken.acquire()
        else:
            woken.release()

    pool = ThreadPool(2)
    try:
        # At most one task each: whoever waits cannot take the other's.
        samples = seconds_of(lambda: pool.run(task, 2), effort)
    finally:
        pool.close()
    yield summary("thread_start", "s", samples)


def _process(effort: Effort) -> Iterator[Outcome]:
    """A process for folds: until it is ready, and until it has heard of a plan's end."""
    starts, asked = [], list[float]()
    for _ in range(min(_STARTS, effort.repetitions)):
        runner = ProcessRunner(1, None, 0)
        try:
            begin = perf_counter()
            worker = runner.lanes(1)[0].start()
            if not worker.is_ready(_START_SECONDS):
                raise TimeoutError(f"a process was not ready after {_START_SECONDS:g} s")
            starts.append(perf_counter() - begin)
            asked = seconds_of(partial(_ask, worker), effort)
        finally:
            runner.stop()
    yield summary("process_start", "s", starts)
    yield summary("process_pass", "s", asked)


def _ask(worker: WorkerHandle) -> None:
    worker.send(Message({"task": "partials", "forget": ["calibration"]}, []))
    worker.receive(_REPLY_SECONDS)


def _share(effort: Effort) -> Iterator[Outcome]:
    size = effort.size(_SHARED_BYTES)
    samples = []
    for _ in range(effort.repetitions):
        table = SharedTable([[Block(size // 8, {"x": np.ones(size // 8)})]], size)
        samples.append(timed(lambda made=table: made.move(0)))  # type: ignore[misc]
    yield rate("share", "bytes/s", size, samples)


PROBES = (
    Probe("overheads", ("stage",), _stage),
    Probe("overheads", ("thread_start",), _thread),
    Probe("overheads", ("process_start", "process_pass"), _process),
    Probe("overheads", ("share",), _share),
)

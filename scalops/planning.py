"""From a job to its results: optimize, lower, run."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from scalops.algebra import operators as op
from scalops.algebra.schema import Schema
from scalops.engine.blas import single_threaded
from scalops.engine.driver import Driver, Listener
from scalops.engine.embedded import EmbeddedBackend
from scalops.engine.memory import MemoryBudget
from scalops.engine.physical_plan import PhysicalPlan
from scalops.engine.storage.arrow import block_to_batch, schema_to_arrow
from scalops.engine.threads import ThreadPool
from scalops.optimizer.lowering import lower
from scalops.optimizer.phases import PHASES
from scalops.optimizer.replan import replan
from scalops.optimizer.rewriter import Firing, rewrite

if TYPE_CHECKING:
    from scalops.engine.processes import ProcessRunner
    from scalops.session import Options

_pools: dict[int, ThreadPool] = {}
_pools_lock = threading.Lock()


# A forked child has none of the threads: it makes pools of its own.
os.register_at_fork(after_in_child=_pools.clear)


def optimize(job: op.Job) -> tuple[op.Job, list[Firing]]:
    """The optimized job and what the rules did."""
    return rewrite(job, PHASES)


def plan(job: op.Job) -> PhysicalPlan:
    """The physical plan of a job."""
    return lower(optimize(job)[0])


def _pool(threads: int) -> ThreadPool:
    size = threads or len(os.sched_getaffinity(0))
    with _pools_lock:
        if size not in _pools:
            _pools[size] = ThreadPool(size)
        return _pools[size]


FREE_SHARE = 0.6


def _memory(options: Options) -> int:
    """The budget: as given, else 60 % of what is free on this machine now."""
    if options.memory is not None:
        return options.memory
    import psutil

    return int(FREE_SHARE * psutil.virtual_memory().available)


def execute(
    job: op.Job,
    options: Options,
    listener: Listener | None = None,
    runner: ProcessRunner | None = None,
) -> list[Any]:
    """Run a job: values, pyarrow tables and loop outcomes, in order.

    Opaque functions are called by `runner`, or in this process where there is none.
    """
    physical = plan(job)
    backend = EmbeddedBackend(_pool(options.threads), MemoryBudget(_memory(options)), runner)
    with single_threaded():
        results = Driver(physical, backend, listener, replan).run()
    for i, node in enumerate(job.outputs):
        if isinstance(node, op.Operator) and not isinstance(node, op.Loop):
            results[i] = _to_arrow(results[i], node.schema)
    return results


def _to_arrow(blocks: list[Any], schema: Schema) -> pa.Table:
    for block in blocks:
        for name, values in block.columns.items():
            if isinstance(values, np.ndarray) and values.base is not None:
                block.columns[name] = values.copy()  # the result is no view of a user's array
    batches = [block_to_batch(b, schema) for b in blocks if b.rows]
    return pa.Table.from_batches(batches, schema_to_arrow(schema))

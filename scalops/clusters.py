"""Where a session's workers come from: processes of this machine, or a running cluster."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from scalops.engine.cluster_display import Workers
from scalops.engine.neutral import Neutral
from scalops.engine.physical_plan import PhysicalPlan, TreeAggregate
from scalops.optimizer.aggregation_tree import (
    AggregationTree,
    aggregation_tree,
    at_driver,
    at_workers,
    common_fan_in,
)

if TYPE_CHECKING:
    from scalops.engine.cluster.coordinator import JobSettings
    from scalops.engine.cluster.session_workers import SessionWorkers
    from scalops.options import Options

HEARTBEATS = 10  # in a lease


def has_workers(options: Options) -> bool:
    """Whether plans run on workers, not in this process."""
    return options.workers > 0 or options.connect is not None


def threads_of_worker(options: Options) -> int:
    """Threads of each worker of this machine: as told, else its share of the usable cores."""
    return options.threads or max(1, len(os.sched_getaffinity(0)) // max(1, options.workers))


def _memory_of_worker(options: Options) -> int | None:
    """Bytes of each worker of this machine; None for what is free, and in a running cluster."""
    if options.memory is None or not options.workers:
        return None
    return max(1, options.memory // options.workers)


def open_workers(options: Options) -> SessionWorkers:
    """Start the workers that the options ask for, or attach to the cluster that they name.

    Those of this machine share the session's memory, if it was told any. Only here are ZeroMQ and
    what rests on it imported.
    """
    from scalops.engine.cluster.session_workers import SessionWorkers

    if options.connect is not None:
        from scalops.engine.cluster.remote_hub import RemoteHub

        return SessionWorkers(RemoteHub(options.connect, options.key), share_memory=False)
    from scalops.engine.cluster.local_hub import LocalHub, LocalSettings

    told = {
        "threads": threads_of_worker(options),
        "memory": _memory_of_worker(options),
        "workers": options.workers,
    }
    settings = LocalSettings(
        options.lease, options.lease / HEARTBEATS, task_timeout=options.task_timeout, worker=told
    )
    return SessionWorkers(LocalHub(options.workers, settings), share_memory=True)


def fan_in_of(physical: PhysicalPlan, count: int, options: Options) -> int:
    """The fan-in of the tree in which `count` workers run the plan's reductions."""
    sinks = [s.sink for s in physical.stages if isinstance(s.sink, TreeAggregate)]
    return common_fan_in(count, map(_partial_bytes, sinks), options.fan_in)


def job_settings(physical: PhysicalPlan, options: Options, count: int) -> JobSettings:
    """How a plan runs on so many ranks."""
    from scalops.engine.cluster.coordinator import JobSettings

    fan_in = fan_in_of(physical, count, options)
    return JobSettings(
        Neutral(count, (fan_in,), at_driver(physical, count, options.fan_in)),
        task_timeout=options.task_timeout,
        memory=_memory_of_worker(options),
    )


def tree_of(
    physical: PhysicalPlan, count: int, options: Options
) -> Callable[[float], AggregationTree]:
    """How partial results of so many bytes meet, of any of the plan's reductions."""
    common = fan_in_of(physical, count, options)
    return partial(_tree, count, options.fan_in, common)


def _tree(count: int, told: int | None, common: int, partial_bytes: float) -> AggregationTree:
    return aggregation_tree(count, partial_bytes, told, common)


def _partial_bytes(sink: TreeAggregate) -> float:
    return sum(f.type.bytes for f in sink.folds)


def workers_of(physical: PhysicalPlan, options: Options, attached: int | None) -> Workers:
    """What explain shows of workers; of a cluster there are as many as are `attached`, if any."""
    from scalops.engine.cluster.coordinator import FORWARD_BYTES

    where = "processes of this machine" if options.connect is None else options.connect
    count = options.workers or attached
    known = count or 1
    meeting = tree_of(physical, known, options)
    fan_in = fan_in_of(physical, known, options)
    flat = at_driver(physical, known, options.fan_in)
    others = at_workers(physical)
    return Workers(count, (fan_in,), meeting, FORWARD_BYTES, where, flat, others)

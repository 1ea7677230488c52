"""Where a session's workers come from: processes of this machine, or a running cluster."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from scalops.engine.cluster_display import Workers
from scalops.options import AUTO

if TYPE_CHECKING:
    from scalops.deciding import Decided
    from scalops.engine.cluster.coordinator import JobSettings
    from scalops.engine.cluster.session_workers import SessionWorkers
    from scalops.engine.neutral import Neutral
    from scalops.options import Options

HEARTBEATS = 10  # in a lease


def may_have_workers(options: Options) -> bool:
    """Whether plans run on workers, or may."""
    return options.workers == AUTO or options.workers > 0 or options.connect is not None


def told_workers(options: Options) -> int | None:
    """How many workers of this machine a session was told; None where nobody said a number."""
    return None if options.workers == AUTO else options.workers


def cores() -> int:
    """Usable cores of this machine."""
    return len(os.sched_getaffinity(0))


def threads_of_worker(options: Options) -> int:
    """Threads of each worker of this machine: as told, else its share of the usable cores."""
    count = cores() if options.workers == AUTO else max(1, options.workers)
    return options.threads or max(1, cores() // count)


def memory_of_worker(options: Options, count: int) -> int | None:
    """Bytes of each of so many workers of this machine.

    None for what is free, and in a running cluster, whose workers have their own.
    """
    if options.memory is None or options.connect is not None:
        return None
    return max(1, options.memory // max(1, count))


def open_workers(options: Options) -> SessionWorkers:
    """Start the workers that the options ask for, or attach to the cluster that they name.

    Those of this machine share the session's memory, if it was told any; where the cost model
    chooses, none is started yet. Only here are ZeroMQ and what rests on it imported.
    """
    from scalops.engine.cluster.session_workers import SessionWorkers

    if options.connect is not None:
        from scalops.engine.cluster.remote_hub import RemoteHub

        return SessionWorkers(RemoteHub(options.connect, options.key), share_memory=False)
    from scalops.engine.cluster.local_hub import LocalHub, LocalSettings

    count = told_workers(options) or 0
    told = {
        "threads": threads_of_worker(options),
        "memory": memory_of_worker(options, count) if count else None,
        "spill": options.spill,
        "workers": count or cores(),
    }
    settings = LocalSettings(
        options.lease, options.lease / HEARTBEATS, task_timeout=options.task_timeout, worker=told
    )
    return SessionWorkers(LocalHub(count, settings), share_memory=True)


def job_settings(neutral: Neutral, options: Options) -> JobSettings:
    """How a plan runs on workers."""
    from scalops.engine.cluster.coordinator import JobSettings

    memory = memory_of_worker(options, neutral.workers)
    return JobSettings(neutral, task_timeout=options.task_timeout, memory=memory)


def workers_of(decided: Decided, options: Options, known: bool) -> Workers:
    """What explain shows of workers; of a cluster nobody may have asked how many there are."""
    from scalops.engine.cluster.coordinator import FORWARD_BYTES

    where = "processes of this machine" if options.connect is None else options.connect
    neutral = decided.neutral
    count = neutral.workers if known else None
    return Workers(count, neutral, decided.meet, FORWARD_BYTES, where)

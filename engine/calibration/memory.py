"""Reading memory: from far away and from the cache, by one thread and by all, and at random."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from scalops.engine.blocks import BLOCK_BYTES
from scalops.engine.calibration.measurement import Effort, Outcome, Probe, rate, seconds_of
from scalops.engine.columns import Array
from scalops.engine.threads import ThreadPool

_LEAST_FAR, _MOST_FAR = 64 << 20, 512 << 20  # bytes that are in no cache
_CACHES = 4  # times the last cache's size are in none of them
_PART = 1 << 20  # bytes that a task of all threads reads
_GATHERED = 8 << 20  # bytes


def far_bytes() -> int:
    """Bytes of an array that no cache of this processor holds; at most a 16th of free memory."""
    import psutil

    try:
        cache = os.sysconf("SC_LEVEL3_CACHE_SIZE")
    except (ValueError, OSError):  # a system that does not tell
        cache = 0
    wanted = min(_MOST_FAR, max(_LEAST_FAR, _CACHES * cache))
    return int(min(wanted, psutil.virtual_memory().available // 16))


def _numbers(size: int) -> Array:
    """float64 of so many bytes, each page of them written."""
    return np.ones(max(1, size // 8))


def _far(effort: Effort) -> Iterator[Outcome]:
    """A product of an array with itself: one pass over it, and little else."""
    values = _numbers(effort.size(far_bytes(), 1 << 16))
    yield rate("read", "bytes/s", values.nbytes, seconds_of(lambda: values @ values, effort))
    threads = len(os.sched_getaffinity(0))
    parts = [values[i : i + _PART // 8] for i in range(0, len(values), _PART // 8)]

    def task(worker: int, index: int) -> None:
        parts[index] @ parts[index]

    pool = ThreadPool(threads)
    try:
        samples = seconds_of(lambda: pool.run(task, len(parts)), effort)
    finally:
        pool.close()
    yield rate("read_all", "bytes/s", values.nbytes, samples)


def _near(effort: Effort) -> Iterator[Outcome]:
    """The same of as many bytes as a block has."""
    values = _numbers(effort.size(BLOCK_BYTES))
    yield rate("read_cached", "bytes/s", values.nbytes, seconds_of(lambda: values @ values, effort))


def _gather(effort: Effort) -> Iterator[Outcome]:
    values = _numbers(effort.size(_GATHERED))
    positions = np.random.default_rng(0).integers(0, len(values), len(values))
    samples = seconds_of(lambda: values.take(positions), effort)
    yield rate("gather", "elements/s", len(positions), samples)


PROBES = (
    Probe("memory", ("read", "read_all"), _far),
    Probe("memory", ("read_cached",), _near),
    Probe("memory", ("gather",), _gather),
)

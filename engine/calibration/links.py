"""Workers and what passes between them: two worker processes, with the engine's real channels."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

import numpy as np

from scalops.algebra.errors import WorkerLost
from scalops.engine.calibration.measurement import (
    Effort,
    Outcome,
    Probe,
    rate_of_difference,
    seconds_of,
    summary,
)
from scalops.engine.cluster.coordinator import Coordinator, JobSettings
from scalops.engine.cluster.hub import Left
from scalops.engine.cluster.local_hub import LocalHub, LocalSettings
from scalops.engine.cluster.plan_codec import encode_plan
from scalops.engine.neutral import Neutral
from scalops.engine.physical_plan import PhysicalPlan

_MACHINE = ("scalops.engine.calibration.link_worker", "LinkWorker")
_START_SECONDS = 60.0
_WORKERS = 2
_PINGS = 40  # of one command
_SMALL_PIECE, _LARGE_PIECE = 1 << 18, 4 << 20  # bytes
_LARGE_PINGS = 4
_HEARD = 200


class _Links:
    """A job on two ranks, which run the programs of `link_worker.py`."""

    def __init__(self, hub: LocalHub) -> None:
        self._coordinator = Coordinator(hub)
        plan = PhysicalPlan((), (), (), (), (), "")
        encoded = np.frombuffer(encode_plan(plan, ()), np.uint8)
        settings = JobSettings(Neutral(_WORKERS), most_losses=0)
        self._coordinator.begin(plan, [encoded], settings)

    def nothing(self) -> None:
        """A command that all ranks answer."""
        self._coordinator.call("nothing", None, "all")

    def ping(self, count: int, size: int) -> list[float]:
        """Seconds of round trips; one way a piece of `size` bytes, back a small one."""
        found: list[float] = self._coordinator.call("ping", [count, size], "all")[0].header
        return found

    def heard(self, count: int) -> float:
        """Seconds of its processor that a rank takes to hear of a small piece."""
        return float(self._coordinator.call("hear", [count], "all")[0].header)

    def finish(self) -> None:
        """End the job."""
        self._coordinator.finish()


def _joined(hub: LocalHub, count: int) -> float:
    """Seconds until there is one more worker, the `count`-th."""
    begin = monotonic()
    hub.ask_for(count)
    while len(hub.workers()) < count:
        left = begin + _START_SECONDS - monotonic()
        for event in hub.pump(max(0.0, left)):
            if isinstance(event, Left):
                raise WorkerLost(f"a worker left before it was ready: {event.reason}")
        if left <= 0:
            raise TimeoutError(f"a worker was not ready after {_START_SECONDS:g} s")
    return monotonic() - begin


def _all(effort: Effort) -> Iterator[Outcome]:
    hub = LocalHub(0, LocalSettings(machine=_MACHINE))
    try:
        # One after the other: on few cores they would wait for each other.
        starts = [_joined(hub, i + 1) for i in range(_WORKERS)]
        yield summary("worker_start", "s", starts)
        links = _Links(hub)
        yield from _measured(links, effort)
        links.finish()
    finally:
        hub.close()


def _measured(links: _Links, effort: Effort) -> Iterator[Outcome]:
    yield summary("command", "s", seconds_of(links.nothing, effort))
    links.ping(_PINGS, 0)  # the first steps of a command are computed on a thread, see `Clock`
    trips = [np.median(links.ping(_PINGS, 0)) / 2 for _ in range(effort.repetitions)]
    yield summary("hop", "s", [float(t) for t in trips])
    links.heard(_HEARD)
    yield summary("message", "s", [links.heard(_HEARD) for _ in range(effort.repetitions)])
    sizes = [effort.size(size, 1 << 12) for size in (_SMALL_PIECE, _LARGE_PIECE)]
    small, large = (_trips(links, size, effort) for size in sizes)
    yield rate_of_difference("link", "bytes/s", sizes[1] - sizes[0], small, large)


def _trips(links: _Links, size: int, effort: Effort) -> list[float]:
    links.ping(_LARGE_PINGS, size)
    found = (links.ping(_LARGE_PINGS, size) for _ in range(effort.repetitions))
    return [float(np.median(seconds)) for seconds in found]


PROBES = (Probe("links", ("worker_start", "command", "hop", "message", "link"), _all),)

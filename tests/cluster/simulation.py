"""A cluster in one thread: real machines and channels over a network and a clock that are simulated.

Everything that happens follows from the seed: which frames are lost, doubled, late or damaged,
which workers die, and when.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalops.engine.cluster.actions import (
    Arrived,
    Compute,
    Computed,
    Emit,
    Exit,
    Meet,
    Outcome,
    Tick,
)
from scalops.engine.cluster.channel import Channels, ChannelSettings
from scalops.engine.cluster.hub import Arrived as FromWorker
from scalops.engine.cluster.hub import HubEvent, Joined, Left, WorkerInfo
from scalops.engine.cluster.rank_machine import WorkerMachine

DRIVER = "driver"


@dataclass(frozen=True)
class Faults:
    """Shares of frames that are lost, doubled, late by up to `late_seconds`, damaged."""

    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    damaged: float = 0.0
    late_seconds: float = 0.5


class Hang(AssertionError):
    """Nothing will ever happen any more."""


class _Worker:
    def __init__(self, name: str, settings: dict[str, Any], channel: ChannelSettings) -> None:
        self.name = name
        self.machine = WorkerMachine(name, settings)
        self.channels = Channels(name, channel)
        self.channels.open(DRIVER)
        self.stopped_until = 0.0


class SimulatedHub:
    """Fulfils `hub.Hub`; time passes only in `pump`."""

    START_SECONDS, NOTICE_SECONDS, TICK_SECONDS, HOP_SECONDS = 0.5, 0.1, 1.0, 1e-4

    def __init__(
        self,
        seed: int = 0,
        faults: Faults = Faults(),  # noqa: B008 (it is frozen)
        settings: dict[str, Any] | None = None,
        channel: ChannelSettings | None = None,
        most_workers: int = 1000,
    ) -> None:
        self._random = np.random.default_rng(seed)
        self._faults, self._settings = faults, settings or {}
        self._channel = channel or ChannelSettings()
        self._most = most_workers
        self.channels = Channels(DRIVER, self._channel)
        self.refused: Counter[str] = Counter()
        self.now = 0.0
        self.steps = 0
        self.deaths = 0
        self.on_step: Callable[[SimulatedHub], None] | None = None
        self._workers: dict[str, _Worker] = {}
        self._starting: set[str] = set()
        self._infos: dict[str, WorkerInfo] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._events: deque[HubEvent] = deque()
        self._wake_at: dict[str, float] = {}

    # The hub.

    def workers(self) -> list[WorkerInfo]:
        return list(self._infos.values())

    def ask_for(self, count: int) -> None:
        while len(self._infos) + len(self._starting) < min(count, self._most):
            self._number += 1
            name = f"w{self._number}"
            self._starting.add(name)
            self._at(self.START_SECONDS, lambda name=name: self._start(name))  # type: ignore[misc]

    def pump(self, timeout: float | None) -> list[HubEvent]:
        end = None if timeout is None else self.now + timeout
        self._transmit()
        while not self._events:
            at = self._next()
            if at is None or (end is not None and at > end):
                if end is None:
                    raise Hang("no event is left, and the driver waits")
                self.now = end
                break
            self._step()
        found, self._events = list(self._events), deque()
        return found

    def wake(self) -> None:
        pass

    def close(self) -> None:
        self._workers.clear()
        self._queue.clear()

    # Faults.

    def kill(self, name: str) -> None:
        """A worker is gone, as after SIGKILL."""
        if self._workers.pop(name, None) is None:
            return
        self.deaths += 1
        self._infos.pop(name, None)

        def noticed() -> None:
            self.channels.drop(name)
            self._events.append(Left(name, "killed by signal 9"))

        self._at(self.NOTICE_SECONDS, noticed)

    def stop_for(self, name: str, seconds: float) -> None:
        """A worker does nothing for a while, as after SIGSTOP and SIGCONT."""
        if name in self._workers:
            self._workers[name].stopped_until = self.now + seconds

    def names(self) -> list[str]:
        """Workers alive."""
        return list(self._workers)

    # The simulation.

    def _at(self, seconds: float, call: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._queue, (self.now + seconds, self._number, call))

    def _next(self) -> float | None:
        deadlines = [self.channels.deadline(), *(w.channels.deadline() for w in self._alive())]
        times = [d for d in deadlines if d is not None]
        if self._queue:
            times.append(self._queue[0][0])
        if not times:
            return None
        return max(self.now, min(times))

    def _alive(self) -> list[_Worker]:
        return list(self._workers.values())

    def _step(self) -> None:
        self.steps += 1
        at = self._next()
        assert at is not None
        self.now = at
        if self._queue and self._queue[0][0] <= at:
            heapq.heappop(self._queue)[2]()
        if self.on_step is not None:
            self.on_step(self)
        self._transmit()

    def _start(self, name: str) -> None:
        self._starting.discard(name)
        worker = self._workers[name] = _Worker(name, self._settings, self._channel)
        info = self._infos[name] = WorkerInfo(name, "simulated", 0, 1, 1 << 30, name)
        self.channels.open(name)
        self._events.append(Joined(info))
        self._at(self.TICK_SECONDS, lambda: self._tick(worker))

    def _tick(self, worker: _Worker) -> None:
        if self._workers.get(worker.name) is worker:
            self._handle(worker, Tick())
            self._at(self.TICK_SECONDS, lambda: self._tick(worker))

    def _handle(self, worker: _Worker, event: Any) -> None:
        actions = deque(worker.machine.handle(event, self.now))
        while actions and self._workers.get(worker.name) is worker:
            match actions.popleft():
                case Emit(peer, body, buffers):
                    worker.channels.send(peer, body, buffers)
                case Compute(quick=True) as compute:
                    actions.extend(worker.machine.handle(self._called(compute), self.now))
                case Compute() as compute:
                    seconds = float(self._random.exponential(1e-3))
                    self._at(seconds, lambda c=compute: self._compute(worker, c))  # type: ignore[misc]
                case Meet(members):
                    for _, name, _, _ in members.hosts:
                        worker.channels.open(name)
                case Exit():
                    self.kill(worker.name)

    def _compute(self, worker: _Worker, compute: Compute) -> None:
        if self._workers.get(worker.name) is not worker:
            return
        if worker.stopped_until > self.now:
            self._at(worker.stopped_until - self.now, lambda: self._compute(worker, compute))
            return
        computed = self._called(compute)
        if self._workers.get(worker.name) is worker:
            self._handle(worker, computed)

    def _called(self, compute: Compute) -> Computed:
        try:
            outcome = Outcome(compute.call(), None)
        except (Exception, KeyboardInterrupt) as error:
            outcome = Outcome(None, error)
        return Computed(compute.ticket, outcome)

    def _transmit(self) -> None:
        for peer, frames in self.channels.outgoing(self.now):
            self._carry(DRIVER, peer, frames)
        for worker in self._alive():
            for peer, frames in worker.channels.outgoing(self.now):
                self._carry(worker.name, peer, frames)

    def _carry(self, source: str, target: str, frames: Sequence[Any]) -> None:
        faults, draw = self._faults, self._random.random
        if draw() < faults.lost:
            return
        copies = 2 if draw() < faults.doubled else 1
        for _ in range(copies):
            parts = [bytes(f) for f in frames]
            seconds = self.HOP_SECONDS
            if draw() < faults.late:
                seconds += float(draw()) * faults.late_seconds
            if draw() < faults.damaged:
                parts = self._damaged(parts)
            self._at(seconds, lambda p=parts: self._deliver(source, target, p))  # type: ignore[misc]

    def _damaged(self, parts: list[bytes]) -> list[bytes]:
        which = int(self._random.integers(len(parts)))
        data = bytearray(parts[which])
        if data:
            data[int(self._random.integers(len(data)))] ^= 1 << int(self._random.integers(8))
        return [*parts[:which], bytes(data), *parts[which + 1 :]]

    def _deliver(self, source: str, target: str, parts: list[bytes]) -> None:
        if target == DRIVER:
            if source in self._infos:
                for message in self.channels.arrived(source, parts, self.now):
                    self._events.append(FromWorker(source, message))
            return
        worker = self._workers.get(target)
        if worker is None:
            return
        if worker.stopped_until > self.now:
            later = worker.stopped_until - self.now
            self._at(later, lambda: self._deliver(source, target, parts))
            return
        for message in worker.channels.arrived(source, parts, self.now):
            self._handle(worker, Arrived(source, message))

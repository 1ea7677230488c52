"""A cluster in one thread: real machines and channels over a simulated network and clock.

Everything that happens follows from the seed: which frames are lost, doubled, late or damaged,
which workers die, and when. What workers compute is computed at once, in virtual time of its own;
only a step that waits for the driver's tables has a thread, which runs while all else stands still.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np

from scalops.engine.cluster import job_shares
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
from scalops.engine.cluster.frames import read_frame
from scalops.engine.cluster.hub import Arrived as FromWorker
from scalops.engine.cluster.hub import HubEvent, Joined, Left, WorkerInfo
from scalops.engine.cluster.messages import Heartbeat, decode
from scalops.engine.cluster.rank_machine import WorkerMachine
from scalops.engine.cluster.remote_source import PartitionStore
from scalops.engine.progress import Place

DRIVER = "driver"
ACKNOWLEDGEMENT, CONTINUATION = "Acknowledgement", "Continuation"  # frames that begin no message
STUCK_SECONDS = 60.0  # of this machine: a thread waits for what is not simulated
QUIET_SECONDS = 300.0  # virtual ones, without any progress: nothing will ever happen any more


@dataclass(frozen=True)
class Faults:
    """Shares of frames that are lost, doubled, late by up to `late_seconds`, damaged.

    `only`: of frames that begin a message of this class alone, or ACKNOWLEDGEMENT, CONTINUATION.
    """

    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    damaged: float = 0.0
    late_seconds: float = 0.5
    only: str | None = None


class Hang(AssertionError):
    """Nothing will ever happen any more."""


class _Computation(threading.Thread):
    """A call on a thread; whoever calls `go_on` waits until it has ended, or waits itself."""

    def __init__(self, compute: Compute) -> None:
        super().__init__(daemon=True)
        self.is_released = False  # it has waited, and goes on
        self._compute = compute
        self._said: SimpleQueue[Computed | None] = SimpleQueue()

    def run(self) -> None:
        with np.errstate(all="ignore"):
            self._said.put(called(self._compute))

    def waits(self) -> None:
        """Said by the thread: it is about to wait."""
        self._said.put(None)

    def go_on(self) -> Computed | None:
        """What it gives; None where it waits."""
        self.is_released = False
        return self._said.get(timeout=STUCK_SECONDS)


class _WatchedCondition(threading.Condition):
    """Computations that wait for it say so, and are marked when they go on."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[_Computation] = []

    def wait(self, timeout: float | None = None) -> bool:
        own = threading.current_thread()
        if isinstance(own, _Computation):
            self._waiting.append(own)
            own.waits()
        return super().wait(timeout)

    def notify_all(self) -> None:
        for computation in self._waiting:
            computation.is_released = True
        self._waiting.clear()
        super().notify_all()


class _WatchedStore(PartitionStore):
    def __init__(self, ask: Callable[[int, tuple[int, ...], int], None]) -> None:
        super().__init__(ask)
        self._changed = _WatchedCondition()


class _Worker:
    def __init__(
        self,
        name: str,
        settings: dict[str, Any],
        channel: ChannelSettings,
        random: np.random.Generator,
    ) -> None:
        self.name = name
        self.machine = WorkerMachine(name, settings)
        seconds = itertools.accumulate(iter(lambda: float(random.exponential(2e-3)), -1.0))
        self.machine._clock.now = lambda: next(seconds)  # which steps are quick is chance
        self.channels = Channels(name, channel)
        self.channels.open(DRIVER)
        self.stopped_until = 0.0
        self.computations: list[_Computation] = []

    def released(self) -> list[_Computation]:
        """The threads that go on by now."""
        return [c for c in self.computations if c.is_released]

    def end(self) -> None:
        """Let its threads end, unheard."""
        self.machine._shares.cancel()


def called(compute: Compute) -> Computed:
    """What a call gives, or raises."""
    try:
        outcome = Outcome(compute.call(), None)
    except (Exception, KeyboardInterrupt) as error:
        outcome = Outcome(None, error)
    return Computed(compute.ticket, outcome)


def kind_of(parts: Sequence[bytes]) -> str:
    """Which message a frame begins."""
    header, pieces = read_frame(parts, 1 << 20)
    if not header.sequence:
        return ACKNOWLEDGEMENT
    if not header.envelope:
        return CONTINUATION
    envelope = b"".join(pieces)[: header.envelope]
    return type(decode(envelope)).__name__ if len(envelope) == header.envelope else CONTINUATION


class SimulatedHub:
    """Fulfils `hub.Hub`; time passes only in `pump`."""

    START_SECONDS, NOTICE_SECONDS, TICK_SECONDS, HOP_SECONDS = 0.5, 0.1, 1.0, 1e-4

    def __init__(
        self,
        seed: int = 0,
        faults: Faults = Faults(),
        settings: dict[str, Any] | None = None,
        channel: ChannelSettings | None = None,
        most_workers: int = 1000,
        threads: bool = False,
    ) -> None:
        """With `threads`, steps of workers may wait for the driver."""
        self._random = np.random.default_rng(seed)
        self.faults, self._settings = faults, settings or {}
        self._channel = channel or ChannelSettings()
        self._most, self._threads = most_workers, threads
        if threads:
            vars(job_shares)["PartitionStore"] = _WatchedStore
        self.channels = Channels(DRIVER, self._channel)
        self.refused: Counter[str] = Counter()
        self.now = 0.0
        self.steps = 0
        self.deaths = 0
        self.hit: Counter[str] = Counter()  # frames that suffered, by the message
        self._progress_at = 0.0
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

    def ask_for(self, count: int) -> int:
        while len(self._infos) + len(self._starting) < min(count, self._most):
            self._number += 1
            name = f"w{self._number}"
            self._starting.add(name)
            self._at(self.START_SECONDS, lambda name=name: self._start(name))  # type: ignore[misc]
        return len(self._infos) + len(self._starting)

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

    def end(self, worker: str, reason: str) -> None:
        self.kill(worker, reason)

    def close(self) -> None:
        for worker in self._alive():
            worker.end()
        vars(job_shares)["PartitionStore"] = PartitionStore
        self._workers.clear()
        self._infos.clear()
        self._queue.clear()

    # Faults.

    def kill(
        self, name: str, reason: str = "killed by signal 9", places: Sequence[Place] | None = None
    ) -> None:
        """A worker is gone, as after SIGKILL, while its threads were at `places`."""
        worker = self._workers.pop(name, None)
        if worker is None:
            return
        worker.end()
        self._at(self.NOTICE_SECONDS, lambda: self._lose(name, reason, places))
        self.deaths += name in self._infos
        self._infos.pop(name, None)

    def forsake(self, name: str) -> None:
        """A worker is given up while it lives on, as one that was silent for too long."""
        if name in self._infos:
            self.deaths += 1
            self._infos.pop(name)
            self._lose(name, "silent for 10 s")

    def _lose(self, name: str, reason: str, places: Sequence[Place] | None = None) -> None:
        self.channels.drop(name)
        self._events.append(Left(name, reason, None if places is None else tuple(places)))

    def stop_for(self, name: str, seconds: float) -> None:
        """A worker does nothing for a while, as after SIGSTOP and SIGCONT."""
        if name in self._workers:
            self._workers[name].stopped_until = self.now + seconds

    def names(self) -> list[str]:
        """Workers alive, but for those that have been given up."""
        return [name for name in self._workers if name in self._infos]

    def machines(self) -> list[WorkerMachine]:
        """The machines of those."""
        return [self._workers[name].machine for name in self.names()]

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
        if at > self._progress_at + QUIET_SECONDS:
            raise Hang(f"no progress in {QUIET_SECONDS:g} s")
        if self._queue and self._queue[0][0] <= at:
            heapq.heappop(self._queue)[2]()
        if self.on_step is not None:
            self.on_step(self)
        self._transmit()

    def _start(self, name: str) -> None:
        self._starting.discard(name)
        worker = self._workers[name] = _Worker(name, self._settings, self._channel, self._random)
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
                    actions.extend(worker.machine.handle(called(compute), self.now))
                case Compute() as compute:
                    seconds = float(self._random.exponential(1e-3))
                    self._at(seconds, lambda c=compute: self._compute(worker, c))  # type: ignore[misc]
                case Meet(members):
                    for _, name, _, _ in members.hosts:
                        worker.channels.open(name)
                case Exit():
                    self.kill(worker.name)
        for computation in worker.released():
            self._go_on(worker, computation)

    def _compute(self, worker: _Worker, compute: Compute) -> None:
        if self._workers.get(worker.name) is not worker:
            return
        if worker.stopped_until > self.now:
            self._at(worker.stopped_until - self.now, lambda: self._compute(worker, compute))
        elif self._threads:
            computation = _Computation(compute)
            worker.computations.append(computation)
            computation.start()
            self._go_on(worker, computation)
        else:
            self._computed(worker, called(compute))

    def _go_on(self, worker: _Worker, computation: _Computation) -> None:
        """Wait until a thread has ended, or waits for what it asks the driver for."""
        found = computation.go_on()
        while worker.machine.urgent:
            asked = worker.machine.urgent.popleft()
            assert isinstance(asked, Emit)
            worker.channels.send(asked.peer, asked.body, asked.buffers)
        if found is not None:
            worker.computations.remove(computation)
            self._computed(worker, found)

    def _computed(self, worker: _Worker, computed: Computed) -> None:
        self._progress_at = self.now
        if self._workers.get(worker.name) is worker:
            self._handle(worker, computed)

    def _transmit(self) -> None:
        for peer, frames in self.channels.outgoing(self.now):
            self._carry(DRIVER, peer, frames)
        for worker in self._alive():
            for peer, frames in worker.channels.outgoing(self.now):
                self._carry(worker.name, peer, frames)

    def _carry(self, source: str, target: str, frames: Sequence[Any]) -> None:
        whole = [bytes(f) for f in frames]
        for seconds, parts in self._suffered(whole):
            self._at(seconds, lambda p=parts: self._deliver(source, target, p))  # type: ignore[misc]

    def _suffered(self, whole: list[bytes]) -> list[tuple[float, list[bytes]]]:
        """What of a frame arrives, and after how many seconds."""
        faults, draw = self.faults, self._random.random
        if faults == Faults():
            return [(self.HOP_SECONDS, whole)]
        kind = kind_of(whole)
        if faults.only not in (None, kind):
            return [(self.HOP_SECONDS, whole)]
        copies = 0 if draw() < faults.lost else 2 if draw() < faults.doubled else 1
        arrive: list[tuple[float, list[bytes]]] = []
        for _ in range(copies):
            seconds, parts = self.HOP_SECONDS, whole
            if draw() < faults.late:
                seconds += float(draw()) * faults.late_seconds
            if draw() < faults.damaged:
                parts = self._damaged(parts)
            arrive.append((seconds, parts))
        self.hit[kind] += arrive != [(self.HOP_SECONDS, whole)]
        return arrive

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
                    if not isinstance(message.body, Heartbeat):
                        self._progress_at = self.now
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
            self._progress_at = self.now
            self._handle(worker, Arrived(source, message))

"""Worker processes of this machine, over ZeroMQ's sockets in a private folder: no port is open."""

from __future__ import annotations

import os
import secrets
import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import zmq

from scalops.algebra.errors import ExecutionError, ScalopsError
from scalops.engine.cluster import security
from scalops.engine.cluster.channel import ChannelSettings, Message
from scalops.engine.cluster.hub import Arrived, HubEvent, Joined, Left, WorkerInfo
from scalops.engine.cluster.leases import Leases
from scalops.engine.cluster.local_process import LocalProcess, end_all
from scalops.engine.cluster.messages import PROTOCOL, Bye, Hello, Refused, Welcome
from scalops.engine.cluster.private_folder import PrivateFolder
from scalops.engine.cluster.security import Socket
from scalops.engine.cluster.shared_payloads import SharedChannels, can_read_files_of
from scalops.engine.cluster.versions import own_versions, refusal
from scalops.engine.cluster.worker_sockets import DRIVER, Waits, Wake, received, transmit
from scalops.engine.processes.errors import took_too_long

GRACE_SECONDS = 1.0  # for workers to end by themselves
MACHINE = ("scalops.engine.cluster.rank_machine", "WorkerMachine")


@dataclass(frozen=True)
class LocalSettings:
    """Of a hub of this machine. Times in seconds."""

    lease: float = 10.0  # a worker that is silent for longer is lost
    heartbeat: float = 1.0  # between two signs of life
    start: float = 60.0  # that a worker may take until it greets
    task_timeout: float | None = None  # that a user's function may take for one call
    channel: ChannelSettings = field(default_factory=ChannelSettings)
    worker: Mapping[str, Any] = field(default_factory=dict)  # what its machine is told
    machine: tuple[str, str] = MACHINE  # module and class of what decides in a worker


class _Held:
    """What a hub must give back, by itself, so that it can be given back when the hub is gone."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.folder = PrivateFolder()
        self.wake = Wake()
        self.context: zmq.Context[Socket] = zmq.Context()
        self.processes: dict[str, LocalProcess] = {}

    def close(self) -> None:
        """End all. In a fork of the driver nothing: all that is the driver's."""
        if os.getpid() != self.owner:
            return
        end_all(list(self.processes.values()), GRACE_SECONDS)
        self.processes.clear()
        self.context.destroy(linger=0)
        self.wake.close()
        self.folder.remove()


class LocalHub:
    """`Hub` of worker processes that are direct children of this one.

    They end with this process, whatever ends it. What they say counts only under the random names
    they have been started with, and after they have repeated a secret.
    """

    def __init__(self, count: int, settings: LocalSettings | None = None) -> None:
        """Start `count` workers; they join while `pump` is called."""
        self._settings = settings or LocalSettings()
        self.refused: Counter[str] = Counter()
        self._session, self._token = secrets.token_hex(8), secrets.token_bytes(32)
        # Frames of whoever does not know the token are refused.
        self.channels = SharedChannels(DRIVER, self._settings.channel, self._token)
        self._held = held = _Held()
        self._end = weakref.finalize(self, held.close)
        self._socket = held.context.socket(zmq.ROUTER)
        self._socket.set_hwm(0)  # channels bound what is under way
        self._address = security.bind(
            self._socket, held.folder.address("driver"), None, security.CONTROL, None
        )
        self._waits = Waits()
        self._waits.watch(self._socket)
        self._waits.watch(held.wake.file)
        self._processes = held.processes
        self._ends: dict[int, str] = {}  # file that tells a process's end -> its worker
        self._joined: dict[str, WorkerInfo] = {}
        self._started: dict[str, float] = {}  # those that have not joined yet, and when
        self._count = 0
        self._leases = Leases(self._settings.lease, self._settings.heartbeat / 2)
        self._judge_at = 0.0
        self._events: list[HubEvent] = []
        self.ask_for(count)

    def workers(self) -> list[WorkerInfo]:
        """As of `Hub`."""
        return list(self._joined.values())

    def ask_for(self, count: int) -> int:
        """As of `Hub`; those that are being started count too."""
        self._require_owner()
        while len(self._processes) < count:
            self._start()
        return len(self._processes)

    def wake(self) -> None:
        """As of `Hub`."""
        if self._end.alive:
            self._held.wake()

    def close(self) -> None:
        """As of `Hub`; takes at most about a second."""
        self._end()
        self._joined.clear()

    def pump(self, timeout: float | None) -> list[HubEvent]:
        """As of `Hub`. Raises ExecutionError after `close`, and in a fork of its process."""
        self._require_owner()
        until = None if timeout is None else monotonic() + timeout
        self._transmit(monotonic())
        is_over = False
        while not is_over:
            woken = self._wait(until)
            now = monotonic()
            if now >= self._judge_at:
                self._judge(now)
            self._transmit(now)
            is_over = bool(self._events) or woken or (until is not None and now >= until)
        events, self._events = self._events, []
        return events

    def _require_owner(self) -> None:
        if os.getpid() != self._held.owner:
            raise ExecutionError(
                f"the workers belong to process {self._held.owner}; process {os.getpid()} is a"
                " fork of it",
                hint="make a session of its own in the fork",
            )
        if not self._end.alive:
            raise ExecutionError("the workers have been ended")

    def _start(self) -> None:
        worker = secrets.token_hex(8)
        self._count += 1
        process = LocalProcess(
            {
                "worker": worker,
                "token": self._token,
                "process": os.getpid(),
                "folder": str(self._held.folder.path),
                "driver": self._address,
                # Not the worker's name, which nobody else is to know.
                "data": self._held.folder.address(f"worker{self._count}"),
                "heartbeat": self._heartbeat(),
                "channel": vars(self._settings.channel),
                "machine": list(self._settings.machine),
                "settings": dict(self._settings.worker),
            }
        )
        self._processes[worker] = process
        self._ends[process.end] = worker
        self._waits.watch(process.end)
        self._started[worker] = monotonic()
        self.channels.open(worker)

    def _heartbeat(self) -> float:
        """Seconds between two looks that a worker takes at itself."""
        own = self._settings
        return min(own.heartbeat, (own.task_timeout or own.heartbeat) / 4)

    # One round.

    def _transmit(self, now: float) -> None:
        for worker, frames in self.channels.outgoing(now):
            if not transmit(self._socket, [worker.encode(), *frames]):
                self.refused["not sent"] += 1

    def _receive(self, now: float) -> None:
        for sender, *frames in received(self._socket, self.refused):
            worker = sender.decode("ascii", "replace")
            if worker not in self._processes:
                self.refused["stranger"] += 1
                continue
            for message in self.channels.arrived(worker, frames, now):
                self._take(worker, message)
            if worker in self.channels.broken:
                self._lose(worker, f"its messages make no sense: {self.channels.broken[worker]}")
            elif worker in self._processes:
                self._leases.heard(worker)

    def _wait(self, until: float | None) -> bool:
        """Wait for something, and take it; whether `wake` has been called."""
        at, deadline = self._judge_at, self.channels.deadline()
        if until is not None and until < at:
            at = until
        if deadline is not None and deadline < at:
            at = deadline
        there = self._waits.ready(at - monotonic())
        if self._socket in there:
            self._receive(monotonic())
        for file in self._ends.keys() & there:
            self._ended(self._ends[file])
        return self._held.wake.file in there and self._held.wake.clear()

    def _judge(self, now: float) -> None:
        self._judge_at = now + self._settings.heartbeat / 2
        for worker, at in list(self._started.items()):
            if now - at > self._settings.start:
                self._lose(worker, f"not ready {self._settings.start:g} s after its start")
        self._judge_calls()
        silent = dict(self._leases.judge(now))
        for worker, process in list(self._processes.items()):
            if worker not in silent:
                process.heard()
            elif process.has_computed():
                self._leases.heard(worker)
            elif self._leases.is_over(silent[worker]):
                self._lose(worker, f"silent for {self._settings.lease:g} s")

    def _judge_calls(self) -> None:
        """End workers whose functions take too long, where they cannot tell so themselves."""
        own = self._settings
        if own.task_timeout is None:
            return
        for worker, process in list(self._processes.items()):
            place = process.overdue(own.task_timeout + 2 * own.heartbeat)
            if place is not None:
                error = took_too_long(place.function, place.location, own.task_timeout, place.over)
                if place.partition >= 0:
                    error.add_place(f"partition {place.partition}")
                self._lose(worker, error.found, error)

    def end(self, worker: str, reason: str) -> None:
        """As of `Hub`."""
        if worker in self._processes:
            self._lose(worker, reason)

    # What becomes of workers.

    def _take(self, worker: str, message: Message) -> None:
        body = message.body
        if isinstance(body, Hello):
            self._greet(worker, body)
        elif worker not in self._joined:
            self.refused["not joined"] += 1
        elif isinstance(body, Bye):
            self._lose(worker, body.reason)
        else:
            self._events.append(Arrived(worker, message))

    def _greet(self, worker: str, hello: Hello) -> None:
        why = self._refusal(hello)
        if why is not None:
            self.refused["hello"] += 1
            self.channels.send(worker, Refused(why))
            self._transmit(monotonic())
            self._lose(worker, why)
            return
        if worker in self._joined:
            return
        self._started.pop(worker, None)
        process = self._processes[worker].pid
        if can_read_files_of(process):
            self.channels.share(worker, process)
        info = WorkerInfo(
            worker, hello.host, hello.process, hello.cores, hello.memory, hello.data, hello.key
        )
        self._joined[worker] = info
        # Its lease of the driver is the pipe: a driver that computes for an hour is no dead one.
        self.channels.send(worker, Welcome(self._session, 0.0, {}))
        self._events.append(Joined(info))

    @staticmethod
    def _refusal(hello: Hello) -> str | None:
        own = ("of this process", PROTOCOL, own_versions())
        return refusal(own, (f"process {hello.process}", hello.protocol, hello.versions))

    def _ended(self, worker: str) -> None:
        self._receive(monotonic())  # what it has said before
        if worker in self._processes:
            reason = self._processes[worker].reason() or "ended"
            self._lose(worker, reason)

    def _lose(self, worker: str, reason: str, error: ScalopsError | None = None) -> None:
        process = self._processes[worker]
        self._waits.forget(process.end)
        del self._ends[process.end]
        process.kill()
        del self._processes[worker]
        self._joined.pop(worker, None)
        self._started.pop(worker, None)
        self._leases.forget(worker)
        self.channels.drop(worker)
        self._events.append(Left(worker, reason, tuple(process.places()), error))

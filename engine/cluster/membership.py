"""Who belongs to a cluster, and whose turn it is: the broker's state machine, without I/O.

Workers and drivers say what they are; whoever is silent for a lease is gone, and its name is never
let in again. One driver is served at a time, the others wait in line. Workers end with the session
that they served, so that nothing of one driver's is left for the next, and fresh ones take their
places; the next driver's turn comes when they are there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from scalops.engine.cluster.death_places import Places
from scalops.engine.cluster.leases import Leases
from scalops.engine.cluster.messages import (
    PROTOCOL,
    Attach,
    Attached,
    Bye,
    Detach,
    Heartbeat,
    Hello,
    Left,
    Queued,
    Refused,
    Serve,
    Shutdown,
    Status,
    StatusIs,
    Stop,
    Welcome,
)
from scalops.engine.cluster.versions import refusal

LEASE = 10.0  # seconds
TURNOVER = 10.0  # seconds for fresh workers to come before the next driver's turn
_REMEMBERED = 4096  # names of those that are gone
_MOST = 1024  # workers and drivers


@dataclass(frozen=True)
class Said:
    """A peer has sent a message; `key` is its public key ("" without keys), `role` what it may do.

    `role` is driver or worker; None where there are no keys, and everybody may do all.
    """

    peer: str
    key: bytes
    role: str | None
    body: Any


@dataclass(frozen=True)
class Gone:
    """A peer cannot be listened to any more; `replaced`: its host starts another one."""

    peer: str
    reason: str
    replaced: bool = False
    places: Places = None  # where a worker's threads were


@dataclass(frozen=True)
class Tick:
    """Some time has passed: said a few times in a lease."""


@dataclass(frozen=True)
class Tell:
    """Send a message to a peer."""

    peer: str
    body: Any


@dataclass(frozen=True)
class Forget:
    """Listen to a peer no more; it is gone, or will be."""

    peer: str


@dataclass(frozen=True)
class End:
    """The broker is to end, once what has been told is sent."""

    reason: str


Event: TypeAlias = Said | Gone | Tick
Action: TypeAlias = Tell | Forget | End


@dataclass
class _Worker:
    hello: Hello
    since: float
    heard: float
    partitions: int = 0
    cached_bytes: int = 0
    session: str = ""  # that it serves


@dataclass
class _Driver:
    attach: Attach
    session: str = ""  # once it is its turn
    told: Queued | None = None  # last, of its place in line

    @property
    def shown(self) -> str:
        return f"{self.attach.driver} (process {self.attach.process} on {self.attach.host})"


class Membership:
    """The workers and drivers of a cluster."""

    def __init__(
        self,
        name: str,
        token: Callable[[], str],
        lease: float = LEASE,
        turnover: float = TURNOVER,
    ) -> None:
        """`name` is the cluster's; `token` gives names of sessions that nobody can guess."""
        self._name, self._token = name, token
        self.lease, self._turnover = lease, turnover
        self._workers: dict[str, _Worker] = {}
        self._drivers: dict[str, _Driver] = {}  # in the order in which they came
        self._served: str | None = None
        self._leases = Leases(lease, lease / 4)
        # Seconds of those that were silent for half a lease or longer at the last tick.
        self.silent: dict[str, float] = {}
        # Workers whose process somebody sees: who does says when they are lost.
        self.is_watched: Callable[[str], bool] = lambda peer: False
        self._lost: OrderedDict[str, str] = OrderedDict()
        self._due: tuple[int, float] | None = None  # workers to come before the next turn; until

    # What the relay asks.

    def heard(self, peer: str, now: float) -> None:
        """A sign of life of a peer, whatever it says and to whom."""
        if peer not in self._lost:
            self._leases.heard(peer)
            self.silent.pop(peer, None)
            if peer in self._workers:
                self._workers[peer].heard = now

    def expect(self, workers: int, until: float) -> None:
        """Serve nobody before so many workers are there, or until then."""
        self._due = workers, until

    def lost(self, peer: str) -> str | None:
        """Why a peer is gone; None where it is not."""
        return self._lost.get(peer)

    def knows(self, peer: str) -> bool:
        """Whether it is one of the workers or drivers."""
        return peer in self._workers or peer in self._drivers

    def session(self, peer: str) -> str:
        """The session that a peer takes part in, "" where it waits."""
        if peer in self._workers:
            return self._workers[peer].session
        return self._drivers[peer].session if peer in self._drivers else ""

    def route(self, sender: str, to: str) -> tuple[str, str] | None:
        """To whom frames for `to` go, and as whose; None where they go nowhere.

        A driver names a worker, which knows the driver by the name of the session.
        """
        session = self.session(sender)
        if not session:
            return None
        if sender in self._drivers:
            return (to, session) if self.session(to) == session and to in self._workers else None
        return (self._served, sender) if to == session and self._served else None

    @property
    def workers(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    # What happens.

    def handle(self, event: Event, now: float) -> list[Action]:
        """What is to be done now that this has happened."""
        match event:
            case Said():
                actions = self._said(event, now)
            case Gone(peer, reason, replaced, places):
                actions = self._end_of(peer, reason, now, replaced, places)
            case Tick():
                actions = self._judge(now)
        actions += self._next(now)
        return [*actions, *self._line()]

    def _said(self, said: Said, now: float) -> list[Action]:
        peer, body = said.peer, said.body
        if peer in self._lost:
            return []
        is_worker = isinstance(body, (Hello, Heartbeat, Bye))
        if said.role is not None and (said.role == "worker") != is_worker:
            return self._refuse(peer, f"the key is a {said.role}'s")
        match body:
            case Hello():
                return self._hello(peer, said.key, body, now)
            case Heartbeat(partitions=partitions, cached_bytes=cached) if peer in self._workers:
                worker = self._workers[peer]
                worker.partitions, worker.cached_bytes = partitions, cached
                return []
            case Bye():
                return self._bye(said, body, now)
            case Attach():
                return self._attach(peer, body)
            case Detach():
                return self._end_of(peer, "its driver left", now)
            case Status():
                return [Tell(peer, StatusIs(tuple(self._rows(now))))]
            case Stop():
                return self.stop("the cluster was stopped")
        return []

    def _refuse(self, peer: str, reason: str) -> list[Action]:
        self._bury(peer, reason)
        return [Tell(peer, Refused(reason)), Forget(peer)]

    def _bury(self, peer: str, reason: str) -> None:
        self._leases.forget(peer)
        self.silent.pop(peer, None)
        self._lost[peer] = reason
        if len(self._lost) > _REMEMBERED:
            self._lost.popitem(last=False)

    # Workers.

    def _hello(self, peer: str, key: bytes, hello: Hello, now: float) -> list[Action]:
        if peer in self._workers:
            return []
        reason = self._cannot_join(peer, key, hello)
        if reason is not None:
            return self._refuse(peer, reason)
        self._workers[peer] = worker = _Worker(hello, now, now)
        actions: list[Action] = [Tell(peer, Welcome("", self.lease, {}))]
        if self._served is not None:
            actions += self._assign(peer, worker, self._drivers[self._served])
        return actions

    def _cannot_join(self, peer: str, key: bytes, hello: Hello) -> str | None:
        if hello.protocol != PROTOCOL:
            return (
                f"the worker {peer} speaks protocol {hello.protocol}, the cluster {self._name} "
                f"protocol {PROTOCOL}; install the same version of scalops on both"
            )
        if hello.worker != peer or hello.key != key or peer in self._drivers:
            return f"{peer} says it is another worker than the one that connected"
        if len(self._workers) >= _MOST:
            return f"the cluster {self._name} has {_MOST} workers already"
        return None

    def _bye(self, said: Said, bye: Bye, now: float) -> list[Action]:
        """A worker leaves, or one who has its key has seen its end."""
        known = self._workers.get(bye.worker)
        if known is None or known.hello.key != said.key:
            return []
        return self._end_of(bye.worker, bye.reason or "it left", now, True, bye.places)

    def _assign(self, peer: str, worker: _Worker, driver: _Driver) -> list[Action]:
        """Have a worker serve the driver, if it would give the same bits."""
        attach, hello = driver.attach, worker.hello
        reason = refusal(
            (attach.driver, attach.protocol, attach.versions),
            (f"{peer} on {hello.host}", hello.protocol, hello.versions),
        )
        assert self._served is not None
        if reason is not None:
            return [Tell(self._served, Left(peer, reason))]
        worker.session = driver.session
        self._leases.heard(peer)  # no driver is given a worker that is about to be lost
        return [Tell(peer, Serve(driver.session, attach.driver))]

    # Drivers.

    def _attach(self, peer: str, attach: Attach) -> list[Action]:
        if peer in self._drivers:
            return []
        if attach.protocol != PROTOCOL:
            return self._refuse(
                peer,
                f"the driver {attach.driver} speaks protocol {attach.protocol}, the cluster "
                f"{self._name} protocol {PROTOCOL}; install the same version of scalops on both",
            )
        if peer in self._workers or len(self._drivers) >= _MOST:
            return self._refuse(peer, f"the cluster {self._name} takes no more drivers")
        self._drivers[peer] = _Driver(attach)
        return []

    def _line(self) -> list[Action]:
        """Tell those who wait which place they have, where that has changed."""
        served = "" if self._served is None else self._drivers[self._served].shown[:256]
        actions: list[Action] = []
        waiting = (name for name in self._drivers if name != self._served)
        for place, name in enumerate(waiting, 1):
            driver, told = self._drivers[name], Queued(place, served)
            if driver.told != told:
                driver.told = told
                actions.append(Tell(name, told))
        return actions

    def _next(self, now: float) -> list[Action]:
        """Serve the first in line, if nobody is served and the workers are there."""
        if self._due is not None and (len(self._workers) >= self._due[0] or now >= self._due[1]):
            self._due = None
        if self._served is not None or self._due is not None or not self._drivers:
            return []
        self._served = next(iter(self._drivers))
        driver = self._drivers[self._served]
        driver.session = self._token()
        actions: list[Action] = []
        for peer, worker in self._workers.items():
            actions += self._assign(peer, worker, driver)
        serving = [p for p, w in self._workers.items() if w.session]
        told = Tell(self._served, Attached(driver.session, tuple({"worker": p} for p in serving)))
        return [told, *actions]

    # Ends.

    def _judge(self, now: float) -> list[Action]:
        actions: list[Action] = []
        self.silent = dict(self._leases.judge(now))
        for peer, seconds in list(self.silent.items()):
            if seconds >= self.lease and not self.is_watched(peer):
                actions += self._end_of(peer, f"it was silent for {seconds:.3g} s", now)
        return actions

    def _end_of(
        self, peer: str, reason: str, now: float, replaced: bool = False, places: Places = None
    ) -> list[Action]:
        """A peer is gone, or leaves."""
        if peer in self._lost:
            return []
        self._bury(peer, reason)
        actions: list[Action] = [Forget(peer)]
        worker = self._workers.pop(peer, None)
        if worker is not None and worker.session and self._served is not None:
            actions.append(Tell(self._served, Left(peer, reason, replaced, places)))
        if self._drivers.pop(peer, None) is not None and peer == self._served:
            actions += self._end_session(peer, reason, now)
        return actions

    def _end_session(self, driver: str, reason: str, now: float) -> list[Action]:
        self._served = None
        actions: list[Action] = []
        served = [(p, w) for p, w in self._workers.items() if w.session]
        if served:
            self._due = len(self._workers), now + self._turnover
        for peer, worker in served:
            del self._workers[peer]
            self._bury(peer, "its session is over")
            actions += [Tell(peer, Detach(worker.session, f"the driver is gone: {reason}"))]
            actions.append(Forget(peer))
        return actions

    def stop(self, reason: str) -> list[Action]:
        """End the cluster: everybody is told."""
        actions: list[Action] = [Tell(peer, Shutdown(reason)) for peer in self._workers]
        actions += [Tell(peer, Refused(reason)) for peer in self._drivers]
        return [*actions, End(reason)]

    def _rows(self, now: float) -> list[dict[str, Any]]:
        return [
            {
                "worker": peer,
                "host": worker.hello.host,
                "partitions": worker.partitions,
                "cached_bytes": worker.cached_bytes,
                "last_seen": max(0.0, now - worker.heard),  # seconds ago
                "serves": ""
                if not worker.session or self._served is None
                else self._drivers[self._served].shown,
            }
            for peer, worker in self._workers.items()
        ]

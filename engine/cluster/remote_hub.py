"""The workers of a running cluster, through its broker."""

from __future__ import annotations

import getpass
import logging
import os
import secrets
import socket as sockets
import sys
import threading
import weakref
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from time import monotonic
from typing import Any

import zmq

from scalops.algebra.errors import ConfigError, ExecutionError, SecurityError
from scalops.engine.cluster import security
from scalops.engine.cluster.broker_link import BrokerLink, dealer, received
from scalops.engine.cluster.channel import Channels, ChannelSettings, Message
from scalops.engine.cluster.death_places import heard_places
from scalops.engine.cluster.hub import Arrived, HubEvent, Joined, Left, WorkerInfo
from scalops.engine.cluster.keys import KeyPair, read_secret
from scalops.engine.cluster.messages import (
    PROTOCOL,
    Attach,
    Attached,
    Bye,
    Detach,
    Hello,
    Queued,
    Refused,
    Shutdown,
    Welcome,
)
from scalops.engine.cluster.messages import Left as WorkerLeft
from scalops.engine.cluster.relay import HERE, PULSE, REVOKED
from scalops.engine.cluster.security import Socket
from scalops.engine.cluster.versions import own_versions
from scalops.engine.cluster.worker_sockets import DRIVER, Wake
from scalops.engine.progress import Place

log = logging.getLogger("scalops")
_GRACE_SECONDS = 1.0  # for the broker to hear that this driver leaves
_KNOCK_SECONDS = 1.0  # that a lost cluster has to tell whether it refuses the key
_UNANSWERED = 4  # pulses in a row, after which the broker is gone


@dataclass(frozen=True)
class RemoteSettings:
    """Of a hub of a running cluster. Times in seconds."""

    answer: float = 10.0  # that the broker may take to answer
    line: float = 60.0  # to wait until other drivers are done
    start: float = 30.0  # that the workers may take to greet
    pulse: float = 2.0  # between two signs of life
    channel: ChannelSettings = field(default_factory=ChannelSettings)


class _Pulse:
    """Tells the broker that the driver lives, from a thread: the driver may compute for long."""

    def __init__(self, own: str, socket: Socket, seconds: float, wake: Wake) -> None:
        self.lost: str | None = None
        self._own, self._socket, self._seconds = own.encode("ascii"), socket, seconds
        self._wake, self._end = wake, Wake()
        self._thread = threading.Thread(target=self._run, name="scalops-pulse", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._end()
        self._thread.join()
        self._end.close()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._end.file, zmq.POLLIN)
        unanswered, at = 0, monotonic()
        while self.lost is None:
            if monotonic() >= at:
                at = monotonic() + self._seconds
                with suppress(zmq.Again):  # refused at the door: then no answer comes
                    self._socket.send_multipart([self._own, PULSE], zmq.NOBLOCK)
                unanswered += 1
            ready = dict(poller.poll(max(0, ceil((at - monotonic()) * 1e3))))
            if self._end.file in ready:
                break
            for frames in received(self._socket, Counter()):
                unanswered = 0
                if [frame.bytes for frame in frames] != [PULSE, HERE]:
                    self.lost = "it has given this driver up"
            if unanswered > _UNANSWERED:
                self.lost = f"it has not answered for {unanswered * self._seconds:g} s"
        self._socket.close()
        if self.lost is not None:
            self._wake()


class _Held:
    """What a hub must give back, by itself, so that it can be given back when the hub is gone."""

    def __init__(self, uri: str, pair: KeyPair | None, refused: Counter[str]) -> None:
        self.owner = os.getpid()
        self.uri, self.pair = uri, pair
        self.session = ""
        self.wake = Wake()
        self.context: zmq.Context[Socket] = zmq.Context()
        self.own = "driver-" + secrets.token_hex(8)
        self.socket = self._connected()
        self.link = BrokerLink(self.own, self.socket, refused)
        self.pulse: _Pulse | None = None
        self.poller = zmq.Poller()
        self.poller.register(self.socket, zmq.POLLIN)
        self.poller.register(self.wake.file, zmq.POLLIN)

    def _connected(self) -> Socket:
        socket = dealer(self.context)
        security.connect(socket, self.uri, self.pair, self.pair.cluster if self.pair else None)
        return socket

    def start_pulse(self, seconds: float) -> None:
        if self.pulse is None:
            self.pulse = _Pulse(self.own, self._connected(), seconds, self.wake)

    def close(self) -> None:
        """Leave the cluster. In a fork of the driver nothing: all that is the driver's."""
        if os.getpid() != self.owner:
            return
        if self.pulse is not None:
            self.pulse.stop()
        until = monotonic() + _GRACE_SECONDS
        self.link.say(Detach(self.session, "its session ended"))
        self.link.flush(monotonic())
        while self.link.heard and self.link.has_words_left() and not self.link.is_gone:
            left = until - monotonic()
            if left <= 0 or not self.socket.poll(ceil(left * 1e3)):
                break
            deque(self.link.take(monotonic()), 0)
        self.context.destroy(linger=0)
        self.wake.close()


class RemoteHub:
    """`Hub` of the workers of a running cluster.

    The broker serves one driver after another: making a hub waits for its turn.
    """

    def __init__(
        self,
        uri: str,
        key_file: str | os.PathLike[str] | None = None,
        settings: RemoteSettings | None = None,
    ) -> None:
        """Attach to the cluster at `uri`; over TCP with the key pair of `key_file`.

        Raises: ConfigError where no cluster answers, it serves another driver for too long, or it
        has no worker that gives the bits of this process; SecurityError for keys.
        """
        self._settings = settings or RemoteSettings()
        self._uri, self._key_file = uri, key_file
        self.refused: Counter[str] = Counter()
        pair = None if key_file is None else read_secret(Path(key_file))
        security.require_welcome(uri, pair, key_file)
        self._held = _Held(uri, pair, self.refused)
        self._end = weakref.finalize(self, self._held.close)
        self.channels = Channels(DRIVER, self._settings.channel)
        self._joined: dict[str, WorkerInfo] = {}
        self._awaited: set[str] = set()  # assigned, and not yet heard of
        self._coming = 0  # workers that their hosts start in place of others
        self._events: list[HubEvent] = []
        self._gone: set[str] = set()
        self._unfit: list[str] = []  # why workers cannot be used
        self._ended: str | None = None
        try:
            self._attach()
            self._await_workers()
        except BaseException:
            self.close()
            raise

    def workers(self) -> list[WorkerInfo]:
        """As of `Hub`."""
        return list(self._joined.values())

    def ask_for(self, count: int) -> int:
        """As of `Hub`: hosts start others by themselves in place of those that have ended.

        Not hosts that are silent.
        """
        return len(self._joined) + len(self._awaited) + self._coming

    def end(self, worker: str, reason: str) -> None:
        """As of `Hub`: it is told to end, which the broker hears of too."""
        if worker in self._joined:
            self.channels.send(worker, Shutdown(reason))
            self._transmit(monotonic())
            self._lose(worker, reason)

    def wake(self) -> None:
        """As of `Hub`."""
        self._held.wake()

    def close(self) -> None:
        """As of `Hub`; takes at most about a second. The cluster goes on."""
        self._end()
        self._joined.clear()

    def pump(self, timeout: float | None) -> list[HubEvent]:
        """As of `Hub`. Raises ExecutionError after `close`, in a fork, and without its cluster."""
        self._require_owner()
        until = None if timeout is None else monotonic() + timeout
        self._transmit(monotonic())
        is_over = bool(self._events)
        while not is_over:
            woken = self._wait(until)
            self._require_cluster()
            now = monotonic()
            self._transmit(now)
            is_over = bool(self._events) or woken or (until is not None and now >= until)
        events, self._events = self._events, []
        return events

    def _require_owner(self) -> None:
        if os.getpid() != self._held.owner:
            raise ExecutionError(
                f"the cluster {self._uri} serves process {self._held.owner}; process"
                f" {os.getpid()} is a fork of it",
                hint="make a session of its own in the fork",
            )
        if not self._end.alive:
            raise ExecutionError(f"the session at the cluster {self._uri} has ended")

    def _require_cluster(self) -> None:
        held = self._held
        if held.pulse is not None and held.pulse.lost is not None:
            self._ended = self._ended or held.pulse.lost
        if held.link.is_gone:
            self._ended = self._ended or "it has given this driver up"
        if self._ended is None or self._events:
            return
        if self._ended != REVOKED and self._is_refused():
            self._ended = REVOKED
        if self._ended == REVOKED:
            raise SecurityError(
                f"the cluster at {self._uri} is lost: the key {self._key_file} was revoked",
                hint="its folder authorized/ has no file for this key any more",
            )
        raise ExecutionError(
            f"the cluster at {self._uri} is lost: {self._ended}",
            hint="scalops cluster status tells whether it runs, scalops cluster start starts one;"
            " then make a new session",
        )

    def _is_refused(self) -> bool:
        """Whether the key is not let in any more: who is refused at the door is told nothing."""
        pair = self._held.pair
        return pair is not None and (
            security.knock(self._uri, pair, pair.cluster, _KNOCK_SECONDS) == "refused"
        )

    # Attaching.

    def _attach(self) -> None:
        held, settings = self._held, self._settings
        shown = f"{Path(sys.argv[0]).name or 'python'} of {_user()}"
        held.link.say(
            Attach(shown[:256], PROTOCOL, dict(own_versions()), sockets.gethostname(), os.getpid())
        )
        until, waits_for = monotonic() + settings.answer, ""
        while not held.session:
            now = monotonic()
            held.link.flush(now)
            if now >= until:
                raise self._not_served(waits_for)
            self._wait(until)
            while held.link.told and not held.session:
                body = held.link.told.popleft()
                if isinstance(body, Queued):
                    if not waits_for:
                        until = now + settings.line
                    served = body.served or "nobody: fresh workers are starting"
                    waits_for = f"place {body.place} in line; it serves {served}"
                    log.warning("waiting for the cluster at %s: %s", self._uri, waits_for)
                    held.start_pulse(settings.pulse)
                self._told(body)
            self._refuse_refusal()
        held.start_pulse(settings.pulse)

    def _refuse_refusal(self) -> None:
        if self._ended is not None:
            raise ConfigError(
                f"the cluster at {self._uri} does not take this driver: {self._ended}"
            )

    def _not_served(self, waits_for: str) -> ConfigError:
        if waits_for:
            return ConfigError(
                f"the cluster at {self._uri} has not served this driver for"
                f" {self._settings.line:g} s: {waits_for}",
                hint="end the other session, or start another cluster",
            )
        return ConfigError(
            f"no cluster answers at {self._uri} within {self._settings.answer:g} s",
            hint="scalops cluster status, on its host, tells whether it runs",
        )

    def _await_workers(self) -> None:
        """Have all join that were there, so that the first job is shared among them."""
        until = monotonic() + self._settings.start
        while monotonic() < until and (self._awaited or not (self._joined or self._unfit)):
            self._transmit(monotonic())
            self._wait(until)
            self._require_cluster()
        if not self._joined:
            why = f": {'; '.join(self._unfit)}" if self._unfit else ""
            raise ConfigError(
                f"the cluster at {self._uri} has no worker for this driver{why}",
                hint="start some: scalops worker --connect URI --key FILE",
            )

    # One round.

    def _transmit(self, now: float) -> None:
        link = self._held.link
        for worker, frames in self.channels.outgoing(now):
            link.pass_on(worker, frames)
        link.flush(now)

    def _wait(self, until: float | None) -> bool:
        """Wait for something, and take it; whether `wake` has been called."""
        held = self._held
        times = [
            t for t in (until, self.channels.deadline(), held.link.deadline()) if t is not None
        ]
        wait = None if not times else max(0, ceil((min(times) - monotonic()) * 1e3))
        held.poller.poll(wait)
        woken, now = held.wake.clear(), monotonic()
        for worker, frames in held.link.take(now):
            for message in self.channels.arrived(worker, frames, now):
                self._take(worker, message)
            if worker in self.channels.broken:
                self._lose(worker, f"it talks nonsense: {self.channels.broken[worker]}")
        if held.session:
            while held.link.told:
                self._told(held.link.told.popleft())
        return woken

    def _told(self, body: Any) -> None:
        """What the broker says."""
        match body:
            case Attached(session=session, workers=workers):
                self._held.session = session
                self.channels = Channels(DRIVER, self._settings.channel, session.encode("ascii"))
                self._awaited = {str(w["worker"]) for w in workers if "worker" in w}
                for worker in self._awaited:
                    self.channels.open(worker)
            case WorkerLeft(worker=worker, reason=reason, replaced=replaced, places=places):
                self._coming += replaced
                self._lose(worker, reason, heard_places(places))
            case Refused(reason=reason):
                self._ended = reason

    def _take(self, worker: str, message: Message) -> None:
        match message.body:
            case Hello() as hello:
                self._greet(worker, hello)
            case _ if worker not in self._joined:
                self.refused["not joined"] += 1
            case Bye(reason=reason):
                self._lose(worker, reason)
            case _:
                self._events.append(Arrived(worker, message))

    def _greet(self, worker: str, hello: Hello) -> None:
        if worker in self._joined or hello.worker != worker:
            return
        info = WorkerInfo(
            worker, hello.host, hello.process, hello.cores, hello.memory, hello.data, hello.key
        )
        self._joined[worker] = info
        if worker not in self._awaited:
            self._coming = max(0, self._coming - 1)
        self._awaited.discard(worker)
        # Its lease is the broker's, which tells it when this driver is gone.
        self.channels.send(worker, Welcome(self._held.session, 0.0, {}))
        self._events.append(Joined(info))

    def _lose(self, worker: str, reason: str, places: tuple[Place, ...] | None = None) -> None:
        if worker in self._gone:
            return  # it has said so itself, and the broker has seen it
        self._gone.add(worker)
        self._awaited.discard(worker)
        if self._joined.pop(worker, None) is None:
            self._unfit.append(reason)
        self.channels.drop(worker)
        self._events.append(Left(worker, reason, places))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return str(os.geteuid())

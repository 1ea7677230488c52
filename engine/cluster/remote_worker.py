"""A worker process of a running cluster: serves one driver through the broker, then ends.

Started by `supervisor.Supervisor` as `python -m scalops.engine.cluster.remote_worker`; the first
message on its standard input tells it what it is. Its supervisor starts a fresh one in its place,
so that nothing that one driver's functions have left behind meets the next driver's.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from scalops.algebra.errors import ConfigError, SecurityError
from scalops.engine.blas import single_threaded
from scalops.engine.cluster import security
from scalops.engine.cluster.broker_link import BrokerLink, connection_name, received
from scalops.engine.cluster.channel import Channels, ChannelSettings
from scalops.engine.cluster.keys import KeyPair, read_secret
from scalops.engine.cluster.leases import Leases
from scalops.engine.cluster.messages import (
    Bye,
    Detach,
    Heartbeat,
    Hello,
    Refused,
    Serve,
    Shutdown,
    Welcome,
)
from scalops.engine.cluster.relay import BROKER
from scalops.engine.cluster.security import sender_key
from scalops.engine.cluster.worker_loop import WorkerLoop, flush
from scalops.engine.cluster.worker_process import detach_input, end_with_driver, hello, note_in
from scalops.engine.cluster.worker_sockets import DRIVER, WorkerSockets
from scalops.engine.columns import Array
from scalops.engine.processes.messages import receive

MACHINE = ("scalops.engine.cluster.rank_machine", "WorkerMachine")
_WELCOME_SECONDS = 30.0
_LAST_WORDS_SECONDS = 1.0
# Exit codes: not let in, and never to be; the cluster was stopped; no cluster has answered.
REFUSED, STOPPED, UNANSWERED = 3, 4, 5


class Ended(Exception):
    """The broker has nothing more for this process to do."""

    code = 0  # to exit with


class Stopped(Ended):
    """Nor for any other: the cluster ends."""

    code = STOPPED


class Dismissed(Ended):
    """Nor for any other with this key."""

    code = REFUSED


class Refusal(ConfigError):
    """The cluster does not take this worker, nor would it another one of this host."""


class BrokerSockets(WorkerSockets):
    """Sockets to the driver through the broker, and to other workers, whose keys are checked."""

    def __init__(self, own: str, broker: str, data: str, pair: KeyPair | None) -> None:
        """`broker` and `data` are addresses. Raises: SecurityError, ConfigError."""
        self._known: dict[str, bytes] | None = None
        super().__init__(
            own,
            broker,
            data,
            pair=pair,
            server=None if pair is None else pair.cluster,
            admits=None if pair is None else self._admits,
        )
        self._known = {}  # from now on who is not known may be so soon
        self.link = BrokerLink(own, self._control, self.refused)
        self.session = ""
        self.held = (0, 0)  # partitions and bytes, for the broker's table
        self._broker_lease: Leases | None = None
        self._beat_at = 0.0

    def _name(self) -> bytes:
        return connection_name()

    def _admits(self, public: bytes) -> bool | None:
        known = self._known
        if known is None:
            return False
        return True if public in known.values() else None

    def meet(self, others: Mapping[str, tuple[str, bytes]]) -> None:
        """As of `WorkerSockets`; those whose keys are named are let in."""
        self._known = {name: key for name, (_, key) in others.items()}
        if self._zap is not None:
            self._zap.look_again()
        super().meet(others)

    def received(self) -> Iterator[tuple[str, Sequence[bytes | memoryview]]]:
        """As of `WorkerSockets`. Raises Ended where the broker says so."""
        now = monotonic()
        for session, frames in self.link.take(now):
            if session == self.session:
                yield DRIVER, frames
        yield from self._from_workers()
        self._obey()
        self._beat(now)

    def _from_workers(self) -> Iterator[tuple[str, Sequence[bytes | memoryview]]]:
        known = self._known or {}
        for frames in received(self._data, self.refused):
            sender = frames[0].bytes.decode("ascii", "replace")
            if sender in known and sender_key(frames[0]) == known[sender]:
                yield sender, [frame.buffer for frame in frames[1:]]
            else:
                self.refused["stranger"] += 1

    def _obey(self) -> None:
        if self.link.is_gone:
            raise Ended("the broker has given this worker up")
        while self.link.told:
            match self.link.told.popleft():
                case Welcome(lease=lease):
                    self._broker_lease = Leases(lease, lease / 4)
                    self._broker_lease.heard(BROKER)
                case Serve(session=session):
                    self.session = session
                case Detach(reason=reason):
                    raise Ended(reason)
                case Shutdown(reason=reason):
                    raise Stopped(reason)
                case Refused(reason=reason) if self.is_welcome:
                    raise Dismissed(reason)
                case Refused(reason=reason):
                    raise Refusal(f"the cluster does not take this worker: {reason}")

    @property
    def is_welcome(self) -> bool:
        """Whether the broker has taken this worker."""
        return self._broker_lease is not None

    def _beat(self, now: float) -> None:
        """Tell the broker that this worker lives, and judge whether the broker does."""
        if self._broker_lease is not None and self.link.heard:
            self._broker_lease.heard(BROKER)
            self.link.heard = False
        if self._broker_lease is not None and now >= self._beat_at:
            self._beat_at = now + self._broker_lease.lease / 4
            partitions, cached = self.held
            self.link.say(Heartbeat(self._own, 0, 0, -1, cached, partitions))
            for _, seconds in self._broker_lease.judge(now):
                if seconds >= self._broker_lease.lease:
                    raise Ended(f"no word from the broker for {seconds:g} s")
        if self._zap is not None:
            self._zap.require_alive()
        self.link.flush(now)

    def transmit(self, peer: str, frames: Sequence[bytes | memoryview]) -> None:
        """As of `WorkerSockets`."""
        if peer == DRIVER:
            self.link.pass_on(self.session, frames)
        else:
            super().transmit(peer, frames)

    def wait(self, seconds: float | None) -> None:
        """As of `WorkerSockets`; no longer than the broker can wait."""
        self.link.flush(monotonic())
        deadlines = [self.link.deadline(), self._beat_at if self.is_welcome else None]
        waits = [max(0.0, at - monotonic()) for at in deadlines if at is not None]
        super().wait(min([*waits, *([] if seconds is None else [seconds])], default=None))

    def join(self, greeting: Hello) -> None:
        """Say hello to the broker, and wait for a driver to serve.

        Raises: Ended; ConfigError where the broker does not take this worker, or no answer comes.
        """
        self.link.say(greeting)
        until = monotonic() + _WELCOME_SECONDS
        while not self.session:
            self.wait(None if self.is_welcome else max(0.0, until - monotonic()))
            for _ in self.received():
                pass  # of a session that is not this worker's
            if not self.is_welcome and monotonic() >= until:
                raise ConfigError(f"the cluster did not answer for {_WELCOME_SECONDS:g} s")

    def leave(self, reason: str) -> None:
        """Tell the broker that this worker ends, and wait a little until it has heard."""
        self.link.say(Bye(self._own, reason))
        until = monotonic() + _LAST_WORDS_SECONDS
        while self.link.has_words_left() and not self.link.is_gone and monotonic() < until:
            super().wait(min(0.05, until - monotonic()))
            deque(self.link.take(monotonic()), 0)
            self.link.flush(monotonic())


class _WatchedChannels(Channels):
    """Channels whose heartbeats tell the broker, too, what the worker holds."""

    sockets: BrokerSockets

    def send(self, peer: str, body: Any, buffers: Sequence[Array] = ()) -> None:
        """As of `Channels`."""
        if isinstance(body, Heartbeat):
            self.sockets.held = body.partitions, body.cached_bytes
        super().send(peer, body, buffers)


def serve(told: Mapping[str, Any]) -> int:
    """Work for the next driver of a cluster; the exit code.

    Raises: ConfigError, SecurityError.
    """
    pair = None if told["key"] is None else read_secret(Path(told["key"]))
    security.require_welcome(told["broker"], pair, told["key"])
    sockets = BrokerSockets(told["worker"], told["broker"], told["data"], pair)
    try:
        return _serve_with(sockets, told, b"" if pair is None else pair.public)
    finally:
        sockets.close()


def _serve_with(sockets: BrokerSockets, told: Mapping[str, Any], key: bytes) -> int:
    try:
        greeting = hello(told["worker"], sockets.data, key)
        sockets.join(greeting)
        module, name = told["machine"]
        machine = getattr(importlib.import_module(module), name)(told["worker"], told["settings"])
        token = sockets.session.encode("ascii")
        channels = _WatchedChannels(told["worker"], ChannelSettings(), token)
        channels.sockets = sockets
        loop = WorkerLoop(greeting, sockets, channels, machine, told["heartbeat"])
        gc.collect()
        gc.freeze()  # what has been imported stays
        with np.errstate(all="ignore"), single_threaded():
            end = loop.run()
        code, reason = end.code, end.reason
    except Ended as ended:
        code, reason = ended.code, str(ended)
        if code == REFUSED:
            print(f"SecurityError: this worker is dismissed: {reason}", file=sys.stderr)
    sockets.leave(reason)
    return code


def main() -> None:
    """Serve until the driver, the broker or the supervisor goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    file = detach_input()
    told = receive(file).header
    end_with_driver(file, told["process"], told["folder"])
    note_in(told["notes"])
    sys.path[:] = told["path"]
    try:
        code = serve(told)
    except (ConfigError, SecurityError) as error:
        is_final = isinstance(error, (Refusal, SecurityError))
        kind = "ConfigError" if isinstance(error, ConfigError) else "SecurityError"
        print(f"{kind}: {error}", file=sys.stderr)
        code = REFUSED if is_final else UNANSWERED
    flush()
    # Whatever still computes is not waited for.
    os._exit(code)


if __name__ == "__main__":
    main()

"""A broker's relay for tests, turned in the test's thread or in one of its own."""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import zmq

from scalops.engine.cluster import security
from scalops.engine.cluster.broker_link import BrokerLink, dealer
from scalops.engine.cluster.keys import KeyPair, create_keys, read_secret
from scalops.engine.cluster.messages import PROTOCOL, Attach, Hello, Welcome
from scalops.engine.cluster.relay import Relay
from scalops.engine.cluster.security import Socket

SECONDS = 20.0  # after which a test has failed


@dataclass(frozen=True)
class Keys:
    """A folder of keys with a broker, a driver and a worker."""

    folder: Path

    def secret(self, name: str) -> Path:
        return self.folder / f"{name}.secret"

    def pair(self, name: str) -> KeyPair:
        return read_secret(self.secret(name))

    def authorized(self, name: str, role: str) -> Path:
        return self.folder / "authorized" / f"{name}.{role}"


def made_keys(folder: Path) -> Keys:
    """Keys of a cluster: broker, driver, worker."""
    for name in ("broker", "driver", "worker"):
        create_keys(folder, name, name)
    return Keys(folder)


@contextmanager
def tcp_relay(keys: Keys, **settings: Any) -> Iterator[Relay]:
    """A relay over TCP that is turned by the test."""
    relay = Relay("tcp://127.0.0.1:*", keys.pair("broker"), keys.folder, **settings)
    try:
        yield relay
    finally:
        relay.close()


@contextmanager
def ipc_relay(folder: Path, **settings: Any) -> Iterator[Relay]:
    """A relay of this host that is turned by the test."""
    relay = Relay(f"ipc://{folder / 'broker'}", None, None, **settings)
    try:
        yield relay
    finally:
        relay.close()


@contextmanager
def turned(relay: Relay) -> Iterator[None]:
    """Turn a relay in a thread of its own."""
    ended = threading.Event()

    def turn() -> None:
        while not ended.is_set():
            relay.socket.poll(min(20, round(relay.seconds() * 1e3)))
            relay.turn()

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Peer:
    """Somebody who talks to a relay, as a worker or driver does."""

    def __init__(self, relay: Relay, pair: KeyPair | None = None, name: str | None = None) -> None:
        self.name = name or f"peer-{secrets.token_hex(8)}"
        self.relay, self.pair = relay, pair
        self.refused: Counter[str] = Counter()
        self.context: zmq.Context[Socket] = zmq.Context()
        self.socket = dealer(self.context)
        security.connect(self.socket, relay.address, pair, pair.cluster if pair else None)
        self.link = BrokerLink(self.name, self.socket, self.refused)
        self.told: list[Any] = []
        self.relayed: list[tuple[str, list[bytes]]] = []

    def hello(self, **changed: Any) -> Hello:
        """How it introduces itself as a worker."""
        given: dict[str, Any] = {
            "worker": self.name,
            "protocol": PROTOCOL,
            "versions": {"numpy": "1"},
            "host": "h",
            "process": 1,
            "cores": 1,
            "memory": 1,
            "data": "tcp://h:1",
            "key": self.pair.public if self.pair else b"",
            "attempt": 1,
        }
        return Hello(**{**given, **changed})

    def attach(self, **changed: Any) -> Attach:
        """How it introduces itself as a driver."""
        given: dict[str, Any] = {
            "driver": self.name,
            "protocol": PROTOCOL,
            "versions": {"numpy": "1"},
            "host": "h",
            "process": 1,
        }
        return Attach(**{**given, **changed})

    def turn(self) -> None:
        """Send and take what there is, and turn the relay."""
        self.link.flush(monotonic())
        self.relay.turn()
        for sender, frames in self.link.take(monotonic()):
            self.relayed.append((sender, [bytes(frame) for frame in frames]))
        self.told.extend(self.link.told)
        self.link.told.clear()

    def until(self, done: Callable[[], bool]) -> None:
        """Turn until something is so."""
        deadline = monotonic() + SECONDS
        while not done():
            assert monotonic() < deadline, f"told {self.told}, refused {self.relay.refused}"
            self.turn()
            self.socket.poll(1)

    def expect(self, kind: type) -> Any:
        """The next message of a class."""
        self.until(lambda: any(isinstance(body, kind) for body in self.told))
        body = next(body for body in self.told if isinstance(body, kind))
        self.told.remove(body)
        return body

    def join(self) -> None:
        """Be a worker of the relay."""
        self.link.say(self.hello())
        self.expect(Welcome)

    def close(self) -> None:
        self.context.destroy(linger=0)


@contextmanager
def peer(relay: Relay, pair: KeyPair | None = None, name: str | None = None) -> Iterator[Peer]:
    """Somebody who talks to a relay."""
    made = Peer(relay, pair, name)
    try:
        yield made
    finally:
        made.close()


def require_service(relay: Relay, pair: KeyPair | None) -> None:
    """The relay lives: it answers a worker that is let in."""
    with peer(relay, pair) as worker:
        worker.join()

"""A TCP proxy for tests that cuts connections, or holds them up."""

from __future__ import annotations

import random
import selectors
import socket as sockets
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic

_RESET = struct.pack("ii", 1, 0)  # of SO_LINGER: to close is to reset
_CHUNK = 1 << 14


@dataclass(frozen=True)
class Link:
    """What a proxy does to its connections.

    `resets`: how many it resets in all, each after so many bytes, `shortest` to `longest`, of both
    directions; the handshake of CURVE takes less than `shortest`. `seconds` is how long each
    direction holds up what passes, `bytes_per_second` how much of it passes.
    """

    seed: int = 0
    resets: int = 0
    shortest: int = 4_000
    longest: int = 100_000
    seconds: float = 0.0
    bytes_per_second: float = float("inf")


@dataclass
class _Way:
    """One direction of a connection."""

    to: sockets.socket
    held: list[tuple[float, bytes]] = field(default_factory=list)  # when each is to be passed on
    free_at: float = 0.0  # when the link has passed on what has come so far


@dataclass
class _Connection:
    ends: tuple[sockets.socket, sockets.socket]
    left: float  # bytes until it is reset


class Proxy:
    """Listens at `address`, and passes on what comes to `target`; `resets` counts."""

    def __init__(self, target: str, link: Link) -> None:
        """`target` as tcp://host:port."""
        host, _, port = target.removeprefix("tcp://").rpartition(":")
        self._target, self._link = (host, int(port)), link
        self._random = random.Random(link.seed)
        self.resets = 0
        self._listener = sockets.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._ways: dict[sockets.socket, _Way] = {}
        self._of: dict[sockets.socket, _Connection] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._ended, self._end = sockets.socketpair()
        self._selector.register(self._ended, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="proxy")
        self._thread.start()

    def close(self) -> None:
        """End it, and its connections."""
        self._end.close()
        self._thread.join()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select(self._wait()):
                if key.fileobj is self._ended:
                    self._close_all()
                    return
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj in self._ways:
                    assert isinstance(key.fileobj, sockets.socket)
                    self._read(key.fileobj)
            now = monotonic()
            for way in list(self._ways.values()):
                self._pass_on(way, now)

    def _wait(self) -> float | None:
        due = [way.held[0][0] for way in self._ways.values() if way.held]
        return max(0.0, min(due) - monotonic()) if due else None

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = sockets.create_connection(self._target, 10.0)
        except OSError:  # who is behind is gone
            near.close()
            return
        may_reset = self.resets < self._link.resets
        left = self._random.randint(self._link.shortest, self._link.longest)
        connection = _Connection((near, far), left if may_reset else float("inf"))
        for own, other in ((near, far), (far, near)):
            own.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
            self._ways[own], self._of[own] = _Way(other), connection
            self._selector.register(own, selectors.EVENT_READ)

    def _read(self, own: sockets.socket) -> None:
        connection, way = self._of[own], self._ways[own]
        try:
            data = own.recv(_CHUNK)
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
            return
        connection.left -= len(data)
        if connection.left < 0 and self.resets < self._link.resets:
            self.resets += 1
            for end in connection.ends:
                end.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, _RESET)
            self._drop(connection)
            return
        way.free_at = max(way.free_at, monotonic()) + len(data) / self._link.bytes_per_second
        way.held.append((way.free_at + self._link.seconds, data))

    def _pass_on(self, way: _Way, now: float) -> None:
        while way.held and way.held[0][0] <= now:
            _, data = way.held.pop(0)
            try:
                way.to.sendall(data)
            except OSError:
                if way.to in self._of:
                    self._drop(self._of[way.to])
                return

    def _drop(self, connection: _Connection) -> None:
        for end in connection.ends:
            if self._ways.pop(end, None) is not None:
                self._selector.unregister(end)
                del self._of[end]
            end.close()

    def _close_all(self) -> None:
        for connection in list(self._of.values()):
            with suppress(KeyError):  # dropped by its other end
                self._drop(connection)
        for socket in (self._listener, self._ended):
            socket.close()
        self._selector.close()


@contextmanager
def proxy(target: str, link: Link) -> Iterator[Proxy]:
    """A proxy, while it is used."""
    made = Proxy(target, link)
    try:
        yield made
    finally:
        made.close()

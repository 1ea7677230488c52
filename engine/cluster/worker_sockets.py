"""A worker's sockets: one to the driver, one that others write to, one to each other worker."""

from __future__ import annotations

import os
import select
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import cast

import zmq

from scalops.engine.cluster import security
from scalops.engine.cluster.keys import KeyPair
from scalops.engine.cluster.security import Admits, Authenticator, Socket

DRIVER = "driver"
MAX_PARTS = security.MAX_PARTS
# As plain numbers: the enumerations take a microsecond each time.
_NOBLOCK, _MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)
_RCVMORE = int(zmq.RCVMORE)


class Wake:
    """Ends a wait, from another thread or a signal handler."""

    def __init__(self) -> None:
        self.file = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __call__(self) -> None:
        os.eventfd_write(self.file, 1)

    def clear(self) -> bool:
        """Forget the calls so far; whether there were any."""
        try:
            return os.eventfd_read(self.file) > 0
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self.file)


def has_some(socket: Socket) -> bool:
    """Whether a message can be received."""
    return bool(cast(int, socket.get(_EVENTS)) & _POLLIN)


def received(socket: Socket, refused: Counter[str]) -> Iterator[list[bytes]]:
    """The messages that are there; those of too many frames are counted."""
    is_over = False
    while not is_over:
        try:
            frames = [socket.recv(_NOBLOCK)]
        except zmq.Again:
            return
        while socket.get(_RCVMORE):  # as recv_multipart does, in half of the time
            frames.append(socket.recv(_NOBLOCK))
        if len(frames) > MAX_PARTS:
            refused["too many frames"] += 1
        else:
            yield frames
        is_over = not has_some(socket)  # quicker than to try and fail


def transmit(socket: Socket, frames: Sequence[bytes | memoryview]) -> bool:
    """Send a message at once; False where nobody is there to take it."""
    # Large frames are not copied: whoever made them keeps them until they are acknowledged.
    last = frames[-1]
    copies = len(last) < zmq.COPY_THRESHOLD
    try:
        for part in frames[:-1]:
            socket.send(part, _MORE, copies)
        socket.send(last, _NOBLOCK, copies)
    except zmq.ZMQError:
        return False
    return True


class Waits:
    """Sockets and files that have something by and by.

    Quicker than ZeroMQ's own poller, which asks the system twice each time.
    """

    def __init__(self) -> None:
        self._poll = select.poll()
        self._sockets: dict[int, Socket] = {}

    def watch(self, what: Socket | int) -> None:
        """Wait for this socket or file, too."""
        file = what
        if not isinstance(what, int):
            file = cast(int, what.getsockopt(zmq.FD))
            self._sockets[file] = what
        self._poll.register(file, select.POLLIN)

    def forget(self, file: int) -> None:
        """Do not wait for this file any more."""
        self._poll.unregister(file)

    def ready(self, seconds: float | None) -> set[Socket | int]:
        """Those that have something, after at most so long a wait; perhaps none before its end."""
        # A socket's file tells only of what is new since its last use: what is there already, the
        # socket alone knows.
        found: set[Socket | int] = {s for s in self._sockets.values() if has_some(s)}
        most = None if seconds is None else max(0, ceil(seconds * 1e3))
        for file, _ in self._poll.poll(0 if found else most):
            socket = self._sockets.get(file)
            if socket is None:
                found.add(file)
            elif socket not in found and has_some(socket):
                found.add(socket)
        return found


class WorkerSockets:
    """All sockets of a worker; one thread uses them, but for `wake`."""

    def __init__(
        self,
        own: str,
        driver: str,
        data: str,
        *,
        pair: KeyPair | None = None,
        server: bytes | None = None,
        admits: Admits | None = None,
    ) -> None:
        """`driver` and `data` are addresses: where to find the driver, where to be found.

        `pair` and `server` as of `security.connect`; `admits` tells whose keys are let in over TCP.
        """
        self.refused: Counter[str] = Counter()  # what was thrown away unread, by reason
        self._own, self._pair = own, pair
        self._context: zmq.Context[Socket] = zmq.Context()
        self._zap: Authenticator | None = None
        if admits is not None:
            self._zap = Authenticator(self._context, {security.DATA: admits})
        self._data = self._made(zmq.ROUTER)
        self.data = security.bind(self._data, data, pair, security.DATA, self._zap)
        self._control = self._made(zmq.DEALER, self._name())
        security.connect(self._control, driver, pair, server)
        self._others: dict[str, Socket] = {}
        self.wake = Wake()
        self._ready: set[Socket | int] = set()
        self._waits = Waits()
        for what in (self._control, self._data, self.wake.file):
            self._waits.watch(what)

    def _name(self) -> bytes:
        """Under which name the control connection is known to the other end."""
        return self._own.encode()

    def _made(self, kind: int, name: bytes = b"") -> Socket:
        socket = self._context.socket(kind)
        # Channels bound what is under way; here nothing ever waits for room.
        socket.set_hwm(0)
        if name:
            socket.setsockopt(zmq.IDENTITY, name)
        return socket

    def meet(self, others: Mapping[str, tuple[str, bytes]]) -> None:
        """Connect to these workers, at their addresses, with their keys; leave all others."""
        for name in [n for n in self._others if n not in others]:
            self._others.pop(name).close()
        for name, (address, key) in others.items():
            if name not in self._others:
                socket = self._made(zmq.DEALER, self._own.encode())
                security.connect(socket, address, self._pair, key or None)
                self._others[name] = socket

    def received(self) -> Iterator[tuple[str, Sequence[bytes | memoryview]]]:
        """What was there when the last `wait` ended: the sender and its frames."""
        if self._control in self._ready:
            for frames in received(self._control, self.refused):
                yield DRIVER, frames
        if self._data in self._ready:
            for sender, *frames in received(self._data, self.refused):
                yield sender.decode("ascii", "replace"), frames

    def transmit(self, peer: str, frames: Sequence[bytes | memoryview]) -> None:
        """Send frames; lost where the peer is not there."""
        socket = self._control if peer == DRIVER else self._others.get(peer)
        if socket is None or not transmit(socket, frames):
            self.refused["not sent"] += 1

    def wait(self, seconds: float | None) -> None:
        """Until something is there, `wake` is called, or the time is over; or a little less."""
        self._ready = self._waits.ready(seconds)
        if self.wake.file in self._ready:
            self.wake.clear()

    def close(self, seconds: float = 0.0) -> None:
        """Close all; what has not been sent after so long is lost."""
        if self._zap is not None:
            self._zap.stop()
        self._context.destroy(linger=round(seconds * 1e3))
        self.wake.close()

"""What a worker or driver has to do with its broker, over one socket: see `relay`."""

from __future__ import annotations

import secrets
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

import zmq

from scalops.engine.cluster.channel import Channels, ChannelSettings
from scalops.engine.cluster.relay import BROKER, CHANNEL, GONE, PULSE
from scalops.engine.cluster.security import Socket, receive
from scalops.engine.cluster.worker_sockets import transmit


class BrokerLink:
    """The broker's messages to a peer, and others' frames on their way through it."""

    def __init__(
        self,
        own: str,
        socket: Socket,
        refused: Counter[str],
        channel: ChannelSettings = CHANNEL,
    ) -> None:
        """`refused` counts what is thrown away, by reason."""
        self.told: deque[Any] = deque()  # what the broker has said, not yet taken
        self.heard = False  # whether something has come; who asks sets it back
        self.is_gone = False  # the broker knows this peer no more
        self._own, self._socket, self._refused = own.encode("ascii"), socket, refused
        self._channels = Channels(own, channel)

    def say(self, body: Any) -> None:
        """Queue a message to the broker."""
        self._channels.send(BROKER, body)

    def take(self, now: float) -> Iterator[tuple[str, list[memoryview]]]:
        """Take what has come: what the broker says is in `told`; others' frames, by sender."""
        for frames in received(self._socket, self._refused):
            sender, rest = frames[0].bytes, [frame.buffer for frame in frames[1:]]
            self.heard = True
            if sender == PULSE:
                self.is_gone |= rest == [GONE]
            elif sender:
                yield sender.decode("ascii", "replace"), rest
            else:
                messages = self._channels.arrived(BROKER, rest, now)
                self.told.extend(message.body for message in messages)

    def flush(self, now: float) -> None:
        """Send what is to be sent to the broker."""
        for _, frames in self._channels.outgoing(now):
            self._send([self._own, b"", *frames])

    def pass_on(self, to: str, frames: Sequence[bytes | memoryview]) -> None:
        """Send frames to a peer that the broker knows by this name."""
        self._send([self._own, to.encode("ascii"), *frames])

    def _send(self, frames: Sequence[bytes | memoryview]) -> None:
        if not transmit(self._socket, frames):
            self._refused["not sent"] += 1

    def deadline(self) -> float | None:
        """When `flush` has something next, if nothing else happens."""
        return self._channels.deadline()

    def has_words_left(self) -> bool:
        """Whether something that was said has not arrived."""
        return self._channels.waiting_bytes(BROKER) > 0


def received(socket: Socket, refused: Counter[str]) -> Iterator[list[zmq.Frame]]:
    """The messages that are there, not copied; those of too many frames are counted."""
    while True:
        try:
            frames = receive(socket)
        except zmq.Again:
            return
        if frames is None:
            refused["too many frames"] += 1
        else:
            yield frames


def connection_name() -> bytes:
    """A name for a connection to a broker that nobody can guess, so that none can take it over."""
    return b"\x01" + secrets.token_bytes(15)


def dealer(context: zmq.Context[Socket]) -> Socket:
    """A socket for a link."""
    socket = context.socket(zmq.DEALER)
    socket.set_hwm(0)  # channels bound what is under way
    socket.setsockopt(zmq.IDENTITY, connection_name())
    return socket

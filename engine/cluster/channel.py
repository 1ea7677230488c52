"""Channels: each message arrives once, in order and whole, over frames that may not.

Frames may be lost, doubled, reordered, delayed, damaged or cut short. There is no I/O and no
clock here: who owns the sockets hands in what came and the time (any clock that only grows),
and transmits what it is given. A channel is between two endpoints by name; a name is used for
one life of an endpoint only.

Arrays that are sent are not copied when they are large: they must not change until they are
acknowledged, which is when `waiting_bytes` has fallen by their size.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from scalops.algebra.errors import OutOfMemoryError
from scalops.engine.cluster.frames import (
    MAGIC,
    Frames,
    Header,
    Part,
    RefusedFrame,
    header_part,
    mark_of,
    read_frame,
)
from scalops.engine.cluster.inbox import Inbox, Message, check_sizes
from scalops.engine.cluster.messages import MalformedMessage, encode
from scalops.engine.cluster.outbox import Outbox
from scalops.engine.cluster.settings import ChannelSettings
from scalops.engine.columns import Array

__all__ = ["Channel", "ChannelSettings", "Channels", "Frames", "Message"]

# An acknowledgement waits for company no longer than until so much of the window has come.
ACK_SHARE = 8


class Channel:
    """One endpoint's side of what passes between it and a peer."""

    def __init__(self, own_mark: int, peer_mark: int, settings: ChannelSettings) -> None:
        self._own_mark, self._peer_mark = own_mark, peer_mark
        self._settings = settings
        self._inbox, self._outbox = Inbox(settings), Outbox(settings)
        self._ack_at = math.inf
        self._bytes_since_ack = self._frames_since_ack = 0
        self._most_bytes_since_ack = settings.window_bytes / ACK_SHARE
        self._most_frames_since_ack = settings.window_frames / ACK_SHARE
        self.broken: str | None = None

    def send(self, body: Any, buffers: Sequence[Array]) -> None:
        """Queue a message; MalformedMessage where it is none, or too large."""
        self.add(*encoded(body, buffers, self._settings))

    def add(self, envelope: bytes, views: Sequence[memoryview]) -> None:
        """Queue what `encoded` gives."""
        self._outbox.add(envelope, views)

    def arrived(self, header: Header, pieces: list[memoryview], now: float) -> list[Message]:
        """Take a frame of the peer; the messages that are complete now.

        Raises: RefusedFrame where it is not one of this channel, or was taken before.
        """
        if header.source != self._peer_mark or header.target != self._own_mark:
            raise RefusedFrame("foreign")
        if self.broken is not None:
            raise RefusedFrame("broken")
        if not self._outbox.acknowledged(header.ack, header.heard, header.held, now):
            raise RefusedFrame("senseless")
        if not header.sequence:
            return []
        try:
            messages = self._inbox.take(header, pieces)
        except (MalformedMessage, OutOfMemoryError) as error:
            self.broken = str(error)
            raise RefusedFrame("malformed") from error
        except RefusedFrame:
            self._ack_at = -math.inf  # the peer does not know what has arrived
            raise
        self._plan_ack(header, pieces, now)
        return messages

    def _plan_ack(self, header: Header, pieces: list[memoryview], now: float) -> None:
        self._frames_since_ack += 1
        for piece in pieces:
            self._bytes_since_ack += len(piece)
        if (
            self._inbox.has_gap
            or self._bytes_since_ack >= self._most_bytes_since_ack
            or self._frames_since_ack >= self._most_frames_since_ack
        ):
            self._ack_at = -math.inf
        elif self._ack_at == math.inf:
            self._ack_at = now + self._settings.ack_seconds

    def outgoing(self, now: float) -> list[Frames]:
        """What is to be transmitted now."""
        frames = self._outbox.ready(now)
        if not frames and now < self._ack_at:
            return []
        inbox = self._inbox
        state = inbox.ack, inbox.heard, inbox.held if inbox.has_gap else 0
        self._ack_at = math.inf
        self._frames_since_ack = self._bytes_since_ack = 0
        marks = self._own_mark, self._peer_mark
        if not frames:
            return [[header_part((MAGIC, 0, *marks, 0, 0, *state, 0, 0))]]
        return [
            [
                header_part(
                    (
                        MAGIC,
                        frame.envelope,
                        *marks,
                        frame.sequence,
                        frame.number,
                        *state,
                        frame.part_bytes,
                        frame.checksum,
                    ),
                    frame.payload,
                ),
                *frame.parts,
            ]
            for frame in frames
        ]

    @property
    def waiting_bytes(self) -> int:
        """Bytes that are queued, or not acknowledged yet."""
        return self._outbox.waiting_bytes

    @property
    def deadline(self) -> float:
        """When `outgoing` has something next, if nothing else happens; infinite for never."""
        if self._outbox.has_ready:
            return -math.inf
        return min(self._ack_at, self._outbox.retransmit_at)


def encoded(
    body: Any, buffers: Sequence[Array], settings: ChannelSettings
) -> tuple[bytes, Sequence[memoryview]]:
    """A message's envelope and the bytes of its buffers.

    Raises: MalformedMessage where it is none, or too large.
    """
    if not buffers:
        return encode(body), ()
    views = [_bytes_of(buffer) for buffer in buffers]
    sizes = [len(view) for view in views]
    check_sizes(sizes, settings)
    return encode(body, sizes), [view for view in views if len(view)]


def _bytes_of(buffer: Array) -> memoryview:
    """An array's bytes; a copy where they do not lie one after the other."""
    if buffer.dtype != np.uint8 or buffer.ndim != 1 or not buffer.flags.c_contiguous:
        buffer = np.ascontiguousarray(buffer).reshape(-1).view(np.uint8)
    return buffer.data


class Channels:
    """All channels of one endpoint.

    `token` is what both ends know of their session and no earlier session did: a frame recorded
    in another session is refused even where names are the same.
    """

    def __init__(self, own: str, settings: ChannelSettings, token: bytes = b"") -> None:
        self._settings, self._token = settings, token
        self._own_mark = mark_of(own, token)
        self._channels: dict[str, Channel] = {}
        self._dropped: set[str] = set()
        self._ready: dict[str, Channel] = {}  # may have something to transmit at once
        self._next_look = math.inf  # no channel's time comes earlier
        self.refused: Counter[str] = Counter()
        self.broken: dict[str, str] = {}

    def open(self, peer: str) -> None:
        """Expect a peer, unless it has been dropped; also done by its first frame, or to it."""
        self._channel(peer)

    def drop(self, peer: str) -> None:
        """Forget a peer for ever: what it sends is refused, what is for it is thrown away."""
        self._dropped.add(peer)
        for known in (self._channels, self._ready, self.broken):
            known.pop(peer, None)

    def _channel(self, peer: str) -> Channel | None:
        channel = self._channels.get(peer)
        if channel is None and peer not in self._dropped:
            channel = Channel(self._own_mark, mark_of(peer, self._token), self._settings)
            self._channels[peer] = channel
        return channel

    def send(self, peer: str, body: Any, buffers: Sequence[Array] = ()) -> None:
        """Queue a message; never blocks. To a dropped peer: nothing happens.

        Raises: MalformedMessage where `body` is no message, or it is too large.
        """
        channel = self._channel(peer)
        if channel is not None:
            channel.send(body, buffers)
            self._ready[peer] = channel

    def send_all(self, peers: Sequence[str], body: Any, buffers: Sequence[Array] = ()) -> None:
        """Queue a message to each of these peers, encoded once. Raises as `send`."""
        parts = encoded(body, buffers, self._settings)
        for peer in peers:
            channel = self._channel(peer)
            if channel is not None:
                channel.add(*parts)
                self._ready[peer] = channel

    def arrived(self, peer: str, frames: Sequence[Part], now: float) -> list[Message]:
        """Take a frame of `peer`; the messages that are complete now, in order, each once.

        A frame that is damaged, foreign, too large, senseless or known is counted in `refused`
        and dropped. A peer whose frames are sound but whose messages are not is `broken`.
        """
        try:
            header, pieces = read_frame(frames, self._settings.frame_bytes)
            channel = self._listened_to(peer, header)
        except RefusedFrame as error:
            self.refused[str(error)] += 1
            return []
        try:
            messages = channel.arrived(header, pieces, now)
        except RefusedFrame as error:
            messages = []
            self.refused[str(error)] += 1
            if channel.broken is not None:
                self.broken[peer] = channel.broken
        self._note(peer, channel)
        return messages

    def _listened_to(self, peer: str, header: Header) -> Channel:
        found = self._channels.get(peer)
        if found is not None:
            return found
        if peer in self._dropped:
            raise RefusedFrame("dropped")
        if header.source != mark_of(peer, self._token) or header.target != self._own_mark:
            raise RefusedFrame("foreign")
        if len(self._channels) >= self._settings.peers:
            raise RefusedFrame("peers")
        self.open(peer)
        return self._channels[peer]

    def _note(self, peer: str, channel: Channel) -> None:
        due = channel.deadline
        if due == -math.inf:
            self._ready[peer] = channel
        elif due < self._next_look:
            self._next_look = due

    def outgoing(self, now: float) -> list[tuple[str, Frames]]:
        """What is to be transmitted now: new, again, acknowledgements."""
        if now >= self._next_look:
            self._ready.update(self._channels)
            self._next_look = math.inf
        found: list[tuple[str, Frames]] = []
        if not self._ready:
            return found
        ready, self._ready = self._ready, {}
        for peer, channel in ready.items():
            for frames in channel.outgoing(now):
                found.append((peer, frames))
            self._note(peer, channel)
        return found

    def deadline(self) -> float | None:
        """When `outgoing` has to be asked again, at the latest; None where nothing is awaited.

        0.0 where something is to be transmitted at once.
        """
        if self._ready:
            return 0.0
        return None if self._next_look == math.inf else self._next_look

    def waiting_bytes(self, peer: str) -> int:
        """Bytes for a peer that are queued, or not acknowledged yet."""
        channel = self._channels.get(peer)
        return 0 if channel is None else channel.waiting_bytes

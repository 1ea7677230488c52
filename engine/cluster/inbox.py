"""The receiving half of a channel: frames are put in order, messages put together.

The bytes of a message go straight into the arrays that it ends up in, which are taken one by
one when their first byte arrives: what is claimed and never sent takes no memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from scalops.algebra.errors import OutOfMemoryError
from scalops.engine.cluster.frames import Header, RefusedFrame
from scalops.engine.cluster.message_codec import MOST_BYTES
from scalops.engine.cluster.messages import MalformedMessage, decode_with_sizes
from scalops.engine.cluster.outbox import FRAME_COST_BYTES, HELD_BITS
from scalops.engine.cluster.rooms import Rooms
from scalops.engine.cluster.settings import ChannelSettings
from scalops.engine.columns import Array

ALIGNMENT = 64  # bytes: a cache line, and the widest vectors of today's processors
SMALL_BYTES = 4 << 10  # up to here NumPy's own alignment (16) does
_rooms = Rooms()


class Message(NamedTuple):
    """A message as it arrived: `body` is one of messages.py, buffers are uint8[bytes]."""

    body: Any
    buffers: list[Array]


def aligned_array(size: int) -> Array:
    """uint8[size], writable, not initialized; a large one is at a multiple of ALIGNMENT.

    Raises: OutOfMemoryError.
    """
    if size <= SMALL_BYTES:
        return np.empty(size, np.uint8)
    try:
        room = _rooms.take(size + ALIGNMENT)
    except MemoryError:
        raise OutOfMemoryError(f"no memory for a buffer of {size:,} bytes that arrives") from None
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size]


def whole_message(piece: memoryview, envelope: int, settings: ChannelSettings) -> Message | None:
    """The message, where all of it is in one piece: the short way for small ones."""
    body, sizes = decode_with_sizes(piece[:envelope])
    if not sizes and len(piece) == envelope:
        return Message(body, [])
    if envelope + sum(sizes) != len(piece):
        return None
    check_sizes(sizes, settings)
    buffers, at = [], envelope
    for size in sizes:
        buffer = aligned_array(size)
        buffer.data[:] = piece[at : at + size]
        buffers.append(buffer)
        at += size
    return Message(body, buffers)


class _Assembly:
    """A message whose bytes are arriving."""

    def __init__(self, envelope: int, settings: ChannelSettings) -> None:
        self._settings = settings
        self._envelope = bytearray(envelope)
        self._body: Any = None
        self._sizes: Sequence[int] = ()
        self._buffers: list[Array] = []
        self._target = memoryview(self._envelope)
        self._at = 0
        self.is_complete = False

    def fill(self, pieces: Iterable[memoryview]) -> None:
        """Take the next bytes; MalformedMessage where there are more than belong to it."""
        for piece in pieces:
            while len(piece):
                if self.is_complete:
                    raise MalformedMessage("there are bytes behind the end of a message")
                count = min(len(piece), len(self._target) - self._at)
                self._target[self._at : self._at + count] = piece[:count]
                self._at += count
                piece = piece[count:]
                if self._at == len(self._target):
                    self._begin_next()

    def _begin_next(self) -> None:
        if self._body is None:
            self._body, self._sizes = decode_with_sizes(self._envelope)
            check_sizes(self._sizes, self._settings)
        while len(self._buffers) < len(self._sizes):
            buffer = aligned_array(self._sizes[len(self._buffers)])
            self._buffers.append(buffer)
            if len(buffer):
                self._target, self._at = buffer.data, 0
                return
        self.is_complete = True

    @property
    def message(self) -> Message:
        """The whole message."""
        return Message(self._body, self._buffers)


def check_sizes(sizes: Sequence[int], settings: ChannelSettings) -> None:
    """MalformedMessage where a message would have too many or too large buffers."""
    if len(sizes) > settings.message_buffers:
        raise MalformedMessage(
            f"{len(sizes):,} buffers in one message; at most {settings.message_buffers:,} are"
            " allowed"
        )
    if sum(sizes) > settings.message_bytes:
        raise MalformedMessage(
            f"{sum(sizes):,} bytes in one message; at most {settings.message_bytes:,} are allowed"
        )


class _Early(NamedTuple):
    """A frame that came before one that is missing."""

    envelope: int
    pieces: list[memoryview]
    bytes: int


class Inbox:
    """What has arrived from a peer: where it is complete up to, and what came early."""

    def __init__(self, settings: ChannelSettings) -> None:
        self._settings = settings
        self._early: dict[int, _Early] = {}
        self._early_bytes = 0
        self._assembly: _Assembly | None = None
        self.ack = 1  # the first sequence that is missing
        self.heard = 0

    @property
    def held(self) -> int:
        """Which frames behind the missing one are there: bit 0 is for ack + 1."""
        first = self.ack + 1
        return sum(1 << (s - first) for s in self._early if s - first < HELD_BITS)

    @property
    def has_gap(self) -> bool:
        """Whether a frame is missing before one that is there."""
        return bool(self._early)

    def take(self, header: Header, pieces: list[memoryview]) -> list[Message]:
        """Take a frame with payload; the messages that are complete now.

        Raises: RefusedFrame where it has been taken before, or lies beyond the window;
        MalformedMessage where the peer talks nonsense, OutOfMemoryError where there is no
        room for what it sends: nothing more can be taken then.
        """
        self.heard = max(self.heard, header.number)
        sequence = header.sequence
        if sequence < self.ack or sequence in self._early:
            raise RefusedFrame("replayed")
        if sequence > self.ack:
            self._keep(header, pieces)
            return []
        messages: list[Message] = []
        self._put(header.envelope, pieces, messages)
        self.ack += 1
        while self._early and self.ack in self._early:
            early = self._early.pop(self.ack)
            self._early_bytes -= early.bytes
            self._put(early.envelope, early.pieces, messages)
            self.ack += 1
        return messages

    def _keep(self, header: Header, pieces: list[memoryview]) -> None:
        size = sum(map(len, pieces)) + FRAME_COST_BYTES
        # A sender may pass its window by the frame that fills it.
        most = self._settings.window_bytes + self._settings.frame_bytes + FRAME_COST_BYTES
        if (
            header.sequence - self.ack >= self._settings.window_frames
            or self._early_bytes + size > most
        ):
            raise RefusedFrame("window")
        self._early[header.sequence] = _Early(header.envelope, pieces, size)
        self._early_bytes += size

    def _put(self, envelope: int, pieces: list[memoryview], messages: list[Message]) -> None:
        if self._assembly is None:
            if not 0 < envelope <= MOST_BYTES:
                raise MalformedMessage(f"a message begins with an envelope of {envelope} bytes")
            if len(pieces) == 1 and len(pieces[0]) >= envelope:
                message = whole_message(pieces[0], envelope, self._settings)
                if message is not None:
                    messages.append(message)
                    return
            self._assembly = _Assembly(envelope, self._settings)
        elif envelope:
            raise MalformedMessage("a message begins inside another")
        self._assembly.fill(pieces)
        if self._assembly.is_complete:
            messages.append(self._assembly.message)
            self._assembly = None

"""The sending half of a channel: messages are cut into frames, kept until acknowledged.

Acknowledgements are selective: each says up to where everything has arrived, which of the next
64 frames have, and the latest transmission that was heard of. A frame is sent again when a
later transmission was heard of and it was not among what had arrived: one round trip after a
loss, and nothing but what is missing. When nothing at all is heard for a time, the first frame
alone is sent again, as a probe, the time doubling: a peer that is only busy is not flooded, and
the probe's acknowledgement tells what else is missing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

from scalops.engine.cluster.frames import HEADER_BYTES, Part, checksum_of
from scalops.engine.cluster.settings import ChannelSettings

# Frames up to this size are copied into one part, and so are runs of shorter buffers: a part of
# its own costs more than the copy. MOST_PARTS of frames.py follows from the second.
SMALL_FRAME_BYTES = 16 << 10
SMALL_PIECE_BYTES = 64 << 10
FRAME_COST_BYTES = 256  # what a frame takes beside its payload, counted into the window
HELD_BITS = 64  # frames behind the first missing one of which an acknowledgement tells


class OutFrame:
    """A frame until it is acknowledged."""

    __slots__ = ("bytes", "checksum", "envelope", "number", "parts", "payload", "sequence")

    def __init__(self, envelope: int, pieces: Sequence[Part], size: int, sequence: int) -> None:
        self.envelope, self.sequence, self.number = envelope, sequence, 0
        self.bytes = size
        self.payload: Part = b""
        self.parts: Sequence[Part] = ()
        self.checksum = 0
        if size <= SMALL_FRAME_BYTES:
            self.payload = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        else:
            self.parts = joined(pieces)
            self.checksum = checksum_of(self.parts)

    @property
    def part_bytes(self) -> int:
        """Bytes of payload that are not in the header's part."""
        return self.bytes - len(self.payload)


def joined(pieces: Sequence[Part]) -> list[Part]:
    """Runs of small pieces copied together, large ones as they are."""
    parts: list[Part] = []
    run: list[Part] = []
    for piece in pieces:
        if len(piece) < SMALL_PIECE_BYTES:
            run.append(piece)
            continue
        if run:
            parts.append(b"".join(run))
            run = []
        parts.append(piece)
    return [*parts, b"".join(run)] if run else parts


class OutMessage:
    """A message while it is cut into frames."""

    __slots__ = ("_at", "_envelope", "_pieces", "left")

    def __init__(self, envelope: bytes, buffers: Sequence[memoryview]) -> None:
        self._envelope = len(envelope)
        self._pieces: deque[Part] = deque((envelope, *buffers))
        self._at = 0  # bytes of the first piece that are cut off
        self.left = sum(map(len, self._pieces)) if buffers else self._envelope

    def cut(self, most: int, sequence: int) -> OutFrame:
        """The next frame, with at most so many bytes of payload."""
        found: Sequence[Part]
        if self.left <= most and not self._at:
            found, size = self._pieces, self.left
        else:
            found = list(self._take(most))
            size = sum(map(len, found))
        self.left -= size
        envelope, self._envelope = self._envelope, 0
        return OutFrame(envelope, found, size, sequence)

    def _take(self, most: int) -> Iterator[Part]:
        while most and self._pieces:
            piece = memoryview(self._pieces[0])[self._at : self._at + most]
            most -= len(piece)
            self._at += len(piece)
            if self._at == len(self._pieces[0]):
                self._pieces.popleft()
                self._at = 0
            yield piece


class Outbox:
    """What is queued for a peer, what is on its way, and what has to be sent again."""

    def __init__(self, settings: ChannelSettings) -> None:
        self._settings = settings
        self._payload = settings.frame_bytes - HEADER_BYTES
        self._queue: deque[OutMessage] = deque()
        self._underway: deque[OutFrame] = deque()  # sequences without a gap
        self._arrived: set[int] = set()  # sequences underway that the peer holds
        self._again: dict[int, OutFrame] = {}  # by sequence
        self._next_sequence = self._next_number = 1
        self._underway_bytes = 0
        self._patience = settings.retransmission_seconds
        self.waiting_bytes = 0  # queued or underway
        self.retransmit_at = math.inf

    def add(self, envelope: bytes, buffers: Sequence[memoryview]) -> None:
        """Queue a message."""
        message = OutMessage(envelope, buffers)
        self._queue.append(message)
        self.waiting_bytes += message.left

    def ready(self, now: float) -> list[OutFrame]:
        """The frames to transmit now, each under a new number."""
        if now >= self.retransmit_at:
            self._probe(now)
        found: list[OutFrame] = []
        if self._again:
            found += self._again.values()
            self._again.clear()
        queue = self._queue
        while queue and self._has_room():
            message = queue[0]
            frame = message.cut(self._payload, self._next_sequence)
            if not message.left:
                queue.popleft()
            self._next_sequence += 1
            self._underway_bytes += frame.bytes + FRAME_COST_BYTES
            self._underway.append(frame)
            found.append(frame)
        for frame in found:
            frame.number = self._next_number
            self._next_number += 1
        if found and self.retransmit_at == math.inf:
            self.retransmit_at = now + self._patience
        return found

    def _has_room(self) -> bool:
        return (
            self._underway_bytes < self._settings.window_bytes
            and len(self._underway) < self._settings.window_frames
        )

    def _probe(self, now: float) -> None:
        first = self._underway[0]
        self._again.setdefault(first.sequence, first)
        self._patience = min(2 * self._patience, self._settings.most_retransmission_seconds)
        self.retransmit_at = now + self._patience

    def acknowledged(self, ack: int, heard: int, held: int, now: float) -> bool:
        """Take what the peer says of this direction's frames; False where it makes no sense."""
        if ack > self._next_sequence or heard >= self._next_number:
            return False
        underway = self._underway
        if underway and underway[0].sequence < ack:
            self._forget_below(ack)
            self._patience = self._settings.retransmission_seconds
            self.retransmit_at = now + self._patience if underway else math.inf
        if underway and (held or underway[0].number < heard):
            self._find_missing(ack, heard, held)
        return True

    def _forget_below(self, ack: int) -> None:
        underway = self._underway
        while underway and underway[0].sequence < ack:
            frame = underway.popleft()
            self._underway_bytes -= frame.bytes + FRAME_COST_BYTES
            self.waiting_bytes -= frame.bytes
            if self._again:
                self._again.pop(frame.sequence, None)
            if self._arrived:
                self._arrived.discard(frame.sequence)

    def _find_missing(self, ack: int, heard: int, held: int) -> None:
        for frame in islice(self._underway, HELD_BITS + 1):
            behind = frame.sequence - ack
            if behind > HELD_BITS:
                break
            if behind > 0 and held >> (behind - 1) & 1:
                self._arrived.add(frame.sequence)
                self._again.pop(frame.sequence, None)
            elif frame.number < heard and frame.sequence not in self._arrived:
                self._again[frame.sequence] = frame

    @property
    def has_ready(self) -> bool:
        """Whether something can be transmitted before time passes."""
        return bool(self._again) or (bool(self._queue) and self._has_room())

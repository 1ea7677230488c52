"""Frames: what is transmitted at once. One multipart message: a header, and parts of payload.

The header's fixed fields are followed by the payload's beginning where that is short, so that a
small message is one part. Where parts begin and end means nothing: the payload is their bytes
in order. Two checksums (CRC-32) cover all: one the header, one, itself in the header, the
parts. The second is computed once, though the header changes when a frame is sent again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple, TypeAlias
from zlib import crc32

Part: TypeAlias = bytes | memoryview
Frames: TypeAlias = list[Part]  # one multipart message

MAGIC = 0x5301  # changes with the fields below
MOST_PARTS = 32  # of a frame: at most 15 large pieces, 16 runs of small ones, the header
# magic, envelope; source, target; sequence, number; ack, heard, held; parts' bytes and checksum
_FIELDS = Struct("<HxxIQQQQQQQII")
_CHECKSUM = Struct("<I")
HEADER_BYTES = _CHECKSUM.size + _FIELDS.size


class Header(NamedTuple):
    """The fixed fields of a frame.

    `envelope`: the bytes of the message's envelope where one begins here, else 0. `source` and
    `target` are the ends' marks. `sequence` counts the frames of a channel from 1 on, 0 where
    there is no payload; `number` counts their transmissions. The rest is about the frames of
    the other direction: all below `ack` have arrived, and of those behind it the ones whose bit
    is set in `held` (bit 0: ack + 1); `heard` is the greatest number seen.
    """

    magic: int
    envelope: int
    source: int
    target: int
    sequence: int
    number: int
    ack: int
    heard: int
    held: int
    part_bytes: int
    part_checksum: int


class RefusedFrame(Exception):
    """A frame that is dropped; says in a word why."""


def mark_of(name: str, token: bytes) -> int:
    """What stands for an endpoint in frames: 64 bits of its name and the session's token."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8, key=token).digest(), "big")


def checksum_of(parts: Sequence[Part]) -> int:
    """The checksum of all parts' bytes in order."""
    value = 0
    for part in parts:
        value = crc32(part, value)
    return value


def header_part(header: tuple[int, ...], payload: Part = b"") -> bytes:
    """The first part of a frame: fixed fields as in Header, and the payload's beginning."""
    rest = _FIELDS.pack(*header) + payload
    return _CHECKSUM.pack(crc32(rest)) + rest


def read_frame(parts: Sequence[Part], most_bytes: int) -> tuple[Header, list[memoryview]]:
    """The fixed fields and the payload's pieces.

    Raises: RefusedFrame for one that is damaged, no frame, or longer than `most_bytes`.
    """
    if not 1 <= len(parts) <= MOST_PARTS:
        raise RefusedFrame("oversize" if parts else "damaged")
    first = memoryview(parts[0])
    size = len(first)
    following = 0 if len(parts) == 1 else sum(map(len, parts)) - size
    if size + following > most_bytes:
        raise RefusedFrame("oversize")
    if size < HEADER_BYTES or _CHECKSUM.unpack_from(first)[0] != crc32(first[4:]):
        raise RefusedFrame("damaged")
    header = Header._make(_FIELDS.unpack_from(first, _CHECKSUM.size))
    if header.magic != MAGIC:
        raise RefusedFrame("magic")
    pieces = [first[HEADER_BYTES:]] if size > HEADER_BYTES else []
    if following != header.part_bytes:
        raise RefusedFrame("damaged")
    if following or header.part_checksum:
        if checksum_of(parts[1:]) != header.part_checksum:
            raise RefusedFrame("damaged")
        pieces += map(memoryview, parts[1:])
    return header, pieces

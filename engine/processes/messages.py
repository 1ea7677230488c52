"""What passes between the driver and a worker process: msgpack headers and raw buffers.

A message is the header's length (8 bytes), the header, and the buffers whose sizes the header
begins with. Pickles go one way only, from the driver to a worker, and only as a captured
function's payload; what a worker sends back is numbers, texts, arrays and Arrow's own format.
"""

from __future__ import annotations

import hashlib
import os
import select
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, NamedTuple

import msgpack
import numpy as np

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import ExecutionError
from scalops.engine.column_codec import decode_column, decode_column_of, encode_column
from scalops.engine.columns import Array
from scalops.engine.opaque.arguments import Argument, Column, Uniform
from scalops.engine.opaque.packed import pack, unpack

MAX_BYTES = 1 << 30  # of a header, and of a message's buffers together
_PREFIX = 8
_ERRORS = "surrogatepass"  # a message of an exception may hold any text


class Message(NamedTuple):
    """A header, and arrays of bytes that it refers to by position."""

    header: dict[str, Any]
    buffers: list[Array]


def send(file: int, message: Message, deadline: float | None = None) -> None:
    """Write a message.

    Raises: OSError where the other side is gone, TimeoutError after the deadline (of
    `time.monotonic`), ExecutionError, before anything is written, for a message too large.
    """
    sizes = [b.nbytes for b in message.buffers]
    header: bytes = msgpack.packb([sizes, message.header], unicode_errors=_ERRORS)
    if len(header) > MAX_BYTES or sum(sizes) > MAX_BYTES:
        raise ExecutionError(
            f"a message of {len(header) + sum(sizes)} bytes to or from a worker process is larger"
            f" than {MAX_BYTES}",
            hint="keep large arrays out of the function's results",
        )
    _write(file, memoryview(len(header).to_bytes(_PREFIX, "little") + header), deadline)
    for buffer in message.buffers:
        _write(file, buffer.data, deadline)


def receive(file: int, deadline: float | None = None) -> Message:
    """Read a message.

    Raises: EOFError where the other side is gone, TimeoutError, ValueError for nonsense.
    """
    length = int.from_bytes(_read(file, _PREFIX, deadline).tobytes(), "little")
    if length > MAX_BYTES:
        raise ValueError(f"a header of {length} bytes")
    data = _read(file, length, deadline).tobytes()
    sizes, header = msgpack.unpackb(data, unicode_errors=_ERRORS)
    if not isinstance(header, dict) or any(s < 0 for s in sizes) or sum(sizes) > MAX_BYTES:
        raise ValueError("a header that makes no sense")
    return Message(header, [_read(file, size, deadline) for size in sizes])


def _write(file: int, data: memoryview, deadline: float | None) -> None:
    while data:
        try:
            data = data[os.write(file, data) :]
        except BlockingIOError:
            _wait(file, select.POLLOUT, deadline)


def _read(file: int, size: int, deadline: float | None) -> Array:
    # An array of its own for each buffer: aligned, as functions find it in the driver's process.
    array: Array = np.empty(size, np.uint8)
    view = array.data
    while view:
        if deadline is not None:
            _wait(file, select.POLLIN, deadline)
        count = os.readv(file, [view])
        if count == 0:
            raise EOFError
        view = view[count:]
    return array


def _wait(file: int, event: int, deadline: float | None) -> None:
    poll = select.poll()
    poll.register(file, event)
    if deadline is None:
        poll.poll()
    elif not poll.poll(max(0.0, deadline - monotonic()) * 1e3):
        raise TimeoutError


# What a function has closed over.


@dataclass(frozen=True)
class Slots:
    """What a function had closed over, ready to be sent; `key` tells contents apart."""

    data: Array
    key: str


def slots_of(values: Sequence[Any]) -> Slots:
    """The slots' values of an iteration. Copies: they are what they were."""
    try:
        packed = pack(list(values))
    except TypeError as error:
        raise ExecutionError(f"{error} cannot be sent to a worker process") from None
    data: Array = np.frombuffer(packed, np.uint8)
    return Slots(data, hashlib.blake2b(packed, digest_size=16).hexdigest())


def slot_values(data: Array) -> list[Any]:
    """The slots' values again; arrays are read-only."""
    values: list[Any] = unpack(data.tobytes())
    for value in values:
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
    return values


# Columns of records.


def encode_arguments(arguments: Sequence[Argument], buffers: list[Array]) -> list[Any]:
    """The arguments of a function over some records."""
    return [[a.names, [_encode(c, buffers) for c in a.columns]] for a in arguments]


def decode_arguments(items: Sequence[Any], buffers: Sequence[Array]) -> list[Argument]:
    """The arguments again."""
    return [
        Argument(
            None if names is None else tuple(names), tuple(_decode(c, buffers) for c in columns)
        )
        for names, columns in items
    ]


def _encode(column: Column | Uniform, buffers: list[Array]) -> list[Any]:
    if isinstance(column, Uniform):
        return ["same", pack(column.value)]
    return encode_column(*column, buffers)


def _decode(item: Any, buffers: Sequence[Array]) -> Column | Uniform:
    match item:
        case ["same", packed]:
            return Uniform(unpack(packed))
    values, mask = decode_column(item, buffers)
    if isinstance(values, np.ndarray):
        values.setflags(write=False)
    return Column(values, mask)


def encode_results(columns: Sequence[Column], buffers: list[Array]) -> list[Any]:
    """What a function gave for some records."""
    return [encode_column(*c, buffers) for c in columns]


def decode_results(
    items: Any, buffers: Sequence[Array], rows: int, kinds: Sequence[ArrayType]
) -> list[Column]:
    """The results again, of exactly these types and this length; ValueError for any other."""
    if not isinstance(items, list) or len(items) != len(kinds):
        raise ValueError("not one column for each result")
    found = [decode_column_of(i, buffers, rows, k) for i, k in zip(items, kinds, strict=True)]
    return [Column(values, mask) for values, mask in found]

"""What passes between the driver and a worker process: msgpack headers and raw buffers.

A message is the header's length (8 bytes), the header, and the buffers whose sizes the header
begins with. Pickles go one way only, from the driver to a worker, and only as a captured
function's payload; what a worker sends back is numbers, texts and arrays.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgpack
import numpy as np
import pyarrow as pa

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import ExecutionError
from scalops.engine.arguments import Argument, Column, Uniform
from scalops.engine.blocks import Array
from scalops.engine.opaque import Text, python_value

MAX_BYTES = 1 << 30  # of a header, and of a message's buffers together
_PREFIX = 8
_ERRORS = "surrogatepass"  # a message of an exception may hold any text
_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)


class Message(NamedTuple):
    """A header, and arrays of bytes that it refers to by position."""

    header: dict[str, Any]
    buffers: list[Array]


def send(file: int, message: Message) -> None:
    """Write a message. Raises OSError where the other side is gone."""
    sizes = [b.nbytes for b in message.buffers]
    header: bytes = msgpack.packb([sizes, message.header], unicode_errors=_ERRORS)
    if len(header) > MAX_BYTES or sum(sizes) > MAX_BYTES:
        raise ExecutionError(
            f"a message of {len(header) + sum(sizes)} bytes to or from a worker process is larger"
            f" than {MAX_BYTES}",
            hint="keep large arrays out of the function's results",
        )
    _write(file, memoryview(len(header).to_bytes(_PREFIX, "little") + header))
    for buffer in message.buffers:
        _write(file, buffer.data)


def receive(file: int) -> Message:
    """Read a message. Raises EOFError where the other side is gone, ValueError for nonsense."""
    length = int.from_bytes(_read(file, _PREFIX).tobytes(), "little")
    if length > MAX_BYTES:
        raise ValueError(f"a header of {length} bytes")
    data = _read(file, length).tobytes()
    sizes, header = msgpack.unpackb(data, unicode_errors=_ERRORS)
    if not isinstance(header, dict) or any(s < 0 for s in sizes) or sum(sizes) > MAX_BYTES:
        raise ValueError("a header that makes no sense")
    return Message(header, [_read(file, size) for size in sizes])


def _write(file: int, data: memoryview) -> None:
    while data:
        data = data[os.write(file, data) :]


def _read(file: int, size: int) -> Array:
    # An array of its own for each buffer: aligned, as functions find it in the driver's process.
    array: Array = np.empty(size, np.uint8)
    view = array.data
    while view:
        count = os.readv(file, [view])
        if count == 0:
            raise EOFError
        view = view[count:]
    return array


# Values.


def encode(value: Any, buffers: list[Array]) -> Any:
    """A slot's value, or one of a traceback's arguments: TypeError for any other type."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Text):
        return ["text", str(value)]
    if isinstance(value, datetime):
        return ["datetime", (value - _EPOCH) // _MICROSECOND]
    if isinstance(value, timedelta):
        return ["timedelta", value // _MICROSECOND]
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return ["array", value.dtype.str, list(value.shape), add(value, buffers)]
    raise TypeError(f"a {type(value).__name__} cannot be sent to a worker process")


def decode(item: Any, buffers: Sequence[Array]) -> Any:
    """The value again; arrays are read-only."""
    match item:
        case ["text", text]:
            return Text(text)
        case ["datetime", count]:
            return _EPOCH + count * _MICROSECOND
        case ["timedelta", count]:
            return count * _MICROSECOND
        case ["array", dtype, shape, number]:
            return python_value(buffers[number].view(np.dtype(dtype)).reshape(shape))
    return item


def add(array: Array, buffers: list[Array]) -> int:
    """Put an array's bytes among the buffers; its number there."""
    buffers.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return len(buffers) - 1


@dataclass(frozen=True)
class Slots:
    """What a function had closed over, ready to be sent; `key` tells contents apart."""

    items: tuple[Any, ...]
    buffers: tuple[Array, ...]
    key: str


def slots_of(values: Sequence[Any]) -> Slots:
    """The slots' values of an iteration. Copies: they are what they were."""
    buffers: list[Array] = []
    items = tuple(encode(v, buffers) for v in values)
    buffers = [b.copy() for b in buffers]
    digest = hashlib.blake2b(msgpack.packb(items, unicode_errors=_ERRORS), digest_size=16)
    for buffer in buffers:
        digest.update(buffer.data)
    return Slots(items, tuple(buffers), digest.hexdigest())


# Arguments and results: columns of records.


def encode_arguments(arguments: Sequence[Argument], buffers: list[Array]) -> list[Any]:
    """The arguments of a function over some records."""
    return [[a.names, [_encode_column(c, buffers) for c in a.columns]] for a in arguments]


def decode_arguments(items: Sequence[Any], buffers: Sequence[Array]) -> list[Argument]:
    """The arguments again."""
    return [
        Argument(
            None if names is None else tuple(names),
            tuple(_decode_column(c, buffers) for c in columns),
        )
        for names, columns in items
    ]


def _encode_column(column: Column | Uniform, buffers: list[Array]) -> list[Any]:
    if isinstance(column, Uniform):
        return ["same", encode(column.value, buffers)]
    mask = None if column.mask is None else add(column.mask, buffers)
    if isinstance(column.values, np.ndarray):
        return ["array", encode(column.values, buffers), mask]
    return ["strings", column.values.to_pylist(), mask]


def _decode_column(item: Any, buffers: Sequence[Array]) -> Column | Uniform:
    if item[0] == "same":
        return Uniform(decode(item[1], buffers))
    mask = None if item[2] is None else buffers[item[2]].view(bool)
    if item[0] == "strings":
        return Column(pa.array(item[1], pa.string()), mask)
    return Column(decode(item[1], buffers), mask)


def encode_results(columns: Sequence[Column], buffers: list[Array]) -> list[Any]:
    """What a function gave for some records."""
    return [_encode_column(c, buffers)[1:] for c in columns]


def decode_results(
    items: Any, buffers: Sequence[Array], rows: int, kinds: Sequence[ArrayType]
) -> list[Column]:
    """The results again, of exactly these types and this length; ValueError for any other."""
    if not isinstance(items, list) or len(items) != len(kinds):
        raise ValueError("not one column for each result")
    columns = []
    for (values, mask), kind in zip(items, kinds, strict=True):
        valid = None if mask is None else _exactly(buffers[mask], (rows,), np.dtype(bool))
        if kind.is_string:
            if len(values) != rows or not all(v is None or isinstance(v, str) for v in values):
                raise ValueError("not one text for each record")
            columns.append(Column(pa.array(values, pa.string()), valid))
        else:
            data = _exactly(buffers[values[3]], (rows, *kind.shape), kind.numpy)
            columns.append(Column(data, valid))
    return columns


def _exactly(buffer: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "b":
        buffer = (buffer != 0).view(np.uint8)  # no other byte is a bool
    values: Array = buffer.view(dtype)
    return values.reshape(shape)

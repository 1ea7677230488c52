"""Values on their way between processes: slots, partials of folds, results.

A value arrives as what it was, bit by bit: a NumPy scalar as one of its type, an array in the
order of memory in which it lay. What arrives is data; nothing of it is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa

from scalops.algebra.sparse import SparseVector
from scalops.engine.column_codec import (
    NONSENSE,
    decode_array,
    decode_column,
    encode_array,
    encode_column,
    plain_dtype,
)
from scalops.engine.columns import Array, SparseColumn
from scalops.engine.opaque.packed import pack, unpack

_INLINE_BYTES = 1 << 14  # of an array; larger ones are buffers of their own
_MOST_BITS = 63
_FEW = 1 << 10  # items of a list or tuple; of more the header holds none
_FLOAT64 = np.dtype(np.float64)
_NUMBER = ["number", _FLOAT64.str]
_PLAIN = {type(None), bool, int, float, str, datetime, timedelta}
_NANOSECONDS = {datetime: pa.timestamp("ns"), timedelta: pa.duration("ns")}


def encode_value(value: Any, buffers: list[Array]) -> Any:
    """A value as msgpack can hold it. Raises TypeError for what is no data of this kind."""
    # What most values are: the cases below are tried one after the other.
    if type(value) is np.float64:
        return [*_NUMBER, value.tobytes()]
    if type(value) is list and not _is_plain(value):
        return ["list", _encode_items(value, buffers)]
    match value:
        case None | bool():
            return value
        case np.ndarray():
            return ["array", *_encode_array(value, buffers)]
        case np.generic() if not value.dtype.hasobject and not isinstance(value, (str, bytes)):
            return ["number", value.dtype.str, value.tobytes()]
        case int():
            return ["int", value if value.bit_length() <= _MOST_BITS else f"{value:x}"]
        case float():
            return ["float", value]
        case complex():
            return ["complex", value.real, value.imag]
        case SparseColumn() | pa.Array():
            return ["column", encode_column(value, None, buffers)]
        case SparseVector():
            parts = [_encode_array(a, buffers) for a in (value.indices, value.values)]
            return ["vector", value.shape[0], *parts]
        case tuple():
            return ["tuple", _encode_items(value, buffers)]
        case datetime() | timedelta() if type(value) not in _NANOSECONDS:
            # What pandas makes of Arrow's nanoseconds, where it is installed.
            kind = datetime if isinstance(value, datetime) else timedelta
            return ["nanoseconds", kind.__name__, pa.scalar(value, _NANOSECONDS[kind]).value]
    return ["packed", _placed(pack(value), buffers)]


def decode_value(item: Any, buffers: Sequence[Array]) -> Any:
    """The value again; its arrays can be written to. Raises ValueError where it makes no sense."""
    try:
        return _decoded(item, buffers)
    except (ValueError, *NONSENSE) as error:
        raise ValueError(f"a value that makes no sense: {error}") from None


def _decoded(item: Any, buffers: Sequence[Array]) -> Any:
    if type(item) is list and item[:2] == _NUMBER:  # what most values are
        (data,) = item[2:]
        if type(data) is bytes and len(data) == _FLOAT64.itemsize:
            return np.frombuffer(data, _FLOAT64)[0]
    match item:
        case None | bool():
            return item
        case ["number", kind, bytes(data)]:
            dtype = plain_dtype(kind)
            if len(data) != dtype.itemsize:
                raise ValueError("not one number")
            return np.frombuffer(data, dtype)[0]
        case ["list", items]:
            return _decode_items(items, buffers)
        case ["array", *parts]:
            return _decode_array(parts, buffers)
        case ["int", int(number)]:
            return number
        case ["int", str(number)]:
            return int(number, 16)
        case ["float", float(number)]:
            return number
        case ["complex", float(real), float(imaginary)]:
            return complex(real, imaginary)
        case ["column", column]:
            return decode_column(column, buffers)[0]
        case ["vector", int(dimension), indices, values]:
            places, stored = (_decode_array(a, buffers) for a in (indices, values))
            return SparseVector(places, stored, dimension)
        case ["tuple", items]:
            return tuple(_decode_items(items, buffers))
        case ["nanoseconds", kind, int(count)]:
            types = {k.__name__: arrow for k, arrow in _NANOSECONDS.items()}
            return pa.scalar(count, types[kind]).as_py()
        case ["packed", data]:
            return unpack(data if isinstance(data, bytes) else buffers[data].tobytes())
    raise ValueError("a value that makes no sense")


def _encode_array(array: Array, buffers: list[Array]) -> list[Any]:
    """As a column's array, but for a small one, whose bytes are in the header."""
    if array.nbytes > _INLINE_BYTES:
        return encode_array(array, buffers)
    own: list[Array] = []
    *head, _ = encode_array(array, own)
    return [*head, own[0].tobytes()]


def _decode_array(item: Any, buffers: Sequence[Array]) -> Array:
    *head, data = item
    if isinstance(data, bytes):
        return decode_array([*head, 0], [np.frombuffer(bytearray(data), np.uint8)])
    found = decode_array(item, buffers)
    return found if found.flags.writeable else found.copy(order="K")


def _is_plain(value: Any) -> bool:
    """Whether it packs to what it is: Python's own values, and lists of them."""
    return type(value) in _PLAIN or (type(value) is list and all(map(_is_plain, value)))


def _encode_items(values: Sequence[Any], buffers: list[Array]) -> list[Any] | int:
    items = [encode_value(v, buffers) for v in values]
    if len(items) <= _FEW:
        return items
    buffers.append(np.frombuffer(msgpack.packb(items), np.uint8))
    return len(buffers) - 1


def _decode_items(items: Any, buffers: Sequence[Array]) -> list[Any]:
    if not isinstance(items, list):
        items = msgpack.unpackb(buffers[items].tobytes())
    return [_decoded(i, buffers) for i in items]


def _placed(data: bytes, buffers: list[Array]) -> bytes | int:
    if len(data) <= _INLINE_BYTES:
        return data
    buffers.append(np.frombuffer(data, np.uint8))
    return len(buffers) - 1

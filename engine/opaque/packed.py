"""Values as bytes: what functions have closed over, and the states of opaque aggregates.

MessagePack with types of our own. Scalars, strings, times, arrays, sparse vectors, and tuples,
lists and dicts of these come out as they went in; nothing else goes in, and reading bytes that
a worker process wrote runs no code of theirs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgpack
import numpy as np

from scalops.engine.opaque.text import Items, Text

_ERRORS = "surrogatepass"  # a text may hold anything
_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_FACTORIES = {f.__name__: f for f in (int, float, str, bool, list, dict, tuple)}
_TUPLE, _ARRAY, _SCALAR, _TIME, _DURATION, _INTEGER, _TEXT, _SPARSE, _COUNTER, _DEFAULTS = range(10)
_ITEMS = 10


def pack(value: Any) -> bytes:
    """The value as bytes. Raises TypeError that names the type that cannot be packed."""
    try:
        packed: bytes = msgpack.packb(
            value, default=_encode, strict_types=True, unicode_errors=_ERRORS
        )
    except (ValueError, RecursionError) as error:
        raise TypeError(f"a structure that is too large or too deep: {error}") from None
    return packed


def unpack(data: bytes) -> Any:
    """The value again; its arrays are its own. Raises ValueError for nonsense."""
    try:
        return msgpack.unpackb(data, ext_hook=_decode, strict_map_key=False, unicode_errors=_ERRORS)
    except (TypeError, KeyError, IndexError, OverflowError, AttributeError) as error:
        raise ValueError(f"no packed value: {error}") from None


def _encode(value: Any) -> msgpack.ExtType:
    kind = type(value)
    if kind is tuple:
        return msgpack.ExtType(_TUPLE, pack(list(value)))
    if kind is np.ndarray and not value.dtype.hasobject and value.dtype.names is None:
        head = pack([value.dtype.str, list(value.shape)])
        return msgpack.ExtType(_ARRAY, bytes([len(head)]) + head + value.tobytes())
    if isinstance(value, np.generic) and not value.dtype.hasobject and value.dtype.names is None:
        return msgpack.ExtType(_SCALAR, pack([value.dtype.str, value.tobytes()]))
    if kind is datetime:
        if value.tzinfo is not None:
            value = value.astimezone(UTC).replace(tzinfo=None)
        return msgpack.ExtType(_TIME, pack((value - _EPOCH) // _MICROSECOND))
    if kind is timedelta:
        return msgpack.ExtType(_DURATION, pack(value // _MICROSECOND))
    if kind is int:
        return msgpack.ExtType(_INTEGER, f"{value:x}".encode())
    if isinstance(value, Text):
        return msgpack.ExtType(_TEXT, pack(str(value)))
    if isinstance(value, Items):
        return msgpack.ExtType(_ITEMS, pack(list(value)))
    if kind is Counter:
        return msgpack.ExtType(_COUNTER, pack(dict(value)))
    if kind is defaultdict and value.default_factory in _FACTORIES.values():
        name = value.default_factory.__name__
        return msgpack.ExtType(_DEFAULTS, pack([name, dict(value)]))
    if kind.__module__ == "scalops.algebra.sparse":
        return msgpack.ExtType(_SPARSE, pack([value.indices, value.values, value.shape[0]]))
    raise TypeError(f"a {kind.__name__}")


def _decode(code: int, data: bytes) -> Any:
    if code == _ARRAY:
        at = 1 + data[0]
        dtype, shape = unpack(data[1:at])
        # A copy: aligned, as an array of this process is, and nobody else's.
        return np.frombuffer(data, _plain(dtype), offset=at).reshape(shape).copy()
    if code == _INTEGER:
        return int(data, 16)
    value = unpack(data)
    if code not in _READERS:
        raise ValueError(f"an extension of the unknown type {code}")
    return _READERS[code](value)


def _sparse(parts: list[Any]) -> Any:
    from scalops.algebra.sparse import SparseVector

    return SparseVector(*parts)


_READERS: dict[int, Callable[[Any], Any]] = {
    _TUPLE: tuple,
    _SCALAR: lambda v: np.frombuffer(v[1], _plain(v[0]))[0],
    _TIME: lambda v: _EPOCH + v * _MICROSECOND,
    _DURATION: lambda v: v * _MICROSECOND,
    _TEXT: Text,
    _SPARSE: _sparse,
    _COUNTER: Counter,
    _ITEMS: Items,
    _DEFAULTS: lambda v: defaultdict(_FACTORIES[v[0]], v[1]),
}


def _plain(name: str) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(name)
    if dtype.hasobject:
        raise ValueError("an array of objects")
    return dtype

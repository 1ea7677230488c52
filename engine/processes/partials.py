"""Partials of folds on their way from a worker: numbers, arrays, and tuples and lists of them.

A partial arrives as what it was, bit by bit: a NumPy scalar as one of its type, an array in the
order of memory in which it lay. What arrives is data; nothing of it is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scalops.engine.columns import Array
from scalops.engine.processes.messages import add

_INLINE_BYTES = 1 << 14  # of an array; larger ones are buffers of their own
_MOST_BITS = 63


def encode_partial(partial: Any, buffers: list[Array]) -> Any:
    """A partial as msgpack can hold it. Raises TypeError for what is no data of this kind."""
    match partial:
        case None | bool():
            return partial
        case np.ndarray() if not partial.dtype.hasobject:
            columns = partial.flags.f_contiguous and not partial.flags.c_contiguous
            shown = partial.T if columns else partial
            if partial.nbytes <= _INLINE_BYTES:
                data: Any = shown.tobytes()
            else:
                data = add(shown, buffers)
            return ["array", partial.dtype.str, list(partial.shape), columns, data]
        case np.generic() if not partial.dtype.hasobject:
            return ["number", partial.dtype.str, partial.tobytes()]
        case int():
            return ["int", partial if partial.bit_length() <= _MOST_BITS else str(partial)]
        case float():
            return ["float", partial]
        case complex():
            return ["complex", partial.real, partial.imag]
        case tuple():
            return ["tuple", [encode_partial(p, buffers) for p in partial]]
        case list():
            return ["list", [encode_partial(p, buffers) for p in partial]]
    raise TypeError(f"a partial result of type {type(partial).__name__}")


def decode_partial(item: Any, buffers: Sequence[Array]) -> Any:
    """The partial again. Raises ValueError where it makes no sense."""
    match item:
        case None | bool():
            return item
        case ["array", str(kind), shape, columns, data]:
            raw = data if isinstance(data, bytes) else buffers[data]
            flat: Array = np.frombuffer(raw, _dtype(kind))
            if isinstance(data, bytes):
                flat = flat.copy()  # bytes are read-only, a partial is not
            return flat.reshape(shape[::-1]).T if columns else flat.reshape(shape)
        case ["number", str(kind), bytes(data)]:
            return np.frombuffer(data, _dtype(kind))[0]
        case ["int", int() | str() as number]:
            return int(number)
        case ["float", float(number)]:
            return number
        case ["complex", float(real), float(imaginary)]:
            return complex(real, imaginary)
        case ["tuple", list(items)]:
            return tuple(decode_partial(i, buffers) for i in items)
        case ["list", list(items)]:
            return [decode_partial(i, buffers) for i in items]
    raise ValueError("a partial result that makes no sense")


def _dtype(text: str) -> np.dtype[Any]:
    dtype = np.dtype(text)
    if dtype.hasobject:
        raise ValueError("a partial result of objects")
    return dtype

"""Hashes of strings and numbers: 64 bits, the same on every machine and in every session.

The mixing step is splitmix64's (Steele, Lea, Flood: Fast splittable pseudorandom number
generators, OOPSLA 2014). A string is hashed by its UTF-8 bytes, eight at a time, as little-endian
words of which the last is filled up with zeros:

    h = length in bytes;  for each word w: h = mix(h ^ w)

and mixed once more if it is empty. A number is mix of its 64 bits. Changing anything here
changes users' results.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

Array = np.ndarray[Any, np.dtype[Any]]

_STEP, _M1, _M2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_64 = 0xFFFFFFFFFFFFFFFF
_FEW = 32  # strings so long that so few are left are hashed one by one
# What is kept of a last word of 1, 2, ... 8 bytes.
_KEPT = np.array([(1 << (8 * n)) - 1 for n in range(9)], np.uint64)


def hash_string(text: str) -> int:
    """The hash of one string, 0 <= h < 2**64."""
    data = text.encode()
    return _rest(len(data), data) if data else _mixed(0)


def hash_strings(strings: pa.Array) -> Array:
    """uint64[rows]: the hash of each string of an Arrow array; of a null, any number."""
    if pa.types.is_dictionary(strings.type):
        indices = strings.indices.fill_null(0).to_numpy(zero_copy_only=False)
        words = hash_strings(strings.dictionary)
        return words[indices] if len(words) else np.zeros(len(strings), np.uint64)
    if pa.types.is_large_string(strings.type):
        offsets, data = _buffers(strings, np.int64)
    else:
        offsets, data = _buffers(strings.cast(pa.string()), np.int32)
    return _of_bytes(offsets, data)


def hash_numbers(numbers: Array) -> Array:
    """uint64[...]: the hash of each number or time.

    0.0 and -0.0 have one hash, all NaNs have one, and a float of 32 bits has that of the same
    float of 64. An integer's is not that of the equal float.
    """
    if numbers.dtype.kind == "f":
        floats = numbers.astype(np.float64) + 0.0  # -0.0 + 0.0 is 0.0
        return _mix(np.where(np.isnan(floats), np.nan, floats).view(np.uint64))
    if numbers.dtype.kind in "mM":
        return _mix(numbers.view(np.int64).view(np.uint64))
    if numbers.dtype == np.uint64:
        return _mix(numbers)
    return _mix(numbers.astype(np.int64).view(np.uint64))


def _mix(z: Array) -> Array:
    z = z + np.uint64(_STEP)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_M1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_M2)
    return np.asarray(z ^ (z >> np.uint64(31)))


def _mixed(z: int) -> int:
    z = (z + _STEP) & _64
    z = ((z ^ (z >> 30)) * _M1) & _64
    z = ((z ^ (z >> 27)) * _M2) & _64
    return z ^ (z >> 31)


def _rest(h: int, data: bytes) -> int:
    for start in range(0, len(data), 8):
        h = _mixed(h ^ int.from_bytes(data[start : start + 8], "little"))
    return h


def _buffers(strings: pa.Array, dtype: Any) -> tuple[Array, Array]:
    """Where each string starts, with the end of the last: int64[rows + 1]; and all bytes."""
    if not len(strings):
        return np.zeros(1, np.int64), np.empty(0, np.uint8)
    _, bounds, data = strings.buffers()
    offsets = np.frombuffer(bounds, dtype, len(strings) + 1, strings.offset * dtype().itemsize)
    held = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    first, last = int(offsets[0]), int(offsets[-1])
    return offsets.astype(np.int64) - first, held[first:last]


def _of_bytes(offsets: Array, data: Array) -> Array:
    starts, lengths = offsets[:-1], np.diff(offsets)
    hashes = lengths.astype(np.uint64)
    # Eight bytes from any position on, as one word: the mask takes away what is not the string's.
    padded = np.concatenate([data, np.zeros(8, np.uint8)])
    words = np.ndarray(len(data) + 1, "<u8", padded, strides=(1,))
    empty = lengths == 0
    if empty.any():
        hashes[empty] = _mixed(0)
    rows = np.flatnonzero(~empty)
    done = 0
    while len(rows) > _FEW or (done == 0 and len(rows)):
        left = lengths[rows] - done
        taken = words[starts[rows] + done].astype(np.uint64)
        taken &= _KEPT[np.minimum(left, 8)]
        hashes[rows] = _mix(hashes[rows] ^ taken)
        done += 8
        rows = rows[left > 8]
    for row in rows.tolist():
        part = data[starts[row] + done : starts[row] + lengths[row]].tobytes()
        hashes[row] = _rest(int(hashes[row]), part)
    return hashes

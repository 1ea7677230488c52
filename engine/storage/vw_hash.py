"""Vowpal Wabbit's numbers of features: 32-bit MurmurHash3 of names, digits as they are.

A name is hashed with its namespace's hash as the seed; one that is digits alone is that number,
from the namespace's hash on. A namespace's hash is that of its name, with the seed 0; the one
without a name has the hash 0. Sums and numbers are taken modulo 2**64, as unsigned.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from scalops.engine.blocks import Array

# Of the feature that Vowpal Wabbit adds to each example.
CONSTANT = 11_650_396

_EXACT_DIGITS = 18  # so many fit into an int64
_C1, _C2 = np.uint32(0xCC9E2D51), np.uint32(0x1B873593)
_M5, _MIX1, _MIX2 = np.uint32(0xE6546B64), np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)


def murmur3(text: Array, starts: Array, lengths: Array, seeds: Array) -> Array:
    """The hash of each text[start:start + length]: uint32[names].

    `text`: uint8[bytes]; `starts`, `lengths`: int64[names]; `seeds`: uint32[names].
    """
    words = _words(text)
    whole = lengths >> 2
    hashes = seeds.astype(np.uint32)
    at = np.arange(len(starts))
    for word in range(int(whole.max(initial=0))):
        at = at[whole[at] > word]
        mixed = hashes[at] ^ _scrambled(words[starts[at] + 4 * word])
        hashes[at] = _rotated(mixed, 13) * np.uint32(5) + _M5
    rest = (lengths & 3).astype(np.uint32)
    tail = words[starts + 4 * whole] & ((np.uint32(1) << (rest << np.uint32(3))) - np.uint32(1))
    hashes ^= _scrambled(tail)  # of no bytes 0, which changes nothing
    hashes ^= lengths.astype(np.uint32)
    hashes ^= hashes >> np.uint32(16)
    hashes *= _MIX1
    hashes ^= hashes >> np.uint32(13)
    hashes *= _MIX2
    hashes ^= hashes >> np.uint32(16)
    return hashes


def _words(text: Array) -> Array:
    """The four bytes from each place on, little-endian; behind the text are zeros."""
    padded = np.concatenate([text, np.zeros(4, np.uint8)])
    view: Any = np.ndarray(len(text) + 1, "<u4", padded, strides=(1,))
    return np.ascontiguousarray(view).astype(np.uint32, copy=False)


def _scrambled(words: Array) -> Array:
    return _rotated(words * _C1, 15) * _C2


def _rotated(words: Array, by: int) -> Array:
    turned: Array = (words << np.uint32(by)) | (words >> np.uint32(32 - by))
    return turned


def numbers_of(texts: pa.Array) -> tuple[Array, Array]:
    """Which names are digits alone, bool[names], and the numbers of those, uint64[...]."""
    text, starts, lengths = _layout(texts)
    other = np.zeros(len(text) + 1, np.int32)
    np.cumsum((text < ord("0")) | (text > ord("9")), out=other[1:])
    plain = (other[starts + lengths] == other[starts]) & (lengths > 0)
    short = lengths[plain] <= _EXACT_DIGITS
    digits = texts.filter(pa.array(plain))
    numbers = np.zeros(len(digits), np.uint64)
    exact = digits.filter(pa.array(short)).cast(pa.int64()).to_numpy()
    numbers[short] = exact.astype(np.uint64)
    for place in np.flatnonzero(~short):
        numbers[place] = int(digits[int(place)].as_buffer().to_pybytes()) % 2**64
    return plain, numbers


def hashes_of(texts: pa.Array, seeds: Array) -> Array:
    """What names stand for before it is cut to the wanted bits: uint64[names].

    `seeds`, uint64[names]: the hashes of their namespaces, of which the low 32 bits are the seed.
    """
    plain, numbers = numbers_of(texts)
    found = np.empty(len(texts), np.uint64)
    found[plain] = numbers + seeds[plain]
    if not plain.all():
        text, starts, lengths = _layout(texts)
        named = ~plain
        low = (seeds[named] & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        found[named] = murmur3(text, starts[named], lengths[named], low)
    return found


def _layout(texts: pa.Array) -> tuple[Array, Array, Array]:
    """The bytes of strings, where each begins and how long it is."""
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    text = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    starts = ends[:-1].astype(np.int64)
    return text, starts, np.diff(ends).astype(np.int64)

"""Random numbers as pure functions of a seed and keys: Philox-4x32-10, a counter-based generator.

Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011). Its 64-bit
key is the seed, its 128-bit counter holds, from the lowest word on: the last of our keys
(64 bits), the number of the block of two results, and a tag of what is drawn. Keys before the
last are chained into Philox's key, one application each. Element j of a result depends on the
seed, the keys and j alone: not on the shape, nor on which records are drawn together.

Changing anything here changes users' results.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from scipy import special

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import DataError
from scalops.algebra.functions.table import Function, register

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_CHUNK = 1 << 13  # counters at a time: ten rounds in cache
# The highest word of the counter: what is drawn, and how many keys there are.
_BITS, _UNIFORM, _NORMAL, _INTEGERS, _CHAIN = (n << 16 for n in range(1, 6))


def philox(counter: tuple[Any, Any, Any, Any], key: tuple[Any, Any]) -> tuple[Array, ...]:
    """Ten rounds of Philox over arrays of one length.

    The four words of the counter, the two of the key and the four results are below 2**32,
    held as uint64.
    """
    words = [np.asarray(w, dtype=np.uint64) for w in (*counter, *key)]
    shape = np.broadcast_shapes(*(w.shape for w in words))
    # What is the same for all stays one number.
    flat = [w.reshape(()) if w.size == 1 else np.broadcast_to(w, shape).reshape(-1) for w in words]
    made = [np.empty(prod(shape), np.uint64) for _ in range(4)]
    for start in range(0, len(made[0]), _CHUNK):
        part = slice(start, start + _CHUNK)
        rounds = _rounds(*(w[part] if w.ndim else w for w in flat))
        for out, word in zip(made, rounds, strict=True):
            out[part] = word
    return tuple(m.reshape(shape) for m in made)


def _rounds(c0: Array, c1: Array, c2: Array, c3: Array, k0: Array, k1: Array) -> tuple[Array, ...]:
    for number in range(10):
        first, second = c0 * _M0, c2 * _M1
        c0, c2 = second >> _HALF, first >> _HALF
        c0 ^= c1 ^ ((k0 + np.uint64(number * _W0)) & _LOW)
        c2 ^= c3 ^ ((k1 + np.uint64(number * _W1)) & _LOW)
        second &= _LOW
        first &= _LOW
        c1, c3 = second, first
    return c0, c1, c2, c3


def random_words(seed: Any, keys: tuple[Any, ...], count: int, tag: int) -> Array:
    """uint64[..., count] for seeds and keys that broadcast together to [...]."""
    own = _halves(seed)
    for number, key in enumerate(keys[:-1]):
        chained = philox((*_halves(key), np.uint64(number), np.uint64(_CHAIN)), own)
        own = chained[0], chained[1]
    last = _halves(keys[-1] if keys else 0)
    low, high = (np.asarray(w)[..., None] for w in last)
    key0, key1 = (np.asarray(w)[..., None] for w in own)
    blocks = np.arange(-(-count // 2), dtype=np.uint64)
    words = philox((low, high, blocks, np.uint64(tag | len(keys))), (key0, key1))
    pairs = [words[0] | (words[1] << _HALF), words[2] | (words[3] << _HALF)]
    both = np.stack(pairs, axis=-1)
    return both.reshape(*both.shape[:-2], prod(both.shape[-2:]))[..., :count]


def _halves(value: Any) -> tuple[Any, Any]:
    """The low and the high 32 bits of integers, negative ones as two's complement."""
    if isinstance(value, int):
        value = np.uint64(value & 0xFFFFFFFFFFFFFFFF)
    array = np.asarray(value)
    whole = array if array.dtype == np.uint64 else array.astype(np.int64).view(np.uint64)
    return whole & _LOW, whole >> _HALF


# What the bits become. Each takes seed and keys, single numbers or columns of them, and gives
# [*records, *shape].


def _drawn(seed: Any, keys: tuple[Any, ...], shape: Shape, tag: int) -> Any:
    words = random_words(seed, keys, prod(shape), tag)
    return words.reshape((*words.shape[:-1], *shape))[()]


def _bits(seed: Any, *keys: Any, shape: Shape = ()) -> Any:
    return _drawn(seed, keys, shape, _BITS)


def _uniform(seed: Any, *keys: Any, shape: Shape = ()) -> Any:
    """Multiples of 2**-53 in [0, 1)."""
    return (_drawn(seed, keys, shape, _UNIFORM) >> np.uint64(11)) * 2.0**-53


def _normal(seed: Any, *keys: Any, shape: Shape = ()) -> Any:
    """By the inverse of the distribution function, at the middles of 2**52 intervals."""
    middle = (_drawn(seed, keys, shape, _NORMAL) >> np.uint64(12)) + 0.5
    return special.ndtri(middle * 2.0**-52)


def _integer_bits(seed: Any, *keys: Any, shape: Shape = ()) -> Any:
    return _drawn(seed, keys, shape, _INTEGERS)


def _integers(seed: Any, *keys: Any, low: int, high: int, shape: Shape = ()) -> Any:
    return within(_drawn(seed, keys, shape, _INTEGERS), low, high)


def within(words: Any, low: Any, high: Any) -> Any:
    """uint64 to int64 in low..high-1: the high half of words * (high - low).

    A number is too likely or too rare by (high - low) / 2**64 at most. Raises DataError where
    low is not below high.
    """
    low, high = np.asarray(low).astype(np.int64), np.asarray(high).astype(np.int64)
    if np.any(low >= high):
        at = np.broadcast_arrays(low, high)
        wrong = tuple(int(a[at[0] >= at[1]].flat[0]) for a in at)
        raise DataError(
            f"random integers from {wrong[0]} to below {wrong[1]}: there are none",
            hint="low must be below high, which is not itself drawn",
        )
    with np.errstate(over="ignore"):
        span = high.view(np.uint64) - low.view(np.uint64)
        made = _multiply_high(words, span) + low.view(np.uint64)
    return np.asarray(made).view(np.int64)[()]


def _multiply_high(a: Any, b: Any) -> Any:
    """The high 64 bits of the product of two 64-bit numbers."""
    a0, a1, b0, b1 = a & _LOW, a >> _HALF, b & _LOW, b >> _HALF
    middle = a1 * b0 + ((a0 * b0) >> _HALF)
    other = a0 * b1 + (middle & _LOW)
    return a1 * b1 + (middle >> _HALF) + (other >> _HALF)


def _inferred(name: str) -> Callable[..., ArrayType]:
    def infer(*types: ArrayType, shape: Shape = (), **_: Any) -> ArrayType:
        for kind, what in zip(types, ("seed", *["key"] * len(types)), strict=False):
            if kind.shape or not kind.is_plain or kind.numpy.kind not in "iub":
                raise TypeError(f"a {what} of random numbers must be an integer, not {kind}")
        return ArrayType(name, shape)

    return infer


def _within_type(words: ArrayType, low: ArrayType, high: ArrayType) -> ArrayType:
    for kind in (low, high):
        if kind.shape or not kind.is_plain or kind.numpy.kind not in "iu":
            raise TypeError(f"low and high of random integers must be integers, not {kind}")
    return ArrayType("int64", words.shape)


def _flops(*_: ArrayType, shape: Shape = (), **__: Any) -> float:
    return 100.0 * max(1, prod(shape))


BITS = register(Function("random_bits", _inferred("uint64"), _bits, flops_of=_flops))
UNIFORM = register(Function("random_uniform", _inferred("float64"), _uniform, flops_of=_flops))
NORMAL = register(Function("random_normal", _inferred("float64"), _normal, flops_of=_flops))
INTEGERS = register(Function("random_integers", _inferred("int64"), _integers, flops_of=_flops))
# Integers between bounds that only a run can tell are made from their bits.
INTEGER_BITS = register(
    Function("random_integer_bits", _inferred("uint64"), _integer_bits, flops_of=_flops)
)
WITHIN = register(Function("random_within", _within_type, within, can_fail=True))

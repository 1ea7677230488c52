"""Arrays from positions: a one in a row of zeros, and an array with some elements replaced."""

from __future__ import annotations

from typing import Any

import numpy as np

from scalops.algebra.dtypes import FLOAT64, ArrayType
from scalops.algebra.errors import DataError
from scalops.algebra.functions.table import Function, example, register

# A key of `put`: a whole number, a slice as ("slice", a, b, c), None, or this for the next
# argument.
ARGUMENT = "@"
Key = tuple[Any, ...]


def _one_hot_type(index: ArrayType, size: int) -> ArrayType:
    if not index.is_plain or index.numpy.kind not in "iu":
        raise TypeError(f"one_hot needs an integer, not {index}; cast it first")
    return FLOAT64.with_shape(*index.shape, size)


def one_hot(index: Any, size: int) -> Any:
    """float64[..., size] of zeros with a one at each index. DataError outside 0..size-1."""
    at = np.asarray(index)
    outside = (at < 0) | (at >= size)
    if outside.any():
        raise outside_one_hot(at[outside].flat[0], size)
    made = np.zeros((*at.shape, size))
    np.put_along_axis(made, at[..., None].astype(np.int64), 1.0, axis=-1)
    return made


def outside_one_hot(index: Any, size: int) -> DataError:
    """The error for an index that one_hot cannot place."""
    return DataError(
        f"one_hot found {index}; expected 0 to {size - 1}",
        hint="filter such records out first, or clip the index",
    )


def indices(key: Key, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """NumPy's index of a key and the arguments that it leaves open."""
    waiting = iter(given)
    return tuple(
        next(waiting) if k == ARGUMENT else slice(*k[1:]) if isinstance(k, tuple) else k
        for k in key
    )


def _put_type(array: ArrayType, value: ArrayType, *given: ArrayType, key: Key) -> ArrayType:
    for kind in given:
        if not kind.is_plain or kind.numpy.kind not in "iu":
            raise TypeError(f"put needs integers as positions, not {kind}")
    if not (array.is_plain and value.is_plain):
        raise TypeError(f"put has no meaning for {value} in {array}")
    if not array.shape:
        raise TypeError(f"put needs an array, not {array}")
    if not np.can_cast(value.numpy, array.numpy, "same_kind") and not value.weak:
        raise TypeError(f"put cannot place {value} in {array}; cast one of them")
    if value.weak and value.python is float and array.numpy.kind != "f":
        raise TypeError(f"put cannot place a fraction in {array}; cast it first")
    zeros = tuple(np.zeros(k.shape, np.int64) for k in given)
    try:
        place = np.shape(example(array.strong())[indices(key, zeros)])
        np.broadcast_to(np.empty(()), value.shape)
        if np.broadcast_shapes(place, value.shape) != place:
            raise ValueError
    except IndexError as error:
        raise IndexError(f"{error}; the array is {array}") from None
    except ValueError:
        raise ValueError(f"put cannot place {value} in {place} of {array}") from None
    return array.strong()


def _put(array: Any, value: Any, *given: Any, key: Key) -> Any:
    made = np.array(array)
    try:
        made[indices(key, given)] = value
    except IndexError as error:
        raise DataError(f"put found no such place: {error}") from None
    return made


ONE_HOT = register(Function("one_hot", _one_hot_type, one_hot, can_fail=True))
PUT = register(
    Function("put", _put_type, _put, flops_of=lambda a, *_, **__: float(a.size), can_fail=True)
)

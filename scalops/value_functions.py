"""Functions of Values beside NumPy's: nulls, one-hot vectors, replaced elements, softmax, hashes.

Given plain numbers, arrays and strings they answer at once, as in opaque functions.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from scalops.algebra.errors import TraceError, user_location
from scalops.algebra.expressions import call
from scalops.algebra.functions import choices, hashes, scatter
from scalops.algebra.functions import softmax as exponentials
from scalops.numpy_protocol import positive_axis
from scalops.value import Value, apply, expression_of, holds_value


def coalesce(a: Any, b: Any, *more: Any) -> Any:
    """The first of them that is not null."""
    if more:
        return coalesce(a, coalesce(b, *more))
    if holds_value((a, b)):
        if a is None or b is None:
            return b if a is None else a
        return apply(choices.COALESCE, a, b)
    return choices.COALESCE.evaluate(a, b)


def is_null(a: Any) -> Any:
    """Whether it is null; a NaN is not."""
    return apply(choices.IS_NULL, a) if holds_value(a) else choices.IS_NULL.evaluate(a)


def one_hot(i: Any, n: int) -> Any:
    """The float64 vector of length `n` that is 1 at `i` and 0 elsewhere.

    `i` outside 0..n-1 is a DataError, of a null the vector is null. `n` is a Python int.
    """
    size = _count("one_hot needs its length n", n)
    if holds_value(i):
        return apply(scatter.ONE_HOT, i, size=size)
    return None if i is None else scatter.ONE_HOT.evaluate(i, size=size)


def put(v: Any, i: Any, x: Any) -> Any:
    """A copy of the array `v` with `v[i] = x`, as NumPy assigns.

    `i` is an integer, an array of them, a slice, or a tuple of these, Values among them. Of
    positions that occur twice, the last one's element stays. Outside is a DataError.
    """
    keys = i if isinstance(i, tuple) else (i,)
    if not holds_value((v, x, *keys)):
        if any(given is None for given in (v, x, *keys)):
            return None
        made = np.array(v)
        made[i] = x
        return made
    array = Value(expression_of(v, "put's array"))
    plain: list[Any] = []
    given = []
    for key in keys:
        if isinstance(key, slice):
            parts = (key.start, key.stop, key.step)
            if any(isinstance(p, Value) for p in parts):
                raise TraceError("put takes slices of Python ints", location=user_location())
            plain.append(("slice", *(None if p is None else operator.index(p) for p in parts)))
        elif isinstance(key, (int, np.integer)) and not isinstance(key, bool):
            plain.append(int(key))
        else:
            position = expression_of(key, "a position of put")
            if position.type.name == "bool":
                raise TraceError(
                    "put takes positions, not a mask",
                    location=user_location(),
                    hint="so.where(mask, x, v) replaces where a mask holds",
                )
            plain.append(scatter.ARGUMENT)
            given.append(position)
    replaced = call(
        scatter.PUT,
        array.expression,
        expression_of(x, "put's element"),
        *given,
        location=user_location(),
        key=tuple(plain),
    )
    return Value(replaced)


def softmax(v: Any, axis: Any = -1) -> Any:
    """exp(v) / sum(exp(v)) along the axis (None: all), without overflow; SciPy's `softmax`."""
    if not holds_value(v):
        return None if v is None else exponentials.SOFTMAX.evaluate(v, axis=axis)
    value = Value(expression_of(v, "softmax's array"))
    return apply(exponentials.SOFTMAX, value, axis=positive_axis(axis, value.ndim))


def logsumexp(v: Any, axis: Any = None, *, keepdims: bool = False) -> Any:
    """log(sum(exp(v))) along the axis (None: all), without overflow; SciPy's `logsumexp`."""
    if not holds_value(v):
        given = {"axis": axis, "keepdims": keepdims}
        return None if v is None else exponentials.LOGSUMEXP.evaluate(v, **given)
    value = Value(expression_of(v, "logsumexp's array"))
    axes = positive_axis(axis, value.ndim)
    return apply(exponentials.LOGSUMEXP, value, axis=axes, keepdims=bool(keepdims))


def hash(a: Any, buckets: int) -> Any:
    """A number from 0 to `buckets`-1 that `a` alone decides, on every machine and for ever."""
    count = _count("hash needs the number of its buckets", buckets)
    if count == 0:
        raise TraceError("hash needs at least one bucket", location=user_location())
    if holds_value(a):
        return apply(hashes.HASH, a, buckets=count)
    return None if a is None else hashes.HASH.evaluate(a, buckets=count)


def _count(what: str, value: Any) -> int:
    """A size that makes a shape: a Python int."""
    is_int = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_int or value < 0:
        raise TraceError(
            f"{what} as a Python int; it got {value!r}",
            location=user_location(),
            hint="sizes that make shapes must be known when the plan is written",
        )
    return int(value)

"""One-hot vectors and replaced elements over a block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scalops.algebra.errors import DataError
from scalops.algebra.expressions import Call
from scalops.algebra.functions.scatter import indices
from scalops.engine.blocks import Array
from scalops.engine.kernels.buffers import into

Step = Callable[..., Any]


def one_hot(call: Call, flags: Sequence[bool], parameters: Any) -> Step:
    """The function itself, which takes indices of any shape; one index a record into a buffer."""
    evaluate, size = call.function.evaluate, parameters["size"]
    if call.arguments[0].type.shape:
        return lambda index: evaluate(index, **parameters)

    def step(index: Any, out: Array | None = None) -> Any:
        if out is None or len(index) == 0 or index.min() < 0 or index.max() >= size:
            return evaluate(index, **parameters)
        out[...] = 0.0
        out[np.arange(len(index)), index] = 1.0
        return out

    return into(step)


def put(call: Call, flags: Sequence[bool], parameters: Any) -> Step | None:
    """Every record's array copied, and one assignment to all of them."""
    key = parameters["key"]
    while key and key[-1] == ("slice", None, None, None):
        key = key[:-1]
    points = [not (k is None or isinstance(k, tuple)) for k in key]
    per_record = any(flags[2:])
    # NumPy keeps the place of axes that indices next to each other give; else it moves them to
    # the front, before the records.
    between = (
        points[points.index(True) : len(key) - points[::-1].index(True)] if any(points) else []
    )
    if not all(between) or (per_record and not all(points)):
        return None
    array, value, *given = (a.type for a in call.arguments)
    place = np.empty((), np.int8)
    place = np.broadcast_to(place, array.shape)[
        indices(key, tuple(np.zeros(k.shape, np.int64) for k in given))
    ]
    rank = max((len(k.shape) for k in given), default=0)

    def step(arrays: Any, values: Any, *positions: Any) -> Any:
        several = zip((arrays, values, *positions), flags, strict=True)
        rows = len(next(a for a, b in several if b))
        made = np.empty((rows, *array.shape), call.type.numpy)
        made[...] = arrays
        if flags[1]:
            ones = [1] * (place.ndim - len(value.shape))
            values = values.reshape(rows, *ones, *value.shape)
        records: Any = slice(None)
        if per_record:
            records = np.arange(rows).reshape(rows, *[1] * rank)
            positions = tuple(
                p.reshape(rows, *[1] * (rank - len(k.shape)), *k.shape) if b else p
                for p, k, b in zip(positions, given, flags[2:], strict=True)
            )
        try:
            made[(records, *indices(key, positions))] = values
        except IndexError as error:
            raise DataError(f"put found no such place: {error}") from None
        return made

    return step

"""Batched forms of the functions that rearrange, order and compare elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import ascii_letters
from typing import Any

import numpy as np

from scalops.algebra.expressions import Call

Step = Callable[..., Any]
Flags = Sequence[bool]


def along_axis(function: Callable[..., Any]) -> Callable[..., Step | None]:
    """A function along one axis, which is the next one in a block."""

    def maker(call: Call, flags: Flags, parameters: Any) -> Step | None:
        given = dict(parameters)
        axis = given.pop("axis", None)
        if not isinstance(axis, int):
            return None
        axis = axis % len(call.arguments[0].type.shape) + 1
        return lambda a: function(a, axis=axis, **given)

    return maker


def of_last_axes(function: Callable[..., Any]) -> Callable[..., Step]:
    """A function that takes a stack of arrays as it takes one."""
    return lambda call, flags, parameters: lambda *arrays: function(*arrays, **parameters)


def tile(call: Call, flags: Flags, parameters: Any) -> Step:
    """The array with as many axes as there are numbers of repetitions, and the records' axis."""
    reps, shape = parameters["reps"], call.arguments[0].type.shape
    rank = max(len(reps), len(shape))
    own = (1,) * (rank - len(shape)) + shape
    times = (1,) * (1 + rank - len(reps)) + reps
    return lambda a: np.tile(a.reshape(len(a), *own), times)


def of_any_shape(*uniform: int) -> Callable[..., Step | None]:
    """A function whose other arguments, which are `uniform`, may be looked up in by any array."""

    def maker(call: Call, flags: Flags, parameters: Any) -> Step | None:
        if any(flags[i] for i in uniform):
            return None
        evaluate = call.function.evaluate
        return lambda *arrays: evaluate(*arrays, **parameters)

    return maker


def quantile(call: Call, flags: Flags, parameters: Any) -> Step | None:
    """Quantiles stand before the axes of a record, and after the block's."""
    given = dict(parameters)
    q, axis = given.pop("q"), given.pop("axis", None)
    rank = len(call.arguments[0].type.shape)
    if not rank:
        return None
    axes: Any = tuple(range(1, rank + 1))
    if axis is not None:
        axes = tuple(a + 1 for a in axis) if isinstance(axis, tuple) else axis + 1

    def step(a: Any) -> Any:
        found = np.quantile(a, q, axis=axes, **given)
        return np.moveaxis(found, 0, 1) if np.ndim(q) else found

    return step


def einsum(call: Call, flags: Flags, parameters: Any) -> Step | None:
    """The records' axis is one more letter."""
    inputs, _, output = parameters["subscripts"].partition("->")
    free = next((c for c in ascii_letters if c not in inputs), None)
    if free is None or "." in inputs:
        return None
    terms = [free + t if b else t for t, b in zip(inputs.split(","), flags, strict=True)]
    subscripts = f"{','.join(terms)}->{free}{output}"
    return lambda *operands: np.einsum(subscripts, *operands)

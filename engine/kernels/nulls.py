"""Nulls through functions: arithmetic with null is null, where and & and | know better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scalops.algebra.errors import DataError
from scalops.algebra.expressions import Call
from scalops.engine.blocks import Array

Masks = Sequence[Array | None]


def combined_mask(call: Call, arguments: Sequence[Any], masks: Masks, rows: int) -> Array | None:
    """Which results of a function are not null; None where all are."""
    name = call.function.name
    if name == "where":
        return _where(call, arguments, masks, rows)
    if name in ("bitwise_and", "bitwise_or") and call.type.name == "bool":
        return _kleene(call, arguments, masks, rows)
    known = [m for m in masks if m is not None]
    mask = known[0]
    for other in known[1:]:
        mask = mask & other
    return mask


def _full(mask: Array | None, rows: int) -> Array:
    return np.ones(rows, bool) if mask is None else mask


def _where(call: Call, arguments: Sequence[Any], masks: Masks, rows: int) -> Array | None:
    """A null condition chooses the second; the result is null where the chosen one is."""
    if masks[1] is None and masks[2] is None:
        return None
    condition = _aligned(call, 0, arguments[0])
    if masks[0] is not None:
        condition = condition & _beside(masks[0], condition)
    elements = tuple(range(1, condition.ndim))
    first, second = condition.any(axis=elements), ~condition.all(axis=elements)
    known: Array = (_full(masks[1], rows) | ~first) & (_full(masks[2], rows) | ~second)
    return known


def _aligned(call: Call, number: int, value: Any) -> Array:
    """A bool argument with the block axis, of length 1 where it has none, and the result's rank."""
    shape = call.arguments[number].type.shape
    array = np.asarray(value, dtype=bool)
    rows = len(array) if array.ndim > len(shape) else 1
    return array.reshape(rows, *[1] * (len(call.type.shape) - len(shape)), *shape)


def _beside(mask: Array, values: Array) -> Array:
    """A mask of records with axes for the elements of an array."""
    return mask.reshape(-1, *[1] * (values.ndim - 1))


def _kleene(call: Call, arguments: Sequence[Any], masks: Masks, rows: int) -> Array:
    """Known where both are, or where one alone decides; an array, where all its elements are."""
    a, b = (_aligned(call, i, x) for i, x in enumerate(arguments))
    known_a, known_b = (_beside(_full(m, rows), x) for m, x in zip(masks, (a, b), strict=True))
    decides_a, decides_b = (~a, ~b) if call.function.name == "bitwise_and" else (a, b)
    known: Array = (known_a & known_b) | (known_a & decides_a) | (known_b & decides_b)
    whole: Array = np.all(known, axis=tuple(range(1, known.ndim)))
    return whole


def known_arguments(call: Call, arguments: list[Any], masks: Masks) -> list[Any]:
    """Arguments whose values at nulls cannot change a result that is not null."""
    if call.function.name == "where" and masks[0] is not None:
        return [arguments[0] & _beside(masks[0], arguments[0]), *arguments[1:]]
    if call.function.name == "bitwise_or" and call.type.name == "bool":
        pairs = zip(arguments, masks, strict=True)
        return [a if m is None else a & _beside(m, a) for a, m in pairs]
    if call.function.name == "bitwise_and" and call.type.name == "bool":
        pairs = zip(arguments, masks, strict=True)
        return [a if m is None else a | ~_beside(m, a) for a, m in pairs]
    return arguments


# Functions that put scalars into an array: a null would be inside it, where none can be.
ARRAY_MAKERS = ("assemble", "stack")


def null_inside(call: Call) -> DataError:
    """The error of a null among the elements of a vector."""
    return DataError(
        f"{call.function.name} found a null; a vector holds none",
        location=call.location,
        hint="filter the nulls out, or fill them with np.where",
    )

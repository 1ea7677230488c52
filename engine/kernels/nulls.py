"""Nulls through functions: arithmetic with null is null, where and & and | know better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scalops.algebra.expressions import Call
from scalops.engine.blocks import Array

Masks = Sequence[Array | None]


def combined_mask(call: Call, arguments: Sequence[Any], masks: Masks, rows: int) -> Array | None:
    """Which results of a function are not null; None where all are."""
    name = call.function.name
    if name == "where":
        return _where(arguments, masks, rows)
    if name in ("bitwise_and", "bitwise_or") and call.type.name == "bool":
        return _kleene(name == "bitwise_and", arguments, masks, rows)
    known = [m for m in masks if m is not None]
    mask = known[0]
    for other in known[1:]:
        mask = mask & other
    return mask


def _full(mask: Array | None, rows: int) -> Array:
    return np.ones(rows, bool) if mask is None else mask


def _where(arguments: Sequence[Any], masks: Masks, rows: int) -> Array | None:
    """A null condition chooses the second; the result is null where the chosen one is."""
    if masks[1] is None and masks[2] is None:
        return None
    yes, no = _per_record(arguments[0], masks[0], rows)
    return (_full(masks[1], rows) | ~yes) & (_full(masks[2], rows) | ~no)


def _per_record(condition: Any, mask: Array | None, rows: int) -> tuple[Array, Array]:
    """For which records some element is chosen from the first, and from the second."""
    whole = np.asarray(condition, dtype=bool)
    if whole.ndim == 0:
        whole = np.broadcast_to(whole, (rows,))
    if mask is not None:
        whole = whole & _beside(mask, whole)
    elements = whole.reshape(rows, -1)
    return elements.any(axis=1), ~elements.all(axis=1)


def _beside(mask: Array, values: Any) -> Array:
    """A mask of records with axes for the elements of an array."""
    return mask.reshape(-1, *[1] * (np.ndim(values) - 1)) if np.ndim(values) > 1 else mask


def _kleene(conjunction: bool, arguments: Sequence[Any], masks: Masks, rows: int) -> Array:
    """Known where both are, or where one alone decides."""
    a, b = (np.broadcast_to(np.asarray(x, dtype=bool), (rows,)) for x in arguments)
    known_a, known_b = _full(masks[0], rows), _full(masks[1], rows)
    decides_a, decides_b = (~a, ~b) if conjunction else (a, b)
    result: Array = (known_a & known_b) | (known_a & decides_a) | (known_b & decides_b)
    return result


def known_arguments(call: Call, arguments: list[Any], masks: Masks) -> list[Any]:
    """Arguments whose values at nulls cannot change a result that is not null."""
    if call.function.name == "where" and masks[0] is not None:
        return [arguments[0] & masks[0], *arguments[1:]]
    if call.function.name == "bitwise_or" and call.type.name == "bool":
        return [a if m is None else a & m for a, m in zip(arguments, masks, strict=True)]
    if call.function.name == "bitwise_and" and call.type.name == "bool":
        return [a if m is None else a | ~m for a, m in zip(arguments, masks, strict=True)]
    return arguments

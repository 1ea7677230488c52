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
    condition = np.broadcast_to(np.asarray(arguments[0], dtype=bool), (rows,))
    if masks[0] is not None:
        condition = condition & masks[0]
    if masks[1] is None and masks[2] is None:
        return None
    return np.where(condition, _full(masks[1], rows), _full(masks[2], rows))


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

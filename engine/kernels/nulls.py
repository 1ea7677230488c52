"""Nulls through functions: arithmetic with null is null, where and & and | know better.

Beside a column with nulls stands a mask, bool[rows], of what is not null; an Arrow column also
holds them itself. Functions see neither, but for those named here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalops.algebra.dtypes import BOOL, ArrayType
from scalops.algebra.errors import DataError
from scalops.algebra.expressions import Call, Expression
from scalops.algebra.sparse import SparseVector
from scalops.engine.blocks import Array
from scalops.engine.columns import ColumnData, SparseColumn, arrow_type, filtered

Masks = Sequence[Array | None]


class Nullable(NamedTuple):
    """What a step gives that makes nulls: values, and a mask of what is not null."""

    values: ColumnData
    mask: Array | None


# Functions that give null for arguments that are not, and such that tell null from the rest.
_MAKES_NULLS = ("list_item", "only_if")
_SEES_NULLS = ("coalesce", "is_null")


def minds_nulls(node: Expression) -> bool:
    """Whether a step over a block without nulls needs masks all the same."""
    return isinstance(node, Call) and node.function.name in _MAKES_NULLS + _SEES_NULLS


def apply_over(
    call: Call,
    step: Callable[..., Any],
    arguments: list[Any],
    masks: Masks,
    flags: Sequence[bool],
    rows: int,
) -> tuple[Any, Array | None]:
    """A step's values over a block, with their mask; `flags` tell which arguments are batched."""
    name = call.function.name
    if name == "is_null":
        return (np.zeros(rows, bool) if masks[0] is None else ~masks[0]), None
    if name == "coalesce":
        return _coalesce(step, arguments, masks, rows)
    if name == "only_if":
        return _only_if(call, arguments, masks, flags, rows)
    if all(m is None for m in masks):
        return _consistent(step(*arguments), None)
    if name in ARRAY_MAKERS:
        if not all(m is None or m.all() for m in masks):
            raise null_inside(call)
        return step(*arguments), None
    if call.function.can_fail:
        return _of_known(step, arguments, masks, flags, rows)
    known = known_arguments(call, arguments, masks)
    return _consistent(step(*known), combined_mask(call, known, masks, rows))


def _consistent(made: Any, mask: Array | None) -> tuple[Any, Array | None]:
    """Values with one mask of all their nulls; those of an Arrow column in it too."""
    if isinstance(made, Nullable):
        made, own = made
        return made, own if mask is None else mask if own is None else mask & own
    if not isinstance(made, pa.Array):
        return made, mask
    own = made.is_valid().to_numpy(zero_copy_only=False) if made.null_count else None
    if mask is None:
        return made, own
    if own is None or bool((own & ~mask).any()):
        made = pc.if_else(pa.array(mask), made, pa.scalar(None, made.type))
        own = mask if own is None else mask & own
    return made, own


def _coalesce(
    step: Callable[..., Any], arguments: Sequence[Any], masks: Masks, rows: int
) -> tuple[Any, Array | None]:
    first, second = masks
    made = step(_full(first, rows), *arguments)
    if first is None or second is None:
        return made, None
    mask = first | second
    return made, None if mask.all() else mask


def _only_if(
    call: Call, arguments: Sequence[Any], masks: Masks, flags: Sequence[bool], rows: int
) -> tuple[Any, Array | None]:
    """The second argument, whatever holds it, with the first one in its mask."""
    kept = np.broadcast_to(np.asarray(arguments[0], bool), (rows,))
    for mask in masks:
        if mask is not None:
            kept = kept & mask
    values = arguments[1] if flags[1] else _column_of(arguments[1], call.type, rows)
    if isinstance(values, pa.Array):
        values = pc.if_else(pa.array(kept), values, pa.scalar(None, values.type))
    return values, None if kept.all() else kept


def _column_of(value: Any, kind: ArrayType, rows: int) -> ColumnData:
    """One value for all records."""
    if kind.is_arrow:
        return pa.array([value], arrow_type(kind)).take(pa.array(np.zeros(rows, np.int64)))
    if kind.is_sparse:
        return SparseColumn(
            np.arange(rows + 1, dtype=np.int64) * len(value.indices),
            np.tile(value.indices, rows), np.tile(value.values, rows), value.size,
        )  # fmt: skip
    return np.broadcast_to(np.asarray(value, dtype=kind.numpy), (rows, *kind.shape))


def _of_known(
    step: Callable[..., Any],
    arguments: Sequence[Any],
    masks: Masks,
    flags: Sequence[bool],
    rows: int,
) -> tuple[Any, Array | None]:
    """A function that may fail sees only what is not null, so that no null makes it fail."""
    mask = np.logical_and.reduce([m for m in masks if m is not None])
    known = [filtered(a, mask) if b else a for a, b in zip(arguments, flags, strict=True)]
    made, own = _consistent(step(*known), None)
    at = np.flatnonzero(mask)
    if own is not None:
        mask[at[~own]] = False
    if isinstance(made, tuple):
        return tuple(_spread(m, at, rows) for m in made), mask
    return _spread(made, at, rows), mask


def _spread(values: Any, at: Array, rows: int) -> Any:
    """A column with these values at the records `at`, and null or zero elsewhere."""
    if isinstance(values, pa.Array):
        positions = np.zeros(rows, np.int64)
        positions[at] = np.arange(len(at))
        elsewhere = np.ones(rows, bool)
        elsewhere[at] = False
        return values.take(pa.array(positions, mask=elsewhere))
    if isinstance(values, SparseColumn):
        lengths = np.zeros(rows, np.int64)
        lengths[at] = values.lengths
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        return SparseColumn(indptr, values.indices, values.values, values.dimension)
    spread = np.zeros((rows, *values.shape[1:]), values.dtype)
    spread[at] = values
    return spread


_KLEENE: dict[str, Callable[[Any, Any], Any]] = {
    "bitwise_and": lambda a, b: False if a is False or b is False else None,
    "bitwise_or": lambda a, b: True if a is True or b is True else None,
}


def of_none(call: Call, arguments: Sequence[Any]) -> Any:
    """A function's value for single values of which at least one is None."""
    name = call.function.name
    if name == "where":
        return arguments[1] if arguments[0] is not None and arguments[0] else arguments[2]
    if name in _SEES_NULLS:
        return call.function.evaluate(*arguments)
    if name in _KLEENE and call.any_type == BOOL:
        return _KLEENE[name](*(None if a is None else bool(a) for a in arguments))
    if name in ARRAY_MAKERS:
        raise null_inside(call)
    return None


def neutral(kind: ArrayType) -> Any:
    """A value that stands where a null is, which is the same for all records."""
    if kind.is_arrow:
        return "" if kind.is_string else []
    if kind.is_sparse:
        return SparseVector((), (), kind.size)
    return np.zeros(kind.shape, kind.numpy)[()]


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

"""Keys of records: codes that are equal where values are, and the order of records by keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalops.algebra.dtypes import ArrayType, ListType
from scalops.engine.blocks import Block
from scalops.engine.columns import Array, ColumnData, SparseColumn
from scalops.engine.storage.arrow import to_column

Key = tuple[ColumnData, Array | None]  # values, and which are not null


def first_of_equals(block: Block, kinds: Sequence[tuple[str, ArrayType]]) -> Array:
    """bool[rows]: whether no earlier record is equal in these columns."""
    keys = [((block.columns[name], block.valid.get(name)), kind) for name, kind in kinds]
    codes = record_codes(keys, block.rows)
    if not kinds or not block.rows:
        only: Array = np.arange(block.rows) == 0
        return only
    # Codes count by first appearance: a new one is greater than all before it.
    new: Array = np.ones(block.rows, bool)
    new[1:] = codes[1:] > np.maximum.accumulate(codes)[:-1]
    return new


def record_codes(keys: Sequence[tuple[Key, ArrayType]], rows: int) -> Array:
    """int64[rows]: equal for records that are equal in all keys, numbered by first appearance.

    Nulls are equal, NaNs are, 0.0 and -0.0 are.
    """
    codes: Array = np.zeros(rows, np.int64)
    for (column, valid), kind in keys:
        own = value_codes(column, valid, kind)
        # Both are below the number of rows, so their product fits.
        codes = _encoded(pa.array(codes * (own.max(initial=-1) + 2) + own + 1))
    return codes


def value_codes(column: ColumnData, valid: Array | None, kind: ArrayType) -> Array:
    """int64[rows]: equal for equal values, -1 for null.

    All NaNs are equal, and 0.0 and -0.0 are.
    """
    if isinstance(column, SparseColumn):
        codes = _encoded(_sparse_bytes(column))
    elif isinstance(column, np.ndarray):
        codes = _encoded(_fixed_bytes(column))
    elif isinstance(kind, ListType):
        codes = _encoded(_list_bytes(column, kind))
        if column.null_count:
            codes[column.is_null().to_numpy(zero_copy_only=False)] = -1
    else:
        codes = _encoded(column)
    if valid is not None:
        codes[~valid] = -1
    return codes


def _encoded(values: pa.Array) -> Array:
    """Numbers by first appearance; -1 for null."""
    indices = values.dictionary_encode().indices
    if indices.null_count:
        indices = pc.fill_null(indices, -1)
    return np.asarray(indices).astype(np.int64)


def bits_of(values: Array) -> Array:
    """Numbers in which equal values have equal bits."""
    if values.dtype.kind == "f":
        values = values + values.dtype.type(0)  # -0.0 + 0.0 is 0.0
        values[np.isnan(values)] = np.nan
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")


def _fixed_bytes(column: Array) -> pa.Array:
    bits = bits_of(column)
    if bits.ndim == 1:
        return pa.array(bits)
    rows = len(bits)
    width = bits.itemsize * int(np.prod(bits.shape[1:]))
    if width == 0:
        return pa.array(np.zeros(rows, np.int64))
    return pa.Array.from_buffers(pa.binary(width), rows, [None, pa.py_buffer(bits)])


def _variable_bytes(lengths: Array, parts: Array) -> pa.Array:
    """Byte strings of a record's own rows of `parts`, uint64[items, width]."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    offsets *= parts.itemsize * parts.shape[1]
    data = pa.py_buffer(np.ascontiguousarray(parts))
    return pa.Array.from_buffers(
        pa.large_binary(), len(lengths), [None, pa.py_buffer(offsets), data]
    )


def _list_bytes(column: pa.Array, kind: ListType) -> pa.Array:
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    values, valid = to_column(column.flatten(), kind.item, "a list")
    codes = value_codes(values, valid, kind.item)
    return _variable_bytes(np.asarray(lengths).astype(np.int64), codes.view(np.uint64)[:, None])


def _sparse_bytes(column: SparseColumn) -> pa.Array:
    stored = column.values != 0  # a zero is a zero, stored or not
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(stored)])[column.indptr]
    parts = np.empty((int(stored.sum()), 2), np.uint64)
    parts[:, 0] = column.indices[stored]
    parts[:, 1] = bits_of(column.values[stored])
    return _variable_bytes(np.diff(ends), parts)


# Order.


def sort_order(keys: Sequence[tuple[Key, bool]], rows: int) -> Array:
    """int64[rows]: the records in order, stable; each key with whether it descends.

    In either direction NaN comes after all numbers and null after NaN.
    """
    levels: list[Array] = []
    for (column, valid), descending in keys:
        values, last = _ranks(column, valid)
        if descending:
            values = -values if values.dtype.kind == "f" else ~values
        if last is not None:
            values = np.where(last == 0, values, np.zeros((), values.dtype))
            levels.append(last)
        levels.append(values)
    if not levels:
        return np.arange(rows)
    if len(levels) == 1:
        return np.argsort(levels[0], kind="stable")
    return np.lexsort(levels[::-1])


def _ranks(column: ColumnData, valid: Array | None) -> tuple[Array, Array | None]:
    """Numbers in the values' order, and 1 for NaN, 2 for null, if there is either."""
    last: Array | None = None
    values: Any
    if isinstance(column, np.ndarray):
        values = column
        if values.dtype.kind == "f":
            last = np.isnan(values).astype(np.uint8)
        elif values.dtype.kind in "mM":
            last = 2 * np.isnat(values).astype(np.uint8)
            values = values.view(np.int64)
        elif values.dtype.kind == "b":
            values = values.view(np.uint8)
    else:
        # Bytes of UTF-8 are ordered as their code points are.
        values = np.asarray(pc.rank(column, tiebreaker="dense")).astype(np.int64)
    if valid is not None:
        last = np.zeros(len(values), np.uint8) if last is None else last
        last[~valid] = 2
    return values, last if last is not None and last.any() else None

"""Lists and sparse vectors between Arrow's forms and a block's columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalops.algebra.dtypes import ArrayType, ListType, SparseType
from scalops.algebra.errors import DataError
from scalops.engine.columns import Array, SparseColumn, arrow_type
from scalops.engine.storage.arrow_types import SPARSE_ITEM, type_to_arrow

# Makes a block's column of the items in a list: `to_column` of arrow.py.
Convert = Callable[[pa.Array, ArrayType, str], Any]
_MOST_ITEMS = 2**31 - 1


def plain_lists(chunk: pa.Array, kind: ListType, where: str, convert: Convert) -> pa.Array:
    """Lists as `arrow_type(kind)`, from any of Arrow's forms of lists and items.

    Raises: DataError for a null among arrays of fixed shape, and for more items than one block
    may hold.
    """
    wanted = arrow_type(kind)
    if chunk.type == wanted:
        return chunk
    found, starts = _items_and_starts(chunk, where)
    items = _items(found, kind.item, where, convert)
    offsets = pa.array(starts.astype(np.int32))
    missing = chunk.is_null() if chunk.null_count else None
    return pa.ListArray.from_arrays(offsets, items, type=wanted, mask=missing)


def _items_and_starts(chunk: pa.Array, where: str) -> tuple[pa.Array, Array]:
    """All items end to end, and where those of each list begin: int64[lists + 1]."""
    if pa.types.is_list_view(chunk.type) or pa.types.is_large_list_view(chunk.type):
        # Not by a cast: Arrow's gives wrong offsets after a null.
        lengths = pc.fill_null(pc.list_value_length(chunk), 0).to_numpy()
        items, starts = chunk.flatten(), np.cumsum([0, *lengths])
    else:
        starts = chunk.offsets.to_numpy().astype(np.int64)
        items = chunk.values.slice(starts[0], starts[-1] - starts[0])
        starts = starts - starts[0]
    if starts[-1] > _MOST_ITEMS:
        raise DataError(
            f"{where} has more than 2**31 items in one block of records",
            hint="split the lists into shorter records",
        )
    return items, starts


def _items(items: pa.Array, kind: ArrayType, where: str, convert: Convert) -> pa.Array:
    wanted = arrow_type(kind)
    if items.type == wanted:
        return items
    values, valid = convert(items, kind, where)
    if not isinstance(values, np.ndarray):
        return values
    if not kind.shape:
        return pa.array(values, wanted, mask=None if valid is None else ~valid)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, kind.size)


def lists_to_arrow(lists: pa.Array, kind: ListType) -> pa.Array:
    """A block's lists as `type_to_arrow(kind)`: matrices inside get their shape back."""
    wanted = type_to_arrow(kind)
    if lists.type == wanted:
        return lists
    offsets = lists.offsets
    first, last = offsets[0].as_py(), offsets[-1].as_py()
    items = lists.values.slice(first, last - first)
    if isinstance(kind.item, ListType):
        items = lists_to_arrow(items, kind.item)
    else:
        flat = items.values.slice(items.offset * kind.item.size, len(items) * kind.item.size)
        for size in reversed(kind.item.shape):
            flat = pa.FixedSizeListArray.from_arrays(flat, size)
        items = flat
    starts = pa.array(offsets.to_numpy() - np.int32(first))
    missing = lists.is_null() if lists.null_count else None
    return pa.ListArray.from_arrays(starts, items, type=wanted, mask=missing)


def to_sparse(chunks: Sequence[pa.Array], kind: SparseType, where: str) -> SparseColumn:
    """Lists of (index, value) in compressed rows: indices sorted, repeated ones added up.

    Raises: DataError for a null and for an index outside of the dimension.
    """
    lengths, indices, values = [], [], []
    for chunk in chunks:
        if chunk.null_count:
            raise _null(where)
        items, starts = _items_and_starts(chunk, where)
        index, value = items.flatten()
        if items.null_count or index.null_count or value.null_count:
            raise _null(where)
        lengths.append(np.diff(starts))
        indices.append(index.to_numpy())
        values.append(value.to_numpy())
    rows = np.concatenate([np.zeros(1, np.int64), *lengths])
    return sparse_column(
        np.cumsum(rows),
        np.concatenate([np.empty(0, np.int32), *indices]) if len(indices) != 1 else indices[0],
        np.concatenate([np.empty(0), *values]) if len(values) != 1 else values[0],
        kind.dimension,
        where,
    )


def sparse_column(
    indptr: Array, indices: Array, values: Array, dimension: int, where: str
) -> SparseColumn:
    """Compressed rows as a column: indices sorted, repeated ones added up.

    Shares what has the right type and order already.

    Raises: DataError for an index outside of the dimension.
    """
    if len(indices) and (indices.min() < 0 or indices.max() >= dimension):
        odd = next(int(i) for i in indices if not 0 <= i < dimension)
        raise DataError(
            f"{where} stores an element at the index {odd}; its dimension is {dimension}",
            hint="indices count from 0",
        )
    indptr = indptr.astype(np.int64, copy=False)
    indices = indices.astype(np.int32, copy=False)
    values = values.astype(np.float64, copy=False)
    if not _ascending(indptr, indices):
        from scipy.sparse import csr_array

        rows = csr_array(
            (values.copy(), indices.copy(), indptr.copy()), (len(indptr) - 1, dimension)
        )
        rows.sum_duplicates()
        indptr, indices, values = rows.indptr.astype(np.int64), rows.indices, rows.data
        indices = indices.astype(np.int32, copy=False)
    return SparseColumn(indptr, indices, values, dimension)


def _ascending(indptr: Array, indices: Array) -> bool:
    """Whether the indices of each row ascend and are unique."""
    rising = np.diff(indices) > 0
    starts = indptr[1:-1]
    # Between the last index of one row and the first of the next anything goes.
    rising[starts[(starts > 0) & (starts < len(indices))] - 1] = True
    return bool(rising.all())


def _null(where: str) -> DataError:
    return DataError(
        f"{where} holds a null; sparse vectors refuse nulls",
        hint="fill the nulls or drop these records first",
    )


def sparse_to_arrow(column: SparseColumn, valid: Array | None) -> pa.Array:
    """Lists of (index, value); null where `valid` is false."""
    items = pa.StructArray.from_arrays(
        [pa.array(column.indices, pa.int32()), pa.array(column.values, pa.float64())],
        fields=list(SPARSE_ITEM),
    )
    mask = None if valid is None else pa.array(~valid)
    return pa.ListArray.from_arrays(pa.array(column.indptr.astype(np.int32)), items, mask=mask)

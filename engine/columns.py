"""Columns of a block: what holds them, and how records are taken from them and put together.

A column is a NumPy array [rows, *shape]; an Arrow array of strings or lists, which keeps its
nulls; or a `SparseColumn`. Nothing here copies where a view can do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from scalops.algebra.dtypes import STRING, ArrayType, ListType, SparseType, name_of
from scalops.engine.packed_lists import filtered_lists, is_list, taken_lists

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class SparseColumn:
    """Sparse vectors in compressed rows (CSR).

    Record i stores `values[indptr[i]:indptr[i + 1]]` at `indices[...]`, which ascend and are
    unique within a record. `indptr`: int64[rows + 1], from 0 on; `indices`: int32;
    `values`: float64.
    """

    indptr: Array
    indices: Array
    values: Array
    dimension: int

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def nbytes(self) -> int:
        return int(self.indptr.nbytes + self.indices.nbytes + self.values.nbytes)

    @property
    def lengths(self) -> Array:
        """How many elements each record stores: int64[rows]."""
        lengths: Array = np.diff(self.indptr)
        return lengths

    def slice(self, start: int, stop: int) -> SparseColumn:
        """The records start..stop-1; indices and values are views."""
        first, last = int(self.indptr[start]), int(self.indptr[stop])
        indptr = self.indptr[start : stop + 1] - first
        return SparseColumn(
            indptr, self.indices[first:last], self.values[first:last], self.dimension
        )

    def take(self, rows: Array) -> SparseColumn:
        """These records, in this order."""
        lengths = self.lengths[rows]
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        # Positions of the taken elements: each record's own range, laid end to end.
        at = np.arange(int(indptr[-1])) + np.repeat(self.indptr[:-1][rows] - indptr[:-1], lengths)
        return SparseColumn(indptr, self.indices[at], self.values[at], self.dimension)

    def with_values(self, values: Array) -> SparseColumn:
        """Other numbers in the same places."""
        return SparseColumn(self.indptr, self.indices, values, self.dimension)


# pyarrow has no types of its own, so that an alias of this union would not be one.
ColumnData: TypeAlias = Any  # Array | pa.Array | SparseColumn


def sliced(column: ColumnData, start: int, stop: int) -> ColumnData:
    """The records start..stop-1, without copying."""
    if isinstance(column, np.ndarray):
        return column[start:stop]
    if isinstance(column, SparseColumn):
        return column.slice(start, stop)
    return column.slice(start, stop - start)


def filtered(column: ColumnData, mask: Array) -> ColumnData:
    """The records for which `mask`, bool[rows], is true."""
    if isinstance(column, np.ndarray):
        return column[mask]
    if isinstance(column, SparseColumn):
        return column.take(np.flatnonzero(mask))
    return filtered_lists(column, mask) if is_list(column) else column.filter(pa.array(mask))


def taken(column: ColumnData, rows: Array) -> ColumnData:
    """The records of these numbers, int64[...], in this order."""
    if isinstance(column, np.ndarray):
        return column[rows]
    if isinstance(column, SparseColumn):
        return column.take(rows)
    return taken_lists(column, rows) if is_list(column) else column.take(pa.array(rows))


def concatenated(parts: Sequence[ColumnData], kind: ArrayType) -> ColumnData:
    """The columns of consecutive records as one; `kind` says what none of them is."""
    if not parts:
        return empty(kind)
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    if isinstance(first, np.ndarray):
        return np.concatenate(parts)
    if isinstance(first, SparseColumn):
        starts = np.cumsum([0, *(int(p.indptr[-1]) for p in parts)])
        return SparseColumn(
            np.concatenate([[0], *(p.indptr[1:] + s for p, s in zip(parts, starts, strict=False))]),
            np.concatenate([p.indices for p in parts]),
            np.concatenate([p.values for p in parts]),
            first.dimension,
        )
    return pa.concat_arrays(parts)


def empty(kind: ArrayType) -> ColumnData:
    """A column of no records."""
    return blank(kind, 0)


def blank(kind: ArrayType, rows: int) -> ColumnData:
    """A column whose values do not matter: zeros, or Arrow's nulls."""
    if isinstance(kind, SparseType):
        return SparseColumn(
            np.zeros(rows + 1, np.int64), np.empty(0, np.int32), np.empty(0), kind.dimension
        )
    if kind.is_arrow:
        return pa.nulls(rows, arrow_type(kind))
    return np.zeros((rows, *kind.shape), kind.numpy)


def arrow_type(kind: ArrayType) -> pa.DataType:
    """The Arrow type of the columns that stay Arrow arrays, and of the items in lists."""
    if kind.name == STRING:
        return pa.string()
    if isinstance(kind, ListType):
        return pa.list_(arrow_type(kind.item))
    item = pa.from_numpy_dtype(kind.numpy)
    return pa.list_(item, kind.size) if kind.shape else item


def type_of_column(column: ColumnData) -> str:
    """A word for error messages."""
    if isinstance(column, np.ndarray):
        return name_of(column.dtype) or str(column.dtype)
    return "sparse" if isinstance(column, SparseColumn) else str(column.type)

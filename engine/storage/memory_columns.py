"""Columns as the caller holds them, in one of the three forms that a source in memory keeps."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from scalops.algebra.dtypes import ArrayType, SparseType, name_of, sparse
from scalops.algebra.errors import DataError, SchemaError
from scalops.algebra.sparse import SparseVector
from scalops.engine.blocks import Array
from scalops.engine.columns import SparseColumn, arrow_type
from scalops.engine.storage.arrow import schema_from_arrow, to_column
from scalops.engine.storage.arrow_nested import sparse_column
from scalops.engine.storage.arrow_records import require_plain_name

# What Arrow and NumPy raise when values of a column have no common type.
_NO_COMMON_TYPE = (pa.ArrowException, OverflowError, TypeError, ValueError)
_ROWS = (list, tuple, np.ndarray)

# pyarrow has no types of its own, so that an alias of this union would not be one.
MemoryColumn: TypeAlias = "Array | pa.ChunkedArray | SparseColumn"


def column_name(name: object) -> str:
    """The name itself. Raises: SchemaError if it is no string, or reads as a record's field."""
    if not isinstance(name, str):
        raise SchemaError(f"column names are strings, found {name!r}")
    require_plain_name(name, "the table")
    return name


def column_of(name: str, value: Any) -> MemoryColumn:
    """A column in one of the forms that are held; no copy where the array can stay as is."""
    if isinstance(value, (pa.Array, pa.ChunkedArray)):
        return pa.chunked_array([value]) if isinstance(value, pa.Array) else value
    if hasattr(value, "tocsr"):
        return _of_matrix(name, value)
    if isinstance(value, (list, tuple)):
        return column_of_values(name, value)
    if isinstance(value, np.ma.MaskedArray):
        return _of_masked(name, value)
    return _of_array(name, np.asarray(value))


def _of_array(name: str, array: Array) -> MemoryColumn:
    if array.ndim == 0:
        raise SchemaError(
            f"column {name!r} is a single {array.dtype} value, not one value per record",
            hint="pass an array or a list",
        )
    if array.dtype.kind in "mM":
        array = _plain_time(name, array)
    kind = name_of(array.dtype)
    if kind is None:
        raise SchemaError(
            f"column {name!r} has the NumPy type {array.dtype}, which no column may have",
            hint="use bool, integers, float16 to float64, datetime64, timedelta64 or strings",
        )
    if kind == "string":
        if array.dtype.kind == "O" and isinstance(_first(array), (*_ROWS, SparseVector)):
            return column_of_values(name, list(array))
        return _of_strings(name, array)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _plain_time(name: str, array: Array) -> Array:
    """Days, hours and minutes as seconds; multiples such as 25 s as their unit."""
    unit, multiple = np.datetime_data(array.dtype)
    if unit in ("W", "D", "h", "m"):
        return array.astype(f"{array.dtype.kind}8[s]")
    return array if multiple == 1 else array.astype(f"{array.dtype.kind}8[{unit}]")


def _of_strings(name: str, array: Array) -> pa.ChunkedArray:
    if array.ndim > 1:
        raise SchemaError(
            f"column {name!r} is an array of {array.ndim} axes that holds no numbers",
            hint="use one column of strings each, or convert to numbers with .astype(float)",
        )
    try:
        strings = pa.array(array.astype(object), pa.string(), from_pandas=True)
    except _NO_COMMON_TYPE as error:
        odd = next((v for v in array if v is not None and not isinstance(v, str)), None)
        raise SchemaError(
            f"column {name!r} is an array of objects that holds {odd!r} of type "
            f"{type(odd).__name__}; such arrays may hold strings and None only",
            hint="convert it, for numbers with .astype(float)",
        ) from error
    return strings if isinstance(strings, pa.ChunkedArray) else pa.chunked_array([strings])


def _of_masked(name: str, array: Any) -> MemoryColumn:
    plain = np.ma.getdata(array)
    if not np.ma.is_masked(array):
        return _of_array(name, plain)
    if array.ndim > 1:
        raise DataError(
            f"column {name!r} has masked elements; fixed-shape arrays refuse nulls",
            hint="fill them with .filled(value)",
        )
    held = _of_array(name, plain)
    if not isinstance(held, np.ndarray):
        raise SchemaError(f"column {name!r} is a masked array of strings; use None for nulls")
    return pa.chunked_array([pa.array(held, mask=np.ma.getmaskarray(array))])


def column_of_values(name: str, values: Sequence[Any]) -> MemoryColumn:
    """A column of a list: arrays of one shape, lists, sparse vectors, or scalars; None is null."""
    first = _first(values)
    try:
        if isinstance(first, SparseVector) or hasattr(first, "tocsr"):
            return _of_sparse_rows(name, values)
        if isinstance(first, _ROWS):
            return _of_rows(name, values)
        if first is None and len(values):
            raise SchemaError(f"column {name!r} holds only None", hint="use an array with a type")
        array = np.asarray(values)  # NumPy's widening: Arrow has none from bool to int
        if array.dtype.kind in "biuf":
            return _of_array(name, array)
        found = pa.array(values)
    except _NO_COMMON_TYPE as error:
        types = sorted({type(v).__name__ for v in values if v is not None})
        raise SchemaError(
            f"column {name!r} holds values without a common type: {', '.join(types)} ({error})"
        ) from error
    return found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found])


def _first(values: Any) -> Any:
    return next((v for v in values if v is not None), None)


# Arrays, lists and sparse vectors, one per record.


def _of_rows(name: str, values: Sequence[Any]) -> MemoryColumn:
    """Numbers of one shape are arrays, all else is lists."""
    present = [v for v in values if v is not None]
    if not all(isinstance(v, _ROWS) for v in present):
        raise TypeError("not all of them are lists")
    array = _one_shape(present)
    if array is None:
        return pa.chunked_array([_of_lists(name, values)])
    if len(present) < len(values):
        raise DataError(
            f"column {name!r} holds None among its arrays; fixed-shape arrays refuse nulls",
            hint="fill the missing ones or drop these records",
        )
    return _of_array(name, array)


def _one_shape(rows: list[Any]) -> Array | None:
    """Numbers or times of one shape as an array; None for all else."""
    if isinstance(next((v for row in rows for v in row), None), SparseVector):
        return None
    try:
        if len({np.shape(row) for row in rows}) > 1:
            return None
        array = np.asarray(rows)
    except ValueError:  # a list of lists of several lengths
        return None
    return array if array.dtype.kind in "biufmM" else None


def _of_lists(name: str, values: Sequence[Any]) -> pa.Array:
    rows: list[Any] = [() if v is None else v for v in values]
    offsets = np.cumsum([0, *map(len, rows)])
    if all(isinstance(row, np.ndarray) and row.dtype.kind in "biufmM" for row in rows):
        shapes = {row.shape[1:] for row in rows}
        items: Any = np.concatenate(rows) if len(shapes) == 1 else None
    else:
        items = None
    column = column_of_values(name, [v for row in rows for v in row]) if items is None else items
    if isinstance(column, SparseColumn):
        raise SchemaError(f"column {name!r} holds lists of sparse vectors", hint="explode them")
    if isinstance(column, np.ndarray):
        item = _of_array(name, column)
        assert isinstance(item, np.ndarray)
        column = pa.array(np.ascontiguousarray(item).reshape(-1))
        for size in reversed(item.shape[1:]):
            column = pa.FixedSizeListArray.from_arrays(column, size)
    else:
        column = column.combine_chunks()
    large = offsets[-1] > np.iinfo(np.int32).max
    missing = pa.array([v is None for v in values]) if any(v is None for v in values) else None
    form = pa.LargeListArray if large else pa.ListArray
    return form.from_arrays(
        pa.array(offsets, pa.int64() if large else pa.int32()), column, mask=missing
    )


def _of_matrix(name: str, matrix: Any) -> SparseColumn:
    """A SciPy matrix or array: its rows are the records."""
    if matrix.ndim != 2:
        raise SchemaError(
            f"column {name!r} is a sparse array of {matrix.ndim} axes",
            hint="the first axis counts the records, the second the elements: reshape it",
        )
    _check_sparse(name, matrix.dtype, matrix.shape[1])
    rows = matrix.tocsr()
    return sparse_column(rows.indptr, rows.indices, rows.data, matrix.shape[1], f"column {name!r}")


def _of_sparse_rows(name: str, values: Sequence[Any]) -> SparseColumn:
    vectors = []
    for value in values:
        if value is None:
            raise DataError(
                f"column {name!r} holds None among its sparse vectors, which refuse nulls",
                hint="fill the missing ones or drop these records",
            )
        if not isinstance(value, SparseVector) and not hasattr(value, "tocsr"):
            raise TypeError("not all of them are sparse vectors")
        vector = value if isinstance(value, SparseVector) else value.tocsr()
        if len(vector.shape) == 2 and vector.shape[0] != 1:
            raise SchemaError(
                f"column {name!r} holds a sparse matrix of the shape {vector.shape} in a record",
                hint="a record's value is one row, of the shape (1, n)",
            )
        vectors.append(vector)
    dimensions = sorted({vector.shape[-1] for vector in vectors})
    if len(dimensions) > 1:
        raise SchemaError(
            f"column {name!r} holds sparse vectors of different dimensions: {dimensions}"
        )
    stored = [v.values if isinstance(v, SparseVector) else v.data for v in vectors]
    for numbers in stored:
        _check_sparse(name, numbers.dtype, dimensions[0])
    return sparse_column(
        np.cumsum([0, *map(len, stored)]),
        np.concatenate([v.indices for v in vectors]),
        np.concatenate(stored),
        dimensions[0],
        f"column {name!r}",
    )


def _check_sparse(name: str, dtype: np.dtype[Any], dimension: int) -> None:
    if dtype.kind not in "biuf":
        raise SchemaError(
            f"column {name!r} is a sparse matrix of {dtype}; sparse vectors hold float64"
        )
    if dimension > np.iinfo(np.int32).max:
        raise SchemaError(
            f"column {name!r} is a sparse matrix of {dimension} columns; at most 2**31 - 1 are "
            "supported",
            hint="hash the features to fewer columns",
        )


def type_of_column(name: str, column: MemoryColumn) -> ArrayType:
    """The type of a column that `column_of` made."""
    if isinstance(column, SparseColumn):
        return sparse(column.dimension)
    if isinstance(column, np.ndarray):
        kind = name_of(column.dtype)
        assert kind is not None  # _of_array and _of_rows let nothing else through
        return ArrayType(kind, column.shape[1:])
    return schema_from_arrow(pa.schema([pa.field(name, column.type)]), "the table")[name]


def without_views(name: str, column: pa.ChunkedArray, kind: ArrayType) -> pa.ChunkedArray:
    """The column without string views and list views, of which Arrow can take no records."""
    if "_view" not in str(column.type):
        return column
    chunks = [to_column(chunk, kind, f"column {name!r}")[0] for chunk in column.chunks]
    return pa.chunked_array(chunks, arrow_type(kind))


def unwrapped(name: str, column: MemoryColumn, kind: ArrayType) -> MemoryColumn:
    """An array in place of Arrow data that can be seen as one without a copy.

    Raises: DataError for a null in a column of fixed-shape arrays.
    """
    if isinstance(column, (np.ndarray, SparseColumn)) or kind.is_arrow or kind.name == "bool":
        return column
    where = f"column {name!r}"
    if isinstance(kind, SparseType):
        sparse_vectors, _ = to_column(column, kind, where)
        assert isinstance(sparse_vectors, SparseColumn)
        return sparse_vectors
    if column.num_chunks == 1 and (kind.shape or not column.null_count):
        values, _ = to_column(column, kind, where)
        assert isinstance(values, np.ndarray)
        return values
    if kind.shape:
        for chunk in column.chunks:
            to_column(chunk, kind, where)
    return column


class NumberChunks:
    """A column of single numbers in chunks, each seen as an array: int or float[rows]."""

    def __init__(self, chunks: Sequence[Array]) -> None:
        self._chunks = chunks
        self._ends: list[int] = np.cumsum([len(c) for c in chunks]).tolist()

    def slice(self, start: int, stop: int) -> Array:
        """The records start..stop-1; a copy where they lie in several chunks."""
        at = bisect_right(self._ends, start)
        parts: list[Array] = []
        while start < stop:
            chunk, end = self._chunks[at], self._ends[at]
            before = end - len(chunk)
            parts.append(chunk[start - before : min(stop, end) - before])
            start, at = end, at + 1
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([self._chunks[0][:0], *parts])


def number_chunks(column: MemoryColumn, kind: ArrayType) -> NumberChunks | None:
    """Arrow numbers without nulls as arrays that share their memory; None for other columns."""
    if not isinstance(column, pa.ChunkedArray) or kind.shape or not column.num_chunks:
        return None
    is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    if column.null_count or not is_number:
        return None
    chunks = [to_column(chunk, kind, "")[0] for chunk in column.chunks]
    return NumberChunks([c for c in chunks if isinstance(c, np.ndarray)])

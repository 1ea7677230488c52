"""Columns and arrays as bytes: what a message says of them, and the buffers that it refers to.

A header item is what msgpack can hold; arrays go to the message's buffers, as they lie in memory.
What has arrived may be anything: it is read as data, and ValueError is raised where it makes no
sense.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from scalops.algebra.dtypes import ArrayType, ListType, SparseType
from scalops.engine.columns import Array, ColumnData, SparseColumn, arrow_type

# A column's values and which of them are not null; no mask where all are there.
Masked: TypeAlias = "tuple[ColumnData, Array | None]"

_INDPTR, _INDICES, _VALUES = np.dtype(np.int64), np.dtype(np.int32), np.dtype(np.float64)
_ARROW_ALIGNMENT = 8  # bytes: of the buffers in Arrow's messages
# What reading nonsense as a column raises.
NONSENSE = (
    pa.ArrowException, TypeError, IndexError, KeyError, AttributeError, OverflowError,
    RecursionError, MemoryError,
)  # fmt: skip


# Arrays.


def add(array: Array, buffers: list[Array]) -> int:
    """Put an array's bytes among the buffers, in the order of their indices; its number there.

    No copy where the array is contiguous.
    """
    buffers.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return len(buffers) - 1


def encode_array(array: Array, buffers: list[Array]) -> list[Any]:
    """[type, shape, order of the axes in memory or None, number of the buffer]."""
    if array.dtype.hasobject:
        raise TypeError("an array of objects")
    order = _order(array)
    shown = array if order is None else array.transpose(order)
    return [array.dtype.str, list(array.shape), order, add(shown, buffers)]


def decode_array(item: Any, buffers: Sequence[Array]) -> Array:
    """The array again, its axes in the same order in memory; it shows the buffer where it can.

    Raises: ValueError, IndexError or TypeError for nonsense.
    """
    text, shape, order, number = item
    flat = values_in(buffers[_number(number)], plain_dtype(text))
    if order is None:
        return flat.reshape(shape)
    if sorted(order) != list(range(len(shape))):
        raise ValueError("axes that there are not")
    return flat.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))


def _order(array: Array) -> list[int] | None:
    """The axes by falling distance in memory; None where that is the order of the indices."""
    if array.flags.c_contiguous:
        return None
    found = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    return None if found == list(range(array.ndim)) else found


def values_in(buffer: Array, dtype: np.dtype[Any]) -> Array:
    """A buffer's bytes as an array of a type: a view where it is aligned for that."""
    if buffer.nbytes % max(1, dtype.itemsize):
        raise ValueError(f"{buffer.nbytes} bytes are no array of {dtype}")
    if buffer.ctypes.data % dtype.alignment:
        buffer = buffer.copy()
    return buffer.view(dtype)


def plain_dtype(text: Any) -> np.dtype[Any]:
    """The type of that name; ValueError for one whose elements are Python's objects."""
    if not isinstance(text, str):
        raise ValueError("a type without a name")
    dtype = np.dtype(text)
    if dtype.hasobject or dtype.itemsize == 0:
        raise ValueError(f"an array of {text}")
    return dtype


def _number(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"a buffer of the number {number!r}")
    return number


# Columns.


def encode_column(values: ColumnData, mask: Array | None, buffers: list[Array]) -> list[Any]:
    """A column and, unless it is None, its mask."""
    valid = None if mask is None else add(mask, buffers)
    if isinstance(values, np.ndarray):
        return ["array", valid, *encode_array(values, buffers)]
    if isinstance(values, SparseColumn):
        parts = (values.indptr, values.indices, values.values)
        return ["sparse", valid, values.dimension, [add(part, buffers) for part in parts]]
    batch = pa.record_batch([values], ["v"])
    schema = np.frombuffer(batch.schema.serialize(), np.uint8)
    data = np.frombuffer(batch.serialize(), np.uint8)
    return ["arrow", valid, add(schema, buffers), add(data, buffers)]


def decode_column(item: Any, buffers: Sequence[Array]) -> Masked:
    """A column of whatever kind and length it says that it is. Raises ValueError for nonsense."""
    try:
        found, rows = _values(item, buffers)
        return found, _mask(item, buffers, rows)
    except NONSENSE as error:
        raise ValueError(f"a column that makes no sense: {error}") from None


def decode_column_of(item: Any, buffers: Sequence[Array], rows: int, kind: ArrayType) -> Masked:
    """A column of exactly this type and length; ValueError for any other."""
    found, mask = decode_column(item, buffers)
    if isinstance(found, np.ndarray):
        fits = kind.is_plain and (found.dtype, found.shape) == (kind.numpy, (rows, *kind.shape))
    elif isinstance(found, SparseColumn):
        fits = isinstance(kind, SparseType) and found.dimension == kind.dimension
    else:
        fits = (kind.is_string or isinstance(kind, ListType)) and found.type == arrow_type(kind)
    if not fits or len(found) != rows:
        raise ValueError(f"no column of {rows} values of {kind}")
    return found, mask


def _values(item: Any, buffers: Sequence[Array]) -> tuple[ColumnData, int]:
    match item:
        case ["array", _, *array]:
            values: Any = decode_array(array, buffers)
            if values.dtype.kind == "b":  # no other byte is a bool
                values = values.view(np.uint8) != 0
            return values, len(values)
        case ["sparse", _, int(dimension), [indptr, indices, stored]]:
            column = SparseColumn(
                values_in(buffers[_number(indptr)], _INDPTR),
                values_in(buffers[_number(indices)], _INDICES),
                values_in(buffers[_number(stored)], _VALUES),
                dimension,
            )
            _check_sparse(column)
            return column, len(column)
        case ["arrow", _, schema, data]:
            found = _arrow(buffers[_number(schema)], buffers[_number(data)])
            return found, len(found)
    raise ValueError("a column that makes no sense")


def _mask(item: Any, buffers: Sequence[Array], rows: int) -> Array | None:
    if item[1] is None:
        return None
    mask: Array = buffers[_number(item[1])] != 0
    if mask.shape != (rows,):
        raise ValueError("not one bit of a mask for each record")
    return mask


def _arrow(schema: Array, data: Array) -> pa.Array:
    if data.ctypes.data % _ARROW_ALIGNMENT:
        data = data.copy()
    expected = pa.ipc.read_schema(pa.py_buffer(schema))
    found = pa.ipc.read_record_batch(pa.py_buffer(data), expected).column(0)
    found.validate(full=True)
    return found


def _check_sparse(column: SparseColumn) -> None:
    at, indices = column.indptr, column.indices
    if (
        len(at) == 0
        or at[0] != 0
        or at[-1] != len(indices)
        or len(indices) != len(column.values)
        or (np.diff(at) < 0).any()
        or (len(indices) and not 0 <= indices.min() <= indices.max() < column.dimension)
    ):
        raise ValueError("sparse vectors that make no sense")

"""Casts between scalar types: numbers, bools, strings and times.

A number's text is NumPy's: the shortest that reads back the same, `1.0`, `True`, and for a time
`2024-01-31T12:00:00`. What a text means is Arrow's to say: no spaces, no digit groups.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalops.algebra.dtypes import STRING, ArrayType
from scalops.algebra.errors import DataError
from scalops.algebra.functions.table import Function, register


def texts(values: Any) -> pa.Array:
    """A column of numbers or times as strings."""
    return pa.array(np.asarray(values).astype(str), pa.string())


def read(column: pa.Array, kind: ArrayType) -> Any:
    """A column of strings as an array of numbers or times; nulls give zeros.

    Raises: DataError with the first text that is none.
    """
    target = ArrayType("float32") if kind.name == "float16" else kind
    try:
        found = pc.cast(column, pa.from_numpy_dtype(target.numpy))
    except pa.ArrowInvalid:
        raise DataError(
            f"cast cannot read {_first_unreadable(column, target)!r} as {kind.name}",
            hint="filter such texts out first, or put others in their place by so.where",
        ) from None
    if target.numpy.kind in "mM":
        found = found.cast(pa.int64())
    zero = pa.scalar(False if target.name == "bool" else 0, found.type)
    values = pc.fill_null(found, zero).to_numpy(zero_copy_only=False)
    return values.view(kind.numpy) if target.numpy.kind in "mM" else values.astype(kind.numpy)


def _first_unreadable(column: pa.Array, kind: ArrayType) -> Any:
    """The first text that cannot be read; the halves of the column are tried."""
    while len(column) > 1:
        first = column.slice(0, len(column) // 2)
        try:
            pc.cast(first, pa.from_numpy_dtype(kind.numpy))
        except pa.ArrowInvalid:
            column = first
        else:
            column = column.slice(len(first))
    return column[0].as_py()


def _cast(value: Any, dtype: str) -> Any:
    if isinstance(value, str):
        if dtype == STRING:
            return value
        return read(pa.array([str(value)], pa.string()), ArrayType(dtype))[0]
    if dtype == STRING:
        return str(np.asarray(value).astype(str)[()])
    return np.asarray(value).astype(ArrayType(dtype).numpy)[()]


def _cast_type(kind: ArrayType, dtype: str) -> ArrayType:
    target = ArrayType(dtype, kind.shape)
    if not _is_possible(kind, target):
        raise TypeError(f"cast has no meaning for {kind} to {dtype}")
    return target


def _is_possible(kind: ArrayType, target: ArrayType) -> bool:
    if kind.is_list:
        return False
    if kind.is_string or target.is_string:
        return not kind.shape and not kind.is_sparse
    own, other = kind.numpy.kind, target.numpy.kind
    if own in "mM" or other in "mM":
        # Times in other units, and as counts of their unit.
        return own == other or "int64" in (kind.name, target.name)
    return True


# A text may be unreadable; a number can always be cast.
CAST = register(Function("cast", _cast_type, _cast))

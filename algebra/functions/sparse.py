"""Functions that make sparse vectors, keep their form, or give it up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from scalops.algebra import sparse_rules
from scalops.algebra.dtypes import ArrayType, ListType, sparse
from scalops.algebra.errors import DataError
from scalops.algebra.functions.hashing import hash_strings
from scalops.algebra.functions.table import FUNCTIONS, Function, register
from scalops.algebra.sparse import SparseVector

Array = np.ndarray[Any, np.dtype[Any]]
Rows = tuple[Array, Array, Array]  # indptr, indices, values: see engine/columns.py
LARGEST_DIMENSION = 1 << 31  # indices are int32


def compressed(lengths: Array, indices: Array, values: Array, dimension: int) -> Rows:
    """Compressed rows of indices in any order; values of equal indices in a row are added up.

    `lengths`: int64[rows], how many of the indices and values are each row's. Raises DataError
    for an index outside 0..dimension-1.
    """
    outside = (indices < 0) | (indices >= dimension)
    if outside.any():
        raise DataError(
            f"a sparse vector has the index {indices[outside][0]}; expected 0..{dimension - 1}",
            hint="indices count from 0; the dimension is one more than the greatest",
        )
    rows = len(lengths)
    # One key for row and index: row * dimension + index, below 2**63 for 2**32 rows.
    keys = np.repeat(np.arange(rows) * dimension, lengths) + indices.astype(np.int64)
    if len(keys) > 1 and not (keys[1:] > keys[:-1]).all():
        order = np.argsort(keys, kind="stable")
        keys, values = keys[order], values[order]
        first = np.concatenate([[True], keys[1:] != keys[:-1]])
        # bincount adds in the order of the records' own lists.
        values = np.bincount(np.cumsum(first) - 1, values)
        keys = keys[first]
    stored, indices = np.divmod(keys, dimension)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(stored, minlength=rows))])
    return indptr.astype(np.int64), indices.astype(np.int32), values.astype(np.float64)


def check_lengths(indices: Array, values: Array) -> None:
    """Raise DataError where a row has more indices than values, or fewer."""
    if not np.array_equal(indices, values):
        at = np.flatnonzero(indices != values)[0]
        raise DataError(
            f"a sparse vector has {indices[at]} indices and {values[at]} values",
            hint="there is one value for each index",
        )


def null_item(what: str) -> DataError:
    """The error of a null among indices or values."""
    return DataError(f"a sparse vector has a null among its {what}", hint="drop them before")


def hashed_tokens(lengths: Array, tokens: pa.Array, dimension: int) -> Rows:
    """How often each hash occurs among each row's strings; nulls do not count."""
    known = np.asarray(tokens.is_valid())
    if not known.all():
        rows = np.repeat(np.arange(len(lengths)), lengths)[known]
        lengths, tokens = np.bincount(rows, minlength=len(lengths)), tokens.drop_null()
    indices = (hash_strings(tokens) % np.uint64(dimension)).astype(np.int64)
    return compressed(lengths, indices, np.ones(len(indices)), dimension)


# Types.


def require_dimension(dimension: Any) -> int:
    """The dimension as an int; TypeError or ValueError for what is none."""
    if not isinstance(dimension, (int, np.integer)) or isinstance(dimension, bool):
        raise TypeError(f"the dimension of a sparse vector is a Python int, not {dimension!r}")
    if not 0 < dimension <= LARGEST_DIMENSION:
        raise ValueError(f"the dimension of a sparse vector is 1 to 2**31, not {dimension}")
    return int(dimension)


def _items(kind: ArrayType) -> ArrayType | None:
    """The type of a list's items, or of a vector's."""
    if isinstance(kind, ListType):
        return kind.item
    return ArrayType(kind.name) if kind.is_plain and len(kind.shape) == 1 else None


def _vector_type(indices: ArrayType, values: ArrayType, dimension: int) -> ArrayType:
    at, stored = _items(indices), _items(values)
    if at is None or at.shape or not at.is_numeric or at.numpy.kind not in "iu":
        raise TypeError(
            f"sparse_vector needs a list or vector of integers as indices, not {indices}"
        )
    if stored is None or stored.shape or not stored.is_numeric:
        raise TypeError(f"sparse_vector needs a list or vector of numbers as values, not {values}")
    if indices.is_plain and values.is_plain and indices.shape != values.shape:
        raise ValueError(f"sparse_vector cannot combine the shapes of {indices} and {values}")
    return sparse(require_dimension(dimension))


def _counts_type(tokens: ArrayType, dimension: int) -> ArrayType:
    if not isinstance(tokens, ListType) or not tokens.item.is_string:
        raise TypeError(f"hashed_counts needs a list of strings, not {tokens}")
    return sparse(require_dimension(dimension))


def _dense_type(kind: ArrayType) -> ArrayType:
    if not kind.is_numeric:
        raise TypeError(f"dense has no meaning for {kind}")
    return kind


def _stored_type(kind: ArrayType, ufunc: str, constant: Any, side: int) -> ArrayType:
    """Of f(x, c) for side 0, f(c, x) for side 1."""
    other = ArrayType("float64")
    types, constants = ((kind, other), (None, constant)) if side == 0 else (
        (other, kind), (constant, None)
    )  # fmt: skip
    return sparse_rules.elementwise_type(stored_ufunc(ufunc), types, constants)


def stored_ufunc(name: str) -> np.ufunc:
    """The universal function of that name in the table."""
    found = FUNCTIONS[name].ufunc
    assert found is not None
    return found


# Meaning for one record.


def _vector(indices: Any, values: Any, dimension: int) -> SparseVector:
    return SparseVector(*_one_row(indices, values, dimension), dimension)


def _one_row(indices: Any, values: Any, dimension: int) -> tuple[Array, Array]:
    for items, what in ((indices, "indices"), (values, "values")):
        if isinstance(items, list) and any(i is None for i in items):
            raise null_item(what)
    at, stored = _numbers(indices, np.int64), _numbers(values, np.float64)
    lengths = np.array([len(at)])
    check_lengths(lengths, np.array([len(stored)]))
    return compressed(lengths, at, stored, dimension)[1:]


def _numbers(items: Any, otherwise: Any) -> Array:
    array = np.asarray(items)
    return array if array.size else array.astype(otherwise)


def _counts(tokens: list[Any], dimension: int) -> SparseVector:
    strings = pa.array([t if t is None else str(t) for t in tokens], pa.string())
    found = hashed_tokens(np.array([len(tokens)]), strings, dimension)
    return SparseVector(found[1], found[2], dimension)


def _dense(x: Any) -> Any:
    return x.toarray() if isinstance(x, SparseVector) else x


def _stored(x: SparseVector, ufunc: str, constant: Any, side: int) -> SparseVector:
    function = stored_ufunc(ufunc)
    return x.with_values(
        function(x.values, constant) if side == 0 else function(constant, x.values)
    )


SPARSE_VECTOR = register(
    Function("sparse_vector", _vector_type, _vector, flops_of=lambda *_, **__: 1e3, can_fail=True)
)
HASHED_COUNTS = register(
    Function("hashed_counts", _counts_type, _counts, flops_of=lambda *_, **__: 1e4)
)
DENSE = register(Function("dense", _dense_type, _dense, sparse=lambda kind: kind.dense()))
# f(x, c) where f(0, c) is 0: only the constant tells that the result is sparse.
STORED = register(Function("stored", _stored_type, _stored, sparse=_stored_type))

"""Functions of sparse columns: over what is stored, or as products of compressed rows.

What is the same for all records is a `SparseVector` or a dense array; a batched argument is a
`SparseColumn` or an array [rows, *shape]. No step makes a dense array of a record's dimension,
but where the function's own result is one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse as scipy_sparse

from scalops.algebra.dtypes import ArrayType, SparseType
from scalops.algebra.expressions import Call
from scalops.algebra.functions import sparse as sparse_functions
from scalops.algebra.sparse import SparseVector
from scalops.engine.columns import Array, SparseColumn, arrow_type
from scalops.engine.kernels.buffers import into
from scalops.engine.kernels.sparse_products import rows_times

Step = Callable[..., Any]
Batched = Sequence[bool]


def sparse_step(call: Call, flags: Batched) -> Step | None:
    """The step of a function that takes or gives sparse vectors; None for any other."""
    kinds = [call.any_type, *(a.any_type for a in call.arguments)]
    if not any(isinstance(k, ArrayType) and k.is_sparse for k in kinds):
        return None
    name, parameters = call.function.name, dict(call.parameters)
    if call.function.ufunc is not None:
        return _elementwise(call, flags)
    maker = _FORMS.get(name)
    made = None if maker is None else maker(call, flags, parameters)
    return made or _by_record(call, flags)


# Columns.


def rows_of(column: SparseColumn) -> Array:
    """int64[stored]: the record of each stored element."""
    return np.repeat(np.arange(len(column)), column.lengths)


def compressed_matrix(column: SparseColumn) -> Any:
    """The column as a scipy.sparse.csr_array on the same memory; made once for a column."""
    known = column.__dict__.get("_matrix")
    if known is None:
        # By attributes: the constructor would look through all indices.
        known = scipy_sparse.csr_array((len(column), column.dimension))
        known.indptr = column.indptr.astype(column.indices.dtype)
        known.indices, known.data = column.indices, column.values
        known.has_sorted_indices = known.has_canonical_format = True
        object.__setattr__(column, "_matrix", known)
    return known


def column_of(matrix: Any) -> SparseColumn:
    """The column of a csr_array in canonical form."""
    matrix.sum_duplicates()
    indices = matrix.indices.astype(np.int32, copy=False)
    values = matrix.data.astype(np.float64, copy=False)
    return SparseColumn(matrix.indptr.astype(np.int64), indices, values, matrix.shape[1])


def repeated(vector: SparseVector, rows: int) -> SparseColumn:
    """One vector as a column."""
    stored = len(vector.indices)
    indptr = np.arange(rows + 1, dtype=np.int64) * stored
    return SparseColumn(
        indptr, np.tile(vector.indices, rows), np.tile(vector.values, rows), vector.size
    )


def vectors_of(column: SparseColumn) -> list[Any]:
    """The records' values one by one, as views."""
    indices, values = column.indices.view(), column.values.view()
    indices.setflags(write=False)
    values.setflags(write=False)
    at = column.indptr.tolist()
    return [SparseVector(indices[a:b], values[a:b], column.dimension) for a, b in pairwise(at)]


def column_from(vectors: Sequence[SparseVector], dimension: int) -> SparseColumn:
    """The column of records' values."""
    lengths = [len(v.indices) for v in vectors]
    return SparseColumn(
        np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)]),
        np.concatenate([np.empty(0, np.int32), *(v.indices for v in vectors)]),
        np.concatenate([np.empty(0), *(v.values for v in vectors)]),
        dimension,
    )


def dense_rows(column: SparseColumn) -> Array:
    """float64[rows, dimension]."""
    dense: Array = compressed_matrix(column).toarray()
    return dense


def _row_sums(column: SparseColumn, values: Array) -> Array:
    """The sum of each record's numbers, as NumPy adds them up; 0 where there are none."""
    found: Array = np.zeros(len(column))
    held = np.flatnonzero(column.lengths)
    if len(held):
        found[held] = np.add.reduceat(values, column.indptr[held], dtype=np.float64)
    return found


def _rows(arguments: Sequence[Any], flags: Batched) -> int:
    return len(next(a for a, b in zip(arguments, flags, strict=True) if b))


# Elementwise functions.


def _elementwise(call: Call, flags: Batched) -> Step:
    ufunc = call.function.ufunc
    assert ufunc is not None
    kinds = [a.type for a in call.arguments]
    if len(kinds) == 1:
        return _of_values(ufunc)
    if all(k.is_sparse for k in kinds):
        return lambda a, b: _of_both(ufunc, a, b, flags)
    side = 0 if kinds[0].is_sparse else 1
    if not call.type.is_sparse:
        return lambda *pair: _dense_sum(ufunc, pair[side], pair[1 - side], side, flags)
    scalar = not kinds[1 - side].shape

    def step(*pair: Any) -> SparseColumn:
        x, other = pair[side], pair[1 - side]
        if isinstance(x, SparseVector):
            x = repeated(x, len(other))
        if not flags[1 - side]:
            other = other if scalar else np.asarray(other)[x.indices]
        elif scalar:
            other = np.repeat(other, x.lengths)
        else:
            other = other[rows_of(x), x.indices]
        given = (x.values, other) if side == 0 else (other, x.values)
        made: SparseColumn = x.with_values(ufunc(*given))
        return made

    return step


def _of_both(ufunc: np.ufunc, a: Any, b: Any, flags: Batched) -> SparseColumn:
    rows = _rows((a, b), flags)
    a, b = (repeated(x, rows) if isinstance(x, SparseVector) else x for x in (a, b))
    if ufunc is np.multiply:
        return column_of(compressed_matrix(a) * compressed_matrix(b))
    if ufunc is np.add:
        return column_of(compressed_matrix(a) + compressed_matrix(b))
    if ufunc is np.subtract:
        return column_of(compressed_matrix(a) - compressed_matrix(b))
    dimension = a.dimension
    left, right = (rows_of(x) * dimension + x.indices for x in (a, b))
    keys = np.union1d(left, right)
    x, y = np.zeros(len(keys)), np.zeros(len(keys))
    x[np.searchsorted(keys, left)] = a.values
    y[np.searchsorted(keys, right)] = b.values
    stored, indices = np.divmod(keys, dimension)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(stored, minlength=rows))])
    return SparseColumn(indptr.astype(np.int64), indices.astype(np.int32), ufunc(x, y), dimension)


def _dense_sum(ufunc: np.ufunc, x: Any, other: Any, side: int, flags: Batched) -> Array:
    """x + w, w + x, x - w or w - x: [rows, dimension]."""
    if isinstance(x, SparseVector):
        dense = x.toarray()
        made: Array = ufunc(dense, other) if side == 0 else ufunc(other, dense)
        return made
    result: Array = np.empty((len(x), x.dimension))
    result[:] = other
    if ufunc is np.subtract and side == 0:
        np.negative(result, out=result)
    values = -x.values if ufunc is np.subtract and side == 1 else x.values
    result[rows_of(x), x.indices] += values
    return result


def _stored(call: Call, flags: Batched, parameters: Any) -> Step:
    ufunc = sparse_functions.stored_ufunc(parameters["ufunc"])
    constant = parameters["constant"]
    if parameters["side"] == 0:
        return _of_values(lambda values: ufunc(values, constant))
    return _of_values(lambda values: ufunc(constant, values))


def _each(call: Call, flags: Batched, parameters: Any) -> Step:
    evaluate = call.function.evaluate
    return _of_values(lambda values: evaluate(values, **parameters))


def _of_values(function: Callable[[Array], Any]) -> Step:
    """A function that looks at each element by itself and leaves 0 at 0."""

    def step(x: SparseColumn) -> SparseColumn:
        return x.with_values(function(x.values))

    return step


# Products.


def _matmul(call: Call, flags: Batched, _: Any) -> Step | None:
    left, right = (a.type for a in call.arguments)
    if left.is_sparse and right.is_sparse:
        return _inner(flags)
    side = 0 if left.is_sparse else 1
    rank = len((right if side == 0 else left).shape)
    if not flags[side]:
        if rank > 1:
            return None

        def of_one(*pair: Any) -> Array:
            x, rows = pair[side], pair[1 - side]
            made: Array = np.matmul(rows[:, x.indices], x.values)
            return made

        return of_one
    if flags[1 - side]:
        if rank > 1:
            return None

        def of_pairs(*pair: Any) -> Array:
            x, w = pair[side], pair[1 - side]
            return _row_sums(x, x.values * w[rows_of(x), x.indices])

        return of_pairs

    def turned(w: Any) -> Array:
        right = np.asarray(w, np.float64)
        return np.ascontiguousarray(right if side == 0 else right.T)

    right_of = _once(turned)

    @into
    def step(*pair: Any, out: Array | None = None) -> Array:
        return rows_times(pair[side], right_of(pair[1 - side]), out)

    return step


def _once(make: Callable[[Any], Array]) -> Callable[[Any], Array]:
    """Makes an array of the same value once: one serves all blocks of an iteration."""
    known: tuple[Any, Array] = (None, np.empty(0))
    lock = threading.Lock()

    def made(value: Any) -> Array:
        nonlocal known
        given, array = known
        if given is value:
            return array
        with lock:  # threads begin together, and each would make it
            if known[0] is not value:
                known = value, make(value)
            return known[1]

    return made


def _inner(flags: Batched) -> Step:
    dense_of = _once(SparseVector.toarray)

    def step(a: Any, b: Any) -> Array:
        if isinstance(a, SparseVector):
            a, b = b, a
        if isinstance(b, SparseVector):
            return rows_times(a, dense_of(b))
        if a is b:
            return _row_sums(a, a.values * a.values)
        both = _of_both(np.multiply, a, b, flags)
        return _row_sums(both, both.values)

    return step


def _outer(call: Call, flags: Batched, _: Any) -> Step:
    kinds = [a.type for a in call.arguments]
    side = 0 if kinds[0].is_sparse else 1
    size = kinds[1 - side].size

    def step(*pair: Any) -> Array:
        x, other = pair[side], np.asarray(pair[1 - side])
        rows = _rows(pair, flags)
        if isinstance(x, SparseVector):
            x = repeated(x, rows)
        at = rows_of(x)
        factor = other.reshape(rows, size)[at] if flags[1 - side] else other.reshape(1, size)
        products = x.values[:, None] * factor
        result: Array = np.zeros((rows, x.dimension, size))
        result[at, x.indices] = products
        return result if side == 0 else result.transpose(0, 2, 1)

    return step


def _norm(call: Call, flags: Batched, parameters: Any) -> Step:
    order = parameters.get("ord")
    if order == 1:
        return lambda x: _row_sums(x, np.abs(x.values))
    if order == np.inf:
        return lambda x: _extremes(np.maximum, x.with_values(np.abs(x.values)))
    return lambda x: np.sqrt(_row_sums(x, x.values * x.values))


# Folds of one record's elements, and single elements.


def _sum(call: Call, flags: Batched, _: Any) -> Step:
    return lambda x: _row_sums(x, x.values)


def _mean(call: Call, flags: Batched, _: Any) -> Step:
    return lambda x: _row_sums(x, x.values) / x.dimension


def _extreme(ufunc: np.ufunc) -> Callable[..., Step]:
    return lambda call, flags, _: lambda x: _extremes(ufunc, x)


def _extremes(ufunc: np.ufunc, x: SparseColumn) -> Array:
    """The greatest or least element of each record; what is not stored is 0."""
    found: Array = np.zeros(len(x))
    lengths = x.lengths
    held = np.flatnonzero(lengths)
    if len(held):
        stored = ufunc.reduceat(x.values, x.indptr[held])
        whole = lengths[held] == x.dimension
        found[held] = np.where(whole, stored, ufunc(stored, 0.0))
    return found


def _any(call: Call, flags: Batched, _: Any) -> Step:
    return lambda x: _row_sums(x, x.values != 0) > 0


def _all(call: Call, flags: Batched, _: Any) -> Step:
    return lambda x: _row_sums(x, x.values != 0) == x.dimension


def _index(call: Call, flags: Batched, parameters: Any) -> Step:
    (key,) = parameters["key"]
    return lambda x: _elements(x, np.full(len(x), key))


def _take(call: Call, flags: Batched, _: Any) -> Step:
    def step(x: Any, index: Any) -> Array:
        rows = _rows((x, index), flags)
        if isinstance(x, SparseVector):
            x = repeated(x, rows)
        return _elements(x, np.broadcast_to(np.asarray(index), rows).astype(np.int64))

    return step


def _elements(x: SparseColumn, index: Array) -> Array:
    """The element `index[i]` of record i."""
    outside = (index < -x.dimension) | (index >= x.dimension)
    if outside.any():
        raise IndexError(
            f"index {index[outside][0]} is out of bounds for axis 0 with size {x.dimension}"
        )
    index = np.where(index < 0, index + x.dimension, index)
    hit = np.flatnonzero(x.indices == np.repeat(index, x.lengths))
    found: Array = np.zeros(len(x))
    # Where a record begins after the element: the record before it holds it.
    found[np.searchsorted(x.indptr, hit, side="right") - 1] = x.values[hit]
    return found


# From other columns, and to dense ones.


def _dense(call: Call, flags: Batched, _: Any) -> Step:
    return dense_rows


def _sparse_vector(call: Call, flags: Batched, parameters: Any) -> Step:
    kinds = [a.type for a in call.arguments]
    dimension = parameters["dimension"]

    def step(*pair: Any) -> SparseColumn:
        rows = _rows(pair, flags)
        lengths, items = [], []
        for given, kind, batched, what in zip(
            pair, kinds, flags, ("indices", "values"), strict=True
        ):
            own, flat = _flat(given, kind, batched, rows)
            if isinstance(flat, pa.Array):
                if flat.null_count:
                    raise sparse_functions.null_item(what)
                flat = flat.to_numpy(zero_copy_only=False)
            lengths.append(own)
            items.append(flat)
        sparse_functions.check_lengths(*lengths)
        found = sparse_functions.compressed(lengths[0], items[0], items[1], dimension)
        return SparseColumn(*found, dimension)

    return step


def _hashed_counts(call: Call, flags: Batched, parameters: Any) -> Step:
    dimension = parameters["dimension"]

    def step(tokens: pa.Array) -> SparseColumn:
        lengths, flat = _flat(tokens, call.arguments[0].type, True, len(tokens))
        found = sparse_functions.hashed_tokens(lengths, flat, dimension)
        return SparseColumn(*found, dimension)

    return step


def _flat(given: Any, kind: ArrayType, batched: bool, rows: int) -> tuple[Array, Any]:
    """How many items each record has, and all items; null is an empty list."""
    if not kind.is_list:
        flat = np.broadcast_to(given, (rows, kind.size)).reshape(-1)
        return np.full(rows, kind.size), flat
    if not batched:
        given = pa.array([given], arrow_type(kind)).take(pa.array(np.zeros(rows, np.int64)))
    lengths = pc.fill_null(pc.list_value_length(given), 0).to_numpy(zero_copy_only=False)
    return lengths.astype(np.int64), given.flatten()


# Record by record.


def _by_record(call: Call, flags: Batched) -> Step:
    evaluate, parameters = call.function.evaluate, dict(call.parameters)
    kind = call.type

    def step(*arguments: Any) -> Any:
        rows = _rows(arguments, flags)
        given = [vectors_of(a) if isinstance(a, SparseColumn) else a for a in arguments]
        results = [
            evaluate(*(g[i] if b else g for g, b in zip(given, flags, strict=True)), **parameters)
            for i in range(rows)
        ]
        if isinstance(kind, SparseType):
            return column_from(results, kind.dimension)
        return np.asarray(results, kind.numpy).reshape(rows, *kind.shape)

    return step


_FORMS: dict[str, Callable[[Call, Batched, Any], Step | None]] = {
    "stored": _stored,
    "round": _each,
    "nan_to_num": _each,
    "matmul": _matmul,
    "outer": _outer,
    "norm": _norm,
    "sum": _sum,
    "mean": _mean,
    "max": _extreme(np.maximum),
    "min": _extreme(np.minimum),
    "any": _any,
    "all": _all,
    "index": _index,
    "take": _take,
    "dense": _dense,
    "sparse_vector": _sparse_vector,
    "hashed_counts": _hashed_counts,
}

"""What opaque functions return, gathered into columns of the declared types.

Results are taken apart all at once where their Python types are the same throughout, as they
mostly are; else one by one, which also finds the first one that is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from scalops.algebra.captured import Captured
from scalops.algebra.dtypes import ArrayType, ListType, name_of
from scalops.algebra.errors import UserFunctionError
from scalops.algebra.schema import FIELD
from scalops.engine.columns import Array, ColumnData, SparseColumn, arrow_type
from scalops.engine.opaque.records import Record, take_all_apart
from scalops.engine.opaque.rows import Row, row_class

Vector = tuple[ColumnData, Array | None]  # values, and which are not null


class Unfit(Exception):
    """A value that a column cannot hold."""


def collect(
    captured: Captured,
    results: Sequence[Any],
    records: Sequence[Any],
    names: tuple[str, ...] | None,
    kinds: Sequence[ArrayType],
) -> list[Vector]:
    """One column for each of `kinds`, from one result for each record.

    Raises UserFunctionError for the first result that is not what was declared, or what the
    sampled ones were.
    """
    columns = _taken_apart(results, names, len(kinds))
    if columns is not None:
        try:
            return [column_of(c, k) for c, k in zip(columns, kinds, strict=True)]
        except Unfit:
            pass
    return _one_by_one(captured, results, records, names, kinds)


def _taken_apart(
    results: Sequence[Any], names: tuple[str, ...] | None, count: int
) -> list[Sequence[Any]] | None:
    """The results' parts, if all results have the one form; None if not, or not surely."""
    if not results:
        return [[] for _ in range(count)]
    found = set(map(type, results))
    if names is None:
        if any(
            issubclass(t, (dict, tuple, Row)) or hasattr(t, "__dataclass_fields__") for t in found
        ):
            return None
        return [results]
    if len(found) != 1:
        return None
    (kind,) = found
    columns = tuple(dict.fromkeys(n.partition(FIELD)[0] for n in names))
    taken = _columns(results, kind, columns)
    if taken is None or columns == names:
        return taken
    made: list[Sequence[Any]] = []
    for column, values in zip(columns, taken, strict=True):
        start = column + FIELD
        inner = tuple(n[len(start) :] for n in names if n.startswith(start))
        parts = [values]
        if inner:
            parts = _taken_apart(values, inner, len(inner)) or []
        if not parts:
            return None
        made += parts
    return made


def _columns(
    results: Sequence[Any], kind: type, names: tuple[str, ...]
) -> list[Sequence[Any]] | None:
    """The parts of results of one Python type, if these are their names; None if not surely."""
    if kind is Record:
        results, kind = [r._values for r in results], dict
    if issubclass(kind, Row):
        if kind is not row_class(names):
            return None
        return [list(map(attrgetter(m), results)) for m in kind._members]
    if kind is dict:
        if set(map(len, results)) != {len(names)}:
            return None
        try:
            return [list(map(itemgetter(n), results)) for n in names]
        except KeyError:
            return None
    if kind is tuple:
        expected = tuple(f"_{i}" for i in range(len(names)))
    else:
        expected = getattr(kind, "_fields", ()) if issubclass(kind, tuple) else ()
    if expected != names or set(map(len, results)) != {len(names)}:
        return None
    return list(zip(*results, strict=True))


def _one_by_one(
    captured: Captured,
    results: Sequence[Any],
    records: Sequence[Any],
    names: tuple[str, ...] | None,
    kinds: Sequence[ArrayType],
) -> list[Vector]:
    def drift(found: str, expected: str, record: Any) -> UserFunctionError:
        shown = _shown(record)
        return UserFunctionError(
            f"{captured.name} gives {found}; expected {expected}, as declared or as its first"
            f" results were; the record is {shown!r}",
            location=captured.location,
            hint="make every record's result one type, or say so.udf(returns=...)",
        )

    columns: list[list[Any]] = [[] for _ in kinds]
    for result, record in zip(results, records, strict=False):
        own, values = take_all_apart(result)
        if own != names and own is not None and names is not None and set(own) == set(names):
            values = [values[own.index(n)] for n in names]  # a dict's order says nothing
            own = names
        if own != names:
            raise drift(f"{own or 'one value'}", f"{names or 'one value'}", record)
        for column, kind, value in zip(columns, kinds, values, strict=True):
            try:
                column_of([value], kind)
            except Unfit:
                raise drift(_found(value), str(kind), record) from None
            column.append(value)
    return [column_of(c, k) for c, k in zip(columns, kinds, strict=True)]


def _shown(record: Any) -> Any:
    if not isinstance(record, Row):
        return record
    return {name: _shown(value) for name, value in record._values.items()}


def _found(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}[{','.join(map(str, value.shape))}]"
    try:
        shown = repr(value)
    except Exception:
        return f"a {type(value).__name__}"
    return f"the {type(value).__name__} {shown if len(shown) <= 60 else shown[:60] + '...'}"


def column_of(items: Sequence[Any], kind: ArrayType) -> Vector:
    """A column from Python values; None is null. Raises Unfit."""
    types = set(map(type, items))
    mask: Array | None = None
    if type(None) in types:
        types.discard(type(None))
        mask = np.fromiter((v is not None for v in items), bool, len(items))
    if kind.is_string:
        return _strings(items, types), mask
    if isinstance(kind, ListType):
        return _lists(items, types, kind), mask
    if kind.is_sparse:
        return _sparse(items, types, kind), mask
    if mask is not None:
        known = [v for v in items if v is not None]
        values = np.zeros((len(items), *kind.shape), kind.numpy)
        if known:
            values[mask] = _numbers(known, types, kind)
        return values, mask
    return _numbers(items, types, kind), None


def _strings(items: Sequence[Any], types: set[type]) -> pa.Array:
    if np.ndarray in types:  # np.where of strings gives an array without dimensions
        items = [v[()] if isinstance(v, np.ndarray) and v.ndim == 0 else v for v in items]
        types = {type(v) for v in items if v is not None}
    if not all(issubclass(t, str) for t in types):
        raise Unfit
    try:
        return pa.array(items, pa.string())
    except (pa.ArrowException, UnicodeError) as error:  # half a surrogate pair
        raise Unfit from error


# Types whose values NumPy turns into a column at once, by the column's own type.
_DIRECT: dict[str, tuple[frozenset[type], ...]] = {
    "float64": (frozenset({float}), frozenset({int}), frozenset({float, int})),
    "int64": (frozenset({int}),),
    "uint64": (frozenset({int}),),
    "bool": (frozenset({bool}),),
}


def _numbers(items: Sequence[Any], types: set[type], kind: ArrayType) -> Array:
    if not items:
        return np.empty((0, *kind.shape), kind.numpy)
    if not kind.shape and frozenset(types) in _DIRECT.get(kind.name, ()):
        try:
            return np.fromiter(items, kind.numpy, len(items))
        except OverflowError as error:
            raise Unfit from error
    try:
        return widened(_together(items, types), kind)
    except Unfit:
        pass  # each of them may fit
    values = np.empty((len(items), *kind.shape), kind.numpy)
    for i, item in enumerate(items):
        values[i] = widened(as_array(item)[None], kind)[0]
    return values


def _together(items: Sequence[Any], types: set[type]) -> Array:
    """Values of one kind as an array. Raises Unfit for a mixture: NumPy would convert some."""
    if types == {np.ndarray}:
        if len({(a.dtype, a.shape) for a in items}) > 1:
            raise Unfit
    elif not (
        all(t in (int, float) or issubclass(t, np.number) for t in types)
        or all(t is bool or issubclass(t, np.bool_) for t in types)
    ):
        raise Unfit
    return np.array(items)


def widened(values: Array, kind: ArrayType) -> Array:
    """Values in the column's type, if that loses nothing; else Unfit."""
    own = name_of(values.dtype)
    if values.shape[1:] != kind.shape or own in (None, "string") or not _widens(values, kind):
        raise Unfit
    return values.astype(kind.numpy, copy=False)


def _widens(array: Array, kind: ArrayType) -> bool:
    a, b = array.dtype, kind.numpy
    if a == b:
        return True
    if a.kind in "iu" and b.kind in "iu":
        # A narrower integer type, or one without a sign, is right as long as the numbers fit.
        return bool(np.all(array.astype(b) == array))
    return np.can_cast(a, b, "same_kind") and not (a.kind == "b" and b.kind != "b")


def as_array(value: Any) -> Array:
    """A result as an array; Python's times are NumPy's."""
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            value = value.astimezone(UTC).replace(tzinfo=None)
        return np.asarray(np.datetime64(value, "us"))
    if isinstance(value, timedelta):
        return np.asarray(np.timedelta64(value, "us"))
    try:
        return np.asarray(value)
    except ValueError:  # lists of different lengths
        return np.asarray(None)


# Lists and sparse vectors.

_SEQUENCES = (list, tuple, np.ndarray)


def _lists(items: Sequence[Any], types: set[type], kind: ListType) -> pa.Array:
    if not all(issubclass(t, _SEQUENCES) for t in types):
        raise Unfit
    plain = [i if i is None else list(i) for i in items]
    inner = [v for i in plain if i is not None for v in i]
    lengths = np.fromiter((0 if i is None else len(i) for i in plain), np.int64, len(plain))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise Unfit
    return _list_array(offsets, _arrow_items(inner, kind.item), plain, kind)


def _arrow_items(items: Sequence[Any], kind: ArrayType) -> pa.Array:
    """The values inside lists as an Arrow array; None is null."""
    if kind.is_sparse:
        raise Unfit
    values, mask = column_of(items, kind)
    if not isinstance(values, np.ndarray):
        return values
    nulls = None if mask is None else ~mask
    if not kind.shape:
        return pa.array(values, mask=nulls)
    flat = pa.array(values.reshape(-1))
    missing = None if nulls is None else pa.array(nulls)
    return pa.FixedSizeListArray.from_arrays(flat, kind.size, mask=missing)


def _list_array(offsets: Array, inner: pa.Array, items: Sequence[Any], kind: ListType) -> pa.Array:
    missing = None
    if any(i is None for i in items):
        missing = pa.array([i is None for i in items], pa.bool_())
    made = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), inner, mask=missing)
    return made.cast(arrow_type(kind))


def _sparse(items: Sequence[Any], types: set[type], kind: ArrayType) -> SparseColumn:
    from scalops.algebra.sparse import SparseVector

    if not all(issubclass(t, SparseVector) for t in types):
        raise Unfit
    vectors = [v for v in items if v is not None]
    if any(tuple(v.shape) != kind.shape for v in vectors):
        raise Unfit
    lengths = [0 if v is None else len(v.indices) for v in items]
    return SparseColumn(
        np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)]),
        np.concatenate([np.empty(0, np.int32), *(v.indices for v in vectors)]).astype(np.int32),
        np.concatenate([np.empty(0), *(v.values for v in vectors)]).astype(np.float64),
        kind.shape[0],
    )

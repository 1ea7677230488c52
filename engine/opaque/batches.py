"""Opaque functions over the arguments of a block: one call per record, or one per piece."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scalops.algebra.captured import Captured
from scalops.algebra.dtypes import ArrayType, ListType, sparse
from scalops.algebra.errors import UserFunctionError
from scalops.algebra.schema import Schema
from scalops.engine.columns import Array, SparseColumn
from scalops.engine.opaque.arguments import Argument, Column, concatenated, rows_of
from scalops.engine.opaque.calls import WantsText, call_rows, python_value, raised, reads_text
from scalops.engine.opaque.pieces import piece_bounds, timed_bounds
from scalops.engine.opaque.records import take_apart
from scalops.engine.opaque.results import Unfit, column_of, widened
from scalops.engine.progress import calling, seconds_for_call
from scalops.engine.threads import Stopped

if TYPE_CHECKING:
    from scalops.algebra.expressions import Opaque

Function = Callable[..., Any]


def call_over(
    captured: Captured,
    function: Function,
    arguments: Sequence[Argument],
    rows: int,
    names: tuple[str, ...] | None,
    kinds: Sequence[ArrayType],
) -> list[Column]:
    """The function's results for a block's records, in this process."""
    if captured.batch:
        return call_pieces(captured, function, arguments, piece_bounds(rows), names, kinds)
    if seconds_for_call() is None or rows == 0:
        with calling(captured, lambda: over_records(0, rows)):
            return _call_records(captured, function, arguments, rows, names, kinds)
    parts = []
    for start, stop in timed_bounds(rows):
        own = [a.slice(start, stop) for a in arguments]
        with calling(captured, lambda a=start, b=stop: over_records(a, b)):  # type: ignore[misc]
            parts.append(_call_records(captured, function, own, stop - start, names, kinds))
    return [concatenated(p, k) for p, k in zip(zip(*parts, strict=True), kinds, strict=True)]


def _call_records(
    captured: Captured,
    function: Function,
    arguments: Sequence[Argument],
    rows: int,
    names: tuple[str, ...] | None,
    kinds: Sequence[ArrayType],
) -> list[Column]:
    try:
        own = [a.records(rows, reads_text(captured)) for a in arguments]
        made = call_rows(captured, function, own, names, kinds)
    except WantsText:
        own = [a.records(rows, text=True) for a in arguments]
        made = call_rows(captured, function, own, names, kinds)
    return [Column(*c) for c in made]


def over_records(start: int, stop: int) -> str:
    """What a call is over, as part of a sentence."""
    return f", over records {start} to {stop - 1} of a block"


def call_pieces(
    captured: Captured,
    function: Function,
    arguments: Sequence[Argument],
    pieces: Sequence[tuple[int, int]],
    names: tuple[str, ...] | None,
    kinds: Sequence[ArrayType],
) -> list[Column]:
    """A batch function's results, one call for each piece.

    Raises UserFunctionError where it raises, or does not give one value for each record.
    """
    parts: list[list[Column]] = []
    for start, stop in pieces:
        own = [a.slice(start, stop).arrays(stop - start) for a in arguments]
        place = f"the batch is records {start} to {stop - 1}"
        with calling(captured, lambda a=start, b=stop: over_records(a, b)):  # type: ignore[misc]
            result = call_batch(captured, function, own, place)
        parts.append(batch_columns(captured, result, stop - start, names, kinds))
    return [concatenated(p, k) for p, k in zip(zip(*parts, strict=True), kinds, strict=True)]


def call_batch(captured: Captured, function: Function, arguments: list[Any], place: str) -> Any:
    """A batch function's own result; UserFunctionError where it raises."""
    try:
        return function(*arguments)
    except (KeyboardInterrupt, Stopped):
        raise
    except BaseException as error:
        made = raised(captured, error, [place])
        raise made from error


def batch_columns(
    captured: Captured,
    result: Any,
    rows: int,
    names: tuple[str, ...] | None,
    kinds: Sequence[ArrayType],
) -> list[Column]:
    """The arrays of a batch function's result as columns."""
    own, values = take_apart(result)
    if own != names and own is not None and names is not None and set(own) == set(names):
        values, own = [values[own.index(n)] for n in names], names
    if own != names:
        raise _unfit(captured, f"{own or 'one array'}", f"{names or 'one array'}")
    columns = []
    for value, kind in zip(values, kinds, strict=True):
        count = _length(value)
        if count != rows:
            found = "a single value" if count is None else f"{count} values"
            raise _unfit(captured, f"{found} for {rows} records", "one for each record")
        try:
            columns.append(_column(value, kind))
        except Unfit:
            dtype = getattr(value, "dtype", type(value).__name__)
            shape = getattr(value, "shape", (rows,))
            raise _unfit(
                captured, f"{dtype}[{','.join(map(str, shape))}]", f"{kind} for each record"
            ) from None
    return columns


def _unfit(captured: Captured, found: str, expected: str) -> UserFunctionError:
    return UserFunctionError(
        f"{captured.name} gives {found}; expected {expected}",
        location=captured.location,
        hint="a batch function gets arrays [records, ...] and returns such arrays",
    )


def _length(value: Any) -> int | None:
    shape = getattr(value, "shape", None)
    if shape is not None:
        return int(shape[0]) if shape else None
    return len(value) if isinstance(value, list) else None


def _column(value: Any, kind: ArrayType) -> Column:
    if kind.is_sparse and hasattr(value, "tocsr"):
        return _sparse_column(value, kind)
    if kind.is_plain and isinstance(value, np.ndarray) and value.dtype.kind not in "OUS":
        mask = _known(value)
        data = widened(np.ascontiguousarray(np.ma.getdata(value)), kind)
        if np.may_share_memory(data, value):
            data = data.copy()  # of an argument, perhaps, that a worker keeps
        if mask is not None:
            data[~mask] = np.zeros((), kind.numpy)
        return Column(data, mask)
    items = value.tolist() if isinstance(value, np.ndarray) and kind.is_string else list(value)
    if isinstance(kind, ListType) and not isinstance(value, (list, np.ndarray)):
        raise Unfit
    return Column(*column_of(items, kind))


def _known(value: Array) -> Array | None:
    """Which records of a masked array are not null: those with no masked element."""
    if not isinstance(value, np.ma.MaskedArray) or value.mask is np.ma.nomask:
        return None
    masked = np.ma.getmaskarray(value).reshape(len(value), -1)
    missing: Array = np.logical_or.reduce(masked, axis=1)
    return ~missing if missing.any() else None


def _sparse_column(value: Any, kind: ArrayType) -> Column:
    matrix = value.tocsr()
    if matrix.shape[1:] != kind.shape:
        raise Unfit
    matrix.sum_duplicates()
    return Column(
        SparseColumn(
            matrix.indptr.astype(np.int64),
            matrix.indices.astype(np.int32),
            matrix.data.astype(np.float64),
            kind.shape[0],
        ),
        None,
    )


# One by one: for the types of the first results, and where records come one at a time.


def batch_of_records(records: Sequence[Mapping[str, Any]], schema: Schema) -> Any:
    """Single records, as the interpreter has them, as a batch function receives them."""
    columns = [
        Column(*column_of([python_value(r[name]) for r in records], kind)) for name, kind in schema
    ]
    argument = Argument(None if schema.bare else schema.names, tuple(columns))
    return argument.arrays(len(records))


def batch_items(captured: Captured, values: Any, rows: int) -> list[Any]:
    """The values of one of a batch function's arrays; None for null."""
    count = _length(values)
    if count != rows:
        found = "a single value" if count is None else f"{count} values"
        raise _unfit(captured, f"{found} for {rows} records", "one for each record")
    if hasattr(values, "tocsr"):
        column = _sparse_column(values, sparse(int(values.shape[1]))).values
        return rows_of(column, None)
    if not isinstance(values, np.ndarray):
        return list(values)
    mask = _known(values)
    items = [str(v) for v in values] if values.dtype.kind == "U" else list(np.ma.getdata(values))
    return items if mask is None else [v if ok else None for v, ok in zip(items, mask, strict=True)]


def call_one(node: Opaque, values: Mapping[Any, Any], function: Function) -> tuple[Any, ...]:
    """A batch function's results for one record; `values` has those of its expressions."""
    (record,) = node.records
    named = isinstance(record, tuple)
    fields = record if isinstance(record, tuple) else ((None, record),)
    columns = tuple(Column(*column_of([python_value(values[e])], e.type)) for _, e in fields)
    names = tuple(str(n) for n, _ in fields) if named else None
    pieces = [(0, 1)]
    argument = Argument(names, columns)
    made = call_pieces(node.function, function, [argument], pieces, node.names, node.outputs)
    return tuple(rows_of(c.values, c.mask)[0] for c in made)

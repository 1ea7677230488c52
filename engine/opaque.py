"""Opaque functions: captured Python called once per record.

A capture is a pickle with numbered slots. Binding it to the slots' values of an iteration
gives the function as it was when its operator was written, with that iteration's numbers.
"""

from __future__ import annotations

import io
import pickle
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from scalops.algebra.dtypes import ArrayType, name_of
from scalops.algebra.errors import ExecutionError, Location, ScalopsError, UserFunctionError
from scalops.algebra.expressions import Captured
from scalops.engine.blocks import Array, ColumnData
from scalops.engine.records import Record, take_apart
from scalops.engine.threads import Stopped, check_stopped

NULL = None


class _Binder(pickle.Unpickler):
    """Unpickles a capture with its slots filled."""

    def __init__(self, payload: bytes, slots: Sequence[Any]) -> None:
        super().__init__(io.BytesIO(payload))
        self._slots = slots

    def persistent_load(self, pid: Any) -> Any:
        return self._slots[pid]


def bind(captured: Captured, slots: Sequence[Any]) -> Callable[..., Any]:
    """The captured function with these values in its slots."""
    try:
        bound: Callable[..., Any] = _Binder(captured.payload, slots).load()
    except ScalopsError:
        raise
    except Exception as error:
        raise ExecutionError(
            f"{captured.name} cannot be loaded again: {error}", location=captured.location
        ) from error
    return bound


class Text(str):
    """A string that also has `.str`, so that one function serves traced and opaque."""

    __slots__ = ()

    @property
    def str(self) -> Text:
        return self


def python_value(value: Any) -> Any:
    """What an opaque function receives: Python scalars, read-only arrays."""
    if isinstance(value, np.ndarray) and value.ndim:
        view = value.view()
        view.setflags(write=False)
        return view
    if isinstance(value, (np.generic, np.ndarray)):
        scalar = value.item()
        if isinstance(value, np.datetime64) or (
            isinstance(value, np.ndarray) and value.dtype.kind == "M"
        ):
            return scalar if isinstance(scalar, datetime) else value.astype("M8[us]").item()
        return scalar
    if isinstance(value, str):
        return Text(value)
    if isinstance(value, pa.Scalar):
        return python_value(value.as_py())
    return value


def rows_of(values: ColumnData, valid: Array | None) -> list[Any]:
    """A column's values one by one, as an opaque function receives them."""
    if isinstance(values, np.ndarray):
        items = (
            [python_value(v) for v in values]
            if values.ndim > 1 or values.dtype.kind in "Mm"
            else values.tolist()
        )
    else:
        items = [v if v is None else Text(v) for v in values.to_pylist()]
    if valid is not None:
        items = [v if ok else NULL for v, ok in zip(items, valid.tolist(), strict=True)]
    return items


def user_error(
    captured: Captured, error: BaseException, record: Any, position: str
) -> UserFunctionError:
    """The error of a user's function, with the record and the user's own traceback."""
    try:
        message = str(error)
    except Exception as failed:
        message = f"(its message cannot be shown: {type(failed).__name__})"
    shown = repr(record)
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if captured.location and f.filename == captured.location.file]
    where = Location(own[-1].filename, own[-1].lineno or 0) if own else captured.location
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_globals.get("__name__", "").startswith("scalops"):
        tb = tb.tb_next
    error.__traceback__ = tb
    return UserFunctionError(
        f"{captured.name} raised {type(error).__name__}: {message}; {position}"
        f" {shown if len(shown) <= 300 else shown[:300] + '...'}",
        location=where,
    )


def describe(record: Any) -> Any:
    """A record for an error message."""
    return dict(record._values) if isinstance(record, Record) else record


class Collector:
    """Gathers what an opaque function returns into columns of the declared types."""

    def __init__(
        self, captured: Captured, names: tuple[str, ...] | None, kinds: Sequence[ArrayType]
    ):
        self._captured, self._names, self._kinds = captured, names, kinds
        self._columns: list[list[Any]] = [[] for _ in kinds]

    def add(self, result: Any, record: Any) -> None:
        """Take one result; UserFunctionError where it is not what the first ones were."""
        names, values = take_apart(result)
        if names != self._names:
            raise self._drift(f"{names or 'one value'}", f"{self._names or 'one value'}", record)
        for column, kind, value in zip(self._columns, self._kinds, values, strict=True):
            column.append(self._checked(value, kind, record))

    def _checked(self, value: Any, kind: ArrayType, record: Any) -> Any:
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value[()]
        if value is None or (type(value) is float and kind.name == "float64" and not kind.shape):
            return value
        if kind.is_string:
            if isinstance(value, str):
                return str(value)
        else:
            array = as_array(value)
            own = name_of(array.dtype)
            if array.shape == kind.shape and own not in (None, "string") and _widens(array, kind):
                return array if kind.shape else array[()]
        raise self._drift(_found(value), str(kind), record)

    def _drift(self, found: str, expected: str, record: Any) -> UserFunctionError:
        return UserFunctionError(
            f"{self._captured.name} gives {found}; expected {expected}, as declared or as its first"
            f" results were; the record is {describe(record)!r}",
            location=self._captured.location,
            hint="make every record's result one type, or say so.udf(returns=...)",
        )

    def columns(self) -> list[tuple[ColumnData, Array | None]]:
        """The columns with their masks."""
        return [column_of(v, k) for v, k in zip(self._columns, self._kinds, strict=True)]


def _found(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}[{','.join(map(str, value.shape))}]"
    shown = repr(value)
    return f"the {type(value).__name__} {shown if len(shown) <= 60 else shown[:60] + '...'}"


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


def _widens(array: Array, kind: ArrayType) -> bool:
    a, b = array.dtype, kind.numpy
    if a == b:
        return True
    if not np.can_cast(a, b, "same_kind") or (a.kind == "b" and b.kind != "b"):
        return False
    # A narrower integer type is right as long as the numbers fit.
    return a.kind not in "iu" or b.kind not in "iu" or bool(np.all(array.astype(b) == array))


def column_of(items: Sequence[Any], kind: ArrayType) -> tuple[ColumnData, Array | None]:
    """A column from Python values; None is null."""
    if kind.is_string:
        array = pa.array(items, pa.string())
        return array, None if array.null_count == 0 else np.array([v is not None for v in items])
    mask = np.array([v is not None for v in items], dtype=bool)
    if mask.all():
        values = np.array(items, dtype=kind.numpy) if items else None
        shape = (len(items), *kind.shape)
        return (np.empty(shape, kind.numpy) if values is None else values.reshape(shape)), None
    values = np.zeros((len(items), *kind.shape), kind.numpy)
    for i, item in enumerate(items):
        if item is not None:
            values[i] = item
    return values, mask


def call_rows(
    captured: Captured,
    function: Callable[..., Any],
    arguments: Sequence[Sequence[Any]],
    names: tuple[str, ...] | None,
    kinds: Sequence[ArrayType],
) -> list[tuple[ColumnData, Array | None]]:
    """Call the function once per record; `arguments` are the records, per positional argument."""
    collector = Collector(captured, names, kinds)
    for row in zip(*arguments, strict=True):
        check_stopped()
        try:
            result = function(*row)
        except (ScalopsError, KeyboardInterrupt, Stopped):
            raise
        except BaseException as error:  # SystemExit too: a function cannot end the program
            shown = describe(row[0]) if len(row) == 1 else [describe(r) for r in row]
            raise user_error(captured, error, shown, "the record is") from error
        collector.add(result, row[0])
    return collector.columns()

"""Opaque functions: captured Python, called once per record.

A capture is a pickle with numbered slots. Binding it to the slots' values of an iteration
gives the function as it was when its operator was written, with that iteration's numbers.
"""

from __future__ import annotations

import io
import pickle
import traceback
from collections.abc import Callable, Sequence
from copy import deepcopy
from datetime import datetime
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from scalops.algebra.captured import Captured
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import ExecutionError, Location, ScalopsError, UserFunctionError
from scalops.engine.columns import Array, ColumnData
from scalops.engine.opaque.results import as_array as as_array
from scalops.engine.opaque.results import collect
from scalops.engine.opaque.results import column_of as column_of
from scalops.engine.opaque.rows import Row, unknown_column
from scalops.engine.opaque.text import Text as Text
from scalops.engine.opaque.text import with_methods
from scalops.engine.threads import Stopped, check_stopped, may_be_stopped

STRETCH_SECONDS = 0.01  # between two looks at whether the run has failed elsewhere


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
    if isinstance(value, (str, list)):
        return with_methods(value)
    if isinstance(value, pa.Scalar):
        return python_value(value.as_py())
    if isinstance(value, dict):
        return deepcopy(value)  # what the function does to it is its own affair
    return value


# A plain string is quicker to look up and compare than a Text. Which of the two a function gets
# is told from its code: does it name an attribute `str`, or `list`? By payload, for functions
# that turned out to need it without (their code lies in an installed module).
_TEXT_NAMES = (b"\x8c\x03str", b"\x8c\x04list")  # as pickled
_texts: dict[bytes, bool] = {}
_TEXTS_KEPT = 256


def reads_text(captured: Captured) -> bool:
    """Whether the function is to get strings that have `.str`, and lists that have `.list`."""
    known = _texts.get(captured.payload)
    if known is None:
        known = _keep_text(captured, any(n in captured.payload for n in _TEXT_NAMES))
    return known


def _keep_text(captured: Captured, reads: bool) -> bool:
    if len(_texts) >= _TEXTS_KEPT:
        _texts.clear()
    _texts[captured.payload] = reads
    return reads


def must_read_text(captured: Captured, error: BaseException) -> bool:
    """Whether the function failed for want of `.str`; it gets it from now on."""
    if not (
        isinstance(error, AttributeError)
        and (error.name, type(error.obj)) in (("str", str), ("list", list))
    ) or reads_text(captured):
        return False
    return _keep_text(captured, True)


class WantsText(Exception):
    """The records must be made again, with strings that have `.str`."""


# Errors.


def user_error(
    captured: Captured, error: BaseException, record: Any, position: str
) -> UserFunctionError:
    """The error of a user's function, with the record and the user's own traceback."""
    try:
        message = str(error)
    except Exception as failed:
        message = f"(its message cannot be shown: {type(failed).__name__})"
    try:
        shown = repr(record)
    except Exception as failed:
        shown = f"(it cannot be shown: {type(failed).__name__})"
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_globals.get("__name__", "").startswith("scalops"):
        tb = tb.tb_next
    error.__traceback__ = tb
    return UserFunctionError(
        f"{captured.name} raised {type(error).__name__}: {message}; {position}"
        f" {shown if len(shown) <= 300 else shown[:300] + '...'}",
        location=_own_line(captured, error),
    )


def _own_line(captured: Captured, error: BaseException) -> Location | None:
    """The innermost line of the function's own file."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if captured.location and f.filename == captured.location.file]
    return Location(own[-1].filename, own[-1].lineno or 0) if own else captured.location


def describe(record: Any) -> Any:
    """A record for an error message."""
    if not isinstance(record, Row):
        return record
    return {name: describe(value) for name, value in record._values.items()}


def raised(captured: Captured, error: BaseException, row: Sequence[Any]) -> ScalopsError:
    """The error to raise for what a function raised over these arguments."""
    if isinstance(error, ScalopsError):
        return error
    if isinstance(error, AttributeError) and isinstance(error.obj, Row):
        found = unknown_column(error.name, error.obj._names)
        found.location = _own_line(captured, error)
        return found
    shown = describe(row[0]) if len(row) == 1 else [describe(r) for r in row]
    made = user_error(captured, error, shown, "the record is")
    made.__cause__ = error
    return made


# Calls.


def call_rows(
    captured: Captured,
    function: Callable[..., Any],
    arguments: Sequence[Sequence[Any]],
    names: tuple[str, ...] | None,
    kinds: Sequence[ArrayType],
) -> list[tuple[ColumnData, Array | None]]:
    """Call the function once per record; `arguments` are the records, per positional argument.

    Raises: UserFunctionError for the first record, in their order, for which the function
    raises or gives what it may not; WantsText.
    """
    results: list[Any] = []
    failure: BaseException | None = None
    try:
        _call_each(function, arguments, results)
    except (KeyboardInterrupt, Stopped):
        raise
    except BaseException as error:  # SystemExit too: a function cannot end the program
        if must_read_text(captured, error):
            raise WantsText from None
        failure = error
    # A result that is of no use comes before an error of a later record.
    columns = collect(captured, results, arguments[0], names, kinds)
    if failure is not None:
        raise raised(captured, failure, [a[len(results)] for a in arguments])
    return columns


def _call_each(
    function: Callable[..., Any], arguments: Sequence[Sequence[Any]], results: list[Any]
) -> None:
    """Append the results one by one, so that after an error it is known how far it came."""
    rows = len(arguments[0])
    stretch = 1 if may_be_stopped() else rows
    while len(results) < rows:
        start = len(results)
        begin = perf_counter()
        check_stopped()
        whole = start == 0 and stretch >= rows
        own = arguments if whole else [a[start : start + stretch] for a in arguments]
        results.extend(map(function, *own))
        if len(results) < min(rows, start + stretch):
            # A StopIteration of the function's own has ended `map`: raise it.
            results.append(function(*[a[len(results)] for a in arguments]))
        if perf_counter() - begin < STRETCH_SECONDS:
            stretch *= 2

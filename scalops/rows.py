"""Row functions: traced first, opaque otherwise."""

from __future__ import annotations

import builtins
import itertools
import logging
import operator
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scalops.algebra.dtypes import ArrayType, name_of
from scalops.algebra.errors import Location, PlanError, ScalopsError, TraceError, user_location
from scalops.algebra.expressions import Captured, Column, Expression, Item, Opaque, columns
from scalops.algebra.operators import Operator
from scalops.algebra.schema import Schema
from scalops.algebra.tree import substitute
from scalops.capture import (
    CannotCapture,
    capture,
    capture_opaque,
    function_location,
    function_name,
)
from scalops.engine.interpreter import Interpreter, Starts
from scalops.engine.opaque import as_array, bind, python_value, user_error
from scalops.engine.records import Record, take_apart
from scalops.tracing import VoidTrace, loop_starts, tracing
from scalops.value import Value, lift

log = logging.getLogger("scalops")
_traces = itertools.count(1)
SAMPLE_ROWS = 16
SAMPLE_SECONDS = 2.0
_warned: set[Location | None] = set()


@dataclass(frozen=True)
class RowFunction:
    """A row function as expressions: `names` is None for one bare value.

    `captured` and `slots` are the function as it was, for the comparison with plain calls;
    None where it cannot be captured.
    """

    names: tuple[str, ...] | None
    outputs: tuple[Expression, ...]
    schemas: tuple[Schema, ...]
    captured: Captured | None
    slots: tuple[Expression, ...]
    location: Location | None
    assumed_associative: bool = False

    @property
    def named(self) -> tuple[tuple[str, Expression], ...]:
        """Outputs with column names."""
        return tuple(zip(self.names or ("value",), self.outputs, strict=True))

    @property
    def is_opaque(self) -> bool:
        return any(isinstance(o, Item) and isinstance(o.source, Opaque) for o in self.outputs)


class Associative:
    """A function marked by `so.assume_associative`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


class Udf:
    """A function marked by `so.udf`: it runs as it is, and its result's type may be declared."""

    def __init__(self, function: Callable[..., Any], returns: Any) -> None:
        self.function, self.returns = function, returns

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


def symbol(schema: Schema, record: int = 0) -> Any:
    """What a row function is called with: a record of symbols, or the bare symbol."""
    values = {name: Value(Column(name, kind, record)) for name, kind in schema}
    return values["value"] if schema.bare else Record(values)


def trace_rows(function: Callable[..., Any], inputs: Sequence[Operator], what: str) -> RowFunction:
    """The expressions of a row function of one record of each input.

    Raises ScalopsError for what is wrong in any form: an unknown column, shapes that do not fit.
    """
    schemas = tuple(i.schema for i in inputs)
    if isinstance(function, Udf):
        return _opaque(function.function, inputs, "is marked by so.udf", None, function.returns)
    if not callable(function):
        raise TraceError(
            f"{what} needs a function of a record; it got a {type(function).__name__}",
            location=user_location(),
        )
    # Each trace has records of its own: a symbol that was kept from another function, or comes
    # from one around this, is not taken for a column of this table.
    first_record = 2 * next(_traces)
    arguments = [symbol(s, first_record + i) for i, s in enumerate(schemas)]
    where = function_location(function)
    first = _attempt(function, arguments, what)
    if isinstance(first, _Void):
        return _opaque(function, inputs, first.reason, first.location)
    second = _attempt(function, arguments, what)
    if isinstance(second, _Void) or second != first:
        reason = "gives another expression when called again (random numbers, a clock, a counter)"
        return _opaque(function, inputs, reason, where)
    names, outputs = first[0], tuple(_own_columns(o, first_record, what) for o in first[1])
    try:
        captured, slots = capture(function)
    except CannotCapture:
        return RowFunction(names, outputs, schemas, None, (), where)
    return RowFunction(names, outputs, schemas, captured, slots, where)


def _own_columns(output: Expression, first_record: int, what: str) -> Expression:
    """The expression over records 0 and 1; PlanError where it reads another function's record."""
    used = columns([output])
    if any(c.record not in (first_record, first_record + 1) for c in used):
        raise PlanError(
            f"the function of {what} reads the record of another row function",
            location=output.location or user_location(),
            hint="a record is known inside its own function only; fold the other table to a Value",
        )
    return substitute(output, {c: replace(c, record=c.record - first_record) for c in used})


@dataclass
class _Void:
    reason: str
    location: Location | None


_Traced = tuple[tuple[str, ...] | None, tuple[Expression, ...]]


def _attempt(function: Callable[..., Any], arguments: Sequence[Any], what: str) -> _Traced | _Void:
    with tracing("row", what) as trace:
        try:
            result = function(*arguments)
        except VoidTrace:
            return _Void(trace.reason or "", trace.location)
        except ScalopsError:
            if trace.reason is not None:
                return _Void(trace.reason, trace.location)
            raise
        except Exception as error:
            reason = trace.reason or f"raises {type(error).__name__} when traced: {error}"
            return _Void(reason, trace.location or _raised_at(error, function))
        if trace.reason is not None:
            return _Void(trace.reason, trace.location)
        return _outputs(result, function, what)


def _raised_at(error: Exception, function: Callable[..., Any]) -> Location | None:
    tb, found = error.__traceback__, function_location(function)
    while tb is not None:
        if not tb.tb_frame.f_globals.get("__name__", "").startswith(("scalops", "numpy")):
            found = Location(tb.tb_frame.f_code.co_filename, tb.tb_lineno)
        tb = tb.tb_next
    return found


def _outputs(result: Any, function: Callable[..., Any], what: str) -> _Traced:
    where = function_location(function)
    if result is None:
        raise TraceError(
            f"the function of {what} returns nothing", location=where, hint="return a value"
        )
    names, values = take_apart(result)
    if names is not None and not values:
        raise TraceError(f"the function of {what} returns no columns", location=where)
    outputs = []
    for name, value in zip(names or ("value",), values, strict=True):
        expression = lift(value)
        if expression is None:
            nested = isinstance(value, (tuple, dict, Record))
            raise (PlanError if nested else TraceError)(
                f"the function of {what} returns a {type(value).__name__} as {name!r}; expected"
                " a number, a string, an array or an expression of the record",
                location=where,
                hint="columns that are records are not built yet" if nested else None,
            )
        outputs.append(expression)
    return names, tuple(outputs)


# Opaque functions.


def _opaque(
    function: Callable[..., Any],
    inputs: Sequence[Operator],
    reason: str,
    location: Location | None,
    returns: Any = None,
) -> RowFunction:
    from scalops.session import current_session

    schemas = tuple(i.schema for i in inputs)
    place = location or function_location(function)
    if current_session().options.opaque == "error" and reason != "is marked by so.udf":
        raise TraceError(
            f"{function_name(function)} {reason}, and opaque functions are refused",
            location=place,
            hint="write it with NumPy functions, or mark it with so.udf",
        )
    captured, slots = capture_opaque(function, reason, place)
    if reason != "is marked by so.udf" and place not in _warned:
        _warned.add(place)
        log.warning("%s runs record by record: it %s (%s)", captured.name, reason, place)
    if returns is not None:
        names, kinds = declared_types(returns)
    else:
        names, kinds = _discover(captured, slots, inputs)
    records = tuple(_record_argument(s, i) for i, s in enumerate(schemas))
    applied = Opaque(captured, records, slots, kinds, names, location=place)
    outputs = tuple(Item(applied, i) for i in range(len(kinds)))
    return RowFunction(names, outputs, schemas, None, (), place)


def _record_argument(schema: Schema, record: int) -> Any:
    if schema.bare:
        return Column("value", schema["value"], record)
    return tuple((name, Column(name, kind, record)) for name, kind in schema)


def declared_types(returns: Any) -> tuple[tuple[str, ...] | None, tuple[ArrayType, ...]]:
    """Column names and types of `returns=`: a type, a tuple of types, or a dict of them."""
    names, kinds = (None, [returns]) if isinstance(returns, ArrayType) else take_apart(returns)
    for kind in kinds:
        if not isinstance(kind, ArrayType):
            raise TraceError(
                f"returns= holds {kind!r}; expected so.float64, so.vector(n) and the like",
                location=user_location(),
            )
    return names, tuple(kinds)


def _discover(
    captured: Captured, slots: tuple[Expression, ...], inputs: Sequence[Operator]
) -> tuple[tuple[str, ...] | None, tuple[ArrayType, ...]]:
    """The type of an opaque function, from running it on the first records of its sources."""
    hint = "declare it: so.udf(f, returns=...)"
    outcome: list[Any] = []
    starts = loop_starts()  # those of this thread's traces

    def run() -> None:
        try:
            with np.errstate(all="ignore"):
                outcome.append(_sample_results(captured, slots, inputs, starts))
        except BaseException as error:
            outcome.append(error)

    # A thread, because nothing else in this process can leave a function that does not return.
    thread = threading.Thread(target=run, daemon=True, name="scalops-sample")
    thread.start()
    thread.join(SAMPLE_SECONDS)
    if not outcome:
        raise TraceError(
            f"{captured.name} took more than {SAMPLE_SECONDS:g} s on {SAMPLE_ROWS} records,"
            " run to find its type",
            location=captured.location,
            hint=hint,
        )
    results = outcome[0]
    if isinstance(results, BaseException):
        raise results
    if not results:
        raise TraceError(
            f"no record was found in the first {SAMPLE_ROWS} of each source to find"
            f" the type of {captured.name}",
            location=captured.location,
            hint=hint,
        )
    names, first = results[0]
    if not first:
        raise TraceError(f"{captured.name} returns no columns", location=captured.location)
    columns = [
        [values[i] for _, values in results if len(values) > i] for i in range(len(results[0][1]))
    ]
    return names, tuple(_common_type(c, captured, hint) for c in columns)


def _sample_results(
    captured: Captured, slots: tuple[Expression, ...], inputs: Sequence[Operator], starts: Starts
) -> list[tuple[tuple[str, ...] | None, list[Any]]]:
    interpreter = Interpreter(SAMPLE_ROWS, starts)
    function = bind(captured, [python_value(interpreter.value(s)) for s in slots])
    results = []
    for arguments in sample_arguments(interpreter, inputs, SAMPLE_ROWS, python_value):
        try:
            results.append(take_apart(function(*arguments)))
        except ScalopsError:
            raise
        except Exception as error:
            shown = [dict(a._values) if isinstance(a, Record) else a for a in arguments]
            raise user_error(
                captured, error, shown[0] if len(shown) == 1 else shown, "the record is"
            ) from error
    return results


def sample_arguments(
    interpreter: Interpreter,
    inputs: Sequence[Operator],
    count: int,
    convert: Callable[[Any], Any],
) -> list[tuple[Any, ...]]:
    """Arguments for a row function from the heads of its inputs.

    A reduce's two arguments are neighbouring records of the one table.
    """
    rows: list[Any] = []
    schema = inputs[0].schema
    for row in interpreter.records(inputs[0]):
        values = {name: convert(v) for name, v in row.items()}
        rows.append(values["value"] if schema.bare else Record(values))
        if len(rows) >= count:
            break
    if len(inputs) == 2:
        return list(itertools.pairwise(rows))
    return [(row,) for row in rows]


def _common_type(values: list[Any], captured: Captured, hint: str) -> ArrayType:
    known = [v[()] if isinstance(v, np.ndarray) else v for v in values if v is not None]
    if not known:
        raise TraceError(
            f"{captured.name} gives None for every sampled record",
            location=captured.location,
            hint=hint,
        )
    try:
        arrays = [as_array(v) for v in known]
        shapes = {a.shape for a in arrays}
        if len(shapes) > 1:
            raise TypeError(f"arrays of the shapes {sorted(shapes)}")
        dtype = np.result_type(*{a.dtype for a in arrays})
        if any(isinstance(v, str) for v in known) and not all(isinstance(v, str) for v in known):
            raise TypeError("strings and other values")
        name = name_of(dtype)
        if name is None or (name == "string" and not all(isinstance(v, str) for v in known)):
            raise TypeError(f"a {type(known[0]).__name__}")
    except (TypeError, ValueError) as error:
        raise TraceError(
            f"{captured.name} gives {error}, which is no column",
            location=captured.location,
            hint="return scalars, strings, arrays of one shape, and tuples or dicts of these",
        ) from None
    return ArrayType(name, shapes.pop())


# Reduce.

_KNOWN_COMBINERS: dict[Any, str] = {
    operator.add: "add", operator.mul: "multiply", operator.and_: "bitwise_and",
    operator.or_: "bitwise_or", np.add: "add", np.multiply: "multiply",
    np.minimum: "minimum", np.maximum: "maximum", builtins.min: "minimum",
    builtins.max: "maximum", np.logical_and: "logical_and", np.logical_or: "logical_or",
}  # fmt: skip


def known_combiner(function: Any) -> str | None:
    """The fold that a well-known function stands for."""
    try:
        return _KNOWN_COMBINERS.get(function)
    except TypeError:
        return None

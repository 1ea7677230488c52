"""Row functions: traced first, opaque otherwise."""

from __future__ import annotations

import builtins
import itertools
import logging
import operator
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import numpy as np

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import (
    Location,
    PlanError,
    ScalopsError,
    TraceError,
    raised_at,
    text_of,
    user_location,
)
from scalops.algebra.expressions import Captured, Column, Expression, Item, Opaque, columns
from scalops.algebra.operators import Operator
from scalops.algebra.schema import FIELD, Schema
from scalops.algebra.tree import substitute
from scalops.capture import (
    CannotCapture,
    capture,
    capture_opaque,
    function_location,
    function_name,
)
from scalops.engine.opaque.batches import batch_items, batch_of_records, call_batch
from scalops.engine.opaque.calls import bind, describe, python_value, user_error
from scalops.engine.opaque.records import Parts, nested_record, take_all_apart, take_apart
from scalops.engine.witness.interpreter import Interpreter, Starts
from scalops.result_types import common_type as common_type
from scalops.tracing import VoidTrace, loop_starts, tracing
from scalops.value import Value, lift
from scalops.written_types import EXPECTED, readable, written_type

log = logging.getLogger("scalops")
_traces = itertools.count(1)
SAMPLE_ROWS = 16
SAMPLE_SECONDS = 2.0
_DECLARE = "declare it: so.udf(f, returns=...)"
MARKED = "is marked by so.udf"
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
    """A function marked by `so.udf`: it runs as it is, and its result's type may be declared.

    With `batch` it gets the arrays of several records at once.
    """

    def __init__(self, function: Callable[..., Any], returns: Any, batch: bool = False) -> None:
        self.function, self.returns, self.batch = function, returns, batch

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __get__(self, instance: object, owner: type | None = None) -> Udf:
        """As a method of a class: bound to its object."""
        if instance is None:
            return self
        return Udf(MethodType(self.function, instance), self.returns, self.batch)


def symbol(schema: Schema, record: int = 0) -> Any:
    """What a row function is called with: a record of symbols, or the bare symbol."""
    values = {name: Value(Column(name, kind, record)) for name, kind in schema}
    return values["value"] if schema.bare else nested_record(values)


def trace_rows(function: Callable[..., Any], inputs: Sequence[Operator], what: str) -> RowFunction:
    """The expressions of a row function of one record of each input.

    Raises ScalopsError for what is wrong in any form: an unknown column, shapes that do not fit.
    """
    schemas = tuple(i.schema for i in inputs)
    if isinstance(function, Udf):
        if function.batch and len(inputs) > 1:
            raise TraceError(
                f"{what} takes two records at a time, not batches", location=user_location()
            )
        return opaque_rows(
            function.function, inputs, MARKED, None, function.returns, function.batch
        )
    if not callable(function):
        raise TraceError(
            f"{what} needs a function of a record; it got a {type(function).__name__}",
            location=user_location(),
        )
    where = function_location(function)
    traced = trace_twice(function, schemas, what)
    if isinstance(traced, Void):
        return opaque_rows(function, inputs, traced.reason, traced.location)
    names, outputs = traced
    try:
        captured, slots = capture(function)
    except CannotCapture:
        return RowFunction(names, outputs, schemas, None, (), where)
    return RowFunction(names, outputs, schemas, captured, slots, where)


def trace_twice(
    function: Callable[..., Any], schemas: Sequence[Schema], what: str
) -> Traced | Void:
    """Names and expressions of a function of one record of each schema; or why it has none."""
    first = _attempt(function, schemas, what)
    if isinstance(first, Void):
        return first
    second = _attempt(function, schemas, what)
    if isinstance(second, Void) or second != first:
        reason = "gives another expression when called again (random numbers, a clock, a counter)"
        return Void(reason, function_location(function))
    return first


def _own_columns(output: Expression, first_record: int, what: str) -> Expression:
    """The expression over records 0 and 1; PlanError where it reads another function's record."""
    used = columns([output])
    if any(c.record not in (first_record, first_record + 1) for c in used):
        raise PlanError(
            f"the function of {what} reads the record of another row function",
            location=output.location or user_location(),
            hint="a record is known inside its own function only; fold the other table to a Value,"
            " or put its records beside this one's: join(other, on=...)",
        )
    return substitute(output, {c: replace(c, record=c.record - first_record) for c in used})


@dataclass
class Void:
    """Why a function cannot be traced, and where."""

    reason: str
    location: Location | None


Traced = tuple[tuple[str, ...] | None, tuple[Expression, ...]]


def _attempt(function: Callable[..., Any], schemas: Sequence[Schema], what: str) -> Traced | Void:
    # Each trace has records of its own: a symbol that was kept from another trace, or comes from
    # a function around this, is not taken for a column of this table.
    first_record = 2 * next(_traces)
    arguments = [symbol(s, first_record + i) for i, s in enumerate(schemas)]
    with tracing("row", what) as trace:
        try:
            result = function(*arguments)
        except VoidTrace:
            return Void(trace.reason or "", trace.location)
        except ScalopsError:
            if trace.reason is not None:
                return Void(trace.reason, trace.location)
            raise
        except Exception as error:
            reason = trace.reason or f"raises {type(error).__name__} when traced: {text_of(error)}"
            where = trace.location or raised_at(error) or function_location(function)
            return Void(reason, where)
        if trace.reason is not None:
            return Void(trace.reason, trace.location)
        names, outputs = _outputs(result, function, what)
    return names, tuple(_own_columns(o, first_record, what) for o in outputs)


def void_reason(
    function: Callable[..., Any], inputs: Sequence[Operator], what: str
) -> tuple[str, Location | None] | None:
    """Why a row function cannot be traced, and where; None where it can."""
    found = _attempt(function, [i.schema for i in inputs], what)
    return (found.reason, found.location) if isinstance(found, Void) else None


def _outputs(result: Any, function: Callable[..., Any], what: str) -> Traced:
    where = function_location(function)
    if result is None:
        raise TraceError(
            f"the function of {what} returns nothing", location=where, hint="return a value"
        )
    names, values = take_all_apart(result)
    if names is not None and not values:
        raise TraceError(f"the function of {what} returns no columns", location=where)
    outputs = []
    for name, value in zip(names or ("value",), values, strict=True):
        expression = lift(value)
        if expression is None:
            refuse = getattr(type(value), "_misused", None)  # an aggregate, which is no value
            if refuse is not None:
                refuse(value)
            raise TraceError(
                f"the function of {what} returns a {type(value).__name__} as {name!r}; expected"
                " a number, a string, an array or an expression of the record",
                location=where,
                hint="inside a record a tuple is an array of one type; write a dict of fields"
                if isinstance(value, tuple)
                else None,
            )
        if expression.type.is_string and expression.type.shape:
            raise TraceError(
                f"the function of {what} returns an array of strings as {name!r}; a column holds"
                " one string, or numbers, for each record",
                location=where,
                hint="return the strings as columns: a tuple or a dict",
            )
        outputs.append(expression)
    return names, tuple(outputs)


# Opaque functions.


def opaque_rows(
    function: Callable[..., Any],
    inputs: Sequence[Operator],
    reason: str,
    location: Location | None,
    returns: Any = None,
    batch: bool = False,
) -> RowFunction:
    schemas = tuple(i.schema for i in inputs)
    place = location or function_location(function)
    captured, slots = capture_and_tell(function, reason, place)
    captured = replace(captured, batch=batch)
    if returns is not None:
        names, kinds = declared_types(returns)
    else:
        names, kinds = _discover(captured, slots, inputs)
    records = tuple(_record_argument(s, i) for i, s in enumerate(schemas))
    applied = Opaque(captured, records, slots, kinds, names, location=place)
    outputs = tuple(Item(applied, i) for i in range(len(kinds)))
    return RowFunction(names, outputs, schemas, None, (), place)


def capture_and_tell(
    function: Callable[..., Any], reason: str, place: Location | None
) -> tuple[Captured, tuple[Expression, ...]]:
    """Capture a function that runs as it is; the first time, a warning says so.

    TraceError where the session refuses such functions.
    """
    from scalops.session import current_session

    if current_session().options.opaque == "error" and reason != MARKED:
        raise TraceError(
            f"{function_name(function)} {reason}, and opaque functions are refused",
            location=place,
            hint="write it with NumPy functions, or mark it with so.udf",
        )
    captured, slots = capture_opaque(function, reason, place)
    if reason != MARKED and place not in _warned:
        _warned.add(place)
        log.warning("%s runs record by record: it %s (%s)", captured.name, reason, place)
    return captured, slots


def _record_argument(schema: Schema, record: int) -> Any:
    if schema.bare:
        return Column("value", schema["value"], record)
    return tuple((name, Column(name, kind, record)) for name, kind in schema)


def declared_types(returns: Any) -> tuple[tuple[str, ...] | None, tuple[ArrayType, ...]]:
    """Column names and types of `returns=`: a type, a tuple of types, or a dict of them."""
    single = written_type(returns) is not None or isinstance(returns, type)
    names, kinds = (None, [returns]) if single else _apart(returns)
    if not kinds:
        raise TraceError(
            "returns= holds no type; expected so.float64, so.vector(n) and the like",
            location=user_location(),
        )
    found = []
    for kind in kinds:
        known = written_type(kind)
        if known is None:
            raise TraceError(
                f"returns= holds {readable(kind)}; expected so.float64, so.vector(n) and the like",
                location=user_location(),
                hint=EXPECTED,
            )
        found.append(known)
    return names, tuple(found)


def _apart(returns: Any) -> Parts:
    """Names and types as written; a dict inside is a column of records."""
    names, kinds = take_apart(returns)
    found: list[tuple[str, Any]] = []
    for name, kind in zip(names or (), kinds, strict=False):
        if isinstance(kind, dict):
            inner, types = _apart(kind)
            found += [(name + FIELD + n, t) for n, t in zip(inner or (), types, strict=True)]
        else:
            found.append((name, kind))
    return (names, kinds) if names is None else (tuple(n for n, _ in found), [k for _, k in found])


def _discover(
    captured: Captured, slots: tuple[Expression, ...], inputs: Sequence[Operator]
) -> tuple[tuple[str, ...] | None, tuple[ArrayType, ...]]:
    """The type of an opaque function, from running it on the first records of its sources."""
    results = sampled_results(captured, slots, inputs)
    names, first = results[0]
    if not first:
        raise TraceError(f"{captured.name} returns no columns", location=captured.location)
    columns = [
        [values[i] for _, values in results if len(values) > i] for i in range(len(results[0][1]))
    ]
    return names, tuple(common_type(c, captured, _DECLARE) for c in columns)


def in_time(captured: Captured, sample: Callable[[], Any]) -> Any:
    """What `sample` gives, which calls a user's function; TraceError where it takes too long."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            with np.errstate(all="ignore"):
                outcome.append(sample())
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
            hint=_DECLARE,
        )
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def sampled_results(
    captured: Captured, slots: tuple[Expression, ...], inputs: Sequence[Operator]
) -> list[tuple[tuple[str, ...] | None, list[Any]]]:
    """What an opaque function gives for the first records of its sources, taken apart."""
    starts = loop_starts()  # those of this thread's traces
    results: list[tuple[tuple[str, ...] | None, list[Any]]]
    results = in_time(captured, lambda: _sample_results(captured, slots, inputs, starts))
    if not results:
        raise TraceError(
            f"no record was found in the first {SAMPLE_ROWS} of each source to find"
            f" the type of {captured.name}",
            location=captured.location,
            hint=_DECLARE,
        )
    return results


def _sample_results(
    captured: Captured, slots: tuple[Expression, ...], inputs: Sequence[Operator], starts: Starts
) -> list[tuple[tuple[str, ...] | None, list[Any]]]:
    interpreter = Interpreter(SAMPLE_ROWS, starts)
    function = bind(captured, [python_value(interpreter.value(s)) for s in slots])
    results: list[tuple[tuple[str, ...] | None, list[Any]]] = []
    if captured.batch:
        return _sample_batch(captured, function, interpreter, inputs[0])
    for arguments in sample_arguments(interpreter, inputs, SAMPLE_ROWS, python_value):
        try:
            results.append(take_all_apart(function(*arguments)))
        except ScalopsError:
            raise
        except Exception as error:
            shown = [describe(a) for a in arguments]
            raise user_error(
                captured, error, shown[0] if len(shown) == 1 else shown, "the record is"
            ) from error
    return results


def _sample_batch(
    captured: Captured, function: Callable[..., Any], interpreter: Interpreter, table: Operator
) -> list[tuple[tuple[str, ...] | None, list[Any]]]:
    """A batch function's results for the first records, one by one."""
    records = list(itertools.islice(interpreter.records(table), SAMPLE_ROWS))
    if not records:
        return []
    batch = batch_of_records(records, table.schema)
    result = call_batch(captured, function, [batch], f"a batch of {len(records)} records")
    names, arrays = take_apart(result)
    columns = [batch_items(captured, array, len(records)) for array in arrays]
    return [(names, list(values)) for values in zip(*columns, strict=True)]


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
        rows.append(values["value"] if schema.bare else nested_record(values))
        if len(rows) >= count:
            break
    if len(inputs) == 2:
        return list(itertools.pairwise(rows))
    return [(row,) for row in rows]


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

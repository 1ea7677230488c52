"""`so.call`: an ordinary Python function of Values, or of a group's rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import Location, PlanError, TraceError, user_location
from scalops.algebra.expressions import Constant, DriverCall, Expression, Item, Rows, columns
from scalops.algebra.relations import GroupRows
from scalops.algebra.tree import find
from scalops.capture import CannotCapture, capture, function_location, function_name
from scalops.engine.opaque.records import take_apart
from scalops.engine.value_program import typed
from scalops.environment import Environment
from scalops.structured import StructuredValue
from scalops.table import Table
from scalops.tracing import in_group, row_depth
from scalops.value import Value, lift

_FOR_VALUES = "so.call is for Values; in a row function call it as it is, or mark it with so.udf"


def call(f: Callable[..., Any], *values: Any, like: Any) -> Any:
    """Apply an ordinary Python function to Values at the driver, as an opaque step.

    `f` gets Python scalars, strings and read-only arrays. `like` shows its result by an example:
    a scalar or an array gives a Value, a tuple several, a dict, NamedTuple or dataclass a
    structure. It is called once per evaluation and taken for a function of its arguments and of
    what it closes over: what a loop does not change, it is called for once.

    In a group's `map` it is called once per group, and a table of the group's rows is handed to
    it as a pyarrow.Table.
    """
    location = user_location()
    if not callable(f):
        raise TraceError(
            f"so.call needs a function; it got a {type(f).__name__}", location=location
        )
    if row_depth():
        raise PlanError("so.call in a row function", location=location, hint=_FOR_VALUES)
    arguments = tuple(
        _rows(v, i, location) if isinstance(v, Table) else _argument(v, i, location)
        for i, v in enumerate(values)
    )
    names, kinds, example = _shown_by(like, location)
    try:
        captured, slots = capture(f)
    except CannotCapture as error:
        raise TraceError(
            f"{function_name(f)} cannot be captured: {error}",
            location=function_location(f),
            hint="create what it needs inside the function, or pass numbers and arrays",
        ) from None
    _require_values(slots, location)
    made = DriverCall(captured, arguments, slots, kinds, names, example, location=location)
    parts = [Value(Item(made, i, location=location)) for i in range(len(kinds))]
    if names is None:
        return parts[0]
    if isinstance(like, tuple) and not hasattr(like, "_fields"):
        return tuple(parts)
    return StructuredValue(dict(zip(names, parts, strict=True)))


def _rows(table: Table, position: int, location: Location | None) -> Expression:
    """A table handed over whole: in a group's map, one of the group's rows."""
    if not (in_group() and find((table.plan,), GroupRows)):
        raise PlanError(
            f"argument {position + 1} is a Table; so.call takes Values; fold the table first",
            location=location,
            hint="so.call(f, table.sum(...), like=0.0); a table's own rows are handed over in"
            " a group's map only: groups.map(lambda key, rows: so.call(f, rows, like=...))",
        )
    return Rows(table.plan, location=location)


def _argument(value: Any, position: int, location: Location | None) -> Expression:
    expression = lift(value)
    if expression is None:
        own = "pass its fields" if isinstance(value, Environment) else None
        raise TraceError(
            f"argument {position + 1} of so.call is a {type(value).__name__};"
            " expected a number, a string, an array or a Value",
            location=location,
            hint=getattr(type(value), "_value_hint", own)
            or "let the function close over what is no Value",
        )
    _require_values((expression,), location)
    return expression


def _require_values(expressions: tuple[Expression, ...], location: Location | None) -> None:
    if columns(expressions):
        raise PlanError("so.call of a record's column", location=location, hint=_FOR_VALUES)


_Shown = tuple[tuple[str, ...] | None, tuple[ArrayType, ...], tuple[Any, ...]]


def _shown_by(like: Any, location: Location | None) -> _Shown:
    """Names, types and values of the result that `like` shows; names are None for a bare one."""
    if isinstance(like, StructuredValue):
        like = like.parts
    names, values = (None, [like]) if isinstance(like, Value) else take_apart(like)
    kinds, example = [], []
    for value in values:
        expression = lift(value)
        if expression is None:
            raise TraceError(
                f"like= shows a {type(value).__name__}; expected a number, a string, an array,"
                " or a tuple or dict of these",
                location=location,
                hint="show the parts as a dict: {name: value}" if names is None else None,
            )
        kinds.append(expression.type.strong())
        if isinstance(expression, Constant):
            example.append(typed(expression.value, kinds[-1]))
    if not kinds:
        raise TraceError("like= shows nothing: it is empty", location=location)
    known = tuple(example) if len(example) == len(kinds) else ()
    return names, tuple(kinds), known

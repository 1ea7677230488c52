"""The functions of groups, traced: `map(lambda key, rows: ...)` of groups and of cogroups."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scalops.algebra import relations as rel
from scalops.algebra.errors import (
    Location,
    PlanError,
    ScalopsError,
    TraceError,
    raised_at,
    text_of,
)
from scalops.algebra.expressions import Expression
from scalops.algebra.fingerprint import comparable
from scalops.algebra.operators import Named, Operator
from scalops.algebra.schema import Schema
from scalops.algebra.tree import Node
from scalops.capture import function_location
from scalops.engine.opaque.records import Record, nested_record, take_all_apart, take_apart
from scalops.group_lifting import Lifting
from scalops.rows import RowFunction
from scalops.structured import StructuredValue
from scalops.tracing import WHOLE_GROUP, tracing
from scalops.value import Value, lift

if TYPE_CHECKING:
    from scalops.table import Table


tokens = itertools.count(1)  # what tells the rows and keys of one map from those of another


@dataclass(frozen=True)
class GroupTrace:
    """What a group's function was traced to: its row functions are compared with plain calls."""

    nodes: tuple[Node, ...]


def trace_group(
    f: Callable[..., Any],
    rows: Sequence[Table],
    lifting: Lifting,
    origins: Sequence[RowFunction],
    what: str,
) -> Operator:
    """One record per group: what `f(key, *rows)` gives, as operators over all groups.

    Raises TraceError where it is no expression of the group, PlanError where no operator does
    to all groups what it does to one.
    """
    where = function_location(f)
    from scalops.table_refusals import require_parameters

    if not callable(f):
        raise TraceError(
            f"{what} of groups needs a function of the key and the rows; it got a"
            f" {type(f).__name__}",
            location=lifting.location,
        )
    tables = "one table for each branch" if what == "cogroup" else "the group's rows"
    require_parameters(f, 1 + len(rows), what, f"{1 + len(rows)}: the key, and {tables}")
    first, second = (_called(f, rows, lifting, what, where) for _ in range(2))
    if [n for n, _ in first[0]] != [n for n, _ in second[0]] or any(
        comparable(a) != comparable(b) for (_, a), (_, b) in zip(first[0], second[0], strict=True)
    ):
        raise TraceError(
            f"the function of {what} gives another expression when called again (random numbers,"
            " a clock, a counter)",
            location=where,
            hint=f"so.random gives numbers by seed and key; {WHOLE_GROUP}",
        )
    outputs, bare = first
    origin = (GroupTrace(tuple(e for _, e in outputs)),)
    return lifting.lifted(outputs, bare, (*origins, *origin))


def _called(
    f: Callable[..., Any],
    rows: Sequence[Table],
    lifting: Lifting,
    what: str,
    where: Location | None,
) -> tuple[list[Named], bool]:
    """Names and expressions of what the function gives, and whether it is one bare value."""
    with tracing("group", what) as trace:
        try:
            result = f(key_symbol(lifting.keys, lifting.token), *rows)
        except ScalopsError as error:
            raise trace.error or error from None
        except Exception as error:
            if trace.error is not None:
                raise trace.error from error
            raise TraceError(
                f"the function of {what} raises {type(error).__name__} when traced:"
                f" {text_of(error)}",
                location=raised_at(error) or where,
                hint=WHOLE_GROUP,
            ) from error
        return _outputs(result, what, where)


def key_symbol(keys: Schema, token: int) -> Any:
    """The key of a group: the bare symbol of one, a record of several."""
    record = nested_record({n: Value(rel.GroupKey(n, k, token)) for n, k in keys})
    return record if len(keys.columns) > 1 else record[0]


def _outputs(result: Any, what: str, where: Location | None) -> tuple[list[Named], bool]:
    """The columns of a group's result; a part that is a structure gives a column of records."""
    if result is None:
        raise TraceError(
            f"the function of {what} returns nothing", location=where, hint="return a value"
        )
    names, values = take_all_apart(_as_records(result))
    if names is None:
        return [("value", _expression(values[0], "its result", what, where))], True
    if not names:
        raise TraceError(f"the function of {what} returns no columns", location=where)
    named = zip(names, values, strict=True)
    return [(n, _expression(v, repr(n), what, where)) for n, v in named], False


def _as_records(value: Any) -> Any:
    """A result whose structures, and those within them, are records."""
    if isinstance(value, StructuredValue):
        return Record({n: _as_records(part) for n, part in value._parts.items()})
    names, values = take_apart(value)
    if names is None or not any(isinstance(v, StructuredValue) for v in values):
        return value
    return Record(dict(zip(names, map(_as_records, values), strict=True)))


def _expression(value: Any, name: str, what: str, where: Location | None) -> Expression:
    from scalops.table import Table

    if isinstance(value, Table):
        raise PlanError(
            f"the function of {what} returns a Table as {name}; expected one value for each group",
            location=where,
            hint='fold it: rows.sum("v"); for any number of records: groups.apply(f, schema)',
        )
    expression = lift(value)
    if expression is None:
        raise TraceError(
            f"the function of {what} returns a {type(value).__name__} as {name}; expected a"
            " number, a string, an array or a Value",
            location=where,
            hint=getattr(type(value), "_value_hint", None),
        )
    if expression.type.is_object or (expression.type.is_string and expression.type.shape):
        raise TraceError(
            f"the function of {what} returns {expression.type} as {name}, which is no column",
            location=where,
        )
    return expression

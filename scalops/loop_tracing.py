"""Tracing of loops: the body and the condition become expressions over the environment."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import Location, LoopError, TraceError
from scalops.algebra.expressions import (
    Column,
    Constant,
    Expression,
    Iteration,
    call,
    columns,
)
from scalops.algebra.fingerprint import comparable
from scalops.algebra.functions import function
from scalops.algebra.operators import Operator, Project
from scalops.algebra.schema import FIELD, Schema
from scalops.capture import function_location
from scalops.environment import Structure, symbols
from scalops.table import Table
from scalops.tracing import tracing
from scalops.value import Value, lift

Body = Callable[..., Any]


@dataclass(frozen=True)
class Fields:
    """The environment of the loop `token`: where each field starts, of which type or schema."""

    structure: Structure
    token: int
    values: dict[str, tuple[Expression, ArrayType]]
    tables: dict[str, Operator]

    @property
    def kinds(self) -> dict[str, ArrayType]:
        """Types of the values."""
        return {n: k for n, (_, k) in self.values.items()}

    @property
    def starts(self) -> dict[str, Expression | Operator]:
        """The values in their types, and the tables."""
        return {n: _converted(e, k) for n, (e, k) in self.values.items()} | self.tables

    def symbols(self) -> Any:
        """A fresh environment, for one call of the body or the condition."""
        tables = {n: t.schema for n, t in self.tables.items()}
        return symbols(self.structure, self.kinds, tables, self.token)


@dataclass(frozen=True)
class Next:
    """What a body gives: the next environment's values and tables."""

    values: dict[str, Expression]
    tables: dict[str, Operator]


class _Again(threading.local):
    """Whether a loop's body is being called for the second time."""

    depth = 0


_again = _Again()


@contextmanager
def _second_call() -> Iterator[None]:
    _again.depth += 1
    try:
        yield
    finally:
        _again.depth -= 1


def trace_body(body: Body, fields: Fields) -> Next:
    """The next environment; TraceError where a second call gives another.

    A loop inside has been called twice in the first call of this one, and is called once in the
    second: the number of calls would double with each loop around it.
    """
    first = _trace_body(body, fields)
    if _again.depth:
        return first
    with _second_call():
        second = _trace_body(body, fields)
    for field_name in fields.structure.names:
        a, b = ((n.values | n.tables)[field_name] for n in (first, second))
        if comparable(a) != comparable(b):
            what = "table" if field_name in fields.tables else "expression"
            raise TraceError(
                f"the loop body gives another {what} for {field_name!r} when called again"
                " (random numbers, a clock, a counter)",
                location=function_location(body),
                hint="compute it before the loop; so.random gives numbers by seed and iteration",
            )
    return first


def _trace_body(body: Body, fields: Fields) -> Next:
    where = function_location(body)
    with tracing("loop", "the loop body", {fields.token: fields.starts}):
        arguments = [fields.symbols()]
        if _takes_element(body):
            arguments.append(Value(Iteration(fields.token)))
        _require_parameters(body, arguments, "the loop body", _BODY_TAKES)
        result = body(*arguments)
    returned = fields.structure.take_apart(result, where)
    new = {}
    for name, kind in fields.kinds.items():
        if isinstance(returned[name], Table):
            raise LoopError(
                f"the body returns a Table for {name!r}, which starts as {kind}",
                location=returned[name].plan.location or where,
                hint="start it with a Table, or fold the table: .reduce(...), .sum(...)",
            )
        value = lift(returned[name])
        if value is None:
            raise LoopError(
                f"the body returns a {type(returned[name]).__name__} for {name!r},"
                f" which starts as {kind}",
                location=where,
            )
        if columns([value]):
            raise TraceError(
                f"the body returns a record's column for {name!r}; expected one value",
                location=where,
                hint="fold the table: .reduce(...), .sum(...)",
            )
        new[name] = _same_type(name, value, kind, where)
    tables = {n: _same_columns(n, returned[n], t.schema, where) for n, t in fields.tables.items()}
    return Next(new, tables)


_BODY_TAKES = (
    "one, the environment, or two, with the range's element or the number of the iteration"
)


def _require_parameters(
    function: Callable[..., Any], arguments: list[Any], what: str, expected: str
) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C: calling it tells
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        raise LoopError(
            f"{what} has the parameters {signature}; expected {expected}",
            location=function_location(function),
        ) from None


def _takes_element(body: Body) -> bool:
    """Whether the body has a second positional parameter without a default."""
    try:
        parameters = inspect.signature(body).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = [
        p
        for p in parameters
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]
    return len(positional) > 1


def _converted(expression: Expression, kind: ArrayType) -> Expression:
    if expression.type == kind:
        return expression
    return call(function("cast"), expression, dtype=kind.name)


def _same_type(name: str, value: Expression, kind: ArrayType, where: Location | None) -> Expression:
    """The returned field in the start's type, where NumPy's in-place rule allows it."""
    found = value.type
    fits = found.shape == kind.shape and found.is_string == kind.is_string
    fits = fits and found.is_sparse == kind.is_sparse
    if fits and not kind.is_string and found.name != kind.name:
        fits = np.can_cast(found.numpy, kind.numpy, "same_kind")
    if not fits:
        raise LoopError(
            f"the body returns {found} for {name!r}, which starts as {kind}",
            location=value.location or where,
            hint="return so.dense(x)"
            if found.is_sparse
            else "start it with the type and shape that the body gives"
            if found.shape == kind.shape
            else "the shape of a field cannot change",
        )
    if isinstance(value, Constant) and found.weak:
        return Constant(kind.numpy.type(value.value))
    return value if found == kind else _converted(value, kind)


def _same_columns(name: str, returned: Any, schema: Schema, where: Location | None) -> Operator:
    """The returned table with the start's columns, in their order and of their types."""
    if not isinstance(returned, Table):
        value = lift(returned)
        found = f"a {type(returned).__name__}" if value is None else str(value.type)
        arrow = hasattr(returned, "__arrow_c_stream__")
        raise LoopError(
            f"the body returns {'records in memory' if arrow else found} for {name!r},"
            f" which starts as a Table ({schema})",
            location=(value and value.location) or where,
            hint="make a Table of them: so.from_arrow(...)"
            if arrow
            else "return a Table of the same columns",
        )
    plan = returned.plan
    where = plan.location or where
    missing = [c for c in schema.columns if c not in plan.schema.columns]
    more = [c for c in plan.schema.columns if c not in schema.columns]
    if missing or more:
        problem = " and ".join(
            f"{word} {columns}" for word, columns in (("lacks", missing), ("adds", more)) if columns
        )
        raise LoopError(
            f"the body's table for {name!r} {problem}; it starts with the columns"
            f" {list(schema.columns)}",
            location=where,
            hint="choose them at the end: .select(...)"
            if not missing
            else "a table keeps its"
            " columns from one iteration to the next: start it with those that the body gives",
        )
    outputs = tuple((n, _same_column(name, n, k, plan.schema, where)) for n, k in schema)
    kept = all(isinstance(e, Column) and e.name == n for n, e in outputs)
    if kept and plan.schema.names == schema.names and plan.schema.bare == schema.bare:
        return plan
    return Project(plan, outputs, schema.bare, location=where)


def _same_column(
    name: str, column: str, kind: ArrayType, found: Schema, where: Location | None
) -> Expression:
    """A column in the start's type, where NumPy's in-place rule allows it."""
    now = found.types.get(column)
    if now == kind:
        return Column(column, kind)
    if now is None or not _fits(now, kind):
        column, inside, inner = column.partition(FIELD)
        if now is None and inside and column in found.columns:
            fields = [n.partition(FIELD)[2] for n in found.fields_of(column)]
            raise LoopError(
                f"the body's records for the column {column!r} of {name!r} have the fields"
                f" {[f for f in fields if f]}; the table starts with a field {inner!r} ({kind})",
                location=where,
                hint="give them the fields that they start with",
            )
        shown = "a record" if now is None else str(now)
        raise LoopError(
            f"the body gives {shown} for the column {column!r} of {name!r}, which starts as {kind}",
            location=where,
            hint="start it with the type that the body gives, or convert it: so.cast(r.c, ...)",
        )
    return call(function("cast"), Column(column, now), dtype=kind.name)


def _fits(found: ArrayType, kind: ArrayType) -> bool:
    """Whether a column may be cast: numbers, of one shape, by NumPy's `same_kind`."""
    plain = all(k.is_plain and k.numpy.kind in "biuf" for k in (found, kind))
    return plain and found.shape == kind.shape and np.can_cast(found.numpy, kind.numpy, "same_kind")


def trace_condition(condition: Callable[..., Any], fields: Fields) -> Expression:
    where = function_location(condition)
    with tracing("loop", "the loop condition", {fields.token: fields.starts}):
        arguments = [fields.symbols()]
        _require_parameters(condition, arguments, "the loop condition", "one, the environment")
        result = condition(*arguments)
    expression = lift(result)
    if expression is None or expression.type.shape or expression.type.name != "bool":
        found = type(result).__name__ if expression is None else str(expression.type)
        raise LoopError(
            f"the loop condition gives {found}; expected true or false",
            location=where,
            hint="compare a field: lambda env: env.delta > eps",
        )
    return expression

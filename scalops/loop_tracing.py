"""Tracing of loops: the body and the condition become expressions over the environment."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import Location, LoopError, TraceError
from scalops.algebra.expressions import (
    Constant,
    Expression,
    Iteration,
    State,
    call,
    columns,
)
from scalops.algebra.fingerprint import comparable
from scalops.algebra.functions import function
from scalops.capture import function_location
from scalops.environment import Structure
from scalops.tracing import tracing
from scalops.value import Value, lift

Body = Callable[..., Any]
Starts = dict[str, Expression]
Kinds = dict[str, ArrayType]


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


def trace_body(
    body: Body, structure: Structure, kinds: Kinds, starts: Starts, token: int
) -> Starts:
    """The next environment by field; TraceError where a second call gives another.

    A loop inside has been called twice in the first call of this one, and is called once in the
    second: the number of calls would double with each loop around it.
    """
    first = _trace_body(body, structure, kinds, starts, token)
    if _again.depth:
        return first
    with _second_call():
        second = _trace_body(body, structure, kinds, starts, token)
    for field_name in kinds:
        if comparable(first[field_name]) != comparable(second[field_name]):
            raise TraceError(
                f"the loop body gives another expression for {field_name!r} when called again"
                " (random numbers, a clock, a counter)",
                location=function_location(body),
                hint="compute it before the loop; so.random gives numbers by seed and iteration",
            )
    return first


def _symbols(structure: Structure, kinds: dict[str, ArrayType], token: int) -> Any:
    return structure.rebuild({n: Value(State(n, k, token)) for n, k in kinds.items()})


def _trace_body(
    body: Body,
    structure: Structure,
    kinds: dict[str, ArrayType],
    starts: dict[str, Expression],
    token: int,
) -> dict[str, Expression]:
    where = function_location(body)
    converted = {n: _converted(e, kinds[n]) for n, e in starts.items()}
    with tracing("loop", "the loop body", {token: converted}):
        arguments = [_symbols(structure, kinds, token)]
        if _takes_element(body):
            arguments.append(Value(Iteration(token)))
        _require_parameters(body, arguments, "the loop body", _BODY_TAKES)
        result = body(*arguments)
    returned = structure.take_apart(result, where)
    new = {}
    for name, kind in kinds.items():
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
    return new


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


def trace_condition(
    condition: Callable[..., Any],
    structure: Structure,
    kinds: dict[str, ArrayType],
    starts: dict[str, Expression],
    token: int,
) -> Expression:
    where = function_location(condition)
    converted = {n: _converted(e, kinds[n]) for n, e in starts.items()}
    with tracing("loop", "the loop condition", {token: converted}):
        arguments = [_symbols(structure, kinds, token)]
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

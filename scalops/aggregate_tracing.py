"""Traced aggregates: the user's functions called with symbols.

A transition that adds to each field (or multiplies, or takes the least or the greatest, ...)
something of the record alone is so many ordinary folds. Any other is one fold with the whole
state, a record at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scalops.aggregate_state import Shape
from scalops.algebra import operators as op
from scalops.algebra.dtypes import ArrayType, name_of
from scalops.algebra.errors import TraceError
from scalops.algebra.expressions import (
    Call,
    Column,
    Constant,
    Expression,
    Subquery,
    call,
    columns,
    in_record,
)
from scalops.algebra.folds import Fold, Transition
from scalops.algebra.functions import function
from scalops.algebra.operators import Operator
from scalops.algebra.schema import Schema
from scalops.algebra.tree import Node, substitute
from scalops.capture import CannotCapture, capture, function_location, function_name
from scalops.finalizing import finalized
from scalops.opaque_aggregates import no_state
from scalops.rows import RowFunction, Void, trace_twice
from scalops.structured import StructuredValue
from scalops.value import Value

if TYPE_CHECKING:
    from scalops.aggregates import AggregateFunctions

_ROUNDS = 4  # of widening: bool, int64, float64, and once more to see that it stays


@dataclass(frozen=True)
class Traced:
    """A traced aggregate, for the comparison with plain calls and the test of its laws.

    The functions' `outputs` read the state as record 0 (and 1), the transition the record as
    record 1. `sampled_laws` is False where the laws are known to hold, or are assumed to.
    """

    shape: Shape
    types: Mapping[str, ArrayType]
    zero: tuple[Expression, ...]
    transition: RowFunction
    merge: RowFunction
    finalize: RowFunction | None
    sampled_laws: bool


class _OfStates:
    """A user's function of states, as one of records that hold their fields."""

    def __init__(self, func: Callable[..., Any], shape: Shape, states: int, what: str) -> None:
        self.func, self._shape, self._states, self._what = func, shape, states, what

    def __call__(self, *arguments: Any) -> Any:
        bare = self._shape.names is None
        states = [
            a if bare else self._shape.make(dict(a._values)) for a in arguments[: self._states]
        ]
        result = self.func(*states, *arguments[self._states :])
        if self._what == "finalize":
            return result
        if result is None:
            raise no_state(function_name(self.func), function_location(self.func))
        fields = self._shape.take(result)
        if fields is None:
            raise TraceError(
                f"the {self._what} of an aggregate gives {_form(result)}; its state is"
                f" {self._shape.title}",
                location=function_location(self.func),
                hint="return a state of the same fields",
            )
        return fields["value"] if bare else fields


def _form(result: Any) -> str:
    names = getattr(result, "_fields", None) or (list(result) if isinstance(result, dict) else None)
    return f"a {type(result).__name__}" + (f" of {list(names)}" if names else "")


class _Untraceable(Exception):
    def __init__(self, why: Void) -> None:
        super().__init__(why.reason)
        self.why = why


def traced_value(source: Operator, own: AggregateFunctions, shape: Shape) -> Any:
    """The aggregate's Value or structure; a Void where a function cannot be traced.

    A `finalize` that cannot be is called at the driver.
    """
    try:
        types, step, merge = _of_stable_type(source, own, shape)
    except _Untraceable as error:
        return error.why
    finalize, called = None, own.finalize_marked
    if own.finalize is not None and not called:
        schema = Schema(tuple(types.items()), shape.names is None)
        try:
            finalize = _traced(own.finalize, shape, (schema,), "finalize")
        except _Untraceable:
            called = True
    fields, traced = _folded(source, own, shape, types, step, merge, finalize)
    if called:
        assert own.finalize is not None
        return finalized(own.finalize, shape, fields, traced.zero)
    return _result(fields, shape, finalize)


def _of_stable_type(
    source: Operator, own: AggregateFunctions, shape: Shape
) -> tuple[dict[str, ArrayType], RowFunction, RowFunction]:
    """Types of the state's fields that the transition and the merge keep."""
    types = {n: e.type.strong() for n, e in shape.zero.items()}
    for _ in range(_ROUNDS):
        schema = Schema(tuple(types.items()), shape.names is None)
        step = _traced(own.transition, shape, (schema, source.schema), "transition")
        merge = _traced(own.merge, shape, (schema, schema), "merge", states=2)
        wider = {
            n: _widened(n, _widened(n, k, a, own.transition), b, own.merge)
            for (n, k), a, b in zip(types.items(), step.outputs, merge.outputs, strict=True)
        }
        if wider == types:
            return types, step, merge
        types = wider
    raise TraceError("an aggregate's state finds no type that stays", location=own.location)


def _folded(
    source: Operator,
    own: AggregateFunctions,
    shape: Shape,
    types: Mapping[str, ArrayType],
    step: RowFunction,
    merge: RowFunction,
    finalize: RowFunction | None,
) -> tuple[dict[str, Expression], Traced]:
    """The last state's fields, as results of folds."""
    zero = tuple(_as(e, types[n]) for n, e in shape.zero.items())
    steps = tuple(_as(e, k) for e, k in zip(step.outputs, types.values(), strict=True))
    combine = tuple(_as(e, k) for e, k in zip(merge.outputs, types.values(), strict=True))
    known = _ordinary_folds(types, zero, steps, combine)
    traced = Traced(shape, types, zero, step, merge, finalize, known is None and not own.assumed)
    folds = tuple(
        replace(f, origin=traced, location=own.location)
        for f in known or _state_folds(types, zero, steps, combine)
    )
    aggregate = op.Aggregate(source, folds, location=own.location)
    fields = {
        n: _over_zero(Subquery(aggregate, f.name, location=own.location), f, z)
        for n, f, z in zip(types, folds, zero, strict=True)
    }
    return fields, traced


def _traced(
    f: Callable[..., Any], shape: Shape, schemas: tuple[Schema, ...], what: str, states: int = 1
) -> RowFunction:
    found = trace_twice(_OfStates(f, shape, states, what), schemas, what)
    if isinstance(found, Void):
        raise _Untraceable(found)
    names, outputs = found
    try:
        captured, slots = capture(f)
    except CannotCapture:
        return RowFunction(names, outputs, schemas, None, (), function_location(f))
    return RowFunction(names, outputs, schemas, captured, slots, function_location(f))


def _widened(name: str, kind: ArrayType, made: Expression, f: Callable[..., Any]) -> ArrayType:
    """The type that holds a field before and after; TraceError where there is none."""
    new = made.type.strong()
    if new.shape == kind.shape and new.is_plain and kind.is_plain:
        try:
            common = name_of(np.promote_types(kind.numpy, new.numpy))
        except TypeError:
            common = None
        if common is not None and common != "string":
            return ArrayType(common, kind.shape)
    if new == kind:
        return kind
    field = "the state" if name == "value" else f"the field {name!r}"
    raise TraceError(
        f"an aggregate turns {field} from {kind} into {new}",
        location=function_location(f),
        hint="a state keeps its shapes: give the first state the shape that it will have",
    )


def _as(e: Expression, kind: ArrayType) -> Expression:
    if e.type.is_sparse and kind.is_plain:
        return call(function("dense"), e)
    return e if e.type == kind or kind.is_string else call(function("cast"), e, dtype=kind.name)


# A state carried over the records.


def _state_folds(
    types: Mapping[str, ArrayType],
    zero: tuple[Expression, ...],
    steps: tuple[Expression, ...],
    combine: tuple[Expression, ...],
) -> tuple[Fold, ...]:
    """One computation, whose parts are the fields."""
    inputs = _of_the_record(steps)
    named: dict[Node, Node] = {
        e: Column(str(i), e.type.strong(), record=1) for i, e in enumerate(inputs)
    }
    step = tuple(substitute(e, named, in_record) for e in steps)
    arguments = tuple(_current(e) for e in inputs)
    return tuple(
        Transition(
            "aggregate" if n == "value" else n, "aggregate", arguments, combine, tuple(types), i,
            zero=zero, step=step,
        )
        for i, n in enumerate(types)
    )  # fmt: skip


def _of_the_record(roots: tuple[Expression, ...]) -> list[Expression]:
    """The largest expressions that read the record and not the state."""
    found: dict[Expression, None] = {}
    seen: set[Node] = set()
    stack: list[Node] = list(reversed(roots))
    while stack:
        node = stack.pop()
        if node in seen or not isinstance(node, Expression):
            continue
        seen.add(node)
        read = {c.record for c in columns([node])}
        if read == {1} and isinstance(node.any_type, ArrayType):
            found[node] = None
        elif 1 in read:
            stack.extend(reversed(node.children))
    return list(found)


def _current(e: Expression) -> Expression:
    """An expression over record 1 as one over the current record."""
    mapping: dict[Node, Node] = {c: Column(c.name, c.type) for c in columns([e])}
    made = substitute(e, mapping, in_record)
    return _as(made, made.type.strong())


# Ordinary folds.

_SAME_EITHER_WAY = ("minimum", "maximum", "logical_and", "logical_or", "bitwise_and", "bitwise_or")


def _ordinary_folds(
    types: Mapping[str, ArrayType],
    zero: tuple[Expression, ...],
    steps: tuple[Expression, ...],
    combine: tuple[Expression, ...],
) -> tuple[Fold, ...] | None:
    """A fold for each field, if each is combined with something of the record alone."""
    folds = []
    for (name, kind), z, step, merged in zip(types.items(), zero, steps, combine, strict=True):
        found = _field_fold(name, kind, z, step, merged)
        if found is None:
            return None
        folds.append(found)
    return tuple(folds)


def _field_fold(
    name: str, kind: ArrayType, zero: Expression, step: Expression, merged: Expression
) -> Fold | None:
    operation = _operation(merged, Column(name, kind, 0), Column(name, kind, 1))
    if operation is None or not kind.is_plain or not isinstance(step, Call):
        return None
    given = _beside(step, Column(name, kind, 0))
    if given is None or any(c.record == 0 for c in columns([given])):
        return None
    argument = _current(given)
    if step.function.name == "subtract" and step.arguments[0] == Column(name, kind, 0):
        argument = call(function("negative"), argument) if kind.name != "bool" else argument
        done = "add"
    else:
        done = step.function.name
    if done != operation or argument.type.shape != kind.shape:
        return None
    neutral = _neutral(operation, kind)
    if neutral is None or not (operation in _SAME_EITHER_WAY or _is(zero, neutral)):
        return None
    fold_name = "aggregate" if name == "value" else name
    if not argument.type.is_sparse:  # of sparse vectors the fold is dense
        argument = _as(argument, kind)
    return Fold(fold_name, operation, (argument,), initial=neutral)


def _operation(e: Expression, a: Expression, b: Expression) -> str | None:
    """The name of the commutative operation that joins a and b."""
    if isinstance(e, Call) and e.arguments in ((a, b), (b, a)):
        name = e.function.name
        return name if name in ("add", "multiply", *_SAME_EITHER_WAY) else None
    return None


def _beside(e: Call, state: Expression) -> Expression | None:
    """The other operand of an operation on the state."""
    if len(e.arguments) != 2:
        return None
    a, b = e.arguments
    return b if a == state else a if b == state and e.function.name != "subtract" else None


def _neutral(operation: str, kind: ArrayType) -> Any:
    """The value that changes nothing."""
    whole = kind.numpy.kind in "iu"
    match operation:
        case "add":
            return 0 if kind.is_numeric and kind.name != "bool" else None
        case "multiply":
            return 1 if kind.is_numeric and kind.name != "bool" else None
        case "minimum" | "maximum" if whole:
            limits = np.iinfo(kind.name)
            return int(limits.max if operation == "minimum" else limits.min)
        case "minimum" | "maximum" if kind.numpy.kind == "f":
            return float("inf" if operation == "minimum" else "-inf")
        case "bitwise_and" | "logical_and" if kind.name == "bool":
            return True
        case "bitwise_or" | "logical_or" if kind.name == "bool":
            return False
        case "bitwise_or" if whole:
            return 0
        case "bitwise_and" if kind.numpy.kind == "i":
            return -1
    return None


def _is(zero: Expression, neutral: Any) -> bool:
    while isinstance(zero, Call) and zero.function.name == "cast":
        (zero,) = zero.arguments
    return isinstance(zero, Constant) and bool(np.all(np.asarray(zero.value) == neutral))


def _over_zero(value: Expression, fold: Fold, zero: Expression) -> Expression:
    """The fold with its zero; one that the fold's operation cannot leave out is joined to it."""
    if isinstance(fold, Transition) or _is(zero, fold.initial):
        return value
    return call(function(fold.kind), zero, value)


# The result.


def _result(fields: Mapping[str, Expression], shape: Shape, finalize: RowFunction | None) -> Any:
    if finalize is None:
        if shape.names is None:
            return Value(fields["value"])
        return StructuredValue({n: Value(e) for n, e in fields.items()})
    mapping: dict[Node, Node] = {c: fields[c.name] for e in finalize.outputs for c in columns([e])}
    made = [Value(substitute(e, mapping, in_record)) for e in finalize.outputs]
    if finalize.names is None:
        return made[0]
    return StructuredValue(dict(zip(finalize.names, made, strict=True)))

"""Aggregates whose functions run as they are, record by record, and what they result in."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

from scalops.algebra import operators as op
from scalops.algebra.captured import Captured
from scalops.algebra.dtypes import OBJECT, ArrayType
from scalops.algebra.errors import (
    Location,
    ScalopsError,
    TraceError,
    UserFunctionError,
    user_location,
)
from scalops.algebra.expressions import Column, Expression, Subquery
from scalops.algebra.folds import OpaqueAggregate
from scalops.algebra.operators import Operator
from scalops.capture import capture_opaque, function_location
from scalops.engine.opaque.calls import bind, describe, python_value, user_error
from scalops.engine.opaque.folds import packed_state
from scalops.engine.opaque.packed import pack, unpack
from scalops.engine.opaque.records import take_apart
from scalops.engine.witness.interpreter import Interpreter, Starts
from scalops.result_types import common_type
from scalops.rows import SAMPLE_ROWS, Void, capture_and_tell, in_time, sample_arguments
from scalops.structured import StructuredValue
from scalops.tracing import loop_starts, refuse
from scalops.value import Value

if TYPE_CHECKING:
    from scalops.aggregates import AggregateFunctions

_ASK_PYTHON = "so.call(f, v, like=...) applies a Python function to it, and so does an opaque one"
_NOTHING = pack(None)
Slots = tuple[Expression, ...]


def no_state(name: str, location: Location | None) -> UserFunctionError:
    """The error of a function of states that returns none."""
    return UserFunctionError(f"{name} returned None; return the state", location=location)


class ObjectValue(Value):
    """A lazy Python value with no fixed form: a dict whose keys come from the data, say."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> NoReturn:
        refuse("an item of a Python object", _ASK_PYTHON)
        raise TraceError(
            "an item of a Python object is not known before the plan runs",
            location=user_location(),
            hint=f"collect() it first; {_ASK_PYTHON}",
        )

    def __contains__(self, item: object) -> bool:
        return item in self._implicit("membership (in)")

    def __len__(self) -> int:
        return len(self._implicit("an int"))


@dataclass(frozen=True)
class Laws:
    """Whether the laws of an opaque aggregate are tested on sampled states."""

    sampled: bool


def opaque_value(source: Operator, own: AggregateFunctions, why: Void) -> Any:
    """The Value or structure of an aggregate that cannot be traced; `why` says why."""
    place = why.location or function_location(own.transition)
    transition, read = capture_and_tell(own.transition, why.reason, place)
    captured = [transition]
    slots: list[Slots] = [read]
    for f in (own.merge, own.initialize, own.finalize):
        if f is not None:
            made, read = capture_opaque(f, why.reason, function_location(f))
            if f is own.initialize and own.starts_from_zero:
                made = replace(made, name=f"aggregate's zero for {transition.name}")
            while made in captured:  # of one text, but with other values
                made = replace(made, name=f"{made.name} ")
            captured.append(made)
            slots.append(read)
    starts = loop_starts()
    sampled = in_time(transition, lambda: _sampled(source, captured, slots, starts))
    names, kinds = result_types(sampled, captured)
    schema = source.schema
    arguments = tuple(Column(n, k) for n, k in schema)
    folds = tuple(
        OpaqueAggregate(
            name, "aggregate", arguments, fields=names or (), output=i,
            transition=captured[0], merge=captured[1], initialize=captured[2],
            finalize=captured[3] if len(captured) > 3 else None, slots=tuple(slots),
            names=None if schema.bare else schema.names, declared=kind,
            origin=Laws(not own.assumed), location=own.location,
        )
        for i, (name, kind) in enumerate(zip(names or ("aggregate",), kinds, strict=True))
    )  # fmt: skip
    aggregate = op.Aggregate(source, folds, location=own.location)
    values = [
        (ObjectValue if f.type.is_object else Value)(
            Subquery(aggregate, f.name, location=own.location)
        )
        for f in folds
    ]
    return values[0] if names is None else StructuredValue(dict(zip(names, values, strict=True)))


class Running:
    """The functions of an opaque aggregate over a few records, for a look at their results."""

    def __init__(
        self, captured: Sequence[Captured], slots: Sequence[Slots], interpreter: Interpreter
    ) -> None:
        self._captured = captured
        self._functions = [
            bind(f, [python_value(interpreter.value(s)) for s in own])
            for f, own in zip(captured, slots, strict=True)
        ]

    def zero(self) -> bytes:
        """The first state."""
        return self._called(2)

    def after(self, state: bytes, record: Any) -> bytes:
        """The state after one more record."""
        return self._required(0, state, self._called(0, unpack(state), record))

    def merged(self, a: bytes, b: bytes) -> bytes:
        """The state of two runs."""
        return self._required(1, a, self._called(1, unpack(a), unpack(b)))

    def result(self, state: bytes) -> Any:
        """The result of a state."""
        return unpack(self._called(3, unpack(state)) if len(self._functions) > 3 else state)

    def _required(self, number: int, before: bytes, after: bytes) -> bytes:
        """`after`; UserFunctionError where a state has become None, for want of a return."""
        if after == _NOTHING and before != _NOTHING:
            raise no_state(self._captured[number].name, self._captured[number].location)
        return after

    def _called(self, number: int, *arguments: Any) -> bytes:
        captured = self._captured[number]
        try:
            result = self._functions[number](*arguments)
        except ScalopsError:
            raise
        except Exception as error:
            shown = describe(arguments[-1]) if arguments else "nothing"
            raise user_error(captured, error, shown, "it was called with") from error
        return packed_state(captured, result)


def _sampled(
    source: Operator, captured: Sequence[Captured], slots: Sequence[Slots], starts: Starts
) -> list[Any]:
    """The results over the first none, one, two ... of the sampled records."""
    interpreter = Interpreter(SAMPLE_ROWS, starts)
    running = Running(captured, slots, interpreter)
    state = running.zero()
    results: list[Any] = []
    with suppress(ScalopsError):  # there may be no result over no records
        results.append(running.result(state))
    for (record,) in sample_arguments(interpreter, (source,), SAMPLE_ROWS, python_value):
        state = running.after(state, record)
        results.append(running.result(state))
    if not results:
        results.append(running.result(state))  # with its error
    return results


_ANY: tuple[None, tuple[ArrayType, ...]] = (None, (OBJECT,))


def result_types(
    results: Sequence[Any], captured: Sequence[Captured]
) -> tuple[tuple[str, ...] | None, tuple[ArrayType, ...]]:
    """Names and types of the result's parts; one Python object where it has no fixed form."""
    taken = [take_apart(r) for r in results]
    names = taken[-1][0]
    if any(set(n or ()) != set(names or ()) or (n is None) != (names is None) for n, _ in taken):
        return _ANY
    if isinstance(results[-1], dict) and (len(results) < 2 or not _has_names(results[-1])):
        return _ANY  # of one dict nobody can say whether its keys come from the data
    if names == ():
        return _ANY
    kinds = []
    for name in names or ("value",):
        parts = [v[0 if n is None else n.index(name)] for n, v in taken]
        if any(isinstance(p, (list, tuple, dict)) for p in parts):
            return _ANY
        try:
            kinds.append(common_type(parts, captured[-1], ""))
        except TraceError:
            return _ANY
    return names, tuple(kinds)


def _has_names(result: dict[Any, Any]) -> bool:
    return all(isinstance(k, str) for k in result)

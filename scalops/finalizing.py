"""A `finalize` that cannot be traced: called once, at the driver, with the last state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scalops.aggregate_state import Shape
from scalops.algebra.captured import Captured
from scalops.algebra.errors import ScalopsError
from scalops.algebra.expressions import DriverCall, Expression, Item
from scalops.capture import capture_opaque, function_location
from scalops.engine.opaque.calls import bind, python_value, user_error
from scalops.engine.opaque.records import take_apart
from scalops.engine.value_program import typed
from scalops.engine.witness.interpreter import Interpreter, Starts
from scalops.opaque_aggregates import ObjectValue, result_types
from scalops.rows import SAMPLE_ROWS, in_time
from scalops.structured import StructuredValue
from scalops.tracing import loop_starts
from scalops.value import Value


class _OfFields:
    """A function of a state as one of its fields."""

    def __init__(self, func: Callable[..., Any], make: Callable[..., Any], names: Any) -> None:
        self.func, self.make, self.names = func, make, names

    def __call__(self, *values: Any) -> Any:
        return self.func(self.make(dict(zip(self.names, values, strict=True))))


def finalized(
    finalize: Callable[..., Any],
    shape: Shape,
    fields: Mapping[str, Expression],
    zero: Sequence[Expression],
) -> Any:
    """The Value or structure that `finalize` gives, its types found on the first records."""
    place = function_location(finalize)
    captured, slots = capture_opaque(
        _OfFields(finalize, shape.make, tuple(fields)), "cannot be traced", place
    )
    starts = loop_starts()
    arguments = tuple(fields.values())
    states = (zero, arguments)
    results = in_time(captured, lambda: _sampled(captured, slots, states, starts))
    names, kinds = result_types(results, [captured])
    last = [results[-1]] if names is None else take_apart(results[-1])[1]
    shown = None if any(v is None for v in last) else tuple(map(typed, last, kinds))
    made = DriverCall(captured, arguments, slots, kinds, names, shown or (), location=place)
    values = [
        (ObjectValue if k.is_object else Value)(Item(made, i, location=place))
        for i, k in enumerate(kinds)
    ]
    return values[0] if names is None else StructuredValue(dict(zip(names, values, strict=True)))


def _sampled(
    captured: Captured,
    slots: Sequence[Expression],
    states: Sequence[Sequence[Expression]],
    starts: Starts,
) -> list[Any]:
    """The results over no records and over the first of them."""
    interpreter = Interpreter(SAMPLE_ROWS, starts)
    function = bind(captured, [python_value(interpreter.value(s)) for s in slots])
    results: list[Any] = []
    for i, state in enumerate(states):
        values = [python_value(interpreter.value(e)) for e in state]
        try:
            result = function(*values)
        except Exception as error:
            if i == 0:
                continue  # there may be no result over no records
            if isinstance(error, ScalopsError):
                raise
            raise user_error(captured, error, values, "the state is") from error
        results.append(result)
    return results

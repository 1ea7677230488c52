"""States of aggregates: taken apart into fields, and put together again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from scalops.algebra.expressions import Expression
from scalops.engine.opaque.records import take_apart
from scalops.value import lift


@dataclass(frozen=True)
class Shape:
    """How a state of fixed form is made of named fields; `names` is None for one bare value."""

    kind: str
    names: tuple[str, ...] | None
    make: Callable[[Mapping[str, Any]], Any]
    zero: Mapping[str, Expression]

    def take(self, state: Any) -> dict[str, Any] | None:
        """The fields of a state; None where it is of another form."""
        names, values = take_apart(state)
        if names is None or self.names is None:
            return {"value": values[0]} if names is self.names else None
        if set(names) != set(self.names) or _kind(state) != self.kind:
            return None
        fields = dict(zip(names, values, strict=True))
        return {n: fields[n] for n in self.names}

    @property
    def title(self) -> str:
        """For messages."""
        return "one value" if self.names is None else f"{self.kind} of {list(self.names)}"


def shape_of(start: Any) -> Shape | str:
    """The form of a first state; or why it has no form that is the same for all states."""
    names, values = take_apart(start)
    if names is not None and not names:
        return f"has an empty {_kind(start)} as its first state"
    if isinstance(start, dict) and not all(isinstance(k, str) for k in start):
        return "has a state whose keys are no names"
    zero: dict[str, Expression] = {}
    for name, value in zip(names or ("value",), values, strict=True):
        expression = None if isinstance(value, (list, tuple, dict)) else lift(value)
        if expression is None:
            return f"has a state that holds a {type(value).__name__}"
        zero[name] = expression
    return Shape(_kind(start), names, _maker(start), zero)


def _kind(state: Any) -> str:
    kind = type(state)
    return kind.__name__ if kind in (dict, tuple) or take_apart(state)[0] is not None else "value"


def _maker(start: Any) -> Callable[[Mapping[str, Any]], Any]:
    kind = type(start)
    if isinstance(start, dict):
        return dict
    if dataclasses.is_dataclass(start) or hasattr(start, "_fields"):
        return lambda fields: kind(**fields)
    if isinstance(start, tuple):
        return lambda fields: tuple(fields.values())
    return lambda fields: fields["value"]

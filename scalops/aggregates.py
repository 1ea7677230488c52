"""Aggregates of the user's own: a state, how a record changes it, how two are merged.

After Feng, Kumar, Recht and Ré, "Towards a unified architecture for in-RDBMS analytics" (SIGMOD
2012): `initialize`, `transition`, `merge` and `finalize`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from scalops.aggregate_state import Shape, shape_of
from scalops.aggregate_tracing import traced_value
from scalops.algebra.errors import Location, ScalopsError, TraceError, user_location
from scalops.algebra.operators import Operator
from scalops.capture import function_location, function_name
from scalops.opaque_aggregates import opaque_value
from scalops.rows import MARKED, Associative, Udf, Void
from scalops.table_refusals import require_parameters


class Aggregate:
    """Base of aggregates for `table.aggregate(A())`.

    `merge` is associative, and merging with what `initialize` gives changes nothing: a table is
    cut into runs of records, each starts from `initialize()` and takes its records in table
    order, and the runs' states are merged in table order. A state is a scalar, an array, or a
    tuple, dict, NamedTuple or dataclass of these.
    """

    def initialize(self) -> Any:
        """The state over no records."""
        raise NotImplementedError(f"{type(self).__name__} needs initialize(self)")

    def transition(self, state: Any, record: Any) -> Any:
        """The state after one more record."""
        raise NotImplementedError(f"{type(self).__name__} needs transition(self, state, record)")

    def merge(self, a: Any, b: Any) -> Any:
        """The state of a's records followed by b's."""
        raise NotImplementedError(f"{type(self).__name__} needs merge(self, a, b)")

    def finalize(self, state: Any) -> Any:
        """The result."""
        return state


@dataclass(frozen=True)
class AggregateFunctions:
    """The user's functions, and whether `merge` is to be believed associative."""

    initialize: Callable[[], Any]
    transition: Callable[..., Any]
    merge: Callable[..., Any]
    finalize: Callable[..., Any] | None
    assumed: bool
    location: Location | None
    # By so.udf: all functions run as they are, or `finalize` alone does.
    marked: bool = False
    finalize_marked: bool = False

    @property
    def starts_from_zero(self) -> bool:
        """Whether the first state itself was given, not a function that makes it."""
        return isinstance(self.initialize, _Zero)


class _Zero:
    """`initialize` of an aggregate that is given by its first state."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def __call__(self) -> Any:
        return self.state


def aggregate(source: Operator, zero: Any, add: Any, merge: Any) -> Any:
    """The Value or structure of `table.aggregate(zero, add, merge)` or `table.aggregate(A())`."""
    own = _functions(zero, add, merge)
    require_parameters(own.transition, 2, "transition", "two, the state and the record")
    require_parameters(own.merge, 2, "merge", "two, both states")
    try:
        start = own.initialize()
    except ScalopsError:
        raise
    except Exception as error:
        raise TraceError(
            f"initialize() of an aggregate raises {type(error).__name__}: {error}",
            location=own.location,
        ) from error
    shape = shape_of(start)
    reason: Void | Any = Void(shape, own.location) if isinstance(shape, str) else None
    if own.marked:
        reason = Void(MARKED, function_location(own.transition))
    elif isinstance(shape, Shape):
        reason = traced_value(source, own, shape)
    if isinstance(reason, Void):
        return opaque_value(source, own, reason)
    return reason


def _functions(zero: Any, add: Any, merge: Any) -> AggregateFunctions:
    location = user_location()
    assumed = isinstance(zero, Associative)
    given = zero.function if isinstance(zero, Associative) else zero
    if isinstance(given, Aggregate):
        for part in ("initialize", "transition", "merge"):
            if getattr(type(given), part) is getattr(Aggregate, part):
                raise TraceError(
                    f"the aggregate {type(given).__name__} has no {part}",
                    location=user_location(),
                    hint="write initialize(self), transition(self, state, record) and"
                    " merge(self, a, b)",
                )
        if add is not None or merge is not None:
            raise TraceError(
                f"aggregate({type(given).__name__}()) takes nothing else: the object holds all",
                location=location,
            )
        finalize = None if type(given).finalize is Aggregate.finalize else given.finalize
        return _unmarked(
            AggregateFunctions(
                given.initialize, given.transition, given.merge, finalize, assumed, location
            )
        )
    if isinstance(given, type) and issubclass(given, Aggregate):
        raise TraceError(
            f"aggregate needs an object, not the class {given.__name__}",
            location=location,
            hint=f"write aggregate({given.__name__}())",
        )
    if isinstance(merge, Udf) and isinstance(merge.function, Associative):
        merge = Associative(Udf(merge.function.function, merge.returns, merge.batch))
    if isinstance(merge, Associative):
        assumed, merge = True, merge.function
    for what, f in (("add(state, record)", add), ("merge(a, b)", merge)):
        if not callable(f):
            raise TraceError(
                f"aggregate's {what} is a {type(f).__name__}; expected a function",
                location=location,
                hint="write aggregate(zero, add, merge), or aggregate(A()) with a class derived"
                " from so.Aggregate",
            )
    return _unmarked(AggregateFunctions(_Zero(given), add, merge, None, assumed, location))


def _unmarked(own: AggregateFunctions) -> AggregateFunctions:
    """The functions themselves, and whether so.udf marks them."""
    marks = [isinstance(f, Udf) for f in (own.initialize, own.transition, own.merge)]
    return replace(
        own,
        initialize=_unwrapped(own.initialize),
        transition=_unwrapped(own.transition),
        merge=_unwrapped(own.merge),
        finalize=_unwrapped(own.finalize),
        marked=any(marks),
        finalize_marked=isinstance(own.finalize, Udf),
    )


def _unwrapped(f: Any) -> Any:
    if not isinstance(f, Udf):
        return f
    if f.batch or f.returns is not None:
        option = "batch=" if f.batch else "returns="
        raise TraceError(
            f"{function_name(f.function)} is marked by so.udf with {option}, and is a function of"
            " an aggregate",
            location=user_location(),
            hint="mark it with so.udf alone: it is called record by record, and the types of"
            " states are found by calling it",
        )
    return f.function

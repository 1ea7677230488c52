"""Opaque aggregates: a state that a user's functions carry over the records.

Within a leaf of the canonical reduction the records follow one another; the states of leaves are
merged as its tree says. Between blocks a state is bytes (`packed`): it holds scalars, strings,
arrays, and tuples, lists and dicts of these, in this process as in a worker process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from operator import length_hint
from time import perf_counter
from typing import TYPE_CHECKING, Any

from scalops.algebra.captured import Captured
from scalops.algebra.errors import UserFunctionError
from scalops.engine.opaque.arguments import Argument
from scalops.engine.opaque.calls import (
    STRETCH_SECONDS,
    WantsText,
    bind,
    must_read_text,
    raised,
    reads_text,
    user_error,
)
from scalops.engine.opaque.packed import pack, unpack
from scalops.engine.progress import calling
from scalops.engine.threads import Stopped, check_stopped, may_be_stopped

if TYPE_CHECKING:
    from scalops.engine.processes.messages import Slots
    from scalops.engine.processes.runner import ProcessRunner

Function = Callable[..., Any]


def fold_rows(captured: Captured, transition: Function, state: Any, records: Sequence[Any]) -> Any:
    """transition(...transition(transition(state, records[0]), records[1])...).

    Raises: UserFunctionError for the record at which the function raises; WantsText.
    """
    rest, count = iter(records), len(records)
    stretch = 64 if may_be_stopped() else count
    while count > 0:
        begin = perf_counter()
        check_stopped()
        try:
            state = reduce(transition, islice(rest, min(count, stretch)), state)
        except (KeyboardInterrupt, Stopped):
            raise
        except BaseException as error:
            if must_read_text(captured, error):
                raise WantsText from None
            raise raised(captured, error, [records[-length_hint(rest) - 1]]) from error
        count -= stretch
        if perf_counter() - begin < STRETCH_SECONDS:
            stretch *= 2
    return state


def fold_packed(
    captured: Captured, transition: Function, state: bytes, records: Sequence[Any]
) -> bytes:
    """As `fold_rows`, from a packed state to the next."""
    return packed_state(captured, fold_rows(captured, transition, unpack(state), records))


def apply_packed(captured: Captured, function: Function, values: Sequence[bytes]) -> bytes:
    """A user's function of states; UserFunctionError where it raises or gives no state."""
    arguments = [unpack(v) for v in values]
    try:
        result = function(*arguments)
    except (KeyboardInterrupt, Stopped):
        raise
    except BaseException as error:
        shown = arguments[0] if len(arguments) == 1 else arguments
        raise user_error(captured, error, shown, "it was called with") from error
    return packed_state(captured, result)


def packed_state(captured: Captured, state: Any) -> bytes:
    """A state as bytes; UserFunctionError where it holds what a state may not."""
    try:
        return pack(state)
    except TypeError as error:
        raise UserFunctionError(
            f"{captured.name} gives a state that holds {error}; expected scalars, strings, arrays,"
            " and tuples, lists or dicts of these",
            location=captured.location,
            hint="a set can be a dict's keys, an object a dict of its fields",
        ) from None


@dataclass(frozen=True)
class AggregateFunctions:
    """The functions of an opaque aggregate, as they were when it was written.

    `initialize` takes nothing and gives the first state; where it is None, `zero` is that.
    `finalize` makes the result of the last state; where it is None, the state is the result.
    """

    transition: Captured
    merge: Captured
    initialize: Captured | None = None
    zero: Any = None
    finalize: Captured | None = None


class OpaqueFold:
    """An opaque aggregate as a fold: `extend`, `merge_states`, `finish_state`; states are bytes.

    `names` are the columns of the records that the transition takes, None for bare values.
    """

    def __init__(
        self,
        functions: AggregateFunctions,
        names: tuple[str, ...] | None,
        runner: ProcessRunner | None = None,
    ) -> None:
        self._functions, self._names, self._runner = functions, names, runner
        self._version = -1
        self._zero = b""
        self._bound: dict[Captured, Function] = {}
        self._slots: dict[Captured, Slots] = {}

    def bind(self, slots: Callable[[Captured], Sequence[Any]], version: int) -> None:
        """Bind the iteration's values: `slots(captured)` gives those that a function reads.

        They are as an opaque function receives them (`python_value`). Called by one thread,
        before the blocks of an iteration.
        """
        if version == self._version:
            return
        self._version = version
        own = self._functions
        for captured in (own.transition, own.merge, own.initialize, own.finalize):
            if captured is None:
                continue
            if self._runner is None:
                self._bound[captured] = bind(captured, slots(captured))
            else:
                self._slots[captured] = self._runner.slots(slots(captured))
        if own.initialize is None:
            self._zero = packed_state(own.transition, own.zero)
        else:
            self._zero = self._apply(own.initialize)

    def extend(
        self, state: bytes | None, argument: Argument, rows: int, source: object = None
    ) -> bytes:
        """The state after a block more; None is the zero.

        `source` tells blocks of a run apart whose content stays the same, if it is known to.
        """
        transition = self._functions.transition
        start = self._zero if state is None else state
        if self._runner is not None:
            slots = self._slots[transition]
            return self._runner.fold(transition, slots, start, argument, rows, source)
        own = transition, self._bound[transition]
        with calling(transition, lambda: f", over records 0 to {rows - 1} of a block"):
            try:
                return fold_packed(*own, start, argument.records(rows, reads_text(transition)))
            except WantsText:
                return fold_packed(*own, start, argument.records(rows, text=True))

    def merge_states(self, left: bytes, right: bytes) -> bytes:
        """The state of left's records followed by right's."""
        return self._apply(self._functions.merge, left, right)

    def finish_state(self, state: bytes | None) -> Any:
        """The result of a state; None is the zero."""
        last = self._zero if state is None else state
        if self._functions.finalize is not None:
            last = self._apply(self._functions.finalize, last)
        return unpack(last)

    def _apply(self, captured: Captured, *values: bytes) -> bytes:
        if self._runner is not None:
            return self._runner.apply(captured, self._slots[captured], values)
        with calling(captured, lambda: ""):
            return apply_packed(captured, self._bound[captured], values)

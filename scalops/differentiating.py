"""While a function is differentiated, what depends on its argument is not turned into numbers.

The argument is a Value whose number may be known. A conversion of what is made of it would run
a plan and go on with a constant, in which the derivative is lost without a word. So it is a
TraceError, as in a loop's body; what does not depend on the argument is collected as ever. In a
record function, a loop's body or a group's function their own traces decide (`tracing.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from scalops.algebra.errors import ScalopsError, TraceError, raised_at, user_location
from scalops.algebra.expressions import Expression
from scalops.algebra.tree import Node, walk
from scalops.tracing import current

# What NumPy says of a function of an array of objects that are Values.
_AMONG_OBJECTS = "type Value which has no callable"

# What to write in its place, by what was asked for.
_HINTS = {
    "a truth value": "use & | ~ on booleans, and np.where(...) for a choice",
    "a float": "use NumPy's function (np.exp, not math.exp), or the Value itself",
    "an int": 'use NumPy\'s function (np.floor), or so.cast(v, "int64")',
    "a complex number": "use the Value itself",
    "a formatted number": "collect() the loss that so.value_and_grad gives",
    "an index": "index through so.lit(array)[i]",
    "membership (in)": "use np.any(v == x)",
    "a NumPy array": "use the Value itself: NumPy's functions take it; np.stack([v, w]) where it is"
    " one of several",
    "a collected result": "use the Value itself, and collect() the gradient",
}


@dataclass
class _Differentiated:
    """One call of a function with variables in place of its argument."""

    what: str
    variables: list[Expression] = field(default_factory=list)
    error: TraceError | None = None


class _Stack(threading.local):
    def __init__(self) -> None:
        self.calls: list[_Differentiated] = []


_stack = _Stack()


@contextmanager
def differentiating(what: str, variables: list[Expression]) -> Iterator[None]:
    """Call a function of variables; what its code hid with an `except` is raised at the end."""
    made = _Differentiated(what, variables)
    _stack.calls.append(made)
    try:
        yield
    except Exception as error:
        if isinstance(error, ScalopsError):
            raise
        if made.error is not None:  # NumPy asked for a number, and said something else
            raise made.error from error
        if isinstance(error, TypeError) and _AMONG_OBJECTS in str(error):
            raise TraceError(
                f"the function given to {what} makes a NumPy array of Values, which its functions"
                " do not take",
                location=raised_at(error),
                hint="np.stack([v, w]) makes a Value of several",
            ) from error
        raise
    finally:
        _stack.calls.pop()
    if made.error is not None:
        raise made.error


def is_differentiated(*nodes: Node) -> bool:
    """Whether any of them depends on the argument of a function that is being differentiated."""
    return _of(nodes) is not None


def refuse_number(nodes: Iterable[Node], asked: str) -> None:
    """TraceError where a number is asked for that depends on what is differentiated by."""
    call = None if current() is not None else _of(nodes)
    if call is None:
        return
    call.error = call.error or TraceError(
        f"the function given to {call.what} asks for {asked} of what depends on its argument, which"
        " the gradient would take for a constant",
        location=user_location(),
        hint=_HINTS[asked],
    )
    raise call.error


def _of(nodes: Iterable[Node]) -> _Differentiated | None:
    """The innermost call whose variables are read."""
    if not _stack.calls:
        return None
    read = {n for root in nodes for n in walk(root)}
    found = (c for c in reversed(_stack.calls) if not read.isdisjoint(c.variables))
    return next(found, None)

"""Tracing: a user's function is called with symbols and leaves an expression behind.

A symbol that is asked for a truth value, a number or a string has none to give. In a row
function this voids the trace: the signal is a BaseException, and the trace remembers it, so
that a user's `except` cannot hide it; the function then runs as it is, record by record. In a
loop body or condition, or in a group's function, there is no other way to run it, so it is a
TraceError.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from scalops.algebra.errors import (
    Location,
    ScalopsError,
    TraceError,
    raised_at,
    user_location,
)
from scalops.algebra.expressions import Expression
from scalops.algebra.operators import Operator

Kind = Literal["row", "loop", "group"]
Starts = dict[int, dict[str, Expression | Operator]]  # of loops, by token and field


# What a group's function that is no expression is written as.
WHOLE_GROUP = "an ordinary function gets a group whole: apply(f, schema), or so.call(f, rows)"


class VoidTrace(BaseException):
    """Raised in a row function when a symbol is asked for what only a value has."""


@dataclass
class Trace:
    """One call of a user's function with symbols."""

    kind: Kind
    what: str
    reason: str | None = None
    location: Location | None = None
    error: ScalopsError | None = None
    starts: Starts = field(default_factory=dict)


class _Stack(threading.local):
    def __init__(self) -> None:
        self.traces: list[Trace] = []


_stack = _Stack()


def current() -> Trace | None:
    """The innermost trace of this thread."""
    return _stack.traces[-1] if _stack.traces else None


def row_depth() -> int:
    """How many row functions are being traced, one inside the other."""
    return sum(t.kind == "row" for t in _stack.traces)


def in_group() -> bool:
    """Whether a group's function is being traced, and no row function in it."""
    trace = current()
    return trace is not None and trace.kind == "group"


def loop_starts() -> Starts:
    """The start environments of the loops whose bodies are being traced, by loop token."""
    starts: Starts = {}
    for trace in _stack.traces:
        starts.update(trace.starts)
    return starts


@contextmanager
def tracing(kind: Kind, what: str, starts: Starts | None = None) -> Iterator[Trace]:
    """Trace a call; what the user's code hid with an `except` is raised at the end."""
    trace = Trace(kind, what, starts=starts or {})
    _stack.traces.append(trace)
    try:
        yield trace
    except Exception as error:
        if kind != "loop" or isinstance(error, ScalopsError):
            raise
        if trace.error is not None:  # NumPy asked for an index, and said something else
            raise trace.error from error
        if isinstance(error, (IndexError, TypeError)) and _USED_AS_INDEX.search(str(error)):
            raise TraceError(
                f"{what} indexes an array by a Value, which is not known before the loop runs",
                location=raised_at(error),
                hint="index through so.lit(array)[i]",
            ) from error
        raise
    finally:
        _stack.traces.pop()
    if trace.error is not None:
        raise trace.error


# What NumPy says of a symbol among an array's indices, which it sees as an array of objects.
_USED_AS_INDEX = re.compile(
    r"arrays used as indices must be|are valid indices|from dtype\('O'\) to dtype\('int"
)


def refuse_to_run(asked: str, hint: str) -> None:
    """Refuse in a loop's or a group's function what would run a plan while it is being traced."""
    trace = current()
    if trace is not None and trace.kind != "row":
        refuse(asked, hint)


def refuse(asked: str, hint: str) -> None:
    """A symbol was asked for something: void a row trace, refuse in a loop, else return."""
    trace = current()
    if trace is None:
        return
    where = user_location()
    if trace.kind == "row":
        if trace.reason is None:
            trace.reason, trace.location = f"asks for {asked}", where
        raise VoidTrace(asked)
    if trace.kind == "group":
        found = f"the function of {trace.what} asks for {asked}, which no traced group has"
        hint = f"{hint}; {WHOLE_GROUP}"
    else:
        found = f"{trace.what} asks for {asked}, which is not known before the loop runs"
    trace.error = trace.error or TraceError(found, location=where, hint=hint)
    raise trace.error

"""Errors on their way from a worker process: types by name, messages and tracebacks as text."""

from __future__ import annotations

import builtins
import re
import traceback
from collections.abc import Sequence
from typing import Any

from scalops.algebra import errors
from scalops.algebra.captured import Captured
from scalops.algebra.errors import (
    ExecutionError,
    Location,
    ScalopsError,
    UserFunctionError,
    WorkerLost,
    text_of,
)
from scalops.engine.backends import StageFailure

MOST_CHARACTERS = 1 << 17  # of a text; messages have a limit, and a user's error has none


def took_too_long(
    name: str, location: Location | None, seconds: float, over: str
) -> UserFunctionError:
    """A function has been ended; `over` says at what: ", over records 0 to 9 of a block"."""
    return UserFunctionError(
        f"{name} was ended after {seconds:g} s{over}",
        location=location,
        hint="so.session(task_timeout=...) says how long it may take; None: as long as it does",
    )


def ended_its_worker(
    name: str, location: Location | None, times: int, how: str, here: str
) -> WorkerLost:
    """A function has taken its process down again and again, the last time `how`.

    `here` is the session in which it runs in the user's own process.
    """
    return WorkerLost(
        f"{name} ended its worker process {times} times, the last time {how}",
        location=location,
        hint=hint_for(how, here),
    )


def hint_for(how: str, here: str) -> str:
    """What to do about processes that end `how`, as "by signal 9 (SIGKILL)"; `here` as above.

    What exits or crashes would take the user's own process down, too.
    """
    if re.search(r"\bsignal 9\b", how):
        return f"signal 9 may mean that memory ran out; {here} runs it here"
    if "exit code" in how:
        return "something in it ends its process: look for os._exit, or a library that exits"
    if "signal" in how:
        return "a library that it calls has crashed: call it alone, under python -X faulthandler"
    return f"{here} runs it here"


def encode_error(error: BaseException, captured: Captured | None) -> dict[str, Any]:
    """What the driver needs to raise it again."""
    if isinstance(error, StageFailure):
        return encode_error(error.error, captured) | {"stage": error.stage}
    if isinstance(error, ScalopsError):
        location = error.location
        return {
            "type": type(error).__name__,
            "found": _shortened(error.found),
            "hint": error.hint and _shortened(error.hint),
            "location": None if location is None else [location.file, location.line],
            "cause": None if error.__cause__ is None else _encode_cause(error.__cause__),
            "during": list(error.during),
        }
    if isinstance(error, Exception):
        return {"type": None, "cause": _encode_cause(error)}
    # SystemExit and the like end a worker's call, not the driver.
    name = "a function" if captured is None else captured.name
    return {
        "type": UserFunctionError.__name__,
        "found": _shortened(f"{name} raised {type(error).__name__}: {text_of(error)}"),
        "hint": None,
        "location": None,
        "cause": _encode_cause(error),
    }


def _encode_cause(error: BaseException) -> dict[str, Any]:
    kinds = type(error).__mro__
    own = kinds[0].__module__ == "builtins"
    given: tuple[Any, ...] = error.args
    if isinstance(error, OSError) and error.filename is not None:
        given = (error.errno, error.strerror, error.filename)
    arguments = list(given) if own and _are_short(given) else None
    return {
        "bases": [k.__name__ for k in kinds if k.__module__ == "builtins"],
        "arguments": arguments,
        "message": _shortened(text_of(error)),
        "traceback": _shortened("".join(traceback.format_exception(error))),
    }


def _shortened(text: str) -> str:
    """Beginning and end of a text that is too long."""
    more = len(text) - MOST_CHARACTERS
    if more <= 0:
        return text
    half = MOST_CHARACTERS // 2
    return f"{text[:half]} ... ({more:,} more characters) ... {text[-half:]}"


def _are_short(arguments: Sequence[Any]) -> bool:
    """Whether plain values have no more characters together than a text may have."""
    if not all(map(_is_plain, arguments)):
        return False
    return sum(len(a) if isinstance(a, str) else 1 for a in arguments) <= MOST_CHARACTERS


def _is_plain(argument: Any) -> bool:
    if type(argument) is int:
        return abs(argument) < 1 << 63
    return argument is None or type(argument) in (bool, float, str)


def decode_error(item: dict[str, Any], captured: Captured) -> BaseException:
    """The error, with a cause of the nearest builtin type and the traceback as a note."""
    cause = None if item["cause"] is None else _decode_cause(item["cause"])
    if item["type"] is None:
        assert cause is not None
        cause.add_note(f"in a worker process:\n{item['cause']['traceback']}")
        return cause
    kind = getattr(errors, str(item["type"]), None)
    if not (isinstance(kind, type) and issubclass(kind, ScalopsError)):
        kind = ExecutionError
    where = item["location"]
    location = captured.location if where is None else Location(str(where[0]), int(where[1]))
    made: ScalopsError = kind(str(item["found"]), location=location, hint=item["hint"])
    made.during = tuple(map(str, item.get("during", ())))
    if cause is not None:
        made.__cause__ = cause
        made.add_note(f"in a worker process:\n{item['cause']['traceback']}")
    return made if item.get("stage") is None else StageFailure(int(item["stage"]), made)


def _decode_cause(item: dict[str, Any]) -> BaseException:
    bases: Sequence[Any] = item["bases"]
    for i, name in enumerate(bases):
        kind = getattr(builtins, str(name), None)
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            continue
        arguments = item["arguments"] if i == 0 else None
        try:
            return kind(*([item["message"]] if arguments is None else arguments))
        except Exception:  # some types want arguments of their own
            continue
    return Exception(item["message"])

"""The errors a user meets: what was found, what was expected, where, and what to do."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import PurePath
from types import FrameType

# Frames of these packages are never "the user's line". Told by module name, not by path,
# so that an installed copy, an editable one and a zipped one behave the same.
_NOT_THE_USER = frozenset({"scalops", "numpy", "scipy", "cloudpickle"}) | sys.stdlib_module_names
_COMMANDS = "scalops.cli.commands"


@dataclass(frozen=True)
class Location:
    """A line of the user's program."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{PurePath(self.file).name}:{self.line}"


def user_location() -> Location | None:
    """The innermost line of the calling stack that is the user's own.

    Whatever has called the command line is not the user's program.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _is_users(frame):
            return Location(frame.f_code.co_filename, frame.f_lineno)
        if frame.f_globals.get("__name__") == _COMMANDS:
            return None
        frame = frame.f_back
    return None


def raised_at(error: BaseException) -> Location | None:
    """The innermost line of the user's in an error's traceback."""
    tb, found = error.__traceback__, None
    while tb is not None:
        if _is_users(tb.tb_frame):
            found = Location(tb.tb_frame.f_code.co_filename, tb.tb_lineno)
        tb = tb.tb_next
    return found


def _is_users(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__", "").partition(".")[0] not in _NOT_THE_USER


def text_of(error: BaseException) -> str:
    """What an error says; a user's own may fail to say it."""
    try:
        return str(error)
    except Exception as failed:
        return f"(its message cannot be shown: {type(failed).__name__})"


class ScalopsError(Exception):
    """Base of all errors of this package.

    `found` says what was found and what was expected, `hint` what to do about it,
    `location` is the user's line at which the operator was written.
    """

    def __init__(
        self, found: str, *, location: Location | None = None, hint: str | None = None
    ) -> None:
        super().__init__(found)
        self.found = found
        self.location = location
        self.hint = hint
        self.during: tuple[str, ...] = ()
        self.partition = -1  # at which it was raised; -1: at none

    def add_place(self, place: str) -> None:
        """Say where the run was: a partition, an iteration; the innermost first."""
        self.during = (*self.during, place)

    def __str__(self) -> str:
        text = self.found if self.location is None else f"{self.found} ({self.location})"
        if self.during:
            text = f"{text}, in {', '.join(self.during)}"
        return text if self.hint is None else f"{text}; {self.hint}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.found, self.location, self.hint, self.during))


def _rebuild(
    kind: type[ScalopsError],
    found: str,
    location: Location | None,
    hint: str | None,
    during: tuple[str, ...],
) -> ScalopsError:
    error = kind(found, location=location, hint=hint)
    error.during = during
    return error


class SchemaError(ScalopsError):
    """A table has not the columns or types that an operator reads."""


class TraceError(ScalopsError):
    """A row function, loop body or condition cannot be turned into an expression."""


class PlanError(ScalopsError):
    """The program asks for something that no plan can do, or that is not built yet."""


class LoopError(ScalopsError):
    """A loop's state changes its structure or stops being finite."""


class OptimizerError(ScalopsError):
    """A rule broke a plan; the rule is named. Always a defect of this package."""


class ExecutionError(ScalopsError):
    """A plan failed while running."""


class UserFunctionError(ExecutionError):
    """A user's function raised; its own exception is `__cause__`."""


class WorkerLost(ExecutionError):
    """A worker process died and its work could not be done again."""


class DataError(ExecutionError):
    """The data are not what the plan was told: types, nulls, file contents."""


class OutOfMemoryError(ExecutionError, MemoryError):
    """The memory budget refuses what an operator cannot do without."""


class SecurityError(ScalopsError):
    """A key, a peer or a permission is refused."""


class ConfigError(ScalopsError):
    """An option has an unknown name or a value that makes no sense."""

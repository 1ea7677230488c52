"""How a failing program ends: the error or the user's own lines, and an exit code."""

from __future__ import annotations

import contextlib
import signal
import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterator
from types import FrameType, TracebackType

import click

FAILED, INTERRUPTED, TERMINATED = 1, 130, 143
# Told by module name, as in algebra/errors.py.
_HIDDEN = frozenset({"scalops", "importlib", "click"})
_INSTALLED = tuple(
    {sysconfig.get_path(p) for p in ("stdlib", "platstdlib", "purelib", "platlib")} | {"<"}
)


@contextlib.contextmanager
def user_code() -> Iterator[None]:
    """Run the user's code: what it prints goes to standard error, its failure ends the command."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except KeyboardInterrupt:
        click.echo("Interrupted", err=True)
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        _report(error)
        raise SystemExit(FAILED) from None


@contextlib.contextmanager
def own_command(interrupted: str = "Interrupted") -> Iterator[None]:
    """Run a command that has no program: an error of ours ends it in one line."""
    from scalops.algebra.errors import ScalopsError

    try:
        yield
    except KeyboardInterrupt:
        click.echo(interrupted, err=True)
        raise SystemExit(INTERRUPTED) from None
    except ScalopsError as error:
        error.location = None  # no line of a program
        click.secho(f"{type(error).__name__}: {error}", fg="red", err=True)
        raise SystemExit(FAILED) from None


@contextlib.contextmanager
def ended_by_term() -> Iterator[None]:
    """Let SIGTERM end what runs inside as an exception does: sessions and files are closed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)


def _report(error: Exception) -> None:
    from scalops.algebra.errors import ScalopsError

    if not isinstance(error, ScalopsError):
        click.echo(user_traceback(error).rstrip("\n"), err=True)
        return
    cause = error.__cause__
    if cause is not None and not isinstance(cause, ScalopsError):
        if cause.__traceback__ is None:  # from another process
            click.echo("".join(traceback.format_exception_only(cause)).rstrip("\n"), err=True)
        elif any(map(_is_user, _frames(cause.__traceback__))):
            click.echo(user_traceback(cause).rstrip("\n"), err=True)
    click.secho(f"{type(error).__name__}: {error}", fg="red", err=True)


def user_traceback(error: BaseException) -> str:
    """The traceback as from the user's program alone.

    Where none of the user's lines is part of it, the defect is ours and nothing is hidden.
    """
    if not any(map(_is_user, _frames(error.__traceback__))):
        if isinstance(error, SyntaxError):
            return "".join(traceback.format_exception_only(error))
        return "".join(traceback.format_exception(error))
    report = traceback.TracebackException.from_exception(error)
    _hide_frames(report, error)
    return "".join(report.format())


def _hide_frames(report: traceback.TracebackException, error: BaseException) -> None:
    shown = [
        summary
        for summary, frame in zip(report.stack, _frames(error.__traceback__), strict=False)
        if _package(frame) not in _HIDDEN
    ]
    report.stack = traceback.StackSummary.from_list(shown)
    for part, source in (
        (report.__cause__, error.__cause__),
        (report.__context__, error.__context__),
    ):
        if part is not None and source is not None:
            _hide_frames(part, source)


def _frames(trace: TracebackType | None) -> list[FrameType]:
    return [frame for frame, _ in traceback.walk_tb(trace)]


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _is_user(frame: FrameType) -> bool:
    return _package(frame) not in _HIDDEN and not frame.f_code.co_filename.startswith(_INSTALLED)

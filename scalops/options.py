"""The options of a session: their names, their defaults, and what each accepts."""

from __future__ import annotations

import math
import operator
import reprlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, NoReturn

import numpy as np

from scalops.algebra.errors import ConfigError, user_location
from scalops.not_yet import refuse


@dataclass(frozen=True)
class Options:
    """What a session may be told.

    threads: how many threads work on partitions; 0 means one per usable core.
    memory: bytes that caches and buffers may take together; None means 60 % of what is free.
    opaque: "run" or "error", whether functions that cannot be traced may run record by record.
    implicit_collect: whether float(v), int(v), bool(v) and np.asarray(v) run the plan of v.
    processes: how many worker processes call opaque functions; 0 means this process does, None
        one per usable core.
    task_timeout: seconds that one task of a worker process may take; None means any time.
    folds: "auto", "threads" or "processes", what folds a cached table in a loop.
    jit: whether folds are compiled just in time by numba; "auto" compiles those that are worth it.
    """

    threads: int = 0
    memory: int | None = None
    opaque: str = "run"
    implicit_collect: bool = True
    processes: int | None = None
    task_timeout: float | None = None
    folds: str = "auto"
    jit: str | bool = "auto"


OPTIONS = tuple(field.name for field in fields(Options))
# Those that a single run may be given: the others shape plans, or what a session holds.
OF_ONE_RUN = ("threads", "memory")
NOT_BUILT = ("workers", "key", "objective")
_OF_EXPLAIN = ("stage", "format", "trace")

_MOST_AT_ONCE = 4096
_MOST_SECONDS = 10**6
_MOST_BYTES = 2**62
_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_FLAGS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def _memory(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, str):
        text = value.strip().upper()
        digits = text.rstrip("KMGTIB").strip()
        unit = text[len(digits) :].strip()
        if unit not in _UNITS:
            raise ValueError(value)
        # Not by way of float: a text of digits alone is exact.
        size = int(digits) * _UNITS[unit] if digits.isdigit() else int(float(digits) * _UNITS[unit])
    else:
        size = int(_number(value))
    if not 0 < size <= _MOST_BYTES:
        raise ValueError(value)
    return size


def _number(value: Any) -> Any:
    """An int or a float, NumPy's too; a bool is none."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(
        value, (int, float, np.integer, np.floating)
    ):
        raise TypeError(value)
    return value.item() if isinstance(value, np.generic) else value


def _count(value: Any) -> int:
    count = int(value) if isinstance(value, str) else operator.index(_number(value))
    if not 0 <= count <= _MOST_AT_ONCE:
        raise ValueError(value)
    return count


def _processes(value: Any) -> int | None:
    return None if value is None else _count(value)


def _opaque(value: Any) -> str:
    if not isinstance(value, str) or value not in ("run", "error"):
        raise ValueError(value)
    return value


def _folds(value: Any) -> str:
    if not isinstance(value, str) or value not in ("auto", "threads", "processes"):
        raise ValueError(value)
    return value


def _jit(value: Any) -> str | bool:
    return "auto" if isinstance(value, str) and value.strip() == "auto" else _flag(value)


def _flag(value: Any) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if not isinstance(value, (str, int)):
        raise TypeError(value)
    return _FLAGS[str(value).strip().lower()]


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    seconds = float(value.strip().lower().removesuffix("s")) if isinstance(value, str) else None
    seconds = float(_number(value)) if seconds is None else seconds
    if not math.isfinite(seconds) or not 0 < seconds <= _MOST_SECONDS:
        raise ValueError(value)
    return seconds


_COUNT = f"an int of at least 0 and at most {_MOST_AT_ONCE}"
# How each option is read, and what that accepts.
_READ: dict[str, tuple[Callable[[Any], Any], str]] = {
    "threads": (_count, _COUNT),
    "memory": (_memory, "bytes, or a text such as '4GB' or '512MiB'"),
    "opaque": (_opaque, "'run' or 'error'"),
    "implicit_collect": (_flag, "true or false"),
    "processes": (_processes, f"{_COUNT}, or None for one per core"),
    "folds": (_folds, "'auto', 'threads' or 'processes'"),
    "jit": (_jit, "'auto', true or false"),
    "task_timeout": (_seconds, f"seconds, more than 0 and at most {_MOST_SECONDS}, or None"),
}


def read_option(name: str, value: Any, what: str | None = None, where: str = "") -> Any:
    """An option's value as `Options` holds it. Raises ConfigError for one that makes no sense.

    `what` is what the user wrote in place of the name, `where` the file in which it was found.
    """
    read, expected = _READ[name]
    try:
        return read(value)
    except (TypeError, ValueError, KeyError, OverflowError):
        raise ConfigError(
            f"{what or name} is {_shown(value)}{where}; expected {expected}",
            location=user_location(),
        ) from None


def _shown(value: Any) -> str:
    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = 80
    return shown.repr(value)


def refuse_unknown(
    names: Iterable[str], what: str = "a session", known: tuple[str, ...] = OPTIONS
) -> None:
    """Raise for names that are no options; `what` is the place where they were given."""
    unknown = sorted(set(names) - set(known))
    later = [name for name in unknown if name in NOT_BUILT]
    if later:
        place = "" if what == "a session" else f" ({what})"
        refuse(f"a session on workers or with an objective{place}")
    if unknown:
        _unknown(unknown, what, known)


def _unknown(unknown: list[str], what: str, known: tuple[str, ...]) -> NoReturn:
    near = get_close_matches(unknown[0], known, 1)
    hint = f"did you mean {near[0]!r}?" if near else None
    others = get_close_matches(unknown[0], OPTIONS, 1)
    if unknown[0] in _OF_EXPLAIN and not near:
        hint = f"so.explain(..., {unknown[0]}=...) takes it"
    elif others and (unknown[0] in OPTIONS or not near):
        taken = f"so.session({others[0]}=...) takes it"
        hint = taken if unknown[0] in OPTIONS else f"did you mean {others[0]!r}? {taken}"
    raise ConfigError(
        f"{what} has no option {unknown}; its options are {list(known)}",
        location=user_location(),
        hint=hint,
    )

"""The options of a session: their names, their defaults, and what each accepts."""

from __future__ import annotations

import math
import operator
import os
import re
import reprlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Literal, NoReturn

import numpy as np

from scalops.algebra.errors import ConfigError, user_location

AUTO: Literal["auto"] = "auto"


@dataclass(frozen=True)
class Options:
    """What a session may be told.

    threads: how many threads work on partitions; 0 means one per usable core.
    memory: bytes that caches and buffers may take together; None means 60 % of what is free.
    spill: the folder for files that take what memory has no room for; None means that of TMPDIR, or
        the system's for temporary files that lies on a disk.
    opaque: "run" or "error", whether functions that cannot be traced may run record by record.
    implicit_collect: whether float(v), int(v), bool(v) and np.asarray(v) run the plan of v.
    processes: how many worker processes call opaque functions; 0 means this process does, None
        one per usable core.
    task_timeout: seconds that one task of a worker process may take; None means any time.
    folds: "auto", "threads" or "processes", what folds a cached table in a loop.
    jit: whether folds are compiled just in time by numba; "auto" compiles those that are worth it.
    workers: how many worker processes of this machine run whole plans, each with so many `threads`;
        0 is none: plans run in this process. "auto" lets the cost model choose for each plan, of
        those that a cluster has or of one for each core.
    connect: the URI of a running cluster whose workers run whole plans; None is none.
    key: the file of the key that a cluster asks for.
    fan_in: how many workers' partial results meet in one; None leaves it to the plan.
    lease: seconds without a sign of life after which a worker of this machine counts as lost; a
        cluster has its own.
    objective: "time" or "cost", what the cost model's decisions make least: seconds, or seconds
        times machines.
    price: of a machine for an hour, in any currency: what explain says of money; a cluster's worker
        counts as a machine. None where nobody knows.
    """

    threads: int = 0
    memory: int | None = None
    spill: str | None = None
    opaque: str = "run"
    implicit_collect: bool = True
    processes: int | None = None
    task_timeout: float | None = None
    folds: str = "auto"
    jit: str | bool = "auto"
    workers: int | Literal["auto"] = 0
    connect: str | None = None
    key: str | None = None
    fan_in: int | None = None
    lease: float = 10.0
    objective: str = "time"
    price: float | None = None


OPTIONS = tuple(field.name for field in fields(Options))
# Those that a single run may be given: the others shape plans, or what a session holds.
OF_ONE_RUN = ("threads", "memory")
_OF_EXPLAIN = ("stage", "format", "trace", "analyze", "costs")

_MOST_AT_ONCE = 4096
_MOST_SECONDS = 10**6
_MOST_BYTES = 2**62
# A worker says that it lives several times within a lease; a shorter one a busy machine breaks.
_LEASE_BOUNDS = (0.1, 3600.0)
_TCP = re.compile(r"tcp://(\[[0-9A-Fa-f:.]+\]|[^/\s:\[\]]+):(\d{1,5})")
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
    return None if value is None else _bytes(value)


def _bytes(value: Any) -> int:
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
    if not 1 <= size <= _MOST_BYTES:
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


def _workers(value: Any) -> int | Literal["auto"]:
    if isinstance(value, str) and value.strip() == AUTO:
        return AUTO
    return 0 if value is None else _count(value)


def _connect(value: Any) -> str | None:
    """`tcp://host:port`, or `ipc:///path` for a broker of this machine."""
    if value is None:
        return None
    uri = value.strip()
    found = _TCP.fullmatch(uri)
    if not (0 < int(found[2]) < 2**16 if found else re.fullmatch(r"ipc:///[^\0]+", uri)):
        raise ValueError(value)
    return str(uri)


def _key(value: Any) -> str | None:
    if value is None:
        return None
    path = os.path.expanduser(os.fspath(value))
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise ValueError(value)
    return path


def _spill(value: Any) -> str | None:
    """A folder that is there, whole: workers have other working directories."""
    path = _key(value)
    if path is None:
        return None
    if not os.path.isdir(path) or not os.access(path, os.W_OK | os.X_OK):
        raise ValueError(value)
    return os.path.abspath(path)


def _fan_in(value: Any) -> int | None:
    if value is None:
        return None
    fan_in = _count(value)
    if fan_in < 2:
        raise ValueError(value)
    return fan_in


def _lease(value: Any) -> float:
    seconds = _seconds(value)
    if seconds is None or not _LEASE_BOUNDS[0] <= seconds <= _LEASE_BOUNDS[1]:
        raise ValueError(value)
    return seconds


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


def _objective(value: Any) -> str:
    if not isinstance(value, str) or value not in ("time", "cost"):
        raise ValueError(value)
    return value


def _price(value: Any) -> float | None:
    if value is None:
        return None
    price = float(value.strip()) if isinstance(value, str) else float(_number(value))
    if not math.isfinite(price) or price < 0:
        raise ValueError(value)
    return price


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
    "spill": (_spill, "the path of a folder that files can be written to"),
    "opaque": (_opaque, "'run' or 'error'"),
    "implicit_collect": (_flag, "true or false"),
    "processes": (_processes, f"{_COUNT}, or None for one per core"),
    "folds": (_folds, "'auto', 'threads' or 'processes'"),
    "jit": (_jit, "'auto', true or false"),
    "task_timeout": (_seconds, f"seconds, more than 0 and at most {_MOST_SECONDS}, or None"),
    "workers": (_workers, f"{_COUNT}, 'auto', or None for none"),
    "connect": (_connect, "'tcp://host:port' or 'ipc:///path'"),
    "key": (_key, "the path of a file"),
    "fan_in": (_fan_in, f"an int of at least 2 and at most {_MOST_AT_ONCE}, or None"),
    "price": (_price, "a number of at least 0, of a machine for an hour, or None"),
    "objective": (_objective, "'time' or 'cost'"),
    "lease": (_lease, "seconds, from {} to {:g}".format(*_LEASE_BOUNDS)),
}


def read_option(name: str, value: Any, what: str | None = None, where: str = "") -> Any:
    """An option's value as `Options` holds it. Raises ConfigError for one that makes no sense.

    `what` is what the user wrote in place of the name, `where` the file in which it was found.
    """
    read, expected = _READ[name]
    try:
        return read(value)
    except (TypeError, ValueError, KeyError, OverflowError, AttributeError):
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

"""Stored rates of this machine: what `scalops calibrate` has measured, for who estimates costs.

One file for each machine, in the folder of `folder()`. What a figure depends on is stored with it:
a file of other hardware is not used; figures that are old, or of other versions of libraries, are
`stale`: still better than assumed ones, and marked where they are printed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import os
import platform
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import time
from typing import Any

from scalops.algebra.errors import ConfigError
from scalops.optimizer.costs.machine import ASSUMED, Machine, Rate

log = logging.getLogger("scalops")
FORMAT = 1
FOLDER = "SCALOPS_PROFILES"  # the variable that names another folder
STALE_SECONDS = 30 * 86_400.0
_MIB = 1 << 20
_LATEST = 600.0  # seconds that a clock may have been ahead when a figure was stored
_MOST_BYTES = 1 << 20  # of a file
_MOST_MEMORY = 1 << 60  # bytes of a machine
# What no machine takes or does is no measurement, and nothing to compute costs with.
_SECONDS = (1e-12, 1e6)
_BY_SECOND = (1.0, 1e15)
_MOST_SPREAD = 1.0  # as of calibration/measurement.py
_known = {r.name: r for r in ASSUMED}


@dataclass(frozen=True)
class Hardware:
    """What tells one machine from another: processor, cores that may be used, bytes of memory."""

    processor: str
    cores: int
    memory: int

    @property
    def digest(self) -> str:
        """Of all three; memory in units of 64 MiB, since kernels keep a little for themselves."""
        text = f"{self.processor}\n{self.cores}\n{round(self.memory / (64 * _MIB))}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def __str__(self) -> str:
        cores = f"{self.cores} core{'' if self.cores == 1 else 's'}"
        return f"{self.processor}, {cores}, {self.memory / (1 << 30):.1f} GiB"


@dataclass(frozen=True)
class Stored:
    """A measured rate: median and spread as of `Rate`, seconds since the epoch, and software."""

    value: float
    unit: str
    spread: float
    at: float
    software: str


@dataclass(frozen=True)
class Profile:
    """What is stored of a machine, by rate."""

    hardware: Hardware
    rates: Mapping[str, Stored]

    def having(self, software: str, measured: Iterable[Rate], at: float) -> Profile:
        """The same with these rates, measured `at`; the others stay."""
        rates = dict(self.rates)
        for rate in measured:
            rates[rate.name] = Stored(rate.value, rate.unit, rate.spread or 0.0, at, software)
        return replace(self, rates=rates)

    @property
    def text(self) -> str:
        """The file's."""
        found = {
            "format": FORMAT,
            "hardware": vars(self.hardware),
            "rates": {name: vars(self.rates[name]) for name in _known if name in self.rates},
        }
        return json.dumps(found, indent=1) + "\n"

    def machine(self, now: float, software: str) -> Machine:
        """The rates; assumed ones where nothing is stored."""
        measured = [
            replace(
                _known[name],
                value=found.value,
                provenance="measured",
                spread=found.spread,
                stale=is_stale(found, now, software),
            )
            for name, found in self.rates.items()
        ]
        oldest = min((found.at for found in self.rates.values()), default=None)
        return Machine.of(self.hardware.cores, self.hardware.memory, measured, oldest)


def is_stale(stored: Stored, now: float, software: str) -> bool:
    """Whether a figure is older than 30 days, or of other versions of libraries."""
    return now - stored.at > STALE_SECONDS or stored.software != software


# The identity of this machine.


@cache
def own_hardware() -> Hardware:
    """This machine's."""
    import psutil

    cores = len(os.sched_getaffinity(0))
    return Hardware(_processor(), cores, psutil.virtual_memory().total)


def _processor() -> str:
    with suppress(OSError, UnicodeDecodeError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine() or "unknown processor"


@cache
def own_software() -> str:
    """Versions of what figures depend on: this package, Python, NumPy with its BLAS, and so on."""
    import numpy as np

    found: Any = np.show_config(mode="dicts")  # not what else a program may have loaded
    blas = found.get("Build Dependencies", {}).get("blas", {})
    packages = [f"{name} {_version(name)}" for name in ("scalops", "numpy", "scipy", "pyarrow")]
    library = f"{blas.get('name', 'unknown BLAS')} {blas.get('version', '')}".strip()
    return ", ".join([*packages, library, f"python {platform.python_version()}"])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # not installed, but on the path
        return "unknown"


# Files.


def folder() -> Path | None:
    """Where profiles lie: $SCALOPS_PROFILES, else scalops/ in $XDG_CACHE_HOME or ~/.cache.

    None where that is in the home folder of a user who has none, as in many containers.
    """
    given = os.environ.get(FOLDER, "").strip()
    if given:
        path = os.path.expanduser(given)
        return None if given.startswith("~") and path == given else Path(path)
    caches = os.environ.get("XDG_CACHE_HOME", "").strip()
    # A relative path is invalid, by the XDG Base Directory Specification.
    base = caches if os.path.isabs(caches) else os.path.expanduser("~/.cache")
    return Path(base, "scalops") if os.path.isabs(base) else None


def path_of(hardware: Hardware) -> Path:
    """The file of a machine.

    Raises: ConfigError where there is no folder for it.
    """
    found = folder()
    if found is None:
        raise ConfigError(
            "rates of this machine cannot be stored: this user has no home folder",
            hint=f"set {FOLDER} to a folder for them, or HOME",
        )
    return found / f"machine-{hardware.digest}.json"


def load(hardware: Hardware, now: float | None = None) -> Profile | None:
    """What is stored of a machine; None where nothing is, or nothing of use: the log says why."""
    if folder() is None:
        return None
    path = path_of(hardware)
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("%s is not used: %s", path, error.strerror)
        return None
    try:
        return _profile(data, hardware, time() if now is None else now)
    except (
        ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError,
    ) as error:  # fmt: skip
        why = error if isinstance(error, _Unfit) else "it is damaged"
        log.warning("%s is not used, rates are assumed: %s; scalops calibrate renews it", path, why)
        return None


class _Unfit(ValueError):
    """A file that is whole, but of no use."""


def _profile(data: bytes, hardware: Hardware, now: float) -> Profile:
    """Raises: ValueError and the like for what is no profile, _Unfit for that of another."""
    if len(data) > _MOST_BYTES:
        raise ValueError("too long")
    found = json.loads(data)
    if found["format"] != FORMAT:
        raise _Unfit(f"its format is {found['format']!r}, not {FORMAT}")
    own = _hardware(found["hardware"])
    if own.digest != hardware.digest:
        raise _Unfit(f"it is of another machine, {own}")
    rates = {}
    for name, fields in found["rates"].items():
        stored = _checked(Stored(**fields))
        if name not in _known or _known[name].unit != stored.unit:
            continue  # of another version
        # A clock that was ahead is no reason to keep a figure for ever.
        if 0 <= stored.at <= now + _LATEST and _is_possible(stored):
            rates[name] = stored
        else:
            log.warning("the stored %s is not used: its value or its time cannot be", name)
    return Profile(hardware, rates)


def _is_possible(stored: Stored) -> bool:
    least, most = _SECONDS if stored.unit == "s" else _BY_SECOND
    return least <= stored.value <= most and stored.spread <= _MOST_SPREAD


def _hardware(fields: dict[str, Any]) -> Hardware:
    own = Hardware(**fields)
    if not isinstance(own.processor, str) or type(own.cores) is not int:
        raise ValueError("no hardware")
    if type(own.memory) is not int or not 0 < own.memory <= _MOST_MEMORY:
        raise ValueError("no memory")
    return own


def _checked(stored: Stored) -> Stored:
    numbers = (stored.value, stored.spread, stored.at)
    if any(type(n) not in (int, float) or not math.isfinite(n) for n in numbers):
        raise ValueError("no number")
    if stored.value <= 0 or stored.spread < 0 or not isinstance(stored.software, str):
        raise ValueError("no rate")
    return stored


def store(
    hardware: Hardware, software: str, measured: Iterable[Rate], now: float | None = None
) -> Path:
    """Keep measured rates, beside what is stored of others; the file.

    Processes that store at the same time wait for each other, so that all rates are kept.

    Raises: ConfigError where the folder cannot be written to.
    """
    at = time() if now is None else now
    path = path_of(hardware)
    with _writing(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(path.parent):
            before = load(hardware, at) or Profile(hardware, {})
            with _written(path, before.having(software, measured, at).text) as name:
                os.replace(name, path)
    forget_cached()
    return path


def require_writable(hardware: Hardware) -> None:
    """Find out, before anything is measured, whether rates can be stored: by a file as large.

    Raises: ConfigError where the folder cannot be written to.
    """
    path = path_of(hardware)
    measured = [replace(rate, spread=rate.value) for rate in ASSUMED]
    sample = Profile(hardware, {}).having(own_software(), measured, time())
    with _writing(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _written(path, sample.text):
            pass


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """What the system refuses, as a ConfigError."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}",
            hint=f"{FOLDER} names another folder for it",
        ) from error


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """The folder, held against other processes and threads that change what is in it."""
    file = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # a file system that has no locks of folders
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


@contextmanager
def _written(path: Path, text: str) -> Iterator[str]:
    """A file beside `path`, readable by its owner alone; gone at the end unless it was moved."""
    file, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # of mode 0600
    try:
        with open(file, "w", encoding="utf-8") as written:
            written.write(text)
            written.flush()
            os.fsync(written.fileno())
        yield name
    finally:
        with suppress(OSError):
            os.unlink(name)


def forget(hardware: Hardware) -> Path | None:
    """Remove what is stored of a machine; the file that was, None where there was none.

    Raises: ConfigError where it cannot be removed.
    """
    forget_cached()
    if folder() is None:
        return None
    path = path_of(hardware)
    try:
        with _locked(path.parent):
            path.unlink()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be removed: {error.strerror}") from error
    return path


# What costs are computed with.

_machines: dict[tuple[Path | None, Hardware], Machine] = {}
_lock = threading.Lock()


def machine() -> Machine:
    """This machine with the rates that are stored of it, else assumed ones; never fails.

    Read once in a process for each folder: what `store` and `forget` change is seen, what other
    processes change is not.
    """
    hardware = own_hardware()
    key = folder(), hardware
    with _lock:
        found = _machines.get(key)
        if found is None:
            now = time()
            profile = load(hardware, now)
            if profile is None:
                log.info("no rates of this machine are stored: they are assumed")
                found = Machine.of(hardware.cores, hardware.memory)
            else:
                found = profile.machine(now, own_software())
            _machines[key] = found
        return found


def forget_cached() -> None:
    """Have `machine` read again."""
    with _lock:
        _machines.clear()

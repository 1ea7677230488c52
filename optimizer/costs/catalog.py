"""Types of machines that a cluster may be made of, with prices: read from a TOML file.

reference = "small"       # the type that given symbols hold for; the first one by default

[[machine]]
name = "small"
cores = 4
memory = "16GB"           # for caches; as everywhere: KB, MB, GB, TB, KiB, MiB, GiB, TiB
disk = "200MB/s"
network = "10Gbit/s"
price = 0.19              # for an hour, in any currency; may be left out of all types
speed = 1.0               # of a core, relative to others'; may be left out
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any
from unicodedata import category

from scalops.algebra.errors import ConfigError
from scalops.optimizer.costs.machine import Machine
from scalops.optimizer.costs.symbols import Symbols
from scalops.optimizer.costs.trees import Links

_UNITS = {"": 1.0}
_UNITS |= {f"{p}B": 1000.0**i for i, p in enumerate(("", "K", "M", "G", "T"))}
_UNITS |= {f"{p}IB": 1024.0**i for i, p in enumerate(("K", "M", "G", "T"), 1)}
_BITS = {f"{p}BIT": 1000.0**i / 8 for i, p in enumerate(("", "K", "M", "G", "T"))}
# The least and the most of each number of a machine: symbols stay finite on all types.
_BOUNDS = {
    "cores": (1e-3, 1e6), "speed": (1e-6, 1e6), "memory": (1.0, 1e18), "disk": (1.0, 1e18),
    "network": (1.0, 1e18), "price": (1e-15, 1e12),
}  # fmt: skip
_NO_LETTERS = ("Cc", "Zl", "Zp")  # control characters, ends of lines and of paragraphs
_QUANTITY = re.compile(r"\s*([0-9.]+(?:E[+-]?[0-9]+)?)\s*([A-Z]*)(/S)?\s*")


@dataclass(frozen=True)
class MachineType:
    """A type of machine: usable cores, bytes for caches, bytes/s of disk and network.

    `price`: for an hour; None where nobody knows. `speed`: of a core, relative to others'.
    """

    name: str
    cores: float
    memory: float
    disk: float
    network: float
    price: float | None = None
    speed: float = 1.0

    def __post_init__(self) -> None:
        if any(category(letter) in _NO_LETTERS for letter in self.name):
            raise ConfigError(
                f"the name of a machine is {self.name!r}; expected a text of one line, without"
                " control characters"
            )
        for name in ("cores", "memory", "disk", "network", "speed"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} of {self.name!r} is {value}; expected more than 0")
            self._check_bounds(name, value)
        if self.price is not None and not (math.isfinite(self.price) and self.price >= 0):
            raise ConfigError(f"price of {self.name!r} is {self.price}; expected at least 0")
        if self.price:
            self._check_bounds("price", self.price)

    def _check_bounds(self, name: str, value: float) -> None:
        least, most = _BOUNDS[name]
        if not least <= value <= most:
            raise ConfigError(
                f"{name} of {self.name!r} is {value:g}; expected a number from {least:g} to"
                f" {most:g}"
            )


@dataclass(frozen=True)
class Catalog:
    """Types of machines; `reference` is the name of the one that given symbols hold for."""

    types: tuple[MachineType, ...]
    reference: str

    def __post_init__(self) -> None:
        names = [t.name for t in self.types]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"the catalog has several machines of the name {twice[0]!r}")
        if self.reference not in names:
            raise ConfigError(f"reference is {self.reference!r}; expected one of {names}")

    def __iter__(self) -> Iterator[MachineType]:
        return iter(self.types)

    def __getitem__(self, name: str) -> MachineType:
        return next(t for t in self.types if t.name == name)

    def with_reference(self, reference: MachineType) -> Catalog:
        """The same types, and symbols that hold for a machine that need not be one of them.

        It becomes a type of the catalog where its name is none.
        """
        others = tuple(t for t in self.types if t.name != reference.name)
        return Catalog((reference, *others), reference.name)


def read_catalog(path: str | PathLike[str]) -> Catalog:
    """The catalog in a file. Raises ConfigError that names file, machine and key."""
    file = Path(path)
    try:
        read = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"catalog {str(path)!r} cannot be read: {error.strerror}",
            hint="docs/cost-model.md shows what a catalog looks like",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"catalog {str(path)!r} is no TOML: {error}") from None
    return catalog_of(read, f"catalog {str(path)!r}")


def catalog_of(read: Mapping[str, Any], where: str = "the catalog") -> Catalog:
    """The catalog that a TOML document holds; `where` names it in errors."""
    _refuse_unknown(read, ("reference", "machine"), where)
    tables = read.get("machine")
    if not isinstance(tables, list) or not tables or not all(isinstance(t, dict) for t in tables):
        raise ConfigError(f"{where} has no [[machine]]; expected at least one, with {_KEYS}")
    types = tuple(_machine_type(t, i, where) for i, t in enumerate(tables, 1))
    reference = read.get("reference", types[0].name)
    try:
        return Catalog(types, reference)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.found}") from None


def machine_type_of(machine: Machine, name: str = "this machine") -> MachineType:
    """A calibrated machine as a type, without a price."""
    return MachineType(name, machine.cores, machine.memory, machine["disk_read"], machine["link"])


def symbols_on(given: Symbols, reference: MachineType, wanted: MachineType) -> Symbols:
    """Symbols that hold for `reference`, on machines of another type.

    P falls with cores and their speed, D with the disk's rate, A and B with the network's; M rises
    with memory. L, the latency of a level, stays. So A and B count as bytes alone: with
    `plan(partials=...)` latency and bytes are told apart.
    """
    network = reference.network / wanted.network
    return replace(
        given,
        map=given.map * (reference.cores * reference.speed) / (wanted.cores * wanted.speed),
        load=given.load * reference.disk / wanted.disk,
        cache=given.cache * wanted.memory / reference.memory,
        aggregate=given.aggregate * network,
        broadcast=given.broadcast * network,
        price=wanted.price,
    )


def links_on(given: Links, reference: MachineType, wanted: MachineType) -> Links:
    """Links that hold for `reference`, between machines of another type: latencies stay."""
    return replace(
        given,
        link=given.link * wanted.network / reference.network,
        add=given.add * wanted.speed / reference.speed,
    )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(value)
    return float(value)


def _amount(value: Any, units: Mapping[str, float], per_second: bool) -> float:
    if not isinstance(value, str):
        return _number(value)
    found = _QUANTITY.fullmatch(value.upper())
    if found is None or (found[3] and not per_second):
        raise ValueError(value)
    return float(found[1]) * units[found[2]]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(value)
    return value


_RATE = "bytes per second, or a text such as '200MB/s' or '10Gbit/s'"
# How each key is read, and what it accepts.
_READ: dict[str, tuple[Callable[[Any], Any], str]] = {
    "name": (_text, "a text"),
    "cores": (_number, "a number"),
    "memory": (lambda v: _amount(v, _UNITS, False), "bytes, or a text such as '16GB' or '512MiB'"),
    "disk": (lambda v: _amount(v, _UNITS | _BITS, True), _RATE),
    "network": (lambda v: _amount(v, _UNITS | _BITS, True), _RATE),
    "price": (_number, "a number"),
    "speed": (_number, "a number"),
}
_KEYS = ", ".join(_READ)
_REQUIRED = tuple(f.name for f in fields(MachineType) if f.name not in ("price", "speed"))


def _machine_type(table: Mapping[str, Any], number: int, where: str) -> MachineType:
    own = table.get("name")
    place = f"{where}, machine {repr(own) if isinstance(own, str) else number}"
    _refuse_unknown(table, tuple(_READ), place)
    missing = [name for name in _REQUIRED if name not in table]
    if missing:
        raise ConfigError(f"{place} has no {missing[0]}; expected {_READ[missing[0]][1]}")
    values = {name: _value(name, value, place) for name, value in table.items()}
    try:
        return MachineType(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.found}") from None


def _value(name: str, value: Any, place: str) -> Any:
    read, expected = _READ[name]
    try:
        return read(value)
    except (TypeError, ValueError, KeyError, OverflowError):
        raise ConfigError(f"{name} is {value!r} in {place}; expected {expected}") from None


def _refuse_unknown(found: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for name in found:
        if name not in known:
            near = get_close_matches(name, known, 1)
            raise ConfigError(
                f"{where} has an unknown key {name!r}; its keys are {list(known)}",
                hint=f"did you mean {near[0]!r}?" if near else None,
            )

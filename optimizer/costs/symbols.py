"""The symbols of the cost model: a program on one kind of machine, in ten numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scalops.algebra.errors import ConfigError

# Of what is not 0 or infinite: the products of all symbols, and their ratios, are finite then.
_LEAST, _MOST = 1e-100, 1e40


@dataclass(frozen=True)
class Symbols:
    """One loop on machines of one kind; the letters are those of the literature.

    `records`: R. `map`: P, seconds per record. `load`: D, seconds to load a record that is not
    cached. `cache`: M, records that one machine's cache holds. `aggregate`: A, seconds to pass on
    and combine one partial aggregate. `broadcast`: B, seconds to send the environment one step.
    `level`: L, seconds that each level of the tree takes beside. `iterations`: K. `price`: of a
    machine for an hour, in any currency; None where nobody knows.

    Raises: ConfigError for what is no such number, or further from 1 than arithmetic stands.
    """

    records: float
    map: float
    load: float = 0.0
    cache: float = math.inf
    aggregate: float = 0.0
    broadcast: float = 0.0
    level: float = 0.0
    iterations: float = 1.0
    price: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is None:
                continue
            least = 1.0 if name == "iterations" else 0.0
            whole = value >= least and (math.isfinite(value) or name == "cache")
            if not whole or (name in ("records", "cache") and value <= 0):
                raise ConfigError(f"{name} is {value:g}; expected a number, {_least(name)}")
            if 0 < value < math.inf and not _LEAST <= value <= _MOST:
                raise ConfigError(
                    f"{name} is {value}; expected a number from {_LEAST:g} to {_MOST:g}"
                )


def _least(name: str) -> str:
    if name in ("records", "cache"):
        return "more than 0"
    return "at least 1" if name == "iterations" else "at least 0"

"""Which of several invariant tables stay in memory, and how much of each: a fractional knapsack.

A table may be held in part: the rest is streamed or computed again in each iteration. So what is
saved is linear in the bytes held, and filling memory in the order of seconds saved per byte is
optimal (Dantzig, "Discrete-variable extremum problems", Operations Research 5, 1957).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scalops.algebra.errors import ConfigError


@dataclass(frozen=True)
class Invariant:
    """A table that a loop reads and does not change, at one worker.

    `bytes` of all of it in memory. `reuses`: how often it is read after the first time. `seconds`
    to make all of it again, beyond reading it from memory.
    """

    number: int
    bytes: float
    reuses: float
    seconds: float

    def __post_init__(self) -> None:
        for name in ("bytes", "reuses", "seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} of table {self.number} is {value}; expected at least 0")

    @property
    def saved(self) -> float:
        """Seconds saved by holding all of it."""
        return self.reuses * self.seconds

    @property
    def per_byte(self) -> float:
        """Seconds saved by each byte held; infinite for a table without bytes that saves some."""
        if self.bytes == 0:
            return math.inf if self.saved > 0 else 0.0
        return self.saved / self.bytes


def held_bytes(tables: Iterable[Invariant], memory: float) -> dict[int, float]:
    """Bytes to hold of each table, by its number, of `memory` bytes for all of them.

    Of tables that save alike per byte the first comes first; of one that saves nothing none are
    held.
    """
    if math.isnan(memory) or memory < 0:
        raise ConfigError(f"memory is {memory}; expected bytes, at least 0")
    given = list(tables)
    found = {t.number: 0.0 for t in given}
    if len(found) < len(given):
        raise ConfigError(f"tables are {[t.number for t in given]}; expected different numbers")
    left = memory
    for table in sorted(given, key=lambda t: -t.per_byte):
        if table.per_byte > 0:
            found[table.number] = min(table.bytes, left)
            left -= found[table.number]
    return found


def saved_seconds(tables: Iterable[Invariant], held: Mapping[int, float]) -> float:
    """Seconds that holding so many bytes of each table saves in all iterations."""
    return math.fsum(
        t.saved * (held.get(t.number, 0.0) / t.bytes if t.bytes else 1.0) for t in tables
    )

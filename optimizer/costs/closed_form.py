"""The closed form of the cost model: seconds of an iteration on N machines, and the best N.

    T(N) = R·P/N + max(0, R − M·N)/N · D + (A·f + L)·log_f N + B·log₂ N

N and the fan-in f are real numbers here; the planner's integers are in `integer_plan.py`. With
L = B = 0 and f = e this is the form of ScalOps (Borkar et al., "Hyracks: a flexible and extensible
foundation for data-intensive computing", ICDE 2011; Weimer et al., "Machine learning in ScalOps, a
higher order cloud computing language", BigLearn 2011). docs/cost-model.md derives all that is here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from scalops.algebra.errors import ConfigError
from scalops.optimizer.costs.symbols import Symbols

Regime = Literal["cached", "spilling"]


@dataclass(frozen=True)
class Parts:
    """Seconds of an iteration, by what they are spent on."""

    map: float
    load: float
    aggregate: float
    broadcast: float

    @property
    def total(self) -> float:
        """Seconds of the iteration."""
        return self.map + self.load + self.aggregate + self.broadcast

    @property
    def dominant(self) -> str:
        """The name of the largest part, the first of equal ones."""
        return max((f.name for f in fields(self)), key=lambda name: float(getattr(self, name)))


@dataclass(frozen=True)
class Candidates:
    """The machine counts at which an iteration may be fastest; real numbers, below 1 too.

    `kink`: N₀ = R/M, from which on all records are cached. `cached`: N_b, where T has its minimum
    if nothing is loaded. `spilling`: N_a, where it has it if machines' caches are full; N_b ≤ N_a.
    """

    kink: float
    cached: float
    spilling: float


def parts(s: Symbols, machines: float, fan_in: float = math.e) -> Parts:
    """What an iteration takes on so many machines, at least 1, with an aggregation tree."""
    if not (math.isfinite(machines) and machines >= 1):
        raise ConfigError(f"machines is {machines}; expected a number, at least 1")
    spilled = max(0.0, s.records - s.cache * machines)
    return Parts(
        s.records * s.map / machines,
        spilled / machines * s.load,
        _per_e_fold(s, fan_in) * math.log(machines),
        s.broadcast * math.log2(machines),
    )


def seconds(s: Symbols, machines: float, fan_in: float = math.e) -> float:
    """T(N): seconds of an iteration on `machines` machines, at least 1."""
    return parts(s, machines, fan_in).total


def machine_seconds(s: Symbols, machines: float, fan_in: float = math.e) -> float:
    """N·T(N): what an iteration takes of all machines together."""
    return machines * seconds(s, machines, fan_in)


def candidates(s: Symbols, fan_in: float = math.e) -> Candidates:
    """N₀, N_b and N_a, of which `fastest` is the median."""
    slope = growth(s, fan_in)
    cached, spilling = s.records * s.map, s.records * (s.map + s.load)
    return Candidates(s.records / s.cache, _ratio(cached, slope), _ratio(spilling, slope))


def fastest(s: Symbols, fan_in: float = math.e) -> float:
    """The N ≥ 1 of the least T(N): max(1, median(N₀, N_b, N_a)).

    Infinite where nothing grows with N (A = L = B = 0) and map time is left; of several N that
    are equally fast the least.
    """
    found = candidates(s, fan_in)
    return max(1.0, sorted((found.kink, found.cached, found.spilling))[1])


def cheapest(s: Symbols, fan_in: float = math.e) -> float:
    """The N ≥ 1 of the least N·T(N): max(1, min(N₀, e^(M·D/C − 1))) with C = `growth(s)`.

    Always finite: beyond N₀ a further machine saves no load.
    """
    kink, slope = s.records / s.cache, growth(s, fan_in)
    if kink <= 1 or s.load == 0:
        return 1.0
    exponent = _ratio(s.cache * s.load, slope) - 1
    return max(1.0, kink if exponent >= math.log(kink) else math.exp(exponent))


def regime(s: Symbols, machines: float) -> Regime:
    """Whether the caches of so many machines hold all records."""
    return "cached" if s.cache * machines >= s.records else "spilling"


def growth(s: Symbols, fan_in: float = math.e) -> float:
    """C = (A·f + L)/ln f + B/ln 2: seconds that e times as many machines take more for the tree.

    So T(N) = (what is divided by N) + C·ln N, whatever f, L and B are. With f = e, L = B = 0 it is
    A·e.
    """
    return _per_e_fold(s, fan_in) + s.broadcast / math.log(2)


def best_fan_in(s: Symbols) -> float:
    """The f > 1 of the least (A·f + L)/ln f: where f·(ln f − 1) = L/A.

    e where levels cost nothing by themselves; more where they do; infinite where only they do.
    """
    if s.level == 0:
        return math.e
    if s.aggregate == 0:
        return math.inf
    wanted = s.level / s.aggregate
    found = math.e + wanted / 2  # Newton's method; f·(ln f − 1) is convex and rises from f = 1 on
    for _ in range(100):
        step = (found * (math.log(found) - 1) - wanted) / math.log(found)
        found -= step
        if abs(step) <= 1e-14 * found:
            break
    return found


def _per_e_fold(s: Symbols, fan_in: float) -> float:
    if not (math.isfinite(fan_in) and fan_in > 1):
        raise ConfigError(f"fan_in is {fan_in}; expected a number, more than 1")
    return (s.aggregate * fan_in + s.level) / math.log(fan_in)


def _ratio(above: float, below: float) -> float:
    """Their ratio; of nothing 0, of something by nothing infinite."""
    if below == 0:
        return math.inf if above > 0 else 0.0
    return above / below

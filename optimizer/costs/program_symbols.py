"""The cost model's symbols for one program, from short runs of it: numbers with their spreads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scalops.algebra.errors import ConfigError
from scalops.optimizer.costs.curves import Measured
from scalops.optimizer.costs.machine import Machine
from scalops.optimizer.costs.plan_work import PlanWork
from scalops.optimizer.costs.prediction import fitted_overhead, work_seconds
from scalops.optimizer.costs.program_rates import ProgramRates
from scalops.optimizer.costs.setting import Setting
from scalops.optimizer.costs.symbols import Symbols


# What short runs measure, and by how much of itself it may be off to count as measured.
OF_RUNS = ("map", "load", "level")
MOST_SPREAD = 1.0


@dataclass(frozen=True)
class ProgramSymbols:
    """The symbols, and of those that were measured the spread: half of the distance between the
    quartiles, by the median.

    `unsure` are those of `OF_RUNS` that the short runs do not tell: what cannot be told apart from
    0, what may be off by more than itself, and what is beyond the sizes that were run.
    """

    symbols: Symbols
    spreads: Mapping[str, float]
    unsure: frozenset[str] = frozenset()


def program_symbols(
    rates: ProgramRates,
    work: PlanWork,
    machine: Machine,
    setting: Setting,
    loop: int | None = None,
    records: float | None = None,
    iterations: float | None = None,
    price: float | None = None,
) -> ProgramSymbols:
    """R, P, D, M, A, B, L and K of an outermost loop, the first one if none is named.

    R are the records of the table that was sampled, or `records`. P is the work of all stages of an
    iteration, on the `setting`'s threads of one machine, by record. D is what the first iterations
    and the caches before them take beyond the others for a record more. M is what the setting's
    memory holds of what is held. A: bytes of the partial results over the machine's link and its
    additions, and a message. B: those of the environment over the link, and a message. L: what a
    second worker added in the short runs beyond A and B, or the machine's hop where that is more.

    Raises: ConfigError where the program has no rates.
    """
    if not rates.loops:
        raise ConfigError(
            f"the program has no rates: {rates.reason}",
            hint="give the symbols yourself: --records, --map, --aggregate, ...",
        )
    index = min(rates.loops) if loop is None else loop
    own, planned = rates.loops[index], work.loops[index]
    known = rates.records if records is None else records
    passed = work_seconds(own, rates.rows(known), setting.threads)
    load = Measured(0.0) if own.first is None else own.first.slope(known)
    held = setting.memory / rates.held_bytes if rates.held_bytes > 0 else math.inf
    partial = sum(work.stages[s].partial_bytes for s in planned.stages)
    aggregate = machine["message"] + partial * (1 / machine["link"] + 1 / machine["add"])
    broadcast = machine["message"] + planned.environment_bytes / machine["link"]
    more = fitted_overhead(rates, own, machine).more
    level = max(machine["hop"], more.seconds - aggregate - broadcast)
    symbols = Symbols(
        known, passed.seconds / known, load.seconds, max(1.0, held), aggregate, broadcast, level,
        planned.iterations if iterations is None else iterations, price,
    )  # fmt: skip
    spreads = {
        **{name: m.spread for name, m in (("map", passed), ("load", load)) if m.seconds > 0},
        "aggregate": _spread(machine, "message", "link", "add"),
        "broadcast": _spread(machine, "message", "link"),
        "level": more.absolute / level if level > machine["hop"] else _spread(machine, "hop"),
    }
    unsure = {n for n in OF_RUNS if spreads.get(n, math.inf) > MOST_SPREAD}
    if not rates.least_records <= known <= rates.records:
        unsure |= {"map", "load"}
    if more.seconds <= 0 or level <= machine["hop"]:
        unsure.add("level")
    return ProgramSymbols(symbols, spreads, frozenset(unsure))


def _spread(machine: Machine, *names: str) -> float:
    """The largest of these rates' spreads."""
    return max(machine.rates[n].spread or 0.0 for n in names)

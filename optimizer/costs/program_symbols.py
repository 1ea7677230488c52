"""The cost model's symbols for one program, from short runs of it: numbers with their spreads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from scalops.algebra.errors import ConfigError
from scalops.algebra.figures import seconds_text
from scalops.optimizer.costs.curves import Measured
from scalops.optimizer.costs.machine import Machine
from scalops.optimizer.costs.plan_work import PlanWork
from scalops.optimizer.costs.prediction import fitted_overhead, work_seconds
from scalops.optimizer.costs.program_rates import LoopRates, ProgramRates, on_threads
from scalops.optimizer.costs.setting import Setting
from scalops.optimizer.costs.symbols import Symbols

# What short runs measure, and by how much of itself it may be off to count as measured.
OF_RUNS = ("map", "load", "level")
MOST_SPREAD = 1.0


@dataclass(frozen=True)
class ProgramSymbols:
    """The symbols, and of those that were measured the spread: half of the distance between the
    quartiles, by the median.

    `by_rates`: the rates of the machine that symbols follow from which no short run has measured.
    `notes`: by symbol, sentences that a reader should know of it.
    `unsure` are those of `OF_RUNS` that the short runs do not tell: what cannot be told apart from
    0, what may be off by more than itself, and what is beyond the sizes that were run.
    """

    symbols: Symbols
    spreads: Mapping[str, float]
    unsure: frozenset[str] = frozenset()
    by_rates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


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
    and the caches before them take beyond the others, by record of the largest sample; of a table
    in memory, at least what the machine's disk and Arrow IPC take; at most what a cache file takes,
    its writing shared out over the iterations. M is what the setting's
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
    passed = _passed(rates, own, known, setting.threads)
    times = planned.iterations if iterations is None else iterations
    load = _load(rates, own, machine, setting.threads, times)
    held = setting.memory / rates.held_bytes if rates.held_bytes > 0 else math.inf
    partial = sum(work.stages[s].partial_bytes for s in planned.stages)
    aggregate = machine["message"] + partial * (1 / machine["link"] + 1 / machine["add"])
    broadcast = machine["message"] + planned.environment_bytes / machine["link"]
    more = fitted_overhead(rates, own, machine).more
    level = max(machine["hop"], more.seconds - aggregate - broadcast)
    symbols = Symbols(
        known, passed.seconds / known, load.each.seconds, max(1.0, held), aggregate, broadcast,
        level, times, price,
    )  # fmt: skip
    measured = (("map", passed), ("load", load.each))
    spreads = {
        **{n: m.spread for n, m in measured if m.seconds > 0},
        "aggregate": _spread(machine, "message", "link", "add"),
        "broadcast": _spread(machine, "message", "link"),
        "level": more.absolute / level if level > machine["hop"] else _spread(machine, "hop"),
    }
    unsure = {n for n in OF_RUNS if spreads.get(n, math.inf) > MOST_SPREAD}
    if not rates.least_records <= known <= rates.records:
        unsure |= {"map", "load"}
    if more.seconds <= 0 or level <= machine["hop"]:
        unsure.add("level")
    by_rates = {"aggregate": ("message", "link", "add"), "broadcast": ("message", "link")}
    if level <= machine["hop"]:
        by_rates["level"] = ("hop",)
    if load.rates:
        by_rates["load"] = load.rates
    if load.is_bound:
        unsure.add("load")
    notes = {"load": load.note} if load.note else {}
    if passed.spread >= MOST_SPREAD:
        unsure.add("map")
        notes["map"] = "P: at most. What a further record takes is lost in noise."
    return ProgramSymbols(symbols, spreads, frozenset(unsure), by_rates, notes)


def _passed(rates: ProgramRates, loop: LoopRates, records: float, threads: int) -> Measured:
    """The work of an iteration over so many records.

    Far beyond the samples little is left but the slope of the last line. Where noise hides that,
    the largest sample in proportion: the most that it can be.
    """
    found = work_seconds(loop, rates.rows(records), threads)
    largest = rates.most_records
    if records <= largest or found.spread < MOST_SPREAD:
        return found
    known = work_seconds(loop, rates.rows(largest), threads)
    return Measured(known.seconds * records / largest, 1.0)


@dataclass(frozen=True)
class _Load:
    """Seconds to load a record: measured, or at most, or by rates of the machine."""

    each: Measured
    is_bound: bool = False
    rates: tuple[str, ...] = ()
    note: str = ""


def _load(
    rates: ProgramRates, loop: LoopRates, machine: Machine, threads: int, iterations: float
) -> _Load:
    """What short runs show of it, or a cache file's reading where that takes less."""
    made = _made_again(rates, loop, machine, threads)
    size = rates.held_bytes
    read = size * (1 / machine["disk_read"] + 1 / machine["ipc"] / threads)
    each = read + size / machine["disk_write"] / max(1.0, iterations)
    if rates.in_memory or made.is_bound or not 0 < each < made.each.seconds:
        return made
    names = ("disk_read", "ipc", "disk_write")
    return _Load(
        Measured(each, _spread(machine, *names)),
        rates=names,
        note="D: from a cache file, its writing included. To load a record from its source again"
        f" takes {seconds_text(made.each.seconds)}.",
    )


def _made_again(rates: ProgramRates, loop: LoopRates, machine: Machine, threads: int) -> _Load:
    """What short runs show of it.

    In proportion to the largest sample: the slope between samples may be far too low, as a group of
    Parquet rows is decoded as a whole for a part of it. The truth of larger tables lies between.
    """
    each = _in_first_passes(loop, threads)
    if rates.in_memory and rates.held_bytes > 0:
        seconds = rates.held_bytes * (1 / machine["disk_read"] + 1 / machine["ipc"] / threads)
        read = Measured(seconds, _spread(machine, "disk_read", "ipc"))
        return _Load(
            max(each, read, key=lambda m: m.seconds),
            rates=("disk_read", "ipc"),
            note="D: at least as from Arrow IPC files. The table is in memory: nobody has measured"
            " how long loading takes where it does not fit.",
        )
    if each.spread < MOST_SPREAD or each.seconds == 0:
        return _Load(each)
    return _Load(
        each,
        is_bound=True,
        note="D: at most. The first passes over the samples were not slower than later ones, beyond"
        " noise.",
    )


def _in_first_passes(loop: LoopRates, threads: int) -> Measured:
    """By record of the largest sample; the spread covers half of the way to the slope there."""
    sizes = sorted({x for found in loop.first.values() for x, _ in found.points if x > 0})
    at = [on_threads(loop.first, x, threads) for x in sizes]
    points = [(x, found) for x, found in zip(sizes, at, strict=True) if found is not None]
    if not points:
        return Measured(0.0)
    records, last = points[-1]
    each, between = last.seconds / records, 0.0
    if len(points) > 1 and each > 0:
        x, before = points[-2]
        slope = max(0.0, last.seconds - before.seconds) / (records - x)
        between = min(1.0, max(0.0, 1 - slope / each)) / 2
    return Measured(each, math.hypot(last.spread, between))


def _spread(machine: Machine, *names: str) -> float:
    """The largest of these rates' spreads."""
    return max(machine.rates[n].spread or 0.0 for n in names)

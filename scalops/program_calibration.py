"""The cost model's symbols of a program, calibrated by short runs of it on this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scalops.algebra import operators as op
from scalops.algebra.errors import ConfigError
from scalops.algebra.validate import validate
from scalops.busy import busy_text
from scalops.clusters import cores
from scalops.deciding import BETWEEN_WORKERS, settings
from scalops.engine.physical_plan import PhysicalPlan
from scalops.optimizer.cost import Provenance
from scalops.optimizer.costs.machine import Machine
from scalops.optimizer.costs.plan_work import PlanWork, plan_work
from scalops.optimizer.costs.program_rates import ProgramRates
from scalops.optimizer.costs.program_symbols import ProgramSymbols, program_symbols
from scalops.optimizer.costs.setting import Setting
from scalops.planning import plan
from scalops.profiles import machine
from scalops.results import take_leaves
from scalops.sampled_runs import sampled_rates

_LETTERS = {"aggregate": "A", "broadcast": "B", "level": "L"}


@dataclass(frozen=True)
class CalibratedLoop:
    """An outermost loop: its symbols, the spreads of those that were measured, how each is known.

    The keys are the fields of `Symbols`.
    """

    index: int
    name: str
    found: ProgramSymbols
    known: Mapping[str, Provenance]


@dataclass(frozen=True)
class ProgramCalibration:
    """What short runs tell of a program: the symbols of each of its outermost loops.

    `machine` has the rates of this one, but for links, which are those of an assumed network.
    `busy` says so where other processes kept the machine busy; else it is empty.
    """

    rates: ProgramRates
    work: PlanWork
    setting: Setting
    machine: Machine
    loops: tuple[CalibratedLoop, ...] = field(default=())
    busy: str = ""


def calibrated(returned: Any, what: str = "calibrate") -> ProgramCalibration:
    """The symbols of what a program returns, in the current session; it is not run as a whole.

    Short runs are made in this process and, where the session has workers, on one and two of
    them. Symbols are those of one machine: this process, or one of the workers; the links between
    machines are assumed, as those between processes of this one say nothing of a network.

    Raises: ConfigError where nothing can be calibrated: no loop, a sample that cannot be run.
    """
    from scalops.session import _node, current_session

    session = current_session()
    job = op.Job(tuple(_node(leaf) for leaf in take_leaves(returned, what)))
    validate(job)
    workers, busy = session.workers(), busy_text(cores())
    rates = sampled_rates(job, session.options, workers, session.processes())
    if rates.reason or not rates.loops:
        raise ConfigError(
            f"nothing of the program can be measured: {rates.reason}",
            hint="rates are those of loops over tables, from short runs on parts of the largest",
        )
    physical = plan(job, session.options.jit)
    work, here = plan_work(physical), machine().without(*BETWEEN_WORKERS)
    setting = settings(session.options, session.attached)[-1]
    names = _names(physical, rates)
    own_host = session.options.connect is None
    loops = tuple(
        _loop(index, names[index], rates, work, here, setting, own_host)
        for index in sorted(rates.loops)
    )
    return ProgramCalibration(rates, work, setting, here, loops, busy)


def _names(physical: PhysicalPlan, rates: ProgramRates) -> dict[int, str]:
    """The names of the loops that were measured; empty where one tells them not apart."""
    given = {loop.index: loop.name or "" for loop in physical.loops}
    count = Counter(given[index] for index in rates.loops)
    unclear = {"<lambda>", *(name for name, many in count.items() if many > 1)}
    return {index: "" if given[index] in unclear else given[index] for index in rates.loops}


def _loop(
    index: int,
    name: str,
    rates: ProgramRates,
    work: PlanWork,
    here: Machine,
    setting: Setting,
    own_host: bool,
) -> CalibratedLoop:
    found = program_symbols(rates, work, here, setting, index)
    known: dict[str, Provenance] = {
        "records": "exact" if rates.is_counted else "estimated",
        "map": "estimated" if "map" in found.unsure else "measured",
        "load": "estimated" if "load" in found.unsure else "measured",
        "cache": "estimated",
        # What a second worker of this host adds, is the least that one behind a network does.
        "level": "estimated" if own_host or "level" in found.unsure else "measured",
        "iterations": "exact" if work.loops[index].known else "assumed",
    }
    known.update({symbol: _rests_on(here, *names) for symbol, names in found.by_rates.items()})
    if own_host and known["level"] == "estimated":
        note = "L: at least. A second worker of this machine adds it; behind a network it is more."
        found = replace(found, notes={**found.notes, "level": note})
    return CalibratedLoop(index, name, found, known)


def notes(
    by_symbol: Mapping[str, str], known: Mapping[str, str], given: Container[str] = ()
) -> tuple[str, ...]:
    """Sentences that a reader of symbols should know, but of those that are `given`."""
    said = [note for symbol, note in by_symbol.items() if symbol not in given]
    links = [x for name, x in _LETTERS.items() if known[name] == "assumed" and name not in given]
    if links:
        rates = Machine.of(1, 0).rates
        said.append(
            f"{', '.join(links)}: of an assumed network, {rates['hop'].value * 1e6:.0f} µs a"
            f" message and {rates['link'].value / 1e9:g} GB/s. What is measured between processes"
            " of one machine says nothing of yours: give your own."
        )
    return tuple(said)


def _rests_on(here: Machine, *names: str) -> Provenance:
    """What follows from rates: estimated, at best."""
    return "assumed" if here.known(*names) == "assumed" else "estimated"

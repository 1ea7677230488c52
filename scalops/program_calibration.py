"""The cost model's symbols of a program, calibrated by short runs of it on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scalops.algebra import operators as op
from scalops.algebra.errors import ConfigError
from scalops.algebra.validate import validate
from scalops.deciding import settings
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

# The rates of the machine from which symbols follow that no short run has measured.
_RESTS_ON = {"aggregate": ("message", "link", "add"), "broadcast": ("message", "link")}


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
    """What short runs tell of a program: the symbols of each of its outermost loops."""

    rates: ProgramRates
    work: PlanWork
    setting: Setting
    machine: Machine
    loops: tuple[CalibratedLoop, ...] = field(default=())


def calibrated(returned: Any) -> ProgramCalibration:
    """The symbols of what a program returns, in the current session; it is not run as a whole.

    Short runs are made in this process and, where the session has workers, on one and two of
    them. Symbols are those of one machine: this process, or one of the workers.

    Raises: ConfigError where nothing can be calibrated: no loop, no sample that can be run.
    """
    from scalops.session import _node, current_session

    session = current_session()
    job = op.Job(tuple(_node(leaf) for leaf in take_leaves(returned)))
    validate(job)
    workers = session.workers()
    rates = sampled_rates(job, session.options, workers, session.processes())
    if not rates.loops:
        raise ConfigError(
            f"the program cannot be calibrated: {rates.reason}",
            hint="rates are those of loops over tables, from short runs on parts of the largest",
        )
    physical = plan(job, session.options.jit)
    work, here = plan_work(physical), machine()
    setting = settings(session.options, session.attached)[-1]
    names = {loop.index: loop.name for loop in physical.loops}
    loops = tuple(
        _loop(index, names.get(index) or "", rates, work, here, setting)
        for index in sorted(rates.loops)
    )
    return ProgramCalibration(rates, work, setting, here, loops)


def _loop(
    index: int, name: str, rates: ProgramRates, work: PlanWork, here: Machine, setting: Setting
) -> CalibratedLoop:
    found = program_symbols(rates, work, here, setting, index)
    known: dict[str, Provenance] = {
        "records": "estimated",
        "map": "estimated" if "map" in found.unsure else "measured",
        "load": "estimated" if "load" in found.unsure else "measured",
        "cache": "estimated",
        "level": "estimated" if "level" in found.unsure else "measured",
        "iterations": "exact" if work.loops[index].known else "assumed",
    }
    if found.symbols.level <= here["hop"]:
        known["level"] = _rests_on(here, "hop")
    known.update({symbol: _rests_on(here, *names) for symbol, names in _RESTS_ON.items()})
    return CalibratedLoop(index, name, found, known)


def _rests_on(here: Machine, *names: str) -> Provenance:
    """What follows from rates: estimated, at best."""
    return "assumed" if here.known(*names) == "assumed" else "estimated"

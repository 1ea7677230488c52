"""The neutral decisions of a run: what the cost model chooses of what the options leave open."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from traceback import format_exception_only

from scalops.algebra.errors import ScalopsError
from scalops.algebra.tree import find
from scalops.clusters import (
    cores,
    may_have_workers,
    memory_of_worker,
    threads_of_worker,
    told_workers,
)
from scalops.engine.driver import Replan
from scalops.engine.free_memory import usable_memory
from scalops.engine.neutral import NEUTRAL, Change, Measurements, Neutral
from scalops.engine.physical_plan import CacheTable, PhysicalPlan, TableScan
from scalops.engine.spill_folder import free_disk
from scalops.optimizer.costs.choice import Asked, Choice, Decision, choose, reads_of_caches
from scalops.optimizer.costs.machine import Machine
from scalops.optimizer.costs.meeting import Meeting, Reduced, reductions_of, said
from scalops.optimizer.costs.plan_work import plan_work
from scalops.optimizer.costs.setting import Setting
from scalops.options import AUTO, Options

# Measured between workers of this machine, which share its memory: a network is another thing.
BETWEEN_WORKERS = ("hop", "message", "link", "command", "worker_start")
_MOST_EXPANDED = 16  # times the bytes of a file that its records may take in memory
_LITTLE = 64 << 20  # bytes
_MOST_COUNTS = 32  # numbers of workers that are compared, of a cluster that has more


@dataclass(frozen=True)
class Decided:
    """What was decided for a run, and for readers why.

    `reads`: how often an iteration reads each cached table.
    """

    neutral: Neutral = NEUTRAL
    choice: Choice | None = None
    reads: Mapping[int, float] = field(default_factory=dict)

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What was chosen, and what came second."""
        return () if self.choice is None else self.choice.decisions

    @property
    def meeting(self) -> Meeting | None:
        """How partial results meet; None in this process."""
        return None if self.choice is None else self.choice.meeting

    @property
    def reductions(self) -> tuple[Reduced, ...]:
        """Whose partial results meet."""
        return () if self.choice is None else self.choice.reductions

    @cached_property
    def meet(self) -> Mapping[int, str]:
        """How partial results meet, by stage, with the reason."""
        if self.meeting is None:
            return {}
        return {one.stage: said(self.meeting, one) for one in self.reductions}


def decide(
    physical: PhysicalPlan, options: Options, machine: Machine, attached: int | None = None
) -> Decided:
    """Decide for a plan; `attached` workers are there, None where none has been asked for.

    In this process something is to be decided only where several tables are cached, or one that
    memory may not hold.
    """
    if options.connect is not None:
        machine = machine.without(*BETWEEN_WORKERS)
    caches = [s for s in physical.stages if isinstance(s.sink, CacheTable)]
    may_fill = len(caches) > 1 or (caches and _is_large(physical, options))
    if not may_have_workers(options) and not may_fill:
        return Decided()
    asked = Asked(options.objective, options.fan_in, running=bool(attached))
    work = plan_work(physical)
    choice = choose(
        work,
        reductions_of(physical),
        machine,
        settings(options, attached),
        asked,
    )
    return Decided(choice.setting.neutral, choice, reads_of_caches(work))


def _is_large(physical: PhysicalPlan, options: Options) -> bool:
    """Whether what is made of the sources may need more memory than there is."""
    scans = {id(t.source): t.source for s in physical.stages for t in find((s,), TableScan)}
    size = sum(float(source.bytes) for source in scans.values())
    if options.memory is None and _MOST_EXPANDED * size < _LITTLE:
        return False  # to ask the machine takes as long as such a plan
    return _MOST_EXPANDED * size > (options.memory or usable_memory())


def decide_to_run(
    physical: PhysicalPlan, options: Options, machine: Machine, attached: int | None = None
) -> Decided:
    """The same for a plan that is to be run: it is, even where the cost model fails.

    Then the engine's own defaults hold, as results do not depend on what is decided. A warning
    says so, which tests raise: nothing hides such an error but from who wants a result.
    """
    try:
        return decide(physical, options, machine, attached)
    except ScalopsError:
        raise  # what the options ask for is impossible
    except Exception as error:
        _has_failed(error, "the plan runs with nothing decided")
        neutral = settings(options, attached)[0].neutral
        if options.fan_in is not None and neutral.workers:
            neutral = replace(neutral, fan_ins=(options.fan_in,))
        return Decided(neutral)


def replan_or_go_on(replan: Replan) -> Replan:
    """What looks at a running plan again; where it fails, nothing is changed from then on."""
    failed = False

    def again(measurements: Measurements) -> Change | None:
        nonlocal failed
        if failed:
            return None
        try:
            return replan(measurements)
        except ScalopsError:
            raise
        except Exception as error:
            failed = True
            _has_failed(error, "the plan goes on as it is")
            return None

    return again


def _has_failed(error: Exception, so_what: str) -> None:
    found = "".join(format_exception_only(error)).strip()
    warnings.warn(f"the cost model has failed ({found}): {so_what}", RuntimeWarning, stacklevel=3)


def settings(options: Options, attached: int | None = None) -> list[Setting]:
    """Where a plan may run by the options: in this process, or on so many workers."""
    memory = float(options.memory or usable_memory())
    here = Setting(options.threads or cores(), None, memory, disk=free_disk(options.spill))
    if not may_have_workers(options):
        return [here]
    counts: Sequence[int] = [told_workers(options) or 1]
    if options.connect is not None:
        counts = [attached or 1]
    if options.workers == AUTO:
        most = cores() if options.connect is None else attached or 1
        step = max(1, -(-most // _MOST_COUNTS))
        counts = sorted({*range(1, most + 1, step), most})
    made = [_on_workers(options, count) for count in counts]
    return [here, *made] if options.workers == AUTO else made


def _on_workers(options: Options, count: int) -> Setting:
    """So many workers: of this machine they share cores and memory."""
    if options.connect is not None:
        # Of their machines nothing is known here but that they are like this one.
        memory, disk = float(usable_memory()), free_disk(options.spill)
        return Setting(options.threads or 1, None, memory, Neutral(count), disk)
    memory = float(memory_of_worker(options, count) or usable_memory() // count)
    disk = free_disk(options.spill) / count
    return Setting(threads_of_worker(options), cores(), memory, Neutral(count), disk)


def in_this_process(options: Options) -> Options:
    """The same options where the workers are not to be used."""
    return replace(options, workers=0, connect=None, key=None)

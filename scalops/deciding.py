"""The neutral decisions of a run: what the cost model chooses of what the options leave open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from scalops.clusters import cores, may_have_workers, told_workers
from scalops.engine.memory import usable_memory
from scalops.engine.neutral import NEUTRAL, Neutral
from scalops.engine.physical_plan import PhysicalPlan
from scalops.optimizer.costs.machine import Machine
from scalops.optimizer.costs.meeting import Meeting, Reduced, meeting, reductions_of, said
from scalops.optimizer.costs.trees import links_of
from scalops.options import Options


@dataclass(frozen=True)
class Decided:
    """What was decided for a run, and for readers why."""

    neutral: Neutral = NEUTRAL
    meeting: Meeting | None = None
    reductions: tuple[Reduced, ...] = field(default=())

    @cached_property
    def meet(self) -> Mapping[int, str]:
        """How partial results meet, by stage, with the reason."""
        if self.meeting is None:
            return {}
        return {one.stage: said(self.meeting, one) for one in self.reductions}


def machine_here() -> Machine:
    """The rates of this machine."""
    return Machine.of(cores(), usable_memory())


def decide(
    physical: PhysicalPlan, options: Options, machine: Machine, attached: int | None = None
) -> Decided:
    """Decide for a plan; of a cluster as many workers as are `attached` are there."""
    if not may_have_workers(options):
        return Decided()
    count = attached or 1 if options.connect is not None else told_workers(options) or 1
    reductions = tuple(reductions_of(physical))
    made = meeting(count, reductions, links_of(machine), options.fan_in)
    neutral = Neutral(count, made.fan_ins, made.at_driver)
    return Decided(neutral, made, reductions)

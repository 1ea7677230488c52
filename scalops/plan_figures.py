"""What a plan costs, as figures of its parts: for explain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

from scalops.algebra.explain import Display
from scalops.algebra.figures import Figures
from scalops.deciding import Decided, settings
from scalops.engine.physical_plan import PhysicalPlan
from scalops.optimizer.costs.choice import machines_of
from scalops.optimizer.costs.machine import Machine
from scalops.optimizer.costs.plan_cost import PlanCost, plan_cost
from scalops.optimizer.costs.plan_work import OperatorWork, PlanWork, plan_work
from scalops.options import Options

_HOUR = 3600.0


class CostFigures:
    """Figures of an estimate: rows and bytes of every operator, seconds, memory, money.

    `price` is that of one machine for an hour; this process, or the workers together where they
    are on one machine, are `machines`. `start`: seconds until workers are there that have to come.
    """

    def __init__(
        self,
        work: PlanWork,
        cost: PlanCost,
        price: float | None = None,
        machines: int = 1,
        start: float = 0.0,
    ) -> None:
        self._work, self._cost = work, cost
        self._price, self._machines, self._start = price, machines, start

    @property
    def work(self) -> PlanWork:
        """What the plan does."""
        return self._work

    @property
    def cost(self) -> PlanCost:
        """What that is estimated to take."""
        return self._cost

    @cached_property
    def _again(self) -> frozenset[int]:
        """The stages that run in loops."""
        return frozenset(n for loop in self._work.loops for n in loop.stages)

    def show(self, shown: Display) -> None:
        """Put figures to all lines of a physical plan's display."""
        shown.figures.update(self.plan())
        stack = list(shown.children)
        while stack:
            line = stack.pop()
            stack.extend(line.children)
            if line.of_loop is not None:
                line.figures.update(self.loop(line.of_loop))
            if line.of_stage is not None:
                stage, number = line.of_stage
                last = number == len(self._work.stages[stage].operators) - 1
                line.figures.update(self.stage(stage) if last else self.operator(stage, number))

    def plan(self) -> Figures:
        """All of it: seconds, bytes of each worker, and money where a price is known."""
        cost = self._cost
        made: dict[str, float | str] = {
            "total_seconds": cost.total_seconds + self._start,
            "memory": cost.memory,
            "provenance": cost.provenance,
        }
        if self._price is not None:
            seconds = cost.total_seconds + self._start
            made["money"] = self._price * self._machines * seconds / _HOUR
        if self._start > 0:
            made["start_seconds"] = self._start
        return made

    def stage(self, stage: int) -> Figures:
        """What a stage leaves behind, and seconds of all of it."""
        own, cost = self._work.stages[stage], self._cost.stages[stage]
        seconds = self._seconds(stage, cost.first.total, cost.steady.total)
        return {**_sizes(own.operators[-1]), **seconds, "provenance": cost.provenance}

    def operator(self, stage: int, number: int) -> Figures:
        """What an operator delivers, and its own seconds; `number` as in `operators_of`."""
        own = self._work.stages[stage].operators[number]
        cost = self._cost.stages[stage].operators[number]
        seconds = self._seconds(stage, cost.first, cost.steady)
        return {**_sizes(own), **seconds, "provenance": cost.provenance}

    def loop(self, index: int) -> Figures:
        """An iteration of a loop, and all of them."""
        cost = self._cost.loops[index]
        return {
            "seconds_first": cost.first.total,
            "seconds": cost.steady.total,
            "iterations": cost.iterations,
            "iterations_known": "yes" if cost.known else "no",
            "total_seconds": cost.total,
            "provenance": self._cost.provenance,
        }

    def _seconds(self, stage: int, first: float, steady: float) -> Mapping[str, float]:
        """Of the first and of later runs; of the one run outside of loops."""
        if stage not in self._again:
            return {"seconds_first": first}
        return {"seconds_first": first, "seconds": steady}


def _sizes(own: OperatorWork) -> dict[str, float | str]:
    return {"rows": own.rows, "bytes": own.bytes, "rows_provenance": own.provenance}


def cost_figures(
    physical: PhysicalPlan,
    options: Options,
    machine: Machine,
    decided: Decided,
    processes: frozenset[int] = frozenset(),
) -> CostFigures:
    """What a plan is estimated to take where the options let it run.

    In the setting that was `decided` on; stages that fold on `processes` are costed as such.
    """
    if decided.choice is not None:
        choice = decided.choice
        start = choice.seconds - choice.cost.total_seconds
        return CostFigures(
            choice.work, choice.cost, options.price, machines_of(choice.setting), start
        )
    work = plan_work(physical)
    here = settings(options)[0]
    setting = replace(here, neutral=replace(here.neutral, processes=processes))
    return CostFigures(work, plan_cost(work, machine, setting), options.price)

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
from scalops.optimizer.costs.memory import worker_bytes
from scalops.optimizer.costs.plan_cost import PlanCost, plan_cost
from scalops.optimizer.costs.plan_work import OperatorWork, PlanWork, StageWork, plan_work
from scalops.optimizer.costs.setting import Setting
from scalops.options import Options

_HOUR = 3600.0


class CostFigures:
    """Figures of an estimate: rows and bytes of every operator, seconds, memory, money.

    `price` is that of one machine for an hour; this process, or the workers together where they
    are on one machine, are `machines`. `start`: seconds until workers are there that have to come.
    With a `setting` stages show what each worker holds of what they leave.
    """

    def __init__(
        self,
        work: PlanWork,
        cost: PlanCost,
        price: float | None = None,
        machines: int = 1,
        start: float = 0.0,
        setting: Setting | None = None,
    ) -> None:
        self._work, self._cost, self._setting = work, cost, setting
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
        if spilled := sum(cost.spilled.values()):
            made["spilled"] = spilled
        return made

    def stage(self, stage: int) -> Figures:
        """What a stage leaves behind, and seconds of all of it."""
        own, cost = self._work.stages[stage], self._cost.stages[stage]
        seconds = self._seconds(stage, cost.first.total, cost.steady.total)
        shown = {**_sizes(own.operators[-1]), **self._memory(own), **seconds}
        return {**shown, "provenance": cost.provenance}

    def _memory(self, stage: StageWork) -> dict[str, float]:
        """Bytes of each worker of the table that a stage leaves: in memory, in files, neither."""
        if self._setting is None or stage.makes is None:
            return {}
        size, missing = worker_bytes(stage, self._setting), 0.0
        if stage.is_cache:
            missing = self._cost.missing.get(stage.makes, 0.0)
            is_filed = stage.makes in self._setting.neutral.filed
            left = {"filed" if is_filed else "again": missing}
        else:
            missing = self._cost.spilled.get(stage.stage, 0.0)
            left = {"spilled": missing}
        return {"memory": size - missing, **(left if missing else {})} if size else {}

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
        machines = machines_of(choice.setting)
        return CostFigures(choice.work, choice.cost, options.price, machines, start, choice.setting)
    work = plan_work(physical)
    here = settings(options)[0]
    setting = replace(here, neutral=replace(here.neutral, processes=processes))
    return CostFigures(work, plan_cost(work, machine, setting), options.price, setting=setting)

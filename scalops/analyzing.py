"""EXPLAIN ANALYZE: what was estimated of a plan beside what happened when it ran."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scalops.algebra.explain import Display
from scalops.algebra.figures import Figures
from scalops.engine.physical_plan import PhysicalPlan
from scalops.engine.profiling import OperatorProfile, PlanProfile, Spread, StageProfile
from scalops.optimizer.costs.plan_cost import LoopCost, OperatorCost, PlanCost, StageCost
from scalops.optimizer.costs.plan_work import OperatorWork, PlanWork

MOST_OFF = 2.0  # an estimate that is off by more than this factor is marked
# Less than this is taken as this: clocks and what measuring takes are no finer.
LEAST_SECONDS = 1e-5


@dataclass(frozen=True)
class Figure:
    """An estimate beside what was measured; either may be unknown (None).

    `what`: rows, bytes, seconds_first and seconds (of a later run), total_seconds, iterations,
    memory. `provenance` is that of the estimate.
    """

    what: str
    estimated: float | None
    actual: float | None
    provenance: str

    @property
    def off(self) -> float | None:
        """The larger of the two by the smaller; None where one of them is unknown."""
        if self.estimated is None or self.actual is None:
            return None
        least = LEAST_SECONDS if "seconds" in self.what else 1.0
        low, high = sorted(max(least, number) for number in (self.estimated, self.actual))
        return high / low

    @property
    def is_off(self) -> bool:
        """Whether that is more than it should be."""
        return (self.off or 1.0) > MOST_OFF

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**vars(self), "off": self.off, "is_off": self.is_off}


@dataclass(frozen=True)
class Comparison:
    """Figures by (stage, operator number), by stage, by loop, and of the whole plan."""

    operators: Mapping[tuple[int, int], tuple[Figure, ...]] = field(default_factory=dict)
    stages: Mapping[int, tuple[Figure, ...]] = field(default_factory=dict)
    loops: Mapping[int, tuple[Figure, ...]] = field(default_factory=dict)
    plan: tuple[Figure, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "plan": _plain(self.plan),
            "loops": [{"loop": n, "figures": _plain(own)} for n, own in self.loops.items()],
            "stages": [{"stage": n, "figures": _plain(own)} for n, own in self.stages.items()],
            "operators": [
                {"stage": s, "operator": n, "figures": _plain(own)}
                for (s, n), own in self.operators.items()
            ],
        }


def _plain(figures: Iterable[Figure]) -> list[dict[str, Any]]:
    return [f.to_dict() for f in figures]


@dataclass(frozen=True)
class Analysis:
    """A plan that has run: its display tree with figures, what was measured, and both compared."""

    display: Display
    profile: PlanProfile
    comparison: Comparison

    def to_dict(self) -> dict[str, Any]:
        """As plain data: what JSON has as "analysis", beside the plan's tree."""
        return {"profile": self.profile.to_dict(), "comparison": self.comparison.to_dict()}


# Comparing.


def compare(work: PlanWork, estimate: PlanCost, profile: PlanProfile) -> Comparison:
    """Each figure of the estimate beside what was measured, of all that has run."""
    operators: dict[tuple[int, int], tuple[Figure, ...]] = {}
    stages = {}
    for number, found in profile.stages.items():
        cost = estimate.stages.get(number)
        if cost is not None:
            stages[number] = _of_runs(cost.first.total, cost.steady.total, found.seconds, cost)
        known = {} if cost is None else {o.number: o for o in cost.operators}
        own = work.stages.get(number)
        amounts = {} if own is None else {o.number: o for o in own.operators}
        for operator in found.operators:
            at = operator.number
            operators[number, at] = _operator(
                amounts.get(at), known.get(at), operator, at == len(found.operators) - 1
            )
    loops = {
        found.index: _loop(estimate.loops[found.index], found.seconds)
        for found in profile.loops
        if found.index in estimate.loops and found.iterations
    }
    return Comparison(operators, stages, loops, _whole(estimate, profile))


def _operator(
    work: OperatorWork | None, cost: OperatorCost | None, found: OperatorProfile, is_sink: bool
) -> tuple[Figure, ...]:
    figures = []
    if work is not None and not is_sink:  # there a stage ends
        rows, size = (found.rows, found.bytes) if found.measured else (None, None)
        figures.append(Figure("rows", work.rows, rows, work.provenance))
        figures.append(Figure("bytes", work.bytes, size, work.provenance))
    if found.measured and cost is not None:
        figures += _of_runs(cost.first, cost.steady, found.seconds, cost)
    return tuple(figures)


def _of_runs(
    first: float, steady: float, found: Spread, cost: StageCost | OperatorCost
) -> tuple[Figure, ...]:
    figures = [Figure("seconds_first", first, found.first, cost.provenance)]
    if found.count > 1:
        figures.append(Figure("seconds", steady, found.median, cost.provenance))
    return tuple(figures)


def _loop(cost: LoopCost, found: Spread) -> tuple[Figure, ...]:
    figures = [
        Figure("iterations", cost.iterations, found.count, "exact" if cost.known else "assumed"),
        Figure("seconds_first", cost.first.total, found.first, "estimated"),
    ]
    if found.count > 1:
        figures.append(Figure("seconds", cost.steady.total, found.median, "estimated"))
    figures.append(Figure("total_seconds", cost.total, found.total, "estimated"))
    return tuple(figures)


def _whole(estimate: PlanCost, profile: PlanProfile) -> tuple[Figure, ...]:
    known = estimate.provenance
    return (
        Figure("total_seconds", estimate.total_seconds, profile.total_seconds, known),
        Figure("memory", estimate.memory, profile.peak, "estimated"),
    )


# The display tree.


def annotate(display: Display, comparison: Comparison, profile: PlanProfile) -> None:
    """Put both sides of the comparison to the lines of a physical plan's display tree."""
    display.figures = {**display.figures, **_figures(comparison.plan)}
    for line in display.lines():
        if line.of_loop is not None:
            line.figures = {**line.figures, **_figures(comparison.loops.get(line.of_loop, ()))}
        elif line.of_stage is not None:
            _annotate_operator(line, comparison, profile)


def _annotate_operator(line: Display, comparison: Comparison, profile: PlanProfile) -> None:
    assert line.of_stage is not None
    number, operator = line.of_stage
    stage = profile.stages.get(number)
    if stage is None:
        return
    is_sink = operator == len(stage.operators) - 1
    figures = comparison.stages.get(number, ()) if is_sink else comparison.operators[number, operator]
    spread = stage.seconds if is_sink else stage.operators[operator].seconds
    line.figures = {**line.figures, **_figures(figures)}
    if spread.count > 1:
        line.figures["actual_spread"] = spread.relative
    if is_sink:
        line.details += _of_stage(stage)


def _figures(figures: Sequence[Figure]) -> Figures:
    made: dict[str, float | str] = {}
    for figure in figures:
        if figure.estimated is not None:
            made[figure.what] = figure.estimated
            made["rows_provenance" if figure.what == "rows" else "provenance"] = figure.provenance
        if figure.actual is not None:
            made[f"actual_{figure.what}"] = figure.actual
    worst = max((f for f in figures if f.is_off), key=lambda f: f.off or 1.0, default=None)
    if worst is not None and worst.off is not None:
        made["off"], made["off_in"] = worst.off, worst.what.replace("_", " ")
    return made


def _of_stage(stage: StageProfile) -> list[tuple[str, str]]:
    raise NotImplementedError


def analyzed(
    plan: PhysicalPlan,
    display: Display,
    work: PlanWork,
    estimate: PlanCost,
    profile: PlanProfile,
) -> Analysis:
    """A plan that has run, beside what was estimated of it."""
    comparison = compare(work, estimate, profile)
    annotate(display, comparison, profile)
    return Analysis(display, profile, comparison)

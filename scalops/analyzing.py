"""EXPLAIN ANALYZE: what was estimated of a plan beside what happened when it ran."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scalops.algebra.explain import Display
from scalops.algebra.figures import Figures, bytes_text, rows_text, seconds_text
from scalops.engine.profiling import (
    LoopProfile,
    OperatorProfile,
    PlanProfile,
    Spread,
    StageProfile,
)
from scalops.optimizer.costs.plan_cost import OperatorCost, PlanCost, StageCost
from scalops.optimizer.costs.plan_work import OperatorWork, PlanWork, StageWork
from scalops.plan_figures import CostFigures

MOST_OFF = 2.0  # an estimate that is off by more than this factor is marked
# Less than this is taken as this: clocks and what measuring takes are no finer.
LEAST_SECONDS = 1e-4
LEAST_MEMORY = 2**20  # a block's buffers; no estimate counts them
_WORDS = {
    "seconds_first": "the first run",
    "seconds": "later runs",
    "total_seconds": "seconds of all",
}


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
        least = LEAST_MEMORY if self.what == "memory" else 1.0
        least = LEAST_SECONDS if "seconds" in self.what else least
        low, high = sorted(max(least, number) for number in (self.estimated, self.actual))
        return high / low

    def words(self, has_later: bool = True) -> str:
        """What it is, for readers; `has_later`: there are later runs beside the first."""
        if not has_later and self.what == "seconds_first":
            return "seconds"
        return _WORDS.get(self.what, self.what)

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

    def summary(self) -> str:
        """What happened, in lines of at most 100 columns: to be read behind the tree."""
        from scalops.analysis_text import summary

        return summary(self.profile, self.comparison)

    def to_dict(self) -> dict[str, Any]:
        """As plain data: what JSON has as "analysis", beside the plan's tree."""
        return {"profile": self.profile.to_dict(), "comparison": self.comparison.to_dict()}


# Comparing.


def compare(work: PlanWork | None, estimate: PlanCost | None, profile: PlanProfile) -> Comparison:
    """Each figure of the estimate beside what was measured, of all that has run.

    Without an estimate there is what was measured alone.
    """
    operators: dict[tuple[int, int], tuple[Figure, ...]] = {}
    stages = {}
    for number, found in profile.stages.items():
        cost = None if estimate is None else estimate.stages.get(number)
        own = None if work is None else work.stages.get(number)
        times = None if cost is None else (cost.first.total, cost.steady.total)
        seconds = _of_runs(times, found.seconds, _known(cost))
        stages[number] = (*_held(own, number, profile), *seconds)
        costs = {} if cost is None else {o.number: o for o in cost.operators}
        works = {} if own is None else {o.number: o for o in own.operators}
        for operator in found.operators:
            at, is_sink = operator.number, operator is found.operators[-1]
            operators[number, at] = _operator(works.get(at), costs.get(at), operator, is_sink)
    loops = {found.index: _loop(estimate, found) for found in profile.loops if found.iterations}
    return Comparison(operators, stages, loops, _whole(estimate, profile))


def _known(cost: StageCost | OperatorCost | None) -> str:
    return "" if cost is None else cost.provenance


def _held(work: StageWork | None, stage: int, profile: PlanProfile) -> tuple[Figure, ...]:
    """The table that a stage leaves in memory, if all of it is there: what is not has no count."""
    found = next((c for c in profile.caches if c.stage == stage), None)
    if found is None or found.held < found.partitions:
        return ()
    return _sizes(None if work is None else work.operators[-1], found.rows, found.bytes)


def _operator(
    work: OperatorWork | None, cost: OperatorCost | None, found: OperatorProfile, is_sink: bool
) -> tuple[Figure, ...]:
    """What an operator delivers, but for a sink: there a stage ends; and its own seconds."""
    if not found.measured:
        return () if is_sink else _sizes(work, None, None)
    times = None if cost is None else (cost.first, cost.steady)
    seconds = _of_runs(times, found.seconds, _known(cost))
    return seconds if is_sink else (*_sizes(work, found.rows, found.bytes), *seconds)


def _sizes(
    work: OperatorWork | None, rows: float | None, size: float | None
) -> tuple[Figure, Figure]:
    if work is None:
        return Figure("rows", None, rows, ""), Figure("bytes", None, size, "")
    # Where no column is wanted, blocks are handed on with whatever they hold.
    read = None if work.rows and not work.bytes else work.bytes
    known = work.provenance
    return Figure("rows", work.rows, rows, known), Figure("bytes", read, size, known)


def _of_runs(times: tuple[float, float] | None, found: Spread, known: str) -> tuple[Figure, ...]:
    first, steady = times or (None, None)
    figures = [Figure("seconds_first", first, found.first, known)]
    if found.count > 1:
        figures.append(Figure("seconds", steady, found.median, known))
    return tuple(figures)


def _loop(estimate: PlanCost | None, found: LoopProfile) -> tuple[Figure, ...]:
    cost = None if estimate is None else estimate.loops.get(found.index)
    least = "" if estimate is None else estimate.provenance  # as `plan_figures.py` has it
    times = None if cost is None else (cost.first.total, cost.steady.total)
    many, total = (None, None) if cost is None else (cost.iterations, cost.total)
    known = "" if cost is None else "exact" if cost.known else "assumed"
    return (
        Figure("iterations", many, found.iterations, known),
        *_of_runs(times, found.seconds, least),
        Figure("total_seconds", total, found.seconds.total, least),
    )


def _whole(estimate: PlanCost | None, profile: PlanProfile) -> tuple[Figure, ...]:
    """Of all; what it took until workers were there is in neither."""
    if estimate is None:
        seconds = memory = None
    else:
        seconds, memory = estimate.total_seconds, estimate.memory
    known = "" if estimate is None else estimate.provenance
    return (
        Figure("total_seconds", seconds, profile.seconds, known),
        Figure("memory", memory, profile.peak, _at_best_estimated(known)),
    )


def _at_best_estimated(known: str) -> str:
    """Of what follows from sizes, and is not itself measured."""
    return "estimated" if known in ("exact", "measured") else known


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
    own = comparison.operators[number, operator]
    figures = comparison.stages.get(number, ()) if is_sink else own
    spread = stage.seconds if is_sink else stage.operators[operator].seconds
    line.figures = {**line.figures, **_figures(figures)}
    if spread.count > 1:
        line.figures["actual_spread"] = spread.relative
    if is_sink:
        line.details += _of_stage(stage)


def _figures(figures: Sequence[Figure]) -> Figures:
    """What was measured, and which estimate is off; what is estimated is there already."""
    made: dict[str, float | str] = {
        f"actual_{f.what}": f.actual for f in figures if f.actual is not None
    }
    has_later = any(f.what == "seconds" for f in figures)
    worst: dict[str, tuple[float, str]] = {}  # of seconds, of memory, ...: one of each kind
    for f in sorted((f for f in figures if f.is_off), key=lambda f: -(f.off or 1.0)):
        kind = "seconds" if "seconds" in f.what else f.what
        worst.setdefault(kind, (f.off or 1.0, f.words(has_later)))
    off = list(worst.values())
    if off:
        made["off"], made["off_in"] = off[0]
    if len(off) > 1:
        made["off_too"] = ", ".join(f"{factor:.3g}x in {words}" for factor, words in off[1:])
    return made


def _of_stage(stage: StageProfile) -> list[tuple[str, str]]:
    """What is to be said of a stage's runs beside its figures."""
    parts = [f"{name} {seconds_text(s)}" for name, s in stage.steady.items() if s > 0]
    if not parts:
        return []
    which = "" if stage.runs == 1 else f"{rows_text(stage.runs)} runs, later ones on the average: "
    lanes = f"on {stage.lanes:.2g} thread{'' if stage.lanes == 1 else 's'}"
    details = [("spent", f"{which}{', '.join(parts)}, {lanes}")]
    if stage.together:
        numbers = ", ".join(map(str, stage.together))
        details.append(("together", f"with stages {numbers}: these are the seconds of all"))
    if stage.moved_bytes:
        details.append(("moved", f"{bytes_text(stage.moved_bytes)} a run, sent by workers"))
    if stage.note:
        details.append(("note", stage.note))
    return details


def analyzed(display: Display, figures: CostFigures | None, profile: PlanProfile) -> Analysis:
    """A plan that has run, beside what was estimated of it, if that is wanted."""
    if figures is None:
        comparison = compare(None, None, profile)
    else:
        comparison = compare(figures.work, figures.cost, profile)
        figures.show(display)
    annotate(display, comparison, profile)
    return Analysis(display, profile, comparison)

"""EXPLAIN ANALYZE: what was estimated of a plan beside what happened when it ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scalops.engine.profiling import PlanProfile

if TYPE_CHECKING:
    from scalops.algebra.explain import Display
    from scalops.optimizer.costs.plan_cost import PlanCost
    from scalops.optimizer.costs.plan_work import PlanWork

MOST_OFF = 2.0  # an estimate that is off by more than this factor is marked


@dataclass(frozen=True)
class Figure:
    """An estimate beside what was measured; either may be unknown.

    `off` is the larger by the smaller of the two; None where one is unknown, or 0.
    """

    what: str  # "rows", "bytes", "seconds_first", "seconds", ...
    estimated: float | None
    actual: float | None
    provenance: str  # of the estimate

    @property
    def off(self) -> float | None:
        """By which factor the estimate is off."""
        if not self.estimated or not self.actual:
            return None
        return max(self.estimated / self.actual, self.actual / self.estimated)

    @property
    def is_off(self) -> bool:
        """Whether that is too much."""
        return (self.off or 1.0) > MOST_OFF

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**vars(self), "off": self.off, "is_off": self.is_off}


@dataclass(frozen=True)
class Comparison:
    """Figures by (stage, operator number), by stage, and by loop."""

    operators: Mapping[tuple[int, int], tuple[Figure, ...]] = field(default_factory=dict)
    stages: Mapping[int, tuple[Figure, ...]] = field(default_factory=dict)
    loops: Mapping[int, tuple[Figure, ...]] = field(default_factory=dict)
    plan: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class Analysis:
    """A plan that has run: its display tree with figures, what was measured, and what was not so."""

    display: Display
    profile: PlanProfile
    comparison: Comparison

    def to_dict(self) -> dict[str, Any]:
        """As plain data: `plan` (the display tree), `profile`, `comparison`."""
        return {
            "plan": self.display.to_dict(),
            "profile": self.profile.to_dict(),
            "comparison": {
                "plan": [f.to_dict() for f in self.comparison.plan],
                "loops": [
                    {"loop": n, "figures": [f.to_dict() for f in own]}
                    for n, own in self.comparison.loops.items()
                ],
                "stages": [
                    {"stage": n, "figures": [f.to_dict() for f in own]}
                    for n, own in self.comparison.stages.items()
                ],
                "operators": [
                    {"stage": s, "operator": n, "figures": [f.to_dict() for f in own]}
                    for (s, n), own in self.comparison.operators.items()
                ],
            },
        }


def compare(
    work: PlanWork | None, estimate: PlanCost | None, profile: PlanProfile
) -> Comparison:
    """Each figure of the estimate beside what was measured."""
    raise NotImplementedError

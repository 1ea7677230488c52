"""Small partial results of few ranks, added up by the driver: one hop less than along the tree.

The leaves and the tree over them are those of the plan, whoever adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from scalops.engine import physical_plan as pp
from scalops.engine.collective import Piece, Span, Spans
from scalops.engine.columns import Array
from scalops.engine.memory import MemoryBudget
from scalops.engine.passes import Reduction
from scalops.engine.pipelines.base import Runtime
from scalops.engine.pipelines.compiled import build
from scalops.engine.value_codec import decode_value, encode_value

if TYPE_CHECKING:
    from scalops.engine.meter import Meter


def encode_partials(
    passes: Iterable[tuple[Sequence[int], Sequence[int], Mapping[tuple[int, int, int], Any]]],
) -> Piece:
    """What a rank has of some passes: of each its stages, their numbers of leaves, partials."""
    buffers: list[Array] = []
    header = [
        [
            list(stages),
            list(leaves),
            [[list(s), encode_value(p, buffers)] for s, p in spans.items()],
        ]
        for stages, leaves, spans in passes
    ]
    return Piece(header, buffers)


class DriverMerges:
    """The reductions of a plan, as far as the driver adds up: nothing is read."""

    def __init__(self, plan: pp.PhysicalPlan, meter: Meter | None = None) -> None:
        """A `meter` measures what it takes."""
        self._plan = plan
        self._runtime = Runtime(plan, MemoryBudget(), meter=meter)
        if meter is not None:
            meter.begin(plan.stages)
        self._reductions: dict[int, Reduction] = {}

    def bind(self, values: Mapping[int, Any]) -> None:
        """The driver's values now."""
        self._runtime.bind(values)

    def results(self, pieces: Sequence[Piece]) -> dict[int, tuple[Any, ...]]:
        """The results by stage, of what all ranks have.

        Raises: ExecutionError where some leaves are missing, or there twice.
        """
        made: dict[int, tuple[Any, ...]] = {}
        for own in zip(*(p.header for p in pieces), strict=True):
            stages, leaves, _ = own[0]
            reductions = [self._reduction(s) for s in stages]
            spans = Spans(leaves, partial(_merged, reductions))
            for piece, (_, _, items) in zip(pieces, own, strict=True):
                for span, item in items:
                    spans.add(Span(*span), decode_value(item, piece.buffers))
            for reduction, whole in zip(reductions, spans.whole(), strict=True):
                reduction.finish(whole)
                made[reduction.number] = reduction.results
        return made

    def _reduction(self, stage: int) -> Reduction:
        found = self._reductions.get(stage)
        if found is None:
            node = self._plan.stages[stage]
            found = Reduction(node, build(node.source, self._runtime), self._runtime)
            self._reductions[stage] = found
        found.begin(may_wait=False)
        return found


def _merged(reductions: Sequence[Reduction], tree: int, a: Any, b: Any) -> Any:
    return reductions[tree].merge(a, b)

"""Folds whose loops are compiled just in time, as data: the sink, and what the choice rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from scalops.algebra.fingerprint import fingerprint
from scalops.engine.physical_plan import PhysicalPlan, TreeAggregate


@dataclass(frozen=True, eq=False, repr=False)
class CompiledAggregate(TreeAggregate):
    """A TreeAggregate of which each block is folded by one compiled loop.

    The same folds and the same tree; within a block the additions have another order and exp,
    log and the like are not NumPy's, so that it is another plan with another fingerprint.
    """


@dataclass(frozen=True)
class CompileWork:
    """What compiling the fold of a stage is about.

    `passes` is how often the stage runs, `known` or assumed. NumPy's kernels would take
    `elements` of elementwise steps, `heavy` of them exp, log and the like, and `multiplied`
    elements of vectors in products, for each of `rows` records, in `calls` for each of `blocks`.
    The compiled loop's text has so many `lines`; where there is none, `refused` names the first
    step that has no compiled form.
    """

    stage: int
    rows: float
    blocks: float
    passes: float
    known: bool
    calls: int
    elements: float
    heavy: float
    multiplied: float
    lines: int
    refused: str | None


def with_compiled(plan: PhysicalPlan, notes: Mapping[int, str], *stages: int) -> PhysicalPlan:
    """The plan with the folds of these stages compiled; `notes` say of a stage why or why not."""
    made = list(plan.stages)
    for number in stages:
        sink = made[number].sink
        assert isinstance(sink, TreeAggregate)
        compiled = CompiledAggregate(sink.folds, sink.slots, sink.map, location=sink.location)
        made[number] = replace(made[number], sink=compiled)
    name = fingerprint(*made, *plan.program) if stages else plan.fingerprint
    return replace(plan, stages=tuple(made), fingerprint=name, compiling=tuple(notes.items()))

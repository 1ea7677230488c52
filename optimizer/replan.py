"""Neutral decisions made again while a loop runs."""

from __future__ import annotations

from scalops.engine.neutral import Change, Measurements
from scalops.optimizer.cost import THREAD_START
from scalops.optimizer.placement import Placement


def replan(measurements: Measurements, placement: Placement | None = None) -> Change | None:
    """What runs elsewhere from now on; None where nothing does.

    Stages that take no longer than waking threads are run on the calling thread. A loop whose
    iterations were not known before folds on processes when so many passes as there were until
    now would save more than these cost: whoever rents until then pays at most twice.
    """
    quick = frozenset(
        stage
        for stage, seconds in measurements.stage_seconds.items()
        if seconds < 2 * THREAD_START.value
    )
    moved = frozenset() if placement is None else _worth_it(measurements, placement)
    return Change(quick, moved - quick) if quick or moved else None


def _worth_it(measurements: Measurements, placement: Placement) -> frozenset[int]:
    done = measurements.iteration + 1
    return frozenset(
        stage
        for stage, cost in placement.later.items()
        if done * measurements.stage_seconds.get(stage, 0.0) * cost.gain > placement.once[stage]
    )

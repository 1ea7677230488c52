"""Neutral decisions made again while a loop runs."""

from __future__ import annotations

from scalops.engine.physical_plan import Change, Measurements
from scalops.optimizer.cost import THREAD_START


def replan(measurements: Measurements) -> Change | None:
    """Stages that take no longer than waking threads are run on the calling thread."""
    quick = frozenset(
        stage
        for stage, seconds in measurements.stage_seconds.items()
        if seconds < 2 * THREAD_START.value
    )
    return Change(quick) if quick else None

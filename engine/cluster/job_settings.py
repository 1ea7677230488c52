"""How a job runs on its workers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class JobSettings:
    """`ranks` of a job; seconds to wait for workers that start, for one that replaces another, and
    for those that still are at the last job.

    `memory`: bytes of each worker for this job; None for what it was told when it was started.
    `task_timeout`: seconds that a call of a user's function may take; None for any time.
    `most_losses`: workers that a job may lose. `at_driver`: stages that fold whose partial results
    the driver adds up.
    """

    ranks: int
    fan_in: int
    at_driver: frozenset[int] = frozenset()
    start_seconds: float = 60.0
    replace_seconds: float = 20.0
    end_seconds: float = 3.0
    most_losses: int = 100
    task_timeout: float | None = None
    memory: int | None = None

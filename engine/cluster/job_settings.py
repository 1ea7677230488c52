"""How a job runs on its workers."""

from __future__ import annotations

from dataclasses import dataclass, field

from scalops.engine.cluster.messages import Begin
from scalops.engine.collective import DEFAULT_FAN_INS
from scalops.engine.neutral import Neutral


@dataclass(frozen=True)
class JobSettings:
    """The neutral decisions of a job, `workers` among them; seconds to wait for workers that
    start, for one that replaces another, and for those that still are at the last job.

    `memory`: bytes of each worker for this job; None for what it was told when it was started.
    `task_timeout`: seconds that a call of a user's function may take; None for any time.
    `most_losses`: workers that a job may lose. With `profile` ranks tell what they measure.
    """

    neutral: Neutral = field(default_factory=lambda: Neutral(1))
    start_seconds: float = 60.0
    replace_seconds: float = 20.0
    end_seconds: float = 3.0
    most_losses: int = 100
    task_timeout: float | None = None
    memory: int | None = None
    profile: bool = False

    @property
    def ranks(self) -> int:
        """How many ranks the job has."""
        return self.neutral.workers

    def begin(self, job: int, epoch: int, rank: int, careful: bool) -> Begin:
        """What makes a worker one of the ranks."""
        decided = self.neutral
        return Begin(
            job,
            epoch,
            rank,
            self.ranks,
            decided.fan_ins or DEFAULT_FAN_INS,
            careful,
            self.task_timeout or 0.0,
            self.memory or 0,
            tuple(decided.held.items()),
            tuple(decided.broadcast.items()),
            self.profile,
            tuple(sorted(decided.filed)),
        )

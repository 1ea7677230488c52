"""Where and how a plan would run: what the costs of a plan are computed for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from scalops.engine.neutral import Neutral


@dataclass(frozen=True)
class Setting:
    """Neutral decisions and the place that they are made for.

    `threads` of this process, or of each worker. `cores` that all workers share, where they are
    on one machine; None where each has a machine of its own. `memory`: bytes for caches of this
    process, or of each worker; `disk`: bytes that are free for files of what finds no room there.
    """

    threads: int
    cores: int | None
    memory: float
    neutral: Neutral = field(default_factory=Neutral)
    disk: float = math.inf

    @property
    def workers(self) -> int:
        """How many workers; 0 where the plan runs in this process."""
        return self.neutral.workers

    @property
    def side_by_side(self) -> float:
        """How many threads compute at once, of all workers together."""
        all_threads = max(1, self.workers) * self.threads
        return all_threads if self.cores is None else min(all_threads, self.cores)

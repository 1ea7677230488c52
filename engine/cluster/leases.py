"""Who has been silent for too long, by a clock that runs only while its owner listens."""

from __future__ import annotations


class Leases:
    """When each worker was last heard.

    A driver that computes, or has been stopped, for a minute has heard nobody: that is no fault of
    the workers. So time counts between two judgements at most as `step`, and what has arrived is to
    be told before each judgement.
    """

    def __init__(self, lease: float, step: float) -> None:
        """`lease` and `step` in seconds."""
        self.lease = lease
        self._step = step
        self._clock = 0.0
        self._judged: float | None = None
        self._heard: dict[str, float] = {}

    def heard(self, worker: str) -> None:
        """Something has come from a worker, or it has just been started."""
        self._heard[worker] = self._clock

    def forget(self, worker: str) -> None:
        """A worker is gone."""
        self._heard.pop(worker, None)

    def judge(self, now: float) -> list[tuple[str, float]]:
        """Who has been silent for half a lease or longer, and for how many seconds."""
        if self._judged is not None:
            self._clock += min(max(0.0, now - self._judged), self._step)
        self._judged = now
        silence = ((worker, self._clock - at) for worker, at in self._heard.items())
        return [(worker, seconds) for worker, seconds in silence if 2 * seconds >= self.lease]

    def is_over(self, seconds: float) -> bool:
        """Whether so long a silence will be longer than the lease at the next judgement."""
        return seconds + self._step > self.lease

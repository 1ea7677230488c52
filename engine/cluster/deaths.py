"""What workers were at when they died: one place that takes several down is itself at fault."""

from __future__ import annotations

from collections import Counter
from typing import Any

from scalops.algebra.errors import WorkerLost
from scalops.engine.cluster.hub import Left
from scalops.engine.cluster.verbs import stages_of
from scalops.engine.processes.errors import ended_its_worker, hint_for
from scalops.engine.progress import Place

MOST_DEATHS = 3  # of workers over one partition: then it is the partition's fault
MOST_UNKNOWN = 8  # of one rank's over one command, where nobody knows what they were at
_HERE = "so.session(workers=0, processes=0)"


class Deaths:
    """Of one command, however often it is given again: once it has succeeded, count anew.

    Workers that die elsewhere each time, or at nothing in particular, were ended from outside.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, int, str]] = Counter()
        self._unknown: Counter[tuple[str, int]] = Counter()

    def clear(self) -> None:
        """The command has succeeded, or is not wanted any more."""
        self._counts.clear()
        self._unknown.clear()

    @property
    def is_suspicious(self) -> bool:
        """Whether one more death may settle it: then a worker is to be at one place at a time."""
        return any(n == MOST_DEATHS - 1 for n in self._counts.values())

    def add(self, verb: str, arguments: Any, left: Left, rank: int) -> WorkerLost | None:
        """Count a worker of this rank that died over a command; the error where that settles it.

        A death outside of all partitions counts only where a user's function was called.
        """
        command = f"{verb} {arguments}"
        if left.places is None:
            self._unknown[command, rank] += 1
            many = self._unknown[command, rank]
            if many < MOST_UNKNOWN:
                return None
            return _fault(Place(), many, left.reason, verb, arguments)
        for place in left.places:
            if place.partition >= 0:
                key = command, place.partition, ""
            elif place.function:
                key = command, -1 - rank, place.function
            else:
                continue
            self._counts[key] += 1
            if self._counts[key] >= MOST_DEATHS:
                return _fault(place, MOST_DEATHS, left.reason, verb, arguments)
        return None


def _fault(place: Place, times: int, reason: str, verb: str, arguments: Any) -> WorkerLost:
    is_end = reason.startswith(("killed by ", "exit code "))
    how = f"by {reason.removeprefix('killed by ')}" if is_end else f"({reason})"
    if place.function:
        error = ended_its_worker(place.function, place.location, times, how + place.over, _HERE)
    else:
        error = WorkerLost(
            f"{times} worker processes ended, the last one {how}",
            hint=hint_for(how, _HERE),
        )
    if place.partition >= 0:
        error.add_place(f"partition {place.partition}")
    stages = stages_of(verb, arguments)
    if stages:
        error.add_place(f"stage{'s' * (len(stages) > 1)} {' and '.join(map(str, stages))}")
    return error

"""What was measured while a plan ran: per operator, stage and iteration, as data.

`meter.py` measures where blocks are computed, `recording.py` puts it together at the driver. A time
is wall time unless it says "on all threads".
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import quantiles
from typing import Any

# On what time is spent. `load`: reading and decoding sources, and making again what memory does
# not hold; `map`: all that is computed of blocks, the stage's sink included; `aggregate`: partial
# results combined; `broadcast`: values bound and sent to where they are read; `update`: the
# driver's expressions, checks and steps between stages; `wait`: nothing was computed for this.
PARTS = ("load", "map", "aggregate", "broadcast", "update", "wait")
Parts = dict[str, float]  # seconds by part

MOST_KEPT = 4096  # numbers of a series, and iterations of a timeline; sums are of all


@dataclass(frozen=True)
class Spread:
    """Numbers that were measured again and again.

    `first` stands for itself; `median`, `low` and `high` (the quartiles) are those of the later
    ones, of all where there is only one. `slowest` is the largest of the later ones, `slowest_at`
    its position, 0 being the first one's.
    """

    count: int
    first: float
    median: float
    low: float
    high: float
    slowest: float
    slowest_at: int
    total: float

    @property
    def relative(self) -> float:
        """Half of the distance between the quartiles, by the median."""
        return (self.high - self.low) / 2 / self.median if self.median > 0 else 0.0

    def over(self, parts: int) -> Spread:
        """Those of one of so many equal parts."""
        names = ("first", "median", "low", "high", "slowest", "total")
        return replace(self, **{n: getattr(self, n) / parts for n in names})

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return dict(vars(self))


class Series:
    """Numbers as they come; of many only every second, fourth, ... one is kept for the median."""

    def __init__(self) -> None:
        self.count = 0
        self.first = self.total = 0.0
        self._slowest, self._slowest_at = -math.inf, 0
        self._kept, self._step = array("d"), 1  # of the later ones

    def add(self, number: float) -> None:
        """The next number."""
        at = self.count
        self.count += 1
        self.total += number
        if at == 0:
            self.first = number
            return
        if number > self._slowest:
            self._slowest, self._slowest_at = number, at
        if (at - 1) % self._step == 0:
            self._kept.append(number)
            if len(self._kept) > MOST_KEPT:
                self._kept, self._step = self._kept[::2], self._step * 2

    def spread(self) -> Spread:
        """What they are together."""
        later = self._kept or array("d", [self.first])
        low, median, high = (
            quantiles(later, method="inclusive") if len(later) > 1 else (later[0],) * 3
        )
        slowest = self._slowest if self.count > 1 else self.first
        return Spread(
            self.count, self.first, median, low, high, slowest, self._slowest_at, self.total
        )


@dataclass(frozen=True)
class OperatorProfile:
    """An operator of a stage; `number` as in `stage_operators.operators_of`.

    `rows` and `bytes` are what it delivered in a run, on the average, from `blocks`; those of a
    sink are 0: a stage ends there. Of what stands at several places of a stage they are those of
    one. `seconds` are its own, without what it reads, on all threads together: the first run and
    the later ones. `measured` is False where nobody saw its blocks: it is read in one piece, or by
    another stage for this one (`StageProfile.note` says).
    """

    number: int
    rows: float
    bytes: float
    blocks: float
    seconds: Spread
    measured: bool = True

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**vars(self), "seconds": self.seconds.to_dict()}


@dataclass(frozen=True)
class StageProfile:
    """A stage. `seconds` are those of a run, from its beginning to its end as the driver sees it.

    `first` and `steady` say on what they were spent: in the first run and, on the average, in later
    ones. `together` are the stages that shared its pass: they have one time. `lanes` are threads,
    of all workers, that took part in a run. `moved_bytes` were sent by ranks in a run. `note` says
    what was not measured.
    """

    stage: int
    seconds: Spread
    first: Parts
    steady: Parts
    operators: tuple[OperatorProfile, ...]
    together: tuple[int, ...] = ()
    lanes: float = 1.0
    moved_bytes: float = 0.0
    note: str = ""

    @property
    def runs(self) -> int:
        """How often it ran."""
        return self.seconds.count

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            **vars(self),
            "runs": self.runs,
            "seconds": self.seconds.to_dict(),
            "operators": [o.to_dict() for o in self.operators],
            "together": list(self.together),
        }


@dataclass(frozen=True)
class IterationProfile:
    """An iteration, counted from 0: its seconds by part; of a timeline's thinned ones it alone."""

    number: int
    parts: Parts

    @property
    def seconds(self) -> float:
        """All of it."""
        return sum(self.parts.values())

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {"number": self.number, "seconds": self.seconds, "parts": self.parts}


@dataclass(frozen=True)
class LoopProfile:
    """An outermost loop, with the loops in it.

    `seconds` are those of an iteration, its test included; `parts` those of all iterations. Of
    loops in lock-step each has its part of a shared pass. The `timeline` has every iteration, of
    more than MOST_KEPT every second, fourth, ... one.
    """

    index: int
    name: str | None
    seconds: Spread
    parts: Parts
    timeline: tuple[IterationProfile, ...]

    @property
    def iterations(self) -> int:
        """How many there were."""
        return self.seconds.count

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "index": self.index,
            "name": self.name,
            "iterations": self.iterations,
            "seconds": self.seconds.to_dict(),
            "parts": self.parts,
            "timeline": [i.to_dict() for i in self.timeline],
        }


@dataclass(frozen=True)
class CacheProfile:
    """A cached table: of its `partitions` so many were `held`, with `bytes` in all.

    `hits` counts partitions that were read from memory, `file_reads` those from cache files, in
    which there are `file_bytes`, and `again` those that had to be made again.
    """

    table: int
    stage: int
    partitions: int
    held: int
    rows: int
    bytes: int
    hits: int
    again: int
    file_bytes: int = 0
    file_reads: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return dict(vars(self))


@dataclass(frozen=True)
class Moved:
    """Bytes of what processes have sent each other: contents of messages, not their envelopes.

    `to_workers` counts every worker that gets them.
    """

    to_workers: int = 0
    to_driver: int = 0
    between_workers: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.to_workers + self.to_driver + self.between_workers

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**vars(self), "total": self.total}


@dataclass(frozen=True)
class PlanProfile:
    """One run of a plan. `stages` by number; `once` are the parts of what ran outside of loops.

    Of the `total_seconds` the plan waited `start_seconds` for what was to run it: workers begin.

    `workers`: ranks; 0 where it ran in this process, on `threads` threads (0: each worker has its
    own; `lanes` of stages tell). `memory` are the bytes
    that each owner (a cache, a table, buffers) held at most, `peak` those of all together at one
    time, both at the worker that held the most. `lost` are workers that died meanwhile: what these
    had measured last is missing. `files`: of the `spilled_bytes`, those of each owner.
    """

    stages: Mapping[int, StageProfile]
    loops: tuple[LoopProfile, ...]
    caches: tuple[CacheProfile, ...]
    once: Parts
    total_seconds: float
    start_seconds: float = 0.0
    workers: int = 0
    threads: int = 1
    moved: Moved = Moved()
    spilled_bytes: int = 0
    peak: int = 0
    memory: Mapping[str, int] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    files: Mapping[str, int] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """From when all was there that runs the plan."""
        return self.total_seconds - self.start_seconds

    @property
    def parts(self) -> Parts:
        """Seconds by part, loops and all."""
        of_all = [self.once, *(loop.parts for loop in self.loops)]
        return {name: sum(parts[name] for parts in of_all) for name in PARTS}

    def to_dict(self) -> dict[str, Any]:
        """As plain data: what `explain(analyze=True, format="json")` has as "profile"."""
        return {
            "total_seconds": self.total_seconds,
            "start_seconds": self.start_seconds,
            "workers": self.workers,
            "threads": self.threads,
            "parts": self.parts,
            "once": self.once,
            "stages": [s.to_dict() for s in self.stages.values()],
            "loops": [loop.to_dict() for loop in self.loops],
            "caches": [c.to_dict() for c in self.caches],
            "moved": self.moved.to_dict(),
            "spilled_bytes": self.spilled_bytes,
            "peak_bytes": self.peak,
            "memory": dict(self.memory),
            "lost": list(self.lost),
            "files": dict(self.files),
        }


def no_parts() -> Parts:
    """Nothing spent on anything."""
    return dict.fromkeys(PARTS, 0.0)

"""Neutral decisions, as data: who computes, what is held where; never what the result is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Neutral:
    """The neutral decisions of one run of a plan.

    `workers`: ranks of the job; 0 where it runs in this process. `fan_ins`: of the aggregation
    tree's levels, the leaves' first; the last one is that of all further levels. `at_driver`:
    stages whose partial results the driver adds up. `held`: bytes that a cached table may take of
    each worker's memory (or this process's), by its number; one that is not named takes what
    is there. `filed`: cached tables, by number, whose rest goes to a cache file, written while the
    table is first made; of others the rest is made again in each iteration. `broadcast`: bytes up
    to which the held side of a join is sent whole to all workers, by its table's number; for others
    the engine's limit holds. `processes`: stages that fold on processes.
    """

    workers: int = 0
    fan_ins: tuple[int, ...] = ()
    at_driver: frozenset[int] = frozenset()
    held: Mapping[int, int] = field(default_factory=dict)
    filed: frozenset[int] = frozenset()
    broadcast: Mapping[int, int] = field(default_factory=dict)
    processes: frozenset[int] = frozenset()


NEUTRAL = Neutral()  # nothing is decided: the engine's own defaults hold


# What passes between a running loop and the planner that may think again.


@dataclass(frozen=True)
class HeldPart:
    """Of a cached table: bytes that are held, of how many in all, and the seconds it took to make.

    Of all workers together.
    """

    held: float
    whole: float
    seconds: float


@dataclass(frozen=True)
class Measurements:
    """What a loop's iterations took: seconds of the last one by stage.

    `partial_bytes`: of a partial result as the driver heard it last, by stage. `caches`: cached
    tables by number.
    """

    iteration: int
    stage_seconds: dict[int, float]
    partial_bytes: Mapping[int, float] = field(default_factory=dict)
    caches: Mapping[int, HeldPart] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """Neutral decisions changed between iterations; what is None or empty stays as it is.

    `inline`: stages to run on the calling thread; `processes`: those to fold on processes, too.
    `fan_ins`, `at_driver` and `held` as of `Neutral`; `why` says it to readers.
    """

    inline: frozenset[int] = frozenset()
    processes: frozenset[int] = frozenset()
    fan_ins: tuple[int, ...] = ()
    at_driver: frozenset[int] | None = None
    held: Mapping[int, int] = field(default_factory=dict)
    why: tuple[str, ...] = ()

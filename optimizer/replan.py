"""Neutral decisions made again while a loop runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from scalops.algebra.figures import bytes_text
from scalops.engine.neutral import Change, HeldPart, Measurements
from scalops.optimizer.cost import THREAD_START
from scalops.optimizer.costs.caching import Invariant, held_bytes
from scalops.optimizer.costs.choice import Choice, fan_ins_text
from scalops.optimizer.costs.meeting import Meeting, Reduced, meeting, seconds_along
from scalops.optimizer.placement import Placement

# A plan is changed when an iteration takes so many times what it would with the best one.
WORSE = 1.5


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


class Replanner:
    """Looks at a running plan with what was measured of it; for one run.

    The tree is chosen again for partial results of the bytes that were seen, the parts of cached
    tables for the seconds that it took to make them. Which tables have cache files stays: these
    are written while tables are first made.
    """

    def __init__(
        self,
        choice: Choice,
        reads: Mapping[int, float],
        fan_in: int | None = None,
        placement: Placement | None = None,
    ) -> None:
        """`reads`: how often an iteration reads each cached table; `fan_in`: what was asked for."""
        self._workers = max(1, choice.setting.workers)
        self._reductions, self._fan_in = choice.reductions, fan_in
        self._meeting: Meeting | None = choice.meeting
        self._seen: dict[int, float] = {}
        self._reads, self._placement = reads, placement
        self._is_embedded = not choice.setting.workers
        self._filed, self._file_byte = choice.setting.neutral.filed, choice.file_byte

    def __call__(self, measurements: Measurements) -> Change | None:
        """What is to be changed now; None where nothing is."""
        change = replan(measurements, self._placement) if self._is_embedded else None
        iteration = sum(measurements.stage_seconds.values())
        for found in (self._other_tree(measurements, iteration),
                      self._other_caches(measurements, iteration)):  # fmt: skip
            if found is not None:
                change = found if change is None else _together(change, found)
        return change

    def _other_tree(self, seen: Measurements, iteration: float) -> Change | None:
        now = self._meeting
        if now is None or self._fan_in is not None or not seen.partial_bytes:
            return None
        known = {r.stage: r for r in self._reductions}
        for stage, size in seen.partial_bytes.items():
            # What a tree's root sends may be less than what its workers sent each other.
            self._seen[stage] = max(size, self._seen.get(stage, 0.0))
        sizes = [
            replace(known[s], partial_bytes=max(size, known[s].partial_bytes), passes=1.0)
            for s, size in self._seen.items()
            if s in known
        ]
        best = meeting(self._workers, sizes, now.links)
        spent = seconds_along(self._workers, now.fan_ins, now.at_driver, sizes, now.links)
        if not _is_worse(iteration, spent - best.seconds):
            return None
        self._meeting = best
        why = _why_tree(now, best, known, sizes, seen.iteration)
        return Change(fan_ins=best.fan_ins, at_driver=best.at_driver, why=(why,))

    def _other_caches(self, seen: Measurements, iteration: float) -> Change | None:
        caches = {n: c for n, c in seen.caches.items() if c.whole > 0 and n in self._reads}
        memory = sum(c.held for c in caches.values())
        if len(caches) < 2 or memory >= sum(c.whole for c in caches.values()):
            return None
        tables = [
            Invariant(n, c.whole, self._reads[n], self._seconds(n, c))
            for n, c in sorted(caches.items())
        ]
        best = held_bytes(tables, memory)
        saved = sum(t.saved * (best[t.number] - caches[t.number].held) / t.bytes for t in tables)
        if not _is_worse(iteration, saved):
            return None
        held = {n: int(size / self._workers) for n, size in best.items()}
        parts = ", ".join(f"{bytes_text(s)} of t{n}" for n, s in best.items())
        why = f"after iteration {seen.iteration}: {parts} are held, by what it took to make them"
        return Change(held=held, why=(why,))

    def _seconds(self, number: int, cache: HeldPart) -> float:
        """What all of a table takes that is not held: its file is read, or it is made again."""
        if number not in self._filed:
            return cache.seconds
        return min(cache.seconds, cache.whole * self._file_byte)


def _is_worse(iteration: float, saved: float) -> bool:
    """Whether an iteration takes WORSE times what it would without what can be saved."""
    return saved > 0 and iteration > WORSE * max(0.0, iteration - saved)


def _together(one: Change, other: Change) -> Change:
    return replace(
        one,
        fan_ins=other.fan_ins or one.fan_ins,
        at_driver=one.at_driver if other.at_driver is None else other.at_driver,
        held={**one.held, **other.held},
        why=one.why + other.why,
    )


def _why_tree(
    now: Meeting,
    best: Meeting,
    known: Mapping[int, Reduced],
    sizes: list[Reduced],
    iteration: int,
) -> str:
    one = max(sizes, key=lambda r: abs(r.partial_bytes - known[r.stage].partial_bytes))
    thought = bytes_text(known[one.stage].partial_bytes)
    seen = f"partials of stage {one.stage} have {bytes_text(one.partial_bytes)}, not {thought}"
    ways = []
    for made in (best, now):
        flat = one.stage in made.at_driver
        ways.append("at the driver" if flat else fan_ins_text(made.fan_ins))
    return f"after iteration {iteration}: {seen}: {ways[0]}, not {ways[1]}"

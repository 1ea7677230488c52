"""The driver's side of a profile: what runs when, and what the meters have measured meanwhile.

The driver does one thing at a time, so the time of an iteration is that of its stages, of what is
bound and sent, and of the driver's own steps. A stage's time is divided by what its threads did:
the mean over those that took part, and what is left is waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from time import perf_counter
from typing import Any

from scalops.engine import physical_plan as pp
from scalops.engine.backends import TableInfo
from scalops.engine.columns import Array
from scalops.engine.meter import (
    AGGREGATE,
    READS,
    WAIT,
    Measured,
    Meter,
    StageMeasure,
    Tally,
    size_of,
)
from scalops.engine.profiling import (
    MOST_KEPT,
    PARTS,
    CacheProfile,
    IterationProfile,
    LoopProfile,
    Moved,
    OperatorProfile,
    Parts,
    PlanProfile,
    Series,
    StageProfile,
    no_parts,
)
from scalops.engine.stage_operators import operators_of, places_of


class Recorder:
    """Hears of what the driver does; this one keeps nothing of it."""

    meter: Meter | None = None

    def placed(self, workers: int, threads: int) -> None:
        """The plan runs on so many ranks, or (0) in this process on so many threads."""

    def start(self, plan: pp.PhysicalPlan) -> None:
        """The plan begins, perhaps again, from its beginning."""

    def started(self) -> None:
        """Whatever is to run it is there."""

    def ran(
        self, stages: Sequence[int], begin: float, tables: Mapping[int, TableInfo] | None = None
    ) -> None:
        """Stages have been run in one pass, from `begin` (of perf_counter) until now.

        `tables` are those they have left. No stages: what had been put off has been done.
        """

    def bound(self, begin: float) -> None:
        """Values have been bound, from `begin` until now; not while a stage runs."""

    def sent(self, begin: float, header: Any, buffers: Sequence[Array], ranks: int) -> None:
        """A command has been sent to so many ranks, from `begin` until now; perhaps for a stage."""

    def reply(self, rank: int, header: Any) -> Any:
        """The header of a rank's reply to a command, without what it says of measurements."""
        return header

    def goes_on(self, loops: Iterable[int]) -> None:
        """From now on the driver works for these outermost loops; for none: outside of loops."""

    def iteration(self, loop: int) -> None:
        """An iteration of an outermost loop has ended."""

    def end(self, lost: Callable[[], Sequence[str]]) -> None:
        """The plan has run; `lost` tells of workers that died meanwhile."""


NO_RECORDER = Recorder()


class _Operator:
    def __init__(self) -> None:
        self.seconds, self.sum = Series(), Tally()

    def add(self, tally: Tally) -> None:
        self.seconds.add(tally.seconds)
        self.sum.add(tally)

    def profile(self, number: int, places: int) -> OperatorProfile:
        """What it delivered at one of its places in the stage, on the average."""
        many, done = self.seconds.count * places, self.sum
        rows, size, blocks = (n / many for n in (done.rows, done.bytes, done.blocks))
        return OperatorProfile(number, rows, size, blocks, self.seconds.spread().over(places))


class _Stage:
    """The runs of a stage."""

    def __init__(self) -> None:
        self.seconds = Series()
        self.first, self.later = no_parts(), no_parts()
        self.operators: dict[int, _Operator] = {}
        self.together: set[int] = set()
        self.lanes = self.moved = 0

    def add(self, seconds: float, parts: Parts, lanes: int, moved: int) -> None:
        into = self.later if self.seconds.count else self.first
        _add(into, parts)
        self.seconds.add(seconds)
        self.lanes += lanes
        self.moved += moved

    def tallied(self, tallies: Mapping[int, Tally]) -> None:
        for number, tally in tallies.items():
            if number >= 0:
                self.operators.setdefault(number, _Operator()).add(tally)

    def profile(self, stage: pp.Stage) -> StageProfile:
        runs = self.seconds.count
        steady = {n: s / max(1, runs - 1) for n, s in self.later.items()} if runs > 1 else {}
        count = len(operators_of(stage))
        places = places_of(stage)
        found = {n: own.profile(n, places[n]) for n, own in self.operators.items()}
        blank = Series().spread()
        operators = tuple(
            found.get(n) or OperatorProfile(n, 0, 0, 0, blank, measured=False) for n in range(count)
        )
        others = tuple(sorted(self.together - {stage.number}))
        lanes, moved = self.lanes / runs, self.moved / runs
        return StageProfile(
            stage.number, self.seconds.spread(), self.first, steady or self.first, operators,
            others, lanes, moved, _note(operators, others),
        )  # fmt: skip


def _note(operators: Sequence[OperatorProfile], together: Sequence[int]) -> str:
    """What was not measured of a stage, and why."""
    unseen = [o for o in operators[:-1] if not o.measured]
    if not unseen:
        return ""
    if together:
        return f"blocks are read once for it and {_listed(together)}: they are counted there"
    if len(unseen) == len(operators) - 1:
        return "no block was read: numbers of records are known, columns are read in one piece"
    return "what has no rows here is read in one piece, or not at all"


def _listed(stages: Sequence[int]) -> str:
    return f"stage{'s' * (len(stages) > 1)} {', '.join(map(str, stages))}"


class _Loop:
    """An outermost loop: the iteration that is open, and those that have ended."""

    def __init__(self, iterate: pp.Iterate) -> None:
        self._index, self._name = iterate.index, iterate.name
        self.open, self._parts = no_parts(), no_parts()
        self._seconds = Series()
        self._timeline: list[IterationProfile] = []
        self._step = 1

    def iteration(self) -> None:
        number = self._seconds.count
        own, self.open = self.open, no_parts()
        _add(self._parts, own)
        self._seconds.add(sum(own.values()))
        if number % self._step == 0:
            self._timeline.append(IterationProfile(number, own))
        if len(self._timeline) > MOST_KEPT:
            self._timeline, self._step = self._timeline[::2], self._step * 2

    def profile(self) -> LoopProfile:
        timeline = tuple(self._timeline)
        return LoopProfile(self._index, self._name, self._seconds.spread(), self._parts, timeline)


class ProfileRecorder(Recorder):
    """Puts together the profile of one plan."""

    def __init__(self) -> None:
        self.workers, self.threads = 0, 1
        self.meter: Meter = Meter()
        self.plan: pp.PhysicalPlan | None = None

    def placed(self, workers: int, threads: int) -> None:
        self.workers, self.threads = workers, threads

    def start(self, plan: pp.PhysicalPlan) -> None:
        self.plan = plan
        self._stages: dict[int, _Stage] = {}
        self._loops = {loop.index: _Loop(loop) for loop in plan.loops if not loop.nested}
        self._owners: tuple[int, ...] = ()
        self._once = no_parts()
        self._tables: dict[int, tuple[int, TableInfo]] = {}
        self._reads: dict[int, list[int]] = {}
        self._ranks = Measured()  # of ranks, not looked at yet
        self._most: dict[int, Measured] = {}  # by rank: how much memory it took
        self._sent, self._sent_bytes = 0.0, 0
        self._moved = [0, 0]  # to the driver, between ranks
        self._lost: tuple[str, ...] = ()
        self._caches = {
            s.number: s.sink.number for s in plan.stages if isinstance(s.sink, pp.CacheTable)
        }
        self._scans = {
            (s.number, i)
            for s in plan.stages
            for i, own in enumerate(operators_of(s))
            if isinstance(own, pp.TableScan)
        }
        self.meter.taken()
        self._begun = self._mark = perf_counter()
        self._seconds = self._start = 0.0

    # What the driver tells.

    def started(self) -> None:
        now = perf_counter()
        self._start = now - self._mark
        self._charge({**no_parts(), "wait": self._start})
        self._mark = now

    def ran(
        self, stages: Sequence[int], begin: float, tables: Mapping[int, TableInfo] | None = None
    ) -> None:
        now = perf_counter()
        self._until(begin)
        self._mark, left = now, now - begin
        own = self.meter.taken()
        found, self._ranks = self._ranks, Measured()
        serial = 0.0  # partial results combined by the driver, while nobody else computes
        if found.stages:
            serial = sum(_seconds(m, AGGREGATE) for m in own.stages.values())
        else:
            found = own
        if not self.workers:
            self._note_memory(0, own)
        self._count(found)
        late = {n: m for n, m in found.stages.items() if n not in stages and m.seconds}
        left -= self._put_off(late, left)
        if not stages or not (self.workers == 0 or found.stages.keys() & set(stages)):
            self._charge({**no_parts(), "update": max(0.0, left)})
            return
        self._together(stages, max(0.0, left), found, serial)
        for number, info in (tables or {}).items():
            self._tables[number] = stages[0], info

    def _together(
        self, stages: Sequence[int], seconds: float, found: Measured, serial: float
    ) -> None:
        """Stages of one pass that took so long; caches that they read may have been made again."""
        measures = {n: m for n, m in found.stages.items() if n in stages or not m.seconds}
        lanes = max((m.lanes for n, m in measures.items() if n in stages), default=1)
        sent, self._sent = self._sent, 0.0
        parts = self._divided(seconds, measures, max(1, lanes), sent, serial)
        moved = sum(m.to_driver + m.to_ranks for m in measures.values())
        for number in stages:
            own = self._stages.setdefault(number, _Stage())
            own.together.update(stages if len(stages) > 1 else ())
            own.add(seconds, parts, lanes, moved)
        for number, measure in measures.items():
            self._stages.setdefault(number, _Stage()).tallied(measure.operators)
        self._charge(parts)

    def _put_off(self, late: Mapping[int, StageMeasure], most: float) -> float:
        """Stages that ran with a later command: each as long as at its slowest rank.

        These may be several, so that all together took less. Gives the seconds of all.
        """
        total = sum(m.seconds for m in late.values())
        share = min(1.0, most / total) if total else 0.0
        for number, measure in late.items():
            seconds = measure.seconds * share
            parts = self._divided(seconds, {number: measure}, max(1, measure.lanes), 0.0, 0.0)
            own = self._stages.setdefault(number, _Stage())
            own.add(seconds, parts, measure.lanes, measure.to_driver + measure.to_ranks)
            own.tallied(measure.operators)
            self._charge(parts)
        return total * share

    def _divided(
        self,
        seconds: float,
        measures: Mapping[int, StageMeasure],
        lanes: int,
        sent: float,
        serial: float,
    ) -> Parts:
        """On what the time of a pass was spent; all parts together are `seconds`."""
        parts = no_parts()
        parts["broadcast"], parts["aggregate"] = sent, serial
        for number, measure in measures.items():
            for operator, tally in measure.operators.items():
                if operator != WAIT:
                    parts[self._part(number, operator)] += tally.seconds / lanes
        spent = sum(parts.values())
        if spent > seconds:  # clocks are read one after the other
            parts = {name: s * seconds / spent for name, s in parts.items()}
        parts["wait"] = max(0.0, seconds - spent)
        return parts

    def _part(self, stage: int, operator: int) -> str:
        if operator == AGGREGATE:
            return "aggregate"
        is_load = stage in self._caches or (stage, operator) in self._scans
        return "load" if is_load else "map"

    def bound(self, begin: float) -> None:
        self._until(begin)
        now = perf_counter()
        self._charge({**no_parts(), "broadcast": now - begin})
        self._mark = now

    def sent(self, begin: float, header: Any, buffers: Sequence[Array], ranks: int) -> None:
        self._sent += perf_counter() - begin
        self._sent_bytes += ranks * size_of(header, buffers)

    def reply(self, rank: int, header: Any) -> Any:
        if header is None:  # of a command that was given up
            return None
        own, data, size = header
        found = Measured.of_data(data)
        self._ranks.add(found)
        self._moved[0] += size
        self._note_memory(rank, found)
        return own

    def goes_on(self, loops: Iterable[int]) -> None:
        self._until(perf_counter())
        self._owners = tuple(loops)

    def iteration(self, loop: int) -> None:
        self._until(perf_counter())
        self._loops[loop].iteration()

    def end(self, lost: Callable[[], Sequence[str]]) -> None:
        self._until(perf_counter())
        self._seconds, self._lost = self._mark - self._begun, tuple(lost())

    # Sums.

    def _until(self, now: float) -> None:
        """Until now the driver took its own steps."""
        self._charge({**no_parts(), "update": max(0.0, now - self._mark)})
        self._mark = max(self._mark, now)

    def _charge(self, parts: Parts) -> None:
        owners = [self._loops[n].open for n in self._owners] or [self._once]
        for own in owners:
            _add(own, parts, 1 / len(owners))

    def _count(self, found: Measured) -> None:
        for table, counts in found.reads.items():
            own = self._reads.get(table, [0] * READS)
            self._reads[table] = [a + b for a, b in zip(own, counts, strict=True)]
        self._moved[0] += sum(m.to_driver for m in found.stages.values())
        self._moved[1] += sum(m.to_ranks for m in found.stages.values())

    def _note_memory(self, rank: int, found: Measured) -> None:
        known = self._most.setdefault(rank, Measured())
        known.peak, known.spilled = found.peak, found.spilled
        known.owners, known.files = found.owners, found.files

    # What was recorded.

    def profile(self) -> PlanProfile:
        """What was measured; the plan has run."""
        assert self.plan is not None
        loops = tuple(loop.profile() for loop in self._loops.values())
        for loop in self._loops.values():
            _add(self._once, loop.open)  # behind the last iteration
            loop.open = no_parts()
        largest = max(self._most.values(), key=lambda m: m.peak, default=Measured())
        return PlanProfile(
            {n: self._stages[n].profile(self.plan.stages[n]) for n in self._run_stages()},
            loops,
            tuple(self._cache(*item) for item in sorted(self._caches.items())),
            dict(self._once),
            self._seconds,
            self._start,
            self.workers,
            self.threads,
            Moved(self._sent_bytes, *self._moved),
            sum(m.spilled for m in self._most.values()),
            largest.peak,
            dict(largest.owners),
            self._lost,
            self._files(),
        )

    def _files(self) -> dict[str, int]:
        """Bytes in files of all ranks, by owner."""
        found: dict[str, int] = {}
        for measured in self._most.values():
            for owner, size in measured.files.items():
                found[owner] = found.get(owner, 0) + size
        return found

    def _run_stages(self) -> list[int]:
        return sorted(n for n, own in self._stages.items() if own.seconds.count)

    def _cache(self, stage: int, table: int) -> CacheProfile:
        _, info = self._tables.get(table, (stage, TableInfo(0, 0, 0, 0)))
        hits, file_reads, again = self._reads.get(table, [0] * READS)
        in_file = self._files().get(f"cache {table}", 0)
        return CacheProfile(
            table, stage, info.partitions, info.cached, info.rows, info.bytes, hits, again,
            in_file, file_reads,
        )  # fmt: skip


def _seconds(measure: StageMeasure, operator: int) -> float:
    found = measure.operators.get(operator)
    return 0.0 if found is None else found.seconds


def _add(into: Parts, more: Parts, share: float = 1.0) -> None:
    for name in PARTS:
        into[name] += more[name] * share

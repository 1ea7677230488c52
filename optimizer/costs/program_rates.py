"""The rates of one program, measured by short runs of it on samples of its largest table.

`scalops/sampled_runs.py` makes the runs; here they become curves of seconds over rows, and
overheads by workers. `prediction.py` says what follows for other sizes and numbers of workers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from scalops.optimizer.costs.curves import Curve, Measured, curve, measured

Rows = Mapping[int, float]  # by stage: records of the table that it reads
FIRST = 2  # iterations that are not like the others: caches and indexes are made, code is compiled


@dataclass(frozen=True)
class LoopRun:
    """The iterations of one outermost loop in a short run.

    `seconds` of each; `stages`: of each, by stage, seconds of all of its runs and how many.
    """

    seconds: tuple[float, ...]
    stages: tuple[Mapping[int, tuple[float, int]], ...]


@dataclass(frozen=True)
class ShortRun:
    """One short run: in this process (`workers` 0) or on workers, with so many threads each.

    `records` of the table that was sampled; `rows` by stage as they turned out. `load_seconds`
    went into caches before the loops, of `held_bytes`. Where these do not hold `all_cached`, later
    iterations load, too.
    """

    workers: int
    threads: int
    records: float
    rows: Rows
    loops: Mapping[int, LoopRun]
    load_seconds: float = 0.0
    held_bytes: float = 0.0
    all_cached: bool = True


@dataclass(frozen=True)
class StageRates:
    """Seconds of a run of a stage over the rows that it reads, in this process, by threads.

    `runs` in an iteration of its outermost loop.
    """

    stage: int
    runs: float
    by_threads: Mapping[int, Curve]


@dataclass(frozen=True)
class LoopRates:
    """An outermost loop: its stages, and whole iterations.

    `update`: what an iteration takes in this process beside its stages. `first`: what the first
    iterations, and caches before the loop, take beyond the others, over the records that were
    sampled, by threads of this process; where noise hides it, the noise, of a spread of 1.
    `on_workers`: seconds of an iteration over these records, by (workers, threads of
    each). `moves`: whether an iteration leaves tables behind, for which records move between
    workers; else it only folds.
    """

    index: int
    stages: tuple[StageRates, ...]
    update: Measured
    first: Mapping[int, Curve]
    on_workers: Mapping[tuple[int, int], Curve] = field(default_factory=dict)
    moves: bool = False


@dataclass(frozen=True)
class ProgramRates:
    """What short runs tell of a program: curves by loop and stage.

    `records` are all of the sampled table, `table` its name, in `partitions` of so many records
    each but for the last. `rows_of` are the rows of stages over those of the sampled table, as
    (records, rows) of each sample. `held_bytes` that caches take for a record. `reason` says why
    there are no rates, if there are none. `is_counted`: whether `records` are known, not estimated;
    `in_memory`: whether the table is, so that nothing was decoded.
    """

    records: float = 0.0
    table: str = ""
    partitions: int = 1
    loops: Mapping[int, LoopRates] = field(default_factory=dict)
    rows_of: Mapping[int, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    held_bytes: float = 0.0
    runs: int = 0
    seconds: float = 0.0
    reason: str = ""
    is_counted: bool = True
    in_memory: bool = False

    @property
    def least_records(self) -> float:
        """The records of the smallest sample."""
        return min((x for points in self.rows_of.values() for x, _ in points), default=0.0)

    @property
    def most_records(self) -> float:
        """The records of the largest sample."""
        return max((x for points in self.rows_of.values() for x, _ in points), default=0.0)

    def stage_seconds(self, stage: int, rows: float, threads: int) -> Measured | None:
        """Seconds of one run of a stage over so many rows, in one process; None if never run."""
        for loop in self.loops.values():
            for known in loop.stages:
                if known.stage == stage:
                    return on_threads(known.by_threads, rows, threads)
        return None

    def rows(self, records: float) -> dict[int, float]:
        """The rows of each stage, were the sampled table of so many records and others as they are.

        Straight lines through what the samples had.
        """
        return {stage: _line(points, records) for stage, points in self.rows_of.items()}

    def records_of(self, rows: Rows) -> float:
        """The records of the sampled table that these rows of stages belong to."""
        for stage, points in self.rows_of.items():
            if stage in rows and all(x == y for x, y in points):
                return rows[stage]
        return self.records


def _line(points: Sequence[tuple[float, float]], records: float) -> float:
    made = curve((x, Measured(y)) for x, y in points)
    if made is None:
        return 0.0
    if len(made.points) == 1:
        known, only = made.points[0]
        return only.seconds if known == records else only.seconds * records / max(1.0, known)
    return made.at(records).seconds


def on_threads(by_threads: Mapping[int, Curve], rows: float, threads: int) -> Measured | None:
    """Seconds on so many threads of one process.

    Between and beyond the numbers that were measured by Amdahl's law, its serial part being the
    one that the most threads showed.
    """
    if threads in by_threads:
        return by_threads[threads].at(rows)
    if 1 not in by_threads:
        return None
    one, most = by_threads[1].at(rows), max(by_threads)
    if most == 1 or one.seconds <= 0:
        return one
    serial = serial_part(one.seconds / by_threads[most].at(rows).seconds, most)
    return Measured(one.seconds * (serial + (1 - serial) / threads), one.spread)


def serial_part(speedup: float, threads: int) -> float:
    """Of the work, what does not get faster by threads (Amdahl, 1967): between 0 and 1.

    >>> round(serial_part(1.6, 2), 2)
    0.25
    """
    return min(1.0, max(0.0, (threads / max(speedup, 1e-9) - 1) / (threads - 1)))


# From runs to rates.


def fitted(
    runs: Iterable[ShortRun],
    records: float,
    table: str = "",
    partitions: int = 1,
    moving: Collection[int] = (),
) -> ProgramRates:
    """The rates that short runs show; those of a program's loops, and of nothing else.

    `records` are all of the table that was sampled; `moving` the loops that leave tables behind.
    """
    made = list(runs)
    indexes = sorted({index for r in made for index in r.loops})
    loops = {index: _loop(index, made, index in moving) for index in indexes}
    stages = sorted({s for r in made for s in r.rows})
    rows_of = {
        s: tuple(sorted({(r.records, r.rows[s]) for r in made if s in r.rows and not r.workers}))
        for s in stages
    }
    largest = max(made, key=lambda r: (r.records, r.held_bytes), default=None)
    held = 0.0 if largest is None else largest.held_bytes / max(1.0, largest.records)
    return ProgramRates(
        records, table, partitions, loops, rows_of, held, len(made), sum(map(_seconds, made))
    )


def _seconds(run: ShortRun) -> float:
    return run.load_seconds + sum(sum(loop.seconds) for loop in run.loops.values())


def _loop(index: int, runs: Sequence[ShortRun], moves: bool) -> LoopRates:
    here = [r for r in runs if not r.workers and index in r.loops]
    away = [r for r in runs if r.workers and index in r.loops]
    numbers = sorted({s for r in here for its in r.loops[index].stages for s in its})
    ways = sorted({(r.workers, r.threads) for r in away})
    on_workers = {
        way: curve(
            (r.records, _steady(r.loops[index])) for r in away if (r.workers, r.threads) == way
        )
        for way in ways
    }
    first = {
        t: curve((r.records, _first(r, index)) for r in here if r.threads == t)
        for t in sorted({r.threads for r in here})
    }
    beside = [_beside(r.loops[index]) for r in here]
    smallest = min(beside, key=lambda m: m.seconds, default=Measured(0.0))
    return LoopRates(
        index,
        tuple(_stage(s, index, here) for s in numbers),
        smallest,
        {t: found for t, found in first.items() if found is not None},
        {way: found for way, found in on_workers.items() if found is not None},
        moves,
    )


def _later(run: LoopRun) -> slice:
    """The iterations that are like all further ones."""
    return slice(min(FIRST, len(run.seconds) - 1), None)


def _steady(run: LoopRun) -> Measured:
    return measured(run.seconds[_later(run)])


def _beside(run: LoopRun) -> Measured:
    """What an iteration takes beside its stages."""
    own = [
        max(0.0, seconds - sum(s for s, _ in stages.values()))
        for seconds, stages in zip(run.seconds, run.stages, strict=True)
    ]
    return measured(own[_later(run)])


def _first(run: ShortRun, index: int) -> Measured:
    """What begins a loop beyond its steady iterations; caches before it with the first loop."""
    loop = run.loops[index]
    steady = _steady(loop)
    beginning = loop.seconds[: _later(loop).start]
    extra = max(0.0, sum(s - steady.seconds for s in beginning))
    before = run.load_seconds if index == min(run.loops) else 0.0
    seconds, noise = before + extra, steady.absolute * len(beginning)
    if seconds <= noise:
        return Measured(noise, 1.0)
    return Measured(seconds, noise / seconds if seconds > 0 else 0.0)


def _stage(stage: int, index: int, runs: Sequence[ShortRun]) -> StageRates:
    ran: list[int] = []
    points: dict[int, list[tuple[float, Measured]]] = {}
    for run in runs:
        loop = run.loops[index]
        found = [its[stage] for its in loop.stages[_later(loop)] if stage in its]
        if found:
            ran += [n for _, n in found]
            times = measured([seconds / max(1, n) for seconds, n in found])
            points.setdefault(run.threads, []).append((run.rows.get(stage, 0.0), times))
    runs_of = sum(ran) / len(ran) if ran else 0.0
    made = {threads: curve(found) for threads, found in points.items()}
    return StageRates(stage, runs_of, {t: c for t, c in made.items() if c is not None})

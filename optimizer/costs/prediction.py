"""What an iteration takes at another size and on other workers, from a program's own rates.

A worker's time is its records' part of what one thread needs, longer where more threads work than
there are cores, and where they wait for the same memory. What short runs on workers took beyond
that is the overhead of an iteration: commands, messages, partial results; each further worker adds
what the second one added. Where records move between workers, the part of them that does grows as
(N - 1) / N.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, hypot, sqrt

import numpy as np

from scalops.optimizer.costs.curves import Curve, Measured, total
from scalops.optimizer.costs.machine import Machine
from scalops.optimizer.costs.program_rates import LoopRates, ProgramRates, Rows, on_threads
from scalops.optimizer.costs.setting import Setting
from scalops.optimizer.costs.trees import unit_bounds, units_of

MOST_PARTITIONS = 1_024  # as `engine/blocks.py` has it
# Assumed before anything is measured: how much longer work takes while another worker of the host
# computes, and how sure that is; how far off the median of a few iterations is at least.
CONTENTION = Measured(1.1, 0.2)
LEAST_OFF = 0.03
LEAST_CONTENTION = 0.5  # what noise may make of it for many workers


def iteration_seconds(
    rates: ProgramRates, rows: Rows, setting: Setting, machine: Machine, loop: int | None = None
) -> Measured:
    """Seconds of a steady iteration of an outermost loop, its first one if none is named.

    `rows` are those of each stage, as of `rates.rows(records)` or the plan's estimates.
    """
    own = rates.loops[min(rates.loops) if loop is None else loop]
    if setting.workers == 0:
        return _here(own, rows, setting.threads)
    records = rates.records_of(rows)
    overhead = fitted_overhead(rates, own, machine)
    work = work_seconds(own, rows, 1)
    shares = partition_shares(setting.workers, _partitions(rates, records))
    if setting.workers == 1 and setting.threads > 1:
        part = work_seconds(own, rows, setting.threads).seconds / max(work.seconds, 1e-12)
    else:
        part = makespan(shares, setting.threads, setting.cores)
    longer = _contention(overhead.contention, setting)
    computed = Measured(work.seconds * part * longer, work.spread)
    return total((computed, own.update, overhead.of(records, setting)))


def _contention(of_two: float, setting: Setting) -> float:
    """How much longer work takes where the workers of one machine compute at once."""
    if setting.cores is None or setting.workers == 1:
        return 1.0
    busy = min(float(setting.workers), setting.side_by_side / setting.threads)
    return max(LEAST_CONTENTION, 1.0 + (of_two - 1.0) * (busy - 1.0))


def _here(loop: LoopRates, rows: Rows, threads: int) -> Measured:
    return total((work_seconds(loop, rows, threads), loop.update))


def work_seconds(loop: LoopRates, rows: Rows, threads: int) -> Measured:
    """What the stages of an iteration take in one process."""
    found = []
    for stage in loop.stages:
        once = on_threads(stage.by_threads, rows.get(stage.stage, 0.0), threads)
        if once is not None:
            found.append(Measured(once.seconds * stage.runs, once.spread))
    return total(found)


# Workers.


@dataclass(frozen=True)
class Overhead:
    """Beyond its part of the work: what an iteration takes on one worker, what each more adds.

    `moved` are seconds of one thread for each record, the part of it that moves being one half as
    between two workers. `contention` is how much longer the work takes where two compute at once.
    """

    one: Measured
    more: Measured
    moved: Measured
    contention: float

    def of(self, records: float, setting: Setting) -> Measured:
        """Seconds on the setting's workers, of a table of so many records."""
        workers = setting.workers
        further = Measured(self.more.seconds * (workers - 1), self.more.spread)
        part = 2 * (workers - 1) / workers / min(workers, setting.side_by_side)
        moved = Measured(self.moved.seconds * records * part, self.moved.spread)
        return total((self.one, further, moved))


def fitted_overhead(rates: ProgramRates, loop: LoopRates, machine: Machine) -> Overhead:
    """From the short runs on workers; without any, from the machine's rates.

    Least squares, each time counting by its spread. One worker takes its overhead and the work
    of one process. What two take is a line over the larger one's part of the work: its slope is
    their contention, of which `CONTENTION` is known beforehand. Where records move it is a line
    over these, beside the work; to move one takes about as long as to compute with it, or up to
    three times.
    """
    by_workers = {n: (t, found) for (n, t), found in loop.on_workers.items()}
    nothing = Measured(0.0)
    if 1 not in by_workers or 2 not in by_workers:
        command = Measured(machine["command"], machine.rates["command"].spread or 0.0)
        message = Measured(machine["message"], machine.rates["message"].spread or 0.0)
        return Overhead(command, message, nothing, 1.0)
    one, _ = _line(_over_work(rates, loop, 1, *by_workers[1]), 1.0, 1e-6)
    points = _over_work(rates, loop, 2, *by_workers[2])
    moved, contention = nothing, CONTENTION.seconds
    if loop.moves:
        records = [x for x, _ in by_workers[2][1].points]
        work = max(w / x for x, (w, _) in zip(records, points, strict=True))
        both, each = _line(_beside(points, records), work, 2 * work)
        moved = Measured(max(0.0, 2 * each), both.spread)
    else:
        both, contention = _line(points, CONTENTION.seconds, CONTENTION.absolute)
    more = max(0.0, both.seconds - one.seconds)
    off = hypot(both.absolute, one.absolute)
    return Overhead(one, Measured(more, off / more if more > 0 else 0.0), moved, contention)


def _beside(
    points: Sequence[tuple[float, Measured]], records: Sequence[float]
) -> list[tuple[float, Measured]]:
    """What is left of times beside the work, over records."""
    made = []
    for x, (work, taken) in zip(records, points, strict=True):
        own = max(0.0, taken.seconds - CONTENTION.seconds * work)
        made.append((x, Measured(own, taken.absolute / own if own > 0 else 0.0)))
    return made


def _over_work(
    rates: ProgramRates, loop: LoopRates, workers: int, threads: int, found: Curve
) -> list[tuple[float, Measured]]:
    """Seconds of an iteration without the driver's own, over the part of the work of the worker
    that has most."""
    points = []
    for records, seconds in found.points:
        share = max(partition_shares(workers, _partitions(rates, records)))
        work = work_seconds(loop, rates.rows(records), threads)
        own = max(0.0, seconds.seconds - loop.update.seconds)
        off = hypot(seconds.absolute, work.absolute * share, LEAST_OFF * seconds.seconds)
        points.append((work.seconds * share, Measured(own, off / own if own > 0 else 0.0)))
    return points


def _line(
    points: Sequence[tuple[float, Measured]], slope: float, off: float
) -> tuple[Measured, float]:
    """The intercept and the slope of a line, neither below 0.

    Before any time is seen the slope is known to be `slope`, give or take `off`. Least squares with
    that prior: sum ((y - a - k x) / spread)^2 + ((k - slope) / off)^2 is least.
    """
    known = 1 / off**2
    n = x = xx = y = xy = 0.0
    for at, taken in points:
        weight = 1 / max(taken.absolute, 1e-9) ** 2
        n, x, xx = n + weight, x + weight * at, xx + weight * at * at
        y, xy = y + weight * taken.seconds, xy + weight * at * taken.seconds
    xx, xy = xx + known, xy + known * slope
    determinant = n * xx - x * x
    intercept, steep = (xx * y - x * xy) / determinant, (n * xy - x * y) / determinant
    if intercept < 0:
        intercept, steep = 0.0, xy / xx
    elif steep < 0:
        intercept, steep = y / n, 0.0
    spread = sqrt(xx / determinant)
    return Measured(intercept, spread / intercept if intercept > 0 else 0.0), steep


# Who has how much.


def _partitions(rates: ProgramRates, records: float) -> int:
    each = max(1.0, rates.records / rates.partitions)
    return min(MOST_PARTITIONS, max(1, ceil(records / each - 1e-9)))


def partition_shares(workers: int, partitions: int) -> tuple[float, ...]:
    """The part of a table's partitions that each worker has, as the engine hands them out.

    >>> partition_shares(3, 64)
    (0.375, 0.3125, 0.3125)
    """
    units, bounds = units_of(workers, partitions), unit_bounds(workers, partitions)
    counts = np.diff(bounds * partitions // units)
    return tuple(float(n) / partitions for n in counts)


def makespan(shares: Sequence[float], threads: int, cores: int | None) -> float:
    """When the last worker is done, one thread alone needing 1 for all.

    Each works on up to `threads` threads; where all together are more than `cores` those are
    divided evenly among who is not done (processor sharing).

    >>> makespan((0.5, 0.5), 1, 2), makespan((0.25, 0.25, 0.5), 1, 2), makespan((0.5, 0.5), 1, 1)
    (0.5, 0.625, 1.0)
    """
    left, now = sorted(s for s in shares if s > 0), 0.0
    while left:
        speed = threads if cores is None else min(float(threads), cores / len(left))
        step = left[0]
        now += step / speed
        left = [s - step for s in left if s - step > 1e-12]
    return now

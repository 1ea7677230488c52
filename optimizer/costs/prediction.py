"""What an iteration takes at another size and on other workers, from a program's own rates.

A worker's time is its records' part of what one thread needs, longer where more threads work than
there are cores, and where they wait for the same memory. What short runs on workers took beyond
that is the overhead of an iteration: commands, messages, partial results; each further worker adds
what the second one added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from scalops.optimizer.costs.curves import Measured, total
from scalops.optimizer.costs.machine import Machine
from scalops.optimizer.costs.program_rates import LoopRates, ProgramRates, Rows, on_threads
from scalops.optimizer.costs.setting import Setting

UNITS_OF_A_WORKER = 4  # as the engine hands partitions out (`engine/collective.py`)
MOST_PARTITIONS = 1_024  # as `engine/blocks.py` has it
LEAST_CONTENTION, MOST_CONTENTION = 0.7, 3.0


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
    return total((computed, own.update, overhead.of(setting.workers)))


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

    `contention` is how much longer the work takes where two compute at once.
    """

    one: Measured
    more: Measured
    contention: float

    def of(self, workers: int) -> Measured:
        """Seconds on so many workers."""
        further = Measured(self.more.seconds * (workers - 1), self.more.spread)
        return total((self.one, further))


def fitted_overhead(rates: ProgramRates, loop: LoopRates, machine: Machine) -> Overhead:
    """From the short runs on workers; without any, from the machine's rates."""
    by_workers = {n: (t, found) for (n, t), found in loop.on_workers.items()}
    if 1 not in by_workers or 2 not in by_workers:
        command = Measured(machine["command"], machine.rates["command"].spread or 0.0)
        message = Measured(machine["message"], machine.rates["message"].spread or 0.0)
        return Overhead(command, message, 1.0)
    threads, one = by_workers[1]
    beside = []
    for records, seconds in one.points:
        work = work_seconds(loop, rates.rows(records), threads)
        own = seconds.seconds - work.seconds - loop.update.seconds
        beside.append(Measured(max(0.0, own), _off(seconds, work, own)))
    first = min(beside, key=lambda m: m.absolute)
    return _second(rates, loop, first)


def _off(a: Measured, b: Measured, difference: float) -> float:
    return (a.absolute + b.absolute) / difference if difference > 0 else 0.0


def _second(rates: ProgramRates, loop: LoopRates, first: Measured) -> Overhead:
    """What two workers take is a line over the work of each: its slope is their contention."""
    found = next(c for (n, _), c in loop.on_workers.items() if n == 2)
    points = []
    for records, seconds in found.points:
        shares = partition_shares(2, _partitions(rates, records))
        work = work_seconds(loop, rates.rows(records), 1).seconds * max(shares)
        points.append((work, Measured(seconds.seconds - loop.update.seconds, seconds.spread)))
    (x1, low), (x2, high) = points[0], points[-1]
    slope = (high.seconds - low.seconds) / (x2 - x1) if x2 > x1 else 1.0
    slope = min(MOST_CONTENTION, max(LEAST_CONTENTION, slope))
    both = max(first.seconds, high.seconds - slope * x2)
    more = both - first.seconds
    return Overhead(first, Measured(more, high.absolute / more if more > 0 else 0.0), slope)


# Who has how much.


def _partitions(rates: ProgramRates, records: float) -> int:
    each = max(1.0, rates.records / rates.partitions)
    return min(MOST_PARTITIONS, max(1, ceil(records / each - 1e-9)))


def partition_shares(workers: int, partitions: int) -> tuple[float, ...]:
    """The part of a table's partitions that each worker has, as the engine hands them out.

    >>> partition_shares(3, 64)
    (0.375, 0.3125, 0.3125)
    """
    most = max(1, min(partitions, 1 << (UNITS_OF_A_WORKER * workers - 1).bit_length()))
    units = 1 << (most.bit_length() - 1)
    bounds = [-(-rank * units // workers) * partitions // units for rank in range(workers + 1)]
    return tuple((b - a) / partitions for a, b in pairwise(bounds))


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

"""Seconds of one run of a stage: what it computes, and what it waits for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING

from scalops.optimizer.cost import Provenance
from scalops.optimizer.costs.amounts import added
from scalops.optimizer.costs.machine import Machine
from scalops.optimizer.costs.plan_work import OperatorWork, StageWork
from scalops.optimizer.costs.setting import Setting
from scalops.optimizer.costs.thread_times import divided, on_processes, on_threads, read_seconds
from scalops.optimizer.costs.times import OperatorCost, StageCost, Times
from scalops.optimizer.costs.trees import Links, Reduction, links_of

if TYPE_CHECKING:
    from scalops.optimizer.costs.program_rates import ProgramRates

_LEAF_FACTOR = 4  # a leaf's input is at least so many times its partial: see engine/reduction.py
DECODING = frozenset(("disk_read", "parquet", "ipc", "csv"))


@dataclass(frozen=True)
class Again:
    """What it takes to read the part of a cached table that memory does not hold.

    `share` of the table it is. The disk is busy for `disk` seconds, while the threads `compute`.
    """

    share: float
    disk: float
    compute: float

    def beside(self, computed: float) -> float:
        """max(D − m·C, A): what it adds to C seconds of computing with all of the table.

        The share m is read ahead (D seconds) while it is decoded or made (A seconds) and computed
        with (m·C seconds).
        """
        return max(self.disk - self.share * computed, self.compute)


@dataclass(frozen=True)
class Costing:
    """What the cost of a stage depends on beside its own work.

    `index_bytes`: of indexed sides of joins by number, and the limit up to which they go to every
    worker. `again`: by number of a cached table, what the part takes that is not held. `spilled`:
    by number of another table, the bytes of it that each worker has in a file.
    """

    machine: Machine
    setting: Setting
    program: ProgramRates | None = None
    index_bytes: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    again: Mapping[int, Again] = field(default_factory=dict)
    spilled: Mapping[int, float] = field(default_factory=dict)

    @property
    def workers(self) -> int:
        """How many compute: this process is one."""
        return max(1, self.setting.workers)

    @cached_property
    def links(self) -> Links:
        """The links between workers."""
        return links_of(self.machine)

    @property
    def on_one_disk(self) -> int:
        """How many workers share a disk: all of those of one machine."""
        return 1 if self.setting.cores is None else self.workers

    def share(self, work: StageWork) -> float:
        """The part of a stage's blocks that the busiest worker has: ⌈b / N⌉ / b of b blocks."""
        blocks = max(1.0, work.blocks)
        return max(1 / self.workers, ceil(blocks / self.workers) / blocks)

    def threads(self, work: StageWork) -> float:
        """Threads of one worker that compute at once: no more than it has blocks."""
        at_once = self.setting.side_by_side / self.workers
        return min(at_once, max(1.0, ceil(max(1.0, work.blocks) * self.share(work))))


@dataclass(frozen=True)
class _Seconds:
    """Of one operator on one thread: memory, kernels, what holds the lock; calls that it makes.

    `disk`: beside threads, whose reading the disk is at.
    """

    disk: float
    read: float
    products: float
    others: float
    held: float
    calls: float
    is_load: bool

    @property
    def total(self) -> float:
        return self.disk + self.read + self.products + self.others + self.held


def stage_cost(work: StageWork, costing: Costing) -> StageCost:
    """The first and a later run."""
    first, of_first, _ = _run(work, costing, first=True)
    steady, of_steady, apart = _run(work, costing, first=False)
    operators = tuple(
        OperatorCost(o.number, a, b, _known([o], costing))
        for o, a, b in zip(work.operators, of_first, of_steady, strict=True)
    )
    measured = _measured(work, costing) is not None
    known = _known(work.operators, costing, measured)
    return StageCost(work.stage, first, steady, operators, known, measured, *apart)


def _run(
    work: StageWork, costing: Costing, first: bool
) -> tuple[Times, list[float], tuple[float, float]]:
    """One run by what it is spent on, seconds of each operator, and of disk and threads apart.

    Blocks are read ahead: while threads compute the disk reads, and the longer of both counts.
    """
    machine, threads = costing.machine, costing.threads(work)
    own = [_operator(o, work, costing, threads, first) for o in work.operators]
    seconds = _computing(work, own, costing, threads)
    wait = machine["command"] if costing.setting.workers else machine["stage"]
    if not costing.setting.workers and threads > 1:
        alone = _computing(work, own, costing, 1.0)
        if not first and seconds + machine["thread_start"] < 2 * machine["thread_start"]:
            seconds = alone  # on the calling thread, as the engine does after the first run
        else:
            wait += machine["thread_start"]
    measured = _measured(work, costing)
    if measured is not None:
        once = max(
            0.0, seconds - _computing(work, _steady(work, costing, threads), costing, threads)
        )
        seconds = measured + (once if first else 0.0)
        wait = wait if costing.setting.workers else 0.0
    disk = sum(o.disk for o in own)
    apart = disk, seconds
    seconds = max(seconds, disk)
    together = sum(o.total for o in own)
    parts = [seconds * o.total / together if together else 0.0 for o in own]
    load = sum(part for part, o in zip(parts, own, strict=True) if o.is_load)
    computed = sum(part for part, o in zip(parts, own, strict=True) if not o.is_load)
    if first:
        load += shipping_seconds(work, costing)
    if work.cache is not None and work.cache in costing.again:
        load += costing.again[work.cache].beside(apart[1])
    load += spill_seconds(work, costing, first)
    aggregate = aggregate_seconds(work, costing)
    return Times(load=load, map=computed, aggregate=aggregate, wait=wait), parts, apart


def _steady(work: StageWork, costing: Costing, threads: float) -> list[_Seconds]:
    return [_operator(o, work, costing, threads, first=False) for o in work.operators]


def _operator(
    operator: OperatorWork, work: StageWork, costing: Costing, threads: float, first: bool
) -> _Seconds:
    """The busiest worker's part."""
    machine, share = costing.machine, costing.share(work)
    amounts = added(operator.amounts, operator.once) if first else operator.amounts
    from_disk = amounts.get("disk_read", 0.0) / machine["disk_read"]
    products, others, held = divided(
        {n: a for n, a in amounts.items() if n != "disk_read"}, machine
    )
    at_once = threads * (costing.workers if costing.setting.cores is not None else 1)
    read = read_seconds(operator.read_bytes, at_once, machine)
    calls = operator.calls * share
    is_load = work.is_cache or any(name in amounts for name in DECODING)
    python = share * held + calls * machine["call"]
    disk = share * costing.on_one_disk * from_disk
    return _Seconds(disk, share * read, share * products, share * others, python, calls, is_load)


def _computing(
    work: StageWork, operators: Sequence[_Seconds], costing: Costing, threads: float
) -> float:
    """Seconds of all operators of a stage, on threads or, where it is so decided, processes.

    max(memory, products) + other kernels let go of the lock: products wait for what they read.
    """
    of_products = max(sum(o.read for o in operators), sum(o.products for o in operators))
    free = of_products + sum(o.others for o in operators)
    held = sum(o.held for o in operators)
    calls = sum(o.calls for o in operators)
    if work.stage in costing.setting.neutral.processes and not costing.setting.workers:
        passed = leaves_of_a_run(work) * work.partial_bytes
        return on_processes(free, held, threads, passed, costing.machine)
    return on_threads(free, held, calls, threads, costing.machine)


def _measured(work: StageWork, costing: Costing) -> float | None:
    """What runs of this program say of the busiest worker's part; None where they say nothing."""
    if costing.program is None:
        return None
    threads = costing.threads(work)
    rows = work.rows * costing.share(work)
    found = costing.program.stage_seconds(work.stage, rows, max(1, round(threads)))
    return None if found is None else found.seconds / min(1.0, threads)


def shipping_seconds(work: StageWork, costing: Costing) -> float:
    """What handing a table of this process to workers takes before they first read it.

    bytes / share where they map its memory, bytes / link where they are elsewhere.
    """
    if not costing.setting.workers or work.source != "memory":
        return 0.0
    rate = "link" if costing.setting.cores is None else "share"
    return work.bytes / costing.machine[rate]


def spill_seconds(work: StageWork, costing: Costing, first: bool) -> float:
    """Writing what the stage leaves and memory does not hold, and reading what others have left.

    What is made once is written once: its stage computes nothing later.
    """
    written = 0.0
    if work.makes is not None and (first or work.operators[-1].amounts):
        written = costing.spilled.get(work.makes, 0.0)
    read = sum(costing.spilled.get(number, 0.0) for number in work.reads)
    machine = costing.machine
    return costing.on_one_disk * (written / machine["disk_write"] + read / machine["disk_read"])


def aggregate_seconds(work: StageWork, costing: Costing) -> float:
    """Partial results, records and tables on their way."""
    merged = (leaves_of_a_run(work) * costing.share(work) - 1) * work.partial_bytes
    seconds = max(0.0, merged) / costing.machine["add"]
    workers = costing.setting.workers
    if not workers:
        return seconds
    links, neutral = costing.links, costing.setting.neutral
    if work.partial_bytes:
        reduction = Reduction(workers, work.partial_bytes, links)
        flat = work.stage in neutral.at_driver
        seconds += reduction.flat() if flat else reduction.tree(neutral.fan_ins or (2,))
    moved, copied = work.moved_bytes, work.replicated_bytes
    own = [] if work.makes is None or not work.index_bytes else [(work.makes, work.index_bytes)]
    for number, size in (*own, *work.probed):
        index, limit = costing.index_bytes.get(number, (0.0, 0.0))
        if index > limit:
            moved += size
        elif own and number == work.makes:
            copied += size
    seconds += exchange_seconds(moved, workers, links) + copies_seconds(copied, workers, links)
    if work.gathered_bytes:
        seconds += links.hop + workers * links.message + work.gathered_bytes / links.link
    return seconds


def exchange_seconds(size: float, workers: int, links: Links) -> float:
    """h + (N - 1)·m + (N - 1)/N · (b / N) / l: each of N workers hears its part from the others.

    h, m: a hop and a message; l: bytes/s of a link. All links are busy at once.
    """
    if workers < 2 or not size:
        return 0.0
    heard = size / workers * (workers - 1) / workers
    return links.hop + (workers - 1) * links.message + heard / links.link


def copies_seconds(size: float, workers: int, links: Links) -> float:
    """h + (N - 1)·m + (N - 1)/N · b / l: each of N workers hears all that the others have."""
    if workers < 2 or not size:
        return 0.0
    heard = size * (workers - 1) / workers
    return links.hop + (workers - 1) * links.message + heard / links.link


def leaves_of_a_run(work: StageWork) -> float:
    """Leaves of a reduction; where the run tells, as many as blocks and bytes would give."""
    if not work.partial_bytes:
        return 1.0
    if work.leaves:
        return float(work.leaves)
    most = min(work.blocks, work.bytes / (_LEAF_FACTOR * work.partial_bytes))
    return float(1 << (max(1, int(most)).bit_length() - 1))


def _known(
    operators: Sequence[OperatorWork], costing: Costing, measured: bool = False
) -> Provenance:
    """Measured where all rates are, else assumed."""
    names = {"call", "stage", "read", "thread_start"}
    if not measured:
        names.update(n for o in operators for n in (*o.amounts, *o.once))
    if costing.setting.workers:
        names |= {"command", "hop", "message", "link", "add"}
    return costing.machine.known(*names)

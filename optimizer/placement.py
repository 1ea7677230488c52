"""Threads or processes: what folds a cached table in a loop. A neutral decision.

On threads, what Python does between two calls of NumPy holds the interpreter's lock, and a thread
that waits for it is woken late; so a plan of many short steps on small blocks runs on two threads
hardly faster than on one. On processes it does not, but they have to be started, and the table
copied to memory that they share. Where a block's time is that of a matrix product, or of a
compiled loop, threads are as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scalops.algebra import expressions as ex
from scalops.algebra.expressions import within
from scalops.engine.physical_work import FoldWork
from scalops.optimizer.cost import READ, Constant, flops

LOCK = Constant("lock", 5e-6, "s that a call of NumPy on a block costs two threads more", "assumed")
CALL = Constant("call", 1e-6, "s of Python around a call of NumPy", "assumed")
ELEMENT = Constant("element", 3e9, "elementwise flops/s per thread on cached blocks", "assumed")
RECORD = Constant("record", 1e-6, "s of Python for a record of a traced aggregate", "assumed")
PROCESS_START = Constant("process_start", 0.5, "s until a worker process is ready", "assumed")
PROCESS_PASS = Constant("process_pass", 2e-4, "s to ask a worker and to hear of it", "assumed")
SHARE = Constant("share", 1.5e9, "bytes/s copied to new shared memory", "assumed")
PIPE = Constant("pipe", 1e9, "bytes/s from one process to another", "assumed")
PRODUCT_FLOPS = Constant("product_flops", 1.0e10, "flops/s of a product per thread", "assumed")
LEAST_GAIN = 0.15  # of a pass: less is not worth holding the table twice


@dataclass(frozen=True)
class Cores:
    """What may work on a pass: this process and `workers` others, of which so many run already."""

    workers: int
    running: int = 0

    @property
    def count(self) -> int:
        return self.workers + 1


@dataclass(frozen=True)
class Costs:
    """Seconds of one pass, by what folds it."""

    threads: float
    processes: float

    @property
    def gain(self) -> float:
        """The part of a pass that processes save."""
        return 1 - self.processes / self.threads


@dataclass(frozen=True)
class Placement:
    """`stages` fold on processes; `later` may come to, by what a pass is measured to take.

    `notes` say of a stage where it runs, and why; `once` is what a stage's table and the start
    of processes cost.
    """

    stages: frozenset[int]
    later: dict[int, Costs]
    once: dict[int, float]
    notes: dict[int, str]


def placement(works: Sequence[FoldWork], cores: Cores, how: str = "auto") -> Placement:
    """Where each stage folds.

    With "auto": on processes where all passes together save more than starting them and copying
    the tables costs. With "processes": wherever it can be done.
    """
    notes: dict[int, str] = {}
    open_works: dict[int, tuple[FoldWork, Costs]] = {}
    for work in works:
        if how == "threads" or cores.workers == 0 or work.leaves == 1:
            continue
        if work.refused is not None:
            notes[work.stage] = f"threads: {work.refused}"
            continue
        open_works[work.stage] = work, costs(work, cores)
    asked = how == "processes"
    chosen = frozenset(open_works) if asked else _worth_it(open_works, cores)
    start = PROCESS_START.value if cores.running < cores.workers else 0.0
    later, once = {}, {}
    for stage, (work, cost) in open_works.items():
        notes[stage] = _note(work, cost, cores, asked) if stage in chosen else _stays(work, cost)
        if stage not in chosen and cost.gain >= LEAST_GAIN and work.leaves and not work.known:
            later[stage], once[stage] = cost, start + work.moved_bytes / SHARE.value
    return Placement(chosen, later, once, notes)


def costs(work: FoldWork, cores: Cores) -> Costs:
    """Seconds of a pass on as many threads as cores, and on as many processes."""
    free = work.rows * _seconds_per_row(work)  # the lock is let go of
    held = work.calls * work.blocks * CALL.value
    if work.by_record:
        held += work.rows * RECORD.value
    contended = work.calls * work.blocks * LOCK.value * (cores.count - 1) / cores.count
    chunks = min(64, max(1, work.leaves))
    passed = chunks * work.partial_bytes / PIPE.value
    threads = max(held, (free + held) / cores.count) + contended
    return Costs(threads, (free + held) / cores.count + passed + PROCESS_PASS.value)


def _seconds_per_row(work: FoldWork) -> float:
    """Of one thread: reading, elementwise steps and products of matrices."""
    products = [
        n
        for n in within(work.expressions)
        if isinstance(n, ex.Call) and n.function.name in ("matmul", "outer")
    ]
    of_products = sum(flops(n) - flops(*n.arguments) for n in products)
    elementwise = max(0.0, flops(*work.expressions) - of_products)
    read = work.bytes / max(1.0, work.rows) / READ.value
    return max(read, of_products / PRODUCT_FLOPS.value) + elementwise / ELEMENT.value


def _worth_it(works: dict[int, tuple[FoldWork, Costs]], cores: Cores) -> frozenset[int]:
    """The stages of tables whose passes save more than sharing them costs."""
    saved: dict[int, float] = {}
    shared: dict[int, float] = {}
    for work, cost in works.values():
        if cost.gain >= LEAST_GAIN and work.leaves:
            saving = work.passes * (cost.threads - cost.processes)
            saved[work.table] = saved.get(work.table, 0.0) + saving
            shared[work.table] = work.moved_bytes / SHARE.value
    tables = {t for t, s in saved.items() if s > shared[t]}
    start = PROCESS_START.value if cores.running < cores.workers else 0.0
    if sum(saved[t] - shared[t] for t in tables) <= start:
        return frozenset()
    # What folds the same table can as well be where its memory is.
    return frozenset(s for s, (work, c) in works.items() if work.table in tables and c.gain > 0)


def _note(work: FoldWork, cost: Costs, cores: Cores, asked: bool) -> str:
    why = "as asked for" if asked else f"saves about {cost.gain:.0%} of a pass"
    return (
        f"{cores.count} processes over shared memory, {why}: {_calls(work)} hold the"
        " interpreter's lock (assumed)"
    )


def _stays(work: FoldWork, cost: Costs) -> str:
    if cost.gain < LEAST_GAIN:
        return f"threads: {_calls(work)} are little beside its arithmetic (assumed)"
    if not work.leaves:
        return "threads: nobody knows before how many records there are"
    often = f"{work.passes:,.0f} passes" + ("" if work.known else " (assumed)")
    return f"threads: {often} save less than it takes to start processes and share the table"


def _calls(work: FoldWork) -> str:
    calls = int(work.calls * work.blocks)
    if work.by_record:
        return f"{int(work.rows):,} records a pass".replace(",", "_")
    return f"about {calls:,} Python steps a pass".replace(",", "_")

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

from scalops.engine.physical_work import FoldWork
from scalops.optimizer.cost import Provenance
from scalops.optimizer.costs.amounts import added, scaled
from scalops.optimizer.costs.expression_work import record_work
from scalops.optimizer.costs.fold_work import fold_work
from scalops.optimizer.costs.machine import Machine
from scalops.optimizer.costs.thread_times import divided, on_processes, on_threads

RATES = Machine.of(1, 0)  # assumed ones, where none of a machine are given
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


def placement(
    works: Sequence[FoldWork], cores: Cores, how: str = "auto", machine: Machine = RATES
) -> Placement:
    """Where each stage folds, by the rates of a machine.

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
        open_works[work.stage] = work, costs(work, cores, machine)
    asked = how == "processes"
    chosen = frozenset(open_works) if asked else _worth_it(open_works, cores, machine)
    start = _start(cores, machine)
    known = machine.known("call", "lock", "process_pass", "share", "process_start")
    later, once = {}, {}
    for stage, (work, cost) in open_works.items():
        chosen_here = stage in chosen
        notes[stage] = (
            _note(work, cost, cores, asked, known) if chosen_here else _stays(work, cost, known)
        )
        if stage not in chosen and cost.gain >= LEAST_GAIN and work.leaves and not work.known:
            later[stage], once[stage] = cost, start + work.moved_bytes / machine["share"]
    return Placement(chosen, later, once, notes)


def costs(work: FoldWork, cores: Cores, machine: Machine = RATES) -> Costs:
    """Seconds of a pass on as many threads as cores, and on as many processes."""
    of_record = added(record_work(work.expressions).amounts, fold_work(work.folds)[0])
    products, others, held = divided(scaled(of_record, work.rows), machine)
    free = max(work.bytes / machine["read"], products) + others  # the lock is let go of
    calls = work.calls * work.blocks
    held += calls * machine["call"]
    passed = min(64, max(1, work.leaves)) * work.partial_bytes
    return Costs(
        on_threads(free, held, calls, cores.count, machine),
        on_processes(free, held, cores.count, passed, machine),
    )


def _start(cores: Cores, machine: Machine) -> float:
    """Seconds until processes are there that do not run yet."""
    return machine["process_start"] if cores.running < cores.workers else 0.0


def _worth_it(
    works: dict[int, tuple[FoldWork, Costs]], cores: Cores, machine: Machine
) -> frozenset[int]:
    """The stages of tables whose passes save more than sharing them costs."""
    saved: dict[int, float] = {}
    shared: dict[int, float] = {}
    for work, cost in works.values():
        if cost.gain >= LEAST_GAIN and work.leaves:
            saving = work.passes * (cost.threads - cost.processes)
            saved[work.table] = saved.get(work.table, 0.0) + saving
            shared[work.table] = work.moved_bytes / machine["share"]
    tables = {t for t, s in saved.items() if s > shared[t]}
    start = _start(cores, machine)
    if sum(saved[t] - shared[t] for t in tables) <= start:
        return frozenset()
    # What folds the same table can as well be where its memory is.
    return frozenset(s for s, (work, c) in works.items() if work.table in tables and c.gain > 0)


def _note(work: FoldWork, cost: Costs, cores: Cores, asked: bool, known: Provenance) -> str:
    why = "as asked for" if asked else f"saves about {cost.gain:.0%} of a pass"
    return (
        f"{cores.count} processes over shared memory, {why}: {_calls(work)} hold the"
        f" interpreter's lock ({known})"
    )


def _stays(work: FoldWork, cost: Costs, known: Provenance) -> str:
    if cost.gain < LEAST_GAIN:
        return f"threads: {_calls(work)} are little beside its arithmetic ({known})"
    if not work.leaves:
        return "threads: nobody knows before how many records there are"
    often = f"{work.passes:,.0f} passes" + ("" if work.known else " (assumed)")
    return f"threads: {often} save less than it takes to start processes and share the table"


def _calls(work: FoldWork) -> str:
    calls = int(work.calls * work.blocks)
    if work.by_record:
        return f"{int(work.rows):,} records a pass".replace(",", "_")
    return f"about {calls:,} Python steps a pass".replace(",", "_")

"""What a worker holds for its ranks: their shares of the plan, and what outlives a job."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from scalops.algebra.errors import OutOfMemoryError
from scalops.engine.cluster import verbs
from scalops.engine.cluster.file_sources import bad_records_of, may_pass_over
from scalops.engine.cluster.messages import Command, Partitions
from scalops.engine.cluster.plan_codec import decode_plan
from scalops.engine.cluster.rank_caches import RankCaches
from scalops.engine.cluster.remote_source import PartitionStore, tables_gone
from scalops.engine.collective import Piece, Program, Ranks, alone
from scalops.engine.free_memory import usable_memory
from scalops.engine.memory import MemoryBudget
from scalops.engine.meter import Meter
from scalops.engine.neutral import NEUTRAL, Neutral
from scalops.engine.share import Share
from scalops.engine.threads import Task, ThreadPool

if TYPE_CHECKING:
    from scalops.engine.columns import Array

Reply = Program[Piece | None]
Start = Callable[[Command, list["Array"]], Reply]
# Of a rank: a source, partitions, the first block of each.
Ask = Callable[[int, int, tuple[int, ...], int], None]
_MORE_MEMORY = (
    "so.session(memory=...) is shared out among the workers of a machine: raise it, or use fewer"
    " workers on each machine, or more machines"
)


@dataclass(frozen=True)
class _Hosted:
    """A rank of the present job; `gone`: kept tables that it lacks.

    `given_up` tells what its sources have passed over, where they may pass over records.
    """

    share: Share
    store: PartitionStore
    budget: MemoryBudget
    gone: tuple[str, ...]
    given_up: Callable[[], list[Any]] | None

    def start(self, command: Command, given: list[Array]) -> Reply:
        """The program of a command."""
        program = verbs.run(self.share, command, given)
        if self.given_up is not None and verbs.stages_of(command.verb, command.arguments):
            program = verbs.accounted(program, self.given_up)
        return _named(program, self.share.ranks.own)


def _named(program: Reply, rank: int) -> Reply:
    """A program whose lack of memory is told with the place where it was."""
    try:
        return (yield from program)
    except OutOfMemoryError:
        raise
    except MemoryError as error:
        raise OutOfMemoryError(
            f"{_place(rank)} has not the memory: {error}", hint=_MORE_MEMORY
        ) from error


def _place(rank: int) -> str:
    return f"rank {rank} (process {os.getpid()} on {socket.gethostname()})"


class JobShares:
    """The shares of the ranks that a worker hosts."""

    def __init__(self, settings: Mapping[str, Any], ask: Ask) -> None:
        """`settings`: "threads", "memory" in bytes, and the folder "spill", of this worker.

        Without "memory" it has its part of what is free as a job begins: there are "workers" of
        them on this machine. `ask` is called for partitions of tables that lie with the driver.
        """
        self._pool = ThreadPool(int(settings.get("threads") or 1))
        self._memory, self._workers = settings.get("memory"), int(settings.get("workers") or 1)
        self._spill = settings.get("spill")
        self._limit, self._ask = 0, ask
        self._is_careful = False
        self._ranks: dict[int, _Hosted] = {}
        self._caches: dict[int, RankCaches] = {}
        self.may_block = False  # whether a read may wait for the driver, or call users' functions

    def run(self, task: Task, count: int, *stages: int) -> None:
        """Run a stage's tasks on this worker's threads."""
        self._pool.run(task, count, inline=self._is_careful)

    def begin(
        self,
        ranks: Ranks,
        buffers: list[Array],
        careful: bool,
        memory: int = 0,
        neutral: Neutral = NEUTRAL,
        profile: bool = False,
    ) -> Start:
        """Host a rank: with a plan anew, without one as it was, but for what went stale.

        `memory`: bytes of this worker for the job; 0 for what it was told before. With `careful`
        one partition is read at a time; with `profile` operators are measured.
        """
        self._is_careful = careful
        if buffers:
            self._ranks[ranks.own] = self._made(ranks, buffers[0], memory, neutral, profile)
        else:
            hosted = self._ranks[ranks.own]
            hosted.share.ranks.meet_along(ranks.fan_ins)
            hosted.share.runtime.cancelled = False
            hosted.share.forget()
            hosted.store.go_on()
        return self._ranks[ranks.own].start

    def ranks(self, rank: int) -> Ranks:
        """A hosted rank, as its share sees it."""
        return self._ranks[rank].share.ranks

    def gone(self, rank: int) -> tuple[str, ...]:
        """Keys of kept tables that the plan reads and that this rank lacks."""
        return self._ranks[rank].gone

    def _made(
        self, ranks: Ranks, data: Array, memory: int, neutral: Neutral, profile: bool
    ) -> _Hosted:
        rank = ranks.own
        if not self._ranks:
            self._limit = memory or self._memory or self._usable()
        old = self._ranks.pop(rank, None)
        if old is not None:
            old.share.stop()
        store = PartitionStore(partial(self._ask, rank))
        caches = self._caches.setdefault(rank, RankCaches())
        decoded = decode_plan(data.data, store, caches, ranks)
        plan = decoded.plan
        calls = any(s.calls_functions for s in decoded.plan.stages)
        self.may_block = self.may_block or decoded.may_wait or calls
        budget = MemoryBudget(self._limit, self._spill)
        budget.beside = partial(self._held_beside, rank)
        budget.place, budget.hint = f"the budget of {_place(rank)}", _MORE_MEMORY
        kept = caches.begin(plan, budget, decoded.reads)
        gone = tables_gone(decoded.tables, caches, ranks)
        meter = Meter() if profile else None
        share = Share(plan, self, budget, ranks, keep=kept, neutral=neutral, meter=meter)
        given_up = partial(bad_records_of, plan) if may_pass_over(plan) else None
        return _Hosted(share, store, budget, gone, given_up)

    def _usable(self) -> int:
        """The memory of a worker that was told none; what it keeps is its own already."""
        return usable_memory() // self._workers + sum(c.bytes for c in self._caches.values())

    def _held_beside(self, rank: int) -> int:
        """Bytes that the other ranks hold here: they have the same memory."""
        now = sum(hosted.budget.held for own, hosted in self._ranks.items() if own != rank)
        idle = (c.bytes for own, c in self._caches.items() if own not in self._ranks)
        return now + sum(idle)

    def catch_up(self, rank: int, commands: list[tuple[Command, list[Array]]]) -> None:
        """Run commands that ask nothing of other ranks."""
        for command, buffers in commands:
            alone(self._ranks[rank].start(command, buffers))

    def partitions(self, body: Partitions, buffers: list[Array]) -> None:
        """Blocks that ranks have asked the driver for."""
        for hosted in self._ranks.values():
            hosted.store.arrived(body.source, body.partition, Piece(body.piece, buffers))

    def forget(self, keys: Iterable[str]) -> None:
        """Nobody will ask for these kept tables any more."""
        for caches in self._caches.values():
            caches.forget(keys)

    def cancel(self) -> None:
        """Let what is computed end soon."""
        for hosted in self._ranks.values():
            hosted.share.cancel()
            hosted.store.fail(KeyboardInterrupt())

    def finish(self) -> None:
        """The job is over: give its tables back, and what ranks that are elsewhere have kept."""
        for hosted in self._ranks.values():
            hosted.share.stop()
        for rank in self._caches.keys() - self._ranks.keys():
            if self._ranks:
                del self._caches[rank]
        self._ranks.clear()
        self.may_block = False

    def held(self) -> tuple[int, int]:
        """Bytes that tables hold here, and how many of the own partitions are held."""
        count = 0
        for hosted in self._ranks.values():
            ranks = hosted.share.ranks
            for table in list(hosted.share.runtime.tables.values()):
                count += len(table.own(ranks))
        own = sum(hosted.budget.held for hosted in self._ranks.values())
        idle = sum(c.bytes for rank, c in self._caches.items() if rank not in self._ranks)
        return own + idle, count

"""What a worker holds for its ranks: their shares of the plan, and what outlives a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from functools import partial

from scalops.engine.cluster import verbs
from scalops.engine.cluster.file_sources import bad_records_of, may_pass_over
from scalops.engine.cluster.messages import Command, Partitions
from scalops.engine.cluster.plan_codec import decode_plan
from scalops.engine.cluster.rank_caches import RankCaches
from scalops.engine.cluster.remote_source import PartitionStore
from scalops.engine.collective import Piece, Program, Ranks, alone
from scalops.engine.memory import MemoryBudget
from scalops.engine.share import Share
from scalops.engine.threads import Task, ThreadPool

if TYPE_CHECKING:
    from scalops.engine.columns import Array

Start = Callable[[Command, list["Array"]], Program[Piece | None]]
Ask = Callable[[int, int, tuple[int, ...]], None]  # of a rank: a source, partitions


class JobShares:
    """The shares of the ranks that a worker hosts."""

    def __init__(self, settings: Mapping[str, Any], ask: Ask) -> None:
        """`settings`: "threads", and "memory" in bytes, of this worker.

        `ask` is called by compute threads, for partitions of tables that lie with the driver.
        """
        self._pool = ThreadPool(int(settings.get("threads") or 1))
        self._memory, self._ask = settings.get("memory"), ask
        self._shares: dict[int, Share] = {}
        self._stores: dict[int, PartitionStore] = {}
        self._caches: dict[int, RankCaches] = {}
        self.may_block = False  # whether a read may wait for the driver
        self.progress = -1  # the partition that is read now

    def run(self, task: Task, count: int, *stages: int) -> None:
        """Run a stage's tasks on this worker's threads."""
        self._pool.run(task, count)

    def begin(self, ranks: Ranks, buffers: list[Array], careful: bool) -> Start:
        """Host a rank: with a plan anew, without one as it was, but for what went stale."""
        if buffers:
            share = self._shares[ranks.own] = self._made(ranks, buffers[0])
        else:
            share = self._shares[ranks.own]
            share.runtime.cancelled = False
            share.forget()

        def start(command: Command, given: list[Array]) -> Program[Piece | None]:
            return verbs.run(share, command, given)

        return start

    def _made(self, ranks: Ranks, plan: Array) -> Share:
        rank = ranks.own
        old = self._shares.pop(rank, None)
        if old is not None:
            old.stop()
        store = PartitionStore(lambda source, partitions: self._ask(rank, source, partitions))
        caches = self._caches.setdefault(rank, RankCaches())
        decoded = decode_plan(plan.data, store, caches)
        self._stores[rank] = store
        self.may_block = self.may_block or decoded.may_wait
        budget = MemoryBudget(self._memory)
        kept = caches.begin(decoded.plan, budget, decoded.reads)
        return Share(decoded.plan, self, budget, ranks, keep=kept)

    def catch_up(self, rank: int, commands: list[tuple[Command, list[Array]]]) -> None:
        """Run commands that ask nothing of other ranks."""
        for command, buffers in commands:
            alone(verbs.run(self._shares[rank], command, buffers))

    def partitions(self, body: Partitions, buffers: list[Array]) -> None:
        """Partitions that ranks have asked the driver for."""
        for store in self._stores.values():
            store.arrived(body.source, body.partitions, Piece(body.piece, buffers))

    def cancel(self) -> None:
        """Let what is computed end soon."""
        for share in self._shares.values():
            share.cancel()
        for store in self._stores.values():
            store.fail(KeyboardInterrupt())

    def finish(self) -> None:
        """The job is over: give its tables back."""
        for share in self._shares.values():
            share.stop()
        self._shares.clear()
        self._stores.clear()
        self.may_block = False

    def held(self) -> tuple[int, int]:
        """Bytes that tables hold here, and how many of the own partitions are held."""
        kept = sum(c.bytes for c in self._caches.values())
        count = 0
        for share in self._shares.values():
            ranks = share.ranks
            for table in list(share.runtime.tables.values()):
                start, stop = ranks.range_of(ranks.own, table.partitions())
                count += stop - start
        return kept + sum(s.runtime.budget.held for s in self._shares.values()), count

"""What a worker holds for its ranks: their shares of the plan, and what outlives a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from scalops.engine.cluster import verbs
from scalops.engine.cluster.messages import Command, Partitions
from scalops.engine.collective import Piece, Program, Ranks, alone
from scalops.engine.kept_tables import KeptTable
from scalops.engine.memory import MemoryBudget
from scalops.engine.pipelines.base import Stored
from scalops.engine.share import Share
from scalops.engine.threads import Task, ThreadPool

if TYPE_CHECKING:
    from scalops.engine.columns import Array
    from scalops.engine.physical_plan import PhysicalPlan

Start = Callable[[Command, list["Array"]], Program[Piece | None]]


class JobShares:
    """The shares of the ranks that a worker hosts."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """`settings`: "threads", and "memory" in bytes, of this worker."""
        self._pool = ThreadPool(int(settings.get("threads", 1)))
        self._memory = settings.get("memory")
        self._plan: PhysicalPlan | None = None
        self._shares: dict[int, Share] = {}
        self._kept: dict[tuple[str, int], KeptTable] = {}
        self.progress = -1  # the partition that is read now

    def run(self, task: Task, count: int, *stages: int) -> None:
        """Run a stage's tasks on this worker's threads."""
        self._pool.run(task, count)

    def begin(self, ranks: Ranks, buffers: list[Array], careful: bool) -> Start:
        """Host a rank: with a plan anew, without one as it was, but for what went stale."""
        if buffers:
            self._plan = verbs.unpickled(buffers)
        share = self._shares.get(ranks.own)
        if share is None:
            assert self._plan is not None
            budget = MemoryBudget(self._memory)
            share = self._shares[ranks.own] = Share(self._plan, self, budget, ranks)
        else:
            share.runtime.cancelled = False
            share.forget()

        def start(command: Command, given: list[Array]) -> Program[Piece | None]:
            return verbs.run(share, command, given)

        return start

    def catch_up(self, rank: int, commands: list[tuple[Command, list[Array]]]) -> None:
        """Run commands that ask nothing of other ranks."""
        for command, buffers in commands:
            alone(verbs.run(self._shares[rank], command, buffers))

    def partitions(self, body: Partitions, buffers: list[Array]) -> None:
        """Partitions that a rank has asked the driver for."""

    def cancel(self) -> None:
        """Let what is computed end soon."""
        for share in self._shares.values():
            share.cancel()

    def finish(self) -> None:
        """The job is over: give its tables back."""
        for share in self._shares.values():
            share.stop()
        self._shares.clear()
        self._plan = None

    def held(self) -> tuple[int, int]:
        """Bytes that tables hold here, and how many partitions they have here."""
        tables: list[Stored] = [
            t for share in self._shares.values() for t in share.runtime.tables.values()
        ]
        return sum(s.runtime.budget.held for s in self._shares.values()), len(tables)

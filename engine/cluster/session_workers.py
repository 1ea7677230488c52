"""A session's workers: the hub, the coordinator of its jobs, and its tables in shared memory."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from scalops.engine import physical_plan as pp
from scalops.engine.cluster.backend import ClusterBackend
from scalops.engine.cluster.coordinator import Coordinator, JobSettings
from scalops.engine.cluster.messages import Partitions, Wanted
from scalops.engine.cluster.plan_codec import encode_plan
from scalops.engine.cluster.shared_tables import SharedTables
from scalops.engine.cluster.source_server import SourceServer, plan_tables
from scalops.engine.events import SILENT, EventLog

if TYPE_CHECKING:
    from scalops.engine.cluster.hub import Hub
    from scalops.engine.columns import Array


class SessionWorkers:
    """The workers of one session, which run its jobs one after the other."""

    def __init__(
        self, hub: Hub, share_memory: bool, now: Callable[[], float] = monotonic
    ) -> None:
        """With `share_memory` all workers are on this machine, and map the driver's tables.

        `now` is the hub's clock, in seconds.
        """
        self._hub, self._shares_memory, self._now = hub, share_memory, now
        self._coordinator: Coordinator | None = None
        self._shared = SharedTables()

    @property
    def hub(self) -> Hub:
        """Where the workers are."""
        return self._hub

    def backend(
        self,
        ranks: int | None,
        settings: Callable[[int], JobSettings],
        events: EventLog = SILENT,
    ) -> ClusterBackend:
        """For one job, on `ranks` ranks, or one for each worker there is; `settings` for so many.
        """
        if self._coordinator is None:
            self._coordinator = Coordinator(self._hub, events, self._now)
        count = ranks or max(1, len(self._hub.workers()))
        self._coordinator.events = events
        return ClusterBackend(self._coordinator, settings(count), self._encoded)

    def _encoded(self, plan: pp.PhysicalPlan) -> list[Array]:
        """A plan as workers get it; from now on they may ask for its tables."""
        tables = plan_tables(plan)
        server = SourceServer(tables, self._shared)
        placed = server.place() if self._shares_memory else {}

        def answer(wanted: Wanted) -> tuple[Any, list[Array]]:
            piece = server.answer(wanted.source, wanted.partitions)
            body = Partitions(
                wanted.job, wanted.epoch, wanted.source, wanted.partitions, piece.header
            )
            return body, piece.buffers

        assert self._coordinator is not None
        self._coordinator.answer = answer
        return [np.frombuffer(encode_plan(plan, tables, placed), np.uint8)]

    def close(self) -> None:
        """End what the hub has started, and give the memory back."""
        try:
            self._hub.close()
        finally:
            self._shared.clear()

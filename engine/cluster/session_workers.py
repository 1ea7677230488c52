"""A session's workers: the hub, the coordinator of its jobs, and its tables in shared memory."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from scalops.engine import physical_plan as pp
from scalops.engine.cluster.backend import ClusterBackend
from scalops.engine.cluster.coordinator import Coordinator, JobSettings
from scalops.engine.cluster.file_sources import note_bad_records
from scalops.engine.cluster.messages import Forget, Partitions, Wanted
from scalops.engine.cluster.plan_codec import encode_plan
from scalops.engine.cluster.shared_tables import SharedTables
from scalops.engine.cluster.source_server import SourceServer, plan_tables
from scalops.engine.events import SILENT, EventLog
from scalops.engine.recording import NO_RECORDER, Recorder

if TYPE_CHECKING:
    from scalops.engine.cluster.hub import Hub
    from scalops.engine.columns import Array
    from scalops.engine.kept_tables import KeptTable


class SessionWorkers:
    """The workers of one session, which run its jobs one after the other."""

    def __init__(self, hub: Hub, share_memory: bool, now: Callable[[], float] = monotonic) -> None:
        """With `share_memory` all workers are on this machine, and map the driver's tables.

        `now` is the hub's clock, in seconds.
        """
        self._hub, self._shares_memory, self._now = hub, share_memory, now
        self._coordinator: Coordinator | None = None
        self._shared = SharedTables()
        self._forgotten: deque[str] = deque()  # keys of kept tables
        self._watched: dict[int, weakref.finalize[[str], KeptTable]] = {}

    @property
    def hub(self) -> Hub:
        """Where the workers are."""
        return self._hub

    @property
    def is_running(self) -> bool:
        """Whether a job has begun and not ended."""
        return self._coordinator is not None and self._coordinator.is_running

    def backend(
        self,
        settings: JobSettings,
        events: EventLog = SILENT,
        keep: Mapping[str, KeptTable] | None = None,
        recorder: Recorder = NO_RECORDER,
    ) -> ClusterBackend:
        """For one job with these settings.

        The job reads and fills the tables of `keep`, by key, which ranks keep as long as they live.
        A `recorder` hears of what they measure.
        """
        keep = keep or {}
        for table in keep.values():
            self._watch(table)
        self.tell_forgotten(keep)
        if self._coordinator is None:
            self._coordinator = Coordinator(self._hub, events, self._now)
        self._coordinator.events = events
        return ClusterBackend(self._coordinator, settings, self._encoded, keep, recorder)

    def _watch(self, table: KeptTable) -> None:
        known = self._watched.get(id(table))
        if known is None or not known.alive:
            self._watched[id(table)] = end = weakref.finalize(table, self.forget, table.key)
            end.atexit = False

    def forget(self, key: str) -> None:
        """Nobody will ask for a kept table any more. Any thread may say so, at any time."""
        self._forgotten.append(key)

    def tell_forgotten(self, but: Container[str] = ()) -> None:
        """Tell the workers what has been forgotten, `but` what is wanted again.

        While a job runs it is left for later: the job may read it.
        """
        if self.is_running:
            return
        keys = {self._forgotten.popleft() for _ in range(len(self._forgotten))}
        told = tuple(sorted(k for k in keys if k not in but))
        if told:
            for worker in self._hub.workers():
                self._hub.channels.send(worker.worker, Forget(told))
            self._hub.pump(0)

    def _encoded(self, plan: pp.PhysicalPlan) -> list[Array]:
        """A plan as workers get it; from now on they may ask for its tables."""
        tables = plan_tables(plan)
        server = SourceServer(tables, self._shared)
        placed = server.place() if self._shares_memory else {}

        def answer(wanted: Wanted) -> Iterator[tuple[Partitions, list[Array]]]:
            for partition in wanted.partitions:
                piece = server.answer(wanted.source, partition, wanted.first)
                place = wanted.job, wanted.epoch, wanted.source, partition
                yield Partitions(*place, piece.header), piece.buffers

        assert self._coordinator is not None
        self._coordinator.answer = answer
        self._coordinator.passed_over = partial(note_bad_records, plan)
        return [np.frombuffer(encode_plan(plan, tables, placed), np.uint8)]

    def close(self) -> None:
        """End what the hub has started, and give the memory back."""
        try:
            self._hub.close()
        finally:
            self._shared.clear()

"""The backend of several workers: every verb is a command to all ranks of the job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scalops.engine import physical_plan as pp
from scalops.engine.backends import TableInfo
from scalops.engine.block_codec import blocks_of_piece
from scalops.engine.cluster.driver_merges import DriverMerges
from scalops.engine.cluster.coordinator import Coordinator, Expect, JobSettings, Replies
from scalops.engine.collective import Piece
from scalops.engine.memory import FreeMemory
from scalops.engine.value_codec import decode_value

if TYPE_CHECKING:
    from scalops.algebra.schema import Schema
    from scalops.engine.blocks import Block
    from scalops.engine.columns import Array

Encode = Callable[[pp.PhysicalPlan], "list[Array]"]


class ClusterBackend:
    """Fulfils `backends.Backend` by the ranks of a coordinator's job."""

    def __init__(self, coordinator: Coordinator, settings: JobSettings, encode: Encode) -> None:
        """`encode` gives a plan as it is sent to workers."""
        self._coordinator, self._settings, self._encode = coordinator, settings, encode
        self._results: dict[int, tuple[Any, ...]] = {}
        self._gathered: dict[int, tuple[int, dict[int, list[Block]]]] = {}
        self._schemas: dict[int, Schema] = {}
        self._begun = False

    # Life.

    def start(self, plan: pp.PhysicalPlan) -> None:
        self._begun = True
        self._schemas = {s.number: s.source.schema for s in plan.stages}
        self._merges = DriverMerges(plan)
        self._coordinator.begin(plan, self._encode(plan), self._settings)

    def stop(self) -> None:
        if self._begun:
            self._begun = False
            self._gathered.clear()
            self._coordinator.finish()

    def cancel(self) -> None:
        self.stop()

    def lost(self) -> tuple[str, ...]:
        return self._coordinator.lost()

    def commit(self, iteration: int) -> None:
        pass  # array state is the driver's; tables of a state are on every rank

    def change(self, change: pp.Change) -> None:
        pass  # which thread runs a stage is each rank's own affair

    def bind(self, values: Mapping[int, Any]) -> None:
        self._coordinator.bind(values)
        self._gathered.clear()

    # Stages.

    def _call(self, verb: str, stage: Any, expect: Expect = "all") -> Replies:
        return self._coordinator.call(verb, stage, expect)

    def run_stage(self, stage: int) -> None:
        journal = self._coordinator.journal
        if journal.is_fold(stage):
            self.run_stages((stage,))
            return
        self._call("count", stage)
        journal.made(stage, "count", self._coordinator.values)

    def run_stages(self, stages: Sequence[int]) -> None:
        if self._settings.at_driver.issuperset(stages):
            self._add_up(list(stages))
            return
        found = self._call("fold", list(stages), "root")[0]
        for stage, item in found.header:
            self._results[stage] = tuple(decode_value(item, found.buffers))

    def _add_up(self, stages: list[int]) -> None:
        """The same, by the driver itself."""
        replies = self._call("partials", stages)
        self._merges.bind(self._coordinator.values)
        self._results.update(self._merges.results([replies[r] for r in sorted(replies)]))

    def combine(self, stage: int) -> tuple[Any, ...]:
        return self._results[stage]

    def load(self, stage: int) -> TableInfo:
        return self._made(stage, "load")

    def exchange(self, stage: int) -> TableInfo:
        return self._made(stage, "exchange")

    def _made(self, stage: int, verb: str) -> TableInfo:
        replies = self._call(verb, stage)
        self._coordinator.journal.made(stage, verb, self._coordinator.values)
        infos = [TableInfo(*p.header[:4], *map(tuple, p.header[4:])) for p in replies.values()]
        return TableInfo(
            infos[0].partitions,
            sum(i.rows for i in infos),
            sum(i.bytes for i in infos),
            sum(i.cached for i in infos),
            tuple(sorted({n for i in infos for n in i.nan})),
            tuple(sorted({n for i in infos for n in i.infinite})),
        )

    def adopt(self, moves: Sequence[tuple[int, int, bool]]) -> None:
        self._coordinator.tell("adopt", [list(move) for move in moves])
        self._coordinator.journal.adopt(moves)
        self._gathered.clear()

    def put(self, table: int, schema: Schema, blocks: list[Block]) -> None:
        self._coordinator.call("put", [table, None], "all", (schema, blocks))
        self._coordinator.journal.put(table)

    def release(self, table: int) -> None:
        self._coordinator.tell("release", table)
        self._coordinator.journal.release(table)

    def partitions(self, stage: int) -> int:
        return self._gather(stage)[0]

    def fetch(self, stage: int, partition: int) -> list[Block]:
        return self._gather(stage)[1].pop(partition, [])

    def _gather(self, stage: int) -> tuple[int, dict[int, list[Block]]]:
        if stage not in self._gathered:
            found: dict[int, list[Block]] = {}
            schema = self._schemas[stage]

            def again() -> Callable[[int, Piece], None]:
                found.clear()
                free = FreeMemory()

                def take(rank: int, piece: Piece) -> None:
                    partition, header = piece.header
                    blocks = blocks_of_piece(Piece(header, piece.buffers), schema)
                    free.take(sum(b.bytes for b in blocks))
                    found.setdefault(partition, []).extend(blocks)

                return take

            replies = self._coordinator.call("gather", stage, "all", again=again)
            self._gathered[stage] = replies[0].header, found
        return self._gathered[stage]

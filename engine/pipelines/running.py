"""Running aggregates beside the records: each partition goes on from its carry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from scalops.engine.blocks import Array, Block
from scalops.engine.kernels.kernel import Vector
from scalops.engine.kernels.running_columns import RunningColumn
from scalops.engine.output_memory import OutputMemory
from scalops.engine.physical_running import Accumulate
from scalops.engine.pipelines.base import Over, Pipeline, Runtime, own_bytes

if TYPE_CHECKING:
    from scalops.engine.relations.running import Carries


class AccumulatePipeline(Over):
    """New columns for each block, as they come; with a reverse one, a partition at a time."""

    def __init__(self, node: Accumulate, source: Pipeline, runtime: Runtime) -> None:
        super().__init__(node.schema, source, runtime)
        self._number = node.number
        self._columns = [RunningColumn(c) for c in node.columns]
        self._memory: dict[int, list[OutputMemory]] = {}
        self._backward = any(c.reverse for c in self._columns)

    def rows(self, partition: int) -> int | None:
        return self.source.rows(partition)

    def read_only(self, names: Iterable[str]) -> None:
        own = {c.name for c in self._columns}
        arguments = {n for c in self._columns for n in c.arguments}
        self.source.read_only({*names} - own | arguments)

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        blocks = self.source.blocks(partition, worker)
        if self._backward:
            return self._from_the_end(partition, blocks)
        return self._as_they_come(partition, blocks, worker)

    def _carries(self, partition: int) -> tuple[list[Array], list[Array | None]]:
        """The carry into a partition and its records' groups, for each column."""
        carries: Carries = self.runtime.tables[self._number]  # type: ignore[assignment]
        numbers = range(len(self._columns))
        return (
            [carries.carry(i, partition) for i in numbers],
            [carries.ids(i, partition) for i in numbers],
        )

    def _as_they_come(
        self, partition: int, blocks: Iterator[Block], worker: int
    ) -> Iterator[Block]:
        memory = self._memory.setdefault(worker, [OutputMemory() for _ in self._columns])
        running = list(zip(self._columns, *self._carries(partition), memory, strict=True))
        at = 0
        for block in blocks:
            stop = at + block.rows
            yield self._with(
                block,
                [
                    column.scan(block, None if ids is None else ids[at:stop], carry, own)
                    for column, carry, ids, own in running
                ],
            )
            at = stop

    def _from_the_end(self, partition: int, blocks: Iterator[Block]) -> Iterator[Block]:
        room = self.runtime.room(f"a partition of running aggregates {self._number}")
        carries, ids = self._carries(partition)
        held: list[Block] = []
        made: list[list[Vector]] = []
        try:
            for block in blocks:
                own = Block(block.rows, dict(block.columns), block.valid)
                held.append(room.block(own, self.resident))
            for column, carry, groups in zip(self._columns, carries, ids, strict=True):
                vectors: list[Vector] = [(None, None)] * len(held)
                made.append(vectors)
                for i, block, part in column.in_order(held, groups):
                    values, mask = column.scan(block, part, carry)
                    vectors[i] = room.column(values), mask
            for i, block in enumerate(held):
                yield self._with(block, [vectors[i] for vectors in made])
        finally:
            room.release(sum(own_bytes(block, self.resident) for block in held))
            room.drop(*(values for vectors in made for values, _ in vectors))

    def _with(self, block: Block, made: Sequence[Vector]) -> Block:
        columns, valid = dict(block.columns), dict(block.valid)
        for column, (values, mask) in zip(self._columns, made, strict=True):
            columns[column.name] = values
            if mask is not None:
                valid[column.name] = mask
        return Block(block.rows, columns, valid)

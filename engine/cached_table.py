"""A cached table: partitions held as far as the memory budget reaches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from scalops.engine.backends import TableInfo
from scalops.engine.blocks import Block, identities, reblock
from scalops.engine.kept_tables import KeptTable
from scalops.engine.kernels.kernel import Vector
from scalops.engine.memory import MemoryBudget
from scalops.engine.passes import in_partition
from scalops.engine.pipelines.base import Pipeline, Stored, contiguous, own_bytes
from scalops.engine.processes.shared_memory import SharedTable, is_shareable
from scalops.engine.threads import Task


class CachedTable(Stored):
    """Partitions held as far as the budget reaches; the rest is made again.

    Blocks have the same bounds and lie in memory alike, held or not.
    """

    def __init__(
        self, pipeline: Pipeline, budget: MemoryBudget, owner: str, kept: KeptTable | None
    ) -> None:
        self._pipeline, self._budget, self._owner = pipeline, budget, owner
        self.bytes = pipeline.source_bytes
        self._count = pipeline.partitions()
        self._held: dict[int, list[Block]] = {}
        self._sizes: dict[int, int] = {}
        self.shared: SharedTable | None = None
        if kept is not None and kept.count == self._count:
            self._held.update(kept.parts)  # the budget knows of them
            self.shared = kept.shared

    def partitions(self) -> int:
        return self._count

    def missing(self) -> list[int]:
        """Partitions that are not held from an earlier plan."""
        return [p for p in range(self._count) if p not in self._held]

    def hand_over(self, kept: KeptTable) -> None:
        """Let the session keep what is held."""
        kept.count, kept.source_bytes = self._count, self.bytes
        kept.parts = dict(self._held)
        kept.sizes.update(self._sizes)
        kept.shared = self.shared

    def share(self, run: Callable[[Task, int], None]) -> bool:
        """Move all records to memory that worker processes can map, if it can be done.

        Not if some are not held, are strings or lists, or if there is no room: what shows a
        user's arrays took none before.
        """
        if self.shared is not None:
            return True
        parts = [self._held.get(p, []) for p in range(self._count)]
        columns = (c for part in parts for b in part for c in b.columns.values())
        if len(self._held) < self._count or not all(map(is_shareable, columns)):
            return False
        sizes = [sum(b.bytes for b in part) for part in parts]
        more = sum(sizes) - sum(self._sizes.values())
        if not self._budget.reserve(more, self._owner):
            return False
        try:
            made = SharedTable(parts, self.bytes)
            run(lambda _, partition: made.move(partition), self._count)
        except OSError:  # where there is no such memory
            self._budget.release(self._owner, more)
            return False
        self.shared = made
        self._sizes.update(enumerate(sizes))
        return True

    def fill(self, worker: int, partition: int) -> None:
        """Hold a partition if the budget allows; where it does not, stop reading."""
        held: list[Block] = []
        taken = 0
        with in_partition(partition):
            for block in self._fresh(partition, worker):
                size = own_bytes(block, self._pipeline.resident)
                if not self._budget.reserve(size, self._owner):
                    self._budget.release(self._owner, taken)
                    return
                block.identity = (next(identities),)
                held.append(block)
                taken += size
        self._held[partition] = held
        self._sizes[partition] = taken

    def _fresh(self, partition: int, worker: int) -> Iterator[Block]:
        blocks = reblock(self._pipeline.blocks(partition, worker), self._pipeline.schema)
        return map(contiguous, blocks)

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        held = self._held.get(partition)
        return iter(held) if held is not None else self._fresh(partition, worker)

    def rows(self, partition: int) -> int | None:
        held = self._held.get(partition)
        return self._pipeline.rows(partition) if held is None else sum(b.rows for b in held)

    def held(self, partition: int) -> list[Block] | None:
        return self._held.get(partition)

    def stays(self) -> bool:
        return len(self._held) == self._count

    def whole(self, name: str) -> Vector | None:
        return self._pipeline.whole(name)  # as of a source in memory, whose arrays are held

    def info(self) -> TableInfo:
        """What is held."""
        rows = sum(b.rows for blocks in self._held.values() for b in blocks)
        size = sum(b.bytes for blocks in self._held.values() for b in blocks)
        return TableInfo(self._count, rows, size, len(self._held))

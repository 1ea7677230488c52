"""A job's table handed over block by block: what is ahead is computed meanwhile, and bounded.

Partitions are computed some at a time, by all threads, while those before are handed over in their
order. What the budget has no room for lies in a file until its turn comes. How many there are
at a time is neutral.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from scalops.engine.backends import Take
from scalops.engine.blocks import Block
from scalops.engine.memory import MemoryBudget
from scalops.engine.passes import in_partition
from scalops.engine.pipelines.base import Pipeline, Run, own_bytes
from scalops.engine.spill import Kept, SpilledBlocks

LEAST_AHEAD, MOST_AHEAD = 4, 64  # partitions
WINDOW_BYTES = 64 << 20  # that are ahead, about


class Results:
    """Blocks of a stage's partitions, held or spilled until they are handed over."""

    def __init__(self, pipeline: Pipeline, budget: MemoryBudget, owner: str) -> None:
        self._pipeline, self._budget, self._owner = pipeline, budget, owner
        self._blocks = SpilledBlocks(budget, owner, pipeline.schema)
        self._parts: dict[int, list[Kept]] = {}

    def compute(self, partition: int, worker: int) -> None:
        """Compute a partition; others may be at the same time."""
        names = {n: n for n in self._pipeline.schema.names}
        made: list[Kept] = []
        with in_partition(partition):
            for block in self._pipeline.blocks(partition, worker):
                block = block.chosen(names)
                made.append(self._blocks.add(block) if self._is_own(block) else block)
        self._parts[partition] = made

    def _is_own(self, block: Block) -> bool:
        """Whether it takes memory that is not taken anyway."""
        return own_bytes(block, self._pipeline.resident) > 0

    def has(self, partition: int) -> bool:
        """Whether a partition is here."""
        return partition in self._parts

    def sizes(self) -> dict[int, list[int]]:
        """Bytes of each partition's blocks."""
        return {
            p: [k.bytes if isinstance(k, Block) else k.size for k in part]
            for p, part in self._parts.items()
        }

    def blocks(self, partition: int, first: int = 0, last: int | None = None) -> Iterator[Block]:
        """A partition's blocks first..last-1, which stay."""
        return map(self._blocks.get, self._parts[partition][first:last])

    def drained(self, partition: int) -> Iterator[Block]:
        """A partition's blocks; none of them is left."""
        part = self._parts.pop(partition)
        part.reverse()
        while part:
            block = self._blocks.get(part[-1])
            self._release(part.pop())
            yield block

    def drop_before(self, first: int) -> None:
        """Give the partitions before one back."""
        for partition in [p for p in self._parts if p < first]:
            for kept in self._parts.pop(partition):
                self._release(kept)

    def _release(self, kept: Kept) -> None:
        if isinstance(kept, Block) and self._is_own(kept):
            self._budget.release(self._owner, kept.bytes)


def stream(
    pipeline: Pipeline,
    partitions: Sequence[int],
    run: Run,
    budget: MemoryBudget,
    owner: str,
    take: Take,
) -> None:
    """Hand a stage's blocks to `take`, partition by partition, in order; on one rank."""
    results = Results(pipeline, budget, owner)
    at, count = 0, LEAST_AHEAD
    ready: Sequence[int] = ()
    try:
        while ready or at < len(partitions):
            ahead = partitions[at : at + count]
            run(_handing_over(results, ready, ahead, take), 1 + len(ahead))
            at, ready = at + len(ahead), ahead
            size = sum(map(sum, results.sizes().values()))
            if size < WINDOW_BYTES // 4:
                count = min(2 * count, MOST_AHEAD)
            elif size > WINDOW_BYTES:
                count = max(count // 2, LEAST_AHEAD)
    finally:
        budget.release(owner)


def _handing_over(
    results: Results, ready: Sequence[int], ahead: Sequence[int], take: Take
) -> Callable[[int, int], None]:
    """The first task hands over what is ready; the others compute what is ahead."""

    def task(worker: int, index: int) -> None:
        if index:
            results.compute(ahead[index - 1], worker)
            return
        for partition in ready:
            take(results.drained(partition))

    return task

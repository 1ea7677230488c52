"""A cached table: partitions held as far as the memory budget reaches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter

from scalops.engine.backends import TableInfo
from scalops.engine.blocks import Block, identities, reblock
from scalops.engine.collective import ALONE, Program, Ranks
from scalops.engine.kept_tables import OWNER, KeptTable
from scalops.engine.kernels.kernel import Vector
from scalops.engine.memory import MemoryBudget
from scalops.engine.passes import in_partition
from scalops.engine.pipelines.base import Pipeline, Stored, contiguous, own_bytes
from scalops.engine.processes.shared_memory import SharedTable, is_shareable
from scalops.engine.threads import Task

Run = Callable[[Task, int], None]


def moved(
    parts: list[list[Block]],
    sizes: dict[int, int],
    source_bytes: int,
    budget: MemoryBudget,
    owner: str,
    run: Run,
) -> SharedTable | None:
    """Held partitions moved to memory that worker processes can map; `sizes` are kept up to date.

    None where it cannot be done: strings and lists stay, and what shows a user's arrays took no
    memory before and may find no room.
    """
    if not all(is_shareable(c) for part in parts for b in part for c in b.columns.values()):
        return None
    more = sum(b.bytes for part in parts for b in part) - sum(sizes.values())
    if not budget.reserve(more, owner):
        return None
    try:
        made = SharedTable(parts, source_bytes)
        run(lambda _, partition: made.move(partition), len(parts))
    except OSError:  # there is no such memory
        budget.release(owner, more)
        return None
    sizes.update({p: sum(b.bytes for b in part) for p, part in enumerate(parts)})
    return made


def moved_kept(table: KeptTable, budget: MemoryBudget, run: Run) -> SharedTable | None:
    """As `moved`, of a table that the session keeps, and goes on keeping there."""
    if table.shared is None and table.is_complete:
        parts = [table.parts[p] for p in range(len(table.parts))]
        table.shared = moved(parts, table.sizes, table.source_bytes, budget, OWNER, run)
    return table.shared


def made_again(pipeline: Pipeline, partition: int, worker: int) -> Iterator[Block]:
    """The blocks of a partition as a cached table holds them: the same bounds, the same layout."""
    return map(contiguous, reblock(pipeline.blocks(partition, worker), pipeline.schema))


class CachedTable(Stored):
    """Partitions held as far as the budget reaches; the rest is made again.

    Of a rank's own partitions only.

    Blocks have the same bounds and lie in memory alike, held or not.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        budget: MemoryBudget,
        owner: str,
        kept: KeptTable | None,
        ranks: Ranks = ALONE,
    ) -> None:
        self._pipeline, self._budget, self._owner = pipeline, budget, owner
        self.bytes = pipeline.source_bytes
        self._count = pipeline.partitions()
        self._own = list(range(self._count))
        if not ranks.is_alone:
            self.homes = [pipeline.home(p) for p in self._own]
            self._own = self.own(ranks)
        self.most: int | None = None  # bytes; None where only the budget says how many
        self._held: dict[int, list[Block]] = {}
        self._sizes: dict[int, int] = {}
        self._seconds: dict[int, float] = {}
        self.shared: SharedTable | None = None
        self.is_complete = False  # whether every rank holds all of its partitions
        if kept is not None and kept.count == self._count:
            self._held.update(kept.parts)  # the budget knows of them
            self.shared = kept.shared

    def partitions(self) -> int:
        return self._count

    def missing(self) -> list[int]:
        """Partitions that are not held from an earlier plan."""
        return [p for p in self._own if p not in self._held]

    @property
    def rows_held(self) -> dict[int, int]:
        """The records of each partition that is held."""
        return {p: sum(b.rows for b in blocks) for p, blocks in self._held.items()}

    def hand_over(self, kept: KeptTable) -> None:
        """Let the session keep what is held."""
        kept.count, kept.source_bytes = self._count, self.bytes
        kept.parts = dict(self._held)
        kept.sizes.update(self._sizes)
        kept.seconds.update(self._seconds)
        kept.shared = self.shared

    def share(self, run: Run) -> SharedTable | None:
        """Move all records to memory that worker processes can map, if all are held.

        None where it cannot be done.
        """
        if self.shared is None and len(self._held) == self._count:
            parts = [self._held[p] for p in range(self._count)]
            self.shared = moved(parts, self._sizes, self.bytes, self._budget, self._owner, run)
        return self.shared

    def fill(self, worker: int, partition: int) -> None:
        """Hold a partition if the budget allows; where it does not, stop reading."""
        held: list[Block] = []
        taken, begin = 0, perf_counter()
        with in_partition(partition):
            for block in self._fresh(partition, worker):
                size = own_bytes(block, self._pipeline.resident)
                if not self._may_hold(taken + size) or not self._budget.reserve(size, self._owner):
                    self._budget.release(self._owner, taken)
                    return
                block.identity = (next(identities),)
                held.append(block)
                taken += size
        self._held[partition] = held
        self._sizes[partition] = taken
        self._seconds[partition] = perf_counter() - begin

    def _may_hold(self, more: int) -> bool:
        """Whether so many bytes more are within its share of the memory."""
        return self.most is None or sum(list(self._sizes.values())) + more <= self.most

    def keep_within(self, most: int | None) -> None:
        """From now on hold at most so many bytes: the last partitions go first."""
        self.most = most
        if self.shared is not None:
            return  # workers map it in one piece
        self.is_complete = False
        while self._sizes and not self._may_hold(0):
            partition = max(self._sizes)
            del self._held[partition]
            self._budget.release(self._owner, self._sizes.pop(partition))

    def _fresh(self, partition: int, worker: int) -> Iterator[Block]:
        return made_again(self._pipeline, partition, worker)

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        held = self._held.get(partition)
        return iter(held) if held is not None else self._fresh(partition, worker)

    def prepare(self, partitions: Sequence[int], run: Run) -> Program[None]:
        if not self.is_complete:  # else nothing is made again
            again = [p for p in partitions if p not in self._held]
            yield from self._pipeline.prepare(again, run)

    def rows(self, partition: int) -> int | None:
        held = self._held.get(partition)
        return self._pipeline.rows(partition) if held is None else sum(b.rows for b in held)

    def held(self, partition: int) -> list[Block] | None:
        return self._held.get(partition)

    def stays(self) -> bool:
        return len(self._held) >= len(self._own)

    def whole(self, name: str) -> Vector | None:
        return self._pipeline.whole(name)  # as of a source in memory, whose arrays are held

    def info(self) -> TableInfo:
        """What is held."""
        rows = sum(b.rows for blocks in self._held.values() for b in blocks)
        size = sum(b.bytes for blocks in self._held.values() for b in blocks)
        return TableInfo(self._count, rows, size, len(self._held))

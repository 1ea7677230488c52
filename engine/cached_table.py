"""A cached table: partitions held as far as the memory budget reaches.

The rest is made again whenever it is read, or lies in a file: whatever is cheaper. That is a
neutral decision: blocks are the same, wherever they come from.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from time import perf_counter

from scalops.engine.backends import TableInfo
from scalops.engine.blocks import Block, identities, reblock
from scalops.engine.cache_file import CacheFile, Filed
from scalops.engine.collective import ALONE, Program, Ranks
from scalops.engine.kept_tables import OWNER, KeptTable
from scalops.engine.kernels.kernel import Vector
from scalops.engine.memory import MemoryBudget
from scalops.engine.neutral import NEUTRAL, Neutral
from scalops.engine.passes import in_partition
from scalops.engine.pipelines.base import Pipeline, Stored, contiguous, own_bytes
from scalops.engine.processes.shared_memory import SharedTable, is_shareable
from scalops.engine.spill_folder import SpillError
from scalops.engine.threads import Task

Run = Callable[[Task, int], None]

# What held partitions leave of the budget to kernels' buffers: passes are slower without them.
LEFT_SHARE, LEFT_MOST = 1 / 16, 64 << 20


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
    if table.shared is None and table.is_held:
        parts = [table.parts[p] for p in range(len(table.parts))]
        table.shared = moved(parts, table.sizes, table.source_bytes, budget, OWNER, run)
    return table.shared


def made_again(pipeline: Pipeline, partition: int, worker: int) -> Iterator[Block]:
    """The blocks of a partition as a cached table holds them: the same bounds, the same layout."""
    return map(contiguous, reblock(pipeline.blocks(partition, worker), pipeline.schema))


class CachedTable(Stored):
    """Partitions held as far as the budget reaches; the rest is made again, or lies in a file.

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
        neutral: Neutral = NEUTRAL,
        number: int = -1,
    ) -> None:
        """`neutral` tells how much of table `number` is held, and whether there is a file."""
        self._pipeline, self._budget, self._owner = pipeline, budget, owner
        self.bytes = pipeline.source_bytes
        self._count = pipeline.partitions()
        self._own = list(range(self._count))
        if not ranks.is_alone:
            self.homes = [pipeline.home(p) for p in self._own]
            self._own = self.own(ranks)
        self.most = neutral.held.get(number)  # bytes; None where only the budget says how many
        self._file: CacheFile | None = None
        # What a user wants to be kept is read more often than this plan tells.
        if number in neutral.filed or (kept is not None and ranks.is_alone):
            self._file = CacheFile(pipeline.schema, budget.folder)
        self._left = min(int(LEFT_SHARE * (budget.limit or 0)), LEFT_MOST)
        self._held: dict[int, list[Block]] = {}
        self._filed: dict[int, Filed] = {}
        self._sizes: dict[int, int] = {}
        self._seconds: dict[int, float] = {}
        self.shared: SharedTable | None = None
        self.is_complete = False  # whether no rank has to make any of its partitions again
        if kept is not None and kept.count == self._count:
            self._held.update(kept.parts)  # the budget knows of them
            self._filed.update(kept.filed)
            self.shared = kept.shared

    def partitions(self) -> int:
        return self._count

    def missing(self) -> list[int]:
        """Partitions that are not held, from an earlier plan or the last filling."""
        return [p for p in self._own if p not in self._held]

    def is_made(self, partition: int) -> bool:
        """Whether a partition needs not be made again: it is held, or lies in a file."""
        return partition in self._held or partition in self._filed

    def all_made(self) -> bool:
        """Whether none of the rank's partitions has to be made again."""
        return all(map(self.is_made, self._own))

    @property
    def file_bytes(self) -> int:
        """Bytes that are read from files whenever the whole table is."""
        filed = dict(self._filed)
        return sum(own.bytes for p, own in filed.items() if p not in self._held)

    @property
    def rows_held(self) -> dict[int, int]:
        """The records of each partition that is held."""
        return {p: sum(b.rows for b in blocks) for p, blocks in self._held.items()}

    def hand_over(self, kept: KeptTable) -> None:
        """Let the session keep what is held."""
        kept.count, kept.source_bytes = self._count, self.bytes
        kept.parts, kept.filed = dict(self._held), dict(self._filed)
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
        """Hold a partition if the budget allows; where it does not, write it to the file if there
        is one, or stop reading."""
        held: list[Block] = []
        taken, begin = 0, perf_counter()
        with in_partition(partition):
            blocks = self._made(partition, worker)
            for block in blocks:
                size = own_bytes(block, self._pipeline.resident)
                if size and not self._reserved(taken, size):
                    self._budget.release(self._owner, taken)
                    self._write(partition, chain(held, [block], blocks))
                    return
                block.identity = (next(identities),)
                held.append(block)
                taken += size
        self._held[partition] = held
        self._sizes[partition] = taken
        self._seconds[partition] = perf_counter() - begin

    def _reserved(self, taken: int, size: int) -> bool:
        """Take room for `size` more of a partition of which `taken` bytes are held already."""
        return self._may_hold(taken + size) and self._budget.reserve(size, self._owner, self._left)

    def _write(self, partition: int, blocks: Iterable[Block]) -> None:
        """Put a partition into the file; where the disk is full, it will be made again."""
        file = self._file
        if file is None or partition in self._filed:
            return
        try:
            self._filed[partition] = filed = file.write(blocks)
        except SpillError as error:
            self._file = None  # what it has already is read on
            so_what = f"a cached table is made again in each iteration: {error}"
            warnings.warn(so_what, RuntimeWarning, stacklevel=2)
            return
        self._budget.count_spilled(filed.bytes, self._owner)

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
            self._write(partition, self._held[partition])
            del self._held[partition]
            self._budget.release(self._owner, self._sizes.pop(partition))

    def _made(self, partition: int, worker: int) -> Iterator[Block]:
        """The blocks of a partition that is not held."""
        filed = self._filed.get(partition)
        if filed is None:
            return made_again(self._pipeline, partition, worker)
        return filed.blocks()

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        held = self._held.get(partition)
        return iter(held) if held is not None else self._made(partition, worker)

    def prepare(self, partitions: Sequence[int], run: Run) -> Program[None]:
        if not self.is_complete:  # else nothing is made again
            again = [p for p in partitions if not self.is_made(p)]
            yield from self._pipeline.prepare(again, run)

    def rows(self, partition: int) -> int | None:
        held, filed = self._held.get(partition), self._filed.get(partition)
        if held is not None:
            return sum(b.rows for b in held)
        return self._pipeline.rows(partition) if filed is None else filed.rows

    def held(self, partition: int) -> list[Block] | None:
        return self._held.get(partition)

    def is_filed(self, partition: int) -> bool:
        return partition in self._filed and partition not in self._held

    def stays(self) -> bool:
        return len(self._held) >= len(self._own)

    def turns(self) -> bool:
        if self.stays():
            return False
        return self.all_made() or self._pipeline.turns()

    def whole(self, name: str) -> Vector | None:
        return self._pipeline.whole(name)  # as of a source in memory, whose arrays are held

    def info(self) -> TableInfo:
        """What is held."""
        rows = sum(b.rows for blocks in self._held.values() for b in blocks)
        size = sum(b.bytes for blocks in self._held.values() for b in blocks)
        return TableInfo(self._count, rows, size, len(self._held))

"""Tables that a session keeps from one plan to the next: what the user asked for by `cache()`."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from scalops.algebra.operators import Cache
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Block, concatenate
from scalops.engine.storage.partitions import Partition

if TYPE_CHECKING:
    from scalops.engine.cache_file import Filed
    from scalops.engine.physical_plan import PhysicalTable
    from scalops.engine.processes.shared_memory import SharedTable

OWNER = "kept tables"


class TablesGone(Exception):
    """Ranks lack partitions of kept tables: the job is to be planned again, without them."""

    def __init__(self, keys: Collection[str]) -> None:
        super().__init__(*sorted(keys))
        self.keys = frozenset(keys)


@dataclass
class KeptTable:
    """Partitions as a plan has held them; `sizes` are the bytes of those that are here.

    `source_bytes` and `count` are those of the table they were computed from, so that plans over
    them add up in the same order. `seconds` are what partitions took to compute. Where the
    blocks lie at the ranks of a cluster, `away` is how many records each partition has, and
    `origin` what they are made of, where a rank can make any of them again by itself.
    """

    key: str
    schema: Schema
    count: int | None = None
    source_bytes: int = 0
    parts: dict[int, list[Block]] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    away: tuple[int, ...] | None = None
    origin: PhysicalTable | None = None
    shared: SharedTable | None = None  # where they lie, if worker processes map them
    filed: dict[int, Filed] = field(default_factory=dict)  # partitions that lie in files

    @property
    def is_complete(self) -> bool:
        """Whether nothing of the table would have to be computed again."""
        return self.count == len(self.parts.keys() | self.filed if self.away is None else self.away)

    @property
    def is_held(self) -> bool:
        """Whether all of it is in memory here."""
        return self.count == len(self.parts)

    def blocks(self, partition: int) -> Iterable[Block]:
        """A partition, from memory or its file."""
        held = self.parts.get(partition)
        return self.filed[partition].blocks() if held is None else held

    def rows(self, partition: int) -> int:
        """Its records."""
        held = self.parts.get(partition)
        return self.filed[partition].rows if held is None else sum(b.rows for b in held)

    @property
    def bytes(self) -> int:
        """Bytes that are held because of it."""
        return sum(self.sizes.values())

    def clear(self) -> None:
        """Give everything back."""
        self.count = self.away = self.origin = self.shared = None
        self.parts, self.sizes, self.seconds, self.filed = {}, {}, {}, {}

    def lie_away(
        self, rows: Sequence[int], source_bytes: int, origin: PhysicalTable | None = None
    ) -> None:
        """Note that the ranks hold all partitions, of so many records each.

        Plans over the table are then those over one that is held here: the same rows, bytes and
        partitions, so the same numeric decisions.
        """
        self.clear()
        self.away, self.count, self.source_bytes = tuple(rows), len(rows), source_bytes
        self.origin = origin


class KeptTables:
    """A session's kept tables, as long as somebody can ask for them."""

    def __init__(self) -> None:
        self._tables: WeakKeyDictionary[Cache, KeptTable] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def of(self, node: Cache) -> KeptTable:
        """What is kept of a table; nothing yet, for a new one."""
        return self._tables.setdefault(node, KeptTable(node.key, node.schema))

    def forget(self, node: Cache) -> None:
        """Drop a table's records."""
        table = self._tables.pop(node, None)
        if table is not None:
            table.clear()

    def clear(self) -> None:
        """Drop everything."""
        self._tables.clear()

    def gone(self, keys: Collection[str]) -> None:
        """The ranks of a cluster do not have these tables any more."""
        for table in list(self._tables.values()):
            if table.key in keys and table.away is not None:
                table.clear()

    @property
    def bytes(self) -> int:
        """Bytes of all tables."""
        return sum(t.bytes for t in list(self._tables.values()))

    def spare(self, size: int, used: Collection[str]) -> int:
        """Drop tables that the present plan does not read until `size` bytes are free.

        Returns the bytes that were freed.
        """
        freed = 0
        with self._lock:
            for table in list(self._tables.values()):
                if freed >= size:
                    break
                if table.key not in used:
                    freed += table.bytes
                    table.clear()
        return freed


class KeptSource:
    """A kept table as a source: its partitions and blocks are those that were computed.

    One that `is_away` is read at the ranks alone: here it says what it is, and has no blocks.
    """

    title = "kept table"
    in_memory = True
    may_hold_null = True

    def __init__(self, table: KeptTable) -> None:
        self.schema, self.stamp = table.schema, table.key
        self.table = table
        self.bytes, self.is_away = table.source_bytes, table.away is not None
        self.origin = table.origin
        self._rows = table.away or [table.rows(p) for p in range(table.count or 0)]
        self.rows = sum(self._rows)

    def __repr__(self) -> str:
        return f"KeptSource({self.stamp})"

    @property
    def likely_rows(self) -> float:
        """The number of records."""
        return float(self.rows)

    @property
    def any_order(self) -> bool:
        """Whether some blocks are on disk: they are read in any order at the same cost."""
        return not self.is_away and not self.table.is_held

    @property
    def stays(self) -> bool:
        """Whether all blocks are in memory, so that to go on reading one costs none."""
        return self.table.is_held

    def partitions(self) -> list[Partition]:
        """Ranges of rows, as they were computed."""
        made, at = [], 0
        for i, rows in enumerate(self._rows):
            made.append(Partition(i, at, at + rows, rows=rows))
            at += rows
        return made

    def read(self, partition: Partition, columns: tuple[str, ...]) -> Iterator[Block]:
        """The blocks themselves, with these columns."""
        for block in self.table.blocks(partition.index):
            yield block.only(columns)

    def head(self, rows: int, columns: tuple[str, ...]) -> Block:
        """The first records."""
        found: list[Block] = []
        for part in self.partitions():
            for block in self.read(part, columns):
                found.append(block.slice(0, min(rows, block.rows)))
                rows -= found[-1].rows
                if rows == 0:
                    break
        kept = Schema(tuple((n, self.schema[n]) for n in columns))
        return concatenate(found, kept)

    def check_unchanged(self) -> None:
        """It never changes."""

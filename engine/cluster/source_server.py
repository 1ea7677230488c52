"""The driver's side of its tables: what plans are told of them, and partitions on demand."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from scalops.algebra.errors import ExecutionError
from scalops.algebra.tree import find
from scalops.engine import physical_plan as pp
from scalops.engine.block_codec import encode_block
from scalops.engine.blocks import Block
from scalops.engine.cluster.remote_source import TableFacts
from scalops.engine.cluster.shared_tables import Placement, SharedTables
from scalops.engine.collective import Piece
from scalops.engine.columns import Array
from scalops.engine.storage.file_source import FileSource
from scalops.engine.storage.memory_source import MemorySource

PIECE_BYTES = 4 << 20  # of blocks in one message, but for a single larger one
_MOST_LEFT = 256


@dataclass(frozen=True, eq=False)
class PlanTable:
    """A source that no files hold, and what the ranks are told of it."""

    source: Any
    facts: TableFacts


def plan_tables(plan: pp.PhysicalPlan) -> tuple[PlanTable, ...]:
    """The tables of a plan that are not read from files, numbered in their order.

    Those too from which partitions of kept tables are made again.
    """
    read: dict[int, tuple[Any, set[str]]] = {}
    open_to = [plan.stages]
    while open_to:
        for scan in find(open_to.pop(), pp.TableScan):
            origin = getattr(scan.source, "origin", None)
            if origin is not None and id(scan.source) not in read:
                open_to.append((origin,))
            if not isinstance(scan.source, FileSource):
                read.setdefault(id(scan.source), (scan.source, set()))[1].update(scan.columns)
    return tuple(
        PlanTable(source, _facts(i, source, columns))
        for i, (source, columns) in enumerate(read.values())
    )


def _facts(number: int, source: Any, columns: set[str]) -> TableFacts:
    names = tuple(n for n in source.schema.names if n in columns)
    lies_whole = source.whole if isinstance(source, MemorySource) else lambda name: None
    return TableFacts(
        number=number,
        text=repr(source),
        title=source.title,
        stamp=source.stamp,
        schema=source.schema,
        bytes=source.bytes,
        rows=source.rows,
        likely_rows=source.likely_rows,
        in_memory=source.in_memory,
        may_hold_null=source.may_hold_null,
        parts=tuple(source.partitions()),
        columns=names,
        wholes=frozenset(n for n in names if lies_whole(n) is not None),
        away=getattr(source, "is_away", False),
        remade=getattr(source, "origin", None) is not None,
    )


class SourceServer:
    """Gives the ranks of one job the records of the driver's tables. One thread uses it."""

    def __init__(self, tables: Sequence[PlanTable], shared: SharedTables) -> None:
        """`shared` are the session's tables in shared memory, which outlive the job."""
        self._tables, self._shared = tuple(tables), shared
        # What is left of partitions that are sent piece by piece, by where that begins.
        self._left: OrderedDict[tuple[int, int, int], Iterator[Block]] = OrderedDict()

    def place(self) -> dict[int, Placement]:
        """Where workers of this machine map the tables; of those that are not there nothing.

        Such a table is sent, like to other machines: there is no memory for a copy of it.
        """
        placed = {}
        for table in self._tables:
            if not table.facts.away:
                try:
                    placed[table.facts.number] = self._shared.place(
                        table.source, table.facts.columns
                    )
                except OSError:
                    continue
        return placed

    def answer(self, source: int, partition: int, first: int = 0) -> Piece:
        """Blocks of a partition from number `first` on, as many as make PIECE_BYTES.

        The header is [first, the blocks, whether they are the last].

        Raises: ExecutionError for a table or partition that there is not.
        """
        known = {t.facts.number: t for t in self._tables if not t.facts.away}
        table = known.get(source)
        if table is None or not 0 <= partition < len(table.facts.parts):
            raise ExecutionError(f"no partition {partition} of a table {source}")
        blocks = self._left.pop((source, partition, first), None)
        if blocks is None:
            facts = table.facts
            blocks = islice(table.source.read(facts.parts[partition], facts.columns), first, None)
        chosen, left = _cut(blocks)
        if left is not None:
            self._left[source, partition, first + len(chosen)] = left
            if len(self._left) > _MOST_LEFT:
                self._left.popitem(last=False)
        buffers: list[Array] = []
        return Piece([first, [encode_block(b, buffers) for b in chosen], left is None], buffers)


def _cut(blocks: Iterator[Block]) -> tuple[list[Block], Iterator[Block] | None]:
    """The blocks that go together, at least one, and what is left; None for nothing."""
    chosen: list[Block] = []
    size = 0
    for block in blocks:
        size += block.bytes
        if chosen and size > PIECE_BYTES:
            return chosen, chain([block], blocks)
        chosen.append(block)
    return chosen, None

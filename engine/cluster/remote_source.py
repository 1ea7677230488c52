"""Tables of the driver's as the ranks see them: what they are, and where their blocks come from.

What a plan was made of, rows, bytes, partitions, is told with it, so that every rank decides as
the driver would. The records are mapped where the driver shares this machine's memory, come over
the network where it does not, or lie at the ranks since an earlier job.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import Any, Protocol

from scalops.algebra.errors import ExecutionError
from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine.block_codec import decode_block
from scalops.engine.blocks import Block
from scalops.engine.cached_table import made_again
from scalops.engine.cluster.rank_caches import RankCaches
from scalops.engine.cluster.shared_tables import Placement
from scalops.engine.collective import Piece, Ranks
from scalops.engine.columns import Array, ColumnData
from scalops.engine.memory import MemoryBudget
from scalops.engine.pipelines.base import Pipeline, Runtime
from scalops.engine.storage.memory_source import MemorySource
from scalops.engine.storage.partitions import Partition


@dataclass(frozen=True)
class TableFacts:
    """What is known of a table of the driver's; `columns` are those that a plan reads.

    `text` is the source's own, which tells it from others. `wholes` are the columns that lie in
    one piece in the driver's memory. One that is `away` is held by the ranks, under `stamp`; if it
    is `remade`, a rank that lacks a partition computes it again.
    """

    number: int
    text: str
    title: str
    stamp: str
    schema: Schema
    bytes: int
    rows: int | None
    likely_rows: float
    in_memory: bool
    may_hold_null: bool
    parts: tuple[Partition, ...]
    columns: tuple[str, ...]
    wholes: frozenset[str] = frozenset()
    away: bool = False
    remade: bool = False

    @property
    def key(self) -> str:
        """Under which ranks keep what they have got of it."""
        return self.stamp if self.away else f"{self.text} {', '.join(self.columns)}"


class Records(Protocol):
    """Where the records of one table come from. Several threads read at once."""

    @property
    def columns(self) -> Mapping[str, Any]:
        """Whole columns whose memory is there anyway; views of them count for nothing."""
        ...

    def read(self, partition: Partition, columns: tuple[str, ...]) -> Iterator[Block]:
        """The blocks of a partition, with these columns."""
        ...

    def whole(self, name: str) -> tuple[ColumnData, Array | None] | None:
        """A column in one piece; None where it does not lie so."""
        ...


class RemoteSource:
    """Stands at the ranks for a source of the driver's: the same blocks, of the same bounds."""

    def __init__(self, facts: TableFacts, records: Records) -> None:
        self.facts, self._records = facts, records
        self.title, self.stamp, self.schema = facts.title, facts.stamp, facts.schema
        self.bytes, self.rows, self.likely_rows = facts.bytes, facts.rows, facts.likely_rows
        self.in_memory, self.may_hold_null = facts.in_memory, facts.may_hold_null

    def __repr__(self) -> str:
        return self.facts.text

    @property
    def columns(self) -> Mapping[str, Any]:
        """As of `Records`."""
        return self._records.columns

    @property
    def may_wait(self) -> bool:
        """Whether to read may be to wait for the driver."""
        return isinstance(self._records, Fetched)

    def partitions(self) -> list[Partition]:
        """Those of the source that it stands for."""
        return list(self.facts.parts)

    def read(self, partition: Partition, columns: tuple[str, ...]) -> Iterator[Block]:
        """Blocks as that source gives them.

        Raises: ExecutionError where they cannot be had any more.
        """
        return self._records.read(partition, columns)

    def whole(self, name: str) -> tuple[ColumnData, Array | None] | None:
        """A column in one piece, if it lies so here and there."""
        return self._records.whole(name) if name in self.facts.wholes else None


# Where records come from.


class MappedColumns:
    """Whole columns in memory that the driver shares, cut as it would cut them itself."""

    def __init__(self, facts: TableFacts, placement: Placement) -> None:
        """Raises: OSError where the memory cannot be mapped."""
        memory = placement.mapped()
        assert placement.columns is not None
        assert facts.rows is not None
        self.columns = {n: p.shown(memory) for n, p in placement.columns.items()}
        self._source = MemorySource(facts.schema, facts.title, facts.rows, self.columns, {}, 0)

    def read(self, partition: Partition, columns: tuple[str, ...]) -> Iterator[Block]:
        return self._source.read(partition, columns)

    def whole(self, name: str) -> tuple[ColumnData, Array | None] | None:
        return self._source.whole(name)


class _InBlocks:
    """Records that come block by block."""

    columns: Mapping[str, Any] = {}

    def whole(self, name: str) -> tuple[ColumnData, Array | None] | None:
        return None


class MappedBlocks(_InBlocks):
    """Blocks in memory that the driver shares."""

    def __init__(self, placement: Placement) -> None:
        """Raises: OSError where the memory cannot be mapped."""
        self._memory, self._partitions = placement.mapped(), placement.partitions

    def read(self, partition: Partition, columns: tuple[str, ...]) -> Iterator[Block]:
        for place in self._partitions[partition.index]:
            yield _chosen(place.shown(self._memory), columns)


class KeptHere(_InBlocks):
    """Partitions that this rank has computed in an earlier job, and kept.

    What it lacks it makes again of `origin`, if that is known.
    """

    def __init__(self, facts: TableFacts, caches: RankCaches) -> None:
        self._facts, self._caches = facts, caches
        self.origin: pp.PhysicalTable | None = None
        self._lock = threading.Lock()

    def read(self, partition: Partition, columns: tuple[str, ...]) -> Iterator[Block]:
        blocks = self._caches.find(self._facts.key, partition.index)
        if blocks is None and self.origin is not None:
            with self._lock:  # the pipeline serves one thread
                blocks = list(made_again(self._pipeline, partition.index, 0))
        if blocks is None:
            raise ExecutionError(
                f"partition {partition.index} of a kept table is not at its rank any more",
                hint="collect again: it is then computed anew",
            )
        return (_chosen(block, columns) for block in blocks)

    @cached_property
    def _pipeline(self) -> Pipeline:
        from scalops.engine.pipelines.compiled import build  # which knows all tables

        assert self.origin is not None
        nothing = pp.PhysicalPlan((), (), (), (), (), "")
        return build(self.origin, Runtime(nothing, MemoryBudget()))


def tables_gone(tables: Iterable[TableFacts], caches: RankCaches, ranks: Ranks) -> tuple[str, ...]:
    """Keys of kept tables of which this rank lacks partitions, and cannot make them again.

    The driver then forgets that they are kept, and makes the plan anew.
    """
    return tuple(
        facts.key
        for facts in tables
        if facts.away
        and not facts.remade
        and not caches.has(facts.key, range(*ranks.range_of(ranks.own, len(facts.parts))))
    )


class Fetched(_InBlocks):
    """Partitions that the driver sends when they are asked for, and that stay if there is room."""

    def __init__(self, facts: TableFacts, store: PartitionStore, caches: RankCaches) -> None:
        self._facts, self._store, self._caches = facts, store, caches

    def read(self, partition: Partition, columns: tuple[str, ...]) -> Iterator[Block]:
        facts, number = self._facts, partition.index
        blocks = self._caches.find(facts.key, number)
        if blocks is None:
            begin = perf_counter()
            blocks = self._decoded(self._store.get(facts.number, number), number)
            seconds = perf_counter() - begin
            self._caches.keep(facts.key, self._schema, number, blocks, seconds)
        return (_chosen(block, columns) for block in blocks)

    @cached_property
    def _schema(self) -> Schema:
        return Schema(tuple((n, self._facts.schema[n]) for n in self._facts.columns))

    def _decoded(self, piece: Piece, number: int) -> list[Block]:
        blocks = [decode_block(item, piece.buffers, self._schema) for item in piece.header]
        expected = self._facts.parts[number].rows
        if expected not in (None, sum(b.rows for b in blocks)):
            raise ExecutionError(
                f"partition {number} of {self._facts.title} arrived with"
                f" {sum(b.rows for b in blocks)} records; expected {expected}"
            )
        return blocks


def _chosen(block: Block, columns: Sequence[str]) -> Block:
    """The block with these columns alone."""
    return Block(
        block.rows,
        {n: block.columns[n] for n in columns},
        {n: v for n, v in block.valid.items() if n in columns},
    )


# Asking the driver.


class PartitionStore:
    """Partitions on their way from the driver to the compute threads of a rank.

    `ask(source, partitions)` is called by compute threads and has a Wanted sent; the thread of the
    loop calls `arrived` and `fail`.
    """

    def __init__(self, ask: Callable[[int, tuple[int, ...]], None]) -> None:
        self._ask = ask
        self._changed = threading.Condition()
        self._found: dict[tuple[int, int], Piece] = {}
        self._asked: dict[tuple[int, int], int] = {}  # how many threads wait for it
        self._error: BaseException | None = None

    def get(self, source: int, partition: int) -> Piece:
        """The blocks of a partition, as `SourceServer` gives them; waits for them.

        Raises: what `fail` was told.
        """
        wanted = source, partition
        with self._changed:
            waiting = self._asked.get(wanted, 0)
            self._asked[wanted] = waiting + 1
            if not waiting and self._error is None:
                self._ask(source, (partition,))
            self._changed.wait_for(lambda: wanted in self._found or self._error is not None)
            self._asked[wanted] -= 1
            if not self._asked[wanted]:
                del self._asked[wanted]
            if self._error is not None:
                raise self._error
            return self._found[wanted] if wanted in self._asked else self._found.pop(wanted)

    def arrived(self, source: int, partitions: Sequence[int], piece: Piece) -> None:
        """The driver has sent partitions: `piece.header` has the blocks of each.

        What nobody waits for is dropped.
        """
        with self._changed:
            for number, blocks in zip(partitions, piece.header, strict=True):
                if (source, number) in self._asked:
                    self._found[source, number] = Piece(blocks, piece.buffers)
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Nothing comes any more: the job is cancelled, or the driver is gone."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

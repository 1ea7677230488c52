"""Tables of the driver's as the ranks see them: what they are, and where their blocks come from.

What a plan was made of, rows, bytes, partitions, is told with it, so that every rank decides as
the driver would. The records are mapped where the driver shares this machine's memory, come over
the network where it does not, or lie at the ranks since an earlier job.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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

AHEAD_BYTES = 16 << 20  # of a table's partitions that are asked for before they are read
_MOST_AHEAD = 64


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
            yield place.shown(self._memory).only(columns)


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
        return (block.only(columns) for block in blocks)

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

    def __init__(
        self, facts: TableFacts, store: PartitionStore, caches: RankCaches, ranks: Ranks
    ) -> None:
        self._facts, self._store, self._caches = facts, store, caches
        self._own = range(*ranks.range_of(ranks.own, len(facts.parts)))
        width = sum(facts.schema[n].bytes for n in facts.columns)
        size = facts.bytes * width / max(1, facts.schema.bytes_per_row)
        self._ahead = min(_MOST_AHEAD, int(AHEAD_BYTES * len(facts.parts) / max(1, size)))

    def read(self, partition: Partition, columns: tuple[str, ...]) -> Iterator[Block]:
        facts, number = self._facts, partition.index
        blocks = self._caches.find(facts.key, number)
        if blocks is None:
            begin = perf_counter()
            pieces = self._store.get(facts.number, number, self._next(number))
            blocks = self._decoded(pieces, number)
            seconds = perf_counter() - begin
            self._caches.keep(facts.key, self._schema, number, blocks, seconds)
        return (block.only(columns) for block in blocks)

    def _next(self, number: int) -> list[int]:
        """The partitions that this rank reads behind this one, unless they are here."""
        behind = [p for p in self._own if number < p <= number + self._ahead]
        return [p for p in behind if self._caches.find(self._facts.key, p) is None]

    @cached_property
    def _schema(self) -> Schema:
        return Schema(tuple((n, self._facts.schema[n]) for n in self._facts.columns))

    def _decoded(self, pieces: Sequence[Piece], number: int) -> list[Block]:
        blocks = [
            decode_block(item, piece.buffers, self._schema)
            for piece in pieces
            for item in piece.header
        ]
        expected = self._facts.parts[number].rows
        if expected not in (None, sum(b.rows for b in blocks)):
            raise ExecutionError(
                f"partition {number} of {self._facts.title} arrived with"
                f" {sum(b.rows for b in blocks)} records; expected {expected}"
            )
        return blocks


# Asking the driver.


@dataclass
class _Coming:
    """A partition on its way: the pieces that are there, in order."""

    readers: int = 0  # threads that wait for it
    pieces: list[Piece] = field(default_factory=list)
    blocks: int = 0  # in the pieces
    is_whole: bool = False


class PartitionStore:
    """Partitions on their way from the driver to the compute threads of a rank.

    `ask(source, partitions, first)` has a Wanted sent; any thread calls it. The thread of the loop
    calls `arrived` and `fail`.
    """

    def __init__(self, ask: Callable[[int, tuple[int, ...], int], None]) -> None:
        self._ask = ask
        self._changed = threading.Condition()
        self._coming: dict[tuple[int, int], _Coming] = {}
        self._error: BaseException | None = None

    def get(self, source: int, partition: int, ahead: Sequence[int] = ()) -> list[Piece]:
        """The blocks of a partition, as `SourceServer` gives them; waits for them.

        Those `ahead` are asked for too, since they will be read next. Raises: what `fail` was told.
        """
        wanted = source, partition
        with self._changed:
            if wanted not in self._coming:
                self._drop_unread(source, ahead)
            more = [p for p in (partition, *ahead) if (source, p) not in self._coming]
            self._coming.update({(source, p): _Coming() for p in more})
            coming = self._coming[wanted]
            coming.readers += 1
            if more and self._error is None:
                self._ask(source, tuple(more), 0)
            self._wait_until(lambda: coming.is_whole or self._error is not None)
            coming.readers -= 1
            if self._error is not None:
                raise self._error
            if not coming.readers:
                self._coming.pop(wanted, None)
            return coming.pieces

    def _wait_until(self, ready: Callable[[], bool]) -> None:
        self._changed.wait_for(ready)

    def _drop_unread(self, source: int, ahead: Sequence[int]) -> None:
        """Reading goes on elsewhere than was expected."""
        for key, coming in list(self._coming.items()):
            if key[0] == source and not coming.readers and key[1] not in ahead:
                del self._coming[key]

    def arrived(self, source: int, partition: int, piece: Piece) -> None:
        """The driver has sent blocks: `piece.header` is as of `SourceServer.answer`.

        What nobody expects is dropped.
        """
        first, blocks, is_last = piece.header
        with self._changed:
            coming = self._coming.get((source, partition))
            if coming is None or coming.is_whole or first != coming.blocks:
                return
            coming.pieces.append(Piece(blocks, piece.buffers))
            coming.blocks += len(blocks)
            coming.is_whole = is_last
            if not is_last:
                self._ask(source, (partition,), coming.blocks)
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Nothing comes any more: the job is cancelled, or the driver is gone."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def go_on(self) -> None:
        """After `fail`, when nobody waits any more: ask anew."""
        with self._changed:
            self._error = None
            self._coming.clear()

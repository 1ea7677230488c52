"""The held side of a join, by hash of the keys: each rank holds the records of its own keys.

So a side that is too long to be sent to all ranks is held once. Who probes it asks the owner of
each key (`pipelines/answers.py`). Records of equal keys have one owner, which holds them in table
order, so that matches come in the order in which one rank would find them.

A rank whose own records do not fit into memory holds them in several *parts*, by hash as well, and
searches one part after the other: what is looked up in one lies together, so that each is read from
disk once and not for every record (the Grace hash join: Kitsuregawa, Tanaka and Moto-oka, 1983).
That is done in one process too, where keys are asked of no other rank.

That a side is partitioned is a neutral decision. All ranks make it alike, from what they have told
each other: how many bytes each would send, and how many parts it would take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from scalops.algebra.expressions import Opaque
from scalops.algebra.functions.hashing import hash_numbers
from scalops.algebra.schema import Schema
from scalops.algebra.tree import find
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.block_codec import blocks_of_piece, piece_of_blocks
from scalops.engine.blocks import Array, Block
from scalops.engine.collective import Piece, Program, Ranks, Shuffle, gather_all
from scalops.engine.columns import sliced
from scalops.engine.free_memory import free_memory
from scalops.engine.kernels.kernel import Vector
from scalops.engine.kernels.key_words import Words
from scalops.engine.kernels.keys import Key
from scalops.engine.kernels.matching import KeyIndex
from scalops.engine.pipelines.base import Identity
from scalops.engine.relations.base import Run
from scalops.engine.relations.indexed_table import IndexedTable, joined_column
from scalops.engine.relations.whole import Whole
from scalops.engine.spilled_memory import Room

if TYPE_CHECKING:
    from scalops.engine.relations.join_index import BuildIndex

Placed = Iterator[tuple[int, Block]]  # blocks with the number of their first record

PAGES_SHARE = 0.5  # of the memory that is free: what pages of files may count on
MOST_PARTS = 256
INDEX_BYTES = 32  # about what finding a record takes, and making it so

_NOBODY = -1  # owns a key that is null, and meets nothing
_ROWS = -1  # instead of a part: records of own partitions, in table order


class PartitionedIndex(Whole):
    """A table of `count` records in all, of which this rank has those of its own keys: `records`.

    They are so many tables as there are parts. `unique` tells whether no two records at all have
    one key. `ordered` are this rank's partitions of the table in its order, for stages that read
    it so: columns whose first record is number `first`; None where no stage does.
    """

    def __init__(
        self,
        schema: Schema,
        count: int,
        identities: Mapping[str, Identity | None],
        records: Sequence[IndexedTable],
        unique: bool,
        nulls_equal: bool,
        ranks: Ranks,
        ordered: tuple[int, Mapping[str, Vector]] | None,
    ) -> None:
        super().__init__(schema, count)
        self.records, self.unique = records, unique
        self._identities, self._nulls_equal = identities, nulls_equal
        self._ranks, self._ordered = ranks, ordered

    def identity(self, name: str) -> Identity | None:
        return self._identities.get(name) or super().identity(name)

    def part(self, name: str, start: int, stop: int) -> Vector:
        assert self._ordered is not None
        first, vectors = self._ordered
        values, mask = vectors[name]
        own = slice(start - first, stop - first)
        return sliced(values, own.start, own.stop), None if mask is None else mask[own]

    @property
    def parts(self) -> int:
        """In how many parts each rank holds its records."""
        return len(self.records)

    def owners(self, keys: Sequence[Key], rows: int) -> Array:
        """int32[rows]: rank · parts + part that has what meets each key; -1 for nobody."""
        return owners(keys, rows, self._nulls_equal, self._ranks, self.parts)


def owners(
    keys: Sequence[Key], rows: int, nulls_equal: bool, ranks: Ranks, parts: int = 1
) -> Array:
    """int32[rows]: rank · parts + part that owns each key; -1 for a null that meets nothing."""
    words = Words(keys, rows, nulls_equal)
    # Mixed once more: a part's hash table goes by the bits of the hash itself.
    hashes = hash_numbers(words.hashes(0, rows))
    made: Array = (hashes % np.uint64(ranks.size * parts)).astype(np.int32)
    if words.known is not None:
        made[~words.known] = _NOBODY
    return made


def wanted_parts(size: int, ranks: Ranks) -> int:
    """In how many parts a rank searches `size` bytes of a table that lie in files; 1: as a whole.

    As long as their pages stay in the machine's memory, to search them anywhere costs nothing.
    """
    pages = int(PAGES_SHARE * free_memory() / ranks.size)
    return 1 if size <= pages else min(MOST_PARTS, -(-2 * size // max(1, pages)))


def may_be_partitioned(stages: Sequence[pp.Stage], number: int) -> bool:
    """Whether the held side of this number need not lie at every rank.

    No where a stage points into its columns; nor where the probing records come of a captured
    function, which would be called for each of them twice.
    """
    if any(number in s.sink.other_tables for s in stages):
        return False
    below = [probe.source for probe in find(stages, pr.Probe) if probe.number == number]
    return not find(below, Opaque) and not find(below, pp.CallBatches)


def probed_by(stages: Sequence[pp.Stage]) -> dict[int, frozenset[int]]:
    """The tables that each stage probes, if only where it makes parts of a cached one again."""
    caches = {s.sink.number: s for s in stages if isinstance(s.sink, pp.CacheTable)}
    found: dict[int, frozenset[int]] = {}
    for stage in stages:  # what a stage reads stands before it
        numbers = {probe.number for probe in find([stage.source], pr.Probe)}
        for table in find([stage.source], pp.StoredTable):
            if table.number in caches:
                numbers |= found[caches[table.number].number]
        found[stage.number] = frozenset(numbers)
    return found


def is_read_in_order(stages: Sequence[pp.Stage], number: int) -> bool:
    """Whether a stage reads this table's partitions, too."""
    return any(table.number == number for table in find(stages, pp.StoredTable))


def partitioned(
    relation: BuildIndex,
    schema: Schema,
    count: int,
    placed: Callable[[], Placed],
    identities: Mapping[str, Identity | None],
    run: Run,
    parts: int = 1,
) -> Program[PartitionedIndex]:
    """The table, of `count` records in all, of each rank's own blocks, at each in so many parts.

    `placed` gives them and their memory back to the budget; here they are kept again.
    """
    sink, ranks, room = relation.sink, relation.runtime.ranks, relation.new_room()
    sent = _Sent(relation, schema, count, parts)
    yield Shuffle(sent.pieces(placed()), sent.take)
    masked = yield from _united(ranks, sent.masked)
    own: list[IndexedTable] = []
    for part in range(parts):
        rows, vectors = sent.columns(part, masked, room)
        keys = [vectors[n] for n in sink.keys]
        threaded = max(1, sink.parts // (ranks.size * parts))
        index = KeyIndex(keys, rows, sink.nulls_equal, run, room, threaded)
        own.append(IndexedTable(schema, rows, vectors, {}, index))
    told = yield from gather_all(ranks, Piece(all(t.unique for t in own), []))
    ordered = (sent.first, sent.columns(_ROWS, masked, room)[1]) if sent.bounds else None
    unique = all(piece.header for piece in told)
    return PartitionedIndex(
        schema, count, identities, own, unique, sink.nulls_equal, ranks, ordered
    )


def _united(ranks: Ranks, own: set[str]) -> Program[set[str]]:
    """The names of all ranks."""
    parts = yield from gather_all(ranks, Piece(sorted(own), []))
    return {name for part in parts for name in part.header}


class _Sent:
    """Records on their way: by key to its owner, and by number to whose partition they are in."""

    def __init__(self, relation: BuildIndex, schema: Schema, count: int, parts: int) -> None:
        self._relation, self._schema, self._parts = relation, schema, parts
        self._ranks = relation.runtime.ranks
        self._room = relation.new_room()  # whose files go with what has arrived
        self.masked: set[str] = set()  # the columns of which own blocks have a mask
        # By part, or _ROWS, the blocks by the number of their first record.
        self._blocks: dict[int, dict[int, Block]] = {}
        self.bounds: list[int] = []  # the first record of each rank's, and one more
        if is_read_in_order(relation.runtime.stages, relation.sink.number):
            self.bounds = _bounds_of_ranks(self._ranks, schema, count)

    @property
    def first(self) -> int:
        """The number of the first record of the own partitions."""
        return self.bounds[self._ranks.own]

    def pieces(self, placed: Placed) -> Iterator[tuple[int, Piece]]:
        """What goes to which rank, as `Shuffle` asks for it."""
        sink, ranks, parts = self._relation.sink, self._ranks, self._parts
        for start, block in placed:
            self.masked.update(block.valid)
            keys = [(block.columns[k], block.valid.get(k)) for k in sink.keys]
            own = owners(keys, block.rows, sink.nulls_equal, ranks, parts)
            for owner in np.unique(own).tolist():
                if owner == _NOBODY:
                    continue
                rows = np.flatnonzero(own == owner)
                found = block if len(rows) == block.rows else block.take(rows)
                yield owner // parts, _told(owner % parts, start, found)
            for to, (first, last) in enumerate(pairwise(self.bounds)):
                a, b = max(first - start, 0), min(last - start, block.rows)
                if a < b:
                    yield to, _told(_ROWS, start + a, block.slice(a, b))

    def take(self, source: int, piece: Piece) -> None:
        """A piece that a rank sends."""
        way, start, header = piece.header
        (block,) = blocks_of_piece(Piece(header, piece.buffers), self._schema)
        self._blocks.setdefault(way, {})[start] = self._room.block(block)

    def columns(self, way: int, masked: set[str], room: Room) -> tuple[int, dict[str, Vector]]:
        """How many records came this way, and their columns in table order, in one piece.

        A column has a mask here if it has one anywhere, as the whole column would.
        """
        found = self._blocks.pop(way, {})
        blocks = [found.pop(start) for start in sorted(found)]
        rows = sum(b.rows for b in blocks)
        vectors: dict[str, Vector] = {}
        for name, kind in self._schema:
            values, mask = joined_column(blocks, name, kind, room)
            if mask is None and name in masked:
                mask = room.full(rows, True, np.bool_)
            vectors[name] = values, mask
        return rows, vectors


def _told(way: int, start: int, block: Block) -> Piece:
    piece = piece_of_blocks([block])
    return Piece([way, start, piece.header], piece.buffers)


def _bounds_of_ranks(ranks: Ranks, schema: Schema, count: int) -> list[int]:
    """The number of the first record in each rank's partitions, and that of all records."""
    table = Whole(schema, count)
    sizes = [table.rows(p) for p in range(table.partitions())]
    ends = np.cumsum([0, *sizes]).tolist()
    firsts = [ends[ranks.range_of(r, len(sizes))[0]] for r in range(ranks.size)]
    return [*firsts, count]

"""The held side of a join: whole columns, and an index that finds records by their keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate

from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.blocks import Block, block_rows
from scalops.engine.collective import Piece, Program, gather_all
from scalops.engine.columns import sliced
from scalops.engine.kernels.kernel import Vector
from scalops.engine.kernels.matching import KeyIndex
from scalops.engine.pipelines.base import Identity, Pipeline, Runtime, Stored, own_bytes
from scalops.engine.relations.base import Relation, Run
from scalops.engine.relations.gathering import own_blocks, own_partitions, spread
from scalops.engine.relations.indexed_table import IndexedTable, joined_column
from scalops.engine.relations.partitioned_index import (
    INDEX_BYTES,
    may_be_partitioned,
    partitioned,
    wanted_parts,
)
from scalops.engine.spilled_memory import Room, is_spilled

Parts = dict[int, list[Block]]  # a rank's own blocks by partition


class BuildIndex(Relation):
    """Holds the columns, each in one piece; those that lie so below are not copied.

    The index of the last iteration serves again if its key columns are known to be the same. Of
    several ranks each has the whole table, unless too much would be sent: then it has the records
    of its own keys (`partitioned_index.py`). What does not fit into memory is searched by parts.
    """

    def __init__(self, stage: pp.Stage, pipeline: Pipeline, runtime: Runtime) -> None:
        super().__init__(stage, pipeline, runtime)
        assert isinstance(stage.sink, pr.BuildIndex)
        self.sink = stage.sink
        self._names = tuple(dict.fromkeys((*self.sink.kept, *self.sink.keys)))
        pipeline.read_only(self._names)
        self._last: tuple[tuple[Identity, ...], KeyIndex] | None = None
        self._may_be_partitioned = bool(self.sink.keys) and may_be_partitioned(
            runtime.stages, self.sink.number
        )

    def make(self, run: Run) -> Program[Stored]:
        pipeline = self.pipeline
        identities = {n: pipeline.identity(n) for n in self._names}
        schema = Schema(tuple((n, pipeline.schema[n]) for n in self._names))
        vectors, blocks = _own_columns(self, self._names, run)
        if self._may_be_partitioned:
            rows, size, parts = yield from self._sizes(vectors, blocks)
            ranks, number = self.runtime.ranks, self.sink.number
            limit = self.runtime.neutral.broadcast.get(number, ranks.broadcast_bytes)
            if parts > 1 or (size > limit and not ranks.is_alone):
                self._last = None
                count = _rows(vectors) if blocks is None else sum(rows.values())
                placed = partial(self._placed, schema, vectors, blocks, rows)
                made = partitioned(self, schema, count, placed, identities, run, parts)
                return (yield from made)
        room = self.new_room()
        held, vectors = yield from _of_all(self, self._names, vectors, blocks, room)
        index = self._index(vectors, held, identities, run, room)
        return IndexedTable(schema, held, vectors, identities, index)

    def forget(self) -> None:
        self._last = None

    def _sizes(
        self, vectors: Mapping[str, Vector], blocks: Parts | None
    ) -> Program[tuple[dict[int, int], int, int]]:
        """The records of each active partition, if blocks are to be sent, and their bytes.

        And in how many parts the rank that has least memory would hold its own records.
        """
        ranks, budget = self.runtime.ranks, self.runtime.budget
        own = {p: sum(b.rows for b in part) for p, part in (blocks or {}).items()}
        size = sum(b.bytes for part in (blocks or {}).values() for b in part)
        # What lies below in memory is there in any case.
        below = sum(int(v.nbytes) for v, _ in vectors.values() if is_spilled(v))
        told = yield from gather_all(
            ranks, Piece([list(own.items()), size, below, budget.left], [])
        )
        rows = dict(sorted(item for piece in told for item in piece.header[0]))
        size = sum(piece.header[1] for piece in told)
        count = _rows(vectors) if blocks is None else sum(rows.values())
        below = max(piece.header[2] for piece in told)
        each = (size + below + INDEX_BYTES * count) // ranks.size
        left = [piece.header[3] for piece in told]
        if all(b is None or each <= b for b in left):
            return rows, size, 1
        wanted = yield from gather_all(ranks, Piece(wanted_parts(each, ranks), []))
        return rows, size, max(piece.header for piece in wanted)

    def _placed(
        self,
        schema: Schema,
        vectors: Mapping[str, Vector],
        blocks: Parts | None,
        rows: Mapping[int, int],
    ) -> Iterator[tuple[int, Block]]:
        """This rank's blocks, of all columns, each with the number of its first record.

        Where nothing has to be collected, these are as many records as any other rank's.
        """
        if blocks is None:
            ranks, count, step = self.runtime.ranks, _rows(vectors), block_rows(schema)
            first, last = (count * r // ranks.size for r in (ranks.own, ranks.own + 1))
            for start in range(first, last, step):
                made = Block(min(step, last - start), {})
                yield start, _filled(made, vectors, start)
            return
        firsts = dict(zip(rows, accumulate(rows.values(), initial=0), strict=False))
        for partition, part in blocks.items():
            start = firsts[partition]
            while part:
                made = part.pop(0)
                self.runtime.budget.release(self.owner, own_bytes(made, self.pipeline.resident))
                yield start, _filled(made, vectors, start)
                start += made.rows

    def _index(
        self,
        vectors: Mapping[str, Vector],
        rows: int,
        identities: Mapping[str, Identity | None],
        run: Run,
        room: Room,
    ) -> KeyIndex:
        sink = self.sink
        own = tuple(i for n in sink.keys if (i := identities[n]) is not None)
        if self._last is not None and len(own) == len(sink.keys) and self._last[0] == own:
            self._last[1].keep(room)
            return self._last[1]
        self._last = None
        keys = [vectors[n] for n in sink.keys]
        searched = rows if keys else 0  # a cross join finds nothing, it takes all
        index = KeyIndex(keys, searched, sink.nulls_equal, run, room, sink.parts)
        if len(own) == len(sink.keys):
            self._last = own, index
        return index


def _rows(vectors: Mapping[str, Vector]) -> int:
    return len(next(iter(vectors.values()))[0])


def _filled(block: Block, vectors: Mapping[str, Vector], start: int) -> Block:
    """The block with parts of these columns, too; its first record's number is `start`."""
    stop = start + block.rows
    for name, (values, mask) in vectors.items():
        block.columns[name] = sliced(values, start, stop)
        if mask is not None:
            block.valid[name] = mask[start:stop]
    return block


def columns_of(
    relation: Relation, names: Sequence[str], run: Run, room: Room
) -> Program[tuple[int, dict[str, Vector]]]:
    """How many records come, and these of their columns, each in one piece.

    Those that lie so below are not copied; the others are kept in the room.
    """
    vectors, blocks = _own_columns(relation, names, run)
    return (yield from _of_all(relation, names, vectors, blocks, room))


def _own_columns(
    relation: Relation, names: Sequence[str], run: Run
) -> tuple[dict[str, Vector], Parts | None]:
    """The columns that lie in one piece below, and this rank's blocks of the others.

    No blocks where there are no others, unless the blocks alone tell how many records come.
    """
    pipeline = relation.pipeline
    vectors = {n: v for n in names if (v := pipeline.whole(n)) is not None}
    missing = [n for n in names if n not in vectors]
    if vectors and not missing:
        return vectors, None
    own = own_partitions(pipeline, relation.runtime.ranks)
    return vectors, own_blocks(pipeline, own, missing, run, relation.new_room())


def _of_all(
    relation: Relation,
    names: Sequence[str],
    vectors: dict[str, Vector],
    blocks: Parts | None,
    room: Room,
) -> Program[tuple[int, dict[str, Vector]]]:
    """How many records all ranks have, and their columns."""
    if blocks is None:
        return _rows(vectors), vectors
    pipeline, ranks = relation.pipeline, relation.runtime.ranks
    kinds = Schema(tuple((n, pipeline.schema[n]) for n in names if n not in vectors))
    together = yield from spread(ranks, blocks, pipeline.active(), kinds, relation.new_room())
    found = [b for part in together for b in part]
    rows = sum(b.rows for b in found)
    made = {n: joined_column(found, n, k, room, pipeline.resident) for n, k in kinds}
    return rows, vectors | made

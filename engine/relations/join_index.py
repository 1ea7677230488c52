"""The held side of a join: whole columns, and an index that finds records by their keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.blocks import Array, Block, mask_of
from scalops.engine.collective import Program
from scalops.engine.columns import ColumnData, SparseColumn, arrow_type, blank, concatenated
from scalops.engine.kernels.kernel import Vector
from scalops.engine.kernels.matching import KeyIndex
from scalops.engine.packed_lists import PackedLists
from scalops.engine.passes import in_partition
from scalops.engine.pipelines.base import Identity, Pipeline, Runtime, Stored, own_bytes
from scalops.engine.relations.base import Relation, Run
from scalops.engine.relations.gathering import own_partitions, spread
from scalops.engine.relations.whole import Columns


class TakenColumns(Columns):
    """A table in whole columns of which records are taken by their numbers."""

    def __init__(
        self,
        schema: Schema,
        rows: int,
        vectors: Mapping[str, Vector],
        identities: Mapping[str, Identity | None] | None = None,
    ) -> None:
        super().__init__(schema, rows, vectors, identities)
        # As byte strings, which Arrow takes faster: see packed_lists.
        self._lists = {
            name: packed
            for name, (values, _) in vectors.items()
            if isinstance(values, pa.Array) and (packed := PackedLists.of(values)) is not None
        }

    def at(self, name: str, positions: Array) -> Vector:
        """The records of these numbers, in this order; -1 gives a null."""
        values, mask = self.whole(name)
        kind = self.schema[name]
        there: Array = positions >= 0
        if bool(there.all()):
            found = self._taken(name, positions)
            return found, None if mask is None else mask.take(positions)
        if not self.count:
            return blank(kind, len(positions)), there
        if isinstance(values, pa.Array):
            made = self._taken(name, pa.array(positions, mask=~there))
            return made, there if mask is None else there & mask.take(positions, mode="clip")
        places = np.where(there, positions, 0)
        if isinstance(values, SparseColumn):
            made = _spread(values.take(positions[there]), there)
        else:
            made = self._taken(name, places)
            made[~there] = np.zeros((), made.dtype)
        return made, there if mask is None else there & mask.take(places)

    def _taken(self, name: str, rows: Array | pa.Array) -> ColumnData:
        """The records of these numbers; Arrow's, if they may be null."""
        column, _ = self.whole(name)
        if isinstance(column, np.ndarray):
            return column.take(rows, axis=0)
        if isinstance(column, SparseColumn):
            return column.take(rows)
        chosen = rows if isinstance(rows, pa.Array) else pa.array(rows)
        lists = self._lists.get(name)
        found = column.take(chosen) if lists is None else lists.take(chosen)
        return of_type(found, self.schema[name])


class IndexedTable(TakenColumns):
    """A table in whole columns with an index over some of them."""

    def __init__(
        self,
        schema: Schema,
        rows: int,
        vectors: Mapping[str, Vector],
        identities: Mapping[str, Identity | None],
        index: KeyIndex,
    ) -> None:
        super().__init__(schema, rows, vectors, identities)
        self.index = index

    @property
    def unique(self) -> bool:
        """Whether no two records have one key."""
        return self.index.unique


def _spread(column: SparseColumn, there: Array) -> SparseColumn:
    """The vectors at the places that are true, and such without an entry elsewhere."""
    lengths: Array = np.zeros(len(there), np.int64)
    lengths[there] = column.lengths
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return SparseColumn(ends, column.indices, column.values, column.dimension)


def of_type(column: pa.Array, kind: ArrayType) -> pa.Array:
    """The column as blocks have it: not as the large form that a whole one may need."""
    target = arrow_type(kind)
    return column if column.type == target else column.cast(target)


class BuildIndex(Relation):
    """Holds the columns, each in one piece; those that lie so below are not copied.

    The index of the last iteration serves again if its key columns are known to be the same.
    """

    def __init__(self, stage: pp.Stage, pipeline: Pipeline, runtime: Runtime) -> None:
        super().__init__(stage, pipeline, runtime)
        assert isinstance(stage.sink, pr.BuildIndex)
        self._sink = stage.sink
        self._names = tuple(dict.fromkeys((*self._sink.kept, *self._sink.keys)))
        pipeline.read_only(self._names)
        self._last: tuple[tuple[Identity, ...], KeyIndex] | None = None

    def make(self, run: Run) -> Program[Stored]:
        pipeline = self.pipeline
        identities = {n: pipeline.identity(n) for n in self._names}
        rows, vectors = yield from columns_of(self, self._names, run)
        index = self._index(vectors, rows, identities, run)
        schema = Schema(tuple((n, pipeline.schema[n]) for n in self._names))
        return IndexedTable(schema, rows, vectors, identities, index)

    def _index(
        self,
        vectors: Mapping[str, Vector],
        rows: int,
        identities: Mapping[str, Identity | None],
        run: Run,
    ) -> KeyIndex:
        sink, budget = self._sink, self.runtime.budget
        own = tuple(i for n in sink.keys if (i := identities[n]) is not None)
        if self._last is not None and len(own) == len(sink.keys) and self._last[0] == own:
            budget.require(self._last[1].bytes, self.owner)
            return self._last[1]
        self._last = None
        reserve: Callable[[int], None] = partial(budget.require, owner=self.owner)
        keys = [vectors[n] for n in sink.keys]
        searched = rows if keys else 0  # a cross join finds nothing, it takes all
        index = KeyIndex(keys, searched, sink.nulls_equal, run, reserve, sink.parts)
        if len(own) == len(sink.keys):
            self._last = own, index
        return index


def columns_of(
    relation: Relation, names: Sequence[str], run: Run
) -> Program[tuple[int, dict[str, Vector]]]:
    """How many records come, and these of their columns, each in one piece.

    Those that lie so below are not copied; for the others room is reserved.
    """
    vectors: dict[str, Vector] = {}
    for name in names:
        found = relation.pipeline.whole(name)
        if found is not None:
            vectors[name] = found
    missing = [n for n in names if n not in vectors]
    if missing or not vectors:
        rows, made = yield from _collected(relation, missing, run)
        return rows, vectors | made
    return len(next(iter(vectors.values()))[0]), vectors


def _collected(
    relation: Relation, names: list[str], run: Run
) -> Program[tuple[int, dict[str, Vector]]]:
    pipeline, budget = relation.pipeline, relation.runtime.budget
    ranks = relation.runtime.ranks
    own_ones = own_partitions(pipeline, ranks)
    parts: list[list[Block]] = [[] for _ in own_ones]

    def task(worker: int, index: int) -> None:
        with in_partition(own_ones[index]):
            for block in pipeline.blocks(own_ones[index], worker):
                own = {n: block.columns[n] for n in names}
                masks = {n: m for n, m in block.valid.items() if n in own}
                made = Block(block.rows, own, masks)
                budget.require(own_bytes(made, pipeline.resident), relation.owner)
                if made.rows:
                    parts[index].append(made)

    run(task, len(own_ones))
    kinds = Schema(tuple((n, pipeline.schema[n]) for n in names))
    mine = dict(zip(own_ones, parts, strict=True))
    together = yield from spread(
        ranks,
        mine,
        pipeline.active(),
        kinds,
        lambda block: budget.require(block.bytes, relation.owner),
    )
    blocks = [b for part in together for b in part]
    rows = sum(b.rows for b in blocks)
    return rows, {n: _joined(relation, blocks, n) for n in names}


def _joined(relation: Relation, blocks: list[Block], name: str) -> Vector:
    """A column of all blocks, which lose it."""
    pipeline, budget, owner = relation.pipeline, relation.runtime.budget, relation.owner
    mask = mask_of(blocks, name)
    own = [Block(b.rows, {name: b.columns.pop(name)}) for b in blocks]
    if len(own) == 1:
        return own[0].columns[name], mask
    budget.require(sum(b.bytes for b in own), owner)
    made = in_one_piece([b.columns[name] for b in own], pipeline.schema[name])
    budget.release(owner, sum(own_bytes(b, pipeline.resident) for b in own))
    return made, mask


def in_one_piece(parts: list[ColumnData], kind: ArrayType) -> ColumnData:
    """The columns of consecutive records as one; text beyond 2 GiB in Arrow's large form."""
    try:
        return concatenated(parts, kind)
    except pa.ArrowInvalid:
        wide = large(arrow_type(kind))
        return pa.concat_arrays([p.cast(wide) for p in parts])


def large(kind: pa.DataType) -> pa.DataType:
    """The type with offsets of 64 bits."""
    if pa.types.is_string(kind):
        return pa.large_string()
    return pa.large_list(large(kind.value_type)) if pa.types.is_list(kind) else kind

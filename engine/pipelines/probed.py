"""Joins, block by block: records of one side with what they match on the side that is held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from scalops.algebra.relations import LEFT
from scalops.engine import physical_relations as pr
from scalops.engine.blocks import Array, Block, block_rows
from scalops.engine.collective import Program
from scalops.engine.columns import blank, taken
from scalops.engine.kernels.matching import Matches, Pairs
from scalops.engine.pipelines.answers import Answers, Place
from scalops.engine.pipelines.base import Over, Pipeline, Run, Runtime
from scalops.engine.relations.indexed_table import IndexedTable, TakenColumns
from scalops.engine.relations.partitioned_index import PartitionedIndex

_NONE_WITHOUT_MATCH = ("inner", "semi", "cross")


class ProbePipeline(Over):
    """Each block's records, in order, with their matches in the held side's order.

    Blocks become no longer than a block may be. Where the held side is empty and a record
    without a match gives none, nothing is read. Of a held side that is partitioned each block's
    matches are asked for before (`answers.py`).
    """

    def __init__(self, node: pr.Probe, source: Pipeline, runtime: Runtime) -> None:
        super().__init__(node.schema, source, runtime)
        self._node = node
        self._step = block_rows(node.schema)
        self._outputs = node.outputs
        self._answers = Answers(node, source, runtime)
        self._read()

    def read_only(self, names: Iterable[str]) -> None:
        wanted = {*names}
        self._outputs = tuple(o for o in self._node.outputs if o[0] in wanted)
        self._read()

    def _read(self) -> None:
        own = {column for _, side, column in self._outputs if side == LEFT}
        self.source.read_only({*own, *self._node.keys})

    @property
    def _held(self) -> IndexedTable | PartitionedIndex:
        table = self.runtime.tables[self._node.number]
        assert isinstance(table, (IndexedTable, PartitionedIndex))
        return table

    @property
    def _gives_none(self) -> bool:
        """Whether there is nothing that a record could give."""
        return self._node.kind in _NONE_WITHOUT_MATCH and not self._held.count

    def active(self) -> Sequence[int]:
        return range(0) if self._gives_none else self.source.active()

    def prepare(self, partitions: Sequence[int], run: Run) -> Program[None]:
        if self._gives_none:
            return
        yield from self.source.prepare(partitions, run)
        held = self._held
        if isinstance(held, PartitionedIndex):
            wanted = {column for _, side, column in self._outputs if side != LEFT}
            met = self._node.kind not in ("semi", "anti")
            yield from self._answers.ask(held, sorted(wanted) if met else (), partitions, run)

    def rows(self, partition: int) -> int | None:
        kind, held = self._node.kind, self._held
        if self._gives_none:
            return 0
        one = (kind == "left" and held.unique) or (kind == "anti" and not held.count)
        if not one and kind != "cross":
            return None
        rows = self.source.rows(partition)
        return rows if one or rows is None else rows * held.count

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        kind = self._node.kind
        if self._gives_none:
            return
        for number, block in enumerate(self.source.blocks(partition, worker)):
            if not block.rows:
                continue
            matches, met = self._met((partition, number), block)
            if kind in ("semi", "anti"):
                found = matches.found
                yield from self._chosen(block, found if kind == "semi" else ~found)
            elif matches.counts is None:
                yield from self._matched(block, matches.first, met)
            else:
                yield from self._paired(block, matches, met)

    def _met(self, place: Place, block: Block) -> tuple[Matches, TakenColumns]:
        """What the block's records meet, and the table whose records these are."""
        held = self._held
        if isinstance(held, PartitionedIndex):
            return self._answers.of(place, block.rows)
        if self._node.kind == "cross":
            everything = np.full(block.rows, held.count)
            return Matches(np.zeros(block.rows, int), everything), held
        keys = [(block.columns[k], block.valid.get(k)) for k in self._node.keys]
        return held.index.lookup(keys, block.rows), held

    def _chosen(self, block: Block, kept: Array) -> Iterator[Block]:
        """Records without the other side, whose columns are null."""
        rows = None if kept.all() else np.flatnonzero(kept)
        count = block.rows if rows is None else len(rows)
        for start in range(0, count, self._step):
            stop = min(count, start + self._step)
            yield self._made(block, _part(rows, start, stop, count), None, stop - start)

    def _matched(self, block: Block, positions: Array, met: TakenColumns) -> Iterator[Block]:
        """Each record with its one match."""
        rows = None
        if self._node.kind == "inner":
            found = positions >= 0
            if not found.all():
                rows = np.flatnonzero(found)
                positions = positions.take(rows)
        count = len(positions)
        for start in range(0, count, self._step):
            stop = min(count, start + self._step)
            own = _part(rows, start, stop, count)
            yield self._made(block, own, (met, positions[start:stop]), stop - start)

    def _paired(self, block: Block, matches: Matches, met: TakenColumns) -> Iterator[Block]:
        """Each record with all its matches."""
        pairs = Pairs(matches, outer=self._node.kind == "left")
        for start in range(0, pairs.total, self._step):
            self.runtime.check_cancelled()
            stop = min(pairs.total, start + self._step)
            rows, positions = pairs.piece(start, stop)
            yield self._made(block, rows, (met, positions), stop - start)

    def _made(
        self,
        block: Block,
        rows: Array | None,
        met: tuple[TakenColumns, Array] | None,
        count: int,
    ) -> Block:
        """The columns of both sides; `rows` None: the block's as they are; `met` None: nulls."""
        columns, valid = block.columns, block.valid
        made = Block(count, {})
        for name, side, column in self._outputs:
            if side == LEFT:
                values, mask = columns[column], valid.get(column)
                if rows is not None:
                    values = taken(values, rows)
                    mask = None if mask is None else mask.take(rows)
            elif met is None:
                values, mask = blank(self.schema[name], count), np.zeros(count, bool)
            else:
                values, mask = met[0].at(column, met[1])
            made.columns[name] = values
            if mask is not None:
                made.valid[name] = mask
        return made


def _part(rows: Array | None, start: int, stop: int, count: int) -> Array | None:
    """The chosen records start..stop-1 of `count`; None where these are all of a block's."""
    if rows is not None:
        return rows[start:stop]
    return None if (start, stop) == (0, count) else np.arange(start, stop)

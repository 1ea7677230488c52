"""Joins, block by block: records of one side with what they match on the side that is held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from scalops.algebra.relations import LEFT
from scalops.engine import physical_relations as pr
from scalops.engine.blocks import Array, Block, block_rows
from scalops.engine.columns import blank, taken
from scalops.engine.kernels.matching import Matches, Pairs
from scalops.engine.pipelines.base import Over, Pipeline, Runtime
from scalops.engine.relations.indexed_table import IndexedTable

_NONE_WITHOUT_MATCH = ("inner", "semi", "cross")


class ProbePipeline(Over):
    """Each block's records, in order, with their matches in the held side's order.

    Blocks become no longer than a block may be. Where the held side is empty and a record
    without a match gives none, nothing is read.
    """

    def __init__(self, node: pr.Probe, source: Pipeline, runtime: Runtime) -> None:
        super().__init__(node.schema, source, runtime)
        self._node = node
        self._step = block_rows(node.schema)
        self._outputs = node.outputs
        self._read()

    def read_only(self, names: Iterable[str]) -> None:
        wanted = {*names}
        self._outputs = tuple(o for o in self._node.outputs if o[0] in wanted)
        self._read()

    def _read(self) -> None:
        own = {column for _, side, column in self._outputs if side == LEFT}
        self.source.read_only({*own, *self._node.keys})

    @property
    def _held(self) -> IndexedTable:
        table = self.runtime.tables[self._node.number]
        assert isinstance(table, IndexedTable)
        return table

    def active(self) -> Sequence[int]:
        if self._node.kind in _NONE_WITHOUT_MATCH and not self._held.count:
            return range(0)
        return self.source.active()

    def rows(self, partition: int) -> int | None:
        kind, held = self._node.kind, self._held
        if kind in _NONE_WITHOUT_MATCH and not held.count:
            return 0
        one = (kind == "left" and held.index.unique) or (kind == "anti" and not held.count)
        if not one and kind != "cross":
            return None
        rows = self.source.rows(partition)
        return rows if one or rows is None else rows * held.count

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        node, held = self._node, self._held
        if node.kind in _NONE_WITHOUT_MATCH and not held.count:
            return
        for block in self.source.blocks(partition, worker):
            if not block.rows:
                continue
            if node.kind == "cross":
                everything = np.full(block.rows, held.count)
                yield from self._paired(block, Matches(np.zeros(block.rows, int), everything))
                continue
            keys = [(block.columns[k], block.valid.get(k)) for k in node.keys]
            matches = held.index.lookup(keys, block.rows)
            if node.kind in ("semi", "anti"):
                found = matches.found
                yield from self._chosen(block, found if node.kind == "semi" else ~found)
            elif matches.counts is None:
                yield from self._matched(block, matches.first)
            else:
                yield from self._paired(block, matches)

    def _chosen(self, block: Block, kept: Array) -> Iterator[Block]:
        """Records without the other side, whose columns are null."""
        rows = None if kept.all() else np.flatnonzero(kept)
        count = block.rows if rows is None else len(rows)
        for start in range(0, count, self._step):
            stop = min(count, start + self._step)
            yield self._made(block, _part(rows, start, stop, count), None, stop - start)

    def _matched(self, block: Block, positions: Array) -> Iterator[Block]:
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
            yield self._made(block, own, positions[start:stop], stop - start)

    def _paired(self, block: Block, matches: Matches) -> Iterator[Block]:
        """Each record with all its matches."""
        pairs = Pairs(matches, outer=self._node.kind == "left")
        for start in range(0, pairs.total, self._step):
            self.runtime.check_cancelled()
            stop = min(pairs.total, start + self._step)
            rows, positions = pairs.piece(start, stop)
            yield self._made(block, rows, positions, stop - start)

    def _made(self, block: Block, rows: Array | None, positions: Array | None, count: int) -> Block:
        """The columns of both sides; `rows` None: the block's as they are."""
        held, columns, valid = self._held, block.columns, block.valid
        made = Block(count, {})
        for name, side, column in self._outputs:
            if side == LEFT:
                values, mask = columns[column], valid.get(column)
                if rows is not None:
                    values = taken(values, rows)
                    mask = None if mask is None else mask.take(rows)
            elif positions is None:
                values, mask = blank(self.schema[name], count), np.zeros(count, bool)
            else:
                values, mask = held.at(column, positions)
            made.columns[name] = values
            if mask is not None:
                made.valid[name] = mask
        return made


def _part(rows: Array | None, start: int, stop: int, count: int) -> Array | None:
    """The chosen records start..stop-1 of `count`; None where these are all of a block's."""
    if rows is not None:
        return rows[start:stop]
    return None if (start, stop) == (0, count) else np.arange(start, stop)

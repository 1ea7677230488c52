"""Joins of a table that stays with one that changes: pairs found from the smaller side."""

from __future__ import annotations

import numpy as np

from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.blocks import Array
from scalops.engine.collective import Program
from scalops.engine.kernels.matching import KeyIndex, Matches, Pairs
from scalops.engine.pipelines.base import Pipeline, Runtime, Stored
from scalops.engine.relations.base import Relation, Run
from scalops.engine.relations.indexed_table import IndexedTable
from scalops.engine.relations.join_index import columns_of
from scalops.engine.relations.shared_lookup import looked_up_by_all
from scalops.engine.relations.whole import Columns, Mapped, Positions, Side

# Neutral: pairs found from the right side are sorted, at some 100 ns each; probing with a left
# record takes some 10 ns.
SORT_COST = 10

Found = tuple[Array, Array]  # numbers of left and of right records, pair by pair


class MeetIndexed(Relation):
    """The positions of both sides' records; columns are gathered when they are read.

    So a table that stays costs nothing in an iteration in which nothing meets it.
    """

    def __init__(self, stage: pp.Stage, pipeline: Pipeline, runtime: Runtime) -> None:
        super().__init__(stage, pipeline, runtime)
        assert isinstance(stage.sink, pr.MeetIndexed)
        self._sink = stage.sink
        kept = (column for _, side, column in stage.sink.outputs if side)
        self._names = tuple(dict.fromkeys((*kept, *stage.sink.keys)))
        pipeline.read_only(self._names)

    def make(self, run: Run) -> Program[Stored]:
        sink = self._sink
        left = self.runtime.tables[sink.left]
        assert isinstance(left, IndexedTable)
        rows, vectors = yield from columns_of(self, self._names, run)
        schema = Schema(tuple((n, self.pipeline.schema[n]) for n in self._names))
        right = Columns(schema, rows, vectors)
        own, theirs = yield from self._pairs(left, right, run)
        self.runtime.budget.require(own.nbytes + theirs.nbytes, self.owner)
        sides = [Side(left, Positions(own), None), Side(right, Positions(theirs), None)]
        return Mapped(sink.made, len(own), sides, sink.outputs, {})

    def _pairs(self, left: IndexedTable, right: Columns, run: Run) -> Program[Found]:
        sink, ranks = self._sink, self.runtime.ranks
        keys = [right.whole(n) for n in sink.keys]
        if right.count * SORT_COST <= left.count:
            parts = yield from looked_up_by_all(ranks, left.index, keys, right.count, run)
            if sum(_count(p) for p, _ in parts) * SORT_COST <= left.count:
                return self._in_left_order(parts)
        index = KeyIndex(keys, right.count, sink.nulls_equal, run, self._reserve)
        probing = [left.whole(n) for n in sink.left_keys]
        parts = yield from looked_up_by_all(ranks, index, probing, left.count, run)
        if sink.kind == "semi":
            found = [start + np.flatnonzero(p.found) for p, start in parts]
            return _together(found), _NONE
        size = sum(Pairs(p, outer=False).bytes for p, _ in parts if p.counts is not None)
        self._reserve(size)
        pairs = [_all_pairs(p, start) for p, start in parts]
        self._reserve(-index.bytes - size)
        return _together([rows for rows, _ in pairs]), _together([at for _, at in pairs])

    def _reserve(self, size: int) -> None:
        if size < 0:
            self.runtime.budget.release(self.owner, -size)
        else:
            self.runtime.budget.require(size, self.owner)

    def _in_left_order(self, parts: list[tuple[Matches, int]]) -> Found:
        """Pairs that were found from the right side; one left record's in right order."""
        pairs = [_all_pairs(p, start) for p, start in parts]
        theirs = _together([rows for rows, _ in pairs])
        own = _together([at for _, at in pairs])
        if self._sink.kind == "semi":
            return np.unique(own), _NONE
        order = np.argsort(own, kind="stable")
        return own[order], theirs[order]


_NONE: Array = np.zeros(0, np.int64)


def _together(parts: list[Array]) -> Array:
    return np.concatenate(parts) if parts else _NONE


def _count(matches: Matches) -> int:
    counts = matches.found if matches.counts is None else matches.counts
    return int(counts.sum())


def _all_pairs(matches: Matches, start: int) -> Found:
    """Records, numbered from `start`, and the positions of what they match."""
    if matches.counts is None:
        rows = np.flatnonzero(matches.found)
        return rows + start, matches.first[rows].astype(np.int64, copy=False)
    pairs = Pairs(matches, outer=False)
    if not pairs.total:
        return _NONE, _NONE
    rows, positions = pairs.piece(0, pairs.total)
    return rows + start, positions.astype(np.int64, copy=False)

"""Joins of a table that stays with one that changes: pairs found from the smaller side."""

from __future__ import annotations

import numpy as np

from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.blocks import Array
from scalops.engine.collective import Program
from scalops.engine.kernels.counting import sorted_by_id
from scalops.engine.kernels.matching import KeyIndex, Matches
from scalops.engine.pipelines.base import Pipeline, Runtime, Stored
from scalops.engine.relations.base import Relation, Run
from scalops.engine.relations.indexed_table import IndexedTable
from scalops.engine.relations.join_index import columns_of
from scalops.engine.relations.positions import Positions, all_pairs, numbers_where, taken_by
from scalops.engine.relations.shared_lookup import looked_up_by_all
from scalops.engine.relations.whole import Columns, Mapped, Side
from scalops.engine.spilled_memory import Room

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
        sink, room = self._sink, self.new_room()
        left = self.runtime.tables[sink.left]
        assert isinstance(left, IndexedTable)
        rows, vectors = yield from columns_of(self, self._names, run, room)
        schema = Schema(tuple((n, self.pipeline.schema[n]) for n in self._names))
        right = Columns(schema, rows, vectors)
        own, theirs = yield from self._pairs(left, right, run, room)
        sides = [Side(left, Positions(own, room), None), Side(right, Positions(theirs, room), None)]
        return Mapped(sink.made, len(own), sides, sink.outputs, room, {})

    def _pairs(self, left: IndexedTable, right: Columns, run: Run, room: Room) -> Program[Found]:
        sink, ranks = self._sink, self.runtime.ranks
        keys = [right.whole(n) for n in sink.keys]
        if right.count * SORT_COST <= left.count:
            matches = yield from looked_up_by_all(ranks, left.index, keys, right.count, run, room)
            if _count(matches) * SORT_COST <= left.count:
                return _in_left_order(matches, left.count, sink.kind == "semi", room)
            room.drop(matches.first, matches.counts)
        index = KeyIndex(keys, right.count, sink.nulls_equal, run, room)
        probing = [left.whole(n) for n in sink.left_keys]
        matches = yield from looked_up_by_all(ranks, index, probing, left.count, run, room)
        if sink.kind == "semi":
            first, counts, _ = matches

            def met(own: slice) -> Array:
                return Matches(first[own], None if counts is None else counts[own]).found

            made = numbers_where(met, left.count, room), _NONE
        else:
            made = all_pairs(matches, False, room)
        room.drop(matches.first, matches.counts)
        index.forget(room)
        return made


_NONE: Array = np.zeros(0, np.int64)
_SORTING_BYTES = 5 * 8  # for each pair that is sorted at once


def _count(matches: Matches) -> int:
    counts = matches.found if matches.counts is None else matches.counts
    return int(counts.sum(dtype=np.int64))


def _in_left_order(matches: Matches, count: int, semi: bool, room: Room) -> Found:
    """Pairs that were found from the right side; one left record's in right order.

    The left table has `count` records.
    """
    theirs, own = all_pairs(matches, False, room)
    room.drop(matches.first, matches.counts)
    working = _SORTING_BYTES * len(own)
    if room.take(working):
        order = np.argsort(own, kind="stable")
        made = np.unique(own) if semi else own[order], _NONE if semi else theirs[order]
        room.drop(own, theirs)
        room.release(working)
        return room.column(made[0]), room.column(made[1])
    ends, order = sorted_by_id(own, count, room)
    if semi:
        made = numbers_where(lambda p: np.diff(ends[p.start : p.stop + 1]) > 0, count, room), _NONE
    else:
        made = taken_by(own, order, room), taken_by(theirs, order, room)
    room.drop(own, theirs, ends, order)
    return made

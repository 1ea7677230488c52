"""Records that meet by the hash of their keys: those of a group at one rank, in table order.

And the groups' numbers by first appearance among the groups of all ranks. A record is known by
its place: the position of its partition among the active ones, and its row there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from scalops.algebra.dtypes import INT64
from scalops.algebra.schema import HIDDEN, Schema
from scalops.engine.blocks import Array, Block
from scalops.engine.collective import Piece, Program, Ranks, Shuffle, gather_all
from scalops.engine.kernels.kernel import Vector
from scalops.engine.kernels.key_words import Words
from scalops.engine.passes import in_partition
from scalops.engine.pipelines.base import Pipeline
from scalops.engine.relations.base import Relation
from scalops.engine.relations.group_records import ROW_BITS, Records
from scalops.engine.relations.routing import Arrivals, Run, cut_to, routed
from scalops.engine.spill import SpilledBlocks
from scalops.engine.value_codec import decode_value, encode_value

ROW = HIDDEN + "record"  # the column of a record's row in its partition


@dataclass(frozen=True)
class Places:
    """`positions` and `rows`, int64[records] each: where records stand in the table."""

    positions: Array
    rows: Array

    @staticmethod
    def of(places: Array) -> Places:
        """Those that are one number each, as `group_records` has them."""
        return Places(places >> ROW_BITS, places & ((1 << ROW_BITS) - 1))

    def take(self, which: Array) -> Places:
        """Those of these numbers."""
        return Places(self.positions[which], self.rows[which])


def met(relation: Relation, keys: Sequence[str]) -> Program[Records]:
    """The records of this rank's groups, with their places.

    Each rank reads its own partitions and streams what it reads.
    """
    pipeline, runtime, owner = relation.pipeline, relation.runtime, relation.owner
    ranks, budget = runtime.ranks, runtime.budget
    schema = Schema((*pipeline.schema.fields, (ROW, INT64)))
    homes = [pipeline.home(p) for p in pipeline.active()]
    kept = SpilledBlocks(budget, owner, schema)
    arrivals = Arrivals(kept, schema, [ranks.own], homes)
    yield from routed(ranks, _runs(pipeline, keys, ranks), arrivals)
    made = Records(pipeline.schema, keys, budget, owner)
    runs = arrivals.runs(ranks.own)
    for (source, _, _), block in zip(runs, arrivals.blocks(ranks.own), strict=True):
        rows: Any = block.columns[ROW]
        made.add((source << ROW_BITS) + rows, block.only(pipeline.schema.names))
    return made


def _runs(pipeline: Pipeline, keys: Sequence[str], ranks: Ranks) -> Iterator[tuple[int, Run]]:
    """The records of this rank's partitions, for the ranks where their groups are."""
    for position, partition in enumerate(pipeline.active()):
        if pipeline.home(partition) != ranks.own:
            continue
        number = 0
        for to, block in _by_rank(pipeline, partition, keys, ranks.size):
            for part in cut_to(block):
                yield to, Run(position, number, [(to, part.rows)], part)
                number += 1


def _by_rank(
    pipeline: Pipeline, partition: int, keys: Sequence[str], size: int
) -> Iterator[tuple[int, Block]]:
    """A partition's records, block by block and in each by the rank where their groups are."""
    names, at = {n: n for n in pipeline.schema.names}, 0
    with in_partition(partition):
        for block in pipeline.blocks(partition, 0):
            if block.rows == 0:
                continue
            own: list[Vector] = [(block.columns[n], block.valid.get(n)) for n in keys]
            to = Words(own, block.rows, nulls_equal=True).hashes(0, block.rows) % np.uint64(size)
            order = np.argsort(to, kind="stable")
            ends = np.searchsorted(to[order], np.arange(size + 1)).tolist()
            for rank, (start, stop) in enumerate(pairwise(ends)):
                if start < stop:
                    rows = order[start:stop]
                    made = block.chosen(names).take(rows)
                    made.columns[ROW] = rows + at
                    yield rank, made
            at += block.rows


def numbered(pipeline: Pipeline, firsts: Places, ranks: Ranks) -> Program[tuple[Array, int]]:
    """The number of each of this rank's groups, int64[groups], and how many there are in all.

    `firsts` are the places of the groups' first records, in table order. Those of a partition
    meet at its home, which puts them in order.
    """
    active = pipeline.active()
    homes = np.array([pipeline.home(p) for p in active], np.int64)
    theirs = homes[firsts.positions]
    asked = [np.flatnonzero(theirs == rank) for rank in range(ranks.size)]
    sent = [firsts.take(which) for which in asked]
    found = yield from _exchanged(ranks, [(s.positions, s.rows) for s in sent])
    sizes = [len(positions) for positions, _ in found]
    positions, rows = (np.concatenate(c) for c in zip(*found, strict=True))
    order = np.lexsort((rows, positions))
    counts = np.bincount(positions, minlength=len(active)).astype(np.int64)
    before, total = yield from _starts(ranks, counts)
    # Those of a partition follow one another, and so do their numbers.
    own = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])[:-1]
    made = np.empty(len(order), np.int64)
    made[order] = np.arange(len(order)) + (before - own)[positions[order]]
    back = np.split(made, np.cumsum(sizes)[:-1])
    answers = yield from _exchanged(ranks, back)
    numbers = np.empty(len(theirs), np.int64)
    for which, answer in zip(asked, answers, strict=True):
        numbers[which] = answer
    return numbers, total


def _starts(ranks: Ranks, counts: Array) -> Program[tuple[Array, int]]:
    """The number of the first group of each partition, and how many there are in all."""
    some = np.flatnonzero(counts)
    buffers: list[Array] = []
    header = encode_value((some, counts[some]), buffers)
    everywhere: Array = np.zeros(len(counts), np.int64)
    for piece in (yield from gather_all(ranks, Piece(header, buffers))):
        which, many = decode_value(piece.header, piece.buffers)
        everywhere[which] = many
    ends = np.cumsum(everywhere)
    return ends - everywhere, int(everywhere.sum())


def _exchanged(ranks: Ranks, given: Sequence[Any]) -> Program[list[Any]]:
    """From each rank the value that it has for this one; `given` are those for the others."""
    found: dict[int, Any] = {ranks.own: given[ranks.own]}

    def pieces() -> Iterator[tuple[int, Piece]]:
        for to, value in enumerate(given):
            if to != ranks.own:
                buffers: list[Array] = []
                yield to, Piece(encode_value(value, buffers), buffers)

    def take(source: int, piece: Piece) -> None:
        found[source] = decode_value(piece.header, piece.buffers)

    yield Shuffle(pieces(), take)
    return [found[rank] for rank in range(ranks.size)]

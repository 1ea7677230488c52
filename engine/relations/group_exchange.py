"""Records that meet by the hash of their keys: those of a group at one rank, in table order.

And the groups' numbers by first appearance among the groups of all ranks. A record is known by
its place: the position of its partition among the active ones, and its row there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from scalops.algebra.dtypes import INT64
from scalops.algebra.schema import HIDDEN, Schema
from scalops.engine.block_codec import blocks_of_piece, piece_of_blocks
from scalops.engine.blocks import Array, Block, concatenate
from scalops.engine.collective import Piece, Program, Ranks, Shuffle, gather_all
from scalops.engine.kernels.kernel import Vector
from scalops.engine.kernels.key_words import Words
from scalops.engine.passes import in_partition
from scalops.engine.pipelines.base import Pipeline
from scalops.engine.relations.dealt import PIECE_BYTES, Hold
from scalops.engine.value_codec import decode_value, encode_value

ROW = HIDDEN + "record"  # the column of a record's row in its partition


@dataclass(frozen=True)
class Places:
    """`positions` and `rows`, int64[records] each: where records stand in the table."""

    positions: Array
    rows: Array

    def take(self, which: Array) -> Places:
        """Those of these numbers."""
        return Places(self.positions[which], self.rows[which])


def met(
    pipeline: Pipeline, keys: Sequence[str], ranks: Ranks, hold: Hold
) -> Program[tuple[Block, Places]]:
    """The records of this rank's groups, in table order, and their places.

    Each rank reads its own partitions and streams what it reads; what this one gets is told to
    `hold`.
    """
    schema = Schema((*pipeline.schema.fields, (ROW, INT64)))
    active = pipeline.active()
    found: dict[int, list[Block]] = {}

    def keep(position: int, block: Block) -> None:
        hold(block.bytes)
        found.setdefault(position, []).append(block)

    def pieces() -> Iterator[tuple[int, Piece]]:
        waiting = [_Waiting() for _ in range(ranks.size)]
        for position, partition in enumerate(active):
            if pipeline.home(partition) != ranks.own:
                continue
            for to, block in _by_rank(pipeline, partition, keys, ranks.size):
                if to == ranks.own:
                    keep(position, block)
                    continue
                waiting[to].add(position, block)
                if waiting[to].bytes >= PIECE_BYTES:
                    yield to, waiting[to].taken()
        for to, own in enumerate(waiting):
            if own.blocks:
                yield to, own.taken()

    def take(source: int, piece: Piece) -> None:
        positions, header = piece.header
        blocks = blocks_of_piece(Piece(header, piece.buffers), schema)
        for position, block in zip(positions, blocks, strict=True):
            keep(position, block)

    yield Shuffle(pieces(), take)
    order = sorted(found)
    sizes = [sum(b.rows for b in found[p]) for p in order]
    whole = concatenate([b for p in order for b in found[p]], schema)
    rows: Any = whole.columns[ROW]
    return whole, Places(np.repeat(np.array(order, np.int64), sizes), rows)


@dataclass
class _Waiting:
    """Blocks for one rank, until they are worth a piece."""

    positions: list[int] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    bytes: int = 0

    def add(self, position: int, block: Block) -> None:
        self.positions.append(position)
        self.blocks.append(block)
        self.bytes += block.bytes

    def taken(self) -> Piece:
        piece = piece_of_blocks(self.blocks)
        made = Piece([self.positions, piece.header], piece.buffers)
        self.positions, self.blocks, self.bytes = [], [], 0
        return made


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
            made = block.chosen(names).take(order)
            made.columns[ROW] = order + at
            at += block.rows
            ends = np.searchsorted(to[order], np.arange(size + 1)).tolist()
            for rank, (start, stop) in enumerate(pairwise(ends)):
                if start < stop:
                    yield rank, made.slice(start, stop)


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

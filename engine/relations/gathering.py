"""Records that every rank needs: each computes its own partitions, and all get all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from scalops.algebra.schema import Schema
from scalops.engine.block_codec import blocks_of_piece, piece_of_blocks
from scalops.engine.blocks import Block
from scalops.engine.collective import Piece, Program, Ranks, Shuffle
from scalops.engine.pipelines.base import Pipeline

Parts = list[list[Block]]  # for each active partition its blocks


def own_partitions(pipeline: Pipeline, ranks: Ranks) -> list[int]:
    """The active partitions that this rank reads, in order."""
    active = pipeline.active()
    if ranks.is_alone:
        return list(active)
    return [p for p in active if pipeline.home(p) == ranks.own]


def runs_by_home(pipeline: Pipeline, ranks: Ranks) -> list[tuple[int, list[int]]]:
    """The active partitions in order, as runs that have one home each: (rank, partitions)."""
    if ranks.is_alone:
        return [(0, list(pipeline.active()))]
    return [(rank, list(run)) for rank, run in groupby(pipeline.active(), pipeline.home)]


def spread(
    ranks: Ranks,
    own: dict[int, list[Block]],
    active: Sequence[int],
    schema: Schema,
    received: Callable[[Block], None] = lambda block: None,
) -> Program[Parts]:
    """The blocks of all `active` partitions at every rank, from each rank's `own` ones.

    `received` is told of each block of others'; it may raise where there is no room.
    """
    if ranks.is_alone:
        return [own[p] for p in active]
    found = dict(own)

    def pieces() -> Iterator[tuple[int, Piece]]:
        for partition, blocks in own.items():
            piece = piece_of_blocks(blocks)
            told = Piece([partition, piece.header], piece.buffers)
            yield from ((to, told) for to in range(ranks.size) if to != ranks.own)

    def take(source: int, piece: Piece) -> None:
        partition, header = piece.header
        found[partition] = blocks_of_piece(Piece(header, piece.buffers), schema)
        for block in found[partition]:
            received(block)

    yield Shuffle(pieces(), take)
    return [found[p] for p in active]

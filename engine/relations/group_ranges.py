"""Groups split among ranks in runs of neighbours, with about as many records each.

Every rank knows all groups, and its own part of the records. Those of a group go to the rank that
has it, so that no rank sees more than its share, and no function is called twice for one group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from scalops.algebra.schema import Schema
from scalops.engine.blocks import Array, Block
from scalops.engine.collective import Piece, Program, Ranks, Receive, Send, gather_all
from scalops.engine.relations.group_parts import filled
from scalops.engine.relations.routing import PIECE_BYTES, Arrivals, Run, cut_to, routed
from scalops.engine.spill import SpilledBlocks
from scalops.engine.spilled_memory import Room
from scalops.engine.value_codec import decode_value, encode_value


def split(ranks: Ranks, records: Array) -> Program[list[int]]:
    """Where the groups of each rank begin, and the last ones end: size + 1 numbers.

    `records`, int64[groups], are those of each group that this rank holds; they are added up
    along the tree.
    """
    total = records
    for child in ranks.children:
        piece = yield Receive(child)
        total = total + decode_value(piece.header, piece.buffers)
    bounds: list[int] = []
    if ranks.parent is None:
        bounds = _bounds(total, ranks.size)
    else:
        buffers: list[Array] = []
        yield Send(ranks.parent, Piece(encode_value(total, buffers), buffers))
    (told, *_) = yield from gather_all(ranks, Piece(bounds, []))
    return list(told.header)


def _bounds(records: Array, size: int) -> list[int]:
    """Runs of near-equal weight, a group weighing as much as its records and one more."""
    ends = np.cumsum(records + 1)
    whole = int(ends[-1]) if len(ends) else 0
    cuts = np.searchsorted(ends, [whole * i // size for i in range(1, size)], side="left")
    return [0, *cuts.tolist(), len(ends)]


def sent_to_groups(
    ranks: Ranks,
    block: Block,
    schema: Schema,
    order: Array,
    offsets: Array,
    bounds: Sequence[int],
    room: Room,
) -> Program[Block]:
    """The records of this rank's groups, in table order, kept in a room.

    `block` has this rank's records; those of group i are order[offsets[i]:offsets[i + 1]].
    """
    waiting = SpilledBlocks(room.budget, room.owner, schema)
    arrivals = Arrivals(waiting, schema, [ranks.own], range(ranks.size))
    step = max(1, PIECE_BYTES * max(1, block.rows) // max(1, block.bytes))

    def runs() -> Iterator[tuple[int, Run]]:
        for to in range(ranks.size):
            # Groups may share records, and each has them in table order.
            rows = np.unique(order[offsets[bounds[to]] : offsets[bounds[to + 1]]])
            pieces = (block.take(rows[a : a + step]) for a in range(0, len(rows), step))
            parts = (part for piece in pieces for part in cut_to(piece))
            for number, part in enumerate(parts):
                yield to, Run(ranks.own, number, [(to, part.rows)], part)

    yield from routed(ranks, runs(), arrivals)
    # A stored table's partitions lie at the ranks in order.
    rows = arrivals.rows(ranks.own)
    return filled(arrivals.blocks(ranks.own), rows, schema, room)

"""Tables whose records several ranks make: in their order, at the homes of their partitions.

A small table is held by every rank, a larger one by each only as far as its partitions go. Which
of the two is decided by the number of records, so that all ranks decide alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from scalops.algebra.dtypes import INT64
from scalops.algebra.schema import HIDDEN, Schema
from scalops.engine.block_codec import blocks_of_piece, piece_of_blocks
from scalops.engine.blocks import Array, Block, mask_of, partition_bounds
from scalops.engine.collective import Piece, Program, Ranks, Shuffle, gather_all
from scalops.engine.columns import sliced
from scalops.engine.kernels.kernel import Vector
from scalops.engine.pipelines.base import Identity
from scalops.engine.relations.group_parts import Numbered, give_back, in_order
from scalops.engine.relations.routing import cut_to
from scalops.engine.relations.whole import Columns, Whole
from scalops.engine.spilled_memory import Room

# Neutral: whether records lie at one rank or at all of them changes no bit of what is made of them.
SMALL_BYTES = 1 << 20

NUMBER = HIDDEN + "number"  # the column of a record's number on its way


class Dealt(Whole):
    """Columns of which a rank holds the records of its own partitions; bounds are all known."""

    def __init__(
        self,
        schema: Schema,
        rows: int,
        first: int,
        vectors: Mapping[str, Vector],
        identities: Mapping[str, Identity | None],
    ) -> None:
        """`vectors` hold the records of `rows` from the one of number `first` on."""
        super().__init__(schema, rows)
        self._first, self._vectors, self._identities = first, vectors, identities

    def identity(self, name: str) -> Identity | None:
        return self._identities.get(name) or super().identity(name)

    def whole(self, name: str) -> None:
        """There is none: the other records are at other ranks."""

    def part(self, name: str, start: int, stop: int) -> Vector:
        values, mask = self._vectors[name]
        first, last = start - self._first, stop - self._first
        return sliced(values, first, last), None if mask is None else mask[first:last]


def dealt(
    ranks: Ranks,
    schema: Schema,
    rows: int,
    numbers: Array,
    own: Mapping[str, Vector],
    identities: Mapping[str, Identity | None],
    room: Room,
) -> Program[Whole]:
    """The table of `rows` records of which this rank has made those of `numbers`.

    `numbers`, int64[own records], rise; all ranks' are 0 to rows - 1. One rank at least knows how
    many there are, others may say 0. `own` may be empty where there are none. What the rank gets
    is kept in `room`.
    """
    masks = {n: m for n, (_, m) in own.items() if m is not None}
    made = Block(len(numbers), {n: v for n, (v, _) in own.items()} | {NUMBER: numbers}, masks)
    # A column has a mask where any of its records is null, wherever that is.
    told = yield from gather_all(ranks, Piece([rows, sorted(masks)], []))
    rows = max(piece.header[0] for piece in told)
    masked = {name for piece in told for name in piece.header[1]}
    everywhere = rows * schema.bytes_per_row <= SMALL_BYTES
    wanted = [(0, rows)] * ranks.size if everywhere else _wanted(ranks, schema, rows)
    sent = Schema((*schema.fields, (NUMBER, INT64)))
    found: dict[int, list[Block]] = {}

    def keep(source: int, block: Block) -> None:
        found.setdefault(source, []).append(room.block(block))

    def pieces() -> Iterator[tuple[int, Piece]]:
        for to, (start, stop) in enumerate(wanted):
            first, last = np.searchsorted(numbers, (start, stop)).tolist()
            if first == last:
                continue
            part = made.slice(first, last)
            if to != ranks.own:
                yield from ((to, piece_of_blocks([p])) for p in cut_to(part))
            elif part.rows < made.rows:
                keep(to, part.take(np.arange(part.rows)))  # which does not hold the others' records
            else:
                keep(to, part)

    def take(source: int, piece: Piece) -> None:
        for block in blocks_of_piece(piece, sent):
            keep(source, block)

    yield Shuffle(pieces(), take)
    vectors = _in_order([found[source] for source in sorted(found)], sent, masked, room)
    if everywhere:
        return Columns(schema, rows, vectors, identities)
    return Dealt(schema, rows, wanted[ranks.own][0], vectors, identities)


def _wanted(ranks: Ranks, schema: Schema, rows: int) -> Sequence[tuple[int, int]]:
    """Which records each rank is home of: from which to which."""
    bounds = partition_bounds(rows, schema)
    ends = [start for start, _ in bounds] + [rows]
    ranges = (ranks.range_of(rank, len(bounds)) for rank in range(ranks.size))
    return [(ends[first], ends[last]) for first, last in ranges]


def _in_order(
    found: list[list[Block]], sent: Schema, masked: set[str], room: Room
) -> dict[str, Vector]:
    """The columns, by the records' numbers; those of each source rise."""
    parts = [_one(blocks, sent, room) for blocks in found]
    made = dict(parts[0].vectors) if len(parts) == 1 else None
    if made is None:
        own = Schema(tuple(f for f in sent.fields if f[0] != NUMBER))
        numbers, made = in_order(parts, own, room)
        give_back([numbers, *([p.numbers, list(p.vectors.values())] for p in parts)], room)
    else:
        give_back(parts[0].numbers, room)
    return {n: _masked(vector, n in masked) for n, vector in made.items()}


def _one(blocks: list[Block], sent: Schema, room: Room) -> Numbered:
    """The records of one source in one piece."""
    vectors: dict[str, Vector] = {}
    for name, kind in sent:
        values = [b.columns[name] for b in blocks]
        masks = [b.valid[name] for b in blocks if name in b.valid]
        mask = mask_of(blocks, name)
        if len(blocks) == 1:
            vectors[name] = values[0], mask
            continue
        give_back([values, masks], room)
        vectors[name] = room.joined(values, kind), None if mask is None else room.column(mask)
    numbers, _ = vectors.pop(NUMBER)
    return Numbered(numbers, vectors)


def _masked(vector: Vector, is_masked: bool) -> Vector:
    values, mask = vector
    if not is_masked:
        return values, None
    return values, np.ones(len(values), bool) if mask is None else mask

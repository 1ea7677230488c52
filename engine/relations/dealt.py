"""Tables whose records several ranks make: in their order, at the homes of their partitions.

A small table is held by every rank, a larger one by each only as far as its partitions go. Which
of the two is decided by the number of records, so that all ranks decide alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from scalops.algebra.dtypes import INT64
from scalops.algebra.schema import HIDDEN, Schema
from scalops.engine.block_codec import blocks_of_piece, piece_of_blocks
from scalops.engine.blocks import Array, Block, concatenate, partition_bounds
from scalops.engine.collective import Piece, Program, Ranks, Shuffle, gather_all
from scalops.engine.columns import sliced
from scalops.engine.kernels.kernel import Vector
from scalops.engine.pipelines.base import Identity
from scalops.engine.relations.routing import cut_to
from scalops.engine.relations.whole import Columns, Whole

# Neutral: whether records lie at one rank or at all of them changes no bit of what is made of them.
SMALL_BYTES = 1 << 20

NUMBER = HIDDEN + "number"  # the column of a record's number on its way

Hold = Callable[[int], None]  # finds room for so many bytes, or raises


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
    hold: Hold,
) -> Program[Whole]:
    """The table of `rows` records of which this rank has made those of `numbers`.

    `numbers`, int64[own records], rise; all ranks' are 0 to rows - 1. One rank at least knows how
    many there are, others may say 0. `own` may be empty where there are none. What the rank gets
    to hold is told to `hold`.
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
    found: list[Block] = []

    def keep(block: Block) -> None:
        hold(block.bytes)
        found.append(block)

    def pieces() -> Iterator[tuple[int, Piece]]:
        for to, (start, stop) in enumerate(wanted):
            first, last = np.searchsorted(numbers, (start, stop)).tolist()
            if first == last:
                continue
            part = made.slice(first, last)
            if to != ranks.own:
                yield from ((to, piece_of_blocks([p])) for p in cut_to(part))
            elif part.rows < made.rows:
                keep(part.take(np.arange(part.rows)))  # which does not hold the others' records
            else:
                keep(part)

    def take(source: int, piece: Piece) -> None:
        for block in blocks_of_piece(piece, sent):
            keep(block)

    yield Shuffle(pieces(), take)
    vectors = _in_order(found, sent, masked)
    if everywhere:
        return Columns(schema, rows, vectors, identities)
    return Dealt(schema, rows, wanted[ranks.own][0], vectors, identities)


def _wanted(ranks: Ranks, schema: Schema, rows: int) -> Sequence[tuple[int, int]]:
    """Which records each rank is home of: from which to which."""
    bounds = partition_bounds(rows, schema)
    ends = [start for start, _ in bounds] + [rows]
    ranges = (ranks.range_of(rank, len(bounds)) for rank in range(ranks.size))
    return [(ends[first], ends[last]) for first, last in ranges]


def _in_order(found: list[Block], sent: Schema, masked: set[str]) -> dict[str, Vector]:
    """The columns, by the records' numbers."""
    whole = concatenate(found, sent)
    numbers: Any = whole.columns.pop(NUMBER)
    if np.any(numbers[1:] < numbers[:-1]):
        whole = whole.take(np.argsort(numbers))
    ones: Array = np.ones(whole.rows, bool)
    return {
        n: (values, whole.valid.get(n, ones) if n in masked else None)
        for n, values in whole.columns.items()
    }

"""Keys that every rank has to find in one index: each finds a part of them, all learn the rest.

The index and the keys lie at every rank, so that any of them could find all; what each finds are
places in the index, which is the same everywhere. Who finds what is a neutral decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from scalops.engine.collective import Piece, Program, Ranks, Shuffle
from scalops.engine.column_codec import decode_array, encode_array
from scalops.engine.columns import Array, sliced
from scalops.engine.kernels.keys import Key
from scalops.engine.kernels.matching import KeyIndex, Matches, looked_up
from scalops.engine.relations.base import Run
from scalops.engine.spilled_memory import Room

# Neutral: to find fewer takes a rank some milliseconds, about as long as to wait for the others.
SHARED_ROWS = 1 << 16
_PIECE_ROWS = 1 << 16  # whose places and numbers take a mebibyte


def looked_up_by_all(
    ranks: Ranks, index: KeyIndex, keys: Sequence[Key], rows: int, run: Run, memory: Room
) -> Program[Matches]:
    """The matches of all records at every rank; they lie in this memory."""
    if ranks.is_alone or rows < SHARED_ROWS:
        return looked_up(index, keys, rows, run, memory)
    bounds = [rows * r // ranks.size for r in range(ranks.size + 1)]
    start, stop = bounds[ranks.own], bounds[ranks.own + 1]
    part = [(sliced(v, start, stop), None if m is None else m[start:stop]) for v, m in keys]
    own = looked_up(index, part, stop - start, run, memory)
    first = memory.empty(rows, own.first.dtype)
    counts = None if own.counts is None else memory.empty(rows, own.counts.dtype)

    def put(at: int, found: Matches) -> None:
        part = slice(at, at + len(found.first))
        first[part] = found.first
        if counts is not None:
            counts[part] = found.counts

    def take(source: int, piece: Piece) -> None:
        at, told = piece.header
        put(at, decode_matches(told, piece.buffers))

    put(start, own)
    yield Shuffle(_pieces(ranks, own, start), take)
    memory.drop(own.first, own.counts)
    return Matches(first, counts, own.order)


def encode_matches(matches: Matches, buffers: list[Array]) -> list[Any]:
    """What is sent of them: not the order of the index, in which they are places."""
    arrays = (matches.first, matches.counts)
    return [encode_array(a, buffers) for a in arrays if a is not None]


def decode_matches(told: Sequence[Any], buffers: Sequence[Array]) -> Matches:
    """The matches again, without an order."""
    return Matches(*(decode_array(item, buffers) for item in told))


def _pieces(ranks: Ranks, own: Matches, start: int) -> Iterator[tuple[int, Piece]]:
    """What this rank has found, to each of the others."""
    for at in range(0, len(own.first), _PIECE_ROWS):
        part = slice(at, at + _PIECE_ROWS)
        buffers: list[Array] = []
        some = Matches(own.first[part], None if own.counts is None else own.counts[part])
        piece = Piece([start + at, encode_matches(some, buffers)], buffers)
        yield from ((to, piece) for to in range(ranks.size) if to != ranks.own)

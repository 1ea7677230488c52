"""Keys that every rank has to find in one index: each finds a part of them, all learn the rest.

The index and the keys lie at every rank, so that any of them could find all; what each finds are
places in the index, which is the same everywhere. Who finds what is a neutral decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from scalops.engine.collective import Piece, Program, Ranks, Shuffle
from scalops.engine.column_codec import decode_array, encode_array
from scalops.engine.columns import Array, sliced
from scalops.engine.kernels.keys import Key
from scalops.engine.kernels.matching import KeyIndex, Matches, looked_up
from scalops.engine.relations.base import Run

# Neutral: to find fewer takes a rank some milliseconds, about as long as to wait for the others.
SHARED_ROWS = 1 << 16
_PIECE_ROWS = 1 << 16  # whose places and numbers take a mebibyte


def looked_up_by_all(
    ranks: Ranks, index: KeyIndex, keys: Sequence[Key], rows: int, run: Run
) -> Program[list[tuple[Matches, int]]]:
    """The matches of all records at every rank: chunks, each with its first record's number."""
    if ranks.is_alone or rows < SHARED_ROWS:
        return looked_up(index, keys, rows, run)
    bounds = [rows * r // ranks.size for r in range(ranks.size + 1)]
    start, stop = bounds[ranks.own], bounds[ranks.own + 1]
    part = [(sliced(v, start, stop), None if m is None else m[start:stop]) for v, m in keys]
    parts = [m for m, _ in looked_up(index, part, stop - start, run)]
    own = Matches(
        np.concatenate([m.first for m in parts]),
        None if index.unique else np.concatenate([_counts(m) for m in parts]),
    )
    first: Array = np.empty(rows, own.first.dtype)
    counts = None if own.counts is None else np.empty(rows, own.counts.dtype)

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
    return [(Matches(first, counts, parts[0].order), 0)]


def encode_matches(matches: Matches, buffers: list[Array]) -> list[Any]:
    """What is sent of them: not the order of the index, in which they are places."""
    arrays = (matches.first, matches.counts)
    return [encode_array(a, buffers) for a in arrays if a is not None]


def decode_matches(told: Sequence[Any], buffers: Sequence[Array]) -> Matches:
    """The matches again, without an order."""
    return Matches(*(decode_array(item, buffers) for item in told))


def _counts(matches: Matches) -> Array:
    assert matches.counts is not None
    return matches.counts


def _pieces(ranks: Ranks, own: Matches, start: int) -> Iterator[tuple[int, Piece]]:
    """What this rank has found, to each of the others."""
    for at in range(0, len(own.first), _PIECE_ROWS):
        part = slice(at, at + _PIECE_ROWS)
        buffers: list[Array] = []
        some = Matches(own.first[part], None if own.counts is None else own.counts[part])
        piece = Piece([start + at, encode_matches(some, buffers)], buffers)
        yield from ((to, piece) for to in range(ranks.size) if to != ranks.own)

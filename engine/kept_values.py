"""Values that folds keep until a pass ends, in pieces: in memory, or in a file.

They grow with the table. So a piece that is not small is counted, and lies in a mapped file where
the budget has no room. That is neutral: which values a fold is given at the end, and in what
order, is the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scalops.algebra.dtypes import INT64, ArrayType
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Block
from scalops.engine.columns import Array, ColumnData, concatenated, filtered, sliced
from scalops.engine.free_memory import give_back
from scalops.engine.kernels.keys import bits_of, first_of_equals
from scalops.engine.memory import MemoryBudget
from scalops.engine.relations.group_parts import coded_bytes
from scalops.engine.relations.group_records import PLACE, Parts
from scalops.engine.spilled_memory import Room, is_spilled

COUNTED_BYTES = 1 << 16  # what is less is not counted: there are few such pieces
FULL_BYTES = 1 << 18  # of a piece with which no other is put together, unless it must be
_TRIM_BYTES = 1 << 22  # put together: the allocators are asked to keep nothing for later
_CHUNK = 1 << 16  # values that are moved at once
_VALUE = "value"


class KeptValues:
    """What one set of folds keeps. Threads may share it."""

    def __init__(self, budget: MemoryBudget | None = None, owner: str = "kept values") -> None:
        """Without a budget memory is unlimited."""
        self._budget, self._owner = budget or MemoryBudget(), owner
        self._room = Room(self._budget, owner)

    def forget(self) -> None:
        """Give all back: a pass begins, or has ended."""
        self._budget.release(self._owner)
        self._room = Room(self._budget, self._owner)

    def keep(self, values: ColumnData) -> ColumnData:
        """Values in memory of their own, to be kept: themselves, or the same in a file."""
        return values if values.nbytes < COUNTED_BYTES else self._room.column(values)

    def joined(self, pieces: list[ColumnData], kind: ArrayType) -> ColumnData:
        """The values of consecutive pieces as one, which nobody else has.

        The pieces are given back: the list is empty afterwards, so that they go.
        """
        size = sum(int(p.nbytes) for p in pieces)
        if size < COUNTED_BYTES:
            made = concatenated(pieces, kind)
        else:  # what is large has a file of its own, which goes with it
            room = self._room if size <= FULL_BYTES else Room(self._budget, self._owner)
            made = room.joined(pieces, kind) if len(pieces) > 1 else pieces[0]
        if len(pieces) > 1:
            self._drop(*pieces)
        pieces.clear()
        if size >= _TRIM_BYTES:
            give_back()  # what earlier pieces took: the budget has given it to others by now
        return made

    def distinct(self, pieces: list[ColumnData], kind: ArrayType) -> ColumnData:
        """The values that differ, of pieces, which are given back as by `joined`.

        NaN is one value, and 0.0 and -0.0 are one. The order of values does not matter.
        """
        if all(is_plain(p) for p in pieces):
            return self._distinct_words(pieces, kind)
        if self._is_small(pieces):
            return self.keep(_distinct(self.joined(pieces, kind), kind))
        found = [self.keep(own) for own in self._by_part(pieces, kind)]
        return self.joined(found, kind)

    def count(self, pieces: list[ColumnData], kind: ArrayType) -> int:
        """How many values differ, of pieces, which are given back as by `joined`."""
        if all(is_plain(p) for p in pieces) or self._is_small(pieces):
            return len(self.distinct(pieces, kind))
        return sum(len(own) for own in self._by_part(pieces, kind))

    def _distinct_words(self, pieces: list[ColumnData], kind: ArrayType) -> Array:
        """Of words: sorted, and moved up, where they lie."""
        is_one = len(pieces) == 1
        words = self.joined(pieces, kind)
        assert isinstance(words, np.ndarray)
        if is_one:
            return words
        words.sort()
        count = moved_up(words)
        made = words[:count]
        if is_spilled(words) or count == len(words):
            return made
        own = made.copy()
        if words.nbytes >= COUNTED_BYTES:
            self._drop(words)
        kept = self.keep(own)
        assert isinstance(kept, np.ndarray)
        return kept

    def _is_small(self, pieces: list[ColumnData]) -> bool:
        most = coded_bytes(self._budget)
        return most is None or sum(int(p.nbytes) for p in pieces) <= most

    def _by_part(self, pieces: list[ColumnData], kind: ArrayType) -> Iterator[ColumnData]:
        """The values that differ, part by part of their hashes, which lie in a file meanwhile."""
        schema = Schema(((_VALUE, kind), (PLACE, INT64)))
        most = coded_bytes(self._budget) or 0
        parts = Parts(schema, [_VALUE], self._budget, self._owner, most=most)
        at = 0
        pieces.reverse()
        while pieces:
            piece = pieces.pop()
            step = max(1, len(piece) * FULL_BYTES // max(1, int(piece.nbytes)))
            for start in range(0, len(piece), step):
                own = sliced(piece, start, min(start + step, len(piece)))
                numbers = np.arange(at, at + len(own))
                parts.add(numbers, Block(len(own), {_VALUE: own}))
                at += len(own)
            self._drop(piece)
        for block in parts.drained(Room(self._budget, self._owner)):
            yield _distinct(block.columns[_VALUE], kind)

    def _drop(self, *pieces: ColumnData) -> None:
        """Give back what counts of pieces that nobody needs any more."""
        self._room.drop(*(p for p in pieces if p.nbytes >= COUNTED_BYTES))


def is_plain(values: ColumnData) -> bool:
    """Whether each value is one word: a number, a truth or a moment."""
    return isinstance(values, np.ndarray) and values.ndim == 1


def words_of(values: Array) -> Array:
    """The words of values that differ, in order: equal ones for equal values; a new array."""
    if values.dtype.kind == "b":
        values = values.view(np.uint8)
    words = bits_of(values)
    own: Array = words if not np.may_share_memory(words, values) else words.copy()
    own.sort()
    return own[: moved_up(own)].copy()


def moved_up(words: Array) -> int:
    """Let sorted words begin with those that differ; how many these are."""
    count = 0
    for start in range(0, len(words), _CHUNK):
        own = words[start : start + _CHUNK].copy()
        new: Array = np.ones(len(own), bool)
        new[1:] = own[1:] != own[:-1]
        if count:
            new[0] = own[0] != words[count - 1]
        found = own[new]
        words[count : count + len(found)] = found
        count += len(found)
    return count


def _distinct(values: ColumnData, kind: ArrayType) -> ColumnData:
    block = Block(len(values), {_VALUE: values})
    return filtered(values, first_of_equals(block, ((_VALUE, kind),)))

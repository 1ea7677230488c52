"""Partials of groups, merged as a whole or part by part: the same additions in the same order.

Two partials that are merged are those of consecutive records, whole tables of groups. Which are
merged, and when, follows from how many groups each has, whether these lie in one piece or in
parts. Merged part by part, each group meets the partial that it meets in one piece, and no other:
a part has all groups whose keys' hashes begin alike, of both sides. A merge works on each group by
itself (`grouped_forms.GroupedForm.merge`), so that its bits are the same.

Left's groups come before those that only right has. In one piece their places say so; in parts each
group has a number, which is its place in what it came from, behind all numbers of what came before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Array
from scalops.engine.columns import taken
from scalops.engine.kernels.grouped_folds import GroupedFolds
from scalops.engine.kernels.grouping import Groups
from scalops.engine.kernels.kept_folds import together
from scalops.engine.kernels.kernel import Vector
from scalops.engine.memory import MemoryBudget
from scalops.engine.relations.group_parts import (
    Numbered,
    by_part,
    column_bytes,
    give_back,
    hashes_of,
    in_order,
    kept,
    part_bytes,
)
from scalops.engine.spilled_memory import Room

SMALL_BYTES = 1 << 14  # what is less is not counted
MOST_BITS = 10  # of the hash: more parts than 1,024 are not made
GroupsOf = Callable[[Sequence[Vector], int], tuple[Groups, Array]]


@dataclass
class Partial:
    """Groups by first appearance: their keys, and the partials of each computation.

    `numbers`, int64[count], rise; None: those from 0 on. Where there is a `room`, it counts them.
    """

    count: int
    keys: list[Vector]
    folds: list[Any]
    numbers: Array | None = None
    room: Room | None = None

    @property
    def bytes(self) -> int:
        """Of its columns."""
        return column_bytes((self.keys, self.folds))

    @property
    def span(self) -> int:
        """Above all numbers."""
        return self.count

    @property
    def bits(self) -> int:
        """Of the hash, by which it is in parts."""
        return 0


@dataclass
class Parted:
    """The same by the first `bits` bits of the keys' hashes; numbers are below `span`."""

    parts: list[Partial | None]
    span: int
    bits: int
    bytes: int = field(init=False, default=0)
    count: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        made = [p for p in self.parts if p is not None]
        self.count, self.bytes = sum(p.count for p in made), sum(p.bytes for p in made)


Partials: TypeAlias = "Partial | Parted"


class Merger:
    """Merges the partials of these folds, by keys of these types."""

    def __init__(
        self,
        folds: GroupedFolds,
        kinds: Sequence[ArrayType],
        groups_of: GroupsOf,
        budget: MemoryBudget,
        owner: str,
    ) -> None:
        self._folds, self._kinds, self._groups_of = folds, kinds, groups_of
        self._budget, self._owner = budget, owner

    def merge(self, left: Partials, right: Partials) -> Partials:
        """The groups of left's records followed by right's; neither is used any more."""
        most, size = part_bytes(self._budget), left.bytes + right.bytes
        fits = most is None or size <= most
        if fits and isinstance(left, Partial) and isinstance(right, Partial):
            _give_back(left, right)
            made = self._merged(left, right)
            _empty(left, right)
            return made
        parts = 1 if most is None else -(-size // most)
        bits = min(MOST_BITS, (parts - 1).bit_length())
        return self._by_part(left, right, max(bits, left.bits, right.bits))

    def kept(self, partial: Partials) -> Partials:
        """The same, to be kept for some time: in memory if there is room."""
        if isinstance(partial, Parted) or partial.room is not None:
            return partial
        if partial.bytes < SMALL_BYTES:
            return partial
        return self._in_room(partial, Room(self._budget, self._owner))

    def finished(self, made: Partials, schema: Schema, room: Room) -> tuple[int, list[Vector]]:
        """How many groups there are, and their columns, which are `schema`'s, in order."""
        if isinstance(made, Partial):
            return made.count, [*made.keys, *self._folds.finish(made.folds, made.count)]
        found: list[Numbered] = []
        for own in _drained(made):
            if own.count == 0:
                continue
            assert own.numbers is not None
            vectors = [*own.keys, *self._folds.finish(own.folds, own.count)]
            columns = dict(zip(schema.names, kept(vectors, room), strict=True))
            found.append(Numbered(kept(own.numbers, room), columns))
            _give_back(own)
        _, ordered = in_order(found, schema, room, part_bytes(self._budget))
        return made.count, [ordered[n] for n in schema.names]

    def _merged(self, left: Partial, right: Partial) -> Partial:
        keys = together([left.keys, right.keys], self._kinds)
        groups, firsts = self._groups_of(keys, left.count + right.count)
        count = len(firsts)
        # Left's groups differ, so that their numbers are those they have.
        folds = self._folds.merge(left.folds, right.folds, groups.ids[left.count :], count)
        numbers = left.numbers
        if numbers is not None and right.numbers is not None:
            new = right.numbers[firsts[left.count :] - left.count]
            numbers = np.concatenate([numbers, new])
        if count == left.count:
            return Partial(count, left.keys, folds, numbers)
        return Partial(count, [_taken(k, firsts) for k in keys], folds, numbers)

    def _by_part(self, left: Partials, right: Partials, bits: int) -> Parted:
        room = Room(self._budget, self._owner)
        made: list[Partial | None] = []
        span = left.span + right.span
        pairs = zip(self._cut(left, bits, 0), self._cut(right, bits, left.span), strict=True)
        for own, other in pairs:
            made.append(self._in_room(self._merged(own, other), room))
        return Parted(made, span, bits)

    def _in_room(self, partial: Partial, room: Room) -> Partial:
        keys, folds = kept(partial.keys, room), kept(partial.folds, room)
        return Partial(partial.count, keys, folds, kept(partial.numbers, room), room)

    def _cut(self, partial: Partials, bits: int, offset: int) -> Iterator[Partial]:
        """The parts by so many bits, one after the other, with `offset` more as numbers."""
        if isinstance(partial, Partial):
            yield from self._parts_of(partial, 0, bits, offset)
            _give_back(partial)
            _empty(partial)
            return
        for own in _drained(partial):
            yield from self._parts_of(own, partial.bits, bits - partial.bits, offset)
            _give_back(own)

    def _parts_of(self, own: Partial, before: int, bits: int, offset: int) -> Iterator[Partial]:
        numbers = np.arange(own.count) if own.numbers is None else own.numbers
        if offset:
            numbers = numbers + offset
        if not bits:
            yield Partial(own.count, own.keys, own.folds, numbers)
            return
        order, starts = by_part(hashes_of(own.keys, own.count), before, bits)
        ends = starts.tolist()
        for start, stop in pairwise(ends):
            rows = order[start:stop]
            keys = [_taken(k, rows) for k in own.keys]
            folds = self._folds.take(own.folds, rows, own.count)
            yield Partial(len(rows), keys, folds, numbers[rows])


def _drained(parted: Parted) -> Iterator[Partial]:
    """The parts, each dropped once it was used."""
    for i, own in enumerate(parted.parts):
        assert own is not None
        parted.parts[i] = None
        yield own
        del own


def _give_back(*partials: Partial) -> None:
    for own in partials:
        if own.room is not None:
            give_back((own.keys, own.folds, own.numbers), own.room)
            own.room = None


def _empty(*partials: Partial) -> None:
    """Drop the columns of partials that are done: who still holds them holds no memory."""
    for own in partials:
        own.keys, own.folds, own.numbers = [], [], None


def _taken(vector: Vector, rows: Array) -> Vector:
    values, mask = vector
    own = None if mask is None else mask[rows]
    return taken(values, rows), own if own is not None and not own.all() else None

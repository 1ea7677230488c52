"""The numbers of records, found and kept piece by piece: as many as a table has, in a room."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scalops.engine.columns import Array
from scalops.engine.kernels.matching import Matches, Pairs
from scalops.engine.spilled_memory import Room, is_spilled

# Neutral. Of 1 GiB in rows of 128 bytes, in a process that may have 512 MiB, 4,096 rows in random
# order took 41 s and 53 s on a busy disk, 6 s and 2 s in the file's order.
SORTED_BYTES = 64 << 20
PIECE_ROWS = 1 << 18  # what is made at a time outside the room


class Positions:
    """The number of each record in some table, -1 for none; what follows from it, once."""

    def __init__(self, numbers: Array, room: Room) -> None:
        """`numbers` lie in the room, and so does the rest."""
        self.numbers = numbers
        self.there: Array | None = None  # which have one; None: all
        self.places = numbers  # 0 for those that have none
        if len(numbers) and int(numbers.min()) < 0:
            self.there = room.empty(len(numbers), np.bool_)
            self.places = room.empty(len(numbers), numbers.dtype)
            for own in pieces(len(numbers)):
                np.greater_equal(numbers[own], 0, out=self.there[own])
                np.maximum(numbers[own], 0, out=self.places[own])

    def keep(self, room: Room) -> None:
        """Count them in this room from now on."""
        numbers = room.column(self.numbers)
        if self.there is not None:
            self.there, self.places = room.column(self.there), room.column(self.places)
        else:
            self.places = numbers
        self.numbers = numbers


def pieces(count: int) -> list[slice]:
    """The records 0..count-1, PIECE_ROWS at a time."""
    return [slice(a, min(a + PIECE_ROWS, count)) for a in range(0, count, PIECE_ROWS)]


def numbers_where(flags: Callable[[slice], Array], count: int, room: Room) -> Array:
    """int64[...]: the numbers of the records, of `count`, whose flag is true."""
    found = sum(int(np.count_nonzero(flags(own))) for own in pieces(count))
    made, at = room.empty(found, np.int64), 0
    for own in pieces(count):
        rows = np.flatnonzero(flags(own))
        np.add(rows, own.start, out=made[at : at + len(rows)])
        at += len(rows)
    return made


def taken_by(values: Array, places: Array, room: Room) -> Array:
    """The values at these places, none of which is negative."""
    made = room.empty((len(places), *values.shape[1:]), values.dtype)
    for own in pieces(len(places)):
        made[own] = rows_at(values, places[own])
    return made


def rows_at(values: Array, places: Array) -> Array:
    """The same of a block: those of a large file are read in the file's order, each page once."""
    if values.nbytes < SORTED_BYTES or not is_spilled(values):
        return values.take(places, axis=0)
    order = np.argsort(places)
    made: Array = np.empty((len(places), *values.shape[1:]), values.dtype)
    made[order] = values.take(places.take(order), axis=0)
    return made


def all_pairs(matches: Matches, outer: bool, room: Room) -> tuple[Array, Array]:
    """The records and the positions of what they match, pair by pair: two of int64[pairs].

    With `outer` also those that match none: -1.
    """
    first, counts, order = matches
    count = len(first)
    if counts is None and outer:
        raise AssertionError("each record is a pair")
    if counts is None:
        rows = numbers_where(lambda own: first[own] >= 0, count, room)
        return rows, taken_by(first, rows, room)
    least = 1 if outer else 0
    total = sum(int(np.maximum(counts[own], least).sum(dtype=np.int64)) for own in pieces(count))
    rows, positions = room.empty(total, np.int64), room.empty(total, np.int64)
    at = 0
    for own in pieces(count):
        pairs = Pairs(Matches(first[own], counts[own], order), outer)
        for part in pieces(pairs.total):
            found, places = pairs.piece(part.start, part.stop)
            end = at + len(found)
            np.add(found, own.start, out=rows[at:end])
            positions[at:end] = places
            at = end
    return rows, positions


def is_every(numbers: Array, count: int) -> bool:
    """Whether these are the numbers of all `count` records, in order."""
    if len(numbers) != count:
        return False
    return all(bool((numbers[p] == np.arange(p.start, p.stop)).all()) for p in pieces(count))

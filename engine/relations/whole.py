"""Tables whose columns lie in one piece each: what positions can point into."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scalops.algebra.schema import Schema
from scalops.engine.blocks import Array, Block, block_rows, partition_bounds
from scalops.engine.columns import blank, sliced, taken
from scalops.engine.kernels.kernel import Vector
from scalops.engine.pipelines.base import Identity, Stored, derived
from scalops.engine.relations.positions import Positions, rows_at, taken_by
from scalops.engine.spilled_memory import Room


class Whole(Stored):
    """A table with whole columns; blocks are parts of them, of bounds that the rows decide."""

    def __init__(self, schema: Schema, rows: int) -> None:
        self.schema, self.count = schema, rows
        self.bytes = rows * schema.bytes_per_row
        self._bounds = partition_bounds(rows, schema)
        self._step = block_rows(schema)

    def partitions(self) -> int:
        return len(self._bounds)

    def rows(self, partition: int) -> int:
        start, stop = self._bounds[partition]
        return stop - start

    def held(self, partition: int) -> list[Block]:
        return list(self.blocks(partition, 0))

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        return self.chosen(partition, worker, self.schema.names)

    def chosen(self, partition: int, worker: int, names: tuple[str, ...]) -> Iterator[Block]:
        first, last = self._bounds[partition]
        for start in range(first, last, self._step):
            stop = min(start + self._step, last)
            block = Block(stop - start, {})
            for name in names:
                values, mask = self.part(name, start, stop)
                block.columns[name] = values
                if mask is not None:
                    block.valid[name] = mask
            yield block

    def part(self, name: str, start: int, stop: int) -> Vector:
        """The records start..stop-1 of a column."""
        raise NotImplementedError

    def held_whole(self, name: str) -> Vector | None:
        """A column in one piece, if it lies so: none is put together."""
        return self.whole(name)

    def at(self, name: str, positions: Array) -> Vector:
        """The records of these numbers, in this order; -1 gives a null."""
        whole = self.whole(name)
        assert whole is not None
        return gathered(whole, positions, self.schema, name)


def gathered(vector: Vector, positions: Array, schema: Schema, name: str) -> Vector:
    """A column's records of these numbers; -1 gives a null."""
    values, mask = vector
    if not len(positions) or int(positions.min()) >= 0:
        return taken(values, positions), None if mask is None else mask[positions]
    there: Array = positions >= 0
    kind = schema[name]
    if not len(values):
        return blank(kind, len(positions)), there
    places = np.where(there, positions, 0)
    if kind.is_arrow:
        import pyarrow as pa

        made = values.take(pa.array(positions, mask=~there))
        return made, there if mask is None else there & mask[places]
    return taken(values, places), there if mask is None else there & mask[places]


def kept(vector: Vector, room: Room) -> Vector:
    """A column with its mask, to be kept in a room."""
    values, mask = vector
    return room.column(values), None if mask is None else room.column(mask)


class Columns(Whole):
    """Columns in one piece each; `identities` of those that are known to be others' as well."""

    def __init__(
        self,
        schema: Schema,
        rows: int,
        vectors: Mapping[str, Vector],
        identities: Mapping[str, Identity | None] | None = None,
    ) -> None:
        super().__init__(schema, rows)
        self._vectors, self._identities = dict(vectors), identities or {}

    def is_everywhere(self) -> bool:
        return True

    def identity(self, name: str) -> Identity | None:
        return self._identities.get(name) or super().identity(name)

    def whole(self, name: str) -> Vector:
        return self._vectors[name]

    def keep(self, names: Iterable[str], room: Room) -> None:
        """Count these columns in a room from now on; those that find none move to a file."""
        for name in names:
            self._vectors[name] = kept(self._vectors[name], room)

    def part(self, name: str, start: int, stop: int) -> Vector:
        values, mask = self._vectors[name]
        return sliced(values, start, stop), None if mask is None else mask[start:stop]


@dataclass(frozen=True)
class Side:
    """Where the columns of one side of a mapped table come from.

    Without `positions` record by record. `identity` tells the positions apart.
    """

    table: Whole
    positions: Positions | None
    identity: Identity | None

    def column(self, name: str, start: int, stop: int) -> Vector:
        """A column for the records start..stop-1 of those that have positions."""
        assert self.positions is not None
        there = self.positions.there
        whole = self.table.held_whole(name)
        plain = whole is not None and isinstance(whole[0], np.ndarray) and len(whole[0]) > 0
        if whole is None or not plain:
            return self.table.at(name, self.positions.numbers[start:stop])
        values, mask = whole
        places = self.positions.places[start:stop]
        made = rows_at(values, places)
        known = None if there is None else there[start:stop]
        if mask is not None:
            own = mask.take(places)
            known = own if known is None else known & own
        return made, known

    def gathered(self, name: str, room: Room) -> Vector:
        """The column of all records that have positions, kept in a room."""
        assert self.positions is not None
        there, places = self.positions.there, self.positions.places
        whole = self.table.whole(name)
        assert whole is not None
        values, mask = whole
        if not isinstance(values, np.ndarray) or not len(values):
            return kept(self.column(name, 0, len(places)), room)
        made = taken_by(values, places, room)
        if mask is None:
            return made, there
        known = taken_by(mask, places, room)
        if there is not None:
            np.logical_and(known, there, out=known)
        return made, known


class Mapped(Whole):
    """Columns of other tables at positions: gathered when they are read.

    `outputs`: (name, number of the side, its column). What is gathered whole goes to the `room`
    and to `kept`, where the next iteration's table finds what has not changed; so do columns of
    the identities `settled`, which were the same in the last iteration.
    """

    def __init__(
        self,
        schema: Schema,
        rows: int,
        sides: Sequence[Side],
        outputs: Sequence[tuple[str, int, str]],
        room: Room,
        kept: dict[Identity, Vector],
        settled: frozenset[Identity] = frozenset(),
    ) -> None:
        super().__init__(schema, rows)
        self._room = room
        self._sides = sides
        self._settled = settled
        self._outputs = {name: (side, column) for name, side, column in outputs}
        self._kept = kept
        self._lock = threading.Lock()

    def is_everywhere(self) -> bool:
        return all(side.table.is_everywhere() for side in self._sides)

    def identity(self, name: str) -> Identity | None:
        number, column = self._outputs[name]
        side = self._sides[number]
        own = side.table.identity(column)
        if side.positions is None or own is None:
            return own
        return None if side.identity is None else derived("at", side.identity, own)

    def source(self, name: str) -> tuple[Side, str]:
        """The side that a column comes from, and its name there."""
        number, column = self._outputs[name]
        return self._sides[number], column

    def whole(self, name: str) -> Vector:
        number, column = self._outputs[name]
        side = self._sides[number]
        if side.positions is None:
            found = side.table.whole(column)
            assert found is not None
            return found
        identity = self.identity(name) or derived("fresh", self.serial, name)
        with self._lock:
            if identity not in self._kept:
                self._kept[identity] = side.gathered(column, self._room)
            return self._kept[identity]

    def part(self, name: str, start: int, stop: int) -> Vector:
        number, column = self._outputs[name]
        side = self._sides[number]
        if side.positions is None:
            return side.table.part(column, start, stop)
        identity = self.identity(name) or b""
        if identity in self._kept or identity in self._settled:
            values, mask = self.whole(name)
            return sliced(values, start, stop), None if mask is None else mask[start:stop]
        return side.column(column, start, stop)

    def held_whole(self, name: str) -> Vector | None:
        number, column = self._outputs[name]
        side = self._sides[number]
        if side.positions is None:
            return side.table.held_whole(column)
        return self._kept.get(self.identity(name) or b"")

    def at(self, name: str, positions: Array) -> Vector:
        number, column = self._outputs[name]
        side = self._sides[number]
        if side.positions is None:
            return side.table.at(column, positions)
        numbers = side.positions.numbers
        if not len(numbers):
            return blank(self.schema[name], len(positions)), np.zeros(len(positions), bool)
        there = positions >= 0
        return side.table.at(column, np.where(there, numbers[np.where(there, positions, 0)], -1))

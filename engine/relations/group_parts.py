"""Groups in parts, by the hash of their keys, where all of them together find no room.

A part is small enough to be worked on in memory; the others lie in files meanwhile. What a group
gives depends on its own records, or partials, and on their order alone; a part has all of those of
its groups, in the order in which the whole has them. So each group gives the same bits, however
many parts there are. Each group carries a number that rises by first appearance, and so do the
groups of a part: at the end the parts are merged by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from scalops.algebra.schema import Schema
from scalops.engine.blocks import Array, Block
from scalops.engine.columns import ColumnData, SparseColumn, concatenated, empty, sliced, taken
from scalops.engine.kernels.kernel import Vector
from scalops.engine.kernels.key_words import Words
from scalops.engine.memory import MemoryBudget
from scalops.engine.spilled_memory import Room, is_spilled

# Neutral: into how many parts groups go changes no bit.
PART_SHARE = 1 / 16  # of the budget: what is worked on at once; that takes a few times as much
LEAST_PART = 1 << 20  # bytes: smaller parts are not worth their files
PART_BITS = 6  # of the hash: 64 parts where it is not known how many there should be
HASH_BITS = 64
CODED_SHARE = 4  # of a part: equal values are found in so much less at once, by hash tables


def part_bytes(budget: MemoryBudget) -> int | None:
    """How large a part may be; None where memory is unlimited."""
    if budget.limit is None:
        return None
    return max(LEAST_PART, int(PART_SHARE * budget.limit))


def coded_bytes(budget: MemoryBudget) -> int | None:
    """How many bytes of values may be looked through for equal ones at once.

    Hash tables and codes take up to 20 times as much. None where memory is unlimited.
    """
    most = part_bytes(budget)
    return None if most is None else max(LEAST_PART, most // CODED_SHARE)


def hashes_of(keys: Sequence[Vector], rows: int) -> Array:
    """uint64[rows]: equal for the records of a group, whose keys these columns are."""
    if not keys:
        return np.zeros(rows, np.uint64)
    return Words(keys, rows, nulls_equal=True).hashes(0, rows)


def by_part(hashes: Array, before: int, bits: int) -> tuple[Array, Array]:
    """The records of part 0, of part 1, ..., each in order, and where each part's begin.

    int64[records] and int64[parts + 1]; the part is the `bits` bits of the hash behind the first
    `before`.
    """
    kept = HASH_BITS - before - bits
    numbers = (hashes >> np.uint64(kept)) & np.uint64((1 << bits) - 1) if bits else hashes * 0
    order = np.argsort(numbers, kind="stable")
    return order, np.searchsorted(numbers[order], np.arange((1 << bits) + 1))


def column_bytes(held: Any, counted: Callable[[ColumnData], bool] = lambda column: True) -> int:
    """Bytes of the columns in what is held, however nested: of those that count."""
    if isinstance(held, (np.ndarray, SparseColumn, pa.Array)):
        return int(held.nbytes) if counted(held) else 0
    if isinstance(held, Iterable) and not isinstance(held, (str, bytes)):
        return sum(column_bytes(item, counted) for item in held)
    return 0


def kept(held: Any, room: Room) -> Any:
    """The same, its columns in the room: lists and tuples of columns, however nested."""
    if isinstance(held, (np.ndarray, SparseColumn, pa.Array)):
        return room.column(held)
    if isinstance(held, (list, tuple)):
        return type(held)(kept(item, room) for item in held)
    return held


def give_back(held: Any, room: Room) -> None:
    """Give back the memory of what was `kept` in the room."""
    room.release(column_bytes(held, lambda column: not is_spilled(column)))


def filled(blocks: Iterable[Block], rows: int, schema: Schema, room: Room) -> Block:
    """The `rows` records of these blocks in one piece, kept in a room; read one by one."""
    made = Block(rows, {})
    pieces: dict[str, list[ColumnData]] = {n: [] for n in schema.names}
    at = 0
    for block in blocks:
        stop = at + block.rows
        for name in schema.names:
            values = block.columns[name]
            if not isinstance(values, np.ndarray):
                pieces[name].append(room.column(values))
                continue
            if name not in made.columns:
                made.columns[name] = room.empty((rows, *values.shape[1:]), values.dtype)
            made.columns[name][at:stop] = values
        for name in block.valid.keys() & pieces.keys():
            if name not in made.valid:
                made.valid[name] = room.full(rows, True, np.bool_)
            made.valid[name][at:stop] = block.valid[name]
        at = stop
    for name, kind in schema:
        if name not in made.columns:
            room.drop(*pieces[name])
            made.columns[name] = room.joined(pieces[name], kind)
    return made


def taken_to(block: Block, rows: Array, schema: Schema, room: Room) -> Block:
    """The records of these numbers, in this order, kept in a room; taken piece by piece."""
    step = max(1, LEAST_PART * max(1, block.rows) // max(1, block.bytes))
    bounds = [(a, min(a + step, len(rows))) for a in range(0, len(rows), step)] or [(0, 0)]
    parts = (block.take(rows[a:b]) for a, b in bounds)
    return filled(parts, len(rows), schema, room)


@dataclass(frozen=True)
class Numbered:
    """Records with numbers that rise, int64[records], and their columns."""

    numbers: Array
    vectors: Mapping[str, Vector]


def in_order(
    parts: Sequence[Numbered], schema: Schema, room: Room, step_bytes: int | None = None
) -> tuple[Array, dict[str, Vector]]:
    """The records of all parts by their numbers, and these; all kept in `room`.

    Merged range by range, of about `step_bytes` each, so that no more is in memory at once.
    """
    parts = [p for p in parts if len(p.numbers)]
    count = sum(len(p.numbers) for p in parts)
    numbers = room.empty(count, np.int64)
    made = {n: _Merged(n, parts, kind, count, room) for n, kind in schema}
    at = 0
    for spans in _ranges(parts, schema, step_bytes or LEAST_PART):
        own = np.concatenate([p.numbers[a:b] for p, a, b in spans])
        order = np.argsort(own, kind="stable")
        stop = at + len(own)
        numbers[at:stop] = own[order]
        for column in made.values():
            column.put(at, stop, spans, order)
        at = stop
    return numbers, {n: column.result() for n, column in made.items()}


Spans = Sequence[tuple[Numbered, int, int]]  # records of parts: from which to which


def _ranges(parts: Sequence[Numbered], schema: Schema, step_bytes: int) -> Iterator[Spans]:
    """The parts' records, range of numbers by range."""
    if not parts:
        return
    rows = max(1, step_bytes // max(8, schema.bytes_per_row))
    every = max(1, rows // (2 * len(parts)))  # of each part so many records may go too far
    marks = np.sort(np.concatenate([p.numbers[::every] for p in parts]))
    marks = marks[:: max(1, rows // every)][1:]
    cuts = [np.searchsorted(p.numbers, marks).tolist() for p in parts]
    bounds = [[0, *c, len(p.numbers)] for p, c in zip(parts, cuts, strict=True)]
    for i, _ in enumerate(bounds[0][1:]):
        spans = [(p, b[i], b[i + 1]) for p, b in zip(parts, bounds, strict=True)]
        found = [(p, a, b) for p, a, b in spans if a < b]
        if found:
            yield found


class _Merged:
    """One column of all parts, as it is put in order."""

    def __init__(
        self, name: str, parts: Sequence[Numbered], kind: Any, count: int, room: Room
    ) -> None:
        self._name, self._kind, self._room = name, kind, room
        first = parts[0].vectors[name][0] if parts else empty(kind)
        self._whole: Array | None = None
        self._pieces: list[ColumnData] = []
        if isinstance(first, np.ndarray):
            self._whole = room.empty((count, *first.shape[1:]), first.dtype)
        self._mask: Array | None = None
        if any(p.vectors[name][1] is not None for p in parts):
            self._mask = room.full(count, True, np.bool_)

    def put(self, at: int, stop: int, spans: Spans, order: Array) -> None:
        """The records `at` to `stop` - 1: those of the spans, in this order."""
        own = [(p.vectors[self._name], a, b) for p, a, b in spans]
        values = concatenated([sliced(v, a, b) for (v, _), a, b in own], self._kind)
        if self._whole is None:
            self._pieces.append(self._room.column(taken(values, order)))
        else:
            self._whole[at:stop] = values[order]
        if self._mask is not None:
            masks = [np.ones(b - a, bool) if m is None else m[a:b] for (_, m), a, b in own]
            self._mask[at:stop] = np.concatenate(masks)[order]

    def result(self) -> Vector:
        """The column and its mask."""
        if self._whole is not None:
            return self._whole, self._mask
        give_back(self._pieces, self._room)
        return self._room.joined(self._pieces, self._kind), self._mask

"""Exchanges at one rank of more records than its memory holds.

Records are held while there is room, and spilled where there is none. Those to be sorted, or
compared, are brought into *buckets*: by where they lie between records of a sample, or by hash. One
bucket at a time is in memory; one that is still too large is divided again. None of this changes a
bit of the result: the order, and which of equal records is the first, are those of the whole table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from math import ceil, exp, log
from typing import NamedTuple, TypeAlias

import numpy as np

from scalops.algebra.dtypes import INT64
from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine.blocks import Array, Block, concatenate
from scalops.engine.exchanges import (
    PLACE,
    by_target,
    compared,
    distinct_targets,
    hash_targets,
    near_equal,
    sample_places,
    settled,
    sort_schema,
    sort_targets,
    sorted_block,
    splitters,
)
from scalops.engine.kernels.keys import first_of_equals
from scalops.engine.memory import LEAST_WORKING, MemoryBudget
from scalops.engine.pipelines.base import Stored
from scalops.engine.relations.routing import cut_to
from scalops.engine.spill import Kept, SpilledBlocks, detached
from scalops.engine.spilled_memory import Room, is_spilled

MOST_WORKING = 256 << 20  # bytes: what a larger budget is better kept for
UNLIMITED_WORKING = 96 << 20  # where no budget says what there is
FAN_OUT = 4096  # buckets that records are shared out to at once
RUN_BYTES = 32 << 10  # of a bucket in each unit, at least: a disk reads shorter ones slowly
_SAMPLES = 32  # keys for each bucket of a sort
_MOST_LEVELS = 4  # of buckets by hash: what these do not tell apart is equal, or nearly so

# Of a block whose first record has a number in the table, the target of each: int64[rows].
Targets: TypeAlias = Callable[[Block, int], Array]


class Work(NamedTuple):
    """Memory to sort in, or to compare: `bytes` that are claimed for as long as it takes."""

    bytes: int

    @property
    def bucket(self) -> int:
        """What a bucket has; one may have twice as much, of which three copies are in memory."""
        return -(-self.bytes // 6)

    @property
    def unit(self) -> int:
        """What is shared out at once, with keys, their order and the records in that order."""
        return self.bytes // 5

    def fan_out(self, size: int) -> int:
        """To how many buckets so many bytes are shared out: to all that they need, or to as many
        again and again where the runs of a unit would be short."""
        wanted = max(2, -(-size // self.bucket))
        most = max(2, min(FAN_OUT, self.unit // RUN_BYTES))
        levels = ceil(log(wanted, most) - 1e-9)
        return min(most, max(2, ceil(exp(log(wanted) / levels) - 1e-9)))


def working_bytes(budget: MemoryBudget, size: int) -> int:
    """What it takes to sort, or to compare, so many bytes, if the budget can spare it."""
    limit = budget.limit
    most = UNLIMITED_WORKING if limit is None else max(LEAST_WORKING, limit // 2)
    return min(most, MOST_WORKING, 3 * size)


@contextmanager
def working(
    budget: MemoryBudget, owner: str, parts: Sequence[list[Kept]], blocks: SpilledBlocks
) -> Iterator[Work]:
    """Claim what it takes to sort or compare these records, some of which go to the file for it.

    Raises: OutOfMemoryError.
    """
    size = working_bytes(budget, sum(map(kept_bytes, parts)))
    if not budget.room(size, owner):
        if size > LEAST_WORKING:
            blocks.make_room(parts, size)
            size = min(size, max(LEAST_WORKING, budget.left or 0))
        budget.require(size, owner)
    try:
        yield Work(size)
    finally:
        budget.release(owner, size)


def in_units(blocks: Iterable[Block], schema: Schema, most: int) -> Iterator[Block]:
    """Consecutive records in as few blocks as `most` bytes for each allow.

    Each is shared out as a whole: the fewer there are, the fewer and longer runs that gives.
    """
    waiting: list[Block] = []
    size = 0
    for block in blocks:
        if waiting and size + block.bytes > most:
            whole = concatenate(waiting, schema)
            waiting, size = [], 0
            yield whole
            del whole
        waiting.append(block)
        size += block.bytes
    if waiting:
        yield concatenate(waiting, schema)


def kept_bytes(held: Iterable[Kept]) -> int:
    """Bytes of blocks in memory or on disk."""
    return sum(k.bytes if isinstance(k, Block) else k.size for k in held)


class Sorter:
    """Puts records into the order of a SortRows sink, any number of them."""

    def __init__(
        self, budget: MemoryBudget, owner: str, work: Work, sink: pp.SortRows, schema: Schema
    ) -> None:
        """`schema` is that of the records, keys included; `work` stays claimed meanwhile."""
        self._budget, self._owner, self._work = budget, owner, work
        self._sink, self._schema = sink, schema
        self._keys = sort_schema(sink, schema)

    def in_order(self, held: list[Kept], blocks: SpilledBlocks) -> Iterator[Block]:
        """The records in order, the columns that are kept of them; nothing of `held` is left."""
        size, rows = kept_bytes(held), sum(k.rows for k in held)
        if size <= 2 * self._work.bucket or rows == 1:
            found = list(blocks.drained(held))
            if rows:
                made = sorted_block(found, self._sink, self._schema)
                del found
                # A piece that stays in memory must not hold the whole bucket.
                yield from map(detached, cut_to(made))
            return
        buckets, spilled = self._shared_out(held, blocks, size, rows)
        for bucket in buckets:
            yield from self.in_order(bucket, spilled)

    def _shared_out(
        self, held: list[Kept], blocks: SpilledBlocks, size: int, rows: int
    ) -> tuple[list[list[Kept]], SpilledBlocks]:
        """The records of each bucket; all are in the order in which they were."""
        # Of wide records a sample has few, for all of it is in memory.
        records = 4 * self._work.bucket * rows // size
        count = max(2, min(self._work.fan_out(size), records))
        samples = max(2, min(_SAMPLES, records // count))
        bounds = splitters(self._sampled(held, blocks, count, samples), self._sink, count)

        def targets(unit: Block, first: int) -> Array:
            return sort_targets(unit, first, bounds, self._sink, self._keys)

        spilled = SpilledBlocks(self._budget, self._owner, self._schema)
        units = in_units(blocks.drained(held), self._schema, self._work.unit)
        return shared_out(units, count, targets, spilled), spilled

    def _sampled(self, held: list[Kept], blocks: SpilledBlocks, count: int, each: int) -> Block:
        """Keys of records at places that follow from how many there are."""
        places = sample_places(sum(k.rows for k in held), count, each)
        found: list[Block] = []
        at = 0
        for kept in held:
            first, last = np.searchsorted(places, [at, at + kept.rows])
            if first < last:
                wanted = places[first:last]
                own = blocks.get(kept).chosen({n: n for n in self._sink.keys}).take(wanted - at)
                own.columns[PLACE] = wanted
                found.append(own)
            at += kept.rows
        return concatenate(found, self._keys)


def shared_out(
    units: Iterable[Block], count: int, targets: Targets, spilled: SpilledBlocks
) -> list[list[Kept]]:
    """The records of each target, in the order in which they come."""
    parts: list[list[Kept]] = [[] for _ in range(count)]
    at = 0
    for unit in units:
        for _, splits, own in by_target(unit, targets(unit, at), [0] * count):
            ends = np.cumsum([0, *(rows for _, rows in splits)]).tolist()
            runs = [own.slice(a, b) for a, b in pairwise(ends)]
            for (target, _), kept in zip(splits, spilled.add_parts(runs, detach=True), strict=True):
                parts[target].append(kept)
        at += unit.rows
    return parts


# Equal records.


class Firsts:
    """Finds which records are the first of those that are equal in some columns."""

    def __init__(self, budget: MemoryBudget, owner: str, work: Work, kinds: Schema) -> None:
        """`work` stays claimed meanwhile."""
        self._budget, self._owner, self._work, self._kinds = budget, owner, work, kinds
        self._schema = Schema((*kinds.fields, (PLACE, INT64)))

    def mark(self, flags: Array, parts: Sequence[Sequence[Kept]], blocks: SpilledBlocks) -> None:
        """Set `flags`, bool[rows], for these records; they stay as they are."""
        kept = SpilledBlocks(self._budget, self._owner, self._schema)
        size = sum(map(kept_bytes, parts))
        self._mark(flags, self._numbered(parts, blocks), kept, size, 0)

    def _numbered(self, parts: Sequence[Sequence[Kept]], blocks: SpilledBlocks) -> Iterator[Block]:
        """What is compared of the records, and their places."""
        at = 0
        for kept in (k for part in parts for k in part):
            keys = blocks.get(kept).only(self._kinds.names)
            keys.columns[PLACE] = np.arange(at, at + kept.rows)
            at += kept.rows
            yield keys

    def _mark(
        self, flags: Array, found: Iterable[Block], kept: SpilledBlocks, size: int, level: int
    ) -> None:
        if size <= 2 * self._work.bucket or level == _MOST_LEVELS:
            for unit, new in firsts_in_units(
                in_units(found, self._schema, self._work.bucket), self._schema, self._kinds
            ):
                flags[unit.columns[PLACE][new]] = True
            return
        count, names = self._work.fan_out(size), self._kinds.names

        def targets(unit: Block, first: int) -> Array:
            return distinct_targets(unit.only(names), count, level)

        units = in_units(found, self._schema, self._work.unit)
        for bucket in shared_out(units, count, targets, kept):
            own = kept_bytes(bucket)
            inner = SpilledBlocks(self._budget, self._owner, self._schema)
            self._mark(flags, kept.drained(bucket), inner, own, level + 1)


def firsts_in_units(
    units: Iterable[Block], schema: Schema, kinds: Schema
) -> Iterator[tuple[Block, Array]]:
    """Each unit with, bool[rows], which of its records are equal to no earlier one in `kinds`.

    Of earlier units only the records that are different are held.
    """
    seen: list[Block] = []
    for unit in units:
        known = sum(b.rows for b in seen)
        both = concatenate([*seen, unit], schema)
        new = first_of_equals(both, kinds.fields)
        yield unit, new[known:]
        seen = [both.keep(new)]


# Tables of what has been held.


class Spilled:
    """The records of one rank's stage, by partition, on their way to its table."""

    def __init__(
        self,
        budget: MemoryBudget,
        owner: str,
        schema: Schema,
        parts: list[list[Kept]],
        blocks: SpilledBlocks,
    ) -> None:
        """Nothing of `parts` is left once the table is made."""
        self._budget, self._owner, self._schema = budget, owner, schema
        self._parts, self._blocks = parts, blocks

    @property
    def rows(self) -> int:
        """How many records there are."""
        return sum(k.rows for part in self._parts for k in part)

    def _drained(self) -> Iterator[Block]:
        for part in self._parts:
            yield from self._blocks.drained(part)

    def _working(self) -> AbstractContextManager[Work]:
        return working(self._budget, self._owner, self._parts, self._blocks)

    def repartitioned(self, required: pp.Properties, count: int, size: int) -> Stored:
        """Records in the partitions of a layout: contiguous ranges, or by hash of keys."""
        if required.layout != "hash":
            return self._dealt(self._drained(), self._schema, self.rows, count, size)

        def targets(unit: Block, first: int) -> Array:
            return hash_targets(unit, required.keys, count)

        spilled = SpilledBlocks(self._budget, self._owner, self._schema)
        with self._working() as work:
            units = in_units(self._drained(), self._schema, work.unit)
            parts = shared_out(units, count, targets, spilled)
        return self._table((spilled.drained(p) for p in parts), self._schema, size)

    def sorted(self, sink: pp.SortRows, size: int) -> Stored:
        """All records by the keys, in as many partitions as there are."""
        kept = Schema(tuple((n, self._schema[n]) for n in sink.kept), self._schema.bare)
        count, rows = len(self._parts), self.rows
        with self._working() as work:
            whole = [k for part in self._parts for k in part]
            self._parts.clear()
            sorter = Sorter(self._budget, self._owner, work, sink, self._schema)
            return self._dealt(sorter.in_order(whole, self._blocks), kept, rows, count, size)

    def distinct(self, columns: Sequence[str], room: Room, size: int) -> Stored:
        """The first of equal records among all partitions, each in its own."""
        kinds = Schema(compared(self._schema, columns))
        flags = room.full(self.rows, False, bool)
        with self._working() as work:
            Firsts(self._budget, self._owner, work, kinds).mark(flags, self._parts, self._blocks)
        at = 0

        def firsts(part: list[Kept]) -> Iterator[Block]:
            nonlocal at
            for block in self._blocks.drained(part):
                yield block.keep(flags[at : at + block.rows])
                at += block.rows

        made = self._table(map(firsts, self._parts), self._schema, size)
        if not is_spilled(flags):
            room.release(flags.nbytes)
        return made

    def _dealt(
        self, blocks: Iterator[Block], schema: Schema, rows: int, count: int, size: int
    ) -> Stored:
        """A table of contiguous ranges of the records."""
        bounds = near_equal(rows, count)
        return self._table(_ranges(blocks, [b - a for a, b in bounds]), schema, size)

    def _table(self, parts: Iterable[Iterable[Block]], schema: Schema, size: int) -> Stored:
        kept = SpilledBlocks(self._budget, self._owner, schema)
        # Where memory is short a block must not hold those beside it.
        apart = self._blocks.file is not None
        made = [
            [k for b in settled(part, schema) for k in kept.add_parts([b], apart)] for part in parts
        ]
        return kept.table(made, size)


def _ranges(blocks: Iterator[Block], counts: Sequence[int]) -> Iterator[Iterator[Block]]:
    """Consecutive records in so many runs of these lengths, each to be read before the next."""
    left: Block | None = None

    def run(count: int) -> Iterator[Block]:
        nonlocal left
        while count:
            block = next(blocks) if left is None else left
            own = min(count, block.rows)
            count -= own
            left = block.slice(own, block.rows) if own < block.rows else None
            yield block if own == block.rows else block.slice(0, own)

    return map(run, counts)

"""Exchanges at one rank of more records than its memory holds.

Records are held while there is room, and spilled where there is none. Those to be sorted, or
compared, are brought into *buckets*: by where they lie between records of a sample, or by hash. One
bucket at a time is in memory; one that is still too large is divided again. None of this changes a
bit of the result: the order, and which of equal records is the first, are those of the whole table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

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
from scalops.engine.memory import LEAST_WORKING, WORKING_SHARE, MemoryBudget
from scalops.engine.pipelines.base import HeldTable, Stored
from scalops.engine.relations.routing import cut_to
from scalops.engine.spill import Kept, SpilledBlocks, SpilledTable
from scalops.engine.spilled_memory import Room

UNLIMITED_BUCKET = 16 << 20  # where no budget says what a bucket may take
FAN_OUT = 256  # buckets that records are shared out to at once
_SAMPLES = 32  # keys for each bucket of a sort
_MOST_LEVELS = 4  # of buckets by hash: what these do not tell apart is equal, or nearly so


def bucket_bytes(budget: MemoryBudget) -> int:
    """What a bucket has: up to six times as much is in memory while it is sorted, or compared."""
    if budget.limit is None:
        return UNLIMITED_BUCKET
    return max(int(WORKING_SHARE * budget.limit), LEAST_WORKING) // 6


@contextmanager
def claimed(budget: MemoryBudget, owner: str, size: int) -> Iterator[None]:
    """Hold `size` bytes for a while. Raises: OutOfMemoryError."""
    budget.require(size, owner)
    try:
        yield
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
            yield concatenate(waiting, schema)
            waiting, size = [], 0
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
        self, budget: MemoryBudget, owner: str, sink: pp.SortRows, schema: Schema
    ) -> None:
        """`schema` is that of the records, keys included."""
        self._budget, self._owner, self._sink, self._schema = budget, owner, sink, schema
        self._keys = sort_schema(sink, schema)
        self._most = bucket_bytes(budget)

    def in_order(self, held: list[Kept], blocks: SpilledBlocks) -> Iterator[Block]:
        """The records in order, the columns that are kept of them; nothing of `held` is left."""
        size, rows = kept_bytes(held), sum(k.rows for k in held)
        if size <= 2 * self._most or rows == 1:
            with claimed(self._budget, self._owner, min(3 * size, 6 * self._most)):
                found = list(blocks.drained(held))
                if rows:
                    made = sorted_block(found, self._sink, self._schema)
                    del found
                    yield from cut_to(made)
            return
        buckets, spilled = self._shared_out(held, blocks, size, rows)
        for bucket in buckets:
            yield from self.in_order(bucket, spilled)

    def _shared_out(
        self, held: list[Kept], blocks: SpilledBlocks, size: int, rows: int
    ) -> tuple[list[list[Kept]], SpilledBlocks]:
        """The records of each bucket; all are in the order in which they were."""
        # Of wide records a sample has few, for all of it is in memory.
        count = max(2, min(-(-size // self._most), FAN_OUT, 4 * self._most * rows // size))
        samples = max(2, min(_SAMPLES, 4 * self._most * rows // (size * count)))
        with claimed(self._budget, self._owner, 5 * self._most):
            bounds = splitters(self._sampled(held, blocks, count, samples), self._sink, count)

            def targets(unit: Block, first: int) -> Array:
                return sort_targets(unit, first, bounds, self._sink, self._keys)

            spilled = SpilledBlocks(self._budget, self._owner, self._schema)
            units = in_units(blocks.drained(held), self._schema, self._most)
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
    units: Iterable[Block], count: int, targets: object, spilled: SpilledBlocks
) -> list[list[Kept]]:
    """Records by their target: `targets(unit, first)` gives those of a unit, int64[rows]."""
    assert callable(targets)
    parts: list[list[Kept]] = [[] for _ in range(count)]
    at = 0
    for unit in units:
        for _, splits, own in by_target(unit, targets(unit, at), [0] * count):
            ends = np.cumsum([0, *(rows for _, rows in splits)]).tolist()
            kept = spilled.add_parts([own.slice(a, b) for a, b in zip(ends, ends[1:], strict=False)])
            for (target, _), part in zip(splits, kept, strict=True):
                parts[target].append(part)
        at += unit.rows
    return parts

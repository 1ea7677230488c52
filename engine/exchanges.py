"""Where records change places: repartitioned, sorted, made distinct."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias
from zlib import crc32

import numpy as np

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.schema import HIDDEN, Schema
from scalops.engine import physical_plan as pp
from scalops.engine.blocks import Array, Block, concatenate, mask_of, reblock
from scalops.engine.columns import ColumnData, concatenated, sliced, taken
from scalops.engine.kernels.kernel import Vector
from scalops.engine.kernels.key_words import Words
from scalops.engine.kernels.keys import Key, first_of_equals, sort_order
from scalops.engine.pipelines.base import contiguous

Parts = list[list[Block]]
# Some records of a block: for which rank, for which of its targets (target, records), and they.
Share: TypeAlias = "tuple[int, list[tuple[int, int]], Block]"

PLACE = HIDDEN + "place"  # a record's number in its table, where that is one more key
_SAMPLES = 32  # keys for each bucket of a sort: its size is then right to within a third


def settled(blocks: Iterable[Block], schema: Schema) -> Iterator[Block]:
    """The records in blocks as they are stored: bounds, layout and masks follow from the records.

    How they came there leaves no trace: neither strides nor masks without a null.
    """
    for block in map(contiguous, reblock(blocks, schema)):
        full = [name for name, mask in block.valid.items() if mask.all()]
        if full:
            masks = {n: m for n, m in block.valid.items() if n not in full}
            block = Block(block.rows, block.columns, masks)
        yield block


def near_equal(rows: int, count: int) -> list[tuple[int, int]]:
    """Contiguous ranges that differ by one record at most."""
    return [(i * rows // count, (i + 1) * rows // count) for i in range(count)]


def by_range(block: Block, at: int, ends: Sequence[int], homes: Sequence[int]) -> Iterator[Share]:
    """A block whose first record is number `at`, shared out to targets that end at `ends`.

    The targets' homes ascend.
    """
    last, done = at + block.rows, 0
    target = bisect_right(ends, at)
    splits: list[tuple[int, int]] = []
    while at < last:
        stop = min(ends[target], last)
        if stop > at:
            splits.append((target, stop - at))
        at, home = stop, homes[target]
        target += 1
        if splits and (at == last or homes[target] != home):
            rows = sum(n for _, n in splits)
            yield home, splits, block.slice(done, done + rows)
            splits, done = [], done + rows


def by_target(block: Block, targets: Array, homes: Sequence[int]) -> Iterator[Share]:
    """A block shared out by each record's target, int[rows]; order within a target is kept.

    The targets' homes ascend.
    """
    order = np.argsort(targets, kind="stable")
    counts = np.bincount(targets, minlength=len(homes))
    ends = np.cumsum(counts)
    own: dict[int, list[int]] = {}
    for target in np.flatnonzero(counts).tolist():
        own.setdefault(homes[target], []).append(target)
    for home, wanted in own.items():
        first, last = int(ends[wanted[0]] - counts[wanted[0]]), int(ends[wanted[-1]])
        splits = [(t, int(counts[t])) for t in wanted]
        yield home, splits, block.take(order[first:last])


def hash_targets(block: Block, keys: Sequence[str], count: int) -> Array:
    """int64[rows]: the partition of each record in a layout by hash of keys."""
    hashes = hash_rows([(block.columns[k], block.valid.get(k)) for k in keys], block.rows)
    return (hashes % np.uint64(count)).astype(np.int64)


def hash_rows(columns: list[Vector], rows: int) -> Array:
    """A 64-bit hash of each record's keys (splitmix64's finaliser), the same on every machine.

    Equal keys have equal hashes: 0.0 and -0.0, all NaNs, all nulls.
    """
    total: Array = np.zeros(rows, np.uint64)
    for column, valid in columns:
        parts = _bits(column).reshape(rows, -1).T if rows else np.zeros((1, 0), np.uint64)
        for part in parts:
            values = part if valid is None else np.where(valid, part, np.uint64(0xA5A5A5A5))
            z = total * np.uint64(31) + values + np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            total = z ^ (z >> np.uint64(31))
    return total


def _bits(column: Any) -> Array:
    """Equal values of a column as equal 64-bit numbers."""
    if not isinstance(column, np.ndarray):
        return np.array([crc32((v or "").encode()) for v in column.to_pylist()], np.uint64)
    if column.dtype.kind == "f":
        numbers = column.astype(np.float64) + 0.0  # -0.0 + 0.0 is 0.0
        return np.where(np.isnan(numbers), np.nan, numbers).view(np.uint64)
    return column.astype(np.int64).view(np.uint64)


# Order.


def sorted_parts(received: Parts, sink: pp.SortRows, schema: Schema) -> Parts:
    """All records by the keys, in as many partitions as they came in.

    Empties `received`, column by column: the records are in memory once, and one column twice.
    """
    blocks = [b for part in received for b in part]
    rows = sum(b.rows for b in blocks)
    keys = []
    for name, descending in zip(sink.keys, sink.descending, strict=True):
        keys.append((_whole(blocks, name, schema, keep=name in sink.kept), descending))
    order = sort_order(keys, rows)
    keys.clear()
    columns: dict[str, ColumnData] = {}
    valid: dict[str, Array] = {}
    for name in sink.kept:
        values, mask = _whole(blocks, name, schema, keep=False)
        columns[name] = taken(values, order)
        if mask is not None:
            valid[name] = mask[order]
    whole = Block(rows, columns, valid)
    kept = Schema(tuple((n, schema[n]) for n in sink.kept), schema.bare)
    bounds = near_equal(rows, len(received))
    return [list(settled([whole.slice(a, b)], kept)) for a, b in bounds]


def sorting_bytes(received: Parts, sink: pp.SortRows) -> int:
    """What `sorted_parts` takes beside the records: keys and the order, twice, and one column."""
    blocks = [b for part in received for b in part]
    each = [sum(int(b.columns[n].nbytes) for b in blocks) for n in (*sink.kept, *sink.keys)]
    keys = sum(each[len(sink.kept) :])
    return 2 * keys + 16 * sum(b.rows for b in blocks) + 2 * max(each)


def _whole(blocks: list[Block], name: str, schema: Schema, keep: bool) -> Vector:
    """A column of all blocks, which lose it unless it is kept."""
    columns = [b.columns[name] if keep else b.columns.pop(name) for b in blocks]
    mask = mask_of(blocks, name)
    return concatenated(columns, schema[name]), mask


def sample_places(rows: int, buckets: int, each: int = _SAMPLES) -> Array:
    """int64[...]: numbers of records, one from each of so many equal parts of a table.

    Which one of its part is by hash: a table whose keys have a period is no worse than others.
    """
    count = min(rows, each * buckets)
    ends = np.arange(count + 1) * rows // max(1, count)
    jitter = hash_rows([(np.arange(count), None)], count) >> np.uint64(1)
    made: Array = ends[:-1] + jitter.astype(np.int64) % np.diff(ends)
    return made


def splitters(samples: Block, sink: pp.SortRows, buckets: int) -> Block:
    """The first records of all buckets but one, of a sample that is in any order."""
    order = _order(samples, sink)
    return samples.take(order[np.arange(1, buckets) * len(order) // buckets])


def sort_targets(block: Block, at: int, bounds: Block, sink: pp.SortRows, schema: Schema) -> Array:
    """int64[rows]: the bucket of each record of a block whose first is number `at` in its table.

    Records of equal keys are told apart by where they are: however many there are, buckets
    have about the same size.
    """
    keys = {n: n for n in sink.keys}
    own = block.chosen(keys)
    own.columns[PLACE] = np.arange(at, at + block.rows)
    order = _order(concatenate([bounds, own], schema), sink)
    is_bound = order < bounds.rows
    targets: Array = np.empty(block.rows, np.int64)
    targets[order[~is_bound] - bounds.rows] = np.cumsum(is_bound)[~is_bound]
    return targets


def _order(block: Block, sink: pp.SortRows) -> Array:
    """The order of records by the keys and, if it is there, by their place."""
    keys: list[tuple[Key, bool]] = [
        ((block.columns[n], block.valid.get(n)), d)
        for n, d in zip(sink.keys, sink.descending, strict=True)
    ]
    if PLACE in block.columns:
        keys.append(((block.columns[PLACE], None), False))
    return sort_order(keys, block.rows)


def sort_schema(sink: pp.SortRows, schema: Schema) -> Schema:
    """What is compared of a sample: the keys, and the place."""
    fields = tuple((n, schema[n]) for n in dict.fromkeys(sink.keys))
    return Schema((*fields, (PLACE, ArrayType("int64"))))


def sorted_block(blocks: list[Block], sink: pp.SortRows, schema: Schema) -> Block:
    """Records by the keys, stable: the columns that are kept."""
    whole = concatenate(blocks, schema)
    return whole.chosen({n: n for n in sink.kept}).take(_order(whole, sink))


# Distinct.


def distinct_bytes(parts: list[Block], schema: Schema, columns: Sequence[str]) -> int:
    """What `distinct_parts` takes beside the records: what is compared, codes, and what is kept."""
    kinds = compared(schema, columns)
    keys = sum(int(p.columns[n].nbytes) for p in parts for n, _ in kinds)
    return 2 * keys + 32 * sum(p.rows for p in parts)


def distinct_targets(block: Block, buckets: int, level: int = 0) -> Array:
    """int64[rows]: a bucket for each record, the same for those that are equal.

    Those of one bucket are told apart at the next of the levels 0 to 3.
    """
    keys = [(column, block.valid.get(name)) for name, column in block.columns.items()]
    hashes = Words(keys, block.rows, nulls_equal=True).hashes(0, block.rows)
    return ((hashes >> np.uint64(16 * level)) % np.uint64(buckets)).astype(np.int64)


def distinct_block(blocks: list[Block], schema: Schema, columns: Sequence[str] = ()) -> Block:
    """The first of the records that are equal in these columns; without any, in all."""
    whole = concatenate(blocks, schema)
    return whole.keep(first_of_equals(whole, compared(schema, columns)))


def distinct_parts(parts: list[Block], schema: Schema, columns: Sequence[str] = ()) -> Parts:
    """The first of equal records among all partitions, each in its own."""
    kinds = compared(schema, columns)
    keys = [Block(p.rows, {n: p.columns[n] for n, _ in kinds}, p.valid) for p in parts]
    keep = first_of_equals(concatenate(keys, Schema(kinds)), kinds)
    ends = np.cumsum([0, *(p.rows for p in parts)])
    kept = [
        part.keep(sliced(keep, int(a), int(b)))
        for part, a, b in zip(parts, ends, ends[1:], strict=False)
    ]
    return [list(settled([p], schema)) for p in kept]


def compared(schema: Schema, columns: Sequence[str]) -> tuple[tuple[str, ArrayType], ...]:
    """The columns in which records are compared: these or, where there are none, all."""
    return tuple((n, k) for n, k in schema if not columns or n in columns)

"""Where records change places: repartitioned, sorted, made distinct."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import numpy as np

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine.blocks import Array, Block, concatenate, mask_of, partition_bounds, reblock
from scalops.engine.columns import ColumnData, concatenated, sliced, taken
from scalops.engine.kernels.kernel import Vector
from scalops.engine.kernels.keys import first_of_equals, sort_order

Parts = list[list[Block]]


def repartitioned(blocks: list[Block], required: pp.Properties, schema: Schema) -> Parts:
    """Records sent to the partitions of a layout: contiguous ranges, or by hash of keys."""
    count = required.partitions or len(partition_bounds(0, schema))
    if required.layout == "hash":
        return _by_hash(blocks, required.keys, count, schema)
    rows = sum(b.rows for b in blocks)
    parts: Parts = []
    for start, stop in near_equal(rows, count):
        own, at = [], 0
        for block in blocks:
            a, b = max(start, at), min(stop, at + block.rows)
            if a < b:
                own.append(block.slice(a - at, b - at))
            at += block.rows
        parts.append(list(reblock(own, schema)))
    return parts


def near_equal(rows: int, count: int) -> list[tuple[int, int]]:
    """Contiguous ranges that differ by one record at most."""
    return [(i * rows // count, (i + 1) * rows // count) for i in range(count)]


def _by_hash(blocks: list[Block], keys: tuple[str, ...], count: int, schema: Schema) -> Parts:
    parts: Parts = [[] for _ in range(count)]
    for block in blocks:
        target = hash_rows([(block.columns[k], block.valid.get(k)) for k in keys], block.rows)
        target %= np.uint64(count)
        for i in range(count):
            kept = block.keep(target == i)
            if kept.rows:
                parts[i].append(kept)
    return [list(reblock(p, schema)) for p in parts]


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
    return [list(reblock([whole.slice(a, b)], kept)) for a, b in bounds]


def _whole(blocks: list[Block], name: str, schema: Schema, keep: bool) -> Vector:
    """A column of all blocks, which lose it unless it is kept."""
    columns = [b.columns[name] if keep else b.columns.pop(name) for b in blocks]
    mask = mask_of(blocks, name)
    return concatenated(columns, schema[name]), mask


# Distinct.


def distinct_block(blocks: list[Block], schema: Schema, columns: Sequence[str] = ()) -> Block:
    """The first of the records that are equal in these columns; without any, in all."""
    whole = concatenate(blocks, schema)
    return whole.keep(first_of_equals(whole, _compared(schema, columns)))


def distinct_parts(parts: list[Block], schema: Schema, columns: Sequence[str] = ()) -> Parts:
    """The first of equal records among all partitions, each in its own."""
    kinds = _compared(schema, columns)
    keys = [Block(p.rows, {n: p.columns[n] for n, _ in kinds}, p.valid) for p in parts]
    keep = first_of_equals(concatenate(keys, Schema(kinds)), kinds)
    ends = np.cumsum([0, *(p.rows for p in parts)])
    kept = [
        part.keep(sliced(keep, int(a), int(b)))
        for part, a, b in zip(parts, ends, ends[1:], strict=False)
    ]
    return [list(reblock([p], schema)) for p in kept]


def _compared(schema: Schema, columns: Sequence[str]) -> tuple[tuple[str, ArrayType], ...]:
    return tuple((n, k) for n, k in schema if not columns or n in columns)

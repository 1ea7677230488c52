"""Blocks: a few hundred to a few thousand consecutive records, column by column.

Bounds are a numeric decision: they depend on the data's row counts and types alone, never on
memory, workers or timing, because the order of float additions follows them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from scalops.algebra.schema import Schema
from scalops.engine.columns import Array, ColumnData, concatenated, filtered, sliced, taken

__all__ = ["Array", "Block", "ColumnData", "concatenate", "reblock"]

# Version 1 of the numeric constants of ARCHITECTURE.md; changing one changes results' last bits.
BLOCK_BYTES = 1_750_000
MIN_BLOCK_ROWS, MAX_BLOCK_ROWS = 64, 65_536
MAX_PARTITIONS = 1_024
MIN_PARTITION_BYTES = 256 * 1024

identities = itertools.count()  # beginnings of what tells blocks apart


@dataclass
class Block:
    """`columns[name]`: see `columns.py`.

    `valid[name]` is a bool[rows] mask, present only for columns that hold a null here.
    """

    rows: int
    columns: dict[str, ColumnData]
    valid: dict[str, Array] = field(default_factory=dict)
    # Tells the blocks of a process apart whose content is the same in every pass of a run; None
    # where it may not be. Never taken over by a block that is made of this one.
    identity: tuple[int, ...] | None = field(default=None, init=False, compare=False)

    def slice(self, start: int, stop: int) -> Block:
        """The records start..stop-1, without copying."""
        columns = {n: sliced(c, start, stop) for n, c in self.columns.items()}
        return Block(stop - start, columns, {n: v[start:stop] for n, v in self.valid.items()})

    def chosen(self, names: Mapping[str, str]) -> Block:
        """The columns `names[new]` of these records under new names."""
        columns = {new: self.columns[old] for new, old in names.items()}
        if not self.valid:
            return Block(self.rows, columns)
        masks = {new: self.valid[old] for new, old in names.items() if old in self.valid}
        return Block(self.rows, columns, masks)

    def only(self, names: Iterable[str]) -> Block:
        """These records with these columns alone."""
        columns = {n: self.columns[n] for n in names}
        return Block(self.rows, columns, {n: v for n, v in self.valid.items() if n in columns})

    def keep(self, mask: Array) -> Block:
        """The records for which mask is true."""
        rows = int(np.count_nonzero(mask))
        if rows == self.rows:
            return self
        columns = {n: filtered(c, mask) for n, c in self.columns.items()}
        return Block(rows, columns, {n: v[mask] for n, v in self.valid.items()})

    def take(self, rows: Array) -> Block:
        """The records of these numbers, int64[...], in this order."""
        columns = {n: taken(c, rows) for n, c in self.columns.items()}
        return Block(len(rows), columns, {n: v[rows] for n, v in self.valid.items()})

    @property
    def bytes(self) -> int:
        return sum(int(c.nbytes) for c in (*self.columns.values(), *self.valid.values()))


def concatenate(blocks: list[Block], schema: Schema) -> Block:
    """One block of all the records, contiguous."""
    if len(blocks) == 1:
        return blocks[0]
    rows = sum(b.rows for b in blocks)
    columns: dict[str, ColumnData] = {}
    valid: dict[str, Array] = {}
    for name, kind in schema:
        columns[name] = concatenated([b.columns[name] for b in blocks], kind)
        mask = mask_of(blocks, name)
        if mask is not None:
            valid[name] = mask
    return Block(rows, columns, valid)


def mask_of(blocks: Sequence[Block], name: str) -> Array | None:
    """The mask of a column over all blocks; None where none of them holds a null."""
    if not any(name in b.valid for b in blocks):
        return None
    return np.concatenate([b.valid.get(name, np.ones(b.rows, bool)) for b in blocks])


def block_rows(schema: Schema) -> int:
    """Records a block holds: the largest power of two within BLOCK_BYTES, 64 to 65,536."""
    fitting = max(1, BLOCK_BYTES // max(1, schema.bytes_per_row))
    return min(MAX_BLOCK_ROWS, max(MIN_BLOCK_ROWS, 1 << (fitting.bit_length() - 1)))


def partition_bounds(rows: int, schema: Schema) -> list[tuple[int, int]]:
    """Row ranges of whole blocks, at least 256 KiB each, at most 1,024; one empty for no rows."""
    step = block_rows(schema)
    wanted = max(-(-rows // MAX_PARTITIONS), MIN_PARTITION_BYTES // max(1, schema.bytes_per_row))
    size = step * max(1, -(-wanted // step))
    return [(a, min(rows, a + size)) for a in range(0, rows, size)] or [(0, 0)]


def reblock(blocks: Iterable[Block], schema: Schema) -> Iterator[Block]:
    """The same records in blocks of `block_rows(schema)`, the last one shorter.

    Done where a filter has thinned the blocks out and where a table is cached, whether or not
    the cache has room, so that the blocks are the same on every machine.
    """
    size = block_rows(schema)
    waiting: list[Block] = []
    rows = 0
    for block in blocks:
        if block.rows == 0:
            continue
        waiting.append(block)
        rows += block.rows
        while rows >= size:
            whole = concatenate(waiting, schema)
            yield whole.slice(0, size)
            rows -= size
            waiting = [whole.slice(size, whole.rows)] if rows else []
    if rows:
        yield concatenate(waiting, schema)

"""A source that tells what is read from it, and how much of it is held at a time."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from scalops.algebra.dtypes import FLOAT64
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Block, block_rows
from scalops.engine.storage import Partition

WIDTH = 64


class WatchedSource:
    """Vectors `x` and counts `k`, made when they are read.

    `reads` counts the blocks of each partition; `most` is how many blocks were alive at once.
    """

    title = "watched"
    stamp = "watched"
    in_memory = True  # cheap to make again: what several passes need is not cached for them
    may_hold_null = False

    def __init__(self, partitions: int, blocks: int) -> None:
        self.schema = Schema((("x", FLOAT64.with_shape(WIDTH)), ("k", FLOAT64)))
        self._partitions, self._blocks = partitions, blocks
        self.block_rows = block_rows(self.schema)
        self.rows = partitions * blocks * self.block_rows
        self.likely_rows = float(self.rows)
        self.bytes = self.rows * self.schema.bytes_per_row
        self.reads: dict[int, int] = {}
        self.alive = self.most = 0
        self.on_read: Callable[[int], None] = lambda partition: None

    def partitions(self) -> list[Partition]:
        """Equal partitions."""
        size = self._blocks * self.block_rows
        return [Partition(i, i * size, (i + 1) * size, rows=size) for i in range(self._partitions)]

    def read(self, partition: Partition, columns: tuple[str, ...]) -> Iterator[Block]:
        """A partition's blocks, one by one."""
        for start in range(partition.start, partition.stop, self.block_rows):
            self.on_read(partition.index)
            self.reads[partition.index] = self.reads.get(partition.index, 0) + 1
            yield self._block(start, columns)

    def head(self, rows: int, columns: tuple[str, ...]) -> Block:
        """The first records."""
        return self._block(0, columns).slice(0, rows)

    def check_unchanged(self) -> None:
        """It never changes."""

    def _block(self, start: int, columns: tuple[str, ...]) -> Block:
        k = np.arange(start, start + self.block_rows, dtype=float)
        made: dict[str, Any] = {"x": np.sin(k)[:, None] + np.arange(WIDTH), "k": k}
        block = Block(self.block_rows, {n: made[n] for n in columns})
        self.alive += 1
        self.most = max(self.most, self.alive)
        # An array outlives its block where something still shows it.
        weakref.finalize(block.columns[columns[0]], self._gone)
        return block

    def _gone(self) -> None:
        self.alive -= 1

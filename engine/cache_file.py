"""The part of a cached table that memory has no room for, kept in files of this machine.

Blocks lie there as they would in memory, so that reading them again is neither decoding nor
computing. Each thread writes to a file of its own, partition after partition; each block is
verified by its checksum whenever it is read. Memory that no block shows any more is used again: a
fresh page costs more than what is read into it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from threading import get_ident
from typing import NamedTuple

import numpy as np

from scalops.algebra.schema import Schema
from scalops.engine.blocks import Block, identities
from scalops.engine.columns import Array
from scalops.engine.spill import Batch, SpillFile

AHEAD_BYTES = 16 << 20  # what the system is asked to read before it is needed, by each thread
_POOLED = 4  # pieces of memory a thread keeps: the block in use, the next one, and some more
_UNUSED = 3  # references: the pool's, the loop's, and that of the question


class _Pool:
    """One thread's memory for blocks."""

    def __init__(self) -> None:
        self._held: list[Array] = []

    def take(self, size: int) -> Array:
        """Bytes of any content."""
        for held in self._held:
            if len(held) >= size and sys.getrefcount(held) == _UNUSED:
                return held[:size]
        made: Array = np.empty(size, np.uint8)
        if len(self._held) == _POOLED:
            self._held.pop(0)
        self._held.append(made)
        return made[:size]


class Filed(NamedTuple):
    """A partition in a file."""

    file: SpillFile
    batches: list[tuple[Batch, int]]  # with what tells blocks apart
    pools: dict[int, _Pool]

    def blocks(self) -> Iterator[Block]:
        """Its blocks. Raises: SpillError where they are not what was written."""
        pool = self.pools.setdefault(get_ident(), _Pool())
        for batch, identity in self.batches:
            self.file.expect(batch.at + batch.size, AHEAD_BYTES)
            block = self.file.read(batch, pool.take(batch.size))
            block.identity = (identity,)
            yield block
            del block  # what nobody else shows is used for the next one

    @property
    def rows(self) -> int:
        """Its records."""
        return sum(batch.rows for batch, _ in self.batches)

    @property
    def bytes(self) -> int:
        """Its bytes on disk."""
        return sum(batch.size for batch, _ in self.batches)


class CacheFile:
    """Partitions in files; threads (`worker`) write and read at once."""

    def __init__(self, schema: Schema, folder: str | None) -> None:
        self._schema, self._folder = schema, folder
        self._files: dict[int, SpillFile] = {}
        self._pools: dict[int, _Pool] = {}

    def write(self, blocks: Iterable[Block], worker: int) -> Filed:
        """Write a partition. Raises: SpillError."""
        file = self._files.get(worker)
        if file is None:
            file = self._files[worker] = SpillFile(self._schema, self._folder)
        return Filed(file, [(file.write(block), next(identities)) for block in blocks], self._pools)

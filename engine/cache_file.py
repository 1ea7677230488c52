"""The part of a cached table that memory has no room for, kept in a file of this machine.

Blocks lie there as they would in memory, so that reading them again is neither decoding nor
computing. Each thread writes to places of its own, partition after partition, and reads forward
through a descriptor of its own, so that the system sees what comes next; each block is verified by
its checksum whenever it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from scalops.algebra.schema import Schema
from scalops.engine.block_memory import MEMORY
from scalops.engine.blocks import Block, identities
from scalops.engine.spill import Batch, SpillFile

LANE_BYTES = 16 << 20  # of a file, for one thread to write to: a few partitions


class Filed(NamedTuple):
    """A partition in a file."""

    file: SpillFile
    batches: list[tuple[Batch, int]]  # with what tells blocks apart

    def blocks(self) -> Iterator[Block]:
        """Its blocks. Raises: SpillError where they are not what was written."""
        for batch, identity in self.batches:
            block = self.file.read(batch, MEMORY.take(batch.size))
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
    """Partitions in a file; threads write and read at once."""

    def __init__(self, schema: Schema, folder: str | None) -> None:
        self._schema, self._folder = schema, folder
        self._file: SpillFile | None = None

    def write(self, blocks: Iterable[Block]) -> Filed:
        """Write a partition. Raises: SpillError."""
        if self._file is None:  # two threads may make one each
            self._file = SpillFile(self._schema, self._folder, LANE_BYTES)
        file = self._file
        return Filed(file, [(file.write(block), next(identities)) for block in blocks])

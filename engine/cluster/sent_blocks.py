"""Partitions on their way from a rank to the driver."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from scalops.algebra.schema import Schema
from scalops.engine.block_codec import blocks_of_piece, piece_of_blocks
from scalops.engine.blocks import Block
from scalops.engine.collective import DRIVER, Piece, Program, Send
from scalops.engine.free_memory import FreeMemory
from scalops.engine.relations.routing import PIECE_BYTES


def to_driver(partition: int, blocks: Iterable[Block]) -> Program[None]:
    """Send a partition's blocks to the driver, about PIECE_BYTES together."""
    for own in _together(blocks):
        piece = piece_of_blocks(own)
        yield Send(DRIVER, Piece([partition, piece.header], piece.buffers))


def _together(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    batch: list[Block] = []
    size = 0
    for block in blocks:
        batch.append(block)
        size += block.bytes
        if size >= PIECE_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class FromRanks:
    """Blocks by partition, as ranks send them by `to_driver`."""

    def __init__(self, schema: Schema) -> None:
        self._schema, self._free = schema, FreeMemory()
        self.found: dict[int, list[Block]] = {}

    def take(self, rank: int, piece: Piece) -> None:
        """Keep a piece. Raises: OutOfMemoryError before the machine has nothing left."""
        partition, header = piece.header
        blocks = blocks_of_piece(Piece(header, piece.buffers), self._schema)
        self._free.take(sum(b.bytes for b in blocks))
        self.found.setdefault(partition, []).extend(blocks)


WINDOW_BYTES = 64 << 20  # of blocks that the driver asks for at once, about
Place = tuple[int, int]  # a partition, and one of its blocks


def windows(sizes: Mapping[int, list[int]]) -> Iterator[tuple[Place, Place]]:
    """Consecutive blocks that the driver asks for: from which to which, the last one excluded.

    `sizes` are the bytes of each partition's blocks.
    """
    begin: Place | None = None
    end, size = (0, 0), 0
    for partition in sorted(sizes):
        for number, own in enumerate(sizes[partition]):
            if begin is None:
                begin = partition, number
            end, size = (partition, number + 1), size + own
            if size >= WINDOW_BYTES:
                yield begin, end
                begin, size = None, 0
    if begin is not None:
        yield begin, end

"""Read a source as NumPy arrays, for comparison with what was written."""

from typing import Any

import numpy as np
import pyarrow as pa

from scalops.engine.blocks import Block, concatenate
from scalops.engine.storage import (
    Partition,
    ReadableSource,
    block_to_batch,
    schema_to_arrow,
)


def whole(source: ReadableSource, columns: tuple[str, ...] | None = None) -> Block:
    """All partitions, one after the other."""
    names = source.schema.names if columns is None else columns
    blocks = [b for p in source.partitions() for b in source.read(p, names)]
    return concatenate(blocks, source.schema) if columns is None else _joined(blocks, names)


def _joined(blocks: list[Block], names: tuple[str, ...]) -> Block:
    return Block(
        sum(b.rows for b in blocks),
        {name: np.concatenate([values(b, name) for b in blocks]) for name in names},
    )


def values(block: Block, name: str) -> Any:
    """A column as an array; one of strings as an array of objects."""
    column = block.columns[name]
    if isinstance(column, pa.Array):
        return np.array(column.to_pylist(), object)
    return column


def layout(source: ReadableSource, columns: tuple[str, ...]) -> list[tuple[Partition, list[int]]]:
    """Every partition with the rows of its blocks."""
    return [(p, [b.rows for b in source.read(p, columns)]) for p in source.partitions()]


def to_table(source: ReadableSource) -> pa.Table:
    """All partitions as an Arrow table of one chunk."""
    names = source.schema.names
    blocks = [b for p in source.partitions() for b in source.read(p, names)]
    batches = [block_to_batch(block, source.schema) for block in blocks]
    return pa.Table.from_batches(batches, schema_to_arrow(source.schema)).combine_chunks()

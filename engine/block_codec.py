"""Blocks on their way between ranks, and between the driver and them.

Columns keep their order in memory; what has arrived is compared with the schema that is expected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scalops.algebra.schema import Schema
from scalops.engine.blocks import Block
from scalops.engine.collective import Piece
from scalops.engine.column_codec import decode_column_of, encode_column
from scalops.engine.columns import Array


def encode_block(block: Block, buffers: list[Array]) -> list[Any]:
    """[rows, [[name, column], ...]]; contiguous arrays go to the buffers without a copy."""
    columns = [
        [name, encode_column(values, block.valid.get(name), buffers)]
        for name, values in block.columns.items()
    ]
    return [block.rows, columns]


def decode_block(item: Any, buffers: Sequence[Array], schema: Schema) -> Block:
    """The block again: some of the schema's columns, in any order.

    Raises: ValueError for columns that the schema does not have, or has of another type.
    """
    match item:
        case [int(rows), list(columns)] if rows >= 0:
            block = Block(rows, {})
        case _:
            raise ValueError("a block that makes no sense")
    for column in columns:
        match column:
            case [str(name), values] if name in schema and name not in block.columns:
                found, mask = decode_column_of(values, buffers, rows, schema[name])
            case _:
                raise ValueError(f"a block with other columns than {schema}")
        block.columns[name] = found
        if mask is not None:
            block.valid[name] = mask
    return block


def piece_of_blocks(blocks: Sequence[Block]) -> Piece:
    """What is sent of blocks."""
    buffers: list[Array] = []
    return Piece([encode_block(block, buffers) for block in blocks], buffers)


def blocks_of_piece(piece: Piece, schema: Schema) -> list[Block]:
    """The blocks again, of exactly the schema's columns; ValueError where they are not that."""
    if not isinstance(piece.header, list):
        raise ValueError("no blocks")
    blocks = [decode_block(item, piece.buffers, schema) for item in piece.header]
    for block in blocks:
        if block.columns.keys() != schema.types.keys():
            raise ValueError(f"a block of {', '.join(block.columns) or 'nothing'}, not of {schema}")
    return blocks

"""Whole columns of which records are taken by their numbers, and an index that finds these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Block
from scalops.engine.columns import (
    Array,
    ColumnData,
    SparseColumn,
    arrow_type,
    blank,
)
from scalops.engine.kernels.kernel import Vector
from scalops.engine.kernels.matching import KeyIndex
from scalops.engine.packed_lists import PackedLists
from scalops.engine.pipelines.base import Identity, own_bytes
from scalops.engine.relations.positions import rows_at
from scalops.engine.relations.whole import Columns
from scalops.engine.spilled_memory import Room


class TakenColumns(Columns):
    """A table in whole columns of which records are taken by their numbers."""

    def __init__(
        self,
        schema: Schema,
        rows: int,
        vectors: Mapping[str, Vector],
        identities: Mapping[str, Identity | None] | None = None,
    ) -> None:
        super().__init__(schema, rows, vectors, identities)
        # As byte strings, which Arrow takes faster: see packed_lists.
        self._lists = {
            name: packed
            for name, (values, _) in vectors.items()
            if isinstance(values, pa.Array) and (packed := PackedLists.of(values)) is not None
        }

    def at(self, name: str, positions: Array) -> Vector:
        """The records of these numbers, in this order; -1 gives a null."""
        values, mask = self.whole(name)
        kind = self.schema[name]
        there: Array = positions >= 0
        if bool(there.all()):
            found = self._taken(name, positions)
            return found, None if mask is None else mask.take(positions)
        if not self.count:
            return blank(kind, len(positions)), there
        if isinstance(values, pa.Array):
            made = self._taken(name, pa.array(positions, mask=~there))
            return made, there if mask is None else there & mask.take(positions, mode="clip")
        places = np.where(there, positions, 0)
        if isinstance(values, SparseColumn):
            made = _spread(values.take(positions[there]), there)
        else:
            made = self._taken(name, places)
            made[~there] = np.zeros((), made.dtype)
        return made, there if mask is None else there & mask.take(places)

    def _taken(self, name: str, rows: Array | pa.Array) -> ColumnData:
        """The records of these numbers; Arrow's, if they may be null."""
        column, _ = self.whole(name)
        if isinstance(column, np.ndarray):
            return rows_at(column, rows)
        if isinstance(column, SparseColumn):
            return column.take(rows)
        chosen = rows if isinstance(rows, pa.Array) else pa.array(rows)
        lists = self._lists.get(name)
        found = column.take(chosen) if lists is None else lists.take(chosen)
        return of_type(found, self.schema[name])


class IndexedTable(TakenColumns):
    """A table in whole columns with an index over some of them."""

    def __init__(
        self,
        schema: Schema,
        rows: int,
        vectors: Mapping[str, Vector],
        identities: Mapping[str, Identity | None],
        index: KeyIndex,
    ) -> None:
        super().__init__(schema, rows, vectors, identities)
        self.index = index

    @property
    def unique(self) -> bool:
        """Whether no two records have one key."""
        return self.index.unique


def _spread(column: SparseColumn, there: Array) -> SparseColumn:
    """The vectors at the places that are true, and such without an entry elsewhere."""
    lengths: Array = np.zeros(len(there), np.int64)
    lengths[there] = column.lengths
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return SparseColumn(ends, column.indices, column.values, column.dimension)


def of_type(column: pa.Array, kind: ArrayType) -> pa.Array:
    """The column as blocks have it: not as the large form that a whole one may need."""
    target = arrow_type(kind)
    return column if column.type == target else column.cast(target)


def joined_column(
    blocks: Sequence[Block],
    name: str,
    kind: ArrayType,
    room: Room,
    resident: frozenset[int] = frozenset(),
) -> Vector:
    """A column of all blocks in one piece, with its mask, kept in a room.

    The blocks lose it. So not more than a column is there twice: what they held of it in the same
    owner's memory is given back.
    """
    own = [Block(b.rows, {name: b.columns.pop(name)}) for b in blocks]
    for block, part in zip(blocks, own, strict=True):
        if name in block.valid:
            part.valid[name] = block.valid.pop(name)
    if len(own) == 1:
        return own[0].columns[name], own[0].valid.get(name)
    values = in_one_piece([b.columns[name] for b in own], kind, room)
    mask: Array | None = None
    if any(b.valid for b in own):
        mask, at = room.empty(sum(b.rows for b in own), np.bool_), 0
        for b in own:
            mask[at : at + b.rows] = b.valid.get(name, True)
            at += b.rows
    room.release(sum(own_bytes(b, resident) for b in own))
    return values, mask


def in_one_piece(parts: list[ColumnData], kind: ArrayType, room: Room) -> ColumnData:
    """The columns of consecutive records as one; text beyond 2 GiB in Arrow's large form."""
    try:
        return room.joined(parts, kind)
    except pa.ArrowInvalid:
        wide = large(arrow_type(kind))
        return room.joined([p.cast(wide) for p in parts], kind)


def large(kind: pa.DataType) -> pa.DataType:
    """The type with offsets of 64 bits."""
    if pa.types.is_string(kind):
        return pa.large_string()
    return pa.large_list(large(kind.value_type)) if pa.types.is_list(kind) else kind

"""Tables of a loop's state: held from one iteration to the next, and looked through for NaN."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.blocks import Array, Block, mask_of
from scalops.engine.columns import ColumnData, SparseColumn
from scalops.engine.kernels.kernel import Vector
from scalops.engine.outcome import StateRows
from scalops.engine.pipelines.base import Identity, Pipeline, Runtime, root_of
from scalops.engine.relations.held import HoldColumns
from scalops.engine.relations.whole import Columns
from scalops.engine.spilled_memory import Room, is_spilled

_SMALL_BYTES = 1 << 16  # a view of no more is left as it is


class HoldState(HoldColumns):
    """The records in whole columns that hold no memory but their own."""

    def __init__(self, stage: pp.Stage, pipeline: Pipeline, runtime: Runtime) -> None:
        super().__init__(stage, pipeline, runtime)
        assert isinstance(stage.sink, pr.HoldState)
        self._computed = stage.sink.computed

    def _settle(
        self, vectors: dict[str, Vector], identities: dict[str, Identity | None], room: Room
    ) -> None:
        super()._settle(vectors, identities, room)
        for name, (values, mask) in vectors.items():
            own = _copied(values, self.pipeline.resident)
            if own is not None:
                vectors[name] = room.column(own), mask
                self._own.add(name)
        self.nan, self.infinite = nonfinite((n, vectors[n]) for n in self._computed)


def state_table(schema: Schema, blocks: Sequence[Block], room: Room) -> Columns:
    """The table of a state that was saved, kept in a room."""
    own = [Block(b.rows, dict(b.columns), dict(b.valid)) for b in blocks]
    vectors: dict[str, Vector] = {}
    for name, kind in schema:
        whole = room.joined([b.columns.pop(name) for b in own], kind)
        mask = mask_of(own, name)
        vectors[name] = whole, None if mask is None else room.column(mask)
    return Columns(schema, sum(b.rows for b in blocks), vectors)


def infinite_columns(rows: StateRows, names: Sequence[str]) -> frozenset[str]:
    """Those of the columns that hold an infinity."""
    return frozenset(
        name
        for name in names
        for block in rows.blocks
        if nonfinite([(name, (block.columns[name], block.valid.get(name)))])[1]
    )


def _copied(values: ColumnData, resident: frozenset[int]) -> ColumnData | None:
    """A copy of a column that shows a small part of something that is else not needed."""
    if is_spilled(values):
        return None
    if isinstance(values, np.ndarray):
        root = root_of(values)
        wasted = root.nbytes - 2 * values.nbytes
        return values.copy() if wasted > _SMALL_BYTES and id(root) not in resident else None
    if isinstance(values, pa.Array):
        wasted = values.get_total_buffer_size() - 2 * values.nbytes
        return values.take(pa.array(np.arange(len(values)))) if wasted > _SMALL_BYTES else None
    return None


def nonfinite(columns: Iterable[tuple[str, Vector]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns that hold NaN, and those that hold an infinity; nulls are passed over."""
    nan: list[str] = []
    infinite: list[str] = []
    for name, (values, mask) in columns:
        numbers = _numbers(values)
        with np.errstate(all="ignore"):
            # One NaN or infinity makes the sum one, too: most often one pass without a copy tells.
            if not numbers.size or np.isfinite(np.add.reduce(numbers, axis=None)):
                continue
        if mask is not None and isinstance(values, np.ndarray):
            numbers = numbers[mask]
        if np.isnan(numbers).any():
            nan.append(name)
        if np.isinf(numbers).any():
            infinite.append(name)
    return tuple(nan), tuple(infinite)


def _numbers(values: ColumnData) -> Array:
    """All the floats of a column."""
    if isinstance(values, SparseColumn):
        return values.values
    if isinstance(values, np.ndarray):
        return values
    flat = values
    while pa.types.is_list(flat.type) or pa.types.is_large_list(flat.type):
        flat = flat.flatten()
    numbers: Array = flat.drop_null().to_numpy(zero_copy_only=False)
    return numbers

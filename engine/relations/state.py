"""Tables of a loop's state: held from one iteration to the next, and looked through for NaN."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.blocks import Array, Block, mask_of
from scalops.engine.columns import ColumnData, SparseColumn, concatenated
from scalops.engine.kernels.kernel import Vector
from scalops.engine.outcome import StateRows
from scalops.engine.pipelines.base import Identity, Pipeline, Runtime, root_of
from scalops.engine.relations.held import HoldColumns
from scalops.engine.relations.whole import Columns

_SMALL_BYTES = 1 << 16  # a view of no more is left as it is


class HoldState(HoldColumns):
    """The records in whole columns that hold no memory but their own."""

    def __init__(self, stage: pp.Stage, pipeline: Pipeline, runtime: Runtime) -> None:
        super().__init__(stage, pipeline, runtime)
        assert isinstance(stage.sink, pr.HoldState)
        self._computed = stage.sink.computed

    def _settle(self, vectors: dict[str, Vector], identities: dict[str, Identity | None]) -> None:
        super()._settle(vectors, identities)
        for name, (values, mask) in vectors.items():
            vectors[name] = _own(values, self.pipeline.resident), mask
        self.nan, self.infinite = nonfinite((n, vectors[n]) for n in self._computed)


def state_table(schema: Schema, blocks: Sequence[Block]) -> Columns:
    """The table of a state that was saved."""
    vectors: dict[str, Vector] = {}
    for name, kind in schema:
        whole = concatenated([b.columns[name] for b in blocks], kind)
        vectors[name] = whole, mask_of(blocks, name)
    return Columns(schema, sum(b.rows for b in blocks), vectors)


def infinite_columns(rows: StateRows, names: Sequence[str]) -> frozenset[str]:
    """Those of the columns that hold an infinity."""
    return frozenset(
        name
        for name in names
        for block in rows.blocks
        if nonfinite([(name, (block.columns[name], block.valid.get(name)))])[1]
    )


def _own(values: ColumnData, resident: frozenset[int]) -> ColumnData:
    """The column, copied where it shows a small part of something that is else not needed."""
    if isinstance(values, np.ndarray):
        root = root_of(values)
        wasted = root.nbytes - 2 * values.nbytes
        return values.copy() if wasted > _SMALL_BYTES and id(root) not in resident else values
    if isinstance(values, pa.Array):
        wasted = values.get_total_buffer_size() - 2 * values.nbytes
        return values.take(pa.array(np.arange(len(values)))) if wasted > _SMALL_BYTES else values
    return values


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

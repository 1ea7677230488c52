"""Folds that keep what they are given: a list of the values, an array of them by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from scalops.algebra.dtypes import ArrayType, ListType
from scalops.algebra.errors import DataError
from scalops.algebra.folds import Fold
from scalops.engine.columns import Array, ColumnData, SparseColumn, arrow_type, concatenated
from scalops.engine.kernels.fold_forms import Form, Partial
from scalops.engine.kernels.kernel import Vector
from scalops.engine.kernels.order_folds import Pieces
from scalops.engine.table_errors import Wrong, wrong_index


def copied(values: ColumnData) -> ColumnData:
    """The values in memory of their own: a block's may be written over."""
    if isinstance(values, np.ndarray):
        return values.copy()
    if isinstance(values, SparseColumn):
        return values.take(np.arange(len(values)))
    return values


class Listed(Pieces):
    """All values that are not null, in table order."""

    def taken(self, values: ColumnData) -> ColumnData:
        return copied(values)

    def whole(self, partial: Partial) -> Any:
        values = self.together(partial or [])
        kind = self.fold.type
        assert isinstance(kind, ListType)
        return lists_of(values, np.array([0, len(values)]), kind)[0].as_py()


class Scattered(Form):
    """[(indices, which are not null, values, which are not null), ...], in table order.

    The result is the array of the values by index, zero where there is none, and whether there
    is one.
    """

    def block(self, vectors: Sequence[Vector], rows: int) -> Partial:
        if rows == 0:
            return None
        return [tuple((copied(v), None if m is None else m.copy()) for v, m in vectors)]

    def merge(self, left: Partial, right: Partial) -> Partial:
        return [*left, *right]

    def whole(self, partial: Partial) -> Any:
        kinds = [a.type for a in self.fold.arguments]
        index, values = together(partial or [], kinds)
        return [a[0] for a in scattered(self.fold, index, values, np.zeros(len(index[0]), int), 1)]

    def part(self, whole: Any, fold: Fold) -> Any:
        return whole[fold.output]


def together(chunks: Sequence[Sequence[Vector]], kinds: Sequence[ArrayType]) -> list[Vector]:
    """The columns of consecutive chunks, each in one piece."""
    made: list[Vector] = []
    for i, kind in enumerate(kinds):
        own = [chunk[i] for chunk in chunks]
        mask = None
        if any(m is not None for _, m in own):
            mask = np.concatenate([np.ones(len(v), bool) if m is None else m for v, m in own])
        made.append((concatenated([v for v, _ in own], kind), mask))
    return made


def scattered(
    fold: Fold, index: Vector, values: Vector, owners: Array, count: int
) -> tuple[Array, Array]:
    """[count, size, *item] and bool[count, size]: each group's values by index.

    Raises: DataError for an index that is null, outside or, in its group, there twice; for a
    null value.
    """
    size = dict(fold.parameters)["size"]
    numbers, there = index
    given, mask = values
    null = np.zeros(len(numbers), bool) if there is None else ~there
    outside = ~null & ((numbers < 0) | (numbers >= size))
    missing = null[:0] if mask is None else ~mask
    checks: tuple[tuple[Wrong, Array], ...] = (
        ("null", null), ("outside", outside), ("value", missing)
    )  # fmt: skip
    for what, wrong in checks:
        if wrong.any():
            raise wrong_index(fold, int(numbers[np.argmax(wrong)]), what)
    places = owners * size + numbers.astype(np.int64)
    often = np.bincount(places, minlength=count * size)
    if len(places) and int(often.max()) > 1:
        raise wrong_index(fold, int(numbers[np.argmax(often[places] > 1)]), "twice")
    made = np.zeros((count * size, *given.shape[1:]), given.dtype)
    made[places] = given
    return made.reshape(count, size, *given.shape[1:]), often.astype(bool).reshape(count, size)


def lists_of(items: ColumnData, starts: Array, kind: ListType) -> pa.Array:
    """Lists of consecutive items: list i has those from starts[i] to starts[i + 1] - 1."""
    if len(items) >= 2**31:
        raise DataError(
            f"collect_list makes lists of {len(items)} items together; a column holds 2^31 at most"
        )
    flat = items
    if isinstance(items, np.ndarray):
        flat = pa.array(np.ascontiguousarray(items, kind.item.numpy).reshape(-1))
        if kind.item.shape:
            flat = pa.FixedSizeListArray.from_arrays(flat, kind.item.size)
    if flat.type != arrow_type(kind.item):
        flat = flat.cast(arrow_type(kind.item))
    return pa.ListArray.from_arrays(pa.array(starts.astype(np.int32)), flat)

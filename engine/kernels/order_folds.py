"""Folds that choose or order values: first, last, argmin, argmax, n_unique, quantile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from scalops.algebra.folds import Fold
from scalops.algebra.sparse import SparseVector
from scalops.engine.blocks import Block
from scalops.engine.columns import ColumnData, SparseColumn, filtered
from scalops.engine.kept_values import (
    COUNTED_BYTES,
    FULL_BYTES,
    KeptValues,
    is_plain,
    words_of,
)
from scalops.engine.kernels.fold_forms import Form, Partial, known
from scalops.engine.kernels.kernel import Vector
from scalops.engine.kernels.keys import first_of_equals


class End(Form):
    """The first or last value that is not null; of a whole record, the values as they are."""

    def __init__(self, fold: Fold) -> None:
        super().__init__(fold)
        self._last, self._record = fold.kind.startswith("last"), fold.kind.endswith("record")

    def block(self, vectors: Sequence[Vector], rows: int) -> Partial:
        if not self._record and vectors[0][1] is not None:
            held = np.flatnonzero(vectors[0][1])
            if len(held) == 0:
                return None
            return [value_at(vectors[0], int(held[-1 if self._last else 0]))]
        if rows == 0:
            return None
        return [value_at(v, rows - 1 if self._last else 0) for v in vectors]

    def merge(self, left: Partial, right: Partial) -> Partial:
        return right if self._last else left

    def part(self, whole: Any, fold: Fold) -> Any:
        return whole[fold.output]


class Best(Form):
    """[by, values...] of the record whose `by` is least or greatest, the first of equals.

    A NaN comes before all numbers, as in np.argmax and np.argmin.
    """

    def __init__(self, fold: Fold) -> None:
        super().__init__(fold)
        self._least = fold.kind == "argmin"

    def block(self, vectors: Sequence[Vector], rows: int) -> Partial:
        by, mask = vectors[0]
        values = known(vectors[0])
        if len(values) == 0:
            return None
        at = self._position(values)
        if mask is not None:
            at = int(np.flatnonzero(mask)[at])
        return [value_at((by, None), at), *(value_at(v, at) for v in vectors[1:])]

    def _position(self, values: ColumnData) -> int:
        if isinstance(values, np.ndarray):
            return int(np.argmin(values) if self._least else np.argmax(values))
        best = pc.min(values) if self._least else pc.max(values)
        return int(pc.index(values, best).as_py())

    def merge(self, left: Partial, right: Partial) -> Partial:
        a, b = left[0], right[0]
        better = b < a if self._least else b > a
        return right if better or (b != b and a == a) else left

    def part(self, whole: Any, fold: Fold) -> Any:
        return whole[1 + fold.output]


def value_at(vector: Vector, at: int) -> Any:
    """A record's value, no view of its column; None for null."""
    values, mask = vector
    if mask is not None and not mask[at]:
        return None
    if isinstance(values, np.ndarray):
        return np.array(values[at])[()]
    if isinstance(values, SparseColumn):
        one = values.slice(at, at + 1)
        return SparseVector(one.indices.copy(), one.values.copy(), values.dimension)
    return values[at].as_py()


class Pieces(Form):
    """Columns of values, in order; those of similar size are put together as they come.

    So that a value is copied as often as the logarithm of their number, not once a block. Pieces
    that are not small lie in `kept`, which counts them.
    """

    def __init__(self, fold: Fold) -> None:
        super().__init__(fold)
        self.kept = KeptValues()

    def block(self, vectors: Sequence[Vector], rows: int) -> Partial:
        values = known(vectors[0])
        return [self.kept.keep(self.taken(values))] if len(values) else None

    def merge(self, left: Partial, right: Partial) -> Partial:
        made, rest = left[:], right[::-1]
        # Whoever holds the partials must not hold pieces whose memory was given back.
        left.clear()
        right.clear()
        while rest:
            made.append(rest.pop())
            while len(made) > 1 and self.is_one(made[-2], made[-1]):
                last = made.pop()
                pair = [made.pop(), last]
                del last
                made.append(self.together(pair))
        return made

    def is_one(self, piece: ColumnData, other: ColumnData) -> bool:
        """Whether consecutive pieces become one: each is small, or too small to be counted."""
        if piece.nbytes < COUNTED_BYTES:
            return True
        return len(piece) <= 2 * len(other) and piece.nbytes + other.nbytes <= FULL_BYTES

    def together(self, pieces: list[ColumnData]) -> ColumnData:
        """Consecutive pieces as one; the list is empty afterwards."""
        return self.kept.joined(pieces, self.fold.arguments[0].type)

    def taken(self, values: ColumnData) -> ColumnData:
        """What is kept of values, which may lie in a block's buffer."""
        raise NotImplementedError


class Distinct(Pieces):
    """How many values differ: NaN is one value, and 0.0 and -0.0 are one."""

    def taken(self, values: ColumnData) -> ColumnData:
        if isinstance(values, np.ndarray) and is_plain(values):
            return words_of(values)
        kinds = (("value", self.fold.arguments[0].type),)
        return filtered(values, first_of_equals(Block(len(values), {"value": values}), kinds))

    def is_one(self, piece: ColumnData, other: ColumnData) -> bool:
        return len(piece) <= 2 * len(other)

    def together(self, pieces: list[ColumnData]) -> ColumnData:
        return self.kept.distinct(pieces, self.fold.arguments[0].type)

    def whole(self, partial: Partial) -> Any:
        if partial is None:
            return None
        return self.kept.count(partial, self.fold.arguments[0].type)


class Quantile(Pieces):
    """np.quantile of all values, which are held until the end."""

    def taken(self, values: ColumnData) -> ColumnData:
        assert isinstance(values, np.ndarray)
        return values.copy()

    def whole(self, partial: Partial) -> Any:
        if partial is None:
            return None
        values = self.together(partial)
        assert isinstance(values, np.ndarray)
        if values.dtype == bool:
            values = values.view(np.uint8)
        q, own = dict(self.fold.parameters)["q"], bool(values.flags.writeable)
        return np.quantile(values, q, axis=0, overwrite_input=own)

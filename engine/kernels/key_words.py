"""Keys of joins as words: unsigned integers that are equal where the values of a key are.

A key is a column of any type. Numbers, bools and times become their bits, an array of fixed shape
one word for each element; strings stay as they are; lists and sparse vectors, which are rarely
keys, become text that says what they hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalops.algebra.functions.hashing import hash_numbers, hash_strings
from scalops.engine.columns import Array, ColumnData, SparseColumn
from scalops.engine.kernels.keys import Key

Word = Any  # Array of unsigned integers, or an Arrow array of strings


class Words:
    """The keys of some records: `words`, and which of them may match at all (None: all)."""

    def __init__(self, keys: Sequence[Key], rows: int, nulls_equal: bool) -> None:
        self.rows = rows
        self.words: list[Word] = []
        self.known: Array | None = None
        for column, valid in keys:
            mask = _not_null(column, valid)
            words = _words(column)
            if mask is not None and nulls_equal:
                words = [_blanked(w, mask) for w in words]
            elif mask is not None:
                self.known = mask if self.known is None else self.known & mask
            if nulls_equal:  # a null is equal to a null, and to nothing else
                words.append(np.ones(rows, np.uint8) if mask is None else mask.view(np.uint8))
            self.words.extend(words)

    def hashes(self, start: int, stop: int) -> Array:
        """uint64[stop - start]: equal for equal keys."""
        total: Array | None = None
        for word in self.words:
            if isinstance(word, np.ndarray):
                part = word[start:stop].astype(np.uint64)
                total = hash_numbers(part if total is None else total ^ part)
            else:
                own = hash_strings(word.slice(start, stop - start))
                total = own if total is None else hash_numbers(total ^ own)
        assert total is not None
        return total

    def equal(self, rows: Array, other: Words, those: Array) -> Array:
        """bool[...]: whether the keys of these rows equal those of the other's rows."""
        same: Array | None = None
        for own, theirs in zip(self.words, other.words, strict=True):
            if isinstance(own, np.ndarray):
                made = own.take(rows) == theirs.take(those)
            else:
                pair = own.take(pa.array(rows)), theirs.take(pa.array(those))
                if pair[0].type != pair[1].type:
                    pair = tuple(p.cast(pa.large_string()) for p in pair)
                # Null where a string is: such a record is not known, or its own word says so.
                made = pc.fill_null(pc.equal(*pair), False).to_numpy(zero_copy_only=False)
            same = made if same is None else same & made
        assert same is not None
        return same


def _not_null(column: ColumnData, valid: Array | None) -> Array | None:
    mask = valid
    if isinstance(column, np.ndarray):
        missing = null_times(column)
        if missing is not None:
            mask = ~missing if mask is None else mask & ~missing
    elif not isinstance(column, SparseColumn) and column.null_count:
        own = column.is_valid().to_numpy(zero_copy_only=False)
        mask = own if mask is None else mask & own
    return mask


def null_times(column: Array) -> Array | None:
    """bool[rows]: which times are NaT, which is null; None where none is."""
    if column.dtype.kind not in "mM" or column.ndim != 1:
        return None
    missing = np.isnat(column)
    return missing if missing.any() else None


def _words(column: ColumnData) -> list[Word]:
    if isinstance(column, np.ndarray):
        if column.ndim == 1:
            return [bits(column)]
        flat = column.reshape(len(column), -1) if len(column) else column.reshape(0, 1)
        words = [bits(np.ascontiguousarray(flat[:, i])) for i in range(flat.shape[1])]
        return words or [np.zeros(len(column), np.uint8)]
    if isinstance(column, SparseColumn):
        ends = column.indptr.tolist()
        pairs = zip(column.indices.tolist(), column.values.tolist(), strict=True)
        items = [(i, v + 0.0) for i, v in pairs]
        texts = [repr([p for p in items[a:b] if p[1]]) for a, b in pairwise(ends)]
        return [pa.array(texts, pa.string())]
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return [column]
    return [pa.array([_text(v) for v in column.to_pylist()], pa.string())]


def _text(value: Any) -> str | None:
    """What a list holds; alike for 0.0 and -0.0."""
    return None if value is None else repr(_canonical(value))


def _canonical(value: Any) -> Any:
    if isinstance(value, list):
        return list(map(_canonical, value))
    return value + 0.0 if isinstance(value, float) else value


def bits(values: Array) -> Array:
    """Unsigned integers, equal where the values are: all NaNs are, and 0.0 and -0.0."""
    if values.dtype.kind == "f":
        values = values + values.dtype.type(0)  # -0.0 + 0.0 is 0.0
        values[np.isnan(values)] = np.nan
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")


def _blanked(word: Word, mask: Array) -> Word:
    """The same word for all nulls."""
    if isinstance(word, np.ndarray):
        return np.where(mask, word, word.dtype.type(0))
    return pc.if_else(pa.array(mask), word, pa.scalar("", word.type))

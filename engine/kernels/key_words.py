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
from scalops.engine.columns import Array, ColumnData, SparseColumn, sliced
from scalops.engine.kernels.keys import Key
from scalops.engine.spilled_memory import Room

CHUNK = 1 << 18  # records whose words are made at a time
Word = Any  # Array of unsigned integers, or an Arrow array of strings


class Words:
    """The keys of some records: `words`, and which of them may match at all (None: all).

    Words that are not their columns themselves lie in `memory`, which counts them, and are made
    chunk by chunk; without one they are for a block, and nothing counts them.
    """

    def __init__(
        self, keys: Sequence[Key], rows: int, nulls_equal: bool, memory: Room | None = None
    ) -> None:
        self.rows = rows
        self.words: list[Word] = []
        self.known: Array | None = None
        self._own: list[int] = []  # the words that lie in memory for this
        if memory is None or rows <= CHUNK:
            self.words, self.known = _of_keys(keys, nulls_equal)
            if memory is not None:
                self._count(keys, nulls_equal, memory)
            return
        for key in keys:
            self._add(key, nulls_equal, memory)

    @property
    def made(self) -> list[Word]:
        """The words that are counted, and the mask."""
        found = [self.words[i] for i in self._own]
        return found if self.known is None else [*found, self.known]

    def keep(self, memory: Room) -> None:
        """Count them in this memory from now on."""
        for i in self._own:
            self.words[i] = memory.column(self.words[i])
        if self.known is not None:
            self.known = memory.column(self.known)

    def _count(self, keys: Sequence[Key], nulls_equal: bool, memory: Room) -> None:
        shown = all(_is_shown(column, valid, nulls_equal) for column, valid in keys)
        self._own = [] if shown else list(range(len(self.words)))
        self.keep(memory)

    def _add(self, key: Key, nulls_equal: bool, memory: Room) -> None:
        """The words of one key, chunk by chunk where they are not its column."""
        column, valid = key
        if _is_shown(column, valid, nulls_equal):
            self.words += _words(column)
            return
        made: list[Any] = []
        known: Array | None = None
        for start in range(0, self.rows, CHUNK):
            stop = min(start + CHUNK, self.rows)
            part = sliced(column, start, stop), None if valid is None else valid[start:stop]
            words, mask = _of_keys([part], nulls_equal)
            if not made:
                made = [
                    memory.empty(self.rows, w.dtype) if isinstance(w, np.ndarray) else []
                    for w in words
                ]
            for whole, word in zip(made, words, strict=True):
                if isinstance(whole, list):
                    whole.append(word)
                else:
                    whole[start:stop] = word
            if mask is not None and known is None:
                known = memory.full(self.rows, True, np.bool_)
            if mask is not None and known is not None:
                known[start:stop] = mask
        for word in made:
            self._own.append(len(self.words))
            text = isinstance(word, list)
            self.words.append(memory.column(_text_of(word)) if text else word)
        if known is not None and self.known is not None:
            self.known &= known
            memory.drop(known)
        elif known is not None:
            self.known = known

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


def _of_keys(keys: Sequence[Key], nulls_equal: bool) -> tuple[list[Word], Array | None]:
    """The words of some records, and which may match at all."""
    made: list[Word] = []
    known: Array | None = None
    for column, valid in keys:
        mask = _not_null(column, valid)
        words = _words(column)
        if mask is not None and nulls_equal:
            words = [_blanked(w, mask) for w in words]
        elif mask is not None:
            known = mask if known is None else known & mask
        if nulls_equal:  # a null is equal to a null, and to nothing else
            words.append(np.ones(len(column), np.uint8) if mask is None else mask.view(np.uint8))
        made.extend(words)
    return made, known


def _is_shown(column: ColumnData, valid: Array | None, nulls_equal: bool) -> bool:
    """Whether the column itself is its only word: nothing has to be made."""
    if nulls_equal or valid is not None:
        return False
    if isinstance(column, np.ndarray):
        kinds = "biu" if column.ndim == 1 else ""
        return column.dtype.kind in kinds and bool(column.flags.c_contiguous)
    return not isinstance(column, SparseColumn) and _is_text(column) and not column.null_count


def _is_text(column: pa.Array) -> bool:
    return bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))


def _text_of(parts: Sequence[pa.Array]) -> pa.Array:
    """Words of text one behind the other; beyond 2 GiB in Arrow's large form."""
    if sum(p.nbytes for p in parts) >= np.iinfo(np.int32).max:
        parts = [p.cast(pa.large_string()) for p in parts]
    return pa.concat_arrays(parts)


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
    if _is_text(column):
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

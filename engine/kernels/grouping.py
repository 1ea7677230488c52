"""Groups of records: which group each record is in, by keys of any type.

Groups are numbered by first appearance. Nulls are one key, NaNs are, 0.0 and -0.0 are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from scalops.algebra.dtypes import ArrayType
from scalops.engine.columns import Array, ColumnData
from scalops.engine.kernels.keys import Key, value_codes
from scalops.engine.kernels.segments import Segments
from scalops.engine.spilled_memory import Room

Run = Callable[[Callable[[int, int], None], int], None]

# A table by key is made where it has at most so many entries for each record. Neutral: it decides
# how groups are found, not which they are. Measured with 5 M integers: 75 ms by a table and 234 ms
# by hash for 1 M groups, 144 and 511 ms where all differ.
_SPAN_PER_ROW = 4
_SMALL_SPAN = 4096
_CHUNK = 1 << 18  # records that one task takes
_HEAD_PER_CODE = 16  # records for each code in which all are looked for first


class Groups:
    """The records of `count` groups: `ids`, int64[rows], is the group of each."""

    def __init__(self, ids: Array, count: int) -> None:
        self.ids, self.count = ids, count

    @property
    def rows(self) -> int:
        return len(self.ids)

    @cached_property
    def counts(self) -> Array:
        """int64[count]: the records of each group."""
        return np.bincount(self.ids, minlength=self.count)

    @cached_property
    def segments(self) -> Segments:
        """The records by group."""
        return Segments(self.ids, self.count)

    @cached_property
    def _chosen(self) -> dict[int, tuple[Array, Groups]]:
        return {}

    def where(self, mask: Array | None) -> Groups:
        """The records for which the mask, bool[rows], is true; in the same groups."""
        if mask is None:
            return self
        known = self._chosen.get(id(mask))
        if known is None:
            known = self._chosen[id(mask)] = mask, Groups(self.ids[mask], self.count)
        return known[1]

    def keep(self, room: Room) -> None:
        """Count what stays from iteration to iteration in this room from now on."""
        self.ids = room.column(self.ids)
        if "segments" in self.__dict__:
            self.segments.keep(room)

    def forget_masks(self) -> None:
        """Drop what `where` keeps for folds of the same masks: the next ones have others."""
        self._chosen.clear()


def group_rows(
    keys: Sequence[Key], kinds: Sequence[ArrayType], rows: int, run: Run | None = None
) -> tuple[Array, Array]:
    """The group of each record, int64[rows], and the first record of each group, int64[groups].

    Without keys all records are one group. `run` runs tasks on threads.
    """
    codes, span = np.zeros(rows, np.int64), 1
    for (column, valid), kind in zip(keys, kinds, strict=True):
        own, size, in_order = _codes(column, valid, kind, rows)
        if len(keys) == 1 and in_order:
            return own, _new_ones(own)
        if span == 1:
            codes, span = own, size
            continue
        if span * size > _most(rows):  # both to fewer than there are records: then it fits
            codes, span = _compact(codes, span)
            own, size = _compact(own, size)
        codes, span = codes * size + own, span * size
    return _numbered(codes, span, run)


def _most(rows: int) -> int:
    return _SPAN_PER_ROW * rows + _SMALL_SPAN


def _codes(
    column: ColumnData, valid: Array | None, kind: ArrayType, rows: int
) -> tuple[Array, int, bool]:
    """Numbers from 0 for equal values, a bound of them, and whether by first appearance."""
    if isinstance(column, np.ndarray) and column.ndim == 1 and rows:
        if column.dtype.kind == "b":
            column = column.view(np.uint8)
        if column.dtype.kind in "iu":
            low, high = int(column.min()), int(column.max())
            span = high - low + 1
            if span <= _most(rows):
                if low > 0:  # where it wraps round otherwise, 64 bits hold it
                    column = column - column.dtype.type(low)
                codes = column.astype(np.int64, copy=False)
                if low < 0:
                    codes = codes - low
                if valid is None:
                    return codes, span, False
                return np.where(valid, codes + 1, 0), span + 1, False
        elif column.dtype.kind in "mM":  # NaT is null
            there = ~np.isnat(column)
            if not there.all():
                valid = there if valid is None else there & valid
    codes = value_codes(column, valid, kind)
    span = int(codes.max(initial=-1)) + 1
    if int(codes.min(initial=0)) < 0:
        return codes + 1, span + 1, False
    return codes, span, True


def _compact(codes: Array, span: int) -> tuple[Array, int]:
    """Numbers below the number of records, where they are not."""
    if span <= len(codes):
        return codes, span
    ids, firsts = _numbered(codes, span)
    return ids, len(firsts)


def _numbered(codes: Array, span: int, run: Run | None = None) -> tuple[Array, Array]:
    """The codes numbered by first appearance, and where each appears first."""
    rows = len(codes)
    if span > _most(rows):
        made = pa.array(codes).dictionary_encode().indices
        codes = np.asarray(made).astype(np.int64)
        return codes, _new_ones(codes)
    head = _HEAD_PER_CODE * span
    if 4 * head < rows:  # few codes: most likely all of them are among the first records
        table, firsts = _first_table(codes[:head], span, np.dtype(np.int64))
        ids = table[codes]
        if int(ids.min()) >= 0:
            return ids, firsts
    kind = np.dtype(np.int32 if rows < 2**31 else np.int64)
    table, firsts = _first_table(codes, span, kind)
    if run is None or rows < 2 * _CHUNK:
        return table[codes].astype(np.int64, copy=False), firsts
    ids = np.empty(rows, np.int64)

    def look_up(worker: int, index: int) -> None:
        own = slice(index * _CHUNK, min(rows, (index + 1) * _CHUNK))
        ids[own] = table.take(codes[own])

    run(look_up, -(-rows // _CHUNK))
    return ids, firsts


def _first_table(codes: Array, span: int, kind: np.dtype[Any]) -> tuple[Array, Array]:
    """kind[span]: the number of each code by first appearance, -1 for none; and where that is."""
    rows = len(codes)
    table: Array = np.full(span, -1, kind)
    # Of several values for one place NumPy keeps the last: backwards, the first record's.
    table[codes[::-1]] = np.arange(rows - 1, -1, -1, dtype=kind)
    marks: Array = np.zeros(rows, bool)
    marks[table[table >= 0]] = True
    firsts = np.flatnonzero(marks)
    table[codes[firsts]] = np.arange(len(firsts))
    return table, firsts


def _new_ones(codes: Array) -> Array:
    """Where codes that count by first appearance show a new one: it is greater than all before."""
    new: Array = np.ones(len(codes), bool)
    new[1:] = codes[1:] > np.maximum.accumulate(codes)[:-1]
    return np.flatnonzero(new)

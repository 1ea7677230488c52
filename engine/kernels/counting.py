"""A stable counting sort of records by small numbers, in memory or piece by piece."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from scalops.engine.columns import Array
from scalops.engine.spilled_memory import Room, is_spilled

_CHUNK = 1 << 18  # records of a piece


def position_type(count: int) -> type[np.signedinteger]:
    """The narrow type that holds numbers below `count`, and -1."""
    return np.int32 if count < 1 << 31 else np.int64


def sorted_by_id(ids: Array, size: int, memory: Room) -> tuple[Array, Array]:
    """Records by id, stable: where each id's begin, [size + 1], and the records.

    `ids` are below `size`, -1 for records that are left out. Both results lie in `memory`.
    """
    narrow = position_type(max(len(ids), size + 1))
    working = (4 * np.dtype(narrow).itemsize + 2) * (len(ids) + size)
    if is_spilled(ids) or not memory.take(working):
        return _in_pieces(ids, size, narrow, memory)
    ends, order = _at_once(ids, size, narrow)
    memory.release(working)
    return memory.column(ends), memory.column(order)


def _at_once(ids: Array, size: int, narrow: type[np.signedinteger]) -> tuple[Array, Array]:
    at = None
    if len(ids) and int(ids.min()) < 0:
        at = np.flatnonzero(ids >= 0)
        ids = ids[at]
    rows = len(ids)
    by_row = csr_array(
        (np.ones(rows, np.int8), ids.astype(narrow), np.arange(rows + 1, dtype=narrow)),
        shape=(rows, size),
    )
    by_id = by_row.tocsc()  # in C, linear, and it keeps the order within an id
    order = by_id.indices if at is None else at.astype(narrow)[by_id.indices]
    return by_id.indptr, order


def _in_pieces(
    ids: Array, size: int, narrow: type[np.signedinteger], memory: Room
) -> tuple[Array, Array]:
    """Counted piece by piece, then placed: pieces sorted by id touch memory in its order."""
    ends = memory.full(size + 1, 0, narrow)
    for start in range(0, len(ids), _CHUNK):
        found, counts = np.unique(ids[start : start + _CHUNK], return_counts=True)
        known = found >= 0
        ends[found[known].astype(np.int64) + 1] += counts[known].astype(narrow)
    _add_up(ends)
    order = memory.empty(int(ends[-1]), narrow)
    places = memory.empty(size, narrow)
    places[...] = ends[:-1]
    for start in range(0, len(ids), _CHUNK):
        _place(ids[start : start + _CHUNK], start, places, order)
    memory.drop(places)
    return ends, order


def _add_up(values: Array) -> None:
    """Each becomes the sum of those up to it."""
    total = values.dtype.type(0)
    for start in range(0, len(values), _CHUNK):
        own = values[start : start + _CHUNK]
        np.cumsum(own, out=own)
        own += total
        total = own[-1]


def _place(ids: Array, first: int, places: Array, order: Array) -> None:
    """Put records numbered from `first` where the next of their id go."""
    rows = np.argsort(ids, kind="stable")
    rows = rows[np.searchsorted(ids, 0, sorter=rows) :]
    if not len(rows):
        return
    own = ids[rows].astype(np.int64)
    begins = np.flatnonzero(np.diff(own, prepend=-1))
    lengths = np.diff(begins, append=len(own))
    found = own[begins]
    within = np.arange(len(own)) - np.repeat(begins, lengths)
    order[np.repeat(places[found].astype(np.int64), lengths) + within] = rows + first
    places[found] += lengths.astype(places.dtype)

"""Segment sums: what each group adds up, from positions that were found once.

A group-by whose groups do not change from one iteration to the next is a matrix with a row for
each group and an entry for each record; a sum over it is its product with the column that is
added up. The entries of a row are in table order, so that the sum is the one that adding record
by record gives, bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from scipy import sparse

from scalops.engine.columns import Array
from scalops.engine.spilled_memory import Room

Run = Callable[[Callable[[int, int], None], int], None]
_PARTS = 16  # more than threads: groups of few records and of many are shared out
_SORTS = 4  # parts that are sorted by group, each by itself; all records are looked at for each


def _cuts(ends: Array, first: int, last: int, parts: int) -> list[int]:
    """Bounds of runs of groups with about as many records each, not with as many groups."""
    if last <= first:
        return [first, last]
    begin = int(ends[first - 1]) if first else 0
    marks = np.linspace(begin, int(ends[last - 1]), parts + 1)[1:-1]
    inner = np.clip(np.searchsorted(ends, marks), first, last)
    found: list[int] = np.unique([first, *inner, last]).tolist()
    return found


def share_of(ends: Array, number: int, parts: int) -> tuple[int, int]:
    """The groups of one of several parts with about as many records each, perhaps none."""
    groups = len(ends)
    marks = np.linspace(0, int(ends[-1]) if groups else 0, parts + 1)[1:-1]
    bounds = [0, *np.searchsorted(ends, marks).tolist(), groups]
    return bounds[number], bounds[number + 1]


class Segments:
    """The records of each of `groups` groups, by group, in table order.

    `ids`: int[records], the group of each. `order`: int32 or int64[records], the records of
    group 0, then those of group 1, ...; group g has `order[starts[g]:starts[g + 1]]`.
    """

    def __init__(self, ids: Array, groups: int) -> None:
        self.starts, self.order, _ = by_group(ids, groups, np.ones(len(ids), np.int8))

    @property
    def nbytes(self) -> int:
        return int(self.starts.nbytes + self.order.nbytes)

    def keep(self, room: Room) -> None:
        """Count them in this room from now on."""
        self.starts, self.order = room.column(self.starts), room.column(self.order)


def by_group(ids: Array, groups: int, carried: Array) -> tuple[Array, Array, Array]:
    """Where each group's records begin, the records by group in table order, what they carry.

    A counting sort, by SciPy in C: the records are the columns of a matrix with one entry each,
    and its rows list their entries in order.
    """
    rows = len(ids)
    kind = np.int32 if max(rows, groups) < 2**31 else np.int64
    entries: Any = (carried, ids.astype(kind, copy=False), np.arange(rows + 1, dtype=kind))
    matrix = sparse.csc_array(entries, shape=(groups, rows)).tocsr()
    return matrix.indptr, matrix.indices, matrix.data


class SegmentProduct:
    """Adds up, for each group, weight · x[position] over its records.

    `ids`: int[records], the group of each, of `groups`. `positions`: of each record, where in x
    its number is, -1: nowhere; None: at the record's own place. `weights`: a number for each
    record, None: 1. All of them are given once, x comes with each call. With a `part`, (number,
    how many), only the groups `first` to `last` - 1 are added up.
    """

    def __init__(
        self,
        ids: Array,
        groups: int,
        positions: Array | None,
        weights: Array | None,
        sources: int,
        dtype: np.dtype[Any],
        run: Run,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        kind = np.int32 if max(sources, len(ids), groups) < 2**31 else np.int64
        narrow: Any = ids.astype(kind, copy=False)
        self.dtype = dtype
        self.counts: Array = np.bincount(narrow, minlength=groups)  # the entries of each group
        ends = np.cumsum(self.counts)
        made: list[list[tuple[int, int, Any]]] = [[] for _ in range(_SORTS)]
        self.first, self.last = share_of(ends, *part)
        cuts = _cuts(ends, self.first, self.last, _SORTS)
        all_of_them = len(cuts) == 2 and part[1] == 1

        def sort(_: int, index: int) -> None:
            a, b = cuts[index], cuts[index + 1]
            own = np.flatnonzero((narrow >= a) & (narrow < b)) if not all_of_them else slice(None)
            members = narrow[own] - kind(a)
            carried = np.ones(len(members), np.int8) if positions is None else positions[own]
            starts, order, places = by_group(members, b - a, carried.astype(kind, copy=False))
            if weights is not None:
                factors = weights[own][order].astype(dtype, copy=False)
            else:
                factors = np.ones(len(order), dtype)
            if positions is None:
                places = order if isinstance(own, slice) else own[order]
            elif len(places) and int(places.min()) < 0:
                there = places >= 0
                starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(there)])[starts]
                places, factors = places[there], factors[there]
                self.counts[a:b] = np.diff(starts)
            places, starts = places.astype(kind, copy=False), starts.astype(kind, copy=False)
            inner = _cuts(starts[1:], 0, b - a, _PARTS // _SORTS)
            for first, last in pairwise(inner):
                entries = slice(int(starts[first]), int(starts[last]))
                rows = starts[first : last + 1] - starts[first]
                matrix: Any = (factors[entries], places[entries], rows)
                piece = sparse.csr_array(matrix, shape=(last - first, sources))
                made[index].append((a + first, a + last, piece))

        run(sort, len(cuts) - 1)
        self._parts = [part for parts in made for part in parts]

    @property
    def nbytes(self) -> int:
        return sum(m.data.nbytes + m.indices.nbytes + m.indptr.nbytes for _, _, m in self._parts)

    def keep(self, room: Room) -> None:
        """Count the matrix in this room from now on."""
        self.counts = room.column(self.counts)
        for _, _, matrix in self._parts:
            matrix.data = room.column(matrix.data)
            matrix.indices = room.column(matrix.indices)
            matrix.indptr = room.column(matrix.indptr)

    def sums(self, x: Array, run: Run) -> Array:
        """dtype[last - first, *item]: of x, dtype[sources, *item]."""
        flat = x.reshape(len(x), prod(x.shape[1:])) if x.ndim > 2 else x
        out = np.empty((self.last - self.first, *flat.shape[1:]), self.dtype)

        def task(_: int, index: int) -> None:
            a, b, matrix = self._parts[index]
            out[a - self.first : b - self.first] = matrix @ flat

        run(task, len(self._parts))
        return out.reshape(len(out), *x.shape[1:])

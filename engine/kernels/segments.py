"""Segment sums: what each group adds up, from positions that were found once.

A group-by whose groups do not change from one iteration to the next is a matrix with a row for
each group and an entry for each record; a sum over it is its product with the column that is
added up. The entries of a row are in table order, so that the sum is the one that adding record
by record gives, bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from scalops.engine.columns import Array

Run = Callable[[Callable[[int, int], None], int], None]
_PARTS = 16  # more than threads: rows of few entries and of many are shared out


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
    record, None: 1. All of them are given once, x comes with each call.
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
    ) -> None:
        kind = np.int32 if max(sources, len(ids)) < 2**31 else np.int64
        carried = np.ones(len(ids), np.int8) if positions is None else positions.astype(kind)
        starts, order, all_places = by_group(ids, groups, carried)
        if positions is None:
            all_places = order
        self.groups, self.dtype = groups, dtype
        self.counts: Array = np.zeros(self.groups, np.int64)  # the entries of each group
        # Cuts at equal numbers of records, not of groups: some have most of the records.
        marks = np.linspace(0, len(order), _PARTS + 1)
        cuts = np.unique([0, *np.searchsorted(starts, marks[1:-1]).tolist(), self.groups]).tolist()
        self._parts: list[tuple[int, int, Any]] = [(0, 0, None)] * (len(cuts) - 1)

        def task(_: int, index: int) -> None:
            a, b = cuts[index], cuts[index + 1]
            first, last = int(starts[a]), int(starts[b])
            own = starts[a : b + 1] - starts.dtype.type(first)
            places = all_places[first:last]
            factors = None
            if weights is not None:
                factors = weights[order[first:last]].astype(dtype, copy=False)
            if positions is not None and len(places) and int(places.min()) < 0:
                there = places >= 0
                own = np.concatenate([np.zeros(1, np.int64), np.cumsum(there)])[own]
                places = places[there]
                factors = None if factors is None else factors[there]
            if factors is None:
                factors = np.ones(len(places), dtype)
            self.counts[a:b] = np.diff(own)
            entries = (factors, places.astype(kind, copy=False), own.astype(kind, copy=False))
            self._parts[index] = a, b, sparse.csr_array(entries, shape=(b - a, sources))

        run(task, len(self._parts))

    @property
    def nbytes(self) -> int:
        return sum(m.data.nbytes + m.indices.nbytes + m.indptr.nbytes for _, _, m in self._parts)

    def sums(self, x: Array, run: Run) -> Array:
        """dtype[groups, *item]: of x, dtype[sources, *item]."""
        flat = x.reshape(len(x), -1) if x.ndim > 2 else x
        out = np.empty((self.groups, *flat.shape[1:]), self.dtype)

        def task(_: int, index: int) -> None:
            a, b, matrix = self._parts[index]
            out[a:b] = matrix @ flat

        run(task, len(self._parts))
        return out.reshape(self.groups, *x.shape[1:])

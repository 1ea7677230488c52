"""Where the keys of records are found among the records of a join's held side.

One integer key of a narrow range is looked up in a table by its value. Any other key goes through
a hash table of open addressing, built and searched by whole vectors: each round compares one slot
of every key that is still looked for. Records of equal keys lie side by side in `order`, a stable
counting sort of the held side, so that matches come in its order.

How keys are found is a neutral decision: it changes no result. Chosen by measuring 5,000,000
integers searched for 5,000,000 others, building and searching, one run each on two cores. By value:
0.13 s on one thread, 0.07 s on two. Of any size: hashed 0.58 s and 0.34 s; sorting and
np.searchsorted 1.7 s; pyarrow's `index_in` 1.8 s, and it would make its table anew for each block;
a join of Polars that keeps the order 0.46 s on two threads, but it wants both sides whole, and
would be one more dependency. For strings Polars is the faster one, by about a fifth.
`benchmarks/matching.py` compares these ways; only ratios from one run of it mean anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from scalops.engine.columns import Array, sliced
from scalops.engine.kernels.key_words import Words, null_times
from scalops.engine.kernels.keys import Key
from scalops.engine.threads import Task

Run = Callable[[Task, int], None]
Reserve = Callable[[int], None]

_SPARSE = 4  # addresses for each record that a table by value may have
_FEW = 4_096  # addresses that it may have in any case
_PART_ROWS = 1 << 17  # records of one part of a hash table: it stays in a core's cache
_CHUNK = 1 << 18  # records that one task takes


def in_turn(task: Task, count: int) -> None:
    """Run tasks on the calling thread."""
    for index in range(count):
        task(0, index)


class Matches(NamedTuple):
    """What some records match, none of it computed before it is asked for.

    Record i matches `counts[i]` held ones: those at `first[i]`, `first[i] + 1`, ... of `order`
    (None: the places are the positions). Where `counts` is None each matches at most one, at
    position `first[i]`, or none: -1.
    """

    first: Array
    counts: Array | None = None
    order: Array | None = None

    @property
    def found(self) -> Array:
        """bool[rows]: which records match any."""
        found: Array = self.first >= 0 if self.counts is None else self.counts > 0
        return found


class Pairs:
    """The pairs of records and their matches, in order; with `outer`, also those of none.

    `total` is their number; they are made in pieces, since there may be very many.
    """

    def __init__(self, matches: Matches, outer: bool) -> None:
        assert matches.counts is not None
        self._matches, self._outer = matches, outer
        counts = np.maximum(matches.counts, 1) if outer else matches.counts
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._starts = self._ends - counts
        self.total = int(self._ends[-1]) if len(self._ends) else 0

    @property
    def bytes(self) -> int:
        """What making all pairs at once takes, before the half is given back."""
        return 5 * 8 * self.total

    def piece(self, start: int, stop: int) -> tuple[Array, Array]:
        """Records and positions, -1 for no match, of the pairs start..stop-1."""
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._ends, stop, side="left")) + 1
        begin = np.maximum(self._starts[first:last], start)
        lengths = np.minimum(self._ends[first:last], stop) - begin
        rows = np.repeat(np.arange(first, min(last, len(self._ends))), lengths)
        places = np.arange(start, stop) - self._starts.take(rows) + self._matches.first.take(rows)
        missing = None
        if self._outer:
            assert self._matches.counts is not None
            missing = self._matches.counts.take(rows) == 0
            places[missing] = 0
        order = self._matches.order
        positions = places if order is None or not len(order) else order.take(places)
        if missing is not None:
            positions[missing] = -1
        return rows, positions


class KeyIndex:
    """Finds keys among those of `rows` held records.

    `run` runs tasks on threads, `reserve` is told of memory before it is taken. With `parts`, a
    power of two, a hash table is built in so many parts.
    """

    def __init__(
        self,
        keys: Sequence[Key],
        rows: int,
        nulls_equal: bool = False,
        run: Run = in_turn,
        reserve: Reserve = lambda size: None,
        parts: int | None = None,
    ) -> None:
        self.rows, self.bytes = rows, 0
        self._reserve = reserve
        addresses = _addresses(keys, rows)
        self._finder: _ByValue | _Hashed
        if addresses is not None:
            self._finder = _ByValue(addresses, keys[0], nulls_equal)
            self._take(self._finder.size * _bytes_of(rows))
            by_id, self._table = self._finder.unique_table(rows, run)
        else:
            words = Words(keys, rows, nulls_equal)
            self._take(_Hashed.bytes_for(words))
            self._finder = _Hashed(words, nulls_equal, run, parts)
            by_id, self._table = self._finder.ids, None
        self.unique = by_id is None
        self._ends = self._order = np.zeros(0, np.int64)
        if by_id is not None:
            self._take(2 * _bytes_of(max(rows, self._finder.size)) * (self._finder.size + rows))
            self._ends, self._order = _counting_sort(by_id, self._finder.size)

    def _take(self, size: int) -> None:
        self._reserve(size)
        self.bytes += size

    def lookup(self, keys: Sequence[Key], rows: int) -> Matches:
        """The matches of records with these keys."""
        if self.rows == 0:
            return Matches(np.full(rows, -1))
        ids = self._finder.find(keys, rows)
        if self.unique:
            return Matches(ids if self._table is None else self._table.take(ids))
        first = self._ends.take(ids)
        return Matches(first, self._ends.take(ids + 1) - first, self._order)


def looked_up(
    index: KeyIndex, keys: Sequence[Key], rows: int, run: Run
) -> list[tuple[Matches, int]]:
    """The matches of records, found on threads: chunks, each with its first record's number."""
    starts = range(0, max(rows, 1), _CHUNK)
    found: list[Matches | None] = [None] * len(starts)

    def task(worker: int, number: int) -> None:
        start, stop = starts[number], min(rows, starts[number] + _CHUNK)
        own = [(sliced(v, start, stop), None if m is None else m[start:stop]) for v, m in keys]
        found[number] = index.lookup(own, stop - start)

    run(task, len(starts))
    return [(m, start) for m, start in zip(found, starts, strict=True) if m is not None]


def _bytes_of(rows: int) -> int:
    return np.dtype(_position_type(rows)).itemsize


def _position_type(rows: int) -> type[np.signedinteger]:
    return np.int32 if rows < 1 << 31 else np.int64


def _counting_sort(ids: Array, size: int) -> tuple[Array, Array]:
    """Records by id, stable: where each id's begin, [size + 1], and the records.

    `ids` are -1 for records that have none.
    """
    narrow = _position_type(max(len(ids), size + 1))
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


# One integer key by its value.


class _Addresses(NamedTuple):
    least: int  # as an unsigned number of the key's width
    span: int


def _addresses(keys: Sequence[Key], rows: int) -> _Addresses | None:
    """The range of a single integer key, if it is narrow."""
    if len(keys) != 1 or not rows:
        return None
    column, valid = keys[0]
    if not isinstance(column, np.ndarray) or column.ndim != 1 or column.dtype.kind not in "biumM":
        return None
    values = column.view(np.uint8) if column.dtype.kind == "b" else column
    missing = null_times(column)
    if missing is not None or column.dtype.kind in "mM":
        values = values.view(np.int64)
    if missing is not None and valid is not None:
        missing = missing | ~valid
    elif valid is not None:
        missing = ~valid
    if missing is not None:
        values = values[~missing]
    if not len(values):
        return _Addresses(0, 1)
    least, most = int(values.min()), int(values.max())
    span = most - least + 1
    width = 8 * values.dtype.itemsize
    return _Addresses(least % (1 << width), span) if span <= _SPARSE * rows + _FEW else None


class _ByValue:
    """The id of a key is its distance from the least.

    Behind these come the id `none` of all other keys, and that of null where nulls match.
    """

    def __init__(self, addresses: _Addresses, key: Key, nulls_equal: bool) -> None:
        self._least, self.none = addresses
        self._key = key
        self._null = self.none + 1 if nulls_equal else self.none
        self.size = self.none + 2

    def unique_table(self, rows: int, run: Run) -> tuple[Array | None, Array | None]:
        """Ids and no table, or no ids and positions by id if no two records have one."""
        narrow = _position_type(rows)
        table = np.full(self.size, -1, narrow)
        column, valid = self._key
        ids = np.empty(rows, narrow if self.size < 1 << 31 else np.int64)
        twice: list[int] = []

        def fill(worker: int, index: int) -> None:
            own = slice(index * _CHUNK, min(rows, (index + 1) * _CHUNK))
            made = self._ids((column[own], None if valid is None else valid[own]))
            ids[own] = made
            # Of records with one id one stays, whichever: they are found to be two below.
            table[made] = np.arange(own.start, own.stop, dtype=narrow)

        def check(worker: int, index: int) -> None:
            own = slice(index * _CHUNK, min(rows, (index + 1) * _CHUNK))
            known = ids[own] != self.none
            same = table.take(ids[own]) == np.arange(own.start, own.stop, dtype=narrow)
            if not (same | ~known).all():
                twice.append(index)

        chunks = -(-rows // _CHUNK)
        run(fill, chunks)
        run(check, chunks)
        self._key = (column[:0], None)  # not needed any more
        if twice:
            ids[ids == self.none] = -1
            return ids, None
        table[self.none] = -1
        return None, table

    def find(self, keys: Sequence[Key], rows: int) -> Array:
        """int64[rows]: the ids of keys."""
        return self._ids(keys[0])

    def _ids(self, key: Key) -> Array:
        column, valid = key
        unsigned = np.ascontiguousarray(column).view(f"u{column.dtype.itemsize}")
        away = unsigned - unsigned.dtype.type(self._least)  # wraps round for what is less
        if self.none <= np.iinfo(unsigned.dtype).max:
            away = np.minimum(away, unsigned.dtype.type(self.none))
        made: Array = away.view(np.int64) if away.itemsize == 8 else away.astype(np.int64)
        missing = null_times(column)
        if valid is not None:
            missing = ~valid if missing is None else missing | ~valid
        if missing is not None:
            made[missing] = self._null
        return made


# Any keys by hash.


class _Hashed:
    """The id of a key is the number of a held record that has it.

    The slots hold ids, -1 where they are free, in parts of 2**n slots of which at most half are
    taken. A key's part is given by the upper bits of its hash, its first slot and the odd step to
    the next ones by the lower.
    """

    def __init__(self, words: Words, nulls_equal: bool, run: Run, parts: int | None) -> None:
        rows = words.rows
        self._words, self._nulls_equal = words, nulls_equal
        self.none = rows
        self.size = rows + 1
        hashes = np.empty(rows, np.uint64)

        def hash_chunk(worker: int, index: int) -> None:
            start, stop = index * _CHUNK, min(rows, (index + 1) * _CHUNK)
            hashes[start:stop] = words.hashes(start, stop)

        run(hash_chunk, -(-rows // _CHUNK))
        wanted = max(parts or 1, rows // _PART_ROWS)
        self._part_bits = min(10, max(0, wanted - 1).bit_length())
        members = self._members(hashes, words.known)
        most = max((len(m) for m in members), default=0)
        self._slot_bits = max(4, (2 * most - 1).bit_length() if most else 0)
        width = 1 << self._slot_bits
        self._slots = np.full(len(members) * width, -1, _position_type(rows))
        ids = np.full(rows, -1, _position_type(rows))

        def insert(worker: int, index: int) -> None:
            self._insert(index, members[index], hashes, ids)

        run(insert, len(members))
        known = sum(map(len, members))
        taken = int(np.count_nonzero(self._slots >= 0))
        self.ids = None if taken == known else ids

    @staticmethod
    def bytes_for(words: Words) -> int:
        """About what a table takes, and making it."""
        return (8 + 4 * 4 + 4 + 8) * words.rows

    def _members(self, hashes: Array, known: Array | None) -> list[Array]:
        """The records of each part."""
        if not self._part_bits:
            return [np.arange(len(hashes)) if known is None else np.flatnonzero(known)]
        part = (hashes >> np.uint64(64 - self._part_bits)).astype(np.uint16)
        count = 1 << self._part_bits
        if known is not None:
            part[~known] = count
        order = np.argsort(part, kind="stable")  # by radix, as 16 bits are
        ends = np.cumsum(np.bincount(part, minlength=count))[:count]
        return np.split(order[: ends[-1]], ends[:-1])

    def _place(self, hashes: Array) -> tuple[Array, Array, Array]:
        """Where a key's part begins, its first slot there, the step to the next."""
        mask = np.uint64((1 << self._slot_bits) - 1)
        local = (hashes & mask).view(np.int64)
        step = ((hashes >> np.uint64(24)) & mask).view(np.int64) | 1
        if not self._part_bits:
            return np.zeros(len(hashes), np.int64), local, step
        base = (hashes >> np.uint64(64 - self._part_bits)) << np.uint64(self._slot_bits)
        return base.view(np.int64), local, step

    def _insert(self, part: int, rows: Array, hashes: Array, ids: Array) -> None:
        slots, mask = self._slots, (1 << self._slot_bits) - 1
        base, local, step = self._place(hashes.take(rows))
        while len(rows):
            at = base + local
            free = slots.take(at) < 0
            slots[at[free]] = rows[free]  # of several the last stays; the others find it
            held = slots.take(at)
            same = held == rows
            others = np.flatnonzero(~same)
            same[others] = self._words.equal(held.take(others), self._words, rows.take(others))
            ids[rows[same]] = held[same]
            left = np.flatnonzero(~same)
            rows, base, step = rows.take(left), base.take(left), step.take(left)
            local = (local.take(left) + step) & mask

    def find(self, keys: Sequence[Key], rows: int) -> Array:
        """The ids of keys; where there is none, -1, or `none` if ids are places of a table."""
        words = Words(keys, rows, self._nulls_equal)
        found = np.full(rows, -1 if self.ids is None else self.none, self._slots.dtype)
        base, local, step = self._place(words.hashes(0, rows))
        mask = (1 << self._slot_bits) - 1
        sought: Array | None = None  # all
        if words.known is not None:
            sought = np.flatnonzero(words.known)
            base, local, step = base.take(sought), local.take(sought), step.take(sought)
        while sought is None or len(sought):
            held = self._slots.take(base + local)
            taken = np.flatnonzero(held >= 0)
            if not len(taken):
                break
            held = held.take(taken)
            sought = taken if sought is None else sought.take(taken)
            same = words.equal(sought, self._words, held)
            found[sought[same]] = held[same]
            left = np.flatnonzero(~same)
            sought = sought.take(left)
            taken = taken.take(left)
            base, step = base.take(taken), step.take(taken)
            local = (local.take(taken) + step) & mask
        return found

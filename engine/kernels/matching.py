"""Where the keys of records are found among the records of a join's held side.

One integer key of a narrow range is looked up in a table by its value. Any other key goes through
a hash table of open addressing, built and searched by whole vectors: each round compares one slot
of every key that is still looked for. Records of equal keys lie side by side in `order`, a stable
counting sort of the held side, so that matches come in its order.

What an index holds lies in its `memory`: where that has no room, in a file. What is needed only
while it is made is released then, and where it would be as long as the table, made in pieces.

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

from scalops.engine.columns import Array, sliced
from scalops.engine.kernels.counting import position_type, sorted_by_id
from scalops.engine.kernels.key_words import Words, null_times
from scalops.engine.kernels.keys import Key
from scalops.engine.memory import MemoryBudget
from scalops.engine.spilled_memory import Room, is_spilled
from scalops.engine.threads import Task

Run = Callable[[Task, int], None]

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

    `run` runs tasks on threads, `memory` is where what it holds lies: without one, anywhere. With
    `parts`, a power of two, a hash table is built in so many parts.
    """

    def __init__(
        self,
        keys: Sequence[Key],
        rows: int,
        nulls_equal: bool = False,
        run: Run = in_turn,
        memory: Room | None = None,
        parts: int | None = None,
    ) -> None:
        memory = memory or Room(MemoryBudget(), "index")
        self.rows = rows
        addresses = _addresses(keys, rows)
        self._finder: _ByValue | _Hashed
        self._table: Array | None = None
        if addresses is not None:
            self._finder = _ByValue(addresses, keys[0], nulls_equal)
            by_id, self._table = self._finder.unique_table(rows, run, memory)
        else:
            self._finder = _Hashed(Words(keys, rows, nulls_equal, memory), nulls_equal)
            by_id = self._finder.build(run, parts, memory)
        self.unique = by_id is None
        self._ends = self._order = np.zeros(0, np.int64)
        if by_id is not None:
            self._ends, self._order = sorted_by_id(by_id, self._finder.size, memory)
            memory.drop(by_id)

    @property
    def bytes(self) -> int:
        """What it holds in memory; not what lies in files."""
        own = [self._ends, self._order, self._table, *self._finder.arrays]
        return sum(int(a.nbytes) for a in own if a is not None and not is_spilled(a))

    @property
    def order(self) -> Array:
        """The places in it, in order of keys: as of `Matches`."""
        return self._order

    @property
    def place_type(self) -> type[np.signedinteger]:
        """What holds any place in it, any number of records, and -1."""
        return position_type(max(self.rows, self._finder.size + 1))

    def forget(self, memory: Room) -> None:
        """Give back what this memory counts of it: it is not needed any more."""
        memory.release(self.bytes)

    def keep(self, memory: Room) -> None:
        """Count what it holds in this memory from now on; move what finds no room to a file."""
        self._ends, self._order = map(memory.column, (self._ends, self._order))
        if self._table is not None:
            self._table = memory.column(self._table)
        self._finder.keep(memory)

    def lookup(self, keys: Sequence[Key], rows: int) -> Matches:
        """The matches of records with these keys."""
        if self.rows == 0:
            return Matches(np.full(rows, -1))
        ids = self._finder.find(keys, rows)
        if self.unique:
            return Matches(ids if self._table is None else self._table.take(ids))
        first = self._ends.take(ids)
        return Matches(first, self._ends.take(ids + 1) - first, self._order)


def looked_up(index: KeyIndex, keys: Sequence[Key], rows: int, run: Run, memory: Room) -> Matches:
    """The matches of records, found on threads; they lie in this memory."""
    first = memory.empty(rows, index.place_type)
    counts = None if index.unique else memory.empty(rows, index.place_type)
    order: Array | None = None if index.unique else index.order

    def task(worker: int, number: int) -> None:
        own = slice(number * _CHUNK, min(rows, (number + 1) * _CHUNK))
        part = [(sliced(v, own.start, own.stop), None if m is None else m[own]) for v, m in keys]
        found = index.lookup(part, own.stop - own.start)
        first[own] = found.first
        if counts is not None:
            counts[own] = found.counts

    run(task, -(-rows // _CHUNK))
    return Matches(first, counts, order)


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
    if column.dtype.kind in "mM":
        values = values.view(np.int64)
    ends = [e for at in range(0, rows, _CHUNK) if (e := _ends_of(column, values, valid, at))]
    if not ends:
        return _Addresses(0, 1)
    least, most = min(a for a, _ in ends), max(b for _, b in ends)
    span = most - least + 1
    width = 8 * values.dtype.itemsize
    return _Addresses(least % (1 << width), span) if span <= _SPARSE * rows + _FEW else None


def _ends_of(
    column: Array, values: Array, valid: Array | None, start: int
) -> tuple[int, int] | None:
    """The least and the greatest of the values of a chunk that are not null."""
    own = slice(start, start + _CHUNK)
    found, missing = values[own], null_times(column[own])
    if valid is not None:
        missing = ~valid[own] if missing is None else missing | ~valid[own]
    if missing is not None:
        found = found[~missing]
    return (int(found.min()), int(found.max())) if len(found) else None


class _ByValue:
    """The id of a key is its distance from the least.

    Behind these come the id `none` of all other keys, and that of null where nulls match.
    """

    def __init__(self, addresses: _Addresses, key: Key, nulls_equal: bool) -> None:
        self._least, self.none = addresses
        self._key = key
        self._null = self.none + 1 if nulls_equal else self.none
        self.size = self.none + 2

    arrays: tuple[Array, ...] = ()

    def keep(self, memory: Room) -> None:
        """As of the index."""

    def unique_table(self, rows: int, run: Run, memory: Room) -> tuple[Array | None, Array | None]:
        """Ids and no table, or no ids and positions by id if no two records have one."""
        narrow = position_type(rows)
        table = memory.full(self.size, -1, narrow)
        column, valid = self._key
        ids = memory.empty(rows, position_type(max(rows, self.size)))
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
            memory.drop(table)
            for at in range(0, rows, _CHUNK):
                own = ids[at : at + _CHUNK]
                own[own == self.none] = -1
            return ids, None
        memory.drop(ids)
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

    def __init__(self, words: Words, nulls_equal: bool) -> None:
        self._words, self._nulls_equal = words, nulls_equal
        self.none = words.rows
        self.size = words.rows + 1
        self._slots: Array = np.zeros(0, np.int32)
        self._part_bits = self._slot_bits = 0
        self._is_unique = True

    @property
    def arrays(self) -> tuple[Array, ...]:
        """What it holds, but for the keys as they lie in their columns."""
        return self._slots, *self._words.made

    def keep(self, memory: Room) -> None:
        """As of the index."""
        self._slots = memory.column(self._slots)
        self._words.keep(memory)

    def build(self, run: Run, parts: int | None, memory: Room) -> Array | None:
        """Enter all keys; the ids of all records, -1 for those that match nothing.

        None where no two records have one key.
        """
        rows, words = self._words.rows, self._words
        hashes = memory.empty(rows, np.uint64)

        def hash_chunk(worker: int, index: int) -> None:
            start, stop = index * _CHUNK, min(rows, (index + 1) * _CHUNK)
            hashes[start:stop] = words.hashes(start, stop)

        run(hash_chunk, -(-rows // _CHUNK))
        wanted = max(parts or 1, rows // _PART_ROWS)
        self._part_bits = min(10, max(0, wanted - 1).bit_length())
        ends, members = self._members(hashes, memory)
        most = int(np.diff(ends).max(initial=0))
        self._slot_bits = max(4, (2 * most - 1).bit_length() if most else 0)
        narrow = position_type(rows)
        self._slots = memory.full((len(ends) - 1) << self._slot_bits, -1, narrow)
        ids = memory.full(rows, -1, narrow)
        alone = np.ones(len(ends) - 1, bool)

        def insert(worker: int, index: int) -> None:
            own = members[ends[index] : ends[index + 1]]
            alone[index] = self._insert(index, own, hashes, ids)

        run(insert, len(alone))
        memory.drop(hashes, members)
        self._is_unique = bool(alone.all())
        if self._is_unique:
            memory.drop(ids)
        return None if self._is_unique else ids

    def _members(self, hashes: Array, memory: Room) -> tuple[Array, Array]:
        """The records by part, and where each part's begin: [parts + 1]."""
        rows, known = len(hashes), self._words.known
        if not self._part_bits:  # then they are few
            only = np.arange(rows) if known is None else np.flatnonzero(known)
            return np.array([0, len(only)]), memory.column(only)
        part = memory.empty(rows, np.int16)
        for start in range(0, rows, _CHUNK):
            own = slice(start, start + _CHUNK)
            part[own] = self._part(hashes[own])
            if known is not None:
                part[own][~known[own]] = -1
        ends, members = sorted_by_id(part, 1 << self._part_bits, memory)
        memory.drop(part, ends)
        return np.array(ends), members

    def _part(self, hashes: Array) -> Array:
        """The number of the part that each key belongs to."""
        made: Array = (hashes >> np.uint64(64 - self._part_bits)).astype(np.int16)
        return made

    def _place(self, hashes: Array) -> tuple[Array, Array, Array]:
        """Where a key's part begins, its first slot there, the step to the next."""
        mask = np.uint64((1 << self._slot_bits) - 1)
        local = (hashes & mask).view(np.int64)
        step = ((hashes >> np.uint64(24)) & mask).view(np.int64) | 1
        if not self._part_bits:
            return np.zeros(len(hashes), np.int64), local, step
        base = (hashes >> np.uint64(64 - self._part_bits)) << np.uint64(self._slot_bits)
        return base.view(np.int64), local, step

    def _insert(self, part: int, rows: Array, hashes: Array, ids: Array) -> bool:
        """Enter a part's records; whether no two of them have one key."""
        entered, count = 0, len(rows)
        slots, mask = self._slots, (1 << self._slot_bits) - 1
        base, local, step = self._place(hashes.take(rows))
        while len(rows):
            at = base + local
            free = slots.take(at) < 0
            slots[at[free]] = rows[free]  # of several the last stays; the others find it
            held = slots.take(at)
            same = held == rows
            entered += int(np.count_nonzero(same))
            others = np.flatnonzero(~same)
            same[others] = self._words.equal(held.take(others), self._words, rows.take(others))
            ids[rows[same]] = held[same]
            left = np.flatnonzero(~same)
            rows, base, step = rows.take(left), base.take(left), step.take(left)
            local = (local.take(left) + step) & mask
        return entered == count

    def find(self, keys: Sequence[Key], rows: int) -> Array:
        """The ids of keys; where there is none, -1, or `none` if ids are places of a table."""
        words = Words(keys, rows, self._nulls_equal)
        found = np.full(rows, -1 if self._is_unique else self.none, self._slots.dtype)
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

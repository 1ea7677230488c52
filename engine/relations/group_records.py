"""Records that are grouped as a whole: all in memory, or by part of their groups in a file.

As they come, blocks are held while the budget has room. The first one that finds none goes to a
file, cut into parts by the hash of its keys, and so do all that follow; in the end those that were
held, too. A part that is still too large is read and cut again, by further bits of the hash. What
is left is one group, or few: its columns lie in a mapped file, if they must.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from scalops.algebra.dtypes import INT64
from scalops.algebra.schema import HIDDEN, Schema
from scalops.engine.blocks import Array, Block, concatenate
from scalops.engine.free_memory import give_back
from scalops.engine.memory import MemoryBudget
from scalops.engine.pipelines.base import own_bytes
from scalops.engine.relations.group_parts import (
    HASH_BITS,
    PART_BITS,
    by_part,
    filled,
    hashes_of,
    part_bytes,
)
from scalops.engine.spill import Batch, SpillFile
from scalops.engine.spilled_memory import Room

PLACE = HIDDEN + "place"  # the column that says where a record stands in the table
ROW_BITS = 40  # of a place: the others are the partition's position
LEAST_BITS = 2  # by which a part is cut again: by more where it is much too large
WORK = 4  # times a part's bytes: what is needed to group it
CODE_BYTES = 8  # of a record: the number of its group


def places(position: int, first: int, rows: int) -> Array:
    """int64[rows]: those of consecutive records, from row `first` of a partition on."""
    return _following((position << ROW_BITS) + first, rows)


def _following(first: int, rows: int) -> Array:
    return np.arange(first, first + rows, dtype=np.int64)


def _is_following(own: Array) -> bool:
    """Whether places, which rise, follow one another."""
    return int(own[-1]) - int(own[0]) + 1 == len(own)


class Records:
    """The records of a table, to be grouped by `keys`. Threads may add to it."""

    def __init__(
        self,
        schema: Schema,
        keys: Sequence[str],
        budget: MemoryBudget,
        owner: str,
        resident: frozenset[int] = frozenset(),
    ) -> None:
        self._schema, self._keys = schema, keys
        self._placed = Schema((*schema.fields, (PLACE, INT64)))
        self._budget, self._owner, self._resident = budget, owner, resident
        # By the first place; None: the others follow it.
        self._held: dict[int, tuple[Array | None, Block]] = {}
        self._parts: Parts | None = None
        self._lock = threading.Lock()

    def add(self, own: Array, block: Block) -> None:
        """Take a block whose records stand at these places, one or more."""
        if not self._is_held(own, block):
            self._opened().add(own, block)

    def _is_held(self, own: Array, block: Block) -> bool:
        first, kept = int(own[0]), None if _is_following(own) else own
        size = self._held_bytes(kept, block)
        with self._lock:
            if self._parts is not None or not self._budget.room(size, self._owner):
                return False
            self._held[first] = kept, Block(block.rows, dict(block.columns), block.valid)
            return True

    def _held_bytes(self, own: Array | None, block: Block) -> int:
        return own_bytes(block, self._resident) + (0 if own is None else int(own.nbytes))

    def _drained(self) -> Iterator[tuple[Array, Block]]:
        """What is held, with all places, in table order; nothing of it is left."""
        for first in sorted(self._held):
            own, block = self._held.pop(first)
            yield _following(first, block.rows) if own is None else own, block

    def _opened(self) -> Parts:
        with self._lock:
            if self._parts is None:
                self._parts = Parts(self._placed, self._keys, self._budget, self._owner)
            return self._parts

    def whole(self) -> tuple[Array, Block] | None:
        """All places and records, in table order; None where that finds no room."""
        held = [block for _, block in self._held.values()]
        rows = sum(b.rows for b in held)
        again = sum(b.bytes for b in held) if len(held) > 1 else 0
        size = again + 2 * CODE_BYTES * rows
        if self._parts is not None or not self._budget.room(size, self._owner):
            return None
        blocks = list(self._drained())
        own = np.concatenate([np.zeros(0, np.int64), *(p for p, _ in blocks)])
        return own, concatenate([b for _, b in blocks], self._schema)

    def parts(self) -> Iterator[tuple[Array, Block]]:
        """The places and records of each part, in table order; the memory is given back."""
        parts = self._opened()
        for own, block in self._drained():
            parts.add(own, block)
            kept = None if _is_following(own) else own
            self._budget.release(self._owner, self._held_bytes(kept, block))
        give_back()  # what was held: the budget has given it to others by now
        room, work = Room(self._budget, f"{self._owner}, a part"), f"{self._owner}, work"
        self._budget.room(WORK * (part_bytes(self._budget) or 0), work)
        try:
            for block in parts.drained(room):
                own = block.columns.pop(PLACE)
                assert isinstance(own, np.ndarray)
                yield own, block
                del own, block
                self._budget.release(room.owner)
        finally:
            self._budget.release(room.owner)
            self._budget.release(work)


_Batches = list[tuple[int, Batch]]  # (first place, where it is in the file)


class Parts:
    """Records in a file, by part: the hash of their keys tells which."""

    def __init__(
        self,
        schema: Schema,
        keys: Sequence[str],
        budget: MemoryBudget,
        owner: str,
        before: int = 0,
        bits: int = PART_BITS,
        most: int | None = None,
    ) -> None:
        """`before` bits of the hash are the same for all of them; the next `bits` tell the part.

        A part has at most `most` bytes; None: as many as the budget allows.
        """
        self._schema, self._keys, self._before = schema, keys, before
        self._budget, self._owner = budget, owner
        self._most = part_bytes(budget) if most is None else most
        self._bits = min(bits, HASH_BITS - before)
        self._file = SpillFile(schema, budget.folder)
        self._batches: list[_Batches] = [[] for _ in range(1 << self._bits)]

    def add(self, own: Array, block: Block) -> None:
        """Write a block's records to their parts; `own` are their places."""
        names = {n: n for n in self._schema.names if n != PLACE}
        keys = [(block.columns[n], block.valid.get(n)) for n in self._keys]
        order, starts = by_part(hashes_of(keys, block.rows), self._before, self._bits)
        ends = starts.tolist()
        chosen = block.chosen(names)
        for part, (start, stop) in enumerate(pairwise(ends)):
            if start < stop:
                rows = order[start:stop]
                made = chosen.take(rows)
                made.columns[PLACE] = own[rows]
                batch = self._file.write(made)
                self._budget.count_spilled(batch.size, self._owner)
                self._batches[part].append((int(own[rows[0]]), batch))

    def drained(self, room: Room) -> Iterator[Block]:
        """The records of each part, smaller ones where it is too large, in table order."""
        most = self._most
        total = sum(b.size for batches in self._batches for _, b in batches)
        for number in range(len(self._batches)):
            batches, self._batches[number] = sorted(self._batches[number]), []
            size = sum(b.size for _, b in batches)
            if not batches:
                continue
            if most is None or size <= most:
                yield concatenate([self._file.read(b) for _, b in batches], self._schema)
            elif size == total and self._before:  # one group, most likely
                rows = sum(b.rows for _, b in batches)
                blocks = (self._file.read(b) for _, b in batches)
                yield filled(blocks, rows, self._schema, room)
            else:
                bits = min(PART_BITS, LEAST_BITS + (size // most).bit_length())
                yield from self._again(batches, bits).drained(room)

    def _again(self, batches: _Batches, bits: int) -> Parts:
        """The records of a part in parts of its own."""
        before = self._before + self._bits
        own = self._schema, self._keys, self._budget, self._owner
        made = Parts(*own, before, bits, self._most)
        for _, batch in batches:
            block = self._file.read(batch)
            own = block.columns.pop(PLACE)
            assert isinstance(own, np.ndarray)
            made.add(own, block)
        return made

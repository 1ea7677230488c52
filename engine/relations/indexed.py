"""Joins, filters and groups whose keys stay: positions found once, used in each iteration.

The static analysis says where this is worth trying. Whether the positions of the last iteration
still hold is decided here, by the identities of the key columns, so that a wrong guess costs
time and never a wrong answer. Where keys go on changing, nothing is kept from one iteration to the
next: neither keys nor positions, nor what was gathered by them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.blocks import Array
from scalops.engine.blocks import identities as serials
from scalops.engine.collective import ALONE, Program, Ranks
from scalops.engine.kernels.kernel import Vector
from scalops.engine.kernels.matching import KeyIndex, Matches, Pairs
from scalops.engine.pipelines.base import Identity, Pipeline, Runtime, Stored, derived
from scalops.engine.relations.base import Relation, Run
from scalops.engine.relations.held import collected, same_vector
from scalops.engine.relations.shared_lookup import looked_up_by_all
from scalops.engine.relations.whole import Mapped, Positions, Side, Whole

Found = TypeVar("Found")
MOST_BUILDS = 3  # the first one and two rebuilds: then the keys do change


class Index(Generic[Found]):
    """What was `found` in the last iteration, and the key columns by which it holds still."""

    def __init__(self) -> None:
        self.found: Found | None = None
        self.identities: tuple[Identity, ...] | None = None
        self.name: Identity = b""
        self.builds = 0
        self._serial = next(serials)  # what others find by the same keys is something else
        self._vectors: list[Vector] = []

    @property
    def is_kept(self) -> bool:
        """Whether it is worth keeping: the keys have not changed all the time."""
        return self.builds <= MOST_BUILDS

    def known(self, identities: tuple[Identity | None, ...]) -> Found | None:
        """What was found, if it was by keys of these identities."""
        return self.found if identities == self.identities else None

    def holds(self, identities: tuple[Identity | None, ...], vectors: list[Vector]) -> bool:
        """Whether the keys are those of the last time, by identity or value by value."""
        if self.found is None:
            return False
        if identities == self.identities:
            return True
        if not vectors or len(vectors) != len(self._vectors):
            return False
        if all(same_vector(a, b) for a, b in zip(self._vectors, vectors, strict=True)):
            if None not in identities:
                self.identities = tuple(i for i in identities if i is not None)
            return True
        return False

    def renew(
        self, identities: tuple[Identity | None, ...], vectors: list[Vector], found: Found
    ) -> None:
        """This is found by these keys now."""
        self.builds += 1
        self.identities = tuple(i or derived("unknown", n) for n, i in enumerate(identities))
        self.name = derived("index", self._serial, self.builds, *self.identities)
        self._vectors, self.found = (vectors, found) if self.is_kept else ([], None)


@dataclass
class _Gathered:
    """Columns that were gathered whole and have not changed since."""

    vectors: dict[Identity, Vector] = field(default_factory=dict)
    settled: frozenset[Identity] = frozenset()

    def of(self, made: Mapped) -> None:
        """Drop what the table made now has no use for."""
        now = frozenset(i for n in made.schema.names if (i := made.identity(n)) is not None)
        for identity in self.vectors.keys() - now:
            del self.vectors[identity]
        self.settled = now


@dataclass(frozen=True)
class Pairing:
    """Of `rows` pairs where their records are; None: the pairs' own numbers."""

    rows: int
    left: Positions | None
    right: Positions | None = None


class _Indexed(Relation):
    """Records of other tables at positions that are kept while the keys are the same."""

    def __init__(self, stage: pp.Stage, pipeline: Pipeline, runtime: Runtime) -> None:
        super().__init__(stage, pipeline, runtime)
        self.forget()

    def forget(self) -> None:
        self._index: Index[Pairing] = Index()
        self._gathered = _Gathered()

    def _room(self, size: int) -> None:
        """OutOfMemoryError where the budget has not `size` bytes for a while."""
        self.runtime.budget.require(size, self.owner)
        self.runtime.budget.release(self.owner, size)

    def _mapped(
        self, schema: Schema, rows: int, sides: list[Side], outputs: Sequence[tuple[str, int, str]]
    ) -> Mapped:
        gathered = self._gathered if self._index.is_kept else _Gathered()
        made = Mapped(schema, rows, sides, outputs, gathered.vectors, gathered.settled)
        gathered.of(made)
        self._gathered = gathered if self._index.is_kept else _Gathered()
        return made


class IndexFilter(_Indexed):
    """The records for which a predicate holds that is the same in each iteration."""

    def make(self, run: Run) -> Program[Stored]:
        sink, index = self.stage.sink, self._index
        assert isinstance(sink, pr.IndexFilter)
        table = self.runtime.tables[sink.table]
        assert isinstance(table, Whole)
        identities = (self.pipeline.identity("@kept"),)
        found = index.known(identities)
        if found is None:
            values, mask = (yield from collected(self, ["@kept"], run))[1]["@kept"]
            rows = np.flatnonzero(values if mask is None else values & mask)
            found = Pairing(len(rows), _unless_all(rows, table.count))
            index.renew(identities, [], found)
        outputs = [(n, 0, n) for n in sink.made.names]
        return self._mapped(sink.made, found.rows, [Side(table, found.left, index.name)], outputs)


class IndexJoin(_Indexed):
    """Pairs of records of two tables in whole columns, in left order."""

    def make(self, run: Run) -> Program[Stored]:
        sink, tables, index = self.stage.sink, self.runtime.tables, self._index
        assert isinstance(sink, pr.IndexJoin)
        left, right = tables[sink.left], tables[sink.right]
        assert isinstance(left, Whole)
        assert isinstance(right, Whole)
        sides = [(left, n) for n in sink.left_keys] + [(right, n) for n in sink.right_keys]
        identities = tuple(t.identity(n) for t, n in sides)
        found = index.known(identities)
        if found is None:
            vectors = [v for t, n in sides if (v := t.whole(n)) is not None]
            if index.holds(identities, vectors):
                found = index.found
            else:
                cut = len(sink.left_keys)
                keys = vectors[:cut], vectors[cut:]
                ranks = self.runtime.ranks
                found = yield from matched(*keys, left, right, sink, run, self._room, ranks)
                index.renew(identities, vectors, found)
        assert found is not None
        both = [
            Side(left, found.left, derived(index.name, "left")),
            Side(right, found.right, derived(index.name, "right")),
        ]
        return self._mapped(sink.made, found.rows, both, sink.outputs)


def matched(
    left_keys: list[Vector],
    right_keys: list[Vector],
    left: Whole,
    right: Whole,
    sink: pr.IndexJoin,
    run: Run,
    room: Callable[[int], None] = lambda size: None,
    ranks: Ranks = ALONE,
) -> Program[Pairing]:
    """Which records meet, in left order and, among one's matches, in right order.

    `room` is asked for memory, and raises where there is none, before all pairs are made. Every
    rank learns it of all records.
    """
    index = KeyIndex(right_keys, right.count, sink.nulls_equal, run)
    parts = yield from looked_up_by_all(ranks, index, left_keys, left.count, run)
    matches = _together([m for m, _ in parts])
    if sink.kind in ("semi", "anti"):
        found = matches.found if sink.kind == "semi" else ~matches.found
        rows = int(np.count_nonzero(found))
        return Pairing(rows, _unless_all(np.flatnonzero(found), left.count))
    if matches.counts is not None:
        pairs = Pairs(matches, outer=sink.kind == "left")
        room(pairs.bytes)
        rows_of, positions = pairs.piece(0, pairs.total) if pairs.total else (_NO_ROWS, _NO_ROWS)
        own = _unless_all(rows_of, left.count)
        return Pairing(pairs.total, own, Positions(positions))
    positions, kept = matches.first, None
    if sink.kind == "inner" and not (found := matches.found).all():
        kept = np.flatnonzero(found)
        positions = positions[kept]
    own = None if kept is None else Positions(kept)
    other = _unless_all(positions, right.count)
    return Pairing(len(positions), own, other)


_NO_ROWS: Array = np.zeros(0, np.int64)


def _unless_all(numbers: Array, count: int) -> Positions | None:
    """The positions; None where they are those of all `count` records in order."""
    every = len(numbers) == count and bool((numbers == np.arange(count)).all())
    return None if every else Positions(numbers)


def _together(found: Sequence[Matches]) -> Matches:
    """The matches of all records."""
    if len(found) == 1:
        return found[0]
    first = np.concatenate([p.first for p in found])
    if any(p.counts is None for p in found):
        return Matches(first)
    counts = np.concatenate([p.counts for p in found if p.counts is not None])
    return Matches(first, counts, found[0].order)

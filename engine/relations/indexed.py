"""Joins, filters and groups whose keys stay: positions found once, used in each iteration.

The static analysis says where this is worth trying. Whether the positions of the last iteration
still hold is decided here, by the identities of the key columns, so that a wrong guess costs
time and never a wrong answer. Where keys go on changing, nothing is kept from one iteration to the
next: neither keys nor positions, nor what was gathered by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.blocks import Array
from scalops.engine.blocks import identities as serials
from scalops.engine.collective import ALONE, Program, Ranks
from scalops.engine.kernels.kernel import Vector
from scalops.engine.kernels.matching import KeyIndex, Matches
from scalops.engine.pipelines.base import Identity, Pipeline, Runtime, Stored, derived
from scalops.engine.relations.base import Relation, Run
from scalops.engine.relations.held import collected, same_vector
from scalops.engine.relations.positions import (
    Positions,
    all_pairs,
    is_every,
    numbers_where,
    pieces,
    taken_by,
)
from scalops.engine.relations.shared_lookup import looked_up_by_all
from scalops.engine.relations.whole import Mapped, Side, Whole, kept
from scalops.engine.spilled_memory import Room

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
            self._vectors = vectors  # so that those of the last time can go
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

    def keep(self, room: Room) -> None:
        """Count them in a room from now on."""
        for identity, vector in self.vectors.items():
            self.vectors[identity] = kept(vector, room)


@dataclass(frozen=True)
class Pairing:
    """Of `rows` pairs where their records are; None: the pairs' own numbers."""

    rows: int
    left: Positions | None
    right: Positions | None = None

    def keep(self, room: Room) -> None:
        """Count the positions in a room from now on."""
        for positions in (self.left, self.right):
            if positions is not None:
                positions.keep(room)


class _Indexed(Relation):
    """Records of other tables at positions that are kept while the keys are the same."""

    def __init__(self, stage: pp.Stage, pipeline: Pipeline, runtime: Runtime) -> None:
        super().__init__(stage, pipeline, runtime)
        self.forget()

    def forget(self) -> None:
        self._index: Index[Pairing] = Index()
        self._gathered = _Gathered()

    def _known(self, found: Pairing | None, room: Room) -> Pairing | None:
        """What was found in the last iteration, whose table has been released: counted again."""
        if found is not None:
            found.keep(room)
        return found

    def _mapped(
        self,
        schema: Schema,
        rows: int,
        sides: list[Side],
        outputs: Sequence[tuple[str, int, str]],
        room: Room,
    ) -> Mapped:
        gathered = self._gathered if self._index.is_kept else _Gathered()
        made = Mapped(schema, rows, sides, outputs, room, gathered.vectors, gathered.settled)
        gathered.of(made)
        gathered.keep(room)
        self._gathered = gathered if self._index.is_kept else _Gathered()
        return made


class IndexFilter(_Indexed):
    """The records for which a predicate holds that is the same in each iteration."""

    def make(self, run: Run) -> Program[Stored]:
        sink, index = self.stage.sink, self._index
        assert isinstance(sink, pr.IndexFilter)
        table = self.runtime.tables[sink.table]
        assert isinstance(table, Whole)
        identities, room = (self.pipeline.identity("@kept"),), self.new_room()
        found = self._known(index.known(identities), room)
        if found is None:
            found = yield from self._chosen(table.count, run, room)
            index.renew(identities, [], found)
        outputs = [(n, 0, n) for n in sink.made.names]
        sides = [Side(table, found.left, index.name)]
        return self._mapped(sink.made, found.rows, sides, outputs, room)

    def _chosen(self, count: int, run: Run, room: Room) -> Program[Pairing]:
        values, mask = (yield from collected(self, ["@kept"], run))[1]["@kept"]

        def flags(own: slice) -> Array:
            found: Array = values[own] if mask is None else values[own] & mask[own]
            return found

        rows = numbers_where(flags, len(values), room)
        return Pairing(len(rows), _unless_all(rows, count, room))


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
        room = self.new_room()
        found = self._known(index.known(identities), room)
        if found is None:
            vectors = [v for t, n in sides if (v := t.whole(n)) is not None]
            if index.holds(identities, vectors):
                found = self._known(index.found, room)
            else:
                cut = len(sink.left_keys)
                keys = vectors[:cut], vectors[cut:]
                ranks = self.runtime.ranks
                found = yield from matched(*keys, left, right, sink, run, room, ranks)
                index.renew(identities, vectors, found)
        assert found is not None
        both = [
            Side(left, found.left, derived(index.name, "left")),
            Side(right, found.right, derived(index.name, "right")),
        ]
        return self._mapped(sink.made, found.rows, both, sink.outputs, room)


def matched(
    left_keys: list[Vector],
    right_keys: list[Vector],
    left: Whole,
    right: Whole,
    sink: pr.IndexJoin,
    run: Run,
    room: Room,
    ranks: Ranks = ALONE,
) -> Program[Pairing]:
    """Which records meet, in left order and, among one's matches, in right order.

    The positions lie in the room. Every rank learns of all records.
    """
    index = KeyIndex(right_keys, right.count, sink.nulls_equal, run, room)
    matches = yield from looked_up_by_all(ranks, index, left_keys, left.count, run, room)
    made = _pairing(matches, left.count, right.count, sink.kind, room)
    index.forget(room)
    return made


def _pairing(matches: Matches, left: int, right: int, kind: str, room: Room) -> Pairing:
    """The same of what the left records match; of so many records on either side."""

    first, counts, _ = matches

    def found(own: slice) -> Array:
        return Matches(first[own], None if counts is None else counts[own]).found

    if kind in ("semi", "anti"):
        rows = numbers_where(lambda p: found(p) == (kind == "semi"), left, room)
        room.drop(first, counts)
        return Pairing(len(rows), _unless_all(rows, left, room))
    if counts is not None:
        rows, positions = all_pairs(matches, kind == "left", room)
        room.drop(first, counts)
        return Pairing(len(rows), _unless_all(rows, left, room), Positions(positions, room))
    positions, kept = first, None
    if kind == "inner" and not all(found(p).all() for p in pieces(left)):
        kept = numbers_where(found, left, room)
        positions = taken_by(first, kept, room)
        room.drop(first)
    own = None if kept is None else Positions(kept, room)
    count = len(positions)
    return Pairing(count, own, _unless_all(positions, right, room))


def _unless_all(numbers: Array, count: int, room: Room) -> Positions | None:
    """The positions; None where they are those of all `count` records in order."""
    if is_every(numbers, count):
        room.drop(numbers)
        return None
    return Positions(numbers, room)

"""Joins, filters and groups whose keys stay: positions found once, used in each iteration.

The static analysis says where this is worth trying. Whether the positions of the last iteration
still hold is decided here, by the identities of the key columns, so that a wrong guess costs
time and never a wrong answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.blocks import Array
from scalops.engine.kernels.kernel import Vector
from scalops.engine.pipelines.base import Identity, Pipeline, Runtime, Stored, derived
from scalops.engine.relations.base import Relation, Run
from scalops.engine.relations.held import collected, same_vector
from scalops.engine.relations.whole import Mapped, Side, Whole

MOST_BUILDS = 3  # the first one and two rebuilds: then the keys do change


class Index:
    """What is kept of the last iteration: key columns, by which it is known to hold still."""

    def __init__(self) -> None:
        self.identities: tuple[Identity, ...] | None = None
        self.name: Identity = b""
        self.builds = 0
        self._vectors: list[Vector] = []

    @property
    def is_kept(self) -> bool:
        """Whether it is worth keeping: the keys have not changed all the time."""
        return self.builds <= MOST_BUILDS

    def holds(self, identities: tuple[Identity | None, ...], vectors: list[Vector]) -> bool:
        """Whether the keys are those of the last time, by identity or value by value."""
        if self.identities is None or not self.is_kept:
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

    def renew(self, identities: tuple[Identity | None, ...], vectors: list[Vector]) -> None:
        """It is built from these keys now."""
        self.builds += 1
        self.identities = tuple(i or derived("unknown", n) for n, i in enumerate(identities))
        self.name = derived("index", self.builds, *self.identities)
        self._vectors = vectors if self.is_kept else []


@dataclass
class _Gathered:
    """Columns that were gathered whole and have not changed since."""

    vectors: dict[Identity, Vector]
    settled: frozenset[Identity]

    @staticmethod
    def none() -> _Gathered:
        return _Gathered({}, frozenset())

    def of(self, made: Mapped) -> None:
        """Drop what the table made now has no use for."""
        now = frozenset(i for n in made.schema.names if (i := made.identity(n)) is not None)
        for identity in self.vectors.keys() - now:
            del self.vectors[identity]
        self.settled = now


class IndexFilter(Relation):
    """The records for which a predicate holds that is the same in each iteration."""

    def __init__(self, stage: pp.Stage, pipeline: Pipeline, runtime: Runtime) -> None:
        super().__init__(stage, pipeline, runtime)
        assert isinstance(stage.sink, pr.IndexFilter)
        self._sink = stage.sink
        self._index, self._gathered = Index(), _Gathered.none()
        self._positions: Array | None = None
        self._rows = 0

    def make(self, run: Run) -> Stored:
        table = self.runtime.tables[self._sink.table]
        assert isinstance(table, Whole)
        identity = self.pipeline.identity("@kept")
        if not self._index.holds((identity,), []):
            _, found = collected(self.pipeline, ["@kept"], run)
            values, mask = found["@kept"]
            kept = values if mask is None else values & mask
            self._rows = int(np.count_nonzero(kept))
            self._positions = None if self._rows == table.count else np.flatnonzero(kept)
            self._index.renew((identity,), [])
        outputs = [(n, 0, n) for n in self._sink.made.names]
        side = Side(table, self._positions, self._index.name)
        made = Mapped(
            self._sink.made, self._rows, [side], outputs,
            self._gathered.vectors, self._gathered.settled,
        )  # fmt: skip
        self._gathered.of(made)
        return made

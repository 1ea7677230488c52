"""Tables held in whole columns, which take over what is the same as in the last iteration."""

from __future__ import annotations

from typing import Any

import numpy as np

from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.blocks import Array, Block, mask_of
from scalops.engine.collective import Program
from scalops.engine.columns import ColumnData, concatenated
from scalops.engine.kernels.kernel import Vector
from scalops.engine.passes import in_partition
from scalops.engine.pipelines.base import Identity, Pipeline, Runtime, Stored
from scalops.engine.relations.base import Relation, Run
from scalops.engine.relations.gathering import own_blocks, own_partitions, spread
from scalops.engine.relations.whole import Columns, Whole


class HoldColumns(Relation):
    """The records in whole columns.

    A column that its pipeline knows to be one of the last iteration's is that one, not a copy;
    one that lies in one piece below is taken as it is; the others are computed block by block.
    """

    def __init__(self, stage: pp.Stage, pipeline: Pipeline, runtime: Runtime) -> None:
        super().__init__(stage, pipeline, runtime)
        assert isinstance(stage.sink, pr.HoldColumns)
        self._sink = stage.sink
        self._last: Columns | None = None

    def make(self, run: Run) -> Program[Stored]:
        schema = self.pipeline.schema
        identities = {n: self.pipeline.identity(n) for n in schema.names}
        last = self._last
        if last is not None and all(
            i is not None and last.identity(n) == i for n, i in identities.items()
        ):
            return last
        vectors: dict[str, Vector] = {}
        for name, identity in identities.items():
            if last is not None and identity is not None and last.identity(name) == identity:
                vectors[name] = last.whole(name)
            else:
                found = self.pipeline.whole(name)
                if found is not None:
                    vectors[name] = found
        missing = [n for n in schema.names if n not in vectors]
        rows = len(next(iter(vectors.values()))[0]) if vectors else None
        if missing:
            rows, computed = yield from collected(self, missing, run)
            vectors.update(computed)
            size = sum(int(v.nbytes) for v, _ in computed.values())
            self.runtime.budget.require(size, self.owner)
        vectors = {n: vectors[n] for n in schema.names}
        self._settle(vectors, identities)
        made = Columns(schema, rows or 0, vectors, identities)
        self._last = made
        return made

    def forget(self) -> None:
        self._last = None

    def _settle(self, vectors: dict[str, Vector], identities: dict[str, Identity | None]) -> None:
        """Columns equal to the state's are the state's: what rests on their keys stays."""
        number = self._sink.state
        before = None if number is None else self.runtime.tables.get(number)
        if not isinstance(before, Whole):
            return
        for name in self._sink.settled:
            known = before.identity(name)
            if known is None or identities[name] == known:
                continue
            old = before.whole(name)
            if old is not None and same_vector(old, vectors[name]):
                vectors[name], identities[name] = old, known


def collected(
    relation: Relation, names: list[str], run: Run, pipeline: Pipeline | None = None
) -> Program[tuple[int, dict[str, Vector]]]:
    """How many records a pipeline gives, and these of its columns, each in one piece.

    At every rank; the pipeline is the relation's own, if there is no other. There is room for
    them in the budget; the caller counts what it keeps.
    """
    pipeline = pipeline or relation.pipeline
    runtime, owner = relation.runtime, relation.owner
    budget, active = runtime.budget, list(pipeline.active())
    known = [pipeline.rows(p) for p in active]
    rows = [r or 0 for r in known]
    plain = all(pipeline.schema[n].is_plain for n in names)
    here = runtime.ranks.is_alone or pipeline.is_everywhere()  # the same at all ranks
    own = active if here else own_partitions(pipeline, runtime.ranks)
    if plain and None not in known and here:
        size = sum(rows) * sum(pipeline.schema[n].bytes for n in names)
        budget.require(size, owner)
        try:
            return sum(rows), _written(pipeline, names, active, rows, run)
        finally:
            budget.release(owner, size)
    sizes: list[int] = []

    def keep(size: int) -> None:
        budget.require(size, owner)
        sizes.append(size)

    try:
        mine = own_blocks(pipeline, own, names, run, keep)
        together = list(mine.values())
        if not here:
            kinds = Schema(tuple((n, pipeline.schema[n]) for n in names))
            together = yield from spread(
                runtime.ranks, mine, active, kinds, lambda block: keep(block.bytes)
            )
    finally:
        budget.release(owner, sum(sizes))
    blocks = [b for part in together for b in part]
    return sum(b.rows for b in blocks), {n: joined(blocks, n, pipeline) for n in names}


def joined(blocks: list[Block], name: str, pipeline: Pipeline) -> Vector:
    """A column of all blocks in one piece, with its mask."""
    whole = concatenated([b.columns[name] for b in blocks], pipeline.schema[name])
    return whole, mask_of(blocks, name)


def _written(
    pipeline: Pipeline, names: list[str], active: list[int], rows: list[int], run: Run
) -> dict[str, Vector]:
    """The columns, each partition written to its place; of the only rank."""
    total = sum(rows)
    ends = np.cumsum([0, *rows]).tolist()
    kinds = pipeline.schema
    made: dict[str, Array] = {n: np.empty((total, *kinds[n].shape), kinds[n].numpy) for n in names}
    masks: dict[str, Array] = {}

    def task(worker: int, index: int) -> None:
        at = ends[index]
        with in_partition(active[index]):
            for block in pipeline.blocks(active[index], worker):
                stop = at + block.rows
                for name in names:
                    made[name][at:stop] = block.columns[name]
                    if name in block.valid:
                        mask = masks.setdefault(name, np.ones(total, bool))
                        mask[at:stop] = block.valid[name]
                at = stop

    run(task, len(active))
    return {n: (v, masks.get(n)) for n, v in made.items()}


def same_vector(a: Vector, b: Vector) -> bool:
    """Whether two columns are the same, value by value and null by null; NaN is NaN."""
    if not same_values(a[0], b[0]):
        return False
    if a[1] is None and b[1] is None:
        return True
    ones: Array = np.ones(len(a[0]), bool)
    return bool(np.array_equal(ones if a[1] is None else a[1], ones if b[1] is None else b[1]))


def same_values(a: ColumnData, b: ColumnData) -> bool:
    """Whether two columns hold the same numbers, strings or lists."""
    if a is b:
        return True
    if len(a) != len(b) or type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
    own: Any = a
    return bool(own.equals(b)) if hasattr(own, "equals") else False

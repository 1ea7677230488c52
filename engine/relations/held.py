"""Tables held in whole columns, which take over what is the same as in the last iteration."""

from __future__ import annotations

import threading
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
from scalops.engine.pipelines.base import Identity, Pipeline, Runtime, Stored, own_bytes
from scalops.engine.relations.base import Relation, Run
from scalops.engine.relations.gathering import own_blocks, own_partitions, spread
from scalops.engine.relations.indexed_table import joined_column
from scalops.engine.relations.positions import pieces
from scalops.engine.relations.whole import Columns, Whole, kept
from scalops.engine.spilled_memory import Room


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
        self._own: set[str] = set()  # its columns that were computed: the others lie below

    def make(self, run: Run) -> Program[Stored]:
        schema, room = self.pipeline.schema, self.new_room()
        identities = {n: self.pipeline.identity(n) for n in schema.names}
        last = self._last
        same = {
            n
            for n, i in identities.items()
            if last is not None and i is not None and last.identity(n) == i
        }
        self._own &= same
        if last is not None and len(same) == len(identities):
            last.keep(self._own, room)
            return last
        vectors: dict[str, Vector] = {}
        for name in identities:
            if last is not None and name in same:
                found: Vector | None = last.whole(name)
            else:
                found = self.pipeline.whole(name)
            if found is not None:
                vectors[name] = kept(found, room) if name in self._own else found
        missing = [n for n in schema.names if n not in vectors]
        rows = len(next(iter(vectors.values()))[0]) if vectors else None
        if missing:
            rows, computed = yield from collected(self, missing, run)
            vectors.update({n: kept(v, room) for n, v in computed.items()})
            self._own.update(missing)
        vectors = {n: vectors[n] for n in schema.names}
        self._settle(vectors, identities, room)
        made = Columns(schema, rows or 0, vectors, identities)
        self._last = made
        return made

    def forget(self) -> None:
        self._last = None
        self._own.clear()

    def _settle(
        self, vectors: dict[str, Vector], identities: dict[str, Identity | None], room: Room
    ) -> None:
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
                if name in self._own:
                    self._own.remove(name)
                    room.drop(*vectors[name])
                vectors[name], identities[name] = old, known


def collected(
    relation: Relation, names: list[str], run: Run, pipeline: Pipeline | None = None
) -> Program[tuple[int, dict[str, Vector]]]:
    """How many records a pipeline gives, and these of its columns, each in one piece.

    At every rank; the pipeline is the relation's own, if there is no other. What the budget has
    no room for lies in files; of the rest the caller counts what it keeps (`Room.column`).
    """
    pipeline = pipeline or relation.pipeline
    runtime, room = relation.runtime, relation.new_room()
    active = list(pipeline.active())
    known = [pipeline.rows(p) for p in active]
    rows = [r or 0 for r in known]
    plain = all(pipeline.schema[n].is_plain for n in names)
    here = runtime.ranks.is_alone or pipeline.is_everywhere()  # the same at all ranks
    own = active if here else own_partitions(pipeline, runtime.ranks)
    if plain and None not in known and here:
        vectors = _written(pipeline, names, active, rows, run, room)
        _give_back(vectors, room)
        return sum(rows), vectors
    arriving = relation.new_room()  # whose files go with the blocks
    mine = own_blocks(pipeline, own, names, run, arriving)
    together = list(mine.values())
    if not here:
        kinds = Schema(tuple((n, pipeline.schema[n]) for n in names))
        together = yield from spread(runtime.ranks, mine, active, kinds, arriving)
    blocks = [b for part in together for b in part]
    vectors = {
        n: joined_column(blocks, n, pipeline.schema[n], room, pipeline.resident) for n in names
    }
    rows_of = sum(b.rows for b in blocks)
    if len(blocks) == 1:  # they are those of the block, and may be views of what is there anyway
        only = Block(rows_of, {n: v for n, (v, _) in vectors.items()})
        only.valid.update({n: m for n, (_, m) in vectors.items() if m is not None})
        room.release(own_bytes(only, pipeline.resident))
    else:
        _give_back(vectors, room)
    return rows_of, vectors


def _give_back(vectors: dict[str, Vector], room: Room) -> None:
    """Count columns no more that were made in a room."""
    for values, mask in vectors.values():
        room.drop(values, mask)


def joined(blocks: list[Block], name: str, pipeline: Pipeline) -> Vector:
    """A column of all blocks in one piece, with its mask."""
    whole = concatenated([b.columns[name] for b in blocks], pipeline.schema[name])
    return whole, mask_of(blocks, name)


def _written(
    pipeline: Pipeline, names: list[str], active: list[int], rows: list[int], run: Run, room: Room
) -> dict[str, Vector]:
    """The columns, each partition written to its place; of the only rank."""
    total = sum(rows)
    ends = np.cumsum([0, *rows]).tolist()
    kinds = pipeline.schema
    made = {n: room.empty((total, *kinds[n].shape), kinds[n].numpy) for n in names}
    masks: dict[str, Array] = {}
    lock = threading.Lock()

    def mask_of(name: str) -> Array:
        with lock:
            if name not in masks:
                masks[name] = room.full(total, True, np.bool_)
            return masks[name]

    def task(worker: int, index: int) -> None:
        at = ends[index]
        with in_partition(active[index]):
            for block in pipeline.blocks(active[index], worker):
                stop = at + block.rows
                for name in names:
                    made[name][at:stop] = block.columns[name]
                    if name in block.valid:
                        mask_of(name)[at:stop] = block.valid[name]
                at = stop

    run(task, len(active))
    return {n: (v, masks.get(n)) for n, v in made.items()}


def same_vector(a: Vector, b: Vector) -> bool:
    """Whether two columns are the same, value by value and null by null; NaN is NaN."""
    if not same_values(a[0], b[0]):
        return False
    if a[1] is None or b[1] is None:
        one = b[1] if a[1] is None else a[1]
        return one is None or bool(one.all())
    return bool(np.array_equal(a[1], b[1]))


def same_values(a: ColumnData, b: ColumnData) -> bool:
    """Whether two columns hold the same numbers, strings or lists."""
    if a is b:
        return True
    if len(a) != len(b) or type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        floats = a.dtype.kind == "f"
        return a.shape == b.shape and all(
            np.array_equal(a[own], b[own], equal_nan=floats) for own in pieces(len(a))
        )
    own: Any = a
    return bool(own.equals(b)) if hasattr(own, "equals") else False

"""Groups whose keys stay: found once; in each iteration their records are only added up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scalops.algebra import expressions as ex
from scalops.algebra.folds import Fold
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.blocks import Array
from scalops.engine.collective import Program, gather_array
from scalops.engine.columns import taken
from scalops.engine.kernels.grouped_folds import GroupedFolds
from scalops.engine.kernels.grouping import Groups, group_rows
from scalops.engine.kernels.kernel import Vector
from scalops.engine.kernels.segments import SegmentProduct
from scalops.engine.pipelines.base import (
    Identity,
    Pipeline,
    Runtime,
    Stored,
    StoredPipeline,
    derived,
)
from scalops.engine.pipelines.computed import ComputePipeline, computed_identity
from scalops.engine.relations.base import Relation, Run
from scalops.engine.relations.group_parts import kept
from scalops.engine.relations.held import collected
from scalops.engine.relations.indexed import Index
from scalops.engine.relations.whole import Columns, Mapped, Whole
from scalops.engine.spilled_memory import Room


class _Grouping(NamedTuple):
    """The group of each record, and the keys of each group."""

    groups: Groups
    keys: dict[str, Vector]


class IndexGroup(Relation):
    """A record for each group, in the order of first appearance.

    A sum of a column that is gathered by positions which stay too, perhaps times one that stays,
    is one product with a sparse matrix: nothing is gathered. Other folds get their arguments
    record by record, and the groups that were found before. Where the keys go on changing there
    is no matrix either: it would be made for one product.
    """

    def __init__(self, stage: pp.Stage, pipeline: Pipeline, runtime: Runtime) -> None:
        super().__init__(stage, pipeline, runtime)
        assert isinstance(stage.sink, pr.IndexGroup)
        self._sink = stage.sink
        self._folds = self._sink.folds
        self.forget()

    def forget(self) -> None:
        self._index: Index[_Grouping] = Index()
        self._sums: list[_Sum | None] = [_Sum(f, self.pipeline, self.runtime) for f in self._folds]

    def make(self, run: Run) -> Program[Stored]:
        sink = self._sink
        room = self.new_room()
        groups, keys = yield from self._grouping(run, room)
        if not self._index.is_kept:
            self._sums = [None] * len(self._folds)
        vectors = dict(keys)
        others: list[Fold] = []
        for fold, own in zip(self._folds, self._sums, strict=True):
            made = None
            if own is not None:
                made = yield from own.over(self, groups, self._index.name, run, room)
            if made is None:
                others.append(fold)
            else:
                vectors[fold.name] = made
        if others:
            names = list(dict.fromkeys(a.name for f in others for a in f.arguments))  # type: ignore[attr-defined]
            _, columns = yield from _columns(self, names, run)
            given = dict(zip(names, columns, strict=True))
            folds = GroupedFolds(others, self.runtime.runner)
            folds.bind(self.runtime.slots, self.runtime.version)
            made_of = folds.over(groups, given, run)
            groups.forget_masks()
            vectors.update(zip((f.name for f in others), made_of, strict=True))
        identities = {n: derived("key", self._index.name, n) for n in keys}
        ordered = {n: vectors[n] if n in keys else kept(vectors[n], room) for n in sink.made.names}
        return Columns(sink.made, groups.count, ordered, identities)

    def _grouping(self, run: Run, room: Room) -> Program[_Grouping]:
        """The groups of the last iteration, if the keys are the same, or those of these keys."""
        found = yield from self._found(run)
        found.groups.keep(room)
        for name, vector in found.keys.items():
            found.keys[name] = kept(vector, room)
        return found

    def _found(self, run: Run) -> Program[_Grouping]:
        sink, pipeline, index = self._sink, self.pipeline, self._index
        identities = tuple(pipeline.identity(n) for n in sink.keys)
        known = index.known(identities)
        if known is not None:
            return known
        rows, vectors = yield from _columns(self, sink.keys, run)
        if index.holds(identities, vectors):
            assert index.found is not None
            return index.found
        kinds = [pipeline.schema[n] for n in sink.keys]
        ids, first = group_rows(vectors, kinds, rows, run)
        keys = {
            name: (taken(values, first), None if mask is None else mask[first])
            for name, (values, mask) in zip(sink.names, vectors, strict=True)
        }
        made = _Grouping(Groups(ids, len(first)), keys)
        index.renew(identities, vectors, made)
        return made


def _columns(
    relation: Relation, names: Sequence[str], run: Run
) -> Program[tuple[int, list[Vector]]]:
    """How many records there are, and columns in one piece; no work for those that lie so."""
    pipeline = relation.pipeline
    whole = {n: v for n in names if (v := pipeline.whole(n)) is not None}
    missing = [n for n in names if n not in whole]
    rows = len(next(iter(whole.values()))[0]) if whole else 0
    if missing:
        rows, made = yield from collected(relation, missing, run)
        whole.update(made)
    return rows, [whole[n] for n in names]


class _Sum:
    """A sum, or a mean, as a product with a matrix that stays."""

    def __init__(self, fold: Fold, pipeline: Pipeline, runtime: Runtime) -> None:
        self._fold, self._runtime = fold, runtime
        self._argument: ex.Expression | None = None
        self._known: tuple[Identity | None, ...] | None = None
        self._product: SegmentProduct | None = None
        if fold.kind not in ("sum", "mean") or not isinstance(pipeline, ComputePipeline):
            return
        if not isinstance(pipeline.source, StoredPipeline):
            return
        self._source = pipeline.source
        (argument,) = fold.arguments
        assert isinstance(argument, ex.Column)
        self._argument = pipeline.expression(argument.name)

    def over(
        self, relation: Relation, groups: Groups, found: Identity, run: Run, room: Room
    ) -> Program[Vector | None]:
        """The column, of the groups found under this name; None where it is no such product."""
        if self._argument is None:
            return None
        factors = self._factors()
        if factors is None:
            return None
        weight, column = factors
        table = self._source.table
        if isinstance(table, Mapped):
            side, name = table.source(column.name)
            positions = None if side.positions is None else side.positions.numbers
            place, below = side.identity, side.table
        elif isinstance(table, Whole):
            positions, place, name, below = None, b"", column.name, table
        else:
            return None
        whole = below.whole(name)
        if whole is None or whole[1] is not None:
            return None  # a null times infinity would not be passed over
        x, _ = whole
        if not isinstance(x, np.ndarray):
            return None
        floats = self._fold.type.numpy.kind == "f"
        dtype = np.dtype(np.float64) if floats else self._fold.type.numpy
        known = (found, place, self._weight_identity(weight))
        if self._product is None or self._known != known:
            weights = None
            if weight is not None:
                weights = yield from self._weights(relation, weight, run)
                if weights is None:
                    return None
            ranks = self._runtime.ranks
            part = ranks.own, ranks.size
            self._product = SegmentProduct(
                groups.ids, groups.count, positions, weights, len(x), dtype, run, part
            )
            self._known = known
        self._product.keep(room)
        sums = self._product.sums(x.astype(dtype, copy=False), run)
        if self._fold.kind == "mean":
            numbers = self._product.counts[self._product.first : self._product.last]
            with np.errstate(all="ignore"):
                sums = sums / np.expand_dims(numbers, tuple(range(1, sums.ndim)))
        own = sums.astype(self._fold.type.numpy, copy=False)
        return (yield from gather_array(self._runtime.ranks, own)), None

    def _factors(self) -> tuple[ex.Expression | None, ex.Column] | None:
        """(weight, column) with argument = weight · column, the weight being one that stays."""
        argument = self._argument
        if isinstance(argument, ex.Column):
            return None, argument
        if not (isinstance(argument, ex.Call) and argument.function.name == "multiply"):
            return None
        a, b = argument.arguments
        same = argument.type.name == a.type.name == b.type.name == "float64"
        for weight, column in ((a, b), (b, a)):
            plain = isinstance(column, ex.Column) and same and not weight.type.shape
            if plain and self._weight_identity(weight) is not None:
                return weight, column  # type: ignore[return-value]
        return None

    def _weight_identity(self, weight: ex.Expression | None) -> Identity | None:
        if weight is None:
            return b""
        return computed_identity(weight, self._source, self._runtime)

    def _weights(
        self, relation: Relation, weight: ex.Expression, run: Run
    ) -> Program[Array | None]:
        """The weight of each record; None where one is null."""
        node = pp.Compute(self._source.node, (("@weight", weight),))
        own = ComputePipeline(node, StoredPipeline(self._source.node, self._runtime), self._runtime)
        _, found = yield from collected(relation, ["@weight"], run, own)
        values, mask = found["@weight"]
        return None if mask is not None else values

"""Functions of a group's records: the records brought together by group, the function called.

Which records a group has, and the records in that order, are kept as long as the columns are
those of the last iteration, so that only what changes goes to the function anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.relations import RowsArgument
from scalops.algebra.schema import HIDDEN, Schema
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.blocks import Array, Block, concatenate, identities, mask_of
from scalops.engine.collective import Program
from scalops.engine.columns import concatenated
from scalops.engine.kernels.kernel import Vector
from scalops.engine.kernels.keys import record_codes
from scalops.engine.kernels.segments import Segments
from scalops.engine.opaque.arguments import Column, column
from scalops.engine.opaque.calls import bind, python_value
from scalops.engine.opaque.group_functions import (
    GroupedTable,
    GroupFunction,
    Groups,
    Place,
    batches,
    call_groups,
)
from scalops.engine.pipelines.base import Identity, Pipeline, Runtime, Stored
from scalops.engine.pipelines.row_ranges import present
from scalops.engine.relations.base import Relation, Run
from scalops.engine.relations.gathering import spread
from scalops.engine.relations.held import collected, same_vector
from scalops.engine.relations.whole import Columns

_TASKS = 16  # of a table's groups in this process: more than threads, for they take unequally long


class ApplyGroups(Relation):
    """What a captured function gives for each group, in the order of the groups."""

    def __init__(self, stage: pp.Stage, pipeline: Pipeline, runtime: Runtime) -> None:
        super().__init__(stage, pipeline, runtime)
        sink = stage.sink
        assert isinstance(sink, pr.ApplyGroups)
        self._sink = sink
        names = [e.name for e in sink.arguments if isinstance(e, ex.Column)]
        self._columns = tuple(dict.fromkeys(names))
        self._values = (*sink.closed_over, *(e for e in sink.arguments if _is_value(e)))
        self._function = GroupFunction(sink.function, self._places(), sink.declared, sink.single)
        self._tables = [
            _Grouped(table, keys, runtime)
            for table, keys in zip(sink.tables, sink.table_keys, strict=True)
        ]
        self._bound: dict[int, tuple[int, Callable[..., Any]]] = {}
        self._named: tuple[int, ...] = ()
        self._name = ""

    def forget(self) -> None:
        for table in self._tables:
            table.forget()

    def _places(self) -> tuple[Place, ...]:
        places: list[Place] = []
        values = len(self._sink.closed_over)
        for e in self._sink.arguments:
            if isinstance(e, RowsArgument):
                places.append(("rows", e.number))
            elif isinstance(e, ex.Column):
                places.append(("column", self._columns.index(e.name)))
            else:
                places.append(("value", values))
                values += 1
        return tuple(places)

    def make(self, run: Run) -> Program[Stored]:
        sink, budget = self._sink, self.runtime.budget
        count, own = yield from self._groups(run)
        keys = [own[n] for n in sink.keys]
        tables = []
        for table in self._tables:
            tables.append((yield from table.by_group(count, keys, self.owner)))
        groups = Groups(
            count,
            tuple(tables),
            tuple(Column(*k) for k in keys),
            tuple(column(*own[n]) for n in self._columns),
        )
        blocks = self._called(groups, run)
        size = sum(b.bytes for b in blocks)
        budget.require(size, self.owner)
        vectors = {n: own[n] for n in sink.kept}
        known = {n: self.pipeline.identity(n) for n in sink.kept}
        for name, kind in sink.declared:
            whole = concatenated([b.columns[name] for b in blocks], kind)
            vectors[name] = whole, mask_of(blocks, name)
        return Columns(sink.made, sum(b.rows for b in blocks), vectors, known)

    def _groups(self, run: Run) -> Program[tuple[int, dict[str, Vector]]]:
        """How many groups there are, and their columns."""
        names = list(self.pipeline.schema.names)
        found = {n: v for n in names if (v := self.pipeline.whole(n)) is not None}
        if found and len(found) == len(names):
            return len(found[names[0]][0]), found
        return (yield from collected(self, names, run))

    def _called(self, groups: Groups, run: Run) -> list[Block]:
        """What the function gives, run of groups by run of groups."""
        values = [python_value(present(e, self.runtime)) for e in self._values]
        runner, made = self.runtime.runner, []
        if runner is not None:
            slots, name = runner.slots(values), self._name_of(groups)

            def in_workers(worker: int, index: int) -> None:
                made.extend(runner.call_groups(self._function, slots, groups, name))

            run(in_workers, 1)
            return made
        bounds = batches(groups, _TASKS)
        found: list[Block | None] = [None] * len(bounds)

        def task(worker: int, index: int) -> None:
            self.runtime.check_cancelled()
            start, stop = bounds[index]
            own, bound = groups.slice(start, stop), self._function_of(worker, values)
            found[index] = call_groups(self._function, bound, own, values)

        run(task, len(bounds))
        return [b for b in found if b is not None]

    def _function_of(self, worker: int, values: Sequence[Any]) -> Callable[..., Any]:
        """A thread's own copy of the function; while it has no slots, the one of the last time."""
        version = self.runtime.version if self._sink.closed_over else 0
        known, function = self._bound.get(worker, (-1, None))
        if function is None or known != version:
            function = bind(self._sink.function, values)
            self._bound[worker] = version, function
        return function

    def _name_of(self, groups: Groups) -> str:
        """A name that the groups' records had before where they are the same."""
        versions = tuple(t.version for t in self._tables)
        if not self._name or versions != self._named:
            self._named, self._name = versions, f"groups {next(identities)}"
        return self._name


def _is_value(e: ex.Expression) -> bool:
    return not isinstance(e, (ex.Column, RowsArgument))


class _Grouped:
    """A stored table by group; its records in that order are kept while they are the same."""

    def __init__(self, table: pp.StoredTable, keys: tuple[str, ...], runtime: Runtime) -> None:
        self._node, self._keys, self._runtime = table, keys, runtime
        kinds = tuple((n, k) for n, k in table.schema if not n.startswith(HIDDEN))
        self._schema = Schema(kinds)
        self.version = 0  # of the groups and their records
        self._bytes = 0  # beyond those of the stored table
        self._made: GroupedTable | None = None
        self._group_keys: list[Vector] = []
        self._identities: tuple[Identity | None, ...] = ()

    def forget(self) -> None:
        """Drop the records by group of the last iteration."""
        self._made, self._group_keys, self._identities = None, [], ()

    def by_group(
        self, count: int, group_keys: list[Vector], owner: str
    ) -> Program[GroupedTable]:
        """The table's records in the order of `count` groups of these keys.

        What that takes beyond the stored table is reserved under `owner`, each time.
        """
        table = self._runtime.tables[self._node.number]
        now = tuple(table.identity(n) for n in self._node.schema.names)
        if self._made is not None and now == self._identities and None not in now:
            known = zip(self._group_keys, group_keys, strict=True)
            if len(self._made.offsets) == count + 1 and all(same_vector(a, b) for a, b in known):
                self._runtime.budget.require(self._bytes, owner)
                return self._made
        self._made = None  # before there is another
        self.version += 1
        self._identities, self._group_keys = now, group_keys
        self._made = yield from self._arranged(table, count, group_keys, owner)
        return self._made

    def _arranged(
        self, table: Stored, count: int, group_keys: list[Vector], owner: str
    ) -> Program[GroupedTable]:
        block = yield from self._whole(table)
        kinds = [self._node.schema[n] for n in self._keys]
        keys = [(block.columns[n], block.valid.get(n)) for n in self._keys]
        order, offsets = rows_of_groups(group_keys, keys, kinds, count, block.rows)
        names = self._schema.names
        own = Block(
            block.rows,
            {n: block.columns[n] for n in names},
            {n: block.valid[n] for n in names if n in block.valid},
        )
        self._bytes = 0
        if len(order) != block.rows or np.any(order[1:] < order[:-1]):
            self._bytes = own.bytes * len(order) // max(1, block.rows)
            self._runtime.budget.require(self._bytes, owner)
            own = own.take(order)
        return GroupedTable(self._schema, own, offsets)

    def _whole(self, table: Stored) -> Program[Block]:
        """All records, column by column in one piece."""
        schema = self._node.schema
        vectors = {n: v for n in schema.names if (v := table.whole(n)) is not None}
        if vectors and len(vectors) == len(schema):
            rows = len(next(iter(vectors.values()))[0])
            masks = {n: m for n, (_, m) in vectors.items() if m is not None}
            return Block(rows, {n: v for n, (v, _) in vectors.items()}, masks)
        ranks, count = self._runtime.ranks, table.partitions()
        own = {p: list(table.blocks(p, 0)) for p in range(*ranks.range_of(ranks.own, count))}
        parts = yield from spread(ranks, own, range(count), schema)
        return concatenate([b for part in parts for b in part], schema)


def rows_of_groups(
    group_keys: Sequence[Vector],
    keys: Sequence[Vector],
    kinds: Sequence[ArrayType],
    groups: int,
    rows: int,
) -> tuple[Array, Array]:
    """The numbers of the records of group 0, of group 1, ..., and where each group's begin.

    int[records of groups] and int64[groups + 1]. A group has the records whose keys equal its
    own, in table order: nulls are equal, NaNs are. Records of no group are in none.
    """
    both = []
    for (own, known), (other, valid), kind in zip(group_keys, keys, kinds, strict=True):
        mask = None
        if known is not None or valid is not None:
            sides = ((known, groups), (valid, rows))
            mask = np.concatenate([np.ones(n, bool) if m is None else m for m, n in sides])
        both.append(((concatenated([own, other], kind), mask), kind))
    codes = record_codes(both, groups + rows)
    distinct = int(codes[:groups].max(initial=-1)) + 1
    # The groups stand first, and codes count by first appearance: other records' are greater.
    segments = Segments(np.minimum(codes[groups:], distinct), distinct + 1)
    starts = segments.starts.astype(np.int64)
    first, last = starts[codes[:groups]], starts[codes[:groups] + 1]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(last - first)])
    if distinct == groups:
        return segments.order[: offsets[-1]], offsets
    at = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], last - first)
    return segments.order[at], offsets

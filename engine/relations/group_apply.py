"""Functions of a group's records: the records brought together by group, the function called.

Which records a group has, and the records in that order, are kept as long as the columns are
those of the last iteration, so that only what changes goes to the function anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import OutOfMemoryError
from scalops.algebra.explain import bytes_text
from scalops.algebra.relations import RowsArgument
from scalops.algebra.schema import HIDDEN, Schema
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.blocks import Array, Block, identities, mask_of
from scalops.engine.collective import Piece, Program, gather_all
from scalops.engine.columns import concatenated, sliced
from scalops.engine.kernels.kernel import Vector
from scalops.engine.kernels.keys import record_codes
from scalops.engine.kernels.segments import Segments
from scalops.engine.opaque.arguments import Column, column
from scalops.engine.opaque.calls import bind, python_value
from scalops.engine.opaque.group_functions import (
    BATCH_BYTES,
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
from scalops.engine.relations.dealt import dealt
from scalops.engine.relations.group_parts import filled, kept, part_bytes, taken_to
from scalops.engine.relations.group_ranges import sent_to_groups, split
from scalops.engine.relations.held import collected, same_vector
from scalops.engine.relations.whole import Columns
from scalops.engine.spilled_memory import Room

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
        self._bounds: list[int] = []  # of the ranks' groups
        self._named: tuple[int, ...] = ()
        self._name = ""
        self._large = threading.Lock()  # held while a function has a large group

    def forget(self) -> None:
        self._bounds = []
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
        sink, room = self._sink, self.new_room()
        count, own = yield from self._groups(run)
        keys = [own[n] for n in sink.keys]
        first, last, tables = yield from self._tables_of(count, keys)
        groups = Groups(
            last - first,
            tuple(tables),
            tuple(Column(*_part(k, first, last)) for k in keys),
            tuple(column(*_part(own[n], first, last)) for n in self._columns),
        )
        blocks = self._called(groups, run, room)
        vectors = {n: _part(own[n], first, last) for n in sink.kept}
        for name, kind in sink.declared:
            parts, mask = [b.columns[name] for b in blocks], mask_of(blocks, name)
            room.drop(*parts, *(b.valid.get(name) for b in blocks))
            own_mask = None if mask is None else room.column(mask)
            vectors[name] = room.joined(parts, kind), own_mask
        return (yield from self._table(sum(b.rows for b in blocks), vectors, room))

    def _tables_of(
        self, count: int, keys: list[Vector]
    ) -> Program[tuple[int, int, list[GroupedTable]]]:
        """This rank's groups, from which to which, and their records of each table."""
        ranks, tables = self.runtime.ranks, self._tables
        if ranks.is_alone:
            room = self.new_room()
            return 0, count, [t.by_group(count, keys, room) for t in tables]
        fresh = [not t.is_known(count, keys) for t in tables]
        if any(fresh) or self._bounds[-1:] != [count]:
            for table, is_fresh in zip(tables, fresh, strict=True):
                if is_fresh:
                    table.count(keys, self.owner)
            records = sum((t.records for t in tables), np.zeros(count, np.int64))
            bounds = yield from split(ranks, records)
            fresh = [f or bounds != self._bounds for f in fresh]
            self._bounds = bounds
        made: list[GroupedTable] = []
        room = self.new_room()
        for table, is_fresh in zip(tables, fresh, strict=True):
            if is_fresh:
                made.append((yield from table.fetch(keys, self._bounds, room)))
            else:
                made.append(table.known(room))
        return self._bounds[ranks.own], self._bounds[ranks.own + 1], made

    def _table(self, rows: int, own: dict[str, Vector], room: Room) -> Program[Stored]:
        """The table, of which this rank has made so many records; `room` has what they declare."""
        ranks, made = self.runtime.ranks, self._sink.made
        known = {n: self.pipeline.identity(n) for n in self._sink.kept}
        if ranks.is_alone:
            return Columns(made, rows, own, known)
        told = yield from gather_all(ranks, Piece(rows, []))
        ends = np.cumsum([0, *(piece.header for piece in told)])
        numbers = np.arange(ends[ranks.own], ends[ranks.own + 1])
        for name, _ in self._sink.declared:
            room.drop(*own[name])
        return (yield from dealt(ranks, made, int(ends[-1]), numbers, own, known, room))

    def _groups(self, run: Run) -> Program[tuple[int, dict[str, Vector]]]:
        """How many groups there are, and their columns."""
        names = list(self.pipeline.schema.names)
        found = {n: v for n in names if (v := self.pipeline.whole(n)) is not None}
        if found and len(found) == len(names):
            return len(found[names[0]][0]), found
        count, computed = yield from collected(self, names, run)
        if self.runtime.ranks.is_alone:  # else they go to other ranks
            computed = dict(kept(list(computed.items()), self.new_room()))
        return count, computed

    def _called(self, groups: Groups, run: Run, room: Room) -> list[Block]:
        """What the function gives, run of groups by run of groups, kept in a room."""
        values = [python_value(present(e, self.runtime)) for e in self._values]
        runner, made = self.runtime.runner, list[Block]()
        if runner is not None:
            slots, name = runner.slots(values), self._name_of(groups)

            def in_workers(worker: int, index: int) -> None:
                called = runner.call_groups(self._function, slots, groups, name)
                made.extend(room.block(block) for block in called)

            run(in_workers, 1)
            return made
        most = part_bytes(self.runtime.budget) or BATCH_BYTES
        bounds = batches(groups, _TASKS, min(most, BATCH_BYTES))
        found: list[Block | None] = [None] * len(bounds)

        def task(worker: int, index: int) -> None:
            self.runtime.check_cancelled()
            start, stop = bounds[index]
            own, bound = groups.slice(start, stop), self._function_of(worker, values)
            with self._given(own, most):
                found[index] = room.block(call_groups(self._function, bound, own, values))

        run(task, len(bounds))
        return [b for b in found if b is not None]

    @contextmanager
    def _given(self, groups: Groups, most: int) -> Iterator[None]:
        """While the function has these groups, which it gets whole.

        More than `most` bytes have to find room, and are given one after the other.
        Raises: OutOfMemoryError, which names the largest of the groups.
        """
        size, budget = sum(t.bytes for t in groups.tables), self.runtime.budget
        if size <= most:
            yield
            return
        owner = f"a group of {self._sink.function.name}"
        with self._large:
            try:
                budget.require(size, owner)
            except OutOfMemoryError as error:
                raise self._too_large(groups, error) from error
            try:
                yield
            finally:
                budget.release(owner, size)

    def _too_large(self, groups: Groups, error: OutOfMemoryError) -> OutOfMemoryError:
        sizes = [sum(t.bytes for t in groups.slice(g, g + 1).tables) for g in range(groups.count)]
        largest = int(np.argmax(sizes))
        captured = self._sink.function
        return OutOfMemoryError(
            f"{captured.name} is given all records of a group at once; those of the group whose"
            f" key is {groups.key(largest)!r} take {bytes_text(sizes[largest])}: {error.found}",
            location=captured.location,
            hint=f"{error.hint}; or let the function have less: choose columns by select(), fold"
            " the groups by agg(), or group by more keys",
        )

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


def _part(vector: Vector, start: int, stop: int) -> Vector:
    """The records start..stop-1 of a column; the column itself where that is all of them."""
    values, mask = vector
    if stop - start == len(values):
        return vector
    return sliced(values, start, stop), None if mask is None else mask[start:stop]


class _Grouped:
    """A stored table by group; its records in that order are kept while they are the same.

    Of several ranks each has those of its own groups.
    """

    def __init__(self, table: pp.StoredTable, keys: tuple[str, ...], runtime: Runtime) -> None:
        self._node, self._keys, self._runtime = table, keys, runtime
        kinds = tuple((n, k) for n, k in table.schema if not n.startswith(HIDDEN))
        self._schema = Schema(kinds)
        self.version = 0  # of the groups and their records
        self.records: Array = np.zeros(0, np.int64)  # of each group, those that this rank holds
        self._is_own = False  # whether the records are others than the stored table's
        self._made: GroupedTable | None = None
        self._count, self._group_keys = 0, list[Vector]()
        self._identities: tuple[Identity | None, ...] = ()

    def forget(self) -> None:
        """Drop the records by group."""
        self._made = None
        self._group_keys, self._identities = [], ()

    @property
    def _table(self) -> Stored:
        return self._runtime.tables[self._node.number]

    def by_group(self, count: int, group_keys: list[Vector], room: Room) -> GroupedTable:
        """The table's records in the order of `count` groups of these keys, of the only rank.

        What that takes beyond the stored table is kept in `room`, each time.
        """
        if self.is_known(count, group_keys):
            return self.known(room)
        return self._arranged(*self._whole(room), count, group_keys, room)

    def is_known(self, count: int, group_keys: list[Vector]) -> bool:
        """Whether the records and the groups are those of the last time; else they are new."""
        now = tuple(self._table.identity(n) for n in self._node.schema.names)
        if self._made is not None and now == self._identities and None not in now:
            known = zip(self._group_keys, group_keys, strict=True)
            if self._count == count and all(same_vector(a, b) for a, b in known):
                return True
        self._made = None  # before there is another
        self.version += 1
        self._identities, self._count, self._group_keys = now, count, group_keys
        return False

    def known(self, room: Room) -> GroupedTable:
        """What was made last; what it takes is kept in `room` from now on."""
        made = self._made
        assert made is not None
        if self._is_own:
            made = self._made = GroupedTable(made.schema, room.block(made.block), made.offsets)
        return made

    def _arranged(
        self, block: Block, is_own: bool, count: int, group_keys: list[Vector], room: Room
    ) -> GroupedTable:
        """A block's records by group; with `is_own` they are in `room`, else a stored table's."""
        order, offsets = self._found(block, count, group_keys)
        own = block.only(self._schema.names)
        self._is_own = is_own
        if len(order) != block.rows or np.any(order[1:] < order[:-1]):
            self._is_own = True
            own = taken_to(own, order, self._schema, room)
            if is_own:
                room.drop(*block.columns.values(), *block.valid.values())
        elif is_own:
            gone = block.columns.keys() - own.columns.keys()
            room.drop(*(block.columns[n] for n in gone), *(block.valid.get(n) for n in gone))
        self._made = GroupedTable(self._schema, own, offsets)
        return self._made

    def _found(self, block: Block, count: int, group_keys: list[Vector]) -> tuple[Array, Array]:
        kinds = [self._node.schema[n] for n in self._keys]
        keys = [(block.columns[n], block.valid.get(n)) for n in self._keys]
        return rows_of_groups(group_keys, keys, kinds, count, block.rows)

    def _whole(self, room: Room) -> tuple[Block, bool]:
        """All records, column by column in one piece; whether that is a copy, kept in `room`."""
        schema, table = self._node.schema, self._table
        vectors = {n: v for n in schema.names if (v := table.whole(n)) is not None}
        if vectors and len(vectors) == len(schema):
            rows = len(next(iter(vectors.values()))[0])
            masks = {n: m for n, (_, m) in vectors.items() if m is not None}
            return Block(rows, {n: v for n, (v, _) in vectors.items()}, masks), False
        return self._joined(range(table.partitions()), schema, room)

    def _joined(self, partitions: Sequence[int], schema: Schema, room: Room) -> tuple[Block, bool]:
        """These columns of the partitions, as `_whole` gives those of all."""
        table, chosen = self._table, {n: n for n in schema.names}
        held = [table.held(p) for p in partitions]
        if None not in held:
            blocks = [b for part in held if part is not None for b in part]
            if len(blocks) == 1:
                return blocks[0].chosen(chosen), False
        rows = 0
        for p in partitions:
            known = table.rows(p)
            rows += sum(b.rows for b in table.blocks(p, 0)) if known is None else known
        blocks_of = (b.chosen(chosen) for p in partitions for b in table.blocks(p, 0))
        return filled(blocks_of, rows, schema, room), True

    # Several ranks: each counts what it holds, and gets what its groups have.

    def count(self, group_keys: list[Vector], owner: str) -> None:
        """Find out how many of this rank's own records each group has."""
        room = self._runtime.room(owner)
        block, is_own = self._own(self._keys, room)
        _, offsets = self._found(block, self._count, group_keys)
        self.records = np.diff(offsets)
        if is_own:
            room.drop(*block.columns.values(), *block.valid.values())

    def fetch(
        self, group_keys: list[Vector], bounds: Sequence[int], room: Room
    ) -> Program[GroupedTable]:
        """The records of the rank's own groups: those from one of the bounds to the next."""
        self._made = None  # before there is another
        self.version += 1
        ranks, schema = self._runtime.ranks, self._node.schema
        block, is_own = self._own(schema.names, room)
        order, offsets = self._found(block, self._count, group_keys)
        own = yield from sent_to_groups(ranks, block, schema, order, offsets, bounds, room)
        if is_own:
            room.drop(*block.columns.values(), *block.valid.values())
        del block
        first, last = bounds[ranks.own], bounds[ranks.own + 1]
        keys = [_part(k, first, last) for k in group_keys]
        return self._arranged(own, True, last - first, keys, room)

    def _own(self, names: Sequence[str], room: Room) -> tuple[Block, bool]:
        """These columns of the rank's own partitions, in one piece each; as `_whole`."""
        schema = Schema(tuple((n, self._node.schema[n]) for n in dict.fromkeys(names)))
        return self._joined(self._table.own(self._runtime.ranks), schema, room)


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

"""Groups of records, and the folds over each: a stored table of one record for each group.

Where what the first records give is little beside what they hold, blocks are folded by group as
they come; what the blocks of a leaf (a run of partitions) give is merged, and leaves are merged in
the canonical tree. Where keys hardly repeat, or results are large, merging would cost as much as
folding: then keys and arguments are held whole, and each group is folded in table order. Which of
the two is a numeric decision, so the data alone makes it. Of several ranks each folds leaves, or
the groups whose keys' hashes are its own.

Where the budget has no room, both go on in parts by the hash of the keys, which lie in files
(`group_partials.py`, `group_records.py`). That is neutral: each group is given the same partials,
or records, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain

import numpy as np

from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.blocks import Array, Block
from scalops.engine.collective import Program
from scalops.engine.columns import empty, taken
from scalops.engine.kernels.grouped_folds import GroupedFolds
from scalops.engine.kernels.grouping import Groups, group_rows
from scalops.engine.kernels.kernel import Vector
from scalops.engine.passes import SMALL_BYTES, in_partition
from scalops.engine.pipelines.base import (
    Identity,
    Pipeline,
    Runtime,
    Stored,
    derived,
)
from scalops.engine.rank_folds import RankPass
from scalops.engine.reduction import RunningTree, combine_tree, leaf_count, leaf_ranges
from scalops.engine.relations.base import Relation, Run
from scalops.engine.relations.dealt import dealt
from scalops.engine.relations.group_exchange import Places, met, numbered
from scalops.engine.relations.group_partials import Merger, Partial, Partials
from scalops.engine.relations.group_parts import Numbered, in_order, kept, part_bytes
from scalops.engine.relations.group_records import CODE_BYTES, Records, places
from scalops.engine.relations.held import collected, joined
from scalops.engine.relations.rank_groups import (
    GroupPass,
    Stack,
    decode_groups,
    encode_groups,
    first_keys,
)
from scalops.engine.relations.whole import Columns

# Version 1 of numeric constants: where the groups of the first records take more than this share of
# their bytes, all records are held and each group is folded in table order.
WHOLE_SHARE = 0.5
HEAD_ROWS, HEAD_BLOCKS = 4096, 16


class GroupRows(Relation):
    """Groups by first appearance, folded block by block or all records at once."""

    def __init__(self, stage: pp.Stage, pipeline: Pipeline, runtime: Runtime) -> None:
        super().__init__(stage, pipeline, runtime)
        sink = stage.sink
        assert isinstance(sink, pr.GroupRows)
        self._sink = sink
        self._kinds = [pipeline.schema[n] for n in sink.keys]
        self._folds = GroupedFolds(sink.folds, runtime.runner)
        self._merger = Merger(self._folds, self._kinds, self.groups_of, runtime.budget, self.owner)

    def make(self, run: Run) -> Program[Stored]:
        pipeline = self.pipeline
        self._folds.bind(self.runtime.slots, self.runtime.version)
        if not self.runtime.ranks.is_alone:
            return (yield from self._of_ranks(run))
        active = list(pipeline.active())
        blocks = self._blocks(active, 0)
        # Of one partition no block is made twice: a loop may run over a small table.
        alone = len(active) == 1
        head = self._head(blocks) if alone else self._look(blocks)
        groups, rows = self._groups_in(head), sum(b.rows for b in head)
        if self._is_whole(groups, rows):
            if alone:
                records = self._records()
                _add(records, 0, chain(head, blocks))
                _, count, vectors = self._of_records(records, run)
            else:
                count, vectors = yield from self._collected(run)
            return self._table(vectors, count)
        if alone:
            return self._finished(self._leaf(chain(head, blocks)))
        return self._finished(self._merged(active, groups * self._sink.made.bytes_per_row, run))

    # Which way, and what both have in common.

    def _head(self, blocks: Iterator[Block]) -> list[Block]:
        """The first blocks: enough records to go by, unless a filter leaves few of them."""
        found: list[Block] = []
        while not is_enough([b.rows for b in found]):
            block = next(blocks, None)
            if block is None:
                break
            found.append(block)
        return found

    def _look(self, blocks: Iterator[Block]) -> list[Block]:
        """The same of blocks that are read again."""
        meter = self.runtime.meter
        with nullcontext() if meter is None else meter.looking():
            return self._head(blocks)

    def _groups_in(self, head: list[Block]) -> int:
        rows = sum(b.rows for b in head)
        keys = [joined(head, n, self.pipeline) for n in self._sink.keys]
        return self.groups_of(keys, rows)[0].count

    def _is_whole(self, groups: int, rows: int) -> bool:
        made, given = self._sink.made.bytes_per_row, self.pipeline.schema.bytes_per_row
        return self._folds.by_group or groups * made > WHOLE_SHARE * rows * given

    def groups_of(self, keys: Sequence[Vector], rows: int) -> tuple[Groups, Array]:
        """The group of each record, and the first record of each group."""
        ids, firsts = group_rows(keys, self._kinds, rows)
        return Groups(ids, len(firsts)), firsts

    def _finished(self, made: Partials) -> Stored:
        room = self.new_room()
        count, columns = self._merger.finished(made, self._sink.made, room)
        return self._table(self._named(columns), count)

    def _named(self, columns: Sequence[Vector]) -> dict[str, Vector]:
        return dict(zip(self._sink.made.names, columns, strict=True))

    def _table(self, vectors: dict[str, Vector], count: int) -> Stored:
        self.runtime.budget.release(self.owner)
        own = kept(list(vectors.values()), self.new_room())
        return Columns(self._sink.made, count, self._named(own), self._identities())

    def _identities(self) -> dict[str, Identity | None]:
        """The keys' columns are the same as long as the keys are."""
        own = [self.pipeline.identity(n) for n in self._sink.keys]
        if None in own:
            return {}
        return {n: derived("groups", i, *own) for i, n in enumerate(self._sink.names)}

    # Few groups: block by block.

    def _blank(self) -> Partial:
        kinds = self.pipeline.schema
        nothing = Block(0, {n: empty(k) for n, k in kinds})
        return self._of_block(nothing)

    def _of_block(self, block: Block) -> Partial:
        vectors = {n: (block.columns[n], block.valid.get(n)) for n in block.columns}
        keys = [vectors[n] for n in self._sink.keys]
        groups, firsts = self.groups_of(keys, block.rows)
        own = [_taken(k, firsts) for k in keys]
        return Partial(groups.count, own, self._folds.block(groups, vectors))

    def _leaf(self, blocks: Iterable[Block]) -> Partials:
        stack: Stack = []
        self._extend(stack, blocks)
        return self._sealed(stack)

    def _extend(self, stack: Stack, blocks: Iterable[Block]) -> None:
        """Blocks of similar size are merged as they come, so that none is merged often."""
        for block in blocks:
            if block.rows == 0:
                continue
            stack.append(self._of_block(block))
            while len(stack) > 1 and stack[-2].count <= 2 * stack[-1].count:
                last = stack.pop()
                stack[-1] = self._merger.merge(stack[-1], last)

    def _sealed(self, stack: Stack) -> Partials:
        if not stack:
            return self._blank()
        while len(stack) > 1:
            last = stack.pop()
            stack[-1] = self._merger.merge(stack[-1], last)
        return self._merger.kept(stack[0])

    def _merged(self, active: Sequence[int], partial_bytes: int, run: Run) -> Partials:
        """Leaves, on threads where there is room for all of them, and their tree."""
        budget = self.runtime.budget
        size, count = self._size(active), self._leaves(active, partial_bytes)
        ranges = leaf_ranges(len(active), count)
        held = f"groups of stage {self.stage.number}"
        if count == 1 or size < SMALL_BYTES or not budget.reserve(count * partial_bytes, held):
            tree = RunningTree(self._merger.merge)
            for bounds in ranges:
                tree.push(self._leaf(self._blocks(active[slice(*bounds)], 0)))
            return tree.result()
        leaves: list[Partials | None] = [None] * count

        def task(worker: int, index: int) -> None:
            leaves[index] = self._leaf(self._blocks(active[slice(*ranges[index])], worker))

        try:
            run(task, count)
        finally:
            budget.release(held)
        return combine_tree([leaf for leaf in leaves if leaf is not None], self._merger.merge)

    def _size(self, active: Sequence[int]) -> int:
        """About how many bytes these partitions are read from."""
        return self.pipeline.source_bytes * len(active) // max(1, self.pipeline.partitions())

    def _leaves(self, active: Sequence[int], partial_bytes: int) -> int:
        return leaf_count(len(active), self._size(active), partial_bytes)

    def _blocks(self, partitions: Sequence[int], worker: int) -> Iterator[Block]:
        for partition in partitions:
            with in_partition(partition):
                yield from self.pipeline.blocks(partition, worker)

    # Keys that hardly repeat: all records at once.

    def _records(self) -> Records:
        pipeline, budget = self.pipeline, self.runtime.budget
        return Records(pipeline.schema, self._sink.keys, budget, self.owner, pipeline.resident)

    def _collected(self, run: Run) -> Program[tuple[int, dict[str, Vector]]]:
        """How many groups there are, and their columns, of all records.

        Columns that lie in one piece below are taken as they are, if there is room for the others.
        """
        pipeline, budget = self.pipeline, self.runtime.budget
        names, active = pipeline.schema.names, list(pipeline.active())
        found = {n: v for n in names if (v := pipeline.whole(n)) is not None}
        missing = [n for n in names if n not in found]
        size = self._size_of(missing, active)
        if size is not None and budget.room(size, self.owner):
            budget.release(self.owner, size)
            rows = len(next(iter(found.values()))[0]) if found else 0
            if missing or not found:
                rows, computed = yield from collected(self, missing, run)
                found.update(kept(list(computed.items()), self.new_room()))
            return self._of_whole(rows, found, run)[1:]
        records = self._records()

        def task(worker: int, index: int) -> None:
            with in_partition(active[index]):
                _add(records, index, pipeline.blocks(active[index], worker))

        run(task, len(active))
        return self._of_records(records, run)[1:]

    def _size_of(self, names: Sequence[str], active: Sequence[int]) -> int | None:
        """Bytes of these columns and of the groups' numbers; None where only reading tells."""
        kinds = [self.pipeline.schema[n] for n in names]
        known = [r for p in active if (r := self.pipeline.rows(p)) is not None]
        if len(known) < len(active) or not all(k.is_plain for k in kinds):
            return None
        return sum(known) * (sum(k.bytes for k in kinds) + CODE_BYTES)

    def _of_records(self, records: Records, run: Run) -> tuple[Array, int, dict[str, Vector]]:
        """The places of the groups' first records, their number, and their columns."""
        whole = records.whole()
        if whole is not None:
            own, block = whole
            firsts, count, vectors = self._of_whole(block.rows, _vectors(block), run)
            return own[firsts], count, vectors
        room = self.new_room()
        parts = []
        for own, block in records.parts():
            firsts, _, vectors = self._of_whole(block.rows, _vectors(block), run)
            columns = kept(list(vectors.values()), room)
            parts.append(Numbered(kept(own[firsts], room), self._named(columns)))
        step = part_bytes(self.runtime.budget)
        first_places, ordered = in_order(parts, self._sink.made, room, step)
        return first_places, len(first_places), ordered

    def _of_whole(
        self, rows: int, vectors: Mapping[str, Vector], run: Run
    ) -> tuple[Array, int, dict[str, Vector]]:
        """The groups' first records, how many there are, and their columns."""
        keys = [vectors[n] for n in self._sink.keys]
        groups, firsts = self.groups_of(keys, rows)
        folds = self._folds.over(groups, vectors, run)
        made = self._named([*(_taken(k, firsts) for k in keys), *folds])
        return firsts, groups.count, made

    # Several ranks: the same, leaf by leaf along their tree, or group by group where hashes lead.

    def _of_ranks(self, run: Run) -> Program[Stored]:
        ranks, keys = self.runtime.ranks, self._sink.keys
        if self._folds.by_group:
            return (yield from self._by_hash(run))

        def first(partitions: Sequence[int]) -> list[Block]:
            return self._look(self._blocks(partitions, 0))

        head = yield from first_keys(self.pipeline, keys, ranks, first, is_enough)
        groups, rows = self._groups_in(head), sum(b.rows for b in head)
        if self._is_whole(groups, rows):
            return (yield from self._by_hash(run))
        return (yield from self._along_the_tree(groups * self._sink.made.bytes_per_row, run))

    def _along_the_tree(self, partial_bytes: int, run: Run) -> Program[Stored]:
        pipeline, ranks = self.pipeline, self.runtime.ranks
        leaves = self._leaves(list(pipeline.active()), partial_bytes)

        def extend(stack: Stack, partitions: Sequence[int], worker: int) -> None:
            self._extend(stack, self._blocks(partitions, worker))

        merge = self._merger.merge
        made = GroupPass(pipeline, leaves, extend, self._sealed, merge)
        wholes = yield from RankPass(made, ranks, encode_groups, decode_groups).folded(run)
        count, vectors = 0, dict[str, Vector]()
        if wholes is not None:
            room = self.new_room()
            count, columns = self._merger.finished(wholes[0], self._sink.made, room)
            vectors = self._named(columns)
        return (yield from self._dealt(count, np.arange(count), vectors))

    def _by_hash(self, run: Run) -> Program[Stored]:
        records = yield from met(self, self._sink.keys)
        own, _, made = self._of_records(records, run)
        firsts = Places.of(own)
        numbers, count = yield from numbered(self.pipeline, firsts, self.runtime.ranks)
        return (yield from self._dealt(count, numbers, made))

    def _dealt(self, count: int, numbers: Array, own: dict[str, Vector]) -> Program[Stored]:
        """The table, of the groups of these numbers that this rank has."""
        made, identities = self._sink.made, self._identities()
        self.runtime.budget.release(self.owner)
        room = self.new_room()
        return (yield from dealt(self.runtime.ranks, made, count, numbers, own, identities, room))


def _add(records: Records, position: int, blocks: Iterable[Block]) -> None:
    """Add a partition's blocks to the records; it is at this position among the active ones."""
    at = 0
    for block in blocks:
        if block.rows:
            records.add(places(position, at, block.rows), block)
        at += block.rows


def _vectors(block: Block) -> dict[str, Vector]:
    return {n: (values, block.valid.get(n)) for n, values in block.columns.items()}


def is_enough(rows: Sequence[int]) -> bool:
    """Whether the first blocks, of so many records each, tell how often keys repeat."""
    return len(rows) >= HEAD_BLOCKS or sum(rows) >= HEAD_ROWS


def _taken(vector: Vector, rows: Array) -> Vector:
    values, mask = vector
    own = None if mask is None else mask[rows]
    return taken(values, rows), own if own is not None and not own.all() else None

"""Groups of records, and the folds over each: a stored table of one record for each group.

Where what the first records give is little beside what they hold, blocks are folded by group as
they come; what the blocks of a leaf (a run of partitions) give is merged, and leaves are merged in
the canonical tree. Where keys hardly repeat, or results are large, merging would cost as much as
folding: then keys and arguments are held whole, and each group is folded in table order. Which of
the two is a numeric decision, so the data alone makes it. Of several ranks each folds leaves, or
the groups whose keys' hashes are its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.blocks import Array, Block
from scalops.engine.collective import Program
from scalops.engine.columns import SparseColumn, empty, taken
from scalops.engine.kernels.grouped_folds import GroupedFolds
from scalops.engine.kernels.grouping import Groups, group_rows
from scalops.engine.kernels.kept_folds import together
from scalops.engine.kernels.kernel import Vector
from scalops.engine.passes import SMALL_BYTES, in_partition
from scalops.engine.pipelines.base import (
    Identity,
    Pipeline,
    Runtime,
    Stored,
    derived,
    own_bytes,
)
from scalops.engine.rank_folds import RankPass
from scalops.engine.reduction import RunningTree, combine_tree, leaf_count, leaf_ranges
from scalops.engine.relations.base import Relation, Run
from scalops.engine.relations.dealt import dealt
from scalops.engine.relations.group_exchange import met, numbered
from scalops.engine.relations.held import collected, joined
from scalops.engine.relations.rank_groups import (
    GroupPass,
    Partial,
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
                given = self._held(chain(head, blocks))
            else:
                given = yield from self._collected(run)
            return self._whole(given, run)
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

    def _finished(self, made: Partial) -> Stored:
        return self._table(made.keys, self._folds.finish(made.folds, made.count), made.count)

    def _columns(self, keys: list[Vector], folds: list[Vector]) -> dict[str, Vector]:
        return dict(zip(self._sink.made.names, [*keys, *folds], strict=True))

    def _table(self, keys: list[Vector], folds: list[Vector], count: int) -> Stored:
        vectors = self._columns(keys, folds)
        self.runtime.budget.release(self.owner)
        self.runtime.budget.require(bytes_of(vectors.values()), self.owner)
        return Columns(self._sink.made, count, vectors, self._identities())

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

    def _merge(self, left: Partial, right: Partial) -> Partial:
        """The groups of left's records followed by right's."""
        keys = together([left.keys, right.keys], self._kinds)
        groups, firsts = self.groups_of(keys, left.count + right.count)
        count = len(firsts)
        # Left's groups differ, so that their numbers are those they have.
        folds = self._folds.merge(left.folds, right.folds, groups.ids[left.count :], count)
        if count == left.count:
            return Partial(count, left.keys, folds)
        return Partial(count, [_taken(k, firsts) for k in keys], folds)

    def _leaf(self, blocks: Iterable[Block]) -> Partial:
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
                stack[-1] = self._merge(stack[-1], last)

    def _sealed(self, stack: Stack) -> Partial:
        if not stack:
            return self._blank()
        while len(stack) > 1:
            last = stack.pop()
            stack[-1] = self._merge(stack[-1], last)
        if self._folds.keeps_records:
            self.runtime.budget.require(bytes_of(stack[0].folds), self.owner)
        return stack[0]

    def _merged(self, active: Sequence[int], partial_bytes: int, run: Run) -> Partial:
        """Leaves, on threads where there is room for all of them, and their tree."""
        budget = self.runtime.budget
        size, count = self._size(active), self._leaves(active, partial_bytes)
        ranges = leaf_ranges(len(active), count)
        held = f"groups of stage {self.stage.number}"
        if count == 1 or size < SMALL_BYTES or not budget.reserve(count * partial_bytes, held):
            tree = RunningTree(self._merge)
            for bounds in ranges:
                tree.push(self._leaf(self._blocks(active[slice(*bounds)], 0)))
            return tree.result()
        leaves: list[Partial | None] = [None] * count

        def task(worker: int, index: int) -> None:
            leaves[index] = self._leaf(self._blocks(active[slice(*ranges[index])], worker))

        try:
            run(task, count)
        finally:
            budget.release(held)
        return combine_tree([leaf for leaf in leaves if leaf is not None], self._merge)

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

    def _collected(self, run: Run) -> Program[tuple[int, dict[str, Vector]]]:
        """All columns in one piece, those that lie so below as they are."""
        pipeline = self.pipeline
        names = pipeline.schema.names
        found = {n: v for n in names if (v := pipeline.whole(n)) is not None}
        missing = [n for n in names if n not in found]
        rows = len(next(iter(found.values()))[0]) if found else 0
        if missing or not found:
            rows, computed = yield from collected(self, missing, run)
            self.runtime.budget.require(bytes_of(computed.values()), self.owner)
            found.update(computed)
        return rows, found

    def _held(self, given: Iterable[Block]) -> tuple[int, dict[str, Vector]]:
        """The columns of these blocks in one piece."""
        names, budget = self.pipeline.schema.names, self.runtime.budget
        blocks: list[Block] = []
        size = 0
        for block in given:
            own = own_bytes(block, self.pipeline.resident)
            budget.require(own, self.owner)
            size += own
            blocks.append(block)
        budget.release(self.owner, size)
        vectors = {n: joined(blocks, n, self.pipeline) for n in names}
        if len(blocks) > 1:
            self.runtime.budget.require(bytes_of(vectors.values()), self.owner)
        return sum(b.rows for b in blocks), vectors

    def _whole(self, given: tuple[int, Mapping[str, Vector]], run: Run) -> Stored:
        rows, vectors = given
        keys = [vectors[n] for n in self._sink.keys]
        self.runtime.budget.require(8 * rows, self.owner)
        groups, firsts = self.groups_of(keys, rows)
        folds = self._folds.over(groups, vectors, run)
        return self._table([_taken(k, firsts) for k in keys], folds, groups.count)

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

        made = GroupPass(pipeline, leaves, extend, self._sealed, self._merge)
        wholes = yield from RankPass(made, ranks, encode_groups, decode_groups).folded(run)
        count, vectors = 0, dict[str, Vector]()
        if wholes is not None:
            count = wholes[0].count
            vectors = self._columns(wholes[0].keys, self._folds.finish(wholes[0].folds, count))
        return (yield from self._dealt(count, np.arange(count), vectors))

    def _by_hash(self, run: Run) -> Program[Stored]:
        pipeline, ranks, budget = self.pipeline, self.runtime.ranks, self.runtime.budget
        block, places = yield from met(self, self._sink.keys)
        budget.require(block.bytes + 8 * block.rows, self.owner)
        vectors = {n: (block.columns[n], block.valid.get(n)) for n in pipeline.schema.names}
        keys = [vectors[n] for n in self._sink.keys]
        groups, firsts = self.groups_of(keys, block.rows)
        folds = self._folds.over(groups, vectors, run)
        numbers, count = yield from numbered(pipeline, places.take(firsts), ranks)
        made = self._columns([_taken(k, firsts) for k in keys], folds)
        return (yield from self._dealt(count, numbers, made))

    def _dealt(self, count: int, numbers: Array, own: dict[str, Vector]) -> Program[Stored]:
        """The table, of the groups of these numbers that this rank has."""
        made, identities = self._sink.made, self._identities()
        self.runtime.budget.release(self.owner)
        ranks = self.runtime.ranks
        return (yield from dealt(ranks, made, count, numbers, own, identities, self._hold))

    def _hold(self, size: int) -> None:
        self.runtime.budget.require(size, self.owner)


def is_enough(rows: Sequence[int]) -> bool:
    """Whether the first blocks, of so many records each, tell how often keys repeat."""
    return len(rows) >= HEAD_BLOCKS or sum(rows) >= HEAD_ROWS


def _taken(vector: Vector, rows: Array) -> Vector:
    values, mask = vector
    own = None if mask is None else mask[rows]
    return taken(values, rows), own if own is not None and not own.all() else None


def bytes_of(held: Any) -> int:
    """Bytes of the columns in what is held, however nested."""
    if isinstance(held, (np.ndarray, SparseColumn, pa.Array)):
        return int(held.nbytes)
    if isinstance(held, Iterable) and not isinstance(held, (str, bytes)):
        return sum(map(bytes_of, held))
    return 0

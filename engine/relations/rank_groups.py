"""What several ranks need to fold groups together: the first records, and passes over leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from scalops.algebra.schema import Schema
from scalops.engine.blocks import Array, Block
from scalops.engine.collective import Piece, Program, Ranks, gather_all
from scalops.engine.pipelines.base import Pipeline, Run
from scalops.engine.rank_folds import Leaves
from scalops.engine.reduction import leaf_ranges
from scalops.engine.relations.gathering import runs_by_home, spread
from scalops.engine.relations.group_partials import Parted, Partial, Partials
from scalops.engine.threads import Task
from scalops.engine.value_codec import decode_value, encode_value

First = Callable[[Sequence[int]], list[Block]]  # the first blocks of these partitions
Enough = Callable[[Sequence[int]], bool]  # whether blocks of so many records are enough


Stack = list[Partials]  # a leaf: what its blocks give, as far as they are merged


def first_keys(
    pipeline: Pipeline, keys: Iterable[str], ranks: Ranks, first: First, is_enough: Enough
) -> Program[list[Block]]:
    """The keys' columns of the table's first blocks, at every rank.

    Of several ranks' partitions each gives what it has, until there is enough.
    """
    runs = runs_by_home(pipeline, ranks)
    found = {i: first(own) for i, (rank, own) in enumerate(runs) if rank == ranks.own}
    if len(runs) > 1:
        found = yield from _as_far_as_needed(ranks, found, len(runs), is_enough)
    schema = Schema(tuple((n, pipeline.schema[n]) for n in dict.fromkeys(keys)))
    names = {n: n for n in schema.names}
    own = {i: [b.chosen(names) for b in blocks] for i, blocks in found.items()}
    parts = yield from spread(ranks, own, range(len(runs)), schema)
    return [block for part in parts for block in part]


def _as_far_as_needed(
    ranks: Ranks, found: dict[int, list[Block]], runs: int, is_enough: Enough
) -> Program[dict[int, list[Block]]]:
    """The first blocks of all runs of partitions that together are enough."""
    own = [(i, [b.rows for b in blocks]) for i, blocks in found.items()]
    sizes: dict[int, list[int]] = {}
    for piece in (yield from gather_all(ranks, Piece(own, []))):
        sizes.update(dict(piece.header))
    wanted = [0] * runs
    seen: list[int] = []
    for i in range(runs):
        for rows in sizes[i]:
            if is_enough(seen):
                break
            seen.append(rows)
            wanted[i] += 1
    return {i: blocks[: wanted[i]] for i, blocks in found.items()}


class GroupPass:
    """Leaves of groups, as `rank_folds.RankPass` folds them: a task for each, with one tree."""

    units: tuple[tuple[int, ...], ...] = ()

    def __init__(
        self,
        pipeline: Pipeline,
        leaves: int,
        extend: Callable[[Stack, Sequence[int], int], None],
        seal: Callable[[Stack], Partials],
        merge: Callable[[Partials, Partials], Partials],
    ) -> None:
        """`extend(leaf, partitions, worker)` leads a leaf over partitions."""
        self._pipeline, self._active = pipeline, list(pipeline.active())
        self.tasks, self.leaves = leaves, (leaves,)
        self._ranges = leaf_ranges(len(self._active), leaves)
        self._extend, self._seal, self._merge = extend, seal, merge

    def begin(self, may_wait: bool = True) -> None:
        """Nothing is to be bound."""

    def positions(self, index: int) -> tuple[int, int]:
        """The partitions of a leaf: from which to which of the active ones."""
        return self._ranges[index]

    def home(self, position: int) -> int:
        """The rank that folds a partition."""
        return self._pipeline.home(self._active[position])

    def opened(self) -> Leaves:
        """A leaf before its first partition."""
        return [[[]]]

    def part(self, worker: int, index: int, first: int, last: int, made: Leaves) -> Leaves:
        """Lead a leaf over some of its partitions, from which to which of the active ones."""
        self._extend(made[0][0], self._active[first:last], worker)
        return made

    def sealed(self, made: Leaves) -> Leaves:
        """A leaf behind its last partition."""
        return [[self._seal(made[0][0])]]

    def task(self, worker: int, index: int) -> Leaves:
        """A whole leaf."""
        return self.sealed(self.part(worker, index, *self.positions(index), self.opened()))

    def sweep(self, run: Run, task: Task, count: int) -> None:
        """Run tasks in order."""
        run(task, count)

    def merge(self, reduction: int, a: Partials, b: Partials) -> Partials:
        """Two leaves as one, a's records before b's."""
        return self._merge(a, b)


def encode_groups(value: Any, buffers: list[Array]) -> Any:
    """Partials, or lists of them, as msgpack can hold it."""
    if isinstance(value, list):
        return [encode_groups(item, buffers) for item in value]
    if isinstance(value, Parted):
        parts = [encode_groups(p, buffers) for p in value.parts]
        return {"parts": parts, "span": value.span, "bits": value.bits}
    content = value.count, value.keys, value.folds, value.numbers
    return {"groups": encode_value(content, buffers)}


def decode_groups(item: Any, buffers: Sequence[Array]) -> Any:
    """The inverse of `encode_groups`."""
    if isinstance(item, list):
        return [decode_groups(one, buffers) for one in item]
    if "parts" in item:
        return Parted(decode_groups(item["parts"], buffers), item["span"], item["bits"])
    return Partial(*decode_value(item["groups"], buffers))

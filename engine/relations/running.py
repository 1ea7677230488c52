"""The carries of running aggregates: partitions summarized, and the scan over their summaries.

Each rank summarizes its own partitions; all of them scan all summaries. Without groups these are
small; a summary and a carry of groups are as long as a partition has groups. So both, and the
group of each record, are kept in a room: in memory, or in a mapped file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from scalops.algebra.dtypes import INT64
from scalops.algebra.schema import Schema
from scalops.engine.block_codec import decode_block, encode_block
from scalops.engine.blocks import Array, Block, concatenate
from scalops.engine.collective import Piece, Program, Receive, Send, gather_all
from scalops.engine.kernels.keys import value_codes
from scalops.engine.kernels.running import Summary
from scalops.engine.kernels.running_columns import RunningColumn, names_of
from scalops.engine.passes import in_partition
from scalops.engine.physical_plan import Stage
from scalops.engine.physical_running import SummarizeRuns
from scalops.engine.pipelines.base import Pipeline, Runtime, Stored, own_bytes
from scalops.engine.relations.base import Relation
from scalops.engine.relations.gathering import own_partitions
from scalops.engine.relations.group_partials import MOST_BITS
from scalops.engine.relations.group_parts import (
    by_part,
    coded_bytes,
    give_back,
    hashes_of,
    kept,
)
from scalops.engine.spilled_memory import Room
from scalops.engine.threads import Task
from scalops.engine.value_codec import decode_value, encode_value

Keys = tuple[str, ...]


@dataclass
class _Groups:
    """The groups of one partition: `ids`, uint[rows], of each record; `keys` of each group.

    Of other ranks' partitions there are no ids.
    """

    ids: Array | None
    keys: Block


@dataclass
class _Partition:
    """What the first pass finds: a summary for each column, groups by what they are over."""

    summaries: list[Summary]
    groups: dict[Keys, _Groups]


class Carries(Stored):
    """For each column and partition the carry, [groups of the partition, *shape], and the ids."""

    def __init__(self, partitions: int, columns: int) -> None:
        self._count, self.bytes = partitions, 0
        self._carries: list[dict[int, Array]] = [{} for _ in range(columns)]
        self._ids: list[dict[int, Array]] = [{} for _ in range(columns)]

    def partitions(self) -> int:
        return self._count

    def put(self, column: int, partition: int, carry: Array, ids: Array | None) -> None:
        """Keep what one pass over a partition needs for a column."""
        self._carries[column][partition] = carry
        if ids is not None:
            self._ids[column][partition] = ids

    def carry(self, column: int, partition: int) -> Array:
        """The carry into a partition, to be led on by the caller."""
        return self._carries[column][partition].copy()

    def ids(self, column: int, partition: int) -> Array | None:
        """The group of each of a partition's records; None where there is but one."""
        return self._ids[column].get(partition)


class Summaries(Relation):
    """Makes the carries."""

    def __init__(self, stage: Stage, pipeline: Pipeline, runtime: Runtime) -> None:
        super().__init__(stage, pipeline, runtime)
        sink = stage.sink
        assert isinstance(sink, SummarizeRuns)
        self._room = self.new_room()
        self._columns = [RunningColumn(c) for c in sink.columns]
        self._over = [names_of(c.over) for c in sink.columns]
        self._keys = tuple(dict.fromkeys(over for over in self._over if over))

    def make(self, run: Callable[[Task, int], None]) -> Program[Stored]:
        pipeline = self.pipeline
        self._room = self.new_room()
        own = own_partitions(pipeline, self.runtime.ranks)
        found: dict[int, _Partition] = {}

        def task(worker: int, index: int) -> None:
            partition = own[index]
            with in_partition(partition):
                found[partition] = self._summarized(partition, worker)

        run(task, len(own))
        yield from self._told(found)
        made = Carries(pipeline.partitions(), len(self._columns))
        groups = {over: self._united(over, found) for over in self._keys}
        for i in range(len(self._columns)):
            yield from self._scan(i, made, found, groups.get(self._over[i]))
        give_back([p.summaries for p in found.values()], self._room)
        give_back([list(own.values()) for own in groups.values()], self._room)
        for partition in found.values():
            for own_groups in partition.groups.values():
                self._drop(own_groups.keys)
        return made

    # What the ranks tell each other.

    def _told(self, found: dict[int, _Partition]) -> Program[None]:
        """What other ranks have found goes to `found`, but for the group of each record."""
        ranks = self.runtime.ranks
        if ranks.is_alone:
            return
        buffers: list[Array] = []
        items = [
            [
                partition,
                encode_value(own.summaries, buffers),
                [encode_block(own.groups[over].keys, buffers) for over in self._keys],
            ]
            for partition, own in found.items()
        ]
        pieces = yield from gather_all(ranks, Piece(items, buffers))
        for rank, piece in enumerate(pieces):
            for partition, summaries, keys in piece.header if rank != ranks.own else ():
                blocks = [
                    decode_block(item, piece.buffers, self._schema(over))
                    for over, item in zip(self._keys, keys, strict=True)
                ]
                groups = {
                    over: _Groups(None, self._room.block(block))
                    for over, block in zip(self._keys, blocks, strict=True)
                }
                told = kept(decode_value(summaries, piece.buffers), self._room)
                found[partition] = _Partition(told, groups)

    def _led_through(
        self, column: RunningColumn, partition: int, carry: Array, ids: Array | None
    ) -> Program[Array]:
        """The carry behind a partition, led through its records at the rank that reads them."""
        ranks, home = self.runtime.ranks, self.pipeline.home(partition)
        if home != ranks.own:
            piece = yield Receive(home)
            after: Array = decode_value(piece.header, piece.buffers)
            return after
        after = self._through(column, partition, carry, ids)
        if not ranks.is_alone:
            buffers: list[Array] = []
            told = Piece(encode_value(after, buffers), buffers)
            for rank in range(ranks.size):
                if rank != ranks.own:
                    yield Send(rank, told)
        return after

    # The first pass.

    def _summarized(self, partition: int, worker: int) -> _Partition:
        groups = self._groups(partition, worker) if any(self._over) else {}
        sizes = [groups[over].keys.rows if over else 1 for over in self._over]
        summaries = [c.form.summary(n) for c, n in zip(self._columns, sizes, strict=True)]
        ids = [groups[over].ids if over else None for over in self._over]
        running = list(zip(self._columns, summaries, ids, strict=True))
        blocks = self.pipeline.blocks(partition, worker)
        if any(c.needs_order for c in self._columns):
            with held_in(self.new_room(), blocks, self.pipeline.resident) as held:
                for column, summary, own in running:
                    for _, block, part in column.in_order(held, own):
                        column.extend(summary, block, part)
            return _Partition(kept(summaries, self._room), groups)
        at = 0
        for block in blocks:
            stop = at + block.rows
            for column, summary, own in running:
                column.extend(summary, block, None if own is None else own[at:stop])
            at = stop
        return _Partition(kept(summaries, self._room), groups)

    def _drop(self, block: Block) -> None:
        """Give back what a block that nobody needs any more takes of the room."""
        self._room.drop(*block.columns.values(), *block.valid.values())

    def _groups(self, partition: int, worker: int) -> dict[Keys, _Groups]:
        """The groups of a partition's records, by what they are over; only keys are held."""
        names = {name for over in self._over for name in over}
        keys = (b.only(names) for b in self.pipeline.blocks(partition, worker))
        with held_in(self.new_room(), keys, self.pipeline.resident) as held:
            return {over: self._grouped(held, over) for over in self._keys}

    def _grouped(self, blocks: Sequence[Block], over: Keys) -> _Groups:
        """The groups of records, by first appearance."""
        schema = self._schema(over)
        whole = _joined(blocks, schema)
        codes = _codes(whole, schema)
        new: Array = np.ones(len(codes), bool)
        new[1:] = codes[1:] > np.maximum.accumulate(codes)[:-1]
        keys = whole.take(np.flatnonzero(new))
        ids = codes.astype(np.min_scalar_type(keys.rows))
        own = self._room.column(ids)
        return _Groups(own, self._room.block(keys))

    def _schema(self, over: Keys) -> Schema:
        return Schema(tuple((n, self.pipeline.schema[n]) for n in over))

    # The scan.

    def _united(self, over: Keys, found: dict[int, _Partition]) -> dict[int, Array]:
        """For each partition the numbers of its groups among those of all partitions.

        Where they are many they are numbered part by part, by the hashes of their keys.
        """
        schema, room = self._schema(over), self._room
        keys = {p: found[p].groups[over].keys for p in sorted(found)}
        most = coded_bytes(self.runtime.budget)
        size = sum(k.bytes for k in keys.values())
        bits = 0 if most is None else min(MOST_BITS, (-(-size // most) - 1).bit_length())
        if bits <= 0:
            codes = _codes(_joined(list(keys.values()), schema), schema)
            ends = np.cumsum([0, *(k.rows for k in keys.values())])
            parts = {p: codes[ends[i] : ends[i + 1]] for i, p in enumerate(keys)}
            return {p: kept(part, room) for p, part in parts.items()}
        made = {p: room.empty(k.rows, np.int64) for p, k in keys.items()}
        cut = {p: _cut(k, schema, bits, room) for p, k in keys.items()}
        first = 0
        for part in range(1 << bits):
            rows = {p: order[starts[part] : starts[part + 1]] for p, (order, starts) in cut.items()}
            own = [keys[p].only(schema.names).take(r) for p, r in rows.items()]
            codes = _codes(concatenate(own, schema), schema) + first
            at = 0
            for p, r in rows.items():
                made[p][r] = codes[at : at + len(r)]
                at += len(r)
            first = 1 + int(codes.max(initial=first - 1))
        give_back([order for order, _ in cut.values()], room)
        return made

    def _scan(
        self,
        number: int,
        made: Carries,
        found: dict[int, _Partition],
        groups: dict[int, Array] | None,
    ) -> Program[None]:
        """Lead a column's carry over the partitions, and keep it for those of the rank's own."""
        column, over = self._columns[number], self._over[number]
        if groups is None:
            order = sorted(found, reverse=column.reverse)
            with np.errstate(all="ignore"):
                carries = column.form.carries([found[p].summaries[number] for p in order])
            if carries is not None:
                own = kept(carries, self._room)
                for partition, carry in zip(order, own[:-1], strict=True):
                    made.put(number, partition, carry, None)
                return
        count = 1 + max((int(g.max(initial=0)) for g in (groups or {}).values()), default=0)
        state = self._room.column(column.form.start(count))
        for partition in sorted(found, reverse=column.reverse):
            there = slice(None) if groups is None else groups[partition]
            ids = found[partition].groups[over].ids if over else None
            carry = state[there].copy()
            if self.pipeline.home(partition) == self.runtime.ranks.own:
                carry = self._room.column(carry)
                made.put(number, partition, carry, ids)
            with np.errstate(all="ignore"):
                after, known = column.form.join(carry, found[partition].summaries[number])
            if not known.all():
                after = yield from self._led_through(column, partition, carry.copy(), ids)
            state[there] = after
        give_back(state, self._room)

    def _through(
        self, column: RunningColumn, partition: int, carry: Array, ids: Array | None
    ) -> Array:
        """The carry behind a partition, led through its records."""
        blocks, resident = self.pipeline.blocks(partition, 0), self.pipeline.resident
        with in_partition(partition), held_in(self.new_room(), blocks, resident) as held:
            for _, block, part in column.in_order(held, ids):
                with np.errstate(all="ignore"):
                    column.scan(block, part, carry)
        return carry


@contextmanager
def held_in(room: Room, blocks: Iterable[Block], resident: frozenset[int]) -> Iterator[list[Block]]:
    """A partition's blocks, in a room as long as they are needed; of views of arrays that are
    there anyway, `resident`, nothing is counted."""
    held: list[Block] = []
    try:
        for block in blocks:
            held.append(room.block(Block(block.rows, dict(block.columns), block.valid), resident))
        yield held
    finally:
        room.release(sum(own_bytes(block, resident) for block in held))


def _joined(blocks: Sequence[Block], schema: Schema) -> Block:
    """These columns of all records as one block."""
    return concatenate([b.only(schema.names) for b in blocks], schema)


def _cut(keys: Block, schema: Schema, bits: int, room: Room) -> tuple[Array, list[int]]:
    """A partition's groups by the first bits of their hashes, and where each part's begin."""
    own = [(keys.columns[n], keys.valid.get(n)) for n in schema.names]
    order, starts = by_part(hashes_of(own, keys.rows), 0, bits)
    return room.column(order.astype(np.min_scalar_type(keys.rows))), starts.tolist()


def _codes(block: Block, schema: Schema) -> Array:
    """int64[rows]: equal for records equal in all columns, numbered by first appearance."""
    codes: Array = np.zeros(block.rows, np.int64)
    for name, kind in schema:
        own = value_codes(block.columns[name], block.valid.get(name), kind) + 1
        # Both are below the number of rows, so their product fits.
        codes = value_codes(codes * (own.max(initial=0) + 1) + own, None, INT64)
    return codes

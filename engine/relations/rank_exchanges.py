"""Exchanges between ranks: each reads its own records, and sends them where they belong.

Records travel in runs (`routing.py`), through no rank but their own and their target's. A sort
and the search for equal records first bring them into *buckets*, several for each rank, of which
one at a time is in memory: by where they lie between records of a sample, or by hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np

from scalops.algebra.errors import ExecutionError
from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine.block_codec import blocks_of_piece, piece_of_blocks
from scalops.engine.blocks import Array, Block, concatenate, partition_bounds
from scalops.engine.collective import Piece, Program, Shuffle, gather_all
from scalops.engine.exchanges import (
    PLACE,
    Share,
    by_range,
    by_target,
    compared,
    distinct_block,
    distinct_targets,
    hash_targets,
    near_equal,
    sample_places,
    settled,
    sort_schema,
    sort_targets,
    splitters,
)
from scalops.engine.passes import in_partition
from scalops.engine.pipelines.base import HeldTable, Stored
from scalops.engine.relations.base import Relation
from scalops.engine.relations.base import Run as RunTasks
from scalops.engine.relations.gathering import own_partitions
from scalops.engine.relations.routing import Arrivals, Run, cut_to, routed
from scalops.engine.relations.spilled_exchanges import (
    Sorter,
    firsts_in_units,
    in_units,
    working,
)
from scalops.engine.spill import Kept, SpilledBlocks

BUCKET_BYTES = 16 << 20  # of a bucket, which is in memory two or three times
_MOST_BUCKETS = 1 << 15

Sharing = Callable[[int, int, Block], Iterator[Share]]  # of source, number of its first record


@dataclass
class Held:
    """A rank's own records by source (a partition or a bucket), which may be on disk.

    `rows` are those of every source, at whatever rank it is, and `homes` say at which.
    """

    parts: dict[int, list[Kept]]
    kept: SpilledBlocks
    schema: Schema
    rows: list[int]
    homes: list[int]

    @property
    def starts(self) -> list[int]:
        """The number of each source's first record in the whole table."""
        return [0, *accumulate(self.rows)]

    def drained(self) -> Iterator[tuple[int, int, Block]]:
        """All blocks, (source, number, block); none of them is left."""
        for source in sorted(self.parts):
            for number, block in enumerate(self.kept.drained(self.parts[source])):
                yield source, number, block

    def runs(self, sharing: Sharing) -> Iterator[tuple[int, Run]]:
        """What goes to which rank; none of it is left."""
        starts = self.starts
        for source, number, block in self.drained():
            for to, splits, own in sharing(source, starts[source], block):
                yield to, Run(source, number, splits, own)
            starts[source] += block.rows


def exchanged_by_ranks(relation: Relation, run: RunTasks) -> Program[Stored]:
    """The table of an Exchange, SortRows or DistinctRows stage; every rank has its partitions."""
    return (yield from _Exchange(relation).made(run))


class _Exchange:
    def __init__(self, relation: Relation) -> None:
        self._pipeline, self._sink = relation.pipeline, relation.stage.sink
        self._ranks, self._budget = relation.runtime.ranks, relation.runtime.budget
        self._owner = relation.owner

    def made(self, run: RunTasks) -> Program[Stored]:
        match self._sink:
            case pp.Exchange(required=required):
                held, _ = yield from self._received(run, self._pipeline.schema.names)
                count = required.partitions or len(partition_bounds(0, held.schema))
                if required.layout == "hash":
                    return (yield from self._by_hash(held, required.keys, count))
                return (yield from self._by_range(held, count))
            case pp.SortRows() as sink:
                names = dict.fromkeys((*sink.kept, *sink.keys))
                held, size = yield from self._received(run, tuple(names))
                return (yield from self._sorted(held, size, sink))
            case pp.DistinctRows(columns=columns):
                held, size = yield from self._received(run, self._pipeline.schema.names)
                return (yield from self._distinct(held, size, columns))
        raise TypeError(type(self._sink).__name__)

    # What there is.

    def _received(self, run: RunTasks, names: Sequence[str]) -> Program[tuple[Held, int]]:
        """The rank's own records, in pieces, and the bytes of all ranks'."""
        pipeline, sink = self._pipeline, self._sink
        schema = Schema(tuple((n, k) for n, k in pipeline.schema if n in names))
        kept = self._blocks(schema)
        active = own_partitions(pipeline, self._ranks)
        parts: dict[int, list[Kept]] = {p: [] for p in active}
        counts = {p: [0, 0] for p in active}
        chosen = {n: n for n in schema.names}

        def task(worker: int, index: int) -> None:
            partition = active[index]
            own, count = parts[partition], counts[partition]
            with in_partition(partition):
                for block in pipeline.blocks(partition, worker):
                    if not block.rows:
                        continue
                    block = block.chosen(chosen)
                    if isinstance(sink, pp.DistinctRows):
                        block = distinct_block([block], schema, sink.columns)
                    own.extend(map(kept.add, cut_to(block)))
                    count[0] += block.rows
                    count[1] += block.bytes

        run(task, len(active))
        homes = [pipeline.home(p) for p in range(pipeline.partitions())]
        rows, size = yield from self._counted(counts, homes)
        return Held(parts, kept, schema, rows, homes), size

    def _counted(
        self, own: Mapping[int, Sequence[int]], homes: Sequence[int]
    ) -> Program[tuple[list[int], int]]:
        """Records of each source, and bytes of all; `own` has both of the rank's own sources."""
        told = [[source, *count] for source, count in own.items()]
        pieces = yield from gather_all(self._ranks, Piece(told, []))
        rows, total = [0] * len(homes), 0
        for rank, piece in enumerate(pieces):
            for item in _list(piece.header):
                match item:
                    case [int(source), int(count), int(size)] if (
                        0 <= source < len(homes) and homes[source] == rank and min(count, size) >= 0
                    ):
                        rows[source] = count
                        total += size
                    case _:
                        raise ValueError(f"rank {rank} counts records that it has not: {item!r}")
        return rows, total

    def _blocks(self, schema: Schema) -> SpilledBlocks:
        return SpilledBlocks(self._budget, self._owner, schema)

    # Where it goes.

    def _routed(
        self, runs: Iterable[tuple[int, Run]], schema: Schema, homes: list[int], sent: Held
    ) -> Program[tuple[Arrivals, list[int]]]:
        """What arrives for the rank's own of the targets, and the records of each target.

        `homes` are those of the targets. Raises: ExecutionError where of what there was to be
        sent not all has arrived.
        """
        own = [t for t, home in enumerate(homes) if home == self._ranks.own]
        arrivals = Arrivals(self._blocks(schema), schema, own, sent.homes)
        yield from routed(self._ranks, runs, arrivals)
        rows, _ = yield from self._counted({t: [arrivals.rows(t), 0] for t in own}, homes)
        if sum(rows) != sum(sent.rows):
            raise ExecutionError(
                f"{self._owner}: of {sum(sent.rows)} records that were sent {sum(rows)} arrived",
                hint="run it again",
            )
        return arrivals, rows

    def _homes(self, count: int) -> list[int]:
        return [self._ranks.home(t, count) for t in range(count)]

    def _stored(self, arrivals: Arrivals, schema: Schema, count: int) -> Stored:
        """The table, of what has arrived for its partitions."""
        kept = self._blocks(schema)
        parts: list[list[Kept]] = [[] for _ in range(count)]
        for target in arrivals.targets:
            parts[target].extend(map(kept.add, settled(arrivals.blocks(target), schema)))
        return kept.table(parts, self._pipeline.source_bytes)

    def _by_range(self, held: Held, count: int) -> Program[Stored]:
        ends = [stop for _, stop in near_equal(sum(held.rows), count)]
        homes = self._homes(count)

        def sharing(source: int, first: int, block: Block) -> Iterator[Share]:
            return by_range(block, first, ends, homes)

        arrivals, _ = yield from self._routed(held.runs(sharing), held.schema, homes, held)
        return self._stored(arrivals, held.schema, count)

    def _by_hash(self, held: Held, keys: Sequence[str], count: int) -> Program[Stored]:
        homes = self._homes(count)

        def sharing(source: int, first: int, block: Block) -> Iterator[Share]:
            return by_target(block, hash_targets(block, keys, count), homes)

        arrivals, _ = yield from self._routed(held.runs(sharing), held.schema, homes, held)
        return self._stored(arrivals, held.schema, count)

    # Order.

    def _buckets(self, size: int) -> list[int]:
        """The homes of as many buckets as so many bytes need."""
        ranks = self._ranks.size
        each = max(1, min(-(-size // (ranks * BUCKET_BYTES)), _MOST_BUCKETS // ranks))
        return [rank for rank in range(ranks) for _ in range(each)]

    def _sorted(self, held: Held, size: int, sink: pp.SortRows) -> Program[Stored]:
        """Buckets between splitters, each sorted; then the ranges of what that gives."""
        kept_schema = Schema(tuple((n, held.schema[n]) for n in sink.kept))
        count, homes = self._pipeline.partitions(), self._buckets(size)
        if not sum(held.rows):
            return HeldTable([[] for _ in range(count)], self._pipeline.source_bytes)
        keys = sort_schema(sink, held.schema)
        samples = yield from self._sampled(held, keys, len(homes))
        bounds = splitters(samples, sink, len(homes))

        def sharing(source: int, first: int, block: Block) -> Iterator[Share]:
            return by_target(block, sort_targets(block, first, bounds, sink, keys), homes)

        arrivals, rows = yield from self._routed(held.runs(sharing), held.schema, homes, held)
        kept = self._blocks(kept_schema)
        parts: dict[int, list[Kept]] = {}
        for bucket in arrivals.targets:
            own, blocks = arrivals.kept(bucket)
            if own:
                with working(self._budget, self._owner, [own], blocks) as work:
                    sorter = Sorter(self._budget, self._owner, work, sink, held.schema)
                    parts[bucket] = list(map(kept.add, sorter.in_order(own, blocks)))
        in_order = Held(parts, kept, kept_schema, rows, homes)
        return (yield from self._by_range(in_order, count))

    def _sampled(self, held: Held, schema: Schema, buckets: int) -> Program[Block]:
        """Keys of records at places that follow from how many there are, of all ranks."""
        places = sample_places(sum(held.rows), buckets)
        own: list[Block] = []
        starts = held.starts
        for source, parts in sorted(held.parts.items()):
            at = starts[source]
            for kept in parts:
                first, last = np.searchsorted(places, [at, at + kept.rows])
                if first < last:
                    wanted = places[first:last]
                    found = held.kept.get(kept).take(wanted - at)
                    found.columns[PLACE] = wanted
                    own.append(found.chosen({n: n for n in schema.names}))
                at += kept.rows
        pieces = yield from gather_all(self._ranks, piece_of_blocks(own))
        blocks = [b for piece in pieces for b in blocks_of_piece(piece, schema)]
        return concatenate(blocks, schema)

    # Equal records.

    def _distinct(self, held: Held, size: int, columns: Sequence[str]) -> Program[Stored]:
        """Keys by hash to buckets; which are the first comes back, and these records stay."""
        kinds = Schema(compared(held.schema, columns))
        homes = self._buckets(size)
        targets: dict[tuple[int, int], Array] = {}

        def runs() -> Iterator[tuple[int, Run]]:
            for source, parts in sorted(held.parts.items()):
                for number, kept in enumerate(parts):
                    keys = held.kept.get(kept).chosen({n: n for n in kinds.names})
                    found = distinct_targets(keys, len(homes))
                    targets[source, number] = found.astype(np.uint16)
                    for to, splits, own in by_target(keys, found, homes):
                        yield to, Run(source, number, splits, own)

        arrivals, _ = yield from self._routed(runs(), kinds, homes, held)
        flags = {key: np.zeros(len(own), bool) for key, own in targets.items()}
        answers = _Answers(targets, flags, homes)
        yield Shuffle(self._firsts(arrivals, kinds, held.homes), answers.take)
        answers.complete(self._owner)
        return (yield from self._kept(held, flags))

    def _firsts(
        self, arrivals: Arrivals, kinds: Schema, homes: Sequence[int]
    ) -> Iterator[tuple[int, Piece]]:
        """For each home of records in a bucket, which are first: [bucket, runs], bits."""
        for bucket in arrivals.targets:
            runs, found = arrivals.runs(bucket), list[Array]()
            if not runs:
                continue
            own, blocks = arrivals.kept(bucket)
            with working(self._budget, self._owner, [own], blocks) as work:
                units = in_units(blocks.drained(own), kinds, work.bucket)
                found = [new for _, new in firsts_in_units(units, kinds, kinds)]
            first = np.concatenate(found)
            ends = np.cumsum([rows for _, _, rows in runs])
            told: dict[int, tuple[list[list[int]], list[Array]]] = {}
            for (source, number, rows), end in zip(runs, ends.tolist(), strict=True):
                known = told.setdefault(homes[source], ([], []))
                known[0].append([source, number, rows])
                known[1].append(first[end - rows : end])
            for home, (items, bits) in told.items():
                yield home, Piece([bucket, items], [np.packbits(np.concatenate(bits))])

    def _kept(self, held: Held, flags: Mapping[tuple[int, int], Array]) -> Program[Stored]:
        """The records with a flag, in the partition in which they are, at its home."""
        count = len(held.homes)
        homes = self._homes(count)
        left: dict[int, list[int]] = {source: [0, 0] for source in held.parts}
        for (source, _), kept in flags.items():
            left[source][0] += int(np.count_nonzero(kept))
        rows, _ = yield from self._counted(left, held.homes)

        def runs() -> Iterator[tuple[int, Run]]:
            for source, number, block in held.drained():
                block = block.keep(flags[source, number])
                if block.rows:
                    yield homes[source], Run(source, number, [(source, block.rows)], block)

        firsts = replace(held, rows=rows)
        arrivals, _ = yield from self._routed(runs(), held.schema, homes, firsts)
        return self._stored(arrivals, held.schema, count)


class _Answers:
    """Which of a rank's records are the first of equal ones, bucket by bucket."""

    def __init__(
        self,
        targets: Mapping[tuple[int, int], Array],
        flags: Mapping[tuple[int, int], Array],
        homes: Sequence[int],
    ) -> None:
        self._targets, self._flags, self._homes = targets, flags, homes
        self._known: set[tuple[int, int, int]] = set()
        self._left = sum(len(own) for own in targets.values())

    def take(self, rank: int, piece: Piece) -> None:
        """Take a bucket's answer. Raises: ValueError where nobody asked for it."""
        match piece:
            case Piece([int(bucket), list(items)], [bits]) if (
                0 <= bucket < len(self._homes) and self._homes[bucket] == rank
            ):
                runs = [_run_of(item) for item in items]
            case _:
                raise ValueError(f"an answer of rank {rank} that makes no sense")
        total, at = sum(rows for _, _, rows in runs), 0
        if bits.nbytes != -(-total // 8):
            raise ValueError(f"an answer of {bits.nbytes} bytes on {total} records")
        first = np.unpackbits(bits, count=total).astype(bool)
        for source, number, rows in runs:
            self._answered(bucket, source, number, first[at : at + rows])
            at += rows

    def _answered(self, bucket: int, source: int, number: int, first: Array) -> None:
        asked = self._targets.get((source, number))
        own = np.empty(0, np.int64) if asked is None else np.flatnonzero(asked == bucket)
        if len(own) != len(first) or (bucket, source, number) in self._known:
            raise ValueError(f"an answer on {len(first)} records of {source} that nobody asked for")
        self._known.add((bucket, source, number))
        self._flags[source, number][own] = first
        self._left -= len(own)

    def complete(self, owner: str) -> None:
        """Refuse to go on where some records have no answer."""
        if self._left:
            raise ExecutionError(
                f"{owner}: nobody says of {self._left} records whether they are the first",
                hint="run it again",
            )


def _list(header: object) -> list[Any]:
    if not isinstance(header, list):
        raise ValueError(f"{header!r} where numbers were expected")
    return header


def _run_of(item: object) -> tuple[int, int, int]:
    match item:
        case [int(source), int(number), int(rows)] if rows > 0:
            return source, number, rows
    raise ValueError("an answer on records of which is not known")

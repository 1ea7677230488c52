"""What records meet on a held side that is partitioned: asked of its owners before they are read.

A stage that probes such a table reads its partitions twice: once for the keys, which go to the
ranks that own them, and, when the answers have come, as any stage does. An answer says of each
record where it meets how many records, in a table of those that any record of its block meets,
each once; so it is short even where many records meet the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from scalops.algebra.dtypes import INT64
from scalops.algebra.errors import ExecutionError
from scalops.algebra.schema import Schema
from scalops.engine import physical_relations as pr
from scalops.engine.block_codec import blocks_of_piece, decode_block, encode_block, piece_of_blocks
from scalops.engine.blocks import Array, Block, block_rows, concatenate
from scalops.engine.collective import Piece, Program, Shuffle
from scalops.engine.columns import empty
from scalops.engine.kernels.keys import Key
from scalops.engine.kernels.matching import Matches, Pairs
from scalops.engine.passes import in_partition
from scalops.engine.pipelines.base import Pipeline, Run, Runtime
from scalops.engine.relations.indexed_table import TakenColumns
from scalops.engine.relations.partitioned_index import PartitionedIndex
from scalops.engine.relations.shared_lookup import decode_matches, encode_matches
from scalops.engine.spill import Kept, SpilledBlocks

Place = tuple[int, int]  # of a block: its partition, its number there

_OWNERS = Schema((("owner", INT64),))
_MATCHES = Schema((("first", INT64), ("count", INT64)))
LOOKED_UP = 16  # requests that are answered on threads at a time


class _Request(NamedTuple):
    """The keys of some of a block's records."""

    owner: int  # who is asked, or the part that is
    asking: int  # the rank
    place: Place
    keys: Kept


@dataclass
class _Part:
    """What one owner answers for a block; its columns come in `more` pieces behind."""

    matches: Kept
    more: int
    blocks: list[Kept] = field(default_factory=list)


class Answers:
    """Of one probing table: the answers for the blocks that its stage is about to read.

    All of it that grows with the table is kept block by block, on disk where there is no room.
    """

    def __init__(self, node: pr.Probe, source: Pipeline, runtime: Runtime) -> None:
        self._node, self._source, self._runtime = node, source, runtime
        self._owner = f"matches in table {node.number}"
        self._keys = Schema(tuple((f"{i}", source.schema[k]) for i, k in enumerate(node.keys)))
        self._schema = Schema(())
        self._known: set[int] = set()  # the partitions that were asked about
        self._owners: dict[Place, Kept] = {}
        self._parts: dict[Place, dict[int, _Part]] = {}
        self._unique = True
        self._tables: SpilledBlocks | None = None

    def ask(
        self, held: PartitionedIndex, names: Sequence[str], partitions: Sequence[int], run: Run
    ) -> Program[None]:
        """Get what the records of these partitions meet, with the columns `names` of it.

        Where several stages of one pass make parts of a cached table again, it is got once.
        """
        if self._tables is None:
            self._schema, self._unique = Schema(tuple((n, held.schema[n]) for n in names)), True
            self._tables = self._spilled(self._schema)
            self._numbers, self._matches = self._spilled(_OWNERS), self._spilled(_MATCHES)
            self._runtime.prepared.append(self._clear)
        self._unique = held.unique
        asking, arriving = self._spilled(self._keys), self._spilled(self._keys)
        new = [p for p in partitions if p not in self._known]
        self._known.update(new)
        requests = self._requests(held, new, asking, run)
        asked: list[_Request] = []

        def take(source: int, piece: Piece) -> None:
            (keys,) = blocks_of_piece(Piece(piece.header[3], piece.buffers), self._keys)
            partition, number, part = piece.header[:3]
            asked.append(_Request(part, source, (partition, number), arriving.add(keys)))

        yield Shuffle(self._sent(requests, asking, held.parts), take)
        # Part by part: what is looked up in one lies together.
        asked.sort(key=lambda request: request.owner)
        yield Shuffle(self._replies(held, asked, arriving, run), self._take(held))

    def of(self, place: Place, rows: int) -> tuple[Matches, TakenColumns]:
        """What the records of a block meet, and the table that they meet it in.

        Raises: ExecutionError where the block had other records when it was asked about.
        """
        known = self._owners.get(place)
        if known is None or known.rows != rows:
            raise ExecutionError(
                f"block {place[1]} of a join's probing side has {rows} records; when it was read"
                f" before it had {known.rows if known is not None else 'none'}",
                hint="a function below the join gives other results in each call: give it a fixed"
                " seed, or cache() the table that it makes",
                location=self._node.location,
            )
        own = self._numbers.get(known).columns["owner"]
        matches, block = self._answer(own, self._parts.get(place, {}))
        vectors = {n: (block.columns[n], block.valid.get(n)) for n in self._schema.names}
        return matches, TakenColumns(self._schema, block.rows, vectors)

    def _spilled(self, schema: Schema) -> SpilledBlocks:
        return SpilledBlocks(self._runtime.budget, self._owner, schema)

    def _clear(self) -> None:
        for held in (self._owners, self._parts):
            held.clear()
        self._known.clear()
        self._tables = None
        del self._numbers, self._matches
        self._runtime.budget.release(self._owner)

    # Who asks.

    def _requests(
        self,
        held: PartitionedIndex,
        partitions: Sequence[int],
        asking: SpilledBlocks,
        run: Run,
    ) -> list[list[_Request]]:
        """The keys of each partition, block by block, for each owner of some."""
        made: list[list[_Request]] = [[] for _ in partitions]

        def task(worker: int, index: int) -> None:
            partition = partitions[index]
            with in_partition(partition):
                for number, block in enumerate(self._source.blocks(partition, worker)):
                    self._runtime.check_cancelled()
                    if block.rows:
                        made[index] += self._of_block(held, (partition, number), block, asking)

        run(task, len(partitions))
        return made

    def _of_block(
        self, held: PartitionedIndex, place: Place, block: Block, asking: SpilledBlocks
    ) -> Iterator[_Request]:
        keys = block.chosen({f"{i}": name for i, name in enumerate(self._node.keys)})
        own = held.owners(_vectors(keys), block.rows)
        numbers = Block(block.rows, {"owner": own.astype(np.int64)})
        self._owners[place] = self._numbers.add(numbers)
        for owner in np.unique(own).tolist():
            if owner >= 0:
                rows = np.flatnonzero(own == owner)
                some = keys if len(rows) == block.rows else keys.take(rows)
                yield _Request(owner, self._runtime.ranks.own, place, asking.add(some))

    def _sent(
        self, requests: list[list[_Request]], asking: SpilledBlocks, parts: int
    ) -> Iterator[tuple[int, Piece]]:
        """Requests on their way, and out of memory."""
        for part in requests:
            while part:
                owner, _, (partition, number), keys = part.pop()
                (block,) = asking.drained([keys])
                piece = piece_of_blocks([block])
                told = [partition, number, owner % parts, piece.header]
                yield owner // parts, Piece(told, piece.buffers)

    # Who owns the keys.

    def _replies(
        self, held: PartitionedIndex, asked: list[_Request], arriving: SpilledBlocks, run: Run
    ) -> Iterator[tuple[int, Piece]]:
        """What is found, as it is taken."""
        while asked:
            some = asked[:LOOKED_UP]
            del asked[:LOOKED_UP]
            found: list[Matches | None] = [None] * len(some)

            def task(worker: int, index: int) -> None:
                part, _, _, kept = some[index]  # noqa: B023
                (keys,) = arriving.drained([kept])
                index_of = held.records[part].index
                found[index] = index_of.lookup(_vectors(keys), keys.rows)  # noqa: B023

            run(task, len(some))
            for request, matches in zip(some, found, strict=True):
                self._runtime.check_cancelled()
                assert matches is not None
                for piece in self._reply(held, request.owner, request.place, matches):
                    yield request.asking, piece

    def _reply(
        self, held: PartitionedIndex, part: int, place: Place, matches: Matches
    ) -> Iterator[Piece]:
        """Where and how many; then the columns of what is met, in as many pieces as it takes."""
        wanted = bool(self._schema.names)
        shortened, positions = _shortened(matches, held.unique, wanted)
        step = block_rows(self._schema)
        starts = range(0, len(positions), step) if wanted else range(0)
        buffers: list[Array] = []
        told = encode_matches(shortened, buffers)
        yield Piece([*place, part, len(starts), told], buffers)
        for start in starts:
            own = positions[start : start + step]
            block = Block(len(own), {})
            for name in self._schema.names:
                block.columns[name], mask = held.records[part].at(name, own)
                if mask is not None:
                    block.valid[name] = mask
            buffers = []
            yield Piece([*place, part, None, encode_block(block, buffers)], buffers)

    # Who has asked.

    def _take(self, held: PartitionedIndex) -> Callable[[int, Piece], None]:
        def take(source: int, piece: Piece) -> None:
            partition, number, part, more, told = piece.header
            parts = self._parts.setdefault((partition, number), {})
            owner = source * held.parts + part
            if more is None:
                assert self._tables is not None
                block = decode_block(told, piece.buffers, self._schema)
                parts[owner].blocks.append(self._tables.add(block))
                return
            found = decode_matches(told, piece.buffers)
            counts = found.found if found.counts is None else found.counts
            columns = {"first": found.first.astype(np.int64), "count": counts.astype(np.int64)}
            parts[owner] = _Part(self._matches.add(Block(len(found.first), columns)), more)

        return take

    def _answer(self, own: Array, parts: dict[int, _Part]) -> tuple[Matches, Block]:
        """The answers of all owners as one; their tables one behind the other."""
        first: Array = np.full(len(own), -1, np.int64)
        counts: Array = np.zeros(len(own), np.int64)
        blocks: list[Block] = []
        behind = 0
        assert self._tables is not None
        for owner in sorted(parts):
            part = parts[owner]
            rows = np.flatnonzero(own == owner)
            found = self._matches.get(part.matches)
            places = found.columns["first"]
            first[rows] = np.where(places < 0, -1, places + behind)
            counts[rows] = found.columns["count"]
            assert len(part.blocks) == part.more
            blocks += map(self._tables.get, part.blocks)
            behind = sum(b.rows for b in blocks)
        blank = Block(0, {n: empty(kind) for n, kind in self._schema})
        table = concatenate(blocks, self._schema) if blocks else blank
        return Matches(first, None if self._unique else counts), table


def _vectors(keys: Block) -> list[Key]:
    return [(values, keys.valid.get(name)) for name, values in keys.columns.items()]


def _shortened(matches: Matches, unique: bool, wanted: bool) -> tuple[Matches, Array]:
    """The matches, but over the records that are met, each once; and where these are.

    Without counts only where the whole table's keys are `unique`. Where the records are is found
    out only if that is `wanted`.
    """
    rows = np.flatnonzero(matches.found)
    starts, at, place = np.unique(matches.first[rows], return_index=True, return_inverse=True)
    positions, numbers = starts, np.ones(len(starts), np.int64)
    if matches.counts is not None:
        numbers = matches.counts[rows[at]].astype(np.int64)
        if wanted and len(starts):
            pairs = Pairs(Matches(starts, numbers, matches.order), outer=False)
            _, positions = pairs.piece(0, pairs.total)
    ends = np.cumsum(numbers)
    behind = int(ends[-1]) if len(ends) else 0
    narrow = np.int32 if behind < 1 << 31 else np.int64
    first: Array = np.full(len(matches.first), -1, narrow)
    first[rows] = (ends - numbers)[place]
    if unique:
        return Matches(first), positions
    counts: Array = np.zeros(len(first), narrow)
    counts[rows] = numbers[place]
    return Matches(first, counts), positions

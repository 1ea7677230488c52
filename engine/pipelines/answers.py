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


class _Request(NamedTuple):
    """The keys of some of a block's records."""

    rank: int  # who asks, or who is asked
    place: Place
    keys: Block


@dataclass
class _Part:
    """What one owner answers for a block; its columns come in `more` pieces behind."""

    matches: Matches
    more: int
    blocks: list[Block] = field(default_factory=list)


class _Answer(NamedTuple):
    """What a block's records meet: as of `Matches`, in a table that is kept."""

    first: Array
    counts: Array | None
    table: Kept


class Answers:
    """Of one probing table: the answers for the blocks that its stage is about to read."""

    def __init__(self, node: pr.Probe, source: Pipeline, runtime: Runtime) -> None:
        self._node, self._source, self._runtime = node, source, runtime
        self._owner = f"matches in table {node.number}"
        self._keys = Schema(tuple((f"{i}", source.schema[k]) for i, k in enumerate(node.keys)))
        self._schema = Schema(())
        self._known: set[int] = set()  # the partitions that were asked about
        self._owners: dict[Place, Array] = {}
        self._parts: dict[Place, dict[int, _Part]] = {}
        self._found: dict[Place, _Answer] = {}
        self._tables: SpilledBlocks | None = None

    def ask(
        self, held: PartitionedIndex, names: Sequence[str], partitions: Sequence[int], run: Run
    ) -> Program[None]:
        """Get what the records of these partitions meet, with the columns `names` of it.

        Where several stages of one pass make parts of a cached table again, it is got once.
        """
        if self._tables is None:
            self._schema = Schema(tuple((n, held.schema[n]) for n in names))
            self._tables = SpilledBlocks(self._runtime.budget, self._owner, self._schema)
            self._runtime.prepared.append(self._clear)
        new = [p for p in partitions if p not in self._known]
        self._known.update(new)
        requests = self._requests(held, new, run)
        asked: list[_Request] = []

        def take(source: int, piece: Piece) -> None:
            (keys,) = blocks_of_piece(Piece(piece.header[2], piece.buffers), self._keys)
            self._runtime.budget.require(keys.bytes, self._owner)
            asked.append(_Request(source, (piece.header[0], piece.header[1]), keys))

        yield Shuffle(self._sent(requests), take)
        yield Shuffle(self._replies(held, asked, run), self._take(held))

    def of(self, place: Place, rows: int) -> tuple[Matches, TakenColumns]:
        """What the records of a block meet, and the table that they meet it in.

        Raises: ExecutionError where the block had other records when it was asked about.
        """
        answer = self._found.get(place)
        known = None if answer is None else len(answer.first)
        if answer is None or known != rows:
            raise ExecutionError(
                f"block {place[1]} of a join's probing side has {rows} records; when it was read"
                f" before it had {known or 'none'}",
                hint="a function below the join gives other results in each call: give it a fixed"
                " seed, or cache() the table that it makes",
                location=self._node.location,
            )
        assert self._tables is not None
        block = self._tables.get(answer.table)
        vectors = {n: (block.columns[n], block.valid.get(n)) for n in self._schema.names}
        return Matches(answer.first, answer.counts), TakenColumns(self._schema, block.rows, vectors)

    def _clear(self) -> None:
        for held in (self._owners, self._parts, self._found):
            held.clear()
        self._known.clear()
        self._tables = None
        self._runtime.budget.release(self._owner)

    # Who asks.

    def _requests(
        self, held: PartitionedIndex, partitions: Sequence[int], run: Run
    ) -> list[list[_Request]]:
        """The keys of each partition, block by block, for each owner of some."""
        made: list[list[_Request]] = [[] for _ in partitions]

        def task(worker: int, index: int) -> None:
            partition = partitions[index]
            with in_partition(partition):
                for number, block in enumerate(self._source.blocks(partition, worker)):
                    self._runtime.check_cancelled()
                    if block.rows:
                        made[index] += self._of_block(held, (partition, number), block)

        run(task, len(partitions))
        return made

    def _of_block(self, held: PartitionedIndex, place: Place, block: Block) -> Iterator[_Request]:
        keys = block.chosen({f"{i}": name for i, name in enumerate(self._node.keys)})
        own = held.owners(_vectors(keys), block.rows)
        self._owners[place] = own
        self._runtime.budget.require(own.nbytes, self._owner)
        asked = [int(to) for to in np.unique(own) if to >= 0]
        if not asked:
            self._found[place] = self._answer(held, own, {})
        for to in asked:
            rows = np.flatnonzero(own == to)
            request = _Request(to, place, keys if len(rows) == block.rows else keys.take(rows))
            self._runtime.budget.require(request.keys.bytes, self._owner)
            yield request

    def _sent(self, requests: list[list[_Request]]) -> Iterator[tuple[int, Piece]]:
        """Requests on their way, and out of memory."""
        for part in requests:
            while part:
                to, (partition, number), keys = part.pop()
                piece = piece_of_blocks([keys])
                self._runtime.budget.release(self._owner, keys.bytes)
                yield to, Piece([partition, number, piece.header], piece.buffers)

    # Who owns the keys.

    def _replies(
        self, held: PartitionedIndex, asked: list[_Request], run: Run
    ) -> Iterator[tuple[int, Piece]]:
        """What is found, as it is taken."""
        found: list[Matches | None] = [None] * len(asked)

        def task(worker: int, index: int) -> None:
            keys = asked[index].keys
            found[index] = held.records.index.lookup(_vectors(keys), keys.rows)

        run(task, len(asked))
        for index, (rank, place, keys) in enumerate(asked):
            self._runtime.check_cancelled()
            matches, found[index] = found[index], None
            assert matches is not None
            for piece in self._reply(held, place, matches):
                yield rank, piece
            self._runtime.budget.release(self._owner, keys.bytes)
        asked.clear()

    def _reply(self, held: PartitionedIndex, place: Place, matches: Matches) -> Iterator[Piece]:
        """Where and how many; then the columns of what is met, in as many pieces as it takes."""
        wanted = bool(self._schema.names)
        shortened, positions = _shortened(matches, held.unique, wanted)
        step = block_rows(self._schema)
        starts = range(0, len(positions), step) if wanted else range(0)
        buffers: list[Array] = []
        yield Piece([*place, len(starts), encode_matches(shortened, buffers)], buffers)
        for start in starts:
            own = positions[start : start + step]
            block = Block(len(own), {})
            for name in self._schema.names:
                block.columns[name], mask = held.records.at(name, own)
                if mask is not None:
                    block.valid[name] = mask
            buffers = []
            yield Piece([*place, None, encode_block(block, buffers)], buffers)

    # Who has asked.

    def _take(self, held: PartitionedIndex) -> Callable[[int, Piece], None]:
        def take(source: int, piece: Piece) -> None:
            partition, number, more, told = piece.header
            place = partition, number
            parts = self._parts.setdefault(place, {})
            if more is None:
                parts[source].blocks.append(decode_block(told, piece.buffers, self._schema))
            else:
                parts[source] = _Part(decode_matches(told, piece.buffers), more)
            whole = all(len(p.blocks) == p.more for p in parts.values())
            own = self._owners[place]
            if whole and len(parts) == len(np.unique(own[own >= 0])):
                self._found[place] = self._answer(held, own, self._parts.pop(place))

        return take

    def _answer(self, held: PartitionedIndex, own: Array, parts: dict[int, _Part]) -> _Answer:
        """The answers of all owners as one; their tables one behind the other."""
        first: Array = np.full(len(own), -1, np.int64)
        counts: Array | None = None if held.unique else np.zeros(len(own), np.int64)
        blocks: list[Block] = []
        behind = 0
        for rank in sorted(parts):
            part = parts[rank]
            rows = np.flatnonzero(own == rank)
            places = part.matches.first.astype(np.int64)
            first[rows] = np.where(places < 0, -1, places + behind)
            if counts is not None:
                counts[rows] = part.matches.counts
            blocks += part.blocks
            behind += sum(b.rows for b in part.blocks)
        blank = Block(0, {n: empty(kind) for n, kind in self._schema})
        assert self._tables is not None
        table = self._tables.add(concatenate(blocks, self._schema) if blocks else blank)
        size = first.nbytes + (0 if counts is None else counts.nbytes)
        self._runtime.budget.require(size, self._owner)
        return _Answer(first, counts, table)


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

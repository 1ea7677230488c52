"""Records on their way to other partitions: cut to pieces, streamed, put in order where they go.

What comes of a partition arrives in its order, but that of different partitions as it may. So
each run of records says where it comes from, and is put in order when all have arrived.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from scalops.algebra.schema import Schema
from scalops.engine.block_codec import decode_block, encode_block
from scalops.engine.blocks import Array, Block
from scalops.engine.collective import Piece, Program, Ranks, Shuffle
from scalops.engine.spill import Kept, SpilledBlocks

PIECE_BYTES = 1 << 20
# What waits to be sent, for all ranks together: with many of them, pieces are smaller.
WAITING_BYTES, LEAST_BYTES = 32 << 20, 64 << 10
_RUN_BYTES = 64  # what a run counts besides its records


class Run(NamedTuple):
    """Records of the source `source`, the `number`-th of those that its home makes of it.

    `splits` says for whom they are, in order: (target, records).
    """

    source: int
    number: int
    splits: Sequence[tuple[int, int]]
    block: Block


class Arrivals:
    """What a rank receives, by target, and for each in the order of where it comes from."""

    def __init__(
        self, kept: SpilledBlocks, schema: Schema, targets: Sequence[int], homes: Sequence[int]
    ) -> None:
        """`targets` are the rank's own; `homes` says which rank sends what of each source."""
        self.targets = targets
        self._kept, self._schema, self._homes = kept, schema, homes
        self._runs: dict[int, dict[tuple[int, int], Kept]] = {t: {} for t in targets}

    def take(self, rank: int, piece: Piece) -> None:
        """Take a piece of another rank. Raises: ValueError where it makes no sense."""
        if not isinstance(piece.header, list):
            raise ValueError("no runs of records")
        for item in piece.header:
            run = _decoded(item, piece.buffers, self._schema)
            if not 0 <= run.source < len(self._homes) or self._homes[run.source] != rank:
                raise ValueError(f"records of {run.source} from rank {rank}, which has none of it")
            self.add(run)

    def add(self, run: Run) -> None:
        """Keep a run. Raises: ValueError where it has been received, or is for another rank."""
        at, key = 0, (run.source, run.number)
        parts = []
        for target, rows in run.splits:
            own = self._runs.get(target)
            if own is None or key in own:
                raise ValueError(f"records of {run.source} for {target} came twice, or astray")
            parts.append(run.block.slice(at, at + rows))
            at += rows
        for (target, _), kept in zip(run.splits, self._kept.add_parts(parts), strict=True):
            self._runs[target][key] = kept

    def rows(self, target: int) -> int:
        """How many records a target has."""
        return sum(kept.rows for kept in self._runs[target].values())

    def runs(self, target: int) -> list[tuple[int, int, int]]:
        """(source, number, records) of a target's runs, in order."""
        return [(*key, kept.rows) for key, kept in sorted(self._runs[target].items(), key=_first)]

    def kept(self, target: int) -> tuple[list[Kept], SpilledBlocks]:
        """A target's records in order, and where they are kept; nothing of it is left behind."""
        runs = sorted(self._runs.pop(target).items(), key=_first)
        return [kept for _, kept in runs], self._kept

    def blocks(self, target: int) -> Iterator[Block]:
        """A target's records in order; nothing of it is left behind."""
        own, blocks = self.kept(target)
        return blocks.drained(own)


def _first(item: tuple[tuple[int, int], Kept]) -> tuple[int, int]:
    return item[0]


def _decoded(item: Any, buffers: Sequence[Array], schema: Schema) -> Run:
    match item:
        case [int(source), int(number), list(splits), block]:
            found = decode_block(block, buffers, schema)
        case _:
            raise ValueError("a run of records that makes no sense")
    if found.columns.keys() != schema.types.keys():
        raise ValueError(f"records of {', '.join(found.columns) or 'nothing'}, not of {schema}")
    pairs = []
    for split in splits:
        match split:
            case [int(target), int(rows)] if rows > 0:
                pairs.append((target, rows))
            case _:
                raise ValueError("a run of records for whom is not known")
    if sum(rows for _, rows in pairs) != found.rows:
        raise ValueError(f"{found.rows} records, of which some are for nobody")
    return Run(source, number, pairs, found)


def routed(ranks: Ranks, runs: Iterable[tuple[int, Run]], arrivals: Arrivals) -> Program[None]:
    """Send runs to ranks, as they are asked for, and take what the others send here.

    What stays at the rank is not encoded.
    """
    yield Shuffle(_pieces(ranks, runs, arrivals), arrivals.take)


def _pieces(
    ranks: Ranks, runs: Iterable[tuple[int, Run]], arrivals: Arrivals
) -> Iterator[tuple[int, Piece]]:
    most = max(LEAST_BYTES, min(PIECE_BYTES, WAITING_BYTES // ranks.size))
    waiting: list[list[Run]] = [[] for _ in range(ranks.size)]
    sizes = [0] * ranks.size
    for to, run in runs:
        if to == ranks.own:
            arrivals.add(run)
            continue
        size = run.block.bytes + _RUN_BYTES
        if waiting[to] and sizes[to] + size > most:
            yield to, _piece(waiting[to])
            waiting[to], sizes[to] = [], 0
        waiting[to].append(run)
        sizes[to] += size
    for to, left in enumerate(waiting):
        if left:
            yield to, _piece(left)


def _piece(runs: Sequence[Run]) -> Piece:
    buffers: list[Array] = []
    header = [
        [r.source, r.number, [list(s) for s in r.splits], encode_block(r.block, buffers)]
        for r in runs
    ]
    return Piece(header, buffers)


def cut_to(block: Block) -> Iterator[Block]:
    """A block's records in parts of at most PIECE_BYTES; a record is not cut."""
    parts = min(block.rows, -(-block.bytes // PIECE_BYTES))
    if parts <= 1:
        yield block
        return
    for i in range(parts):  # of uneven records some parts are larger than others
        a, b = i * block.rows // parts, (i + 1) * block.rows // parts
        yield from cut_to(block.slice(a, b))

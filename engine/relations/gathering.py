"""Records that every rank needs: each computes its own partitions, and all get all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby

from scalops.algebra.schema import Schema
from scalops.engine.block_codec import blocks_of_piece, piece_of_blocks
from scalops.engine.blocks import Block, concatenate
from scalops.engine.collective import Piece, Program, Ranks, Shuffle
from scalops.engine.passes import in_partition
from scalops.engine.pipelines.base import Pipeline, Run
from scalops.engine.relations.routing import PIECE_BYTES, cut_to
from scalops.engine.spilled_memory import Room

Parts = list[list[Block]]  # for each active partition its blocks


def own_partitions(
    pipeline: Pipeline, ranks: Ranks, among: Iterable[int] | None = None
) -> list[int]:
    """Those of some partitions, of the active ones if not said, that this rank reads, in order."""
    among = pipeline.active() if among is None else among
    if ranks.is_alone:
        return list(among)
    return [p for p in among if pipeline.home(p) == ranks.own]


def own_blocks(
    pipeline: Pipeline, own: Sequence[int], names: Collection[str], run: Run, room: Room
) -> dict[int, list[Block]]:
    """The blocks of these partitions with these columns alone, by partition, kept in a room.

    Blocks without records are left out.
    """
    parts: dict[int, list[Block]] = {p: [] for p in own}

    def task(worker: int, index: int) -> None:
        partition = own[index]
        with in_partition(partition):
            for block in pipeline.blocks(partition, worker):
                if block.rows:
                    parts[partition].append(room.block(block.only(names), pipeline.resident))

    run(task, len(own))
    return parts


def runs_by_home(pipeline: Pipeline, ranks: Ranks) -> list[tuple[int, list[int]]]:
    """The active partitions in order, as runs that have one home each: (rank, partitions)."""
    if ranks.is_alone:
        return [(0, list(pipeline.active()))]
    return [(rank, list(run)) for rank, run in groupby(pipeline.active(), pipeline.home)]


def spread(
    ranks: Ranks,
    own: dict[int, list[Block]],
    active: Sequence[int],
    schema: Schema,
    room: Room | None = None,
) -> Program[Parts]:
    """The blocks of all `active` partitions at every rank, from each rank's `own` ones.

    Those of others are kept in the `room`, if there is one.
    """
    if ranks.is_alone:
        return [own[p] for p in active]
    found = _Spread(ranks.own, own, active, schema, room)
    yield Shuffle(_pieces(ranks, own), found.take)
    return [found.blocks(p) for p in active]


def _pieces(ranks: Ranks, own: dict[int, list[Block]]) -> Iterator[tuple[int, Piece]]:
    """[partition, [whether each block goes on with the one before], blocks], made once for all."""
    others = [to for to in range(ranks.size) if to != ranks.own]

    def told() -> Iterator[Piece]:
        for partition, blocks in own.items():
            waiting: list[tuple[bool, Block]] = []
            size = 0
            for block in blocks:
                for i, part in enumerate(cut_to(block)):
                    if waiting and size + part.bytes > PIECE_BYTES:
                        yield _piece(partition, waiting)
                        waiting, size = [], 0
                    waiting.append((i > 0, part))
                    size += part.bytes
            if waiting:
                yield _piece(partition, waiting)

    return ((to, piece) for piece in told() for to in others)


def _piece(partition: int, parts: Sequence[tuple[bool, Block]]) -> Piece:
    piece = piece_of_blocks([block for _, block in parts])
    return Piece([partition, [more for more, _ in parts], piece.header], piece.buffers)


class _Spread:
    """What a rank has of all partitions: its own, and what the others send."""

    def __init__(
        self,
        rank: int,
        own: dict[int, list[Block]],
        active: Sequence[int],
        schema: Schema,
        room: Room | None,
    ) -> None:
        self._schema, self._room = schema, room
        self._senders = dict.fromkeys(own, rank)
        self._active = frozenset(active)
        self._found: dict[int, Parts] = {p: [[b] for b in blocks] for p, blocks in own.items()}

    def take(self, rank: int, piece: Piece) -> None:
        """Take a piece of another rank. Raises: ValueError where it makes no sense."""
        match piece.header:
            case [int(partition), list(more), blocks] if (
                partition in self._active and self._senders.setdefault(partition, rank) == rank
            ):
                parts = blocks_of_piece(Piece(blocks, piece.buffers), self._schema)
            case _:
                raise ValueError(f"blocks of a partition that rank {rank} has not")
        if len(more) != len(parts):
            raise ValueError(f"{len(parts)} blocks of partition {partition}, not {len(more)}")
        known = self._found.setdefault(partition, [])
        for continues, part in zip(more, parts, strict=True):
            own = part if self._room is None else self._room.block(part)
            if not continues:
                known.append([own])
            elif known:
                known[-1].append(own)
            else:
                raise ValueError(f"a block of partition {partition} without its beginning")

    def blocks(self, partition: int) -> list[Block]:
        """A partition's blocks, as they were where it is read."""
        return [self._joined(parts) for parts in self._found.pop(partition, [])]

    def _joined(self, parts: list[Block]) -> Block:
        if len(parts) == 1:
            return parts[0]
        whole = concatenate(parts, self._schema)
        if self._room is None:
            return whole
        for part in parts:  # of another rank: nothing else shows it
            self._room.drop(*part.columns.values(), *part.valid.values())
        return self._room.block(whole)

"""What a rank does for each verb of a command: programs over its share of the plan.

Arguments are what msgpack holds; replies are data: numbers, arrays, texts, never pickles. What
the driver sends may be pickled.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from scalops.engine.backends import TableInfo
from scalops.engine.block_codec import piece_of_blocks
from scalops.engine.cluster.driver_merges import encode_partials
from scalops.engine.cluster.messages import Command
from scalops.engine.collective import DRIVER, Piece, Program, Send
from scalops.engine.columns import Array
from scalops.engine.memory import FreeMemory
from scalops.engine.pipelines.base import Stored
from scalops.engine.relations.whole import Whole
from scalops.engine.share import Share
from scalops.engine.value_codec import decode_value, encode_value

Reply = Program[Piece | None]
PIECE_BYTES = 1 << 20  # of blocks that go to the driver together
# Verbs whose programs read sources.
READING = frozenset(("fold", "partials", "count", "load", "exchange", "gather"))
DONE = Piece(None, [])  # there is nothing to tell but that


def pickled(value: Any) -> list[Array]:
    """A value for ranks, its arrays beside it: no copies are made of them."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(value, 5, buffer_callback=buffers.append)
    arrays = [np.frombuffer(b.raw(), np.uint8) for b in buffers]
    return [np.frombuffer(data, np.uint8), *arrays]


def numbers_of(values: Sequence[Any], buffers: list[Array]) -> list[Any] | None:
    """Values of slots as data, if they are numbers and arrays of numbers; quicker than pickling."""
    for value in values:
        if type(value) is np.ndarray:
            if value.dtype.kind not in "fiub":
                return None
        elif not isinstance(value, (np.number, np.bool_)):
            return None
    found: list[Any] = encode_value(tuple(values), buffers)
    return found


def unpickled(buffers: Sequence[Array]) -> Any:
    """What the driver has pickled."""
    return pickle.loads(buffers[0].data, buffers=buffers[1:])


def run(share: Share, command: Command, buffers: list[Array]) -> Reply:
    """The program of a command; where it is for some ranks only, others do nothing."""
    given = None
    if command.values is not None:
        values = decode_value(command.values, buffers)
    else:
        values, given = unpickled(buffers) if buffers else ((), None)
    if command.slots:
        share.bind(dict(zip(command.slots, values, strict=True)))
    return VERBS[command.verb](share, command.arguments, given)


def accounted(program: Reply, given_up: Callable[[], list[Any]]) -> Reply:
    """A program that tells the driver what sources have passed over meanwhile, and replies."""
    reply = yield from program
    found = given_up()
    if any(found):
        yield Send(DRIVER, Piece({"passed over": found}, []))
    return reply or DONE


def _steps(share: Share, arguments: Any, given: Any) -> Reply:
    """Several verbs, one after the other; the reply has theirs."""
    headers, buffers = [], list[Array]()
    for verb, own in arguments:
        piece = (yield from VERBS[verb](share, own, None)) or DONE
        headers.append([piece.header, len(piece.buffers)])
        buffers += piece.buffers
    return Piece(headers, buffers)


def replies_of(piece: Piece) -> list[Piece]:
    """The replies of several verbs that were one command."""
    found, at = [], 0
    for header, count in piece.header:
        found.append(Piece(header, piece.buffers[at : at + count]))
        at += count
    return found


def _bind(share: Share, arguments: Any, given: Any) -> Reply:
    yield from ()
    return None


def _fold(share: Share, arguments: Any, given: Any) -> Reply:
    results = yield from share.fold(arguments)
    if share.ranks.own != 0:
        return None
    buffers: list[Array] = []
    return Piece([[s, encode_value(r, buffers)] for s, r in results.items()], buffers)


def _partials(share: Share, arguments: Any, given: Any) -> Reply:
    found = yield from share.partials(arguments)
    return encode_partials((m.stages, m.leaves, spans.held) for m, spans in found)


def _count(share: Share, arguments: Any, given: Any) -> Reply:
    yield from share.run_stage(arguments)
    return DONE


def _info(info: TableInfo) -> Piece:
    return Piece(
        [info.partitions, info.rows, info.bytes, info.cached, list(info.nan), list(info.infinite)],
        [],
    )


def _load(share: Share, arguments: Any, given: Any) -> Reply:
    """Keep a table; the reply has the records of each partition that is held here, too."""
    info = yield from share.load(arguments)
    held = share.cached(arguments)
    more = [held.bytes, [list(item) for item in held.rows_held.items()]]
    return Piece([*_info(info).header, *more], [])


def _exchange(share: Share, arguments: Any, given: Any) -> Reply:
    return _info((yield from share.exchange(arguments)))


def _adopt(share: Share, arguments: Any, given: Any) -> Reply:
    yield from ()
    share.adopt([tuple(move) for move in arguments])
    return None


def _put(share: Share, arguments: Any, given: Any) -> Reply:
    """Keep a table; arguments: its number, and the ranks that are to, or None for all."""
    yield from ()
    table, ranks = arguments
    if ranks is None or share.ranks.own in ranks:
        schema, blocks = given
        share.put(table, schema, blocks)
    return DONE


def _release(share: Share, arguments: Any, given: Any) -> Reply:
    yield from ()
    share.release(arguments)
    return None


def _gather(share: Share, arguments: Any, given: Any) -> Reply:
    """Send the own partitions of a stage to the driver; the reply is how many there are in all."""
    parts = yield from share.gathered(arguments, FreeMemory())
    for partition in list(parts):
        for blocks in _cut(parts.pop(partition)):
            piece = piece_of_blocks(blocks)
            yield Send(DRIVER, Piece([partition, piece.header], piece.buffers))
    return Piece(share.pipelines[arguments].partitions(), [])


def _dump(share: Share, arguments: Any, given: Any) -> Reply:
    """Send a table that every rank holds to the driver; arguments: its number, and by whom."""
    table, rank = arguments
    held = share.runtime.tables.get(table) if share.ranks.own == rank else None
    if held is not None:
        for partition, blocks in _whole_blocks(held):
            for cut in _cut(blocks):
                piece = piece_of_blocks(cut)
                yield Send(DRIVER, Piece([partition, piece.header], piece.buffers))
    return Piece(held is not None, [])


def _whole_blocks(table: Stored) -> Iterator[tuple[int, list[Any]]]:
    assert isinstance(table, Whole)
    for partition in range(table.partitions()):
        yield partition, list(table.blocks(partition, 0))


def _cut(blocks: list[Any]) -> Iterator[list[Any]]:
    """Blocks that go together."""
    batch: list[Any] = []
    for block in blocks:
        batch.append(block)
        if sum(b.bytes for b in batch) >= PIECE_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


VERBS: dict[str, Callable[[Share, Any, Any], Reply]] = {
    "steps": _steps,
    "bind": _bind,
    "fold": _fold,
    "partials": _partials,
    "count": _count,
    "load": _load,
    "exchange": _exchange,
    "adopt": _adopt,
    "put": _put,
    "release": _release,
    "gather": _gather,
    "dump": _dump,
}

"""What a rank does for each verb of a command: programs over its share of the plan.

Arguments are what msgpack holds; replies are data: numbers, arrays, texts, never pickles. What
the driver sends may be pickled.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scalops.engine.backends import TableInfo
from scalops.engine.cluster.driver_merges import encode_partials
from scalops.engine.cluster.messages import Command
from scalops.engine.cluster.rank_job import DONE
from scalops.engine.cluster.sent_blocks import to_driver
from scalops.engine.collective import DRIVER, Piece, Program, Send
from scalops.engine.columns import Array
from scalops.engine.free_memory import FreeMemory
from scalops.engine.meter import Meter
from scalops.engine.relations.whole import Whole
from scalops.engine.share import Share
from scalops.engine.value_codec import decode_value, encode_value

Reply = Program[Piece | None]
_UNTOLD = frozenset(("bind", "adopt", "release"))  # verbs that nobody replies to
_OF_STAGES = frozenset(
    ("fold", "partials", "count", "load", "exchange", "gather", "results", "send")
)


def stages_of(verb: str, arguments: Any) -> list[int]:
    """The stages that a command runs, in order: no other command reads sources."""
    if verb == "steps":
        found = [stage for step in arguments for stage in stages_of(*step)]
        return list(dict.fromkeys(found))
    if verb not in _OF_STAGES:
        return []
    if verb == "send":
        return [arguments[0]]
    return [arguments] if isinstance(arguments, int) else list(arguments)


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
    program = _program(share, command.verb, command.arguments, given)
    meter = share.runtime.meter
    return program if meter is None or command.verb in _UNTOLD else _profiled(program, meter)


def _program(share: Share, verb: str, arguments: Any, given: Any) -> Reply:
    """The program of a verb; where the plan is profiled, what it takes is measured."""
    program, meter = VERBS[verb](share, arguments, given), share.runtime.meter
    if meter is None or verb not in _OF_STAGES:
        return program
    return meter.program(stages_of(verb, arguments), program)


def _profiled(program: Reply, meter: Meter) -> Reply:
    """A program that tells with its reply what was measured meanwhile."""
    header, buffers = (yield from program) or DONE
    return Piece(meter.told(header, buffers), buffers)


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
        piece = (yield from _program(share, verb, own, None)) or DONE
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
        yield from to_driver(partition, parts.pop(partition))
    return Piece(share.pipelines[arguments].partitions(), [])


def _results(share: Share, arguments: Any, given: Any) -> Reply:
    """Compute the own partitions of a stage; the reply: the bytes of the blocks of each."""
    found = yield from share.results(arguments)
    return Piece([list(item) for item in found.sizes().items()], [])


def _send(share: Share, arguments: Any, given: Any) -> Reply:
    """Send some blocks; arguments: the stage, and from which to which (partition, block).

    Partitions before the first are not asked for any more.
    """
    stage, (first, from_block), (last, to_block) = arguments
    found = yield from share.results(stage, first)
    found.drop_before(first)
    for partition in sorted(found.sizes()):
        if first <= partition <= last:
            begin = from_block if partition == first else 0
            end = to_block if partition == last else None
            yield from to_driver(partition, found.blocks(partition, begin, end))
    return DONE


def _dump(share: Share, arguments: Any, given: Any) -> Reply:
    """Send a table that every rank holds to the driver; arguments: its number, and by whom."""
    table, rank = arguments
    held = share.runtime.tables.get(table) if share.ranks.own == rank else None
    if held is not None:
        assert isinstance(held, Whole)
        for partition in range(held.partitions()):
            yield from to_driver(partition, list(held.blocks(partition, 0)))
    return Piece(held is not None, [])


def _change(share: Share, arguments: Any, given: Any) -> Reply:
    fan_ins, held = arguments
    yield from share.change(tuple(fan_ins), dict(held))
    return DONE


VERBS: dict[str, Callable[[Share, Any, Any], Reply]] = {
    "steps": _steps,
    "fold": _fold,
    "partials": _partials,
    "count": _count,
    "load": _load,
    "exchange": _exchange,
    "adopt": _adopt,
    "change": _change,
    "put": _put,
    "release": _release,
    "gather": _gather,
    "results": _results,
    "send": _send,
    "dump": _dump,
}

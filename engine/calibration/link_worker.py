"""A worker whose ranks run programs that measure, in place of a plan's.

All else is as in any worker: sockets, channels, commands, steps, which thread computes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import numpy as np

from scalops.engine.cluster.job_shares import JobShares, Reply, Start
from scalops.engine.cluster.rank_job import DONE
from scalops.engine.cluster.rank_machine import WorkerMachine
from scalops.engine.collective import Piece, Ranks, Receive, Send

if TYPE_CHECKING:
    from scalops.engine.cluster.messages import Command
    from scalops.engine.columns import Array

_SMALL = Piece([0], [])


class LinkWorker(WorkerMachine):
    """Hosts ranks of a plan of no stages."""

    def __init__(self, worker: str, settings: Mapping[str, Any]) -> None:
        super().__init__(worker, settings)
        self._shares = _Shares(settings, self._ask)


class _Shares(JobShares):
    def begin(self, ranks: Ranks, *rest: Any, **named: Any) -> Start:
        super().begin(ranks, *rest, **named)

        def start(command: Command, given: list[Array]) -> Reply:
            return _PROGRAMS[command.verb](ranks, command.arguments)

        return start


def _nothing(ranks: Ranks, arguments: Any) -> Reply:
    """Nothing: what a command takes beside what it does."""
    yield from ()
    return DONE


def _ping(ranks: Ranks, arguments: Any) -> Reply:
    """Pieces of so many bytes from rank 0 to rank 1, each answered by a small one.

    Arguments: how many, and the bytes of each. The reply of rank 0: the seconds of each.
    """
    count, size = arguments
    seconds: list[float] = []
    if ranks.own == 0:
        piece = Piece([0], [np.ones(size, np.uint8)] if size else [])
        for _ in range(count):
            begin = perf_counter()
            yield Send(1, piece)
            yield Receive(1)
            seconds.append(perf_counter() - begin)
    elif ranks.own == 1:
        for _ in range(count):
            yield Receive(0)
            yield Send(0, _SMALL)
    return Piece(seconds, [])


def _hear(ranks: Ranks, arguments: Any) -> Reply:
    """Small pieces from rank 1 to rank 0, one after the other; arguments: how many.

    The reply of rank 0: the seconds of its processor that hearing of each took.
    """
    (count,) = arguments
    if ranks.own == 1:
        for _ in range(count):
            yield Send(0, _SMALL)
    elif ranks.own == 0:
        yield Receive(1)
        begin = process_time()
        for _ in range(count - 1):
            yield Receive(1)
        return Piece((process_time() - begin) / (count - 1), [])
    return DONE


_PROGRAMS = {"nothing": _nothing, "ping": _ping, "hear": _hear}

"""A worker as a state machine: hosts ranks, of one job at a time, and says that it lives.

Without I/O: `handle(event, now)` gives actions, which the worker's loop, or a simulation, carries
out. What is computed is a call in a `Compute`, whose outcome comes back as `Computed`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING, Any

from scalops.engine.cluster.actions import (
    Action,
    Arrived,
    Compute,
    Computed,
    Emit,
    Event,
    Exit,
    Meet,
    Tick,
)
from scalops.engine.cluster.job_shares import JobShares
from scalops.engine.cluster.messages import (
    Begin,
    Cancel,
    Command,
    Credit,
    Data,
    Failed,
    Finish,
    Finished,
    Forget,
    Gone,
    Heartbeat,
    Members,
    Partitions,
    Streamed,
    StreamEnd,
    Wanted,
)
from scalops.engine.cluster.rank_job import DRIVER_NAME, Clock, RankJob
from scalops.engine.collective import Ranks
from scalops.engine.neutral import Neutral
from scalops.engine.processes.errors import encode_error, took_too_long
from scalops.engine.progress import notes

if TYPE_CHECKING:
    from scalops.engine.columns import Array

Early = list[tuple[str, Any, Any]]


class WorkerMachine:
    """The ranks that a worker hosts; messages of other jobs and epochs are dropped, or kept for
    later where theirs has not begun here.
    """

    def __init__(self, worker: str, settings: Mapping[str, Any]) -> None:
        """`settings` are those of the session, as the driver has told them."""
        self._worker = worker
        self._shares = JobShares(settings, self._ask)
        self.urgent: deque[Action] = deque()  # of compute threads, to be carried out at once
        self.wake: Callable[[], None] = lambda: None  # has whoever carries them out look
        self._tickets = count(1)
        self._clock = Clock(perf_counter)
        self._job, self._epoch = 0, 0
        self._has_met = False  # the members of this epoch
        self._ranks: dict[int, RankJob] = {}
        self._computing: dict[int, RankJob | None] = {}  # by ticket; None: of a job that is over
        self._pending: list[tuple[Any, list[Array]]] = []  # until nothing computes any more
        self._early: Early = []

    def handle(self, event: Event, now: float) -> list[Action]:
        """What is to be done now that this has happened."""
        match event:
            case Arrived(peer=peer, message=message):
                return self._noted(self._arrived(peer, message.body, list(message.buffers)))
            case Computed(ticket=ticket, outcome=outcome):
                return self._noted(self._computed(ticket, outcome.value, outcome.error))
            case Tick():
                return [Emit(DRIVER_NAME, self._sign_of_life()), *self._ended_by_a_call()]

    def _ask(self, rank: int, source: int, partitions: tuple[int, ...], first: int) -> None:
        """Ask the driver for partitions of a table of its own; on any thread."""
        wanted = Wanted(self._job, self._epoch, rank, source, partitions, first)
        self.urgent.append(Emit(DRIVER_NAME, wanted))
        self.wake()

    def _sign_of_life(self) -> Heartbeat:
        op = next((r.op for r in self._ranks.values() if r.op), 0)
        held, partitions = self._shares.held()
        own = notes()
        partition = -1 if own is None else own.partition
        return Heartbeat(self._worker, self._job, op, partition, held, partitions)

    def _ended_by_a_call(self) -> list[Action]:
        """End this worker where a user's function takes too long: nothing else ends a thread."""
        own = notes()
        place = None if own is None else own.overdue()
        if own is None or place is None:
            return []
        seconds = own.timeout or 0.0
        error = took_too_long(place.function, place.location, seconds, place.over)
        if place.partition >= 0:
            error.add_place(f"partition {place.partition}")
        # Steps are computed in their order: the first that is not done is the one.
        rank = next(iter(self._computing.values()), None)
        told = [] if rank is None else rank.failed(error)
        return [*told, Exit(1, error.found)]

    def _noted(self, actions: list[Action]) -> list[Action]:
        """Remember who computes what."""
        for action in actions:
            if isinstance(action, Compute) and action.ticket not in self._computing:
                self._computing[action.ticket] = self._owner(action.ticket)
        return actions

    def _owner(self, ticket: int) -> RankJob | None:
        return next((r for r in self._ranks.values() if r.ticket == ticket), None)

    # Messages.

    def _arrived(self, peer: str, body: Any, buffers: list[Array]) -> list[Action]:
        if peer == DRIVER_NAME:
            match body:
                case Begin() | Members() | Finish():
                    self._pending.append((body, buffers))
                    return self._settle()
                case Cancel() if self._pending:  # it is for ranks that have not begun
                    self._pending.append((body, buffers))
                    return []
                case Cancel():
                    return self._cancel(body)
                case Partitions():
                    if body.job == self._job:
                        self._shares.partitions(body, buffers)
                    return []
                case Forget(keys=keys):
                    self._shares.forget(keys)
                    return []
        if self._pending and self._place(body) >= (self._job, self._epoch):
            self._early.append((peer, body, buffers))
            return []
        return self._routed(peer, body, buffers)

    @staticmethod
    def _place(body: Any) -> tuple[int, int]:
        return getattr(body, "job", 0), getattr(body, "epoch", 0)

    def _routed(self, peer: str, body: Any, buffers: list[Array]) -> list[Action]:
        place = self._place(body)
        own = self._job, self._epoch
        # The driver tells of the members when it has told of all ranks: before that, what other
        # workers send may be for one that has not begun here.
        if place > own or (place == own and peer != DRIVER_NAME and not self._has_met):
            self._early.append((peer, body, buffers))
            return []
        if place < (self._job, self._epoch):
            return []
        match body:
            case Command():
                return self._command(peer, body, buffers)
            case Data(to=to) if to in self._ranks:
                return self._ranks[to].data(body, buffers)
            case Streamed(to=to) if to in self._ranks:
                return self._ranks[to].streamed(body, buffers)
            case StreamEnd(to=to) if to in self._ranks:
                return self._ranks[to].stream_end(body)
            case Credit(to=to) if to in self._ranks:
                return self._ranks[to].credit(body)
        return []

    def _command(self, peer: str, body: Command, buffers: list[Array]) -> list[Action]:
        """From the driver for all ranks here; from another worker for those below its ranks."""
        actions: list[Action] = []
        for rank in list(self._ranks.values()):
            parent = rank.ranks.parent
            if body.forward and parent is not None and peer != rank.hosts.get(parent):
                continue
            if not body.forward and peer != DRIVER_NAME:
                continue
            actions += rank.command(body, buffers)
        return actions

    def _cancel(self, body: Cancel) -> list[Action]:
        actions: list[Action] = []
        if body.job == self._job:
            if body.at_once:
                self._shares.cancel()
            for rank in self._ranks.values():
                actions += rank.end_when_waiting(body.op)
        return actions

    # The beginning and end of jobs and epochs, which wait until nothing is computed.

    def _settle(self) -> list[Action]:
        """Begin or finish what waits for that, if nothing is computed."""
        actions: list[Action] = []
        while self._pending and not self._busy():
            body, buffers = self._pending.pop(0)
            match body:
                case Begin():
                    actions += self._begin(body, buffers)
                case Members():
                    actions += self._members(body)
                case Cancel():
                    actions += self._cancel(body)
                case Finish(job=job):
                    if job == self._job:
                        self._drop_ranks()
                        self._shares.finish()
                    actions.append(Emit(DRIVER_NAME, Finished(job)))
        if not self._pending:
            early, self._early = self._early, []
            for peer, message, kept in early:
                actions += self._routed(peer, message, kept)
        elif self._busy():
            self._shares.cancel()
        return actions

    def _busy(self) -> bool:
        return bool(self._computing)

    def _begin(self, body: Begin, buffers: list[Array]) -> list[Action]:
        """Host a rank in a new epoch, with its tables of the last one if it is the same job."""
        if (body.job, body.epoch) < (self._job, self._epoch):
            return []
        if (body.job, body.epoch) != (self._job, self._epoch):
            if body.job != self._job:
                self._drop_ranks()
                self._shares.finish()
            else:
                for rank in self._ranks.values():
                    self._shares.catch_up(rank.ranks.own, rank.left_over())
                self._drop_ranks()
            self._job, self._epoch = body.job, body.epoch
            self._has_met = False
        ranks = Ranks(body.rank, body.size, body.fan_ins)
        neutral = Neutral(
            body.size,
            held=dict(body.held),
            filed=frozenset(body.filed),
            broadcast=dict(body.broadcast),
        )
        try:
            start = self._shares.begin(
                ranks, buffers, body.careful, body.memory, neutral, body.profile
            )
        except Exception as error:
            told = encode_error(error, None)
            return [Emit(DRIVER_NAME, Failed(body.job, body.epoch, 0, body.rank, told, -1))]
        actions: list[Action] = []
        if gone := self._shares.gone(body.rank):
            actions.append(Emit(DRIVER_NAME, Gone(body.job, body.epoch, body.rank, gone)))
        self._clock.is_quick = not self._shares.may_block
        own = notes()
        if own is not None:
            own.timeout = body.task_timeout or None
        self._ranks[body.rank] = RankJob(
            body.job, body.epoch, self._shares.ranks(body.rank), start, self._tickets, self._clock
        )
        return actions

    def _members(self, body: Members) -> list[Action]:
        if (body.job, body.epoch) != (self._job, self._epoch):
            return []
        self._has_met = True
        hosts = {rank: worker for rank, worker, _, _ in body.hosts}
        for rank in self._ranks.values():
            rank.hosts = hosts
        return [Meet(body)]

    def _drop_ranks(self) -> None:
        for rank in self._ranks.values():
            rank.drop()
        self._ranks.clear()

    # Computing.

    def _computed(self, ticket: int, value: Any, error: BaseException | None) -> list[Action]:
        rank = self._computing.pop(ticket, None)
        actions: list[Action] = []
        if rank is not None and not self._pending:
            actions += rank.computed(ticket, value, error)
        elif rank is not None:
            rank.computed_in_vain()
        return actions + (self._settle() if self._pending else [])

"""The driver's side of a job: which worker hosts which rank, commands, replies, losses.

Without I/O of its own: it sends through a hub's channels and asks the hub what has happened. A
command that a loss interrupts is given again, after the ranks that were lost have been given to
other workers and these hold what the program needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, Literal

from scalops.algebra.captured import Captured
from scalops.algebra.errors import WorkerLost
from scalops.engine.cluster.deaths import Deaths
from scalops.engine.cluster.hub import Arrived, Hub, Joined, Left, WorkerInfo
from scalops.engine.cluster.interrupts import Interrupts
from scalops.engine.cluster.job_settings import JobSettings as JobSettings
from scalops.engine.cluster.journal import Journal
from scalops.engine.cluster.messages import (
    Cancel,
    Command,
    Failed,
    Finish,
    Finished,
    Gone,
    Heartbeat,
    Members,
    Partitions,
    Replied,
    Sent,
    Wanted,
)
from scalops.engine.cluster.sent_blocks import FromRanks
from scalops.engine.cluster.verbs import numbers_of, pickled
from scalops.engine.collective import Piece
from scalops.engine.events import SILENT, EventLog
from scalops.engine.kept_tables import TablesGone
from scalops.engine.processes.errors import decode_error, hint_for
from scalops.engine.progress import Place
from scalops.engine.recording import NO_RECORDER

if TYPE_CHECKING:
    from scalops.algebra.schema import Schema
    from scalops.engine.blocks import Block
    from scalops.engine.columns import Array
    from scalops.engine.physical_plan import PhysicalPlan

Expect = Literal["root", "all"]
Replies = dict[int, Piece]
FORWARD_BYTES = 1 << 16  # of a command: larger ones go down the tree of ranks
MOST_STILLBORN = 3  # workers that leave as soon as they come: more would, too
_NOBODY = Captured(b"", "a function", None)


class Lost(Exception):
    """Workers that host ranks have been lost: the command that runs has to be given again."""


class StateLost(Exception):
    """No rank is left that holds a table of a loop's state: the loop goes back."""


@dataclass
class _Waiting:
    """A command whose replies are awaited."""

    op: int
    expected: set[int]
    sent: Callable[[int, Piece], None]
    replies: Replies = field(default_factory=dict)


class Coordinator:
    """One job at a time on a hub's workers."""

    def __init__(
        self, hub: Hub, events: EventLog = SILENT, now: Callable[[], float] = monotonic
    ) -> None:
        self._hub, self.events, self._now = hub, events, now
        self.job, self.epoch = 0, 0
        self._op = 0
        self._hosts: dict[int, WorkerInfo] = {}
        self._before: dict[int, str] = {}  # the worker of each rank in the job before
        self._alive: dict[str, WorkerInfo] = {}
        self._values: dict[int, Any] = {}
        self._unsent: dict[int, Any] = {}
        self._failures: dict[int, tuple[int, BaseException]] = {}
        self._waiting: _Waiting | None = None
        self._lost_ranks: set[int] = set()
        self._fresh: set[int] = set()  # ranks that do not hold yet what the others hold
        self._deaths = Deaths()
        self._heard: dict[str, Place] = {}  # where workers said that they were
        self._ending: set[str] = set()  # workers that may still be at the last job
        self._losses: list[str] = []  # not yet told to the driver
        self._count = 0
        self._verb: tuple[str, Any] = "", None
        self._reason = ""  # of the last loss
        self._given_up: set[str] = set()  # workers that were ended for the last job
        self._stillborn: list[str] = []  # why workers left that hosted nothing yet
        self._gone: set[str] = set()  # kept tables that ranks lack
        self._recovering: dict[int, float] = {}  # ranks that were lost, and when
        self.answer: Callable[[Wanted], Iterator[tuple[Partitions, list[Array]]]] | None = None
        self.passed_over: Callable[[Any], None] = lambda found: None
        self.recorder = NO_RECORDER
        self._interrupts = Interrupts(hub.wake)

    # Jobs.

    @property
    def is_running(self) -> bool:
        """Whether a job has begun and not ended."""
        return bool(self._hosts)

    def begin(self, plan: PhysicalPlan, encoded: list[Array], settings: JobSettings) -> None:
        """Give every rank to a worker and the plan to every rank."""
        with self._interrupts:
            self._end_last(settings.end_seconds)
            self._begin(plan, encoded, settings)

    def _end_last(self, seconds: float) -> None:
        """Wait for workers that still compute for a job that was given up, but not for long."""
        until = self._now() + seconds
        while self._ending and (left := until - self._now()) > 0:
            self._pump(left)
        self._given_up = set(self._ending)
        for worker in list(self._ending):
            self._hub.end(worker, f"still at the last job {seconds:g} s after its end")
        self._ending.clear()

    def _begin(self, plan: PhysicalPlan, encoded: list[Array], settings: JobSettings) -> None:
        self.job += 1
        self.epoch, self._op = 1, 0
        self._plan, self._encoded, self._settings = plan, encoded, settings
        self._journal = Journal(plan)
        self._values, self._unsent = {}, {}
        of_last: Sequence[Any] = (self._failures, self._lost_ranks, self._fresh, self._deaths)
        for held in (*of_last, self._losses, self._gone, self._recovering):
            held.clear()
        self._reason = ""
        self._count = 0
        self._hosts = {}
        self._alive = {w.worker: w for w in self._hub.workers()}
        self._wait_for_workers(settings.ranks, settings.start_seconds)
        if not self._alive:
            raise self._no_worker("no worker has come")
        self._place(range(settings.ranks))
        self._announce(range(settings.ranks))

    def _wait_for_workers(self, count: int, seconds: float) -> None:
        """Wait until there are so many, or as long as that, or until those that come leave."""
        end = self._now() + seconds
        self._stillborn.clear()
        while len(self._stillborn) <= MOST_STILLBORN:
            most = self._hub.ask_for(count)  # in place of those that have gone since, too
            left = end - self._now()
            if len(self._alive) >= min(count, most) or left <= 0:
                break
            self._pump(left)

    def _no_worker(self, what: str) -> WorkerLost:
        why = f": {self._stillborn[-1]}" if self._stillborn else ""
        last = f"; the last one: {self._reason}" if self._reason else ""
        return WorkerLost(
            what + why + last,
            hint="look at what they say: on standard error; a running cluster's in broker.log of"
            " its folder, and by `scalops cluster status`",
        )

    def _place(self, ranks: Sequence[int]) -> None:
        """Give ranks to those who had them in the job before, else to who hosts the fewest."""
        hosted = Counter({name: 0 for name in self._alive})
        hosted.update(w.worker for w in self._hosts.values())
        most = -(-self._settings.ranks // len(self._alive))
        again = [r for r in ranks if self._before.get(r) in self._alive]  # they keep its tables
        for rank in dict.fromkeys((*again, *ranks)):
            name = self._before.get(rank, "")
            if hosted.get(name, most) >= most:
                name = min(self._alive, key=lambda n: hosted[n])
            hosted[name] += 1
            self._hosts[rank] = self._alive[name]

    def decided(self, settings: JobSettings) -> None:
        """Other neutral decisions from now on, of which all ranks know; for those yet to begin."""
        self._settings = settings

    def _announce(self, fresh: Sequence[int]) -> None:
        """Tell every worker of its ranks, `fresh` ones with the plan, and of the others."""
        careful = self._deaths.is_suspicious
        for rank, host in sorted(self._hosts.items()):
            begin = self._settings.begin(self.job, self.epoch, rank, careful)
            plan = self._encoded if rank in fresh else ()
            self._send(host.worker, begin, plan)
        hosts = tuple((r, w.worker, w.data, w.key) for r, w in sorted(self._hosts.items()))
        for name in self._hosting():
            self._send(name, Members(self.job, self.epoch, hosts))

    def finish(self) -> None:
        """End the job: ranks give back what they hold."""
        with self._interrupts.last():
            names = [name for name in self._hosting() if name in self._alive]
            if self._waiting is not None or self._failures:
                self._ending = set(names)
                for name in names:
                    self._send(name, Cancel(self.job, self._op, at_once=True))
            for name in names:
                self._send(name, Finish(self.job))
            self._waiting = None
            self._before = {rank: host.worker for rank, host in self._hosts.items()}
            self._hosts = {}
            self._values, self._unsent = {}, {}
            self._heard.clear()
            self._pump(0)

    # Commands.

    def bind(self, values: Mapping[int, Any]) -> None:
        """Values that go out with the next command."""
        self._values.update(values)
        self._unsent.update(values)

    def tell(self, verb: str, arguments: Any) -> None:
        """Give a command that nobody replies to.

        Values wait for the next one that is replied to: this one goes to all ranks directly, so
        that those that survive a loss have it before the next epoch begins.
        """
        unsent, self._unsent = self._unsent, {}
        with self._interrupts:
            self._submit(verb, arguments)
        self._unsent = unsent

    def call(
        self,
        verb: str,
        arguments: Any,
        expect: Expect,
        given: Any = None,
        again: Callable[[], Callable[[int, Piece], None]] = lambda: lambda rank, piece: None,
    ) -> Replies:
        """Give a command; the replies by rank.

        `again` makes what takes the pieces that ranks send before they reply: a new one for each
        time that the command is given. Raises what the ranks' programs raise, WorkerLost where
        workers are lost again and again, StateLost, TablesGone.
        """
        is_root = expect == "root" and not self._settings.profile
        ranks = {0} if is_root else set(range(self._settings.ranks))
        with self._interrupts:
            while True:
                try:
                    self._recover()
                    op = self._submit(verb, arguments, given)
                    found = self._await(op, ranks, again())
                    self._deaths.clear()
                    if self._recovering:
                        since = self._now() - min(self._recovering.values())
                        self.events.emit("recovered", ranks=[*self._recovering], seconds=since)
                        self._recovering.clear()
                    return found
                except Lost:
                    continue

    @property
    def journal(self) -> Journal:
        """What has made the tables that ranks hold."""
        return self._journal

    @property
    def values(self) -> Mapping[int, Any]:
        """The driver's values now, by slot."""
        return self._values

    def lost(self) -> tuple[str, ...]:
        """Workers lost since the last time."""
        found, self._losses = tuple(self._losses), []
        return found

    def _submit(self, verb: str, arguments: Any, given: Any = None) -> int:
        begin = perf_counter()
        self._op += 1
        self._verb = verb, arguments
        slots, unsent = tuple(self._unsent), list(self._unsent.values())
        buffers: list[Array] = []
        values = numbers_of(unsent, buffers) if slots and given is None else None
        if values is None and (slots or given is not None):
            buffers = pickled((unsent, given))
        self._unsent = {}
        forward = len(self._hosts) > 2 and sum(b.nbytes for b in buffers) > FORWARD_BYTES
        body = Command(self.job, self.epoch, self._op, verb, arguments, slots, forward, values)
        if forward:
            self._send(self._hosts[0].worker, body, buffers)
        else:
            names = [name for name in self._hosting() if name in self._alive]
            self._hub.channels.send_all(names, body, buffers)
        self.recorder.sent(begin, [verb, arguments, values], buffers, len(self._hosts))
        return self._op

    def _hosting(self) -> list[str]:
        """The workers that host ranks, in the order of these."""
        return list(dict.fromkeys(w.worker for w in self._hosts.values()))

    def _send(self, worker: str, body: Any, buffers: Sequence[Array] = ()) -> None:
        if worker in self._alive:
            self._hub.channels.send(worker, body, buffers)

    def _await(self, op: int, ranks: set[int], sent: Callable[[int, Piece], None]) -> Replies:
        waiting = self._waiting = _Waiting(op, set(ranks), sent)
        while waiting.expected:
            self._pump(None)
            if self._gone:
                raise TablesGone(self._gone)
            if self._failures:
                self._raise_first()
            if self._lost_ranks:
                raise Lost
        self._waiting = None
        return waiting.replies

    def _raise_first(self) -> None:
        """Raise the error of the earliest partition: other ranks may fail at earlier ones still.

        They are told to end, one after the other: what lower ranks have for higher ones is there
        by then, and only what a rank that has failed would have sent is missing. If one of them
        is lost, the command has to be given again.
        """
        waiting = self._waiting
        assert waiting is not None
        for rank in range(self._settings.ranks):
            if rank not in waiting.replies:
                cancel = Cancel(self.job, waiting.op, at_once=False)
                self._send(self._hosts[rank].worker, cancel)
            while rank not in waiting.replies:
                if not waiting.replies.keys() >= self._lost_ranks:
                    raise Lost
                self._pump(None)
        raise self._failures[min(self._failures, key=lambda r: (self._failures[r][0], r))][1]

    # What happens.

    def _pump(self, timeout: float | None) -> None:
        for event in self._hub.pump(timeout):
            match event:
                case Arrived(worker=worker, message=message):
                    self._arrived(worker, message.body, list(message.buffers))
                case Joined(info=info):
                    self._alive[info.worker] = info
                    self.events.emit("worker_joined", worker=info.worker, host=info.host)
                case Left():
                    self._left(event)
        self._interrupts.check()

    def _arrived(self, worker: str, body: Any, buffers: list[Array]) -> None:
        if isinstance(body, Wanted):
            self._answer(worker, body)
            return
        if isinstance(body, Finished):
            if body.job == self.job:
                self._ending.discard(worker)
            return
        if isinstance(body, Heartbeat):
            if (body.job, body.op) == (self.job, self._op):
                self._heard[worker] = Place(body.partition)
            return
        place = getattr(body, "job", -1), getattr(body, "epoch", -1)
        if place != (self.job, self.epoch):
            return
        if getattr(self._hosts.get(body.rank), "worker", None) != worker:
            return  # it speaks for a rank that is not its own
        waiting = self._waiting
        match body:
            case Sent(piece={"passed over": found}):
                self.passed_over(found)
            case Gone(keys=keys):
                self._gone.update(keys)
            case Sent(op=op, rank=rank, piece=piece):
                if waiting is not None and op == waiting.op:
                    waiting.sent(rank, Piece(piece, buffers))
            case Replied(op=op, rank=rank, piece=piece):
                if waiting is not None and op == waiting.op:
                    waiting.replies[rank] = Piece(self.recorder.reply(rank, piece), buffers)
                    waiting.expected.discard(rank)
            case Failed(rank=rank, error=error, partition=partition):
                made = decode_error(error, _NOBODY)
                self._failed(rank, partition, made)

    def _failed(self, rank: int, partition: int, error: BaseException) -> None:
        self._failures.setdefault(rank, (partition, error))
        if self._waiting is not None:
            self._waiting.replies.setdefault(rank, Piece(None, []))

    def _answer(self, worker: str, body: Wanted) -> None:
        if self.answer is not None and body.job == self.job:
            for reply, buffers in self.answer(body):
                self._send(worker, reply, buffers)

    def _left(self, left: Left) -> None:
        worker = left.worker
        self._alive.pop(worker, None)
        self._ending.discard(worker)
        heard = self._heard.pop(worker, None)
        ranks = [r for r, w in self._hosts.items() if w.worker == worker]
        if not ranks:
            if worker not in self._given_up:
                self._stillborn.append(left.reason)
            return
        self._lost_ranks.update(ranks)
        self._losses.append(worker)
        self._count += 1
        self._reason = left.reason
        self.events.emit("worker_lost", worker=worker, ranks=ranks, reason=left.reason)
        if left.error is not None:
            self._failed(ranks[0], -1, left.error)
        if any(rank in self._failures for rank in ranks):
            return  # it has ended for that
        if left.places is None and heard is not None and heard.partition >= 0:
            left = left._replace(places=(heard,))
        self._blame(left, ranks[0])

    def _blame(self, left: Left, rank: int) -> None:
        """Count what a worker was at when it died; WorkerLost where that is always the same."""
        error = self._deaths.add(*self._verb, left, rank)
        if error is not None:
            raise error
        if self._count > self._settings.most_losses:
            raise WorkerLost(
                f"{self._count} workers were lost in one job, the last one: {left.reason}",
                hint=hint_for(left.reason, "so.session(workers=0, processes=0)"),
            )

    # Losses.

    def _recover(self) -> None:
        """Until every rank has a worker that holds what the program needs."""
        while self._lost_ranks:
            try:
                self._replace()
            except Lost:
                continue

    def _replace(self) -> None:
        self._recovering |= dict.fromkeys(self._lost_ranks - self._recovering.keys(), self._now())
        size, seconds = self._settings.ranks, self._settings.replace_seconds
        for rank in self._lost_ranks:
            self._hosts.pop(rank, None)
        self._wait_for_workers(size, seconds)
        if not self._alive:
            raise self._no_worker("all workers were lost, and no other has come")
        self._failures.clear()  # who has failed fails again
        lost = sorted(self._lost_ranks)  # some more, perhaps, while it waited
        for rank in lost:
            self._hosts.pop(rank, None)
        self._lost_ranks.clear()
        self._fresh.update(lost)
        self._place(lost)
        self.epoch += 1
        self._op = 0
        self._announce(lost)
        self._give_back(sorted(self._fresh))
        self._fresh.clear()
        self._unsent = dict(self._values)

    def _give_back(self, fresh: Sequence[int]) -> None:
        """Let fresh ranks hold what the others hold."""
        every = set(range(self._settings.ranks))
        for table in self._journal.states():
            holder = min(every - set(fresh), default=None)
            if holder is None:
                raise StateLost
            schema, blocks = self._dumped(table, holder)
            op = self._submit("put", [table, list(fresh)], (schema, blocks))
            self._await(op, every, lambda rank, piece: None)
        for entry in self._journal.again():
            self._unsent.update(entry.slots)
            op = self._submit(entry.verb, entry.stage)
            self._await(op, every, lambda rank, piece: None)

    def _dumped(self, table: int, holder: int) -> tuple[Schema, list[Block]]:
        """A table of a state, from a rank that holds it."""
        schema = _state_schema(self._plan, table)
        sent = FromRanks(schema)
        op = self._submit("dump", [table, holder])
        replies = self._await(op, {holder}, sent.take)
        if not replies[holder].header:
            raise StateLost
        return schema, [b for _, blocks in sorted(sent.found.items()) for b in blocks]


def _state_schema(plan: PhysicalPlan, table: int) -> Schema:
    for loop in plan.loops:
        for own in loop.tables:
            if own.state == table:
                return own.schema
    raise StateLost  # a table that is only kept: nobody knows how it lay

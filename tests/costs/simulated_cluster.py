"""An iteration on N machines, message by message: a discrete-event simulation of the protocol.

A witness of the cost model: nothing of `optimizer/` is used here, and no formula of it. The ranks
are the engine's own (`engine/cluster/rank_job.py`), which run its own reduction
(`collective.combine`) over its own tree of ranks; what stands in for computing, sockets and links
is time that passes. A machine has a thread that hears messages, frame by frame as they come, and
computes what is quick; one that computes the rest; and a port that what it sends leaves by, one
message at a time. Not simulated: losses, and acknowledgements, which are part of what a message
takes.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from heapq import heappop, heappush
from itertools import count
from typing import Any, Literal

import numpy as np

from scalops.engine.cluster.actions import Action, Compute, Computed, Emit
from scalops.engine.cluster.coordinator import FORWARD_BYTES
from scalops.engine.cluster.messages import Command, Data, Replied
from scalops.engine.cluster.rank_job import DRIVER_NAME, Clock, RankJob
from scalops.engine.cluster.worker_loop import called
from scalops.engine.collective import (
    Piece,
    Program,
    Ranks,
    Receive,
    Send,
    Span,
    Spans,
    combine,
    tree_steps,
)
from scalops.engine.columns import Array

PLENTIFUL = 1 << 40  # partitions: every rank has as many as any other, within a unit
JOB, EPOCH = 1, 1
# How partials meet: along the engine's tree; at the driver; along a tree as the literature counts,
# where who adds up also passes on its own partial, the driver is on the root's machine, and records
# are shared out evenly.
Way = Literal["tree", "driver", "passed"]


@dataclass(frozen=True)
class Links:
    """What messages take, in seconds.

    `hop`: until a message is heard of that leaves a thread with nothing else to send. `send`: of
    that thread, until it can send another. `message`: of the one that hears it. `link`: bytes/s,
    through the sender's port and by the thread that hears them. `add`: bytes/s of partials added.
    """

    hop: float = 0.0
    send: float = 0.0
    message: float = 0.0
    link: float = math.inf
    add: float = math.inf


@dataclass(frozen=True)
class Work:
    """What one iteration has to do, on machines of one kind.

    `records` in `partitions`; `map`: seconds per record, what a rank adds up of its own leaves
    included; `load`: seconds more per record that is not in memory; `cache`: records that a
    machine's memory holds. Where it does not hold all and `partly` is False, it holds none.
    `partial_bytes`: of a partial by the leaves that it covers. `environment_bytes` go out with each
    command, `forwarded` down the tree, or to each rank by the driver; None: as the engine decides.
    `update`: seconds of the driver's step. `jitter`: standard deviation of the logarithm of each
    rank's speed, drawn anew in each iteration.
    """

    records: float
    map: float
    load: float = 0.0
    cache: float = math.inf
    partly: bool = True
    partial_bytes: Callable[[int], int] = lambda leaves: 0
    environment_bytes: int = 0
    forwarded: bool | None = None
    update: float = 0.0
    jitter: float = 0.0
    partitions: int = PLENTIFUL


@dataclass(frozen=True)
class Iteration:
    """What came of one iteration: all in seconds since it began, but the last three.

    `commanded`, `mapped`: when the last rank had its command, and its own partial. `leaves`: how
    many leaves the result covers.
    """

    commanded: float
    mapped: float
    seconds: float
    leaves: int
    messages: int
    moved_bytes: int


@cache
def _nothing(size: int) -> Array:
    """An array of so many bytes that takes no memory."""
    return np.broadcast_to(np.zeros(1, np.uint8), size)


@dataclass
class _Thread:
    """Events that a machine's thread handles, one after the other.

    `free`: when it has handled those that it has begun. `sent`: when its port is free.
    """

    waiting: deque[Any] = field(default_factory=deque)
    is_awake: bool = False
    is_hearing: bool = False
    free: float = 0.0
    sent: float = 0.0


class _Events:
    """What happens, in the order of time; of equal times in the order of being told."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = count()

    def at(self, time: float, event: Callable[[float], None]) -> None:
        """Have something happen."""
        heappush(self._heap, (time, next(self._numbers), event))

    def run(self, is_over: Callable[[], bool]) -> None:
        """Let things happen until it is over; RuntimeError where nothing happens any more."""
        while not is_over():
            if not self._heap:
                raise RuntimeError("the ranks wait for each other")
            time, _, event = heappop(self._heap)
            event(time)


class _Machine:
    """A rank's machine: its share of the work, and the threads and ports that it has."""

    def __init__(self, cluster: SimulatedCluster, own: int, random_: random.Random) -> None:
        self._cluster, self._random = cluster, random_
        self.thread = _Thread()
        self._computing_until = 0.0
        self.spent = 0.0  # seconds of computing, of the step that runs and of all before
        work = cluster.work
        ranks = Ranks(own, cluster.size, cluster.fan_ins)
        first, stop = ranks.range_of(own, work.partitions)
        is_even = cluster.way == "passed"
        share = 1 / ranks.size if is_even else (stop - first) / work.partitions
        self._records = work.records * share
        self._leaves = _leaves_of(ranks, cluster.leaves, work.partitions)
        self._has_read = False
        clock = Clock(lambda: self.spent)
        self.job = RankJob(JOB, EPOCH, ranks, self._start, count(1), clock)
        self.job.hosts = cluster.names
        self.mapped_at = self.commanded_at = 0.0

    # What a rank computes.

    def _start(self, command: Command, buffers: list[Array]) -> Program[Piece | None]:
        programs = {"tree": self._tree, "driver": self._driver, "passed": self._passed}
        return programs[command.verb]()

    def _tree(self) -> Program[Piece | None]:
        own = self._mapped()
        whole = yield from combine(self.job.ranks, own, self._encoded, lambda n, buffers: n)
        return None if whole is None else self._piece(whole[0])

    def _passed(self) -> Program[Piece | None]:
        """Who adds up passes on its own partial, too: each level takes as many as its fan-in."""
        ranks, held = self.job.ranks, sum(self._mapped().held.values())
        for step, wider in tree_steps(ranks.size, ranks.fan_ins):
            if ranks.own % wider:
                break
            group = range(ranks.own, min(ranks.own + wider, ranks.size), step)
            if len(group) < 2:
                continue
            yield Send(ranks.own, self._piece(held))
            held = 0
            for source in group:
                piece = yield Receive(source)
                held += piece.header
        if ranks.parent is None:
            return Piece(held, [])
        yield Send(ranks.parent, self._piece(held))
        return None

    def _piece(self, leaves: int) -> Piece:
        return Piece(leaves, [_nothing(self._cluster.work.partial_bytes(leaves))])

    def _driver(self) -> Program[Piece | None]:
        """Every rank's partials go to the driver."""
        own, buffers = self._mapped(), list[Array]()
        yield from ()
        return Piece([[list(s), self._encoded(n, buffers)] for s, n in own.held.items()], buffers)

    def _mapped(self) -> Spans:
        """The partials of the own leaves: of each, how many leaves it covers."""
        own = Spans([self._cluster.leaves], lambda tree, a, b: a + b)
        for leaf in self._leaves:
            own.add(Span(0, 0, leaf), 1)
        self.spent += self._map_seconds()
        merged = Spans([self._cluster.leaves], self._added)
        merged.held = own.held
        return merged

    def _map_seconds(self) -> float:
        work, records = self._cluster.work, self._records
        held = min(records, work.cache)
        if not self._has_read or (held < records and not work.partly):
            held = 0.0
        self._has_read = True
        slow = math.exp(self._random.gauss(0.0, work.jitter)) if work.jitter else 1.0
        return (records * work.map + (records - held) * work.load) * slow

    def _added(self, tree: int, a: int, b: int) -> int:
        self.spent += self._cluster.work.partial_bytes(b) / self._cluster.links.add
        return a + b

    def _encoded(self, leaves: int, buffers: list[Array]) -> int:
        buffers.append(_nothing(self._cluster.work.partial_bytes(leaves)))
        return leaves

    # What its threads do.

    def take(self, event: Any, now: float) -> float:
        """Handle a message that has been heard, or what has been computed; when that is done."""
        match event:
            case Command() as command, buffers:
                self.commanded_at = now
                actions = self.job.command(command, buffers)
            case Data() as data, buffers:
                actions = self.job.data(data, buffers)
            case Computed(ticket=ticket, outcome=outcome):
                actions = self._computed(ticket, outcome.value, outcome.error, now)
            case _:
                raise TypeError(type(event).__name__)
        return self._carry_out(deque(actions), now)

    def _computed(
        self, ticket: int, value: Any, error: BaseException | None, now: float
    ) -> list[Action]:
        if error is not None:
            raise error
        if not self.mapped_at:
            self.mapped_at = now  # the first step of a command maps
        return self.job.computed(ticket, value, error)

    def _carry_out(self, actions: deque[Action], now: float) -> float:
        while actions:
            match actions.popleft():
                case Emit(peer=peer, body=body, buffers=buffers):
                    now += self._cluster.links.send
                    self._cluster.transmit(self, peer, (body, list(buffers)), now)
                case Compute(quick=True) as compute:
                    before = self.spent
                    done = called(compute)
                    now += self.spent - before
                    told = self._computed(
                        compute.ticket, done.outcome.value, done.outcome.error, now
                    )
                    actions.extend(told)
                case Compute() as compute:
                    self._compute(compute, now)
        return now

    def _compute(self, compute: Compute, now: float) -> None:
        """On the other thread, when it has done what was before."""
        before = self.spent
        done = called(compute)
        begin = max(now, self._computing_until)
        self._computing_until = begin + self.spent - before
        self._cluster.handled(self, done, self._computing_until)

    def begin(self) -> None:
        """A new iteration."""
        self.mapped_at = self.commanded_at = 0.0


class _Driver:
    """The driver's machine: adds up what comes to it."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self.thread = _Thread()
        self.wanted = 0
        self.spans: Spans | None = None
        self.total, self.added = 0, 0.0

    def take(self, event: Any, now: float) -> float:
        """Handle a reply; when that is done."""
        reply: Replied = event[0]
        self.wanted -= 1
        if self.spans is None:
            self.total = reply.piece
            return now
        for span, leaves in reply.piece:
            self.spans.add(Span(*span), leaves)
        if not self.wanted:  # it adds up when all are there
            [self.total] = self.spans.whole()
            now += self.added
        return now

    def merge(self, tree: int, a: int, b: int) -> int:
        self.added += self._cluster.work.partial_bytes(b) / self._cluster.links.add
        return a + b


class SimulatedCluster:
    """N machines and a driver; each `iterate` goes on where the last one has ended."""

    def __init__(
        self,
        size: int,
        fan_ins: tuple[int, ...],
        work: Work,
        links: Links,
        way: Way = "tree",
        seed: int = 0,
    ) -> None:
        """`fan_ins` of the levels of the tree of ranks, the last one that of all further levels."""
        self.size, self.fan_ins, self.work, self.links = size, fan_ins, work, links
        self.way: Way = way
        self.leaves = Ranks(0, size).units(work.partitions)
        self.names = {rank: str(rank) for rank in range(size)}
        self._events = _Events()
        random_ = random.Random(seed)
        self._machines = [_Machine(self, rank, random_) for rank in range(size)]
        self._driver = _Driver(self)
        self._op, self._now = 0, 0.0
        self._messages = self._bytes = 0

    # Messages.

    def transmit(self, sender: Any, peer: str, message: tuple[Any, list[Array]], at: float) -> None:
        """Send a message: its first frame is there after a hop.

        In the literature the driver's messages take what their bytes take.
        """
        receiver = self._driver if peer == DRIVER_NAME else self._machines[int(peer)]
        size = sum(b.nbytes for b in message[1])
        begin = max(at, sender.thread.sent)
        sender.thread.sent = begin + size / self.links.link
        self._messages += 1
        self._bytes += size
        is_latent = self.way != "passed" or isinstance(message[0], Data)
        hop = max(0.0, self.links.hop - self.links.send) if is_latent else 0.0
        self.handled(receiver, message, begin + hop)

    def heard(self, buffers: list[Array]) -> float:
        """Seconds of the thread that hears a message with these."""
        return self.links.message + sum(b.nbytes for b in buffers) / self.links.link

    def handled(self, machine: Any, event: Any, at: float) -> None:
        """Have a machine's thread handle an event that is there at `at`."""
        self._events.at(at, lambda now: self._there(machine, event, now))

    def _there(self, machine: Any, event: Any, now: float) -> None:
        thread = machine.thread
        if isinstance(event, Computed):
            if thread.is_hearing:  # between two frames
                thread.free += machine.take(event, now) - now
                return
            thread.waiting.appendleft(event)
        else:
            thread.waiting.append(event)
        if not thread.is_awake:
            thread.is_awake = True
            self._events.at(max(now, thread.free), lambda now: self._next(machine, now))

    def _next(self, machine: Any, now: float) -> None:
        thread = machine.thread
        if not thread.waiting:
            thread.is_awake = False
            return
        event = thread.waiting.popleft()
        if isinstance(event, Computed):
            self._handle(machine, event, now)
            return
        thread.is_hearing = True
        thread.free = now + self.heard(event[1])
        self._events.at(thread.free, lambda now: self._hear(machine, event, now))

    def _hear(self, machine: Any, event: Any, now: float) -> None:
        """A message is whole, unless something has come between its frames."""
        thread = machine.thread
        if now < thread.free:
            self._events.at(thread.free, lambda now: self._hear(machine, event, now))
            return
        thread.is_hearing = False
        self._handle(machine, event, now)

    def _handle(self, machine: Any, event: Any, now: float) -> None:
        machine.thread.free = machine.take(event, now)
        self._events.at(machine.thread.free, lambda now: self._next(machine, now))

    # Iterations.

    def iterate(self) -> Iteration:
        """One iteration, from the driver's command to the end of its step."""
        began, driver = self._now, self._driver
        self._messages = self._bytes = 0
        for machine in self._machines:
            machine.begin()
        at_driver = self.way == "driver"
        driver.wanted, driver.added = (self.size if at_driver else 1), 0.0
        driver.spans = Spans([self.leaves], driver.merge) if at_driver else None
        self._command()
        self._events.run(lambda: not driver.wanted)
        self._now = driver.thread.free + self.work.update
        return Iteration(
            max(m.commanded_at for m in self._machines) - began,
            max(m.mapped_at for m in self._machines) - began,
            self._now - began,
            driver.total,
            self._messages,
            self._bytes,
        )

    def _command(self) -> None:
        """As `Coordinator` does: to the root alone, or to each rank, one after the other."""
        self._op += 1
        size = self.work.environment_bytes
        forward = self.work.forwarded
        if forward is None:
            forward = self.size > 2 and size > FORWARD_BYTES
        command = Command(JOB, EPOCH, self._op, self.way, None, (), forward)
        now = self._now
        for name in (self.names[0],) if forward else self.names.values():
            now += self.links.send
            self.transmit(self._driver, name, (command, [_nothing(size)]), now)


def _leaves_of(ranks: Ranks, leaves: int, partitions: int) -> range:
    """The leaves whose partitions are a rank's own: a leaf is one unit of partitions."""
    first, stop = ranks.range_of(ranks.own, partitions)
    return range(*(-(-p * leaves // partitions) for p in (first, stop)))

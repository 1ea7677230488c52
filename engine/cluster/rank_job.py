"""One rank of a job, as a worker hosts it: runs commands in their order, asks and answers others.

A state machine without I/O: `handle` of a message or a computed step gives actions. A command is a
program (`collective.py`); each of its steps is computed by whoever carries out `Compute`, and ends
where the program asks for something.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack
import numpy as np

from scalops.engine.cluster.actions import Action, Compute, Emit
from scalops.engine.cluster.messages import (
    Command,
    Credit,
    Data,
    Failed,
    Replied,
    Sent,
    Streamed,
    StreamEnd,
)
from scalops.engine.collective import DRIVER, Ask, Piece, Program, Ranks, Receive, Send, Shuffle
from scalops.engine.processes.errors import encode_error

if TYPE_CHECKING:
    from scalops.engine.columns import Array

DRIVER_NAME = "driver"
LOCAL = frozenset(("adopt", "release"))  # verbs that ask nothing of other ranks
DONE = Piece(None, [])  # a reply that tells nothing but that the command has ended
WINDOW_BYTES = 4 << 20  # of a shuffle, from one rank to another, that have not been taken yet
BATCH_BYTES = 1 << 20  # that are made or taken in one step
BATCH_PIECES = 64
QUICK_SECONDS = 0.01  # a step that took no longer is computed where messages are read, too


class Ended(NamedTuple):
    """A program has ended: its reply, if somebody waits for one."""

    reply: Piece | None


class _Made(NamedTuple):
    """Pieces of a shuffle to be sent."""

    pieces: list[tuple[int, Piece]]
    is_over: bool  # there are no more


class _Taken(NamedTuple):
    """Bytes that the program has taken, by the rank that sent them."""

    sizes: dict[int, int]


@dataclass
class _Stream:
    """A shuffle at this rank."""

    ask: Shuffle
    turn: int
    pieces: Iterator[tuple[int, Piece]]
    waiting: deque[tuple[int, Piece]] = field(default_factory=deque)  # not taken yet
    sent: dict[int, int] = field(default_factory=lambda: defaultdict(int))  # bytes not taken there
    is_over: bool = False  # all own pieces are sent
    held_back: tuple[int, Piece] | None = None


@dataclass
class _Running:
    """The command that runs."""

    op: int
    verb: str
    program: Program[Piece | None]
    waits_for: int | None = None  # the rank of which a piece is awaited
    stream: _Stream | None = None
    turns: int = 0  # shuffles so far
    steps: int = 0  # of the program so far
    end_when_waiting: bool = False


class Clock:
    """The seconds that steps took last, by kind; `is_quick` says whether any may be called so.

    A step that may wait for the driver must not be computed where its messages are read.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.seconds: dict[tuple[str, str, int], float] = {}
        self.is_quick = True


class RankJob:
    """A rank of one job in one epoch."""

    def __init__(
        self,
        job: int,
        epoch: int,
        ranks: Ranks,
        start: Callable[[Command, list[Array]], Program[Piece | None]],
        tickets: Iterator[int],
        clock: Clock,
    ) -> None:
        """`start` makes a command's program; `clock` tells which kinds of steps are quick."""
        self.job, self.epoch, self.ranks = job, epoch, ranks
        self.hosts: dict[int, str] = {}  # the worker of each rank
        self._start, self.tickets, self._clock = start, tickets, clock
        self._commands: dict[int, tuple[Command, list[Array]]] = {}
        self._next_op = 1
        self._running: _Running | None = None
        self.ticket: int | None = None  # of the step that is computed now
        self._failed = False
        self._unwanted = 0  # a command to be ended when it waits
        self._mail: dict[tuple[int, int], deque[Piece]] = defaultdict(deque)  # by op, rank
        self._streamed: dict[tuple[int, int], deque[tuple[int, Piece]]] = defaultdict(deque)
        self._ends: dict[tuple[int, int], set[int]] = defaultdict(set)  # by op, turn: ranks

    @property
    def is_computing(self) -> bool:
        """Whether a step is computed now."""
        return self.ticket is not None

    @property
    def op(self) -> int:
        """The command that runs; 0 for none."""
        return 0 if self._running is None else self._running.op

    # What comes in.

    def command(self, command: Command, buffers: list[Array]) -> list[Action]:
        """A command, perhaps before its turn."""
        actions: list[Action] = []
        if command.forward:
            # The farthest first: most of the others have it from there.
            for child in reversed(self.ranks.children):
                actions += self._to(child, command, buffers)
        if command.op >= self._next_op:
            self._commands.setdefault(command.op, (command, buffers))
        return actions + self._advance()

    def data(self, body: Data, buffers: list[Array]) -> list[Action]:
        """A piece that another rank's program has sent."""
        self._mail[body.op, body.rank].append(Piece(body.piece, buffers))
        running = self._running
        if running is not None and running.waits_for == body.rank and running.op == body.op:
            return self._go_on_after_receive()
        return []

    def streamed(self, body: Streamed, buffers: list[Array]) -> list[Action]:
        """A piece of a shuffle."""
        self._streamed[body.op, body.turn].append((body.rank, Piece(body.piece, buffers)))
        return self._stream_on()

    def stream_end(self, body: StreamEnd) -> list[Action]:
        """All pieces that a rank streams to this one have come."""
        self._ends[body.op, body.turn].add(body.rank)
        return self._stream_on()

    def credit(self, body: Credit) -> list[Action]:
        """Another rank has taken pieces."""
        running = self._running
        if running is None or running.stream is None:
            return []
        if (running.op, running.stream.turn) == (body.op, body.turn):
            running.stream.sent[body.rank] -= body.bytes
        return self._stream_on()

    def end_when_waiting(self, op: int) -> list[Action]:
        """End a command as soon as it waits for another rank, and say so."""
        running = self._running
        if running is not None and running.op == op:
            running.end_when_waiting = True
            return [] if self.is_computing else self._abandoned()
        if op < self._next_op:  # it has ended
            return [self._replied(op, DONE)]
        self._unwanted = op
        return []

    def left_over(self) -> list[tuple[Command, list[Array]]]:
        """Commands that concern nobody else and have not been run yet.

        They stand before the one that is given again in the next epoch.
        """
        found = []
        while (own := self._commands.get(self._next_op)) is not None and own[0].verb in LOCAL:
            found.append(self._commands.pop(self._next_op))
            self._next_op += 1
        return found

    def drop(self) -> None:
        """Nothing of this is wanted any more; what is computed now is dropped when it has been."""
        if self._running is not None and not self.is_computing:
            self._running.program.close()
        self._running = None
        self._commands.clear()
        self._mail.clear()
        self._streamed.clear()

    # Commands.

    def _advance(self) -> list[Action]:
        """Start the next command if its turn has come."""
        if self._running is not None or self.ticket is not None or self._failed:
            return []
        found = self._commands.pop(self._next_op, None)
        if found is None:
            return []
        self._next_op += 1
        command, buffers = found
        verb = command.verb if command.arguments is None else f"{command.verb}{command.arguments!r}"
        program = self._start(command, buffers)
        self._running = _Running(command.op, verb, program)
        self._running.end_when_waiting = command.op == self._unwanted
        return self._step(None)

    def _step(self, value: Any) -> list[Action]:
        running = self._running
        assert running is not None
        program = running.program

        def step() -> Ask | Ended:
            try:
                return program.send(value)
            except StopIteration as end:
                return Ended(end.value)

        running.steps += 1
        return [self._compute(step, "step", running.steps)]

    def _compute(self, call: Callable[[], Any], kind: str, number: int) -> Action:
        """A call: on a thread, but where the same one of the same command was quick last time."""
        running, clock = self._running, self._clock
        assert running is not None
        key = running.verb, kind, number

        def timed() -> Any:
            begin = clock.now()
            try:
                return call()
            finally:
                clock.seconds[key] = clock.now() - begin

        self.ticket = next(self.tickets)
        quick = clock.is_quick and clock.seconds.get(key, QUICK_SECONDS) < QUICK_SECONDS
        return Compute(self.ticket, timed, quick)

    def computed(self, ticket: int, value: Any, error: BaseException | None) -> list[Action]:
        """A step has been computed."""
        if ticket != self.ticket:
            return []
        self.ticket = None
        running = self._running
        if running is None:  # it was dropped meanwhile
            return self._advance()
        if error is not None:
            return self._fail(error)
        if isinstance(value, _Made):
            assert running.stream is not None
            return self._streamed_out(running, running.stream, value) + self._stream_on()
        if isinstance(value, _Taken):
            assert running.stream is not None
            return self._credited(running, running.stream, value) + self._stream_on()
        return self._asked(value)

    def failed(self, error: BaseException) -> list[Action]:
        """What is computed now will never end, and is given up for this."""
        return [] if self._running is None else self._fail(error)

    def computed_in_vain(self) -> None:
        """A step has been computed that nobody waits for any more; what stands behind it stays."""
        self.ticket = None
        if self._running is not None:
            self._running.program.close()
            self._running = None

    def _asked(self, ask: Ask | Ended) -> list[Action]:
        running = self._running
        assert running is not None
        match ask:
            case Ended(reply=reply):
                actions: list[Action] = []
                if reply is None and running.end_when_waiting:
                    reply = DONE  # the driver waits for its end
                if reply is not None:
                    actions.append(self._replied(running.op, reply))
                self._forget(running.op)
                return actions + self._advance()
            case Send(to=to, piece=piece):
                return self._sent(running.op, to, piece) + self._step(None)
            case Receive(source=source):
                running.waits_for = source
                if self._mail[running.op, source]:
                    return self._go_on_after_receive()
                return self._abandoned() if running.end_when_waiting else []
            case Shuffle():
                running.turns += 1
                running.stream = _Stream(ask, running.turns, iter(ask.pieces))
                return self._stream_on()
        raise TypeError(type(ask).__name__)

    def _go_on_after_receive(self) -> list[Action]:
        running = self._running
        assert running is not None
        assert running.waits_for is not None
        piece = self._mail[running.op, running.waits_for].popleft()
        running.waits_for = None
        return self._step(piece)

    def _sent(self, op: int, to: int, piece: Piece) -> list[Action]:
        if to == DRIVER:
            body: Any = Sent(self.job, self.epoch, op, self.ranks.own, piece.header)
            return [Emit(DRIVER_NAME, body, piece.buffers)]
        body = Data(self.job, self.epoch, op, self.ranks.own, to, piece.header)
        return self._to(to, body, piece.buffers)

    def _to(self, rank: int, body: Any, buffers: Any = ()) -> list[Action]:
        return [Emit(self.hosts[rank], body, buffers)]

    def _fail(self, error: BaseException) -> list[Action]:
        running = self._running
        assert running is not None
        partition = getattr(getattr(error, "error", error), "partition", -1)  # of a StageFailure
        told = encode_error(error, None)
        body = Failed(self.job, self.epoch, running.op, self.ranks.own, told, partition)
        self._forget(running.op)
        self._failed = True
        return [Emit(DRIVER_NAME, body)]

    def _abandoned(self) -> list[Action]:
        """End a command that nobody wants any more, for it would wait for another rank."""
        running = self._running
        assert running is not None
        running.program.close()
        self._forget(running.op)
        self._failed = True
        return [self._replied(running.op, DONE)]

    def _replied(self, op: int, reply: Piece) -> Action:
        body = Replied(self.job, self.epoch, op, self.ranks.own, reply.header)
        return Emit(DRIVER_NAME, body, reply.buffers)

    def _forget(self, op: int) -> None:
        self._running = None
        for known in (self._mail, self._streamed, self._ends):
            for key in [k for k in known if k[0] <= op]:
                del known[key]

    # Shuffles.

    def _stream_on(self) -> list[Action]:
        """Take what has come, send more, or go on behind the shuffle."""
        running = self._running
        if running is None or running.stream is None or self.is_computing:
            return []
        stream = running.stream
        key = (running.op, stream.turn)
        stream.waiting.extend(self._streamed.pop(key, ()))
        if stream.waiting:
            return self._take(stream)
        if not stream.is_over and not self._is_held_back(stream):
            return self._make(stream)
        if stream.is_over and len(self._ends[key]) == self.ranks.size - 1:
            running.stream = None
            return self._step(None)
        return self._abandoned() if running.end_when_waiting else []

    def _is_held_back(self, stream: _Stream) -> bool:
        waits = stream.held_back
        return waits is not None and stream.sent[waits[0]] >= WINDOW_BYTES

    def _take(self, stream: _Stream) -> list[Action]:
        """Hand some of what has come to the program."""
        batch: list[tuple[int, Piece]] = []
        sizes: dict[int, int] = defaultdict(int)
        while stream.waiting and sum(sizes.values()) < BATCH_BYTES:
            source, piece = stream.waiting.popleft()
            batch.append((source, piece))
            sizes[source] += _bytes(piece)

        def take() -> _Taken:
            for source, piece in batch:
                stream.ask.take(source, piece)
            return _Taken(sizes)

        return [self._compute(take, "take", stream.turn)]

    def _make(self, stream: _Stream) -> list[Action]:
        """Have the program make some pieces; those for this rank are taken at once."""
        own = self.ranks.own

        def make() -> _Made:
            made = [] if stream.held_back is None else [stream.held_back]
            stream.held_back = None
            sizes = dict(stream.sent)
            for count, (to, piece) in enumerate(stream.pieces, 1):
                if to == own:
                    stream.ask.take(own, _arrived(piece))
                elif sizes.get(to, 0) >= WINDOW_BYTES:
                    stream.held_back = to, piece
                    return _Made(made, is_over=False)
                else:
                    made.append((to, piece))
                    sizes[to] = sizes.get(to, 0) + _bytes(piece)
                if count == BATCH_PIECES or sum(_bytes(p) for _, p in made) >= BATCH_BYTES:
                    return _Made(made, is_over=False)
            return _Made(made, is_over=True)

        return [self._compute(make, "make", stream.turn)]

    def _streamed_out(self, running: _Running, stream: _Stream, made: _Made) -> list[Action]:
        """Send what was made."""
        own, actions = self.ranks.own, list[Action]()
        place = (self.job, self.epoch, running.op, stream.turn, own)
        for to, piece in made.pieces:
            stream.sent[to] += _bytes(piece)
            actions += self._to(to, Streamed(*place, to, piece.header), piece.buffers)
        if made.is_over:
            stream.is_over = True
            for to in range(self.ranks.size):
                if to != own:
                    actions += self._to(to, StreamEnd(*place, to))
        return actions

    def _credited(self, running: _Running, stream: _Stream, taken: _Taken) -> list[Action]:
        place = (self.job, self.epoch, running.op, stream.turn, self.ranks.own)
        sizes = taken.sizes.items()
        return [a for rank, n in sizes for a in self._to(rank, Credit(*place, rank, n))]


def _arrived(piece: Piece) -> Piece:
    """A piece of the rank's own, as one of another rank's would arrive."""
    header = msgpack.unpackb(msgpack.packb(piece.header), strict_map_key=False)
    buffers = [np.ascontiguousarray(b).reshape(-1).view(np.uint8) for b in piece.buffers]
    return Piece(header, buffers)


def _bytes(piece: Piece) -> int:
    return sum(b.nbytes for b in piece.buffers) + 64

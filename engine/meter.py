"""Measures where blocks are computed: each operator's own seconds, its records and bytes.

Pipelines pull: whoever asks for a block waits for what it reads. So each thread has a clock that is
switched to the operator at work and back; an operator has the time in which the clock stood on it.
Without a meter nothing of this is built. Nothing that is measured has a part in any result.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import msgpack

from scalops.engine.collective import DRIVER, Ask, Piece, Program, Send, Shuffle
from scalops.engine.pipelines.base import Pipeline, StoredPipeline
from scalops.engine.stage_operators import operators_of

if TYPE_CHECKING:
    from scalops.engine.blocks import Block
    from scalops.engine.columns import Array
    from scalops.engine.memory import MemoryBudget
    from scalops.engine.physical_plan import Stage
    from scalops.engine.threads import Task

T = TypeVar("T")
# Beside the numbers of a stage's operators: partial results are combined; its caller waits.
AGGREGATE, WAIT = -1, -2
FROM_MEMORY, FROM_FILE, MADE_AGAIN = range(3)  # where a partition of a stored table comes from
READS = 3
Key = tuple[int, int]  # a stage and one of its operators


class Tally:
    """What an operator has done: seconds, and the records, bytes and blocks that it delivered."""

    __slots__ = ("blocks", "bytes", "rows", "seconds")

    def __init__(self, seconds: float = 0.0, rows: int = 0, size: int = 0, blocks: int = 0) -> None:
        self.seconds, self.rows, self.bytes, self.blocks = seconds, rows, size, blocks

    def add(self, other: Tally) -> None:
        """Count what another one has."""
        self.seconds += other.seconds
        self.rows += other.rows
        self.bytes += other.bytes
        self.blocks += other.blocks


class _Clock(threading.local):
    """A thread's: on which operator it stands, and since when."""

    def __init__(self, made: Callable[[_Clock], None]) -> None:
        self.tallies: dict[Key, Tally] = {}
        self.stack: list[Key] = []
        self.since = 0.0
        self.looks = 0
        made(self)


@dataclass
class StageMeasure:
    """What was done for a stage: tallies by operator number, on so many threads (`lanes`).

    `seconds` from the beginning to the end, where the rank knows these; bytes that were sent.
    """

    operators: dict[int, Tally] = field(default_factory=dict)
    lanes: int = 0
    seconds: float = 0.0
    to_driver: int = 0
    to_ranks: int = 0


@dataclass
class Measured:
    """What a process has measured since it was last asked, as data that msgpack can hold.

    `reads` of stored tables: partitions read from memory, from files of the run's own, and others.
    `spilled` and `peak` are bytes of the whole run so far, `owners` what each held at most, and
    `files` what each has put into files.
    """

    stages: dict[int, StageMeasure] = field(default_factory=dict)
    reads: dict[int, list[int]] = field(default_factory=dict)
    spilled: int = 0
    peak: int = 0
    owners: dict[str, int] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)

    def stage(self, number: int) -> StageMeasure:
        """Of a stage; made where there is none yet."""
        return self.stages.setdefault(number, StageMeasure())

    def add(self, other: Measured) -> None:
        """Count what another process has measured of the same stages; its threads are others."""
        for number, theirs in other.stages.items():
            own = self.stage(number)
            for at, tally in theirs.operators.items():
                own.operators.setdefault(at, Tally()).add(tally)
            own.lanes += theirs.lanes
            own.seconds = max(own.seconds, theirs.seconds)
            own.to_driver += theirs.to_driver
            own.to_ranks += theirs.to_ranks
        for table, counts in other.reads.items():
            found = self.reads.get(table, [0] * READS)
            self.reads[table] = [a + b for a, b in zip(found, counts, strict=True)]

    def to_data(self) -> list[Any]:
        """Lists of numbers and texts."""
        stages = [
            [
                n,
                [[k, t.seconds, t.rows, t.bytes, t.blocks] for k, t in s.operators.items()],
                [s.lanes, s.seconds, s.to_driver, s.to_ranks],
            ]
            for n, s in self.stages.items()
        ]
        reads = [[n, *found] for n, found in self.reads.items()]
        owners, files = (list(map(list, d.items())) for d in (self.owners, self.files))
        return [stages, reads, self.spilled, self.peak, owners, files]

    @classmethod
    def of_data(cls, data: Sequence[Any]) -> Measured:
        """What `to_data` gave in another process."""
        stages, reads, spilled, peak, *sizes = data
        owners, files = ({str(k): int(v) for k, v in items} for items in sizes)
        made = cls(spilled=int(spilled), peak=int(peak), owners=owners, files=files)
        for number, operators, rest in stages:
            tallies = {int(k): Tally(float(s), *map(int, counts)) for k, s, *counts in operators}
            lanes, seconds, to_driver, to_ranks = rest
            sent = int(to_driver), int(to_ranks)
            made.stages[int(number)] = StageMeasure(tallies, int(lanes), float(seconds), *sent)
        made.reads = {int(n): list(map(int, counts)) for n, *counts in reads}
        return made


class Threads(Protocol):
    """Who runs a stage's tasks."""

    def run(self, task: Task, count: int, *stages: int) -> None:
        """Call task(worker, index) for every index, for these stages."""


class Meter:
    """Of one plan in one process; its threads use it at once."""

    def __init__(self) -> None:
        self._sinks: dict[int, int] = {}
        self._budget: MemoryBudget | None = None
        self._lock = threading.Lock()
        self._clocks: list[dict[str, Any]] = []
        self._clock = _Clock(self._made)
        self._found = Measured()  # what is not counted by clocks

    def _made(self, clock: _Clock) -> None:
        with self._lock:
            self._clocks.append(clock.__dict__)  # of the thread that uses it first

    def begin(self, stages: Sequence[Stage], budget: MemoryBudget | None = None) -> None:
        """These stages are run, within a budget whose peak is told."""
        self._sinks = {s.number: len(operators_of(s)) - 1 for s in stages}
        self._budget = budget

    # Clocks.

    def enter(self, key: Key) -> None:
        """The calling thread works for this operator from now on."""
        clock, now = self._clock, perf_counter()
        if clock.stack:
            _tally(clock.tallies, clock.stack[-1]).seconds += now - clock.since
        clock.stack.append(key)
        clock.since = now

    def leave(self) -> None:
        """It goes on with what it was at before."""
        clock, now = self._clock, perf_counter()
        _tally(clock.tallies, clock.stack.pop()).seconds += now - clock.since
        clock.since = now

    def at(self, stage: int, operator: int | None = None) -> _At:
        """A context in which the calling thread works for an operator, or for a stage's sink."""
        return _At(self, self.sink(stage) if operator is None else (stage, operator))

    def combining(self, stage: int) -> _At:
        """A context in which the calling thread combines a stage's partial results."""
        return self.at(stage, AGGREGATE)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """A context in which the calling thread takes a first look at what will be read again.

        That takes time, as all reading does; but records are counted when they are read.
        """
        self._clock.looks += 1
        try:
            yield
        finally:
            self._clock.looks -= 1

    def sink(self, stage: int) -> Key:
        """The sink of a stage."""
        return stage, self._sinks[stage]

    def steps(self, key: Key, source: Iterator[T]) -> Iterator[T]:
        """The items of an iterator, whose own work is the operator's."""
        end = object()
        while True:
            self.enter(key)
            try:
                item = next(source, end)
            finally:
                self.leave()
            if item is end:
                return
            yield cast("T", item)

    def blocks(self, key: Key, source: Iterator[Block]) -> Iterator[Block]:
        """Blocks that an operator delivers."""
        for block in self.steps(key, source):
            clock = self._clock
            # A last one that is the same hands them to itself.
            if not clock.looks and (not clock.stack or clock.stack[-1] != key):
                tally = _tally(clock.tallies, key)
                tally.rows += block.rows
                tally.bytes += block.bytes
                tally.blocks += 1
            yield block

    def pipeline(self, key: Key, kind: type[Pipeline], *given: Any) -> Pipeline:
        """A pipeline of this class, with its blocks measured as an operator's."""
        made: Watched = _watched(kind)(*given)
        made.meter, made.key = self, key
        return made

    def read(self, table: int, place: int) -> None:
        """A partition of a stored table is read, from memory, from a file, or made again."""
        if self._clock.looks:
            return
        with self._lock:
            self._found.reads.setdefault(table, [0] * READS)[place] += 1

    # Tasks and programs.

    def threads(self, threads: Threads) -> Threads:
        """The same threads; what tasks do beside operators is their sink's."""
        return _Threads(threads, self)

    def program(self, stages: Sequence[int], program: Program[T]) -> Program[T]:
        """A program that runs stages; what it does beside operators is the first one's sink's."""
        begin, value = perf_counter(), None
        key = self.sink(stages[0])
        own = StageMeasure()
        try:
            while True:
                self.enter(key)
                try:
                    ask = program.send(value)
                except StopIteration as end:
                    result: T = end.value
                    return result
                finally:
                    self.leave()
                value = yield self._sent(ask, key, own)
        finally:
            program.close()
            own.seconds = perf_counter() - begin
            with self._lock:
                self._found.add(Measured({stages[0]: own}))

    def _sent(self, ask: Ask, key: Key, own: StageMeasure) -> Ask:
        """What a program asks for, with the bytes that it sends counted."""
        match ask:
            case Send(to=to, piece=piece):
                _count(own, to, piece)
            case Shuffle(pieces=pieces, take=take):

                def counted() -> Iterator[tuple[int, Piece]]:
                    for to, piece in self.steps(key, iter(pieces)):
                        _count(own, to, piece)
                        yield to, piece

                def taken(source: int, piece: Piece) -> None:
                    with _At(self, key):
                        take(source, piece)

                return Shuffle(counted(), taken)
        return ask

    def add(self, other: Measured) -> None:
        """Count what another process has measured for this one."""
        with self._lock:
            self._found.add(other)

    def told(self, header: Any, buffers: Sequence[Array]) -> list[Any]:
        """The header of a reply with what was measured: the driver's recorder takes it apart."""
        return [header, self.taken().to_data(), size_of(header, buffers)]

    def taken(self) -> Measured:
        """What was measured since the last time; no thread is at work for the plan."""
        with self._lock:
            made, self._found = self._found, Measured()
            for clock in self._clocks:
                tallies, clock["tallies"] = clock["tallies"], {}
                for stage in {s for s, n in tallies if n != WAIT}:
                    made.stage(stage).lanes += 1
                for (stage, number), tally in tallies.items():
                    made.stage(stage).operators.setdefault(number, Tally()).add(tally)
        if self._budget is not None:
            made.spilled, made.peak = self._budget.spilled, self._budget.peak
            made.owners, made.files = self._budget.peaks(), self._budget.spilled_by()
        return made


def _tally(tallies: dict[Key, Tally], key: Key) -> Tally:
    found = tallies.get(key)
    if found is None:
        found = tallies[key] = Tally()
    return found


def size_of(header: Any, buffers: Iterable[Array]) -> int:
    """Bytes of a message's content, as it is sent."""
    return len(msgpack.packb(header)) + sum(b.nbytes for b in buffers)


def _count(own: StageMeasure, to: int, piece: Piece) -> None:
    size = size_of(*piece)
    if to == DRIVER:
        own.to_driver += size
    else:
        own.to_ranks += size


class _At:
    __slots__ = ("_key", "_meter")

    def __init__(self, meter: Meter, key: Key) -> None:
        self._meter, self._key = meter, key

    def __enter__(self) -> None:
        self._meter.enter(self._key)

    def __exit__(self, *_: object) -> None:
        self._meter.leave()


class _Threads:
    def __init__(self, threads: Threads, meter: Meter) -> None:
        self._threads, self._meter = threads, meter

    def run(self, task: Task, count: int, *stages: int) -> None:
        meter = self._meter

        def timed(worker: int, index: int) -> None:
            with meter.at(stages[0]):
                task(worker, index)

        with meter.at(stages[0], WAIT):
            self._threads.run(timed, count, *stages)


class Watched(Pipeline):
    """A pipeline whose blocks are measured; mixed into the classes of pipelines."""

    meter: Meter
    key: Key

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        return self.meter.blocks(self.key, super().blocks(partition, worker))

    def between(self, partition: int, worker: int, start: int, stop: int) -> Iterator[Block]:
        return self.meter.blocks(self.key, super().between(partition, worker, start, stop))


class _WatchedStored(Watched, StoredPipeline):
    """Counts, too, which partitions are in memory."""

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        place = FROM_FILE if self.table.is_filed(partition) else MADE_AGAIN
        if self.table.held(partition) is not None:
            place = FROM_MEMORY
        self.meter.read(self._number, place)
        return super().blocks(partition, worker)

    def between(self, partition: int, worker: int, start: int, stop: int) -> Iterator[Block]:
        if self.table.held(partition) is not None:  # else it reads `blocks`
            self.meter.read(self._number, FROM_MEMORY)
        return super().between(partition, worker, start, stop)


_classes: dict[type, type[Watched]] = {StoredPipeline: _WatchedStored}


def _watched(kind: type[Pipeline]) -> type[Watched]:
    """The class of a pipeline with its blocks measured."""
    if kind not in _classes:
        _classes[kind] = cast("type[Watched]", type(f"Watched{kind.__name__}", (Watched, kind), {}))
    return _classes[kind]

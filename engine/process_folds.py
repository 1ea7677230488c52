"""Passes over cached tables by several processes: this one and workers that share its memory.

Threads of one process take turns at Python: what a kernel does between two calls of NumPy holds
the interpreter's lock. Processes do not. The workers map the table's arrays and build the same
kernels; an iteration sends them the values that changed, and they send back partials. Tasks are
taken from a pipe by whoever is free, this process among them. A task that nobody has answered for
is done here: so a worker that dies costs time, and an error is raised here as it would have been.
"""

from __future__ import annotations

import itertools
import os
import pickle
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from scalops.algebra.errors import ExecutionError
from scalops.algebra.tree import substitute
from scalops.engine import physical_plan as pp
from scalops.engine.column_codec import add
from scalops.engine.columns import Array
from scalops.engine.kept_tables import KeptSource
from scalops.engine.memory import MemoryBudget
from scalops.engine.meter import WAIT, Measured
from scalops.engine.passes import Leaf, Pass
from scalops.engine.physical_work import kept_source
from scalops.engine.pipelines.base import Runtime
from scalops.engine.processes.fold_worker import Told
from scalops.engine.processes.messages import Message
from scalops.engine.processes.shared_memory import SharedTable, Tokens
from scalops.engine.stacked import stacks_of
from scalops.engine.value_codec import decode_value

if TYPE_CHECKING:
    from scalops.engine.processes.handle import WorkerHandle
    from scalops.engine.processes.runner import Lane, ProcessRunner

CHUNKS = 64  # of a pass: what the last one takes is what the others wait for
LEAST_PATIENCE = 10.0  # seconds; a worker that takes longer than this process did is not waited for
PATIENCE = 20.0  # times what this process took
_START_SECONDS = 60.0
_FORGET_SECONDS = 2.0
_DEATHS = 3  # workers that a plan may lose before it does without

# What a message cannot hold, or is larger than one may be.
_NOT_SENT = (pickle.PicklingError, TypeError, AttributeError, ExecutionError)

Chunk = list[list[Leaf]]  # for each reduction, its leaves, or what they give together


@dataclass(frozen=True)
class FoldPlace:
    """Which stages fold on processes: this one and `workers` others.

    With `wait` a pass waits for workers that are starting; without, it goes on without them.
    """

    workers: int
    stages: frozenset[int] = frozenset()
    wait: bool = False


@dataclass
class _Known:
    """What a worker knows of a plan."""

    tables: dict[int, SharedTable] = field(default_factory=dict)
    slots: dict[int, int] = field(default_factory=dict)  # the version that it was told last
    active: dict[tuple[tuple[int, ...], ...], list[int]] = field(default_factory=dict)


_plans = itertools.count()


class ProcessFolds:
    """The stages of one plan that may fold on processes; one thread uses it."""

    def __init__(
        self, plan: pp.PhysicalPlan, runtime: Runtime, runner: ProcessRunner, place: FoldPlace
    ) -> None:
        self._stages = {s.number: s for s in plan.stages}
        self._stacks = stacks_of(plan)
        self._runtime, self._runner, self._place = runtime, runner, place
        self._chosen = place.stages
        self._key = f"{os.getpid()}:{next(_plans)}"
        self._tables: dict[int, SharedTable] = {}
        self._sources: list[KeptSource] = []
        self._lanes: list[Lane] | None = None
        self._deaths = 0
        self._tokens: Tokens | None = None
        self.trouble: str | None = None  # why no more is asked of workers

    # What is shared.

    def choose(self, stages: Iterable[int]) -> None:
        """Let these fold on processes too."""
        self._chosen = self._chosen | frozenset(stages)
        for lane in self._lanes or ():
            if lane.worker is not None:
                lane.worker.told.pop(self._key, None)  # they are told of all that are chosen

    def wants(self, table: int) -> bool:
        """Whether a stage that was chosen folds this cached table."""
        return table in {self._base(self._stages[s]) for s in self._chosen}

    def kept(self) -> list[tuple[int, KeptSource]]:
        """The session's tables that are folded by chosen stages, and numbers for them."""
        chosen = (kept_source(self._stages[s]) for s in sorted(self._chosen))
        for source in chosen:
            if source is not None and source not in self._sources:
                self._sources.append(source)
        return [(-1 - i, source) for i, source in enumerate(self._sources)]

    def _base(self, stage: pp.Stage) -> int | None:
        """The number of the table on which a stage rests."""
        table = pp.base(stage.source)
        if isinstance(table, pp.StoredTable):
            return table.number
        source = kept_source(stage)
        return -1 - self._sources.index(source) if source in self._sources else None

    def _told(self, stage: pp.Stage) -> pp.Stage:
        """A stage as a worker is told of it: a kept table is one that it holds."""
        source, number = kept_source(stage), self._base(stage)
        if source is None or number is None:
            return stage
        scan = pp.base(stage.source)
        return substitute(stage, {scan: pp.StoredTable(number, scan.schema)})

    def hold(self, number: int, table: SharedTable | None) -> None:
        """A cached table is in shared memory now; None: it is not."""
        self._tables.pop(number, None)
        if table is not None:
            self._tables[number] = table

    def start(self) -> None:
        """Start the workers; they need a while until they are ready."""
        self._workers(wait=0.0)

    # Passes.

    def run(self, made: Pass, budget: MemoryBudget, owner: str) -> bool:
        """Run a pass; False where it is to be run on threads."""
        if not self._chosen.issuperset(made.stages) or made.tasks == 1 or self.trouble is not None:
            return False
        if not all(self._base(self._stages[s]) in self._tables for s in made.stages):
            return False
        workers = self._workers(_START_SECONDS if self._place.wait else 0.0)
        if not workers or not budget.reserve(made.partial_bytes, owner):
            return False
        try:
            made.begin()
            made.finish(self._chunks(made, workers, budget))
        finally:
            budget.release(owner)
        return True

    def _chunks(
        self, made: Pass, workers: Sequence[tuple[Lane, WorkerHandle]], budget: MemoryBudget
    ) -> list[Chunk]:
        count = min(made.tasks, CHUNKS)
        size = made.tasks // count
        if self._tokens is None:
            self._tokens = Tokens()
        tokens = self._tokens
        done: dict[int, Chunk] = {}
        errors: dict[int, Exception] = {}
        asked: list[tuple[Lane, WorkerHandle]] = []
        failed: str | None = None

        def fold(chunk: int) -> None:
            done[chunk] = made.chunk(0, chunk * size, (chunk + 1) * size)

        begin = perf_counter()
        try:
            tokens.put(count)
            for lane, worker in workers:
                lane.lend(True)
                asked.append((lane, worker))
                try:
                    worker.send(self._request(worker, made, size, budget))
                except _NOT_SENT as error:
                    failed = f"{type(error).__name__}: {error}"
                    worker.told.pop(self._key, None)
                    asked.pop()
                except OSError:
                    self._lose(lane)
                    asked.pop()
            while (chunk := tokens.take()) is not None:
                try:
                    fold(chunk)
                except Exception as error:  # perhaps not the first one in order
                    errors[chunk] = error
                    tokens.drain()
            patience = max(LEAST_PATIENCE, PATIENCE * (perf_counter() - begin))
            with self._waiting(made):
                while asked:
                    lane, worker = asked[0]
                    failed = self._answer(lane, worker, patience, done, count) or failed
                    asked.pop(0)
        except BaseException:
            tokens.drain()
            for lane, _ in asked:  # at work on what nobody wants any more
                lane.lose(died=False)
            raise
        finally:
            for lane, _ in workers:
                lane.lend(False)
        for chunk in range(count):
            if chunk in errors:
                raise errors[chunk]
            if chunk not in done:
                fold(chunk)
        self.trouble = failed  # which was none of the records
        return [done[chunk] for chunk in range(count)]

    def _waiting(self, made: Pass) -> AbstractContextManager[None]:
        """While others work the calling thread does nothing for the pass."""
        meter = self._runtime.meter
        return nullcontext() if meter is None else meter.at(made.stages[0], WAIT)

    # Workers.

    def _workers(self, wait: float) -> list[tuple[Lane, WorkerHandle]]:
        """Those that are ready, after waiting so long for each."""
        if self._lanes is None:
            self._lanes = self._runner.lanes(self._place.workers)
        ready = []
        begun = [(lane, lane.start()) for lane in self._lanes if self._deaths < _DEATHS]
        for lane, worker in begun:
            try:
                if worker.is_ready(wait):
                    ready.append((lane, worker))
            except (OSError, EOFError, ValueError):
                self._lose(lane)
        return ready

    def _lose(self, lane: Lane) -> None:
        self._deaths += 1
        lane.lose()

    def _request(
        self, worker: WorkerHandle, made: Pass, size: int, budget: MemoryBudget
    ) -> Message:
        """What a worker needs to take part in a pass, and does not know yet."""
        assert self._tokens is not None
        buffers: list[Array] = []
        header: dict[str, Any] = {"task": "partials", "plan": self._key, "size": size}
        header |= {"units": made.units, "tokens": self._tokens.where}
        stages = [self._stages[s] for s in made.stages]
        known = worker.told.get(self._key)
        if known is None:
            known = worker.told[self._key] = _Known()
            own = [self._told(s) for s in self._stages.values() if s.number in self._chosen]
            stacks = tuple(s for s in self._stacks if self._chosen.issuperset(s))
            free, profile = self._free(budget), self._runtime.meter is not None
            told = Told(tuple(own), stacks, len(self._runtime.slots), free, profile)
            header["told"] = _pickled(told, buffers)
        tables = {n: self._tables[n] for n in map(self._base, stages) if n is not None}
        new = {n: t for n, t in tables.items() if known.tables.get(n) is not t}
        if new:
            header["tables"] = _pickled({n: t.place for n, t in new.items()}, buffers)
            known.tables.update(new)
            known.active.clear()
        versions = {n: self._runtime.slot_versions.get(n, 0) for s in stages for n in s.reads}
        changed = {n: v for n, v in versions.items() if known.slots.get(n) != v}
        if changed:
            values = {n: self._runtime.slots[n] for n in changed}
            header["slots"] = _pickled(values, buffers)
            known.slots.update(changed)
        active = list(made.active)
        if known.active.get(made.units) != active:
            header["active"] = known.active[made.units] = active
        return Message(header, buffers)

    def _free(self, budget: MemoryBudget) -> int | None:
        """Bytes that a worker's buffers may take."""
        if budget.limit is None:
            return None
        return max(0, budget.limit - budget.held) // (self._place.workers + 1)

    def _answer(
        self,
        lane: Lane,
        worker: WorkerHandle,
        patience: float,
        done: dict[int, Chunk],
        count: int,
    ) -> str | None:
        """Take a worker's partials; its trouble, if it had some."""
        try:
            header, buffers = worker.receive(patience)
            parts = header["parts"]
            found = {chunk: decode_value(item, buffers) for chunk, item in parts}
            if not found.keys() <= set(range(count)) - done.keys():
                raise ValueError("partials of chunks that it cannot have taken")
            if self._runtime.meter is not None and "measured" in header:
                self._runtime.meter.add(Measured.of_data(header["measured"]))
        except (OSError, EOFError, TimeoutError, ValueError, TypeError, KeyError, IndexError):
            self._lose(lane)
            return None
        done.update(found)
        if "failed" not in header:
            return None
        worker.told.pop(self._key, None)  # nobody knows how far it came
        return str(header["failed"])

    def stop(self) -> None:
        """Let workers forget the plan: what they map is memory until then."""
        for lane in self._lanes or ():
            worker = lane.worker
            if worker is None or worker.told.pop(self._key, None) is None:
                continue
            try:
                worker.send(Message({"task": "partials", "forget": [self._key]}, []))
                worker.receive(_FORGET_SECONDS)
            except (OSError, EOFError, TimeoutError, ValueError):
                lane.lose(died=False)
        self._lanes = None
        self._tables.clear()
        self._tokens = None


def _pickled(value: Any, buffers: list[Array]) -> int:
    """Put a value among the buffers, for a worker; its number there."""
    return add(np.frombuffer(pickle.dumps(value, pickle.HIGHEST_PROTOCOL), np.uint8), buffers)

"""Several ranks in one thread, in lock-step: each runs until it needs another one.

What a program asks is answered at once and without a network, so that tests of programs over
partitions need nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgpack
import numpy as np

from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine.backends import TableInfo, Take
from scalops.engine.blocks import Block
from scalops.engine.collective import (
    BROADCAST_BYTES,
    Ask,
    Piece,
    Program,
    Ranks,
    Receive,
    Send,
    Shuffle,
)
from scalops.engine.free_memory import FreeMemory
from scalops.engine.memory import MemoryBudget
from scalops.engine.neutral import Change
from scalops.engine.share import Share
from scalops.engine.threads import Task


def sent(piece: Piece) -> Piece:
    """A piece as it arrives: of its header what msgpack keeps, of its arrays the bytes."""
    header = msgpack.unpackb(msgpack.packb(piece.header), strict_map_key=False)
    buffers = [
        np.frombuffer(bytearray(np.ascontiguousarray(b).tobytes()), np.uint8) for b in piece.buffers
    ]
    return Piece(header, buffers)


class Deadlock(AssertionError):
    """No rank can go on."""


def together(programs: Sequence[Program[Any]]) -> list[Any]:
    """Run one program for each rank; what they return, by rank.

    An error of one of them is raised when none of a lower rank can go on without it.
    """
    return _Run(programs).results()


class _Run:
    def __init__(self, programs: Sequence[Program[Any]]) -> None:
        self._programs = programs
        self._size = len(programs)
        self._mail: dict[tuple[int, int], deque[Piece]] = {}
        self._asks: list[Ask | None] = [None] * self._size
        self._streams: list[Iterator[tuple[int, Piece]] | None] = [None] * self._size
        self._ended: list[set[int]] = [set() for _ in programs]  # whose stream has, per rank
        self._results: dict[int, Any] = {}
        self._errors: dict[int, Exception] = {}

    def results(self) -> list[Any]:
        for rank in range(self._size):
            self._advance(rank, None)
        while len(self._results) + len(self._errors) < self._size:
            if not any([self._step(rank) for rank in range(self._size)]):
                break
        if self._errors:
            raise self._errors[min(self._errors)]
        if len(self._results) < self._size:
            raise Deadlock(self._asks)
        return [self._results[r] for r in range(self._size)]

    def _advance(self, rank: int, value: Any) -> None:
        program = self._programs[rank]
        try:
            while True:
                ask = program.send(value)
                value = None
                if isinstance(ask, Send):
                    self._mail.setdefault((rank, ask.to), deque()).append(sent(ask.piece))
                    continue
                self._asks[rank] = ask
                if isinstance(ask, Shuffle):
                    self._streams[rank] = iter(ask.pieces)
                return
        except StopIteration as end:
            self._asks[rank] = None
            self._results[rank] = end.value
        except Exception as error:
            self._asks[rank] = None
            self._errors[rank] = error

    def _step(self, rank: int) -> bool:
        """Whether something has happened at a rank."""
        ask = self._asks[rank]
        if isinstance(ask, Receive):
            waiting = self._mail.get((ask.source, rank))
            if not waiting:
                return False
            self._advance(rank, waiting.popleft())
            return True
        if isinstance(ask, Shuffle):
            return self._stream(rank)
        return False

    def _stream(self, rank: int) -> bool:
        # Every rank has to be there before the first piece passes.
        if not all(isinstance(a, Shuffle) for a in self._asks):
            return False
        stream = self._streams[rank]
        if stream is not None:
            try:
                to, piece = next(stream)
            except StopIteration:
                self._streams[rank] = None
                for ended in self._ended:
                    ended.add(rank)
                return True
            except Exception as error:
                self._asks[rank], self._errors[rank] = None, error
                return True
            other = self._asks[to]
            assert isinstance(other, Shuffle)
            try:
                other.take(rank, sent(piece))
            except Exception as error:
                self._asks[to], self._errors[to] = None, error
            return True
        if all(len(ended) == self._size for ended in self._ended):
            for ended in self._ended:
                ended.clear()
            for each in range(self._size):
                self._advance(each, None)
            return True
        return False


class LockstepBackend:
    """Fulfils `backends.Backend` by several shares in this process, in lock-step."""

    def __init__(
        self,
        size: int,
        fan_in: int = 4,
        memory: int | None = None,
        broadcast_bytes: int = BROADCAST_BYTES,
    ) -> None:
        self.size, self.fan_in, self.broadcast_bytes = size, fan_in, broadcast_bytes
        self.budgets = [MemoryBudget(memory) for _ in range(size)]
        self._results: dict[int, tuple[Any, ...]] = {}
        self._gathered: dict[int, dict[int, list[Block]]] = {}
        self.shares: list[Share] = []

    def start(self, plan: pp.PhysicalPlan) -> None:
        sizes = self.size, (self.fan_in,), self.broadcast_bytes
        ranks = [Ranks(i, *sizes) for i in range(self.size)]
        self._results.clear()
        self._gathered.clear()
        self.shares = [Share(plan, self, b, r) for r, b in zip(ranks, self.budgets, strict=True)]

    def run(self, task: Task, count: int, *stages: int) -> None:
        """Run tasks, one after the other."""
        for index in range(count):
            task(0, index)

    def bind(self, values: Mapping[int, Any]) -> None:
        for share in self.shares:
            share.bind(values)
        self._gathered.clear()

    def load(self, stage: int) -> TableInfo:
        return self._info(together([s.load(stage) for s in self.shares]))

    def exchange(self, stage: int) -> TableInfo:
        return self._info(together([s.exchange(stage) for s in self.shares]))

    def _info(self, parts: list[TableInfo]) -> TableInfo:
        first = parts[0]
        assert len({p.partitions for p in parts}) == 1
        nan = tuple(dict.fromkeys(n for p in parts for n in p.nan))
        infinite = tuple(dict.fromkeys(n for p in parts for n in p.infinite))
        rows, size = sum(p.rows for p in parts), sum(p.bytes for p in parts)
        cached = sum(p.cached for p in parts)
        return TableInfo(first.partitions, rows, size, cached, nan, infinite)

    def run_stage(self, stage: int) -> None:
        if stage in self.shares[0].reductions:
            self.run_stages((stage,))
        else:
            together([s.run_stage(stage) for s in self.shares])

    def run_stages(self, stages: Sequence[int]) -> None:
        self._results.update(together([s.fold(stages) for s in self.shares])[0])

    def partial_bytes(self) -> Mapping[int, float]:
        return {}

    def combine(self, stage: int) -> tuple[Any, ...]:
        return self._results[stage]

    def settle(self) -> None:
        pass

    def adopt(self, moves: Sequence[tuple[int, int, bool]]) -> None:
        for share in self.shares:
            share.adopt(moves)
        self._gathered.clear()

    def put(self, table: int, schema: Schema, blocks: list[Block]) -> None:
        for share in self.shares:
            share.put(table, schema, blocks)

    def partitions(self, stage: int) -> int:
        (count,) = {s.pipelines[stage].partitions() for s in self.shares}
        return count

    def fetch(self, stage: int, partition: int) -> list[Block]:
        if stage not in self._gathered:
            found: dict[int, list[Block]] = {}
            for own in together([s.gathered(stage, FreeMemory()) for s in self.shares]):
                assert not own.keys() & found.keys()
                found.update(own)
            self._gathered[stage] = found
        return self._gathered[stage].get(partition, [])

    def stream(self, stage: int, take: Take) -> None:
        """As several ranks do it: each has its own partitions first."""
        found = together([s.results(stage) for s in self.shares])
        parts = {p: own for own in found for p in own.sizes()}
        for partition, own in sorted(parts.items()):
            take(own.drained(partition))

    def commit(self, iteration: int) -> None:
        pass

    def change(self, change: Change) -> None:
        pass

    def release(self, table: int) -> None:
        for share in self.shares:
            share.release(table)

    def cancel(self) -> None:
        for share in self.shares:
            share.cancel()

    def lost(self) -> tuple[str, ...]:
        return ()

    def stop(self) -> None:
        for share in self.shares:
            share.stop()
        self.shares = []

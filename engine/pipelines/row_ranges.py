"""Pipelines that know how many records there are: slices, row numbers, tables side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scalops.algebra.expressions import Constant, Expression, Slot
from scalops.engine import physical_plan as pp
from scalops.engine.blocks import Block
from scalops.engine.collective import Program
from scalops.engine.pipelines.base import Over, Pipeline, Run, Runtime
from scalops.engine.table_errors import negative_number


def present(e: Expression, runtime: Runtime) -> Any:
    """The value of a slot or constant now."""
    if isinstance(e, Slot):
        return runtime.slots[e.number]
    assert isinstance(e, Constant)
    return e.value


class TakePrefixPipeline(Over):
    """Records of partitions in order, until there are enough."""

    def __init__(self, node: pp.TakePrefix, source: Pipeline, runtime: Runtime) -> None:
        super().__init__(node.schema, source, runtime)
        self._number = node.number

    def prepare(self, partitions: Sequence[int], run: Run) -> Program[None]:
        counts = self.runtime.prefixes[self._number]
        yield from self.source.prepare([p for p in partitions if counts[p]], run)

    def rows(self, partition: int) -> int | None:
        return self.runtime.prefixes[self._number][partition]

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        left = self.runtime.prefixes[self._number][partition]
        if left == 0:
            return
        for block in self.source.blocks(partition, worker):
            yield block if block.rows <= left else block.slice(0, left)
            left -= min(left, block.rows)
            if left == 0:
                return


class TakeRangePipeline(Over):
    """Reads the partitions that hold wanted records, of these the blocks that do."""

    def __init__(self, node: pp.TakeRange, source: Pipeline, runtime: Runtime) -> None:
        super().__init__(node.schema, source, runtime)
        self._node = node

    def _range(self) -> tuple[int, int]:
        """Numbers of the first wanted record and of the one after the last."""
        start = self._number(self._node.start, "start")
        if self._node.length is None:
            return start, self.runtime.counts[self._node.number].ends[-1]
        return start, start + self._number(self._node.length, "length")

    def _number(self, e: Expression, name: str) -> int:
        number = int(present(e, self.runtime))
        if number < 0:
            raise negative_number(self._node.word, name, number, self._node.location)
        return number

    def _own(self, partition: int) -> tuple[int, int]:
        """The wanted records of a partition, by their places in it."""
        first, stop = self._range()
        begin, end = self.runtime.counts[self._node.number].ends[partition : partition + 2]
        return max(first - begin, 0), max(min(stop, end) - begin, 0)

    def active(self) -> Sequence[int]:
        wanted = self.runtime.counts[self._node.number].partitions(*self._range())
        return [p for p in self.source.active() if p in wanted]

    def prepare(self, partitions: Sequence[int], run: Run) -> Program[None]:
        yield from self.source.prepare([p for p in partitions if self.rows(p)], run)

    def rows(self, partition: int) -> int | None:
        start, stop = self._own(partition)
        return max(0, stop - start)

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        start, stop = self._own(partition)
        if start >= stop:
            return iter(())
        return self.source.between(partition, worker, start, stop)

    def between(self, partition: int, worker: int, start: int, stop: int) -> Iterator[Block]:
        first, last = self._own(partition)
        return self.source.between(partition, worker, first + start, min(last, first + stop))


class GatePipeline(Over):
    """All or nothing."""

    def __init__(self, node: pp.Gate, source: Pipeline, runtime: Runtime) -> None:
        super().__init__(node.schema, source, runtime)
        self._condition = node.condition

    @property
    def _open(self) -> bool:
        return bool(present(self._condition, self.runtime))  # null is false

    def active(self) -> Sequence[int]:
        return self.source.active() if self._open else range(0)

    def rows(self, partition: int) -> int | None:
        return self.source.rows(partition) if self._open else 0

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        return self.source.blocks(partition, worker) if self._open else iter(())


class NumberRowsPipeline(Over):
    """A column of numbers beside the others."""

    def __init__(self, node: pp.NumberRows, source: Pipeline, runtime: Runtime) -> None:
        super().__init__(node.schema, source, runtime)
        self._name, self._number = node.name, node.number

    def rows(self, partition: int) -> int | None:
        return self.source.rows(partition)

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        return self._numbered(self.source.blocks(partition, worker), partition, 0)

    def between(self, partition: int, worker: int, start: int, stop: int) -> Iterator[Block]:
        blocks = self.source.between(partition, worker, start, stop)
        return self._numbered(blocks, partition, start)

    def _numbered(self, blocks: Iterator[Block], partition: int, skipped: int) -> Iterator[Block]:
        at = self.runtime.counts[self._number].ends[partition] + skipped
        for block in blocks:
            numbers = np.arange(at, at + block.rows)
            at += block.rows
            yield replace(block, columns={self._name: numbers, **block.columns})


class ConcatenatePipeline(Pipeline):
    """The partitions of several tables, one table after the other."""

    def __init__(self, node: pp.Concatenate, sources: Sequence[Pipeline]) -> None:
        super().__init__(node.schema, frozenset().union(*(s.resident for s in sources)))
        self._sources = sources

    def partitions(self) -> int:
        return sum(s.partitions() for s in self._sources)

    @property
    def source_bytes(self) -> int:
        return sum(s.source_bytes for s in self._sources)

    def _placed(self) -> Iterator[tuple[Pipeline, int]]:
        """Each table with the number of its first partition."""
        first = 0
        for source in self._sources:
            yield source, first
            first += source.partitions()

    def _of(self, partition: int) -> tuple[Pipeline, int]:
        source, first = [(s, f) for s, f in self._placed() if f <= partition][-1]
        return source, partition - first

    def active(self) -> Sequence[int]:
        return [first + p for source, first in self._placed() for p in source.active()]

    def home(self, partition: int) -> int:
        source, own = self._of(partition)
        return source.home(own)

    def prepare(self, partitions: Sequence[int], run: Run) -> Program[None]:
        for source, first in self._placed():
            own = range(first, first + source.partitions())
            yield from source.prepare([p - first for p in partitions if p in own], run)

    def rows(self, partition: int) -> int | None:
        source, own = self._of(partition)
        return source.rows(own)

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        source, own = self._of(partition)
        return source.blocks(own, worker)

    def between(self, partition: int, worker: int, start: int, stop: int) -> Iterator[Block]:
        source, own = self._of(partition)
        return source.between(own, worker, start, stop)

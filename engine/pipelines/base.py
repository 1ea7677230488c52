"""Pipelines: what a stage does to each partition, as an iterator of blocks that may stream.

Here are those that every plan has; `row_ranges.py` and `multiplied.py` have the others, and
`compiled.py` makes them of a physical table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from scalops.algebra.errors import DataError, ScalopsError
from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine.blocks import Array, Block, identities
from scalops.engine.collective import ALONE, Program, Ranks
from scalops.engine.kernels.kernel import Frame, Kernel, Vector
from scalops.engine.memory import MemoryBudget
from scalops.engine.neutral import NEUTRAL, Neutral
from scalops.engine.pipelines.counts import Counts
from scalops.engine.spilled_memory import Room, is_spilled
from scalops.engine.threads import Task

if TYPE_CHECKING:
    from scalops.engine.meter import Meter
    from scalops.engine.processes.runner import ProcessRunner

BUFFERS = "kernel buffers"
Identity: TypeAlias = bytes  # of a column: see Stored.identity
Run: TypeAlias = Callable[[Task, int], None]


class Runtime:
    """What pipelines share while a plan runs: driver values, kept tables, prefixes, frames."""

    def __init__(
        self,
        plan: pp.PhysicalPlan,
        budget: MemoryBudget,
        runner: ProcessRunner | None = None,
        ranks: Ranks = ALONE,
        neutral: Neutral = NEUTRAL,
        meter: Meter | None = None,
    ) -> None:
        """With a `meter` the plan is profiled."""
        self.budget, self.runner, self.ranks, self.neutral = budget, runner, ranks, neutral
        self.meter = meter
        self.slots: list[Any] = [None] * len(plan.slots)
        self.version = 0
        self.slot_versions: dict[int, int] = {}  # the version in which a slot was bound last
        self.tables: dict[int, Stored] = {}
        self.prefixes: dict[int, list[int]] = {}
        self.counts: dict[int, Counts] = {}
        self.cancelled = False
        self.stages = plan.stages
        self.prepared: list[Callable[[], None]] = []  # give back what stages asked for: `prepare`
        self._frames: dict[tuple[int, Kernel], Frame] = {}

    def room(self, owner: str) -> Room:
        """Where what lasts of an owner lies: in memory, or in a file."""
        return Room(self.budget, owner)

    def bind(self, values: Mapping[int, Any]) -> None:
        """Set driver values by slot."""
        for number, value in values.items():
            self.slots[number] = value
        self.version += 1
        self.slot_versions.update(dict.fromkeys(values, self.version))

    def frame(self, worker: int, kernel: Kernel) -> Frame:
        """A worker's frame for a kernel, with the present values bound."""
        frame = self._frames.get((worker, kernel))
        if frame is None:
            buffered = self.budget.reserve(kernel.buffer_bytes, BUFFERS)
            frame = self._frames[worker, kernel] = kernel.frame(buffered, self.runner)
        kernel.prepare(frame, self.slots, self.version)
        return frame

    def forget(self, kernel: Kernel) -> None:
        """Drop a kernel's frames, and give back what was reserved for their buffers."""
        own = [key for key in self._frames if key[1] is kernel]
        for key in own:
            if self._frames.pop(key).buffered:
                self.budget.release(BUFFERS, kernel.buffer_bytes)

    def check_cancelled(self) -> None:
        """Raise KeyboardInterrupt after a cancel; asked before each block."""
        if self.cancelled:
            raise KeyboardInterrupt


class Stored:
    """A table kept by a backend, partition by partition."""

    bytes: int  # of the source it came from: decides leaves, held or not
    homes: Sequence[int] | None = None  # of partitions that do not lie where most tables' do

    def partitions(self) -> int:
        raise NotImplementedError

    def is_everywhere(self) -> bool:
        """Whether every rank holds all records."""
        return False

    def home(self, partition: int, ranks: Ranks) -> int:
        """The rank where a partition lies."""
        if self.homes is None:
            return ranks.home(partition, self.partitions())
        return self.homes[partition]

    def own(self, ranks: Ranks) -> list[int]:
        """The partitions that lie at this rank."""
        every = range(self.partitions())
        return [p for p in every if ranks.is_alone or self.home(p, ranks) == ranks.own]

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        raise NotImplementedError

    def rows(self, partition: int) -> int | None:
        """How many records a partition has; None where only reading tells."""
        return None

    def held(self, partition: int) -> list[Block] | None:
        """A partition's blocks if they are in memory."""
        return None

    def is_filed(self, partition: int) -> bool:
        """Whether a partition is read from a file of this run's own."""
        return False

    def stays(self) -> bool:
        """Whether all blocks are in memory, so that to go on reading one costs none."""
        return False

    def turns(self) -> bool:
        """Whether some blocks are read from disk, and partitions in any order at the same cost."""
        return False

    def chosen(self, partition: int, worker: int, names: tuple[str, ...]) -> Iterator[Block]:
        """The blocks with at least these columns."""
        return self.blocks(partition, worker)

    def prepare(self, partitions: Sequence[int], run: Run) -> Program[None]:
        """As of a pipeline, of this rank's partitions."""
        yield from ()

    @cached_property
    def serial(self) -> int:
        """A number of its own."""
        return next(identities)

    def identity(self, name: str) -> Identity | None:
        """What a column of the same content and order has too, in any iteration.

        Two columns of equal identity are equal; those of other identities may be equal.
        """
        return derived("stored", self.serial, name)

    def whole(self, name: str) -> Vector | None:
        """A column in one piece with its mask, where there is one."""
        return None


def derived(*parts: Any) -> Identity:
    """The identity of what is made of these: 16 bytes, however long the way there was."""
    state = blake2b(digest_size=16)
    for part in parts:
        state.update(part if isinstance(part, bytes) else repr(part).encode())
        state.update(b";")
    return state.digest()


class Pipeline:
    """The blocks of a physical table, partition by partition."""

    def __init__(self, schema: Schema, resident: frozenset[int] = frozenset()) -> None:
        self.schema = schema
        self.resident = resident  # ids of arrays that its source holds anyway

    def partitions(self) -> int:
        """How many partitions there are; known when the stage runs."""
        raise NotImplementedError

    @property
    def source_bytes(self) -> int:
        """Bytes of the sources it reads."""
        raise NotImplementedError

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        """A partition's blocks, in order."""
        raise NotImplementedError

    def active(self) -> Sequence[int]:
        """The partitions that may have records at present, in order."""
        return range(self.partitions())

    def home(self, partition: int) -> int:
        """The rank that reads a partition: the one where its blocks are, if they are anywhere."""
        raise NotImplementedError

    def prepare(self, partitions: Sequence[int], run: Run) -> Program[None]:
        """Ask other ranks for what reading these partitions, all of them this rank's, takes.

        All ranks do so together, before they read; `run` runs tasks on threads.
        """
        yield from ()

    def rows(self, partition: int) -> int | None:
        """How many records a partition has; None where only reading tells."""
        return None

    def between(self, partition: int, worker: int, start: int, stop: int) -> Iterator[Block]:
        """A partition's records start..stop-1 in the blocks in which they lie."""
        return cut(self.blocks(partition, worker), start, stop)

    def identity(self, name: str) -> Identity | None:
        """As of a stored table's column; None where it may be another in each iteration."""
        return None

    def whole(self, name: str) -> Vector | None:
        """A column in one piece with its mask, where there is one."""
        return None

    def stays(self) -> bool:
        """Whether its columns are in memory anyway, those of all blocks together."""
        return False

    def turns(self) -> bool:
        """As of a stored table."""
        return False

    def is_everywhere(self) -> bool:
        """Whether every rank can compute all partitions, for less than to be told of them."""
        return False

    def read_only(self, names: Iterable[str]) -> None:
        """Say that blocks need have no other columns."""


class ScanPipeline(Pipeline):
    """A source's blocks, contiguous: how an array lies in memory decides how it is added up."""

    def __init__(self, node: pp.TableScan, runtime: Runtime) -> None:
        held = getattr(node.source, "columns", None)
        arrays = held.values() if isinstance(held, Mapping) else ()
        roots = frozenset(id(root_of(a)) for a in arrays if isinstance(a, np.ndarray))
        super().__init__(node.schema, roots)
        self._node, self._runtime = node, runtime
        self._partitions = node.source.partitions()
        self._number = next(identities)

    def partitions(self) -> int:
        return len(self._partitions)

    def home(self, partition: int) -> int:
        return self._runtime.ranks.home(partition, len(self._partitions))

    @property
    def source_bytes(self) -> int:
        return int(self._node.source.bytes)

    def rows(self, partition: int) -> int | None:
        rows: int | None = self._partitions[partition].rows
        return rows

    def whole(self, name: str) -> Vector | None:
        found = getattr(self._node.source, "whole", None)
        return None if found is None else found(name)

    def stays(self) -> bool:
        source = self._node.source
        return bool(getattr(source, "stays", getattr(source, "in_memory", False)))

    def turns(self) -> bool:
        return bool(getattr(self._node.source, "any_order", False))

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        try:
            read = self._node.source.read(self._partitions[partition], self._node.columns)
            for i, block in enumerate(map(contiguous, read)):
                self._runtime.check_cancelled()
                block.identity = (self._number, partition, i)
                yield block
        except ScalopsError as error:
            error.location = error.location or self._node.location
            raise
        except OSError as error:
            raise DataError(
                f"{self._node.source.title} cannot be read: {error}", location=self._node.location
            ) from error


class Over(Pipeline):
    """A step over another pipeline's blocks."""

    def __init__(self, schema: Schema, source: Pipeline, runtime: Runtime) -> None:
        super().__init__(schema, source.resident)
        self.source, self.runtime = source, runtime

    def turns(self) -> bool:
        return self.source.turns()

    def partitions(self) -> int:
        return self.source.partitions()

    @property
    def source_bytes(self) -> int:
        return self.source.source_bytes

    def active(self) -> Sequence[int]:
        return self.source.active()

    def home(self, partition: int) -> int:
        return self.source.home(partition)

    def prepare(self, partitions: Sequence[int], run: Run) -> Program[None]:
        yield from self.source.prepare(partitions, run)


class StoredPipeline(Pipeline):
    def __init__(self, node: pp.StoredTable, runtime: Runtime) -> None:
        super().__init__(node.schema)
        self.node, self._number, self._runtime = node, node.number, runtime
        self._wanted: tuple[str, ...] | None = None

    def read_only(self, names: Iterable[str]) -> None:
        wanted = {*names}
        self._wanted = tuple(n for n in self.schema.names if n in wanted)

    def identity(self, name: str) -> Identity | None:
        return self.table.identity(name)

    def whole(self, name: str) -> Vector | None:
        return self.table.whole(name)

    def stays(self) -> bool:
        return self.table.stays()

    def turns(self) -> bool:
        return self.table.turns()

    def is_everywhere(self) -> bool:
        return self.table.is_everywhere()

    @property
    def table(self) -> Stored:
        """What it reads now."""
        return self._runtime.tables[self._number]

    def partitions(self) -> int:
        return self.table.partitions()

    def home(self, partition: int) -> int:
        return self.table.home(partition, self._runtime.ranks)

    @property
    def source_bytes(self) -> int:
        return self.table.bytes

    def prepare(self, partitions: Sequence[int], run: Run) -> Program[None]:
        yield from self.table.prepare(partitions, run)

    def rows(self, partition: int) -> int | None:
        return self.table.rows(partition)

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        if self._wanted is None:
            blocks = self.table.blocks(partition, worker)
        else:
            blocks = self.table.chosen(partition, worker, self._wanted)
        for block in blocks:
            self._runtime.check_cancelled()
            yield block

    def between(self, partition: int, worker: int, start: int, stop: int) -> Iterator[Block]:
        held = self.table.held(partition)
        if held is None:
            return cut(self.blocks(partition, worker), start, stop)
        self._runtime.check_cancelled()
        return cut(iter(held), start, stop)


def cut(blocks: Iterator[Block], start: int, stop: int) -> Iterator[Block]:
    """The records start..stop-1; blocks before are passed over, those behind are not asked for."""
    at = 0
    for block in blocks:
        first, last = max(start - at, 0), min(stop - at, block.rows)
        if first < last:
            yield block if last - first == block.rows else block.slice(first, last)
        at += block.rows
        if at >= stop:
            return


class HeldTable(Stored):
    """A table wholly in memory: blocks by partition."""

    def __init__(self, partitions: Sequence[list[Block]], source_bytes: int) -> None:
        self._partitions = partitions
        self.bytes = source_bytes

    def partitions(self) -> int:
        return len(self._partitions)

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        return iter(self._partitions[partition])

    def rows(self, partition: int) -> int | None:
        return sum(b.rows for b in self._partitions[partition])

    def held(self, partition: int) -> list[Block] | None:
        return self._partitions[partition]

    def stays(self) -> bool:
        return True


def contiguous(block: Block) -> Block:
    """The block with contiguous, aligned arrays; itself where they are (a user's own, mostly)."""
    if _is_contiguous(block):
        return block
    columns = {
        n: np.require(c, requirements=["C", "A"]) if isinstance(c, np.ndarray) else c
        for n, c in block.columns.items()
    }
    return Block(block.rows, columns, block.valid)


def own_bytes(block: Block, resident: frozenset[int]) -> int:
    """Bytes that are held in memory because this block is: not those of views of a source's
    arrays, nor what lies in files."""
    arrays = (*block.columns.values(), *block.valid.values())
    return sum(
        int(a.nbytes)
        for a in arrays
        if not (isinstance(a, np.ndarray) and id(root_of(a)) in resident) and not is_spilled(a)
    )


def root_of(array: Array) -> Array:
    """The array whose memory a view shows."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _is_contiguous(block: Block) -> bool:
    for column in block.columns.values():
        if isinstance(column, np.ndarray):
            flags = column.flags
            if not (flags.c_contiguous and flags.aligned):
                return False
    return True

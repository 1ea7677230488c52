"""The contract between the driver and what runs partitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from scalops.algebra.errors import ScalopsError
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Block
from scalops.engine.neutral import Change
from scalops.engine.physical_plan import PhysicalPlan

Take: TypeAlias = Callable[[Iterator[Block]], None]  # takes consecutive blocks, again and again


@dataclass(frozen=True)
class TableInfo:
    """A table that a backend keeps: `cached` of its partitions are held, the rest is made again.

    `nan` and `infinite` name columns that hold such, of those that were to be looked through.
    """

    partitions: int
    rows: int
    bytes: int
    cached: int
    nan: tuple[str, ...] = ()
    infinite: tuple[str, ...] = ()


class StageFailure(Exception):
    """One of several stages that share a pass has failed: `error` is what it raised."""

    def __init__(self, stage: int, error: ScalopsError) -> None:
        super().__init__(f"stage {stage}: {error}")
        self.stage, self.error = stage, error


class Backend(Protocol):
    """Runs the stages of one physical plan.

    Calls come from one thread, in the order start, then any of the others, then stop. After an
    exception from any of them only `cancel` and `stop` may follow. Results depend on the plan
    and the data alone, bit by bit.
    """

    def start(self, plan: PhysicalPlan) -> None:
        """Compile the plan's stages."""

    def bind(self, values: Mapping[int, Any]) -> None:
        """Set driver values by slot; stages run afterwards read them."""

    def load(self, stage: int) -> TableInfo:
        """Run a CacheTable stage and keep its table."""

    def run_stage(self, stage: int) -> None:
        """Run a TreeAggregate stage's partitions into partials, or a stage that counts."""

    def run_stages(self, stages: Sequence[int]) -> None:
        """Run TreeAggregate stages whose sources have one base (`pp.base`), reading it once.

        Each gives the bits that it gives alone, but for those of one of the plan's stacks: they
        are folded as one, and agree to rounding. Raises StageFailure for an error of one of them.
        """

    def combine(self, stage: int) -> tuple[Any, ...]:
        """The results of a TreeAggregate stage's last run."""

    def exchange(self, stage: int) -> TableInfo:
        """Run a stage that leaves a table behind (a StoreSink), and keep it."""

    def settle(self) -> None:
        """All that was asked for so far is done. Raises what it raises.

        Until then a table that a stage leaves may be one that is only asked for: what is known of
        it, its TableInfo, is there when it is read.
        """

    def adopt(self, moves: Sequence[tuple[int, int, bool]]) -> None:
        """For each (state, source, keep): let the table `state` be what is kept as `source`.

        All at once, so that two may change places. What was there before is released. A source
        is no longer there under its own number, unless it is to be kept or is itself a state.
        """

    def put(self, table: int, schema: Schema, blocks: list[Block]) -> None:
        """Keep these records as a table, as a HoldState stage would have left them."""

    def fetch(self, stage: int, partition: int) -> list[Block]:
        """The blocks of one partition of a Gather stage."""

    def stream(self, stage: int, take: Take) -> None:
        """Hand all blocks of a Gather stage to `take`, in order: a part of them at each call.

        Few of them are held meanwhile. Records are computed once, unless workers are lost.
        """

    def partial_bytes(self) -> Mapping[int, float]:
        """Bytes of a partial result of each stage whose results were sent to the driver."""

    def partitions(self, stage: int) -> int:
        """How many partitions a stage's input has."""

    def commit(self, iteration: int) -> None:
        """The iteration's state stands; what only earlier ones needed may go."""

    def change(self, change: Change) -> None:
        """Apply a neutral decision."""

    def release(self, table: int) -> None:
        """Forget a kept table."""

    def cancel(self) -> None:
        """Stop what runs, as soon as may be."""

    def lost(self) -> tuple[str, ...]:
        """Workers that died since the last call."""

    def stop(self) -> None:
        """Give everything back."""

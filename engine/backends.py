"""The contract between the driver and what runs partitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from scalops.engine.blocks import Block
from scalops.engine.physical_plan import Change, PhysicalPlan


@dataclass(frozen=True)
class TableInfo:
    """A table that a backend keeps: `cached` of its partitions are held, the rest is made again."""

    partitions: int
    rows: int
    bytes: int
    cached: int


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
        """Run a TreeAggregate stage's partitions into partials, or a CountPrefix stage."""

    def combine(self, stage: int) -> tuple[Any, ...]:
        """The results of the TreeAggregate stage that was run last."""

    def exchange(self, stage: int) -> TableInfo:
        """Run an Exchange stage and keep the repartitioned table."""

    def fetch(self, stage: int, partition: int) -> list[Block]:
        """The blocks of one partition of a Gather stage."""

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

"""What a physical plan does: records, bytes and arithmetic of every operator, stage and loop.

Amounts, not times: seconds follow from a machine's rates, see `plan_cost.py`. Rows come from the
logical plan's estimates as far as it is known which table a physical one is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from scalops.engine import physical_plan as pp
from scalops.optimizer.cost import Provenance

Amounts = Mapping[str, float]
NOTHING: Amounts = MappingProxyType({})


@dataclass(frozen=True)
class OperatorWork:
    """One run of an operator over all partitions; `number` as in `operators_of`.

    It delivers `rows` records of `bytes` together, known as `provenance` says. `amounts` are by the
    name of the machine's rate that they take (`machine.ASSUMED`): "element" in flops,
    "transcendental" in calls, "product" and "product_vector" in flops, "segment", "group", "build",
    "probe", "sort", "record", "opaque" in records, "gather" in elements, "parquet", "ipc", "csv" in
    bytes. `once` is what the first run takes beyond that. `calls` of NumPy are made over all
    blocks. `read_bytes` pass from memory for it.
    """

    number: int
    title: str
    rows: float
    bytes: float
    calls: float
    read_bytes: float
    amounts: Amounts = NOTHING
    once: Amounts = NOTHING
    provenance: Provenance = "estimated"

    @property
    def flops(self) -> float:
        """Flops of elementwise steps and of products."""
        return sum(self.amounts.get(n, 0.0) for n in ("element", "product", "product_vector"))

    @property
    def transcendentals(self) -> float:
        """Calls of exp, log and the like, one for each element."""
        return self.amounts.get("transcendental", 0.0)


@dataclass(frozen=True)
class StageWork:
    """One run of a stage over all partitions.

    `rows` and `bytes` are those of the table that it reads, from the `source`: files ("disk"), a
    table in "memory", or what other stages have left ("stored"); `cache` is the number of that
    table if it is a cache, which may hold a part only, and `reads` the numbers of all stored tables
    read. `partial_bytes` of a fold's result; `moved_bytes` are exchanged between workers by key or
    range, `replicated_bytes` are whole on every worker afterwards, `gathered_bytes` go to the
    driver. `held_bytes` are in memory afterwards, of all workers together but for what is
    replicated. `leaves` is 0 where the run tells.
    """

    stage: int
    rows: float
    bytes: float
    source: Literal["disk", "memory", "stored"]
    operators: tuple[OperatorWork, ...]
    cache: int | None = None
    reads: tuple[int, ...] = ()
    makes: int | None = None
    partial_bytes: float = 0.0
    moved_bytes: float = 0.0
    replicated_bytes: float = 0.0
    gathered_bytes: float = 0.0
    held_bytes: float = 0.0
    blocks: float = 1.0
    leaves: int = 0
    provenance: Provenance = "estimated"

    @property
    def calls(self) -> float:
        """Calls of NumPy over all blocks."""
        return sum(o.calls for o in self.operators)


@dataclass(frozen=True)
class LoopWork:
    """A loop: how often its iteration is run, and what that is.

    `iterations` are `known`, or assumed of a loop that runs until its condition is false. An
    iteration runs `stages`, the loops `inner` (by index), and the driver's `evaluations`, so many
    expressions' calls of NumPy; values of `environment_bytes` that changed go to every worker.
    `together` are the loops (this one's index too) that run in lock-step with it.
    """

    index: int
    iterations: float
    known: bool
    stages: tuple[int, ...]
    inner: tuple[int, ...] = ()
    evaluations: float = 0.0
    evaluation: Amounts = NOTHING
    environment_bytes: float = 0.0
    together: tuple[int, ...] = ()


@dataclass(frozen=True)
class PlanWork:
    """All of a plan: stages by number, loops by index; `once`: stages outside of loops, in order.

    `outer` are the loops that are in no other. `evaluations` as of `LoopWork`, outside of loops.
    """

    stages: Mapping[int, StageWork]
    loops: tuple[LoopWork, ...]
    once: tuple[int, ...]
    outer: tuple[int, ...] = ()
    evaluations: float = 0.0
    evaluation: Amounts = field(default=NOTHING)


def plan_work(plan: pp.PhysicalPlan) -> PlanWork:
    """What a plan does, from its sources' metadata and the estimates of its logical plan."""
    raise NotImplementedError

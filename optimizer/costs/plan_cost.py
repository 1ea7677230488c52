"""What a plan takes in a setting: seconds of operators, stages, iterations, and memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scalops.optimizer.cost import Provenance
from scalops.optimizer.costs.machine import Machine
from scalops.optimizer.costs.plan_work import PlanWork
from scalops.optimizer.costs.setting import Setting

if TYPE_CHECKING:
    from scalops.optimizer.costs.program_rates import ProgramRates


@dataclass(frozen=True)
class Times:
    """Seconds, by what they are spent on.

    `load`: reading and decoding sources, and making again what memory does not hold. `map`: what
    is computed of blocks, the stage's sink included. `aggregate`: partial results, records and
    tables on their way between workers and to the driver. `broadcast`: values to the workers.
    `update`: expressions at the driver. `wait`: for commands, threads and slower workers.
    """

    load: float = 0.0
    map: float = 0.0
    aggregate: float = 0.0
    broadcast: float = 0.0
    update: float = 0.0
    wait: float = 0.0

    @property
    def total(self) -> float:
        return self.load + self.map + self.aggregate + self.broadcast + self.update + self.wait

    def __add__(self, other: Times) -> Times:
        return Times(
            self.load + other.load,
            self.map + other.map,
            self.aggregate + other.aggregate,
            self.broadcast + other.broadcast,
            self.update + other.update,
            self.wait + other.wait,
        )

    def times(self, factor: float) -> Times:
        """So many of them."""
        return Times(*(factor * v for v in vars(self).values()))


@dataclass(frozen=True)
class OperatorCost:
    """Seconds of one operator in the first and in a later run of its stage, on all threads.

    `number` as in `operators_of`. What is fused in one kernel is divided by its arithmetic.
    """

    number: int
    first: float
    steady: float
    provenance: Provenance


@dataclass(frozen=True)
class StageCost:
    """One run of a stage: the first one, and a later one. `program`: from runs of this program."""

    stage: int
    first: Times
    steady: Times
    operators: tuple[OperatorCost, ...]
    provenance: Provenance
    program: bool = False


@dataclass(frozen=True)
class LoopCost:
    """The first and a later iteration of a loop, loops in it included, and all of them.

    `known` says whether the number of `iterations` is, else it is assumed. Loops in lock-step
    share passes: each has its own part of them.
    """

    index: int
    first: Times
    steady: Times
    iterations: float
    known: bool

    @property
    def total(self) -> float:
        """Seconds of all iterations."""
        return self.first.total + max(0.0, self.iterations - 1) * self.steady.total


@dataclass(frozen=True)
class PlanCost:
    """A plan in a setting: stages by number, loops by index, what is run `once`, and the sum.

    `memory`: bytes held by each worker (or this process) at most. `cached`: of each cached table,
    by number, the share that is held. `total_seconds` count the start of workers where none run.
    """

    stages: Mapping[int, StageCost]
    loops: Mapping[int, LoopCost]
    once: Times
    total_seconds: float
    memory: float
    cached: Mapping[int, float]
    provenance: Provenance


def plan_cost(
    work: PlanWork, machine: Machine, setting: Setting, program: ProgramRates | None = None
) -> PlanCost:
    """What the work takes on a machine of these rates; `program` has measured this very one."""
    raise NotImplementedError

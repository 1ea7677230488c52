"""Seconds of stages and operators, by what they are spent on."""

from __future__ import annotations

from dataclasses import dataclass

from scalops.optimizer.cost import Provenance


@dataclass(frozen=True)
class Times:
    """Seconds, by what they are spent on.

    `load`: reading and decoding sources, making again what memory does not hold, or writing it to
    a file and reading it there. `map`: what
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
    """One run of a stage: the first one, and a later one. `program`: from runs of this program.

    Of a later run's seconds `disk` are those that the disk is busy, while others compute for
    `computing` seconds: the longer of both counts.
    """

    stage: int
    first: Times
    steady: Times
    operators: tuple[OperatorCost, ...]
    provenance: Provenance
    program: bool = False
    disk: float = 0.0
    computing: float = 0.0

"""Programs on any number of machines: as the planner has them, and as they are simulated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from scalops.optimizer.costs import trees
from scalops.optimizer.costs.cluster_trees import Partials
from scalops.optimizer.costs.integer_plan import Point, plan
from scalops.optimizer.costs.symbols import Symbols
from tests.costs.scale_figures import Caching, Curve, Scaling
from tests.costs.simulated_cluster import (
    PLENTIFUL,
    Iteration,
    Links,
    SimulatedCluster,
    Way,
    Work,
)

SCALE = 1e9  # bytes that stand for a second, where a partial is told in seconds
LEAVES = 1 << 16  # of the canonical reduction: enough for 10,000 machines


@dataclass(frozen=True)
class Program:
    """A loop on machines of one kind: with `partials` by bytes and links, else by symbols alone."""

    name: str
    symbols: Symbols
    partials: Partials | None = None


# The rows that the design states the optimum of, by the closed form.
GOLDEN = (
    Program("row 1", Symbols(1e6, 1e-5, 2e-5, 2.5e5, 0.05, iterations=20)),
    Program("row 2", Symbols(1e8, 1e-6, 4e-6, 5e6, 0.5, iterations=20)),
    Program("row 3", Symbols(1e8, 1e-6, 4e-6, 5e6, 5.0, iterations=20)),
    Program("row 4", Symbols(1e8, 1e-6, 4e-6, 1e5, 0.5, iterations=20)),
)
SYMBOLIC = (
    Program("slow levels", Symbols(1e8, 1e-6, 4e-6, 5e6, 0.05, level=0.2, iterations=20)),
    Program("an environment", Symbols(1e8, 1e-6, 4e-6, 5e6, 0.5, broadcast=0.05, iterations=20)),
)


def programs(links: trees.Links) -> tuple[Program, ...]:
    """Programs whose partial results travel over such links; their other rates are assumed."""
    sparse = trees.SparsePartial(1e7, 2e3)
    return (
        _program("a gradient of 100 features", (1e9, 3e-8, 8e-7, 4e7), links, 808.0, 808.0),
        _program("a Hessian of 1,000 features", (1e8, 1e-5, 8e-6, 4e6), links, 8e6, 8e3),
        _program("a gradient of 10 million features", (1e9, 1e-6, 1e-6, 2e7), links, 8e7, 8e7),
        _program("a sparse gradient", (1e9, 1e-7, 1e-6, 2e7), links, sparse, 8e7),
    )


def _program(
    name: str,
    rates: tuple[float, float, float, float],
    links: trees.Links,
    partial_bytes: trees.PartialBytes,
    environment_bytes: float,
) -> Program:
    """`rates` are R, P, D, M; A, B and L are those of the links, for the closed form."""
    down = environment_bytes > trees.FORWARD_BYTES
    symbols = Symbols(
        *rates,
        aggregate=links.taken(trees.size_of(partial_bytes)(LEAVES)),
        broadcast=links.sent(environment_bytes) if down else 0.0,
        level=links.hop,
        iterations=20,
    )
    return Program(name, symbols, Partials(partial_bytes, links, LEAVES, environment_bytes))


class Pair(NamedTuple):
    """A machine count as the planner and as the simulation have it; seconds of a steady
    iteration, and of the first one, which loads all records.
    """

    point: Point
    first: Iteration
    steady: Iteration

    @property
    def difference(self) -> float:
        """By which part of the planner's seconds a simulated iteration takes more."""
        return self.steady.seconds / self.point.seconds - 1

    @property
    def first_difference(self) -> float:
        """The same of the first iteration."""
        return self.first.seconds / self.point.first_seconds - 1


def compared(program: Program, machines: int, partitions: int = PLENTIFUL) -> Pair:
    """The planner's tree for so many machines, and what it takes in the simulation.

    `partitions` of the table: symbols alone know of none.
    """
    own = None if program.partials is None else partitions
    made = plan(program.symbols, [machines], partials=program.partials, partitions=own)
    changes = {"partitions": partitions}
    cluster = simulated(program, machines, made.choice.kind, made.choice.fan_ins, **changes)
    return Pair(made.choice, cluster.iterate(), cluster.iterate())


def simulated(
    program: Program,
    machines: int,
    kind: trees.Kind,
    fan_ins: tuple[int, ...],
    **changes: object,
) -> SimulatedCluster:
    """Machines that run a program along a tree; `changes` are of `Work`."""
    s, partials = program.symbols, program.partials
    work = Work(s.records, s.map, s.load, s.cache)
    way: Way = "passed" if partials is None else "driver" if kind == "flat" else "tree"
    if partials is None:
        size = round(s.aggregate * SCALE)
        links = Links(hop=s.level, link=SCALE)
        work = replace(
            work,
            partial_bytes=lambda leaves: size,
            environment_bytes=round(s.broadcast * SCALE),
            forwarded=True,
        )
    else:
        own = partials.links
        links = Links(own.hop, own.message, own.message, own.link, own.add)
        work = replace(
            work,
            partial_bytes=_by_leaves(partials, machines),
            environment_bytes=round(partials.environment_bytes or 0),
        )
    work = replace(work, **changes)  # type: ignore[arg-type]
    return SimulatedCluster(machines, fan_ins or (2,), work, links, way)


def _by_leaves(partials: Partials, machines: int) -> Callable[[int], int]:
    """Bytes of a partial by the simulation's leaves, of which each is several of the program's."""
    size, units = trees.size_of(partials.bytes), trees.units_of(machines, None)
    each = max(1, (partials.leaves or 1) // units)
    return lambda leaves: round(size(leaves * each))


def scaling(program: Program, title: str, machines: Sequence[int]) -> Scaling:
    """A program over machine counts, as planned and as simulated."""
    pairs = [compared(program, n) for n in machines]
    return Scaling(
        title,
        program.symbols,
        Curve(machines, [p.point.seconds for p in pairs]),
        Curve(machines, [p.steady.seconds for p in pairs]),
    )


def caching(machines: int = 32) -> Caching:
    """More and more records on so many machines: memory filled in part, or all or nothing in it."""
    program = GOLDEN[1]
    fits = machines * program.symbols.cache
    records = [fits * share for share in (0.1, 0.5, 1.0, 1.001, *(1 + i / 4 for i in range(1, 9)))]

    def seconds(partly: bool) -> Curve:
        found = []
        for count in records:
            grown = replace(program, symbols=replace(program.symbols, records=count))
            cluster = simulated(grown, machines, "tree", (2,), partly=partly)
            cluster.iterate()
            found.append(cluster.iterate().seconds)
        return Curve(records, found)

    return Caching(seconds(True), seconds(False), fits)

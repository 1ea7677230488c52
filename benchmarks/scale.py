"""The cost model from 1 to 10,000 machines, beside a simulation of the engine's protocol.

    python -m benchmarks.scale [--machines N ...] [--assumed] [--plots docs/images]

For each machine count the planner chooses the tree (`optimizer/costs/integer_plan.py`), and an
iteration with that tree is simulated message by message (`benchmarks/simulated_cluster.py`). Goal:
they differ by at most 10 %. Symbols are simulated as the literature counts; programs with partial
results of so many bytes as the engine runs them, over the links that `scalops calibrate` has
measured (assumed ones with `--assumed`). The closed form stands beside. `--plots` writes the
figures of docs/cost-model.md.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.simulated_cluster import (
    PLENTIFUL,
    Iteration,
    Links,
    SimulatedCluster,
    Way,
    Work,
)
from scalops.optimizer.costs import trees
from scalops.optimizer.costs.cluster_trees import Partials
from scalops.optimizer.costs.integer_plan import Point, plan
from scalops.optimizer.costs.machine import Machine
from scalops.optimizer.costs.symbols import Symbols
from scalops.profiles import machine as calibrated

MACHINES = (1, 2, 3, 5, 8, 10, 16, 20, 32, 50, 64, 73, 100, 128, 200, 368, 500, 1000, 2048, 10_000)
SCALE = 1e9  # bytes that stand for a second, where a partial is told in seconds
LEAVES = 1 << 16  # of the canonical reduction: enough for 10,000 machines
GOAL = 0.10


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
    """Programs whose partial results travel over such links."""
    sparse = trees.SparsePartial(1e7, 2e3)
    return (
        Program(
            "a gradient of 100 features",
            Symbols(1e9, 3e-8, 8e-7, 4e7, iterations=20),
            Partials(808.0, links, LEAVES, 808),
        ),
        Program(
            "a Hessian of 1,000 features",
            Symbols(1e8, 1e-5, 8e-6, 4e6, iterations=20),
            Partials(8e6, links, LEAVES, 8e3),
        ),
        Program(
            "a gradient of 10 million features",
            Symbols(1e9, 1e-6, 1e-6, 2e7, iterations=20),
            Partials(8e7, links, LEAVES, 8e7),
        ),
        Program(
            "a sparse gradient",
            Symbols(1e9, 1e-7, 1e-6, 2e7, iterations=20),
            Partials(sparse, links, LEAVES, 8e7),
        ),
    )


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


def compared(program: Program, machines: int) -> Pair:
    """The planner's tree for so many machines, and what it takes in the simulation."""
    partitions = None if program.partials is None else PLENTIFUL
    made = plan(program.symbols, [machines], partials=program.partials, partitions=partitions)
    cluster = simulated(program, machines, made.choice.kind, made.choice.fan_ins)
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


def differences(program: Program, machines: Sequence[int]) -> list[Pair]:
    """Print one line for each machine count."""
    print(f"\n{program.name}")
    print(f"{'N':>6}  {'simulated':>11}  {'planned':>11}  {'differ':>7}  {'closed':>11}  tree")
    found = []
    for n in machines:
        pair = compared(program, n)
        point = pair.point
        shown = "·".join(map(str, point.fan_ins)) if point.kind == "tree" else "at the driver"
        print(
            f"{n:>6}  {pair.steady.seconds:9.4g} s  {point.seconds:9.4g} s"
            f"  {pair.difference:+7.1%}  {point.closed_seconds:9.4g} s  {shown}"
        )
        found.append(pair)
    return found


def shares(pairs: Sequence[Pair]) -> tuple[float, float]:
    """The median and the worst absolute difference, of steady and first iterations."""
    found = [abs(d) for p in pairs for d in (p.difference, p.first_difference)]
    return median(found), max(found)


def main(arguments: list[str] | None = None) -> float:
    """Run and print; the worst difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--machines", type=int, nargs="+", default=list(MACHINES))
    parser.add_argument("--assumed", action="store_true", help="no measured links")
    parser.add_argument("--plots", type=Path, help="a folder for the figures")
    given = parser.parse_args(arguments)
    links = trees.links_of(Machine.of(1, 1 << 30) if given.assumed else calibrated())
    print(
        f"links ({links.provenance}): hop {links.hop:.3g} s, message {links.message:.3g} s,"
        f" {links.link:.3g} bytes/s, added {links.add:.3g} bytes/s"
    )
    found: list[Pair] = []
    for program in (*GOLDEN, *SYMBOLIC, *programs(links)):
        own = differences(program, given.machines)
        half, worst = shares(own)
        print(f"{'':>6}  median difference {half:.1%}, worst {worst:.1%}")
        found += own
    half, worst = shares(found)
    print(f"\nall: median difference {half:.1%}, worst {worst:.1%} (goal: at most {GOAL:.0%})")
    if given.plots:
        for path in plots(given.plots):
            print(path)
    return worst


if __name__ == "__main__":
    main()

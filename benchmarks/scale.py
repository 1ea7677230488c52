"""The cost model from 1 to 10,000 machines, beside a simulation of the engine's protocol.

    python -m benchmarks.scale [--machines N ...] [--assumed] [--plots docs/images]

For each machine count the planner chooses the tree (`optimizer/costs/integer_plan.py`), and an
iteration with that tree is simulated message by message (`tests/costs/simulated_cluster.py`). Goal:
they differ by at most 10 %. Symbols are simulated as the literature counts; programs with partial
results of so many bytes as the engine runs them, over the links that `scalops calibrate` has
measured (assumed ones with `--assumed`). The closed form stands beside. `--plots` writes the
figures of docs/cost-model.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from scalops.optimizer.costs import trees
from scalops.optimizer.costs.machine import Machine
from scalops.profiles import machine as calibrated
from tests.costs.scale_figures import draw
from tests.costs.scaling import (
    GOLDEN,
    SYMBOLIC,
    Pair,
    Program,
    caching,
    compared,
    programs,
    scaling,
    simulated,
)

MACHINES = (1, 2, 3, 5, 8, 10, 16, 20, 32, 50, 64, 73, 100, 128, 200, 368, 500, 1000, 2048, 10_000)
GOAL = 0.10
DRAWN = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 64, 73, 81, 100, 128, 200, 500, 1000)
UNEVEN = (*DRAWN[:-3], *(round(128 * 2 ** (i / 3)) for i in range(16)))


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


def effects(program: Program, machines: Sequence[int]) -> None:
    """Print what the model takes for granted: partitions for all, and machines of one speed."""
    print(f"\n{program.name}, simulated")
    print(f"{'N':>6}  {'plentiful':>11}  {'1,024 partitions':>16}  {'stragglers':>11}")
    for n in machines:
        point = compared(program, n).point
        found = []
        for changes in ({}, {"partitions": 1024}, {"jitter": 0.1}):
            cluster = simulated(program, n, point.kind, point.fan_ins, **changes)
            cluster.iterate()
            found.append(cluster.iterate().seconds)
        print(f"{n:>6}  {found[0]:9.4g} s  {found[1]:14.4g} s  {found[2]:9.4g} s")


def shares(pairs: Sequence[Pair]) -> tuple[float, float]:
    """The median and the worst absolute difference, of steady and first iterations."""
    found = [abs(d) for p in pairs for d in (p.difference, p.first_difference)]
    return median(found), max(found)


# The figures.


def plots(folder: Path) -> list[Path]:
    """Write the figures: from given symbols and assumed links, the same on every machine."""
    names = tuple(
        f"R {p.symbols.records:.0e}, M {p.symbols.cache:.3g}, A {p.symbols.aggregate:g}"
        for p in GOLDEN
    )
    engine = programs(trees.links_of(Machine.of(1, 1 << 30)))[2]
    golden = [scaling(p, n, DRAWN) for p, n in zip(GOLDEN, names, strict=True)]
    uneven = scaling(engine, "partial results of 80 MB", UNEVEN)
    regimes = [(n, p.symbols) for p, n in zip(GOLDEN, names, strict=True)]
    return draw(folder, (golden[0], uneven), (golden[0], golden[2]), caching(), regimes)


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
    effects(programs(links)[1], [n for n in given.machines if 10 <= n <= 3000])
    if given.plots:
        for path in plots(given.plots):
            print(path)
    return worst


if __name__ == "__main__":
    main()

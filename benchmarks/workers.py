"""Loops on two worker processes over ZeroMQ, beside the same loops in this process.

    python -m benchmarks.workers [--rows N] [--edges N] [--iterations K] [--rounds K]

Dense logistic regression (100 columns) and PageRank. Goal: at most 1.1 x the embedded time of an
iteration; the bits are the same.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

import numpy as np

import scalops as so
from benchmarks import logistic_regression, pagerank
from benchmarks.measure import interleaved, report

WORKERS = 2
COLUMNS = 100


def compared(
    title: str, make: Callable[[], Any], bits: Callable[[Any], bytes], rounds: int
) -> float:
    """Time a loop embedded and on workers; the ratio. `bits` of its environment must agree."""
    found: dict[str, bytes] = {}

    def run(name: str) -> list[float]:
        outcome = make().run()
        found[name] = bits(outcome.env)
        return [float(s) for s in outcome.history["seconds"].to_pylist()]

    def embedded() -> list[float]:
        with so.session(workers=0, threads=len(os.sched_getaffinity(0))):
            return run("embedded")

    with so.session(workers=WORKERS, threads=1):
        run("two workers")  # they start, and the tables are copied to where they map them
        ways = {"two workers": lambda: run("two workers"), "embedded": embedded}
        timings = interleaved(ways, rounds)
    assert found["two workers"] == found["embedded"]
    return report(title, timings, "two workers", "embedded")


def main(arguments: list[str] | None = None) -> float:
    """Run and print; the greater ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--edges", type=int, default=10_000_000)
    parser.add_argument("--scale", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    x, y = logistic_regression.data(given.rows, COLUMNS, "float64")
    xy = so.table({"x": x, "y": y})
    dense = compared(
        f"logistic regression, {given.rows:,} x {COLUMNS}, per iteration",
        lambda: logistic_regression.program(xy, COLUMNS, given.rows, given.iterations, "float64"),
        lambda env: np.asarray(env.w).tobytes(),
        given.rounds,
    )
    source, target = pagerank.graph(given.edges, given.scale)
    n = 2**given.scale
    edges, nodes = so.table({"src": source, "dst": target}), so.table({"id": np.arange(n)})
    graph = compared(
        f"PageRank, {given.edges:,} edges, per iteration",
        lambda: pagerank.program(nodes, edges, n, given.iterations),
        lambda env: env.ranks["rank"].to_numpy().tobytes(),
        given.rounds,
    )
    return max(dense, graph)


if __name__ == "__main__":
    main()

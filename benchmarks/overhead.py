"""What an iteration costs beyond its arithmetic: a loop over 1,000 records.

    python -m benchmarks.overhead [--rows N] [--iterations K]

s <- sum(cos(x_i + s)) / n, each step needing the one before. Goal: at most 0.15 ms per iteration.
"""

from __future__ import annotations

import argparse
from time import perf_counter
from typing import Any

import numpy as np

import scalops as so
from benchmarks.measure import interleaved, report


def program(t: so.Table, rows: int, iterations: int) -> Any:
    """The loop as a user writes it."""
    return so.loop(0.0, range(iterations))(lambda s: t.sum(lambda r: np.cos(r.x + s)) / rows)


def main(arguments: list[str] | None = None) -> float:
    """Run and print; milliseconds per iteration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--iterations", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    x = np.random.default_rng(8).random(given.rows) * 3
    results: dict[str, float] = {}

    def ours() -> list[float]:
        outcome = program(so.table({"x": x}), given.rows, given.iterations).run()
        results["scalops"] = float(outcome.env)
        return [float(s) for s in outcome.history["seconds"].to_pylist()]

    def by_numpy() -> list[float]:
        s, seconds = 0.0, []
        for _ in range(given.iterations):
            begin = perf_counter()
            s = float(np.cos(x + s).sum() / given.rows)
            seconds.append(perf_counter() - begin)
        results["numpy"] = s
        return seconds

    timings = interleaved({"scalops": ours, "NumPy": by_numpy}, given.rounds)
    np.testing.assert_allclose(results["scalops"], results["numpy"], rtol=1e-12)
    report(f"overhead, {given.rows:,} records, per iteration", timings, "scalops", "NumPy", 1e-6)
    return timings[0].seconds * 1e3


if __name__ == "__main__":
    main()

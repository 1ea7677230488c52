"""A cumulative sum beside NumPy's: a column of record batches in, a materialised column out.

    python -m benchmarks.cumulative [--rows N] [--batches B]

Goal: at most 0.7 times np.cumsum over the whole column in one go, into a new array.
"""

from __future__ import annotations

import argparse
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

import scalops as so
from benchmarks.measure import interleaved, report


def main(arguments: list[str] | None = None) -> float:
    """Run and print; the ratio to NumPy's time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000_000)
    parser.add_argument("--batches", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args(arguments)
    x = np.random.default_rng(7).gamma(2.0, 1.0, given.rows)
    parts = np.array_split(x, given.batches)
    batches = [pa.record_batch({"v": pa.array(part)}) for part in parts]
    table = so.from_arrow(pa.Table.from_batches(batches))
    at = np.linspace(0, given.rows - 1, 101).astype(np.int64)
    results: dict[str, Any] = {}

    def measured(name: str, run: Any, sample: Any) -> list[float]:
        seconds = []
        for _ in range(3):
            begin = perf_counter()
            made = run()
            seconds.append(perf_counter() - begin)
            results[name] = sample(made)
            del made
        return seconds

    def ours() -> list[float]:
        plan = table.select(total=so.cumsum("v"))
        with so.session(threads=given.threads):
            return measured("scalops", plan.collect, lambda t: t.column(0).take(at).to_numpy())

    def by_numpy() -> list[float]:
        return measured("NumPy", lambda: np.cumsum(x), lambda y: y[at])

    timings = interleaved({"scalops": ours, "NumPy": by_numpy}, given.rounds)
    np.testing.assert_allclose(results["scalops"], results["NumPy"], rtol=1e-10)
    title = f"cumulative sum, {given.rows:,} records in {given.batches} batches"
    return report(title, timings, "scalops", "NumPy")


if __name__ == "__main__":
    main()

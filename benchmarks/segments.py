"""Sums by a small integer key inside a loop, beside NumPy, SciPy, DuckDB and Polars.

    python -m benchmarks.segments [--rows N] [--columns D] [--rounds K] [--threads T]

N records of a key and D float64: the mean vector of each of 10, 50 and 1,000 keys, as the update of
k-means needs it, in every iteration of a loop; beside `np.bincount` for each column and a product
with SciPy's sparse indicator matrix, which they make anew each time, as the keys change. Then
count and sum of one number by 50 keys, beside DuckDB's and Polars' group-by of the same columns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse

import scalops as so
from benchmarks.measure import interleaved, report

ITERATIONS = 4


def means_loop(table: so.Table, count: int, columns: int, iterations: int = ITERATIONS) -> so.Loop:
    """Means of vectors by a key that the loop might change, so that nothing is computed once."""

    @so.loop(np.zeros((count, columns)), range(iterations))
    def means(c: Any) -> Any:
        groups = table.group_by(at=lambda r: np.where(c[0, 0] > 9.0, 0, r.k))
        return groups.agg(m=so.mean("x")).to_array("m", "at", count, fill=c)

    return means  # type: ignore[no-any-return]


def scalars_loop(table: so.Table, count: int) -> so.Loop:
    """Counts and sums of numbers by a key that the loop might change."""

    @so.loop(np.zeros(count), range(ITERATIONS))
    def totals(t: Any) -> Any:
        groups = table.group_by(at=lambda r: np.where(t[0] > 1e300, 0, r.k))
        made = groups.agg(s=so.sum("v"), n=so.count())
        return made.to_array("s", "at", count) / made.to_array("n", "at", count)

    return totals  # type: ignore[no-any-return]


def ours(loop: so.Loop, threads: int) -> Callable[[], list[float]]:
    """A round: the seconds of each iteration."""

    def one() -> list[float]:
        with so.session(threads=threads):
            loop.forget()
            seconds: list[float] = loop.run().history["seconds"].to_pylist()
        return seconds

    return one


def peer(call: Callable[[], Any]) -> Callable[[], list[float]]:
    """A round of as many calls."""

    def one() -> list[float]:
        seconds = []
        for _ in range(ITERATIONS):
            start = perf_counter()
            call()
            seconds.append(perf_counter() - start)
        return seconds

    return one


def vector_ways(
    keys: Any, vectors: Any, count: int, threads: int
) -> dict[str, Callable[[], list[float]]]:
    """The ways to average vectors by key."""

    def bincount() -> Any:
        sums = [np.bincount(keys, vectors[:, j], count) for j in range(vectors.shape[1])]
        return np.stack(sums, 1) / np.bincount(keys, minlength=count)[:, None]

    def indicator() -> Any:
        entries: Any = (np.ones(len(keys)), keys, np.arange(len(keys) + 1))
        matrix = sparse.csc_array(entries, shape=(count, len(keys)))
        return (matrix @ vectors) / np.bincount(keys, minlength=count)[:, None]

    loop = means_loop(so.table({"k": keys, "x": vectors}), count, vectors.shape[1])
    np.testing.assert_allclose(loop.collect(), indicator(), rtol=1e-9)
    return {
        "ours": ours(loop, threads),
        "np.bincount by column": peer(bincount),
        "sparse indicator": peer(indicator),
    }


def scalar_ways(
    keys: Any, values: Any, count: int, threads: int
) -> dict[str, Callable[[], list[float]]]:
    """The ways to average numbers by key; Polars uses as many threads as there are."""
    import duckdb
    import polars

    connection = duckdb.connect(config={"threads": threads})
    connection.register("given", pa.table({"k": keys, "v": values}))
    connection.execute("create table held as select * from given")
    query = "select k, sum(v) as s, count(*) as n from held group by k"
    frame = polars.DataFrame({"k": keys, "v": values})
    loop = scalars_loop(so.table({"k": keys, "v": values}), count)
    expected = np.bincount(keys, values) / np.bincount(keys)
    np.testing.assert_allclose(loop.collect(), expected, rtol=1e-9)
    column = polars.col("v")
    return {
        "ours": ours(loop, threads),
        "np.bincount": peer(lambda: np.bincount(keys, values) / np.bincount(keys)),
        "DuckDB": peer(lambda: connection.sql(query).to_arrow_table()),
        "Polars": peer(lambda: frame.group_by("k").agg(s=column.sum(), n=column.count())),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    vectors = rng.random((given.rows, given.columns))
    for count in (10, 50, 1000):
        keys = rng.integers(0, count, given.rows)
        ways = vector_ways(keys, vectors, count, given.threads)
        title = f"means of {given.rows} vectors of {given.columns} by {count} keys"
        report(title, interleaved(ways, given.rounds), "ours", "sparse indicator")
    keys = rng.integers(0, 50, given.rows)
    ways = scalar_ways(keys, vectors[:, 0].copy(), 50, given.threads)
    title = f"count and sum of {given.rows} numbers by 50 keys"
    report(title, interleaved(ways, given.rounds), "ours", "DuckDB")


if __name__ == "__main__":
    main()

"""Groups and folds over them, beside DuckDB, np.bincount and a loop over groups.

    python -m benchmarks.groups [--rows N] [--rounds K] [--threads T]

N records (an integer key, a float): count, sum and mean by key, of 20 groups, of N / 5, and of as
many as there are records. N / 10 vectors of 50 floats: the mean of each of 50 groups. N / 5
vectors of 10 floats: the sum of their outer products for each of N / 800 groups, as alternating
least squares needs it. All results are materialised; ours come by first appearance of the keys.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import pairwise
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

import scalops as so
from benchmarks.measure import interleaved, report

QUERY = "select k, sum(v) as s, count(*) as n, avg(v) as m from given group by k"
VECTOR_GROUPS, OUTER_RECORDS = 50, 160  # groups of vectors; records of a group of outer products


def timed(call: Callable[[], Any]) -> Callable[[], list[float]]:
    """A round: one call that counts."""

    def one() -> list[float]:
        start = perf_counter()
        call()
        return [0.0, perf_counter() - start]

    return one


def scalars(keys: Any, values: Any, threads: int) -> dict[str, Callable[[], Any]]:
    """The three ways to count, add up and average numbers by key."""
    import duckdb

    connection = duckdb.connect(config={"threads": threads})
    connection.register("given", pa.table({"k": keys, "v": values}))
    connection.execute("create table held as select * from given")
    connection.execute("drop view given")
    connection.execute("alter table held rename to given")
    groups = so.table({"k": keys, "v": values}).group_by("k")
    made = groups.agg(s=so.sum("v"), n=so.count(), m=so.mean("v"))

    def bincount() -> Any:
        sums, counts = np.bincount(keys, values), np.bincount(keys)
        return sums, counts, sums / np.maximum(counts, 1)

    return {
        "ours": lambda: fresh(made, threads),
        "DuckDB": lambda: connection.sql(QUERY).to_arrow_table(),
        "np.bincount": bincount,
    }


def fresh(table: so.Table, threads: int) -> pa.Table:
    """The table's records, computed now."""
    found: pa.Table = so.collect(table, threads=threads)
    return found


def means(keys: Any, vectors: Any, threads: int) -> dict[str, Callable[[], Any]]:
    """Means of vectors by key: ours, and a bincount for each element."""
    made = so.table({"k": keys, "x": vectors}).group_by("k").agg(m=so.mean("x"))

    def bincount() -> Any:
        sums = [np.bincount(keys, vectors[:, j]) for j in range(vectors.shape[1])]
        return np.stack(sums, 1) / np.bincount(keys)[:, None]

    return {"ours": lambda: fresh(made, threads), "np.bincount": bincount}


def outers(keys: Any, vectors: Any, threads: int) -> dict[str, Callable[[], Any]]:
    """Sums of outer products by key: ours, and a product for each group after a sort."""
    groups = so.table({"k": keys, "x": vectors}).group_by("k")
    made = groups.agg(o=so.sum(lambda r: np.outer(r.x, r.x)))

    def loop() -> Any:
        order = np.argsort(keys, kind="stable")
        count = int(keys.max()) + 1
        ends = np.searchsorted(keys[order], np.arange(count + 1)).tolist()
        ordered = vectors[order]
        return [ordered[a:b].T @ ordered[a:b] for a, b in pairwise(ends)]

    return {"ours": lambda: fresh(made, threads), "loop over groups": loop}


def check(ways: dict[str, Callable[[], Any]]) -> None:
    """Ours is what the peer gives."""
    own = ways["ours"]().sort_by("k")
    theirs = ways["DuckDB"]().sort_by("k")
    for name in ("k", "s", "n", "m"):
        np.testing.assert_allclose(own[name].to_numpy(), theirs[name].to_numpy(), rtol=1e-9)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments)
    rows, rng = given.rows, np.random.default_rng(0)
    values = rng.random(rows)
    many = rows // 5
    keys = {
        "20 groups": rng.integers(0, 20, rows),
        f"{many} groups": rng.integers(0, many, rows),
        "all keys differ": rng.permutation(rows),
    }
    for title, own in keys.items():
        ways = scalars(own, values, given.threads)
        check(ways)
        timings = interleaved({n: timed(f) for n, f in ways.items()}, given.rounds)
        report(f"count, sum and mean of {rows} numbers, {title}", timings, "ours", "DuckDB")
    vectors = rng.random((rows // 10, 50))
    ways = means(rng.integers(0, VECTOR_GROUPS, len(vectors)), vectors, given.threads)
    timings = interleaved({n: timed(f) for n, f in ways.items()}, given.rounds)
    report(f"means of {len(vectors)} vectors of 50", timings, "ours", "np.bincount")
    vectors = rng.random((many, 10))
    count = max(1, many // OUTER_RECORDS)
    ways = outers(rng.integers(0, count, many), vectors, given.threads)
    timings = interleaved({n: timed(f) for n, f in ways.items()}, given.rounds)
    report(f"outer products of {many} vectors of 10", timings, "ours", "loop over groups")


if __name__ == "__main__":
    main()

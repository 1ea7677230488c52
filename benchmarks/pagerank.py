"""PageRank on a random graph with hubs, beside SciPy, np.bincount, DuckDB and Polars.

    python -m benchmarks.pagerank [--edges M] [--scale S] [--iterations K] [--rounds N]

2^S nodes; M edges drawn as Chakrabarti, Zhan and Faloutsos, "R-MAT: A Recursive Model for Graph
Mining" (SDM 2004), draw them, without duplicates and self-loops, node numbers shuffled.

Goals, at 2^20 nodes and 10 M edges, 10 iterations: at most 1.0 x SciPy per iteration, at least
8 x faster than DuckDB and Polars; with loading and the join index, ten iterations at most 1.5 x
SciPy with its own matrix.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
from scipy import sparse

import scalops as so
from benchmarks.measure import interleaved, report

DAMPING = 0.85


class Ranks(so.Environment):
    """The loop's state."""

    ranks: so.Table
    delta: float


def graph(edges: int, scale: int) -> tuple[Any, Any]:
    """int64 source and target of each edge, ordered by source."""
    rng = np.random.default_rng(5)
    source, target = np.zeros(edges, np.int64), np.zeros(edges, np.int64)
    for _ in range(scale):
        u = rng.random(edges)
        source = source * 2 + (u >= 0.76)
        target = target * 2 + (((u >= 0.57) & (u < 0.76)) | (u >= 0.95))
    shuffled = rng.permutation(2**scale)
    keys = np.unique((shuffled[source] << scale) + shuffled[target])
    source, target = keys >> scale, keys & (2**scale - 1)
    loops = source == target
    return source[~loops], target[~loops]


def program(nodes: so.Table, edges: so.Table, n: int, iterations: int) -> Any:
    """As a user writes it: joins and a group-by in each iteration."""
    degrees = edges.group_by("src").agg(degree=so.count())
    nodes = nodes.join(degrees, left_on="id", right_on="src", how="left").with_columns(
        degree=lambda r: so.coalesce(r.degree, 0)
    )
    start = Ranks(ranks=nodes.select("id", rank=lambda r: 1.0 / n), delta=np.inf)

    @so.loop(start, range(iterations))
    def ranks(env: Any) -> Any:
        with_degree = nodes.join(env.ranks, on="id")
        dangling = with_degree.filter(lambda r: r.degree == 0).sum("rank")
        shares = with_degree.filter(lambda r: r.degree > 0).select(
            "id", share=lambda r: r.rank / r.degree
        )
        received = edges.join(shares, left_on="src", right_on="id")
        totals = received.group_by("dst").agg(total=so.sum("share"))
        updated = nodes.join(totals, left_on="id", right_on="dst", how="left").select(
            "id",
            rank=lambda r: (1 - DAMPING) / n + DAMPING * (so.coalesce(r.total, 0.0) + dangling / n),
        )
        both = updated.join(env.ranks, on="id")
        env.delta = both.map(lambda r: abs(r.rank - r.rank_right)).sum()
        env.ranks = updated
        return env

    return ranks


Product = Callable[[Any], Any]


def by_hand(source: Any, n: int, iterations: int, product: Product) -> tuple[Any, list[float]]:
    """The power iteration over `product`: what each node receives from its neighbours' shares."""
    degree = np.bincount(source, minlength=n)
    inverse = np.where(degree > 0, 1.0 / np.maximum(degree, 1), 0.0)
    dangling = degree == 0
    rank, seconds = np.full(n, 1.0 / n), []
    for _ in range(iterations):
        begin = perf_counter()
        lost = rank[dangling].sum()
        new = (1 - DAMPING) / n + DAMPING * (product(rank * inverse) + lost / n)
        np.abs(new - rank).sum()
        rank = new
        seconds.append(perf_counter() - begin)
    return rank, seconds


def by_duckdb(source: Any, target: Any, n: int, iterations: int) -> tuple[Any, list[float]]:
    """Join and group-by in SQL, a table for each iteration."""
    import duckdb

    given = {"src": source, "dst": target}  # noqa: F841 (read by name)
    con = duckdb.connect()
    con.execute("create table edges as select * from given")
    con.execute(
        "create table degrees as select src as id, count(*) as degree from edges group by src"
    )
    con.execute(f"create table ranks as select i as id, {1 / n!r} as rank from range({n}) t(i)")
    seconds = []
    for _ in range(iterations):
        begin = perf_counter()
        con.execute(
            f"""create or replace table next as
            with lost as (
                select coalesce(sum(rank), 0) as rank from ranks anti join degrees using (id)),
            totals as (select dst as id, sum(rank / degree) as total from edges
                join ranks on src = ranks.id join degrees on src = degrees.id group by dst)
            select ranks.id,
                {1 - DAMPING} / {n} + {DAMPING} * (coalesce(total, 0) + lost.rank / {n}) as rank
                from ranks left join totals using (id), lost"""
        )
        con.execute(
            "select sum(abs(a.rank - b.rank)) from ranks a join next b using (id)"
        ).fetchone()
        con.execute("drop table ranks; alter table next rename to ranks")
        seconds.append(perf_counter() - begin)
    return con.execute("select rank from ranks order by id").fetchnumpy()["rank"], seconds


def by_polars(source: Any, target: Any, n: int, iterations: int) -> tuple[Any, list[float]]:
    """Join and group-by of frames."""
    import polars as pl

    edges = pl.DataFrame({"src": source, "dst": target})
    degrees = edges.group_by("src").agg(degree=pl.len()).rename({"src": "id"})
    nodes = pl.DataFrame({"id": np.arange(n)}).join(degrees, on="id", how="left")
    ranks = nodes.select("id", rank=pl.lit(1 / n))
    seconds = []
    for _ in range(iterations):
        begin = perf_counter()
        known = nodes.join(ranks, on="id")
        lost = known.filter(pl.col("degree").is_null())["rank"].sum()
        shares = known.drop_nulls("degree").select("id", share=pl.col("rank") / pl.col("degree"))
        totals = (
            edges.lazy()
            .join(shares.lazy(), left_on="src", right_on="id")
            .group_by("dst")
            .agg(total=pl.col("share").sum())
            .collect()
        )
        new = nodes.join(totals, left_on="id", right_on="dst", how="left").select(
            "id",
            rank=(1 - DAMPING) / n + DAMPING * (pl.col("total").fill_null(0.0) + lost / n),
        )
        both = new.join(ranks, on="id")
        (both["rank"] - both["rank_right"]).abs().sum()
        ranks = new
        seconds.append(perf_counter() - begin)
    return ranks.sort("id")["rank"].to_numpy(), seconds


def main(arguments: list[str] | None = None) -> float:
    """Run and print; the ratio to SciPy per iteration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edges", type=int, default=10_000_000)
    parser.add_argument("--scale", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    source, target = graph(given.edges, given.scale)
    n, iterations = 2**given.scale, given.iterations
    results: dict[str, Any] = {}
    whole: dict[str, list[float]] = {"scalops": [], "SciPy": []}

    def ours(threads: int) -> list[float]:
        begin = perf_counter()
        edges = so.table({"src": source, "dst": target})
        nodes = so.table({"id": np.arange(n)})
        with so.session(threads=threads):
            outcome = program(nodes, edges, n, iterations).run()
        if not threads:
            whole["scalops"].append(perf_counter() - begin)
        results["scalops"] = outcome.env.ranks["rank"].to_numpy()
        return [float(s) for s in outcome.history["seconds"].to_pylist()]

    def scipy_loop() -> list[float]:
        begin = perf_counter()
        ones = np.ones(len(source))
        matrix = sparse.csr_matrix((ones, (target, source)), shape=(n, n))
        results["SciPy"], seconds = by_hand(source, n, iterations, lambda y: matrix @ y)
        whole["SciPy"].append(perf_counter() - begin)
        return seconds

    def peer(name: str, run: Callable[[], tuple[Any, list[float]]]) -> list[float]:
        results[name], seconds = run()
        return seconds

    def bincount(shares: Any) -> Any:
        return np.bincount(target, weights=shares[source], minlength=n)

    ways: dict[str, Callable[[], list[float]]] = {
        "scalops": lambda: ours(0),
        "scalops, 1 thread": lambda: ours(1),
        "SciPy": scipy_loop,
        "np.bincount": lambda: peer(
            "np.bincount", lambda: by_hand(source, n, iterations, bincount)
        ),
        "DuckDB": lambda: peer("DuckDB", lambda: by_duckdb(source, target, n, iterations)),
        "Polars": lambda: peer("Polars", lambda: by_polars(source, target, n, iterations)),
    }
    timings = interleaved(ways, given.rounds)
    for name, ranks in results.items():
        np.testing.assert_allclose(ranks, results["SciPy"], rtol=1e-9, err_msg=name)
    title = f"PageRank, {n:,} nodes, {len(source):,} edges, per iteration"
    ratio = report(title, timings, "scalops", "SciPy")
    by_name = {t.name: t.seconds for t in timings}
    for name in ("DuckDB", "Polars", "np.bincount"):
        print(f"  {name} / scalops: {by_name[name] / by_name['scalops']:.1f}")
    a, b = (float(np.median(whole[k])) for k in ("scalops", "SciPy"))
    print(
        f"  with loading and index, {iterations} iterations: {a:.2f} s and {b:.2f} s: {a / b:.2f}"
    )
    return ratio


if __name__ == "__main__":
    main()

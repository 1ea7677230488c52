"""K-means, Lloyd's iteration, beside scikit-learn and blocked NumPy.

    python -m benchmarks.kmeans [--rows N] [--columns D] [--clusters K] [--iterations I]

Goal: at most 1.2 x scikit-learn's iteration at 500,000 x 50 and 50 clusters. scikit-learn's is the
difference of two fits, of which one has more iterations, so that what it does once does not count.
"""

from __future__ import annotations

import argparse
import warnings
from time import perf_counter
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import scalops as so
from benchmarks.measure import blas, interleaved, report

BLOCK = 2048


def data(rows: int, columns: int, clusters: int) -> tuple[Any, Any]:
    """Seeded records around centres that overlap, and records to start from."""
    rng = np.random.default_rng(6)
    centres = 1.5 * rng.standard_normal((clusters, columns))
    x = centres[rng.integers(0, clusters, rows)] + rng.standard_normal((rows, columns))
    return x, x[rng.choice(rows, clusters, replace=False)].copy()


def program(table: so.Table, start: Any, iterations: int) -> Any:
    """As a user writes it: one record at a time."""

    @so.loop(start, range(iterations))
    def centroids(c: Any) -> Any:
        nearest = table.group_by(cluster=lambda r: np.argmin(((c - r.x) ** 2).sum(axis=1)))
        means = nearest.agg(centre=so.mean("x"))
        return means.to_array("centre", index="cluster", size=len(start), fill=c)

    return centroids


def blocked(x: Any, start: Any, iterations: int) -> tuple[Any, list[float]]:
    """Blocks in cache with reused buffers on one thread, as one writes it by hand."""
    c, seconds = start.copy(), []
    k, d = c.shape
    scores = np.empty((BLOCK, k))
    one_hot = np.empty((BLOCK, k))
    for _ in range(iterations):
        begin = perf_counter()
        factors, norms = -2 * c.T, np.square(c).sum(axis=1)
        sums, counts = np.zeros((k, d)), np.zeros(k)
        for i in range(0, len(x), BLOCK):
            part = x[i : i + BLOCK]
            own, ones = scores[: len(part)], one_hot[: len(part)]
            np.matmul(part, factors, out=own)
            own += norms
            label = own.argmin(axis=1)
            ones[...] = 0
            ones[np.arange(len(part)), label] = 1
            sums += ones.T @ part
            counts += np.bincount(label, minlength=k)
        c = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], c)
        seconds.append(perf_counter() - begin)
    return c, seconds


def by_scikit_learn(x: Any, start: Any, iterations: int) -> tuple[Any, list[float]]:
    """Seconds of an iteration: of a long fit, less a short one, by their difference in length."""
    from sklearn.cluster import KMeans

    short, times, centres = 1, [], None
    for many in (short, short, short + iterations):  # the first one is not counted: it warms up
        # tol=0 would still stop at equal labels: the data keep records changing sides.
        model = KMeans(len(start), init=start, n_init=1, max_iter=many, tol=0, algorithm="lloyd")
        begin = perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(x)
        times.append((perf_counter() - begin, model.n_iter_))
        centres = model.cluster_centers_
    _, (less, first), (more, last) = times
    each = (more - less) / (last - first)
    return centres, [each, each]


def main(arguments: list[str] | None = None) -> float:
    """Run and print; the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--columns", type=int, default=50)
    parser.add_argument("--clusters", type=int, default=50)
    parser.add_argument("--iterations", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="of all ways; 0: all processors")
    given = parser.parse_args(arguments)
    x, start = data(given.rows, given.columns, given.clusters)
    results: dict[str, Any] = {}

    def ours() -> list[float]:
        loop = program(so.table({"x": x}), start, given.iterations + 1)
        with so.session(threads=given.threads):
            outcome = loop.run()
        results["scalops"] = outcome.env
        return [float(s) for s in outcome.history["seconds"].to_pylist()]

    def scikit_learn() -> list[float]:
        with threadpool_limits(given.threads or None):
            results["scikit-learn"], seconds = by_scikit_learn(x, start, given.iterations)
        return seconds

    def by_hand() -> list[float]:
        with threadpool_limits(1, "blas"):
            results["NumPy"], seconds = blocked(x, start, given.iterations + 1)
        return seconds

    timings = interleaved(
        {"scalops": ours, "scikit-learn": scikit_learn, "NumPy, blocked, 1 thread": by_hand},
        given.rounds,
    )
    np.testing.assert_allclose(results["scalops"], results["NumPy"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(results["scalops"], results["scikit-learn"], rtol=1e-6, atol=1e-9)
    print(f"BLAS of NumPy: {blas()}")
    size = f"{given.rows:,} x {given.columns}, {given.clusters} clusters"
    return report(f"k-means, {size}, per iteration", timings, "scalops", "scikit-learn")


if __name__ == "__main__":
    main()

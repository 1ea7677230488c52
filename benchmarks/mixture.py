"""A Gaussian mixture of diagonal covariances by expectation maximisation, beside NumPy.

    python -m benchmarks.mixture [--rows N] [--columns D] [--components K] [--iterations I]

Goal: at most 0.6 x the whole-array loop per iteration, at 500,000 x 64 and 10 components. NumPy's
loop is written as products of whole arrays; the squares of x are made once.
"""

from __future__ import annotations

import argparse
from time import perf_counter
from typing import Any

import numpy as np

import scalops as so
from benchmarks.measure import blas, interleaved, one_read, report


class Mixture(so.Environment):
    """The loop's state: [k] weights, [k, d] means and variances, the log-likelihood."""

    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray
    likelihood: float


def data(rows: int, columns: int, components: int) -> tuple[Any, Mixture]:
    """Seeded records of a mixture that overlaps, and where to start."""
    rng = np.random.default_rng(7)
    means = 0.7 * rng.standard_normal((components, columns))
    scales = rng.uniform(0.5, 1.5, (components, columns))
    which = rng.integers(0, components, rows)
    x = means[which] + scales[which] * rng.standard_normal((rows, columns))
    start = Mixture(
        weights=np.full(components, 1 / components),
        means=x[rng.choice(rows, components, replace=False)].copy(),
        variances=np.ones((components, columns)),
        likelihood=-np.inf,
    )
    return x, start


def program(table: so.Table, start: Mixture, rows: int, iterations: int) -> Any:
    """As a user writes it: one record at a time."""

    @so.loop(start, range(iterations))
    def mixture(env: Any) -> Any:
        def scores(r: Any) -> Any:
            distances = ((r.x - env.means) ** 2 / env.variances).sum(axis=1)
            constants = np.log(env.weights) - 0.5 * np.log(2 * np.pi * env.variances).sum(axis=1)
            return constants - 0.5 * distances

        def shares(r: Any) -> Any:
            return so.softmax(scores(r))

        counts = table.sum(shares)
        sums = table.sum(lambda r: np.outer(shares(r), r.x))
        squares = table.sum(lambda r: np.outer(shares(r), r.x**2))
        env.likelihood = table.mean(lambda r: so.logsumexp(scores(r)))
        means = sums / counts[:, None]
        env.weights = counts / rows
        env.variances = squares / counts[:, None] - means**2 + 1e-6
        env.means = means
        return env

    return mixture


def by_numpy(x: Any, start: Mixture, iterations: int) -> tuple[Any, list[float]]:
    """Products of whole arrays, as one writes it by hand."""
    weights, means, variances = start.weights, start.means, start.variances
    squared, seconds = x**2, []
    likelihood = start.likelihood
    for _ in range(iterations):
        begin = perf_counter()
        inverse = 1 / variances
        constants = np.log(weights) - 0.5 * np.log(2 * np.pi * variances).sum(axis=1)
        constants = constants - 0.5 * (means**2 * inverse).sum(axis=1)
        scores = x @ (means * inverse).T
        scores -= 0.5 * (squared @ inverse.T)
        scores += constants
        greatest = scores.max(axis=1, keepdims=True)
        scores -= greatest
        np.exp(scores, out=scores)
        total = scores.sum(axis=1, keepdims=True)
        likelihood = float((np.log(total) + greatest).mean())
        scores /= total
        counts = scores.sum(axis=0)
        means = scores.T @ x / counts[:, None]
        variances = scores.T @ squared / counts[:, None] - means**2 + 1e-6
        weights = counts / len(x)
        seconds.append(perf_counter() - begin)
    return (weights, means, variances, likelihood), seconds


def main(arguments: list[str] | None = None) -> float:
    """Run and print; the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--columns", type=int, default=64)
    parser.add_argument("--components", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    x, start = data(given.rows, given.columns, given.components)
    results: dict[str, Any] = {}

    def ours(threads: int) -> list[float]:
        loop = program(so.table({"x": x}), start, given.rows, given.iterations)
        with so.session(threads=threads):
            outcome = loop.run()
        env = outcome.env
        results["scalops"] = (env.weights, env.means, env.variances, env.likelihood)
        return [float(s) for s in outcome.history["seconds"].to_pylist()]

    def numpy_loop() -> list[float]:
        results["numpy"], seconds = by_numpy(x, start, given.iterations)
        return seconds

    timings = interleaved(
        {
            "scalops": lambda: ours(0),
            "scalops, 1 thread": lambda: ours(1),
            "NumPy, whole arrays": numpy_loop,
            "one read of x": lambda: one_read(x),
        },
        given.rounds,
    )
    for ours_one, theirs in zip(results["scalops"], results["numpy"], strict=True):
        np.testing.assert_allclose(ours_one, theirs, rtol=1e-6, atol=1e-9)
    print(f"BLAS of the NumPy loop: {blas()}")
    size = f"{given.rows:,} x {given.columns}, {given.components} components"
    title = f"Gaussian mixture, {size}, per iteration"
    return report(title, timings, "scalops", "NumPy, whole arrays", limit="one read of x")


if __name__ == "__main__":
    main()

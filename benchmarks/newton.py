"""Newton's method for logistic regression: gradient and Hessian, beside the product alone.

    python -m benchmarks.newton [--rows N] [--columns D] [--iterations I]

Goal: an iteration at most 1.3 x the matrix product (s·X).T @ X alone, at 500,000 x 100.
"""

from __future__ import annotations

import argparse
from time import perf_counter
from typing import Any

import numpy as np
from scipy.special import expit

import scalops as so
from benchmarks.measure import blas, interleaved, report

RIDGE = 1.0


def data(rows: int, columns: int) -> tuple[Any, Any]:
    """Seeded records: x of normal numbers, y of 0 and 1 from a noisy hyperplane."""
    rng = np.random.default_rng(6)
    x = rng.standard_normal((rows, columns))
    noise = 5 * rng.standard_normal(rows)
    return x, (x @ rng.standard_normal(columns) + noise > 0).astype(float)


def program(xy: so.Table, columns: int, iterations: int) -> Any:
    """As a user writes it: one record at a time."""

    def step(w: Any) -> Any:
        def p(r: Any) -> Any:
            return so.sigmoid(r.x @ w)

        gradient = xy.map(lambda r: (p(r) - r.y) * r.x).sum() + RIDGE * w
        hessian = xy.map(lambda r: p(r) * (1 - p(r)) * np.outer(r.x, r.x)).sum()
        return w - np.linalg.solve(hessian + RIDGE * np.eye(columns), gradient)

    return so.loop(np.zeros(columns), range(iterations))(step)


def by_numpy(x: Any, y: Any, iterations: int) -> tuple[Any, list[float], list[float]]:
    """Whole arrays; the seconds of an iteration, and those of its product."""
    w, seconds, products = np.zeros(x.shape[1]), [], []
    for _ in range(iterations):
        begin = perf_counter()
        p = expit(x @ w)
        gradient = x.T @ (p - y) + RIDGE * w
        scaled = (p * (1 - p))[:, None] * x
        before = perf_counter()
        hessian = scaled.T @ x
        products.append(perf_counter() - before)
        w = w - np.linalg.solve(hessian + RIDGE * np.eye(x.shape[1]), gradient)
        seconds.append(perf_counter() - begin)
    return w, seconds, products


def main(arguments: list[str] | None = None) -> float:
    """Run and print; the ratio to the product alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    x, y = data(given.rows, given.columns)
    results: dict[str, Any] = {}

    def ours() -> list[float]:
        outcome = program(so.table({"x": x, "y": y}), given.columns, given.iterations).run()
        results["scalops"] = outcome.env
        return [float(s) for s in outcome.history["seconds"].to_pylist()]

    def numpy_loop(product: bool) -> list[float]:
        results["numpy"], seconds, products = by_numpy(x, y, given.iterations)
        return products if product else seconds

    timings = interleaved(
        {
            "scalops": ours,
            "NumPy, whole arrays": lambda: numpy_loop(False),
            "(s * X).T @ X alone": lambda: numpy_loop(True),
        },
        given.rounds,
    )
    np.testing.assert_allclose(results["scalops"], results["numpy"], rtol=1e-6)
    print(f"BLAS of the NumPy loop: {blas()}")
    title = f"Newton's method, {given.rows:,} x {given.columns}, per iteration"
    return report(title, timings, "scalops", "NumPy, whole arrays", limit="(s * X).T @ X alone")


if __name__ == "__main__":
    main()

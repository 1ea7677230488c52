"""Logistic and softmax regression over sparse vectors, beside SciPy's products by hand.

    python -m benchmarks.sparse_logistic [--rows N] [--dimension D] [--stored K] [--iterations I]

Columns are as frequent as words are (Zipf) and permuted at random. Goal, at 200,000 x 1,000,000
with 75 stored numbers a row: at most 1.0 x the SciPy loop that holds the matrix by rows and by
columns, both products on one thread; aim for 0.7 x.
"""

from __future__ import annotations

import argparse
from time import perf_counter
from typing import Any

import numpy as np
from scipy import sparse

import scalops as so
from benchmarks import softmax
from benchmarks.measure import interleaved, report

STEP = 4.0


class Model(so.Environment):
    """The loop's state."""

    w: np.ndarray
    loss: float


def matrix(rows: int, dimension: int, stored: int) -> Any:
    """Seeded records of numbers in [0, 1) at columns of which the j-th is 1/j as frequent."""
    rng = np.random.default_rng(3)
    ranks = np.exp(rng.random(rows * stored) * np.log(dimension)).astype(np.int64) - 1
    columns = rng.permutation(dimension)[np.minimum(ranks, dimension - 1)].astype(np.int32)
    starts = np.arange(rows + 1, dtype=np.int32) * stored
    x = sparse.csr_array((rng.random(rows * stored), columns, starts), shape=(rows, dimension))
    x.sum_duplicates()
    x.data /= np.sqrt(stored)
    return x


def labels(x: Any, classes: int) -> Any:
    """The best of noisy linear scores, from 0 on."""
    rng = np.random.default_rng(4)
    scores = x @ rng.standard_normal((x.shape[1], classes))
    return (scores + 0.1 * rng.standard_normal(scores.shape)).argmax(axis=1)


def logistic(xy: so.Table, rows: int, dimension: int, iterations: int) -> Any:
    """As a user writes it: one record at a time."""
    start = Model(w=np.zeros(dimension), loss=np.inf)

    @so.loop(start, range(iterations))
    def model(env: Any) -> Any:
        def margin(r: Any) -> Any:
            return r.y * (r.x @ env.w)

        gradient = xy.map(lambda r: -r.y * r.x / (1 + np.exp(margin(r)))).sum()
        env.loss = xy.map(lambda r: np.log1p(np.exp(-margin(r)))).sum()
        env.w -= STEP / rows * gradient
        return env

    return model


def logistic_by_scipy(x: Any, turned: Any, y: Any, iterations: int) -> tuple[Any, list[float]]:
    """Two products with the matrix; `turned` is it transposed, held by columns or by rows."""
    w, seconds = np.zeros(x.shape[1]), []
    for _ in range(iterations):
        begin = perf_counter()
        margin = y * (x @ w)
        gradient = turned @ (-y / (1 + np.exp(margin)))
        np.log1p(np.exp(-margin)).sum()
        w -= STEP / len(y) * gradient
        seconds.append(perf_counter() - begin)
    return w, seconds


def softmax_by_scipy(
    x: Any, turned: Any, y: Any, classes: int, iterations: int
) -> tuple[Any, list[float]]:
    """The same for several classes; the model lies as the products want it: [dimension, k]."""
    w, seconds = np.zeros((x.shape[1], classes)), []
    rows = np.arange(len(y))
    for _ in range(iterations):
        begin = perf_counter()
        scores = x @ w
        greatest = scores.max(axis=1, keepdims=True)
        p = np.exp(scores - greatest)
        total = p.sum(axis=1, keepdims=True)
        (np.log(total) + greatest).sum() - scores[rows, y].sum()
        p /= total
        p[rows, y] -= 1.0
        w -= STEP / len(y) * (turned @ p)
        seconds.append(perf_counter() - begin)
    return w.T, seconds


def compared(title: str, x: Any, y: Any, loop: Any, by_hand: Any, rounds: int) -> float:
    """Run and print one of the two; the ratio to SciPy with both copies."""
    columns = x.T.tocsr()
    results: dict[str, Any] = {}

    def ours(threads: int) -> list[float]:
        model = loop(so.table({"x": x, "y": y}))
        with so.session(threads=threads):
            outcome = model.run()
        results["scalops"] = outcome.env.w
        return [float(s) for s in outcome.history["seconds"].to_pylist()]

    def scipy_loop(turned: Any) -> list[float]:
        results["SciPy"], seconds = by_hand(x, turned, y)
        return list(seconds)

    timings = interleaved(
        {
            "scalops": lambda: ours(0),
            "scalops, 1 thread": lambda: ours(1),
            "SciPy, by rows and columns": lambda: scipy_loop(columns),
            "SciPy, by rows": lambda: scipy_loop(x.T),
        },
        rounds,
    )
    np.testing.assert_allclose(results["scalops"], results["SciPy"], rtol=1e-6, atol=1e-12)
    return report(title, timings, "scalops", "SciPy, by rows and columns")


def main(arguments: list[str] | None = None) -> float:
    """Run and print; the ratio of logistic regression."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dimension", type=int, default=1_000_000)
    parser.add_argument("--stored", type=int, default=75)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=4)
    given = parser.parse_args(arguments)
    rows, dimension, iterations = given.rows, given.dimension, given.iterations
    x = matrix(rows, dimension, given.stored)
    y = labels(x, 2) * 2.0 - 1.0
    ratio = compared(
        f"sparse logistic regression, {rows:,} x {dimension:,}, {x.nnz:,} stored, per iteration",
        x, y,
        lambda xy: logistic(xy, rows, dimension, iterations),
        lambda x, turned, y: logistic_by_scipy(x, turned, y, iterations),
        given.rounds,
    )  # fmt: skip
    rows, dimension, classes = max(1, rows // 10), max(1, dimension // 20), 10
    x = matrix(rows, dimension, given.stored)
    compared(
        f"sparse softmax regression, {rows:,} x {dimension:,}, {classes} classes, per iteration",
        x, labels(x, classes),
        lambda xy: softmax.program(xy, dimension, classes, rows, iterations, STEP),
        lambda x, turned, y: softmax_by_scipy(x, turned, y, classes, iterations),
        given.rounds,
    )  # fmt: skip
    return ratio


if __name__ == "__main__":
    main()

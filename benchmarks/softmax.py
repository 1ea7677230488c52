"""Softmax regression, loss and gradient, beside a whole-array NumPy loop.

    python -m benchmarks.softmax [--rows N] [--columns D] [--classes K] [--iterations I]

Goal: at most 0.6 x the whole-array loop per iteration, at 500,000 x 64 and 10 classes.
"""

from __future__ import annotations

import argparse
from time import perf_counter
from typing import Any

import numpy as np

import scalops as so
from benchmarks.measure import blas, interleaved, one_read, report

STEP = 0.1


class Model(so.Environment):
    """The loop's state."""

    w: np.ndarray
    loss: float


def data(rows: int, columns: int, classes: int) -> tuple[Any, Any]:
    """Seeded records: x of normal numbers, y the best of noisy linear scores."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((rows, columns))
    scores = x @ rng.standard_normal((columns, classes))
    return x, (scores + rng.standard_normal(scores.shape)).argmax(axis=1)


def program(
    xy: so.Table, columns: int, classes: int, rows: int, iterations: int, step: float = STEP
) -> Any:
    """As a user writes it: one record at a time."""
    start = Model(w=np.zeros((classes, columns)), loss=np.inf)

    @so.loop(start, range(iterations))
    def model(env: Any) -> Any:
        def scores(r: Any) -> Any:
            return env.w @ r.x

        def error(r: Any) -> Any:
            return so.softmax(scores(r)) - so.one_hot(r.y, classes)

        gradient = xy.map(lambda r: np.outer(error(r), r.x)).sum()
        env.loss = xy.map(lambda r: so.logsumexp(scores(r)) - scores(r)[r.y]).sum()
        env.w -= step / rows * gradient
        return env

    return model


def by_numpy(x: Any, y: Any, classes: int, iterations: int) -> tuple[Any, list[float]]:
    """Whole arrays, as one writes it by hand."""
    w, seconds = np.zeros((classes, x.shape[1])), []
    rows = np.arange(len(y))
    for _ in range(iterations):
        begin = perf_counter()
        scores = x @ w.T
        greatest = scores.max(axis=1, keepdims=True)
        p = np.exp(scores - greatest)
        total = p.sum(axis=1, keepdims=True)
        (np.log(total) + greatest).sum() - scores[rows, y].sum()
        p /= total
        p[rows, y] -= 1.0
        w = w - STEP / len(y) * (p.T @ x)
        seconds.append(perf_counter() - begin)
    return w, seconds


def main(arguments: list[str] | None = None) -> float:
    """Run and print; the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--columns", type=int, default=64)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=4)
    given = parser.parse_args(arguments)
    x, y = data(given.rows, given.columns, given.classes)
    results: dict[str, Any] = {}

    def ours(threads: int) -> list[float]:
        xy = so.table({"x": x, "y": y})
        loop = program(xy, given.columns, given.classes, given.rows, given.iterations)
        with so.session(threads=threads):
            outcome = loop.run()
        results["scalops"] = outcome.env.w
        return [float(s) for s in outcome.history["seconds"].to_pylist()]

    def numpy_loop() -> list[float]:
        results["numpy"], seconds = by_numpy(x, y, given.classes, given.iterations)
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
    np.testing.assert_allclose(results["scalops"], results["numpy"], rtol=1e-6, atol=1e-9)
    print(f"BLAS of the NumPy loop: {blas()}")
    size = f"{given.rows:,} x {given.columns}, {given.classes} classes"
    title = f"softmax regression, {size}, per iteration"
    return report(title, timings, "scalops", "NumPy, whole arrays", limit="one read of x")


if __name__ == "__main__":
    main()

"""Dense logistic regression, loss and gradient, beside a whole-array NumPy loop.

    python -m benchmarks.logistic_regression [--rows N] [--columns D] [--iterations K] [--float32]

Goals, at 1,000,000 x 100 float64: at most 0.45 x the whole-array loop, and 2.7 x one read of the
data on threads (1.9 x on processes); float32 at most 0.65 x of float64.
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


def data(rows: int, columns: int, dtype: str) -> tuple[Any, Any]:
    """Seeded records: x of normal numbers, y of -1 and 1 from a noisy hyperplane."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((rows, columns), dtype=dtype)  # type: ignore[arg-type]
    noise = rng.standard_normal(rows, dtype=dtype)  # type: ignore[arg-type]
    y = np.where(x @ rng.standard_normal(columns).astype(dtype) + noise > 0, 1, -1).astype(dtype)
    return x, y


def program(xy: so.Table, columns: int, rows: int, iterations: int, dtype: str) -> Any:
    """As a user writes it: one record at a time."""
    start = Model(w=np.zeros(columns, dtype), loss=np.inf)

    @so.loop(start, range(iterations))
    def model(env: Any) -> Any:
        def margin(r: Any) -> Any:
            return r.y * (r.x @ env.w)

        gradient = xy.map(lambda r: -r.y * r.x / (1 + np.exp(margin(r)))).reduce(lambda a, b: a + b)
        env.loss = xy.map(lambda r: np.log1p(np.exp(-margin(r)))).reduce(lambda a, b: a + b)
        env.w -= STEP / rows * gradient
        return env

    return model


def by_numpy(x: Any, y: Any, iterations: int) -> tuple[Any, list[float]]:
    """Whole arrays, as one writes it by hand."""
    w, seconds = np.zeros(x.shape[1], x.dtype), []
    for _ in range(iterations):
        begin = perf_counter()
        margin = y * (x @ w)
        gradient = x.T @ (-y / (1 + np.exp(margin)))
        np.log1p(np.exp(-margin)).sum()
        w = (w - STEP / len(y) * gradient).astype(x.dtype)
        seconds.append(perf_counter() - begin)
    return w, seconds


def main(arguments: list[str] | None = None) -> float:
    """Run and print; the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--float32", action="store_true")
    given = parser.parse_args(arguments)
    dtype = "float32" if given.float32 else "float64"
    x, y = data(given.rows, given.columns, dtype)
    results: dict[str, Any] = {}

    def ours(threads: int, folds: str = "threads") -> list[float]:
        xy = so.table({"x": x, "y": y})
        loop = program(xy, given.columns, given.rows, given.iterations, dtype)
        with so.session(threads=threads, folds=folds, jit=False):
            outcome = loop.run()
        before = results.setdefault("scalops", outcome.env.w)
        assert before.tobytes() == outcome.env.w.tobytes()
        return [float(s) for s in outcome.history["seconds"].to_pylist()]

    def numpy_loop() -> list[float]:
        results["numpy"], seconds = by_numpy(x, y, given.iterations)
        return seconds

    timings = interleaved(
        {
            "scalops": lambda: ours(0),
            "scalops, processes": lambda: ours(0, "processes"),
            "scalops, 1 thread": lambda: ours(1),
            "NumPy, whole arrays": numpy_loop,
            "one read of x": lambda: one_read(x),
        },
        given.rounds,
    )
    tolerance = 1e-3 if given.float32 else 1e-9
    np.testing.assert_allclose(results["scalops"], results["numpy"], rtol=tolerance, atol=tolerance)
    print(f"BLAS of the NumPy loop: {blas()}")
    seconds = {t.name: t.seconds for t in timings}
    ratio = seconds["scalops, processes"] / seconds["one read of x"]
    print(f"scalops, processes / one read of x: {ratio:.2f}")
    title = f"logistic regression, {given.rows:,} x {given.columns} {dtype}, per iteration"
    return report(title, timings, "scalops", "NumPy, whole arrays", limit="one read of x")


if __name__ == "__main__":
    main()

"""Several strengths of regularisation at once: logistic regressions in one `collect`.

    python -m benchmarks.strengths [--rows N] [--columns D] [--strengths K] [--iterations K]

Goal, at 1,000,000 x 100 float64 and 16 strengths: an iteration of all takes at most 4 x as long as
one of a single loop. Beside it NumPy with the weights as one matrix, written by hand: whole arrays,
and by blocks on as many threads.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import scalops as so
from benchmarks.logistic_regression import data
from benchmarks.measure import interleaved, report

STEP = 0.1
BLOCK = 2_048  # rows, as many as the engine's blocks have at 100 columns


class Model(so.Environment):
    """A loop's state."""

    w: np.ndarray
    loss: float
    delta: float


def program(xy: so.Table, columns: int, rows: int, strength: float, condition: Any) -> Any:
    """One loop, as a user writes it: one record at a time."""
    start = Model(w=np.zeros(columns), loss=np.inf, delta=np.inf)

    @so.loop(start, condition)
    def model(env: Any) -> Any:
        def margin(r: Any) -> Any:
            return r.y * (r.x @ env.w)

        gradient = xy.map(lambda r: -r.y * r.x / (1 + np.exp(margin(r)))).reduce(lambda a, b: a + b)
        loss = xy.map(lambda r: np.log1p(np.exp(-margin(r)))).reduce(lambda a, b: a + b)
        env.w -= STEP * (gradient / rows + strength * env.w)
        env.delta = abs(env.loss - loss) / rows
        env.loss = loss
        return env

    return model


def whole(x: Any, y: Any, strengths: Any, iterations: int) -> tuple[Any, list[float]]:
    """All weights as one matrix, whole arrays."""
    w, seconds = np.zeros((x.shape[1], len(strengths))), []
    for _ in range(iterations):
        begin = perf_counter()
        margin = y[:, None] * (x @ w)
        gradient = x.T @ (-y[:, None] / (1 + np.exp(margin)))
        np.log1p(np.exp(-margin)).sum(axis=0)
        w = w - STEP * (gradient / len(y) + strengths * w)
        seconds.append(perf_counter() - begin)
    return w, seconds


def blocked(x: Any, y: Any, strengths: Any, iterations: int) -> tuple[Any, list[float]]:
    """The same, block by block in reused buffers, on threads with one BLAS thread each."""
    threads = os.cpu_count() or 1
    k, d = len(strengths), x.shape[1]
    bounds = [(s, min(s + BLOCK, len(y))) for s in range(0, len(y), BLOCK)]
    w, seconds = np.zeros((k, d)), []

    def part(number: int) -> tuple[Any, Any]:
        m, e = np.empty((k, BLOCK)), np.empty((k, BLOCK))
        gradient, loss = np.zeros((k, d)), np.zeros(k)
        for start, stop in bounds[number::threads]:
            rows, own = x[start:stop], y[start:stop]
            margin, scale = m[:, : len(own)], e[:, : len(own)]
            np.matmul(w, rows.T, out=margin)
            margin *= own
            np.exp(margin, out=scale)
            scale += 1
            np.divide(-own, scale, out=scale)
            gradient += scale @ rows
            np.negative(margin, out=margin)
            np.exp(margin, out=margin)
            loss += np.log1p(margin, out=margin).sum(axis=1)
        return gradient, loss

    with ThreadPoolExecutor(threads) as pool, threadpool_limits(1, "blas"):
        for _ in range(iterations):
            begin = perf_counter()
            parts = list(pool.map(part, range(threads)))
            w = w - STEP * (sum(g for g, _ in parts) / len(y) + strengths[:, None] * w)
            seconds.append(perf_counter() - begin)
    return w.T, seconds


def main(arguments: list[str] | None = None) -> float:
    """Run and print; the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--strengths", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    x, y = data(given.rows, given.columns, "float64")
    strengths = np.logspace(-4, 0, given.strengths)
    results: dict[str, Any] = {}

    def loops(count: int, condition: Any, **options: Any) -> list[Any]:
        """The outcomes of so many strengths in one job."""
        xy = so.table({"x": x, "y": y})
        made = [program(xy, given.columns, given.rows, s, condition) for s in strengths[:count]]
        with so.session(**options):
            so.collect(*made)
            return [loop.run() for loop in made]  # which the session has kept

    def timed(count: int, **options: Any) -> list[float]:
        outcomes = loops(count, range(given.iterations), **options)
        results[f"{count}"] = np.stack([o.env.w for o in outcomes], axis=1)
        seconds = [o.history["seconds"].to_pylist() for o in outcomes]
        return [float(max(s)) for s in zip(*seconds, strict=True)]

    def numpy_loop(name: str, form: Any) -> list[float]:
        results[name], seconds = form(x, y, strengths, given.iterations)
        return list(seconds)

    together = f"{given.strengths} strengths"
    timings = interleaved(
        {
            together: lambda: timed(given.strengths),
            "one strength": lambda: timed(1),
            f"{together}, 1 thread": lambda: timed(given.strengths, threads=1),
            "one strength, 1 thread": lambda: timed(1, threads=1),
            "NumPy, whole arrays": lambda: numpy_loop("whole", whole),
            "NumPy, by blocks": lambda: numpy_loop("blocked", blocked),
        },
        given.rounds,
    )
    for name in ("whole", "blocked"):
        np.testing.assert_allclose(results[str(given.strengths)], results[name], rtol=1e-9)
    title = f"{together} of regularisation, {given.rows:,} x {given.columns}, per iteration"
    ratio = report(title, timings, together, "one strength", limit="NumPy, by blocks")
    begin = perf_counter()
    outcomes = loops(given.strengths, lambda env: env.delta > 4e-3)
    counts = [o.iterations for o in outcomes]
    print(
        f"  until each has converged: {perf_counter() - begin:.2f} s for {sum(counts)} iterations"
    )
    print(f"    {max(counts)} rounds; by strength {', '.join(map(str, counts))}")
    return ratio


if __name__ == "__main__":
    main()

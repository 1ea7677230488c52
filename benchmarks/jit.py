"""Compiled folds beside NumPy's kernels, a loop written by hand for numba, and one read.

    python -m benchmarks.jit [--rows N] [--rounds R]

Logistic regression (loss and gradient, 100 columns), a chain of 30 elementwise steps over two
columns, softmax regression (64 columns, 10 classes, half the rows). For each also what compiling
took, once for a process, and after how many iterations it has paid.

Goal: logistic regression at most 1.3 x one read of the data, at 1,000,000 rows of float64.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

import numpy as np

import scalops as so
from benchmarks import logistic_regression, softmax
from benchmarks.measure import interleaved, one_read, report
from scalops.engine.kernels.jit import compilation

COLUMNS, CLASSES, WIDTH = 100, 10, 64


def chain(r: Any, shift: Any) -> Any:
    """Thirty elementwise steps, none of which is the same in each iteration."""
    t = r.a + shift
    for i in range(5):
        t = np.where(t > 0.1 * i, t * r.b + 0.3, np.abs(t) - r.b)
    return t


def chained(table: so.Table, iterations: int) -> Any:
    """A loop that folds the chain."""

    @so.loop(softmax.Model(w=np.zeros(1), loss=0.0), range(iterations))
    def model(env: Any) -> Any:
        env.loss = table.map(lambda r: chain(r, env.loss)).sum() * 1e-9
        env.w = env.w + env.loss
        return env

    return model


def run(table: Any, make: Any, jit: bool) -> tuple[list[float], float, Any]:
    """Seconds of each iteration and of compiling, and the result."""
    spent: list[float] = []
    made = compilation._made

    def timed(*arguments: Any) -> Any:
        begin = perf_counter()
        function = made(*arguments)
        spent.append(perf_counter() - begin)
        return function

    compilation._made = timed
    try:
        with so.session(jit=jit, folds="threads"):
            outcome = make(so.table(table)).run()
    finally:
        compilation._made = made
    seconds = [float(s) for s in outcome.history["seconds"].to_pylist()]
    return seconds, sum(spent), outcome.env.w


def by_hand(x: Any, y: Any, iterations: int) -> tuple[list[float], Any]:
    """The loop that one writes for numba: a pass over rows, both sums at once, on two threads."""
    from numba import njit

    @njit(nogil=True, fastmath=True)
    def fold(x: Any, y: Any, w: Any, g: Any) -> float:
        loss = 0.0
        for i in range(len(y)):
            margin = 0.0
            for j in range(x.shape[1]):
                margin += x[i, j] * w[j]
            margin *= y[i]
            loss += np.log1p(np.exp(-margin))
            scale = -y[i] / (1 + np.exp(margin))
            for j in range(x.shape[1]):
                g[j] += scale * x[i, j]
        return loss

    w, seconds, half = np.zeros(x.shape[1]), [], len(y) // 2
    fold(x[:1], y[:1], w, np.zeros_like(w))
    with ThreadPoolExecutor(2) as pool:
        for _ in range(iterations):
            begin = perf_counter()
            parts = [np.zeros_like(w), np.zeros_like(w)]
            cuts = [slice(0, half), slice(half, None)]
            list(pool.map(lambda c, g: fold(x[c], y[c], w, g), cuts, parts))  # noqa: B023
            w = w - logistic_regression.STEP / len(y) * (parts[0] + parts[1])
            seconds.append(perf_counter() - begin)
    return seconds, w


def compare(
    title: str, table: dict[str, Any], make: Any, rounds: int, read: Any, hand: Any = None
) -> float:
    """Measure one program; the ratio to NumPy's kernels."""
    results: dict[str, Any] = {}
    compiling: list[float] = []

    def ours(jit: bool) -> list[float]:
        seconds, compiled, results[f"jit={jit}"] = run(table, make, jit)
        compiling.append(compiled)
        return seconds

    ways = {"compiled": lambda: ours(True), "NumPy kernels": lambda: ours(False)}
    if hand is not None:
        ways["numba by hand"] = hand
    ways["one read"] = lambda: one_read(read)
    timings = interleaved(ways, rounds)
    np.testing.assert_allclose(results["jit=True"], results["jit=False"], rtol=1e-9, atol=1e-9)
    ratio = report(title, timings, "compiled", "NumPy kernels", limit="one read")
    gain = timings[1].seconds - timings[0].seconds
    took = max(compiling)
    paid = f"{took / gain:,.0f} iterations" if gain > 0 else "never"
    print(f"  compiling took {took:.2f} s, paid after {paid}")
    return ratio


def main(arguments: list[str] | None = None) -> float:
    """Run and print; the ratio of the logistic regression to NumPy's kernels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=4)
    given = parser.parse_args(arguments)
    rows, turns = given.rows, given.iterations
    x, y = logistic_regression.data(rows, COLUMNS, "float64")
    size = f"{rows:,}".replace(",", "_")
    ratio = compare(
        f"compiled logistic regression, {size} x {COLUMNS}",
        {"x": x, "y": y},
        lambda t: logistic_regression.program(t, COLUMNS, rows, turns, "float64"),
        given.rounds,
        x,
        lambda: by_hand(x, y, turns)[0],
    )
    del x, y
    rng = np.random.default_rng(2)
    numbers = rng.standard_normal((2, 2 * rows))
    compare(
        f"compiled chain of 30 steps, {2 * rows:_} x 2",
        {"a": numbers[0], "b": numbers[1]},
        lambda t: chained(t, turns),
        given.rounds,
        numbers,
    )
    x, y = softmax.data(rows // 2, WIDTH, CLASSES)
    compare(
        f"compiled softmax regression, {rows // 2:_} x {WIDTH}, {CLASSES} classes",
        {"x": x, "y": y},
        lambda t: softmax.program(t, WIDTH, CLASSES, rows // 2, turns),
        given.rounds,
        x,
    )
    return ratio


if __name__ == "__main__":
    main()

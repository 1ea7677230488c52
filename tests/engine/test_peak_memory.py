"""What a loop allocates at most: blocks and buffers, never an array by record of what is folded."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import scalops as so

ROWS, D, K = 200_000, 50, 50
# A block is at most 1.75 MB; a thread holds some buffers of its size, a session some more.
MOST_BYTES = 40e6


@pytest.fixture(scope="module")
def x() -> Any:
    return np.random.default_rng(11).standard_normal((ROWS, D))


def peak(run: Callable[[], Any]) -> int:
    """The most that was allocated at a time while it ran, in bytes."""
    run()  # what is made once stays out
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def kmeans(table: so.Table, c: Any) -> Any:
    @so.loop(c, range(2))
    def centroids(env: Any) -> Any:
        groups = table.group_by(k=lambda r: np.argmin(((env - r.x) ** 2).sum(axis=1)))
        return groups.agg(m=so.mean("x")).to_array("m", index="k", size=K, fill=env)

    return centroids


def distortion(table: so.Table, c: Any) -> Any:
    @so.loop(c, range(2))
    def moved(env: Any) -> Any:
        return env + 1e-9 * table.mean(lambda r: np.linalg.norm(r.x - env, axis=1).min())

    return moved


def gradient(table: so.Table, c: Any) -> Any:
    @so.loop(c[0], range(2))
    def weights(w: Any) -> Any:
        return w - 1e-9 * table.sum(lambda r: r.x / (1 + np.exp(r.x @ w)))

    return weights


def variances(table: so.Table, c: Any) -> Any:
    @so.loop(c, range(1))
    def mixed(env: Any) -> Any:
        def shares(r: Any) -> Any:
            return so.softmax(-0.5 * ((r.x - env) ** 2).sum(axis=1))

        return env + 1e-9 * table.sum(lambda r: shares(r)[:, None] * (r.x - env) ** 2)

    return mixed


@pytest.mark.parametrize("program", [kmeans, distortion, gradient, variances])
def test_no_array_by_record(program: Callable[[so.Table, Any], Any], x: Any) -> None:
    table, c = so.table({"x": x}), x[:K].copy()
    with so.session(threads=1):
        most = peak(lambda: program(table, c).run())
    assert x.nbytes > MOST_BYTES  # so that records x features alone would be seen
    assert most < MOST_BYTES

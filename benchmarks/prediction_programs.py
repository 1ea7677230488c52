"""The programs of `benchmarks.prediction`: iterative, of many kinds, each at three sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import scalops as so
from benchmarks import (
    kmeans,
    logistic_regression,
    mixture,
    newton,
    pagerank,
    processes,
    segments,
    softmax,
    sparse_logistic,
)

Loop = Any


@dataclass(frozen=True)
class Case:
    """A program; `make(size, iterations)` gives its loop over seeded data of so many records."""

    name: str
    sizes: tuple[int, ...]
    make: Callable[[int, int], Loop]


def _logistic(rows: int, iterations: int) -> Loop:
    x, y = logistic_regression.data(rows, 50, "float64")
    table = so.table({"x": x, "y": y})
    return logistic_regression.program(table, 50, rows, iterations, "float64")


def _softmax(rows: int, iterations: int) -> Loop:
    x, y = softmax.data(rows, 64, 10)
    return softmax.program(so.table({"x": x, "y": y}), 64, 10, rows, iterations)


def _kmeans(rows: int, iterations: int) -> Loop:
    x, start = kmeans.data(rows, 20, 30)
    return kmeans.program(so.table({"x": x}), start, iterations)


def _mixture(rows: int, iterations: int) -> Loop:
    x, start = mixture.data(rows, 32, 8)
    return mixture.program(so.table({"x": x}), start, rows, iterations)


def _newton(rows: int, iterations: int) -> Loop:
    x, y = newton.data(rows, 40)
    return newton.program(so.table({"x": x, "y": y}), 40, iterations)


def _sparse(rows: int, iterations: int) -> Loop:
    dimension = 100_000
    x = sparse_logistic.matrix(rows, dimension, 50)
    y = np.where(sparse_logistic.labels(x, 2) > 0, 1.0, -1.0)
    return sparse_logistic.logistic(so.table({"x": x, "y": y}), rows, dimension, iterations)


def _chain(rows: int, iterations: int) -> Loop:
    return processes.program(so.table(processes.data(rows)), iterations)


def _groups(rows: int, iterations: int) -> Loop:
    rng = np.random.default_rng(11)
    keys, x = rng.integers(0, 500, rows), rng.standard_normal((rows, 8))
    return segments.means_loop(so.table({"k": keys, "x": x}), 500, 8, iterations)


def _pagerank(edges: int, iterations: int) -> Loop:
    scale = max(10, (edges // 12).bit_length())
    source, target = pagerank.graph(edges, scale)
    nodes = so.table({"id": np.arange(2**scale)})
    table = so.table({"src": source, "dst": target})
    return pagerank.program(nodes, table, 2**scale, iterations)


def _join(rows: int, iterations: int) -> Loop:
    """Prices that follow demand: purchases joined with the prices in every iteration."""
    rng, items = np.random.default_rng(12), 2_000
    bought = {"item": rng.integers(0, items, rows), "budget": rng.uniform(1, 9, rows)}
    purchases, goods = so.table(bought), so.table({"item": np.arange(items)})
    start = goods.select("item", price=lambda r: 1.0 + 0.001 * r.item)

    @so.loop(start, range(iterations))
    def prices(current: Any) -> Any:
        paid = purchases.join(current, on="item")
        demand = paid.group_by("item").agg(d=so.mean(lambda r: r.budget / r.price))
        joined = current.join(demand, on="item", how="left")
        return joined.select(
            "item", price=lambda r: 0.5 * r.price + 0.1 * so.coalesce(r.d, 0.0) + 0.5
        )

    return prices


def _factors(rows: int, iterations: int) -> Loop:
    """Factors of users and items by gradient steps over ratings."""
    rng, users, items, rank = np.random.default_rng(13), 2_000, 500, 8
    ratings = so.table(
        {
            "u": rng.integers(0, users, rows),
            "i": rng.integers(0, items, rows),
            "v": rng.uniform(1, 5, rows),
        }
    )

    class Factors(so.Environment):
        """The loop's state."""

        p: np.ndarray
        q: np.ndarray

    start = Factors(p=rng.uniform(0, 1, (users, rank)), q=rng.uniform(0, 1, (items, rank)))

    @so.loop(start, range(iterations))
    def factors(env: Any) -> Any:
        def error(r: Any) -> Any:
            return r.v - env.p[r.u] @ env.q[r.i]

        by_user = ratings.group_by("u").agg(g=so.mean(lambda r: error(r) * env.q[r.i]))
        by_item = ratings.group_by("i").agg(g=so.mean(lambda r: error(r) * env.p[r.u]))
        p = env.p + 0.05 * by_user.to_array("g", "u", users)
        env.q = env.q + 0.05 * by_item.to_array("g", "i", items)
        env.p = p
        return env

    return factors


def _opaque(rows: int, iterations: int) -> Loop:
    """A function of a record that cannot be traced."""
    rng = np.random.default_rng(14)
    table = so.table({"x": rng.uniform(0, 1, rows), "v": rng.uniform(0, 1, (rows, 31))})

    @so.loop(1.0, range(iterations))
    def opaque(s: Any) -> Any:
        return 0.5 * s + table.map(lambda r: _steps(r.x, s)).mean()

    return opaque


def _steps(x: float, s: float) -> float:
    """As many halvings as it takes."""
    taken = 0
    while x > 0.1 * s:
        x, taken = x / 2, taken + 1
    return float(taken)


CASES = (
    Case("logistic regression", (100_000, 300_000, 600_000), _logistic),
    Case("softmax regression", (50_000, 100_000, 200_000), _softmax),
    Case("k-means", (100_000, 200_000, 400_000), _kmeans),
    Case("Gaussian mixture", (50_000, 100_000, 200_000), _mixture),
    Case("Newton", (100_000, 200_000, 400_000), _newton),
    Case("sparse logistic", (40_000, 80_000, 160_000), _sparse),
    Case("elementwise chain", (200_000, 500_000, 1_000_000), _chain),
    Case("groups", (200_000, 500_000, 1_000_000), _groups),
    Case("join in a loop", (1_000_000, 2_000_000, 4_000_000), _join),
    Case("factorisation", (300_000, 600_000, 1_000_000), _factors),
    Case("opaque function", (20_000, 40_000, 80_000), _opaque),
    Case("PageRank", (500_000, 1_000_000, 2_000_000), _pagerank),
)

"""A program of many short steps, which fights over the interpreter's lock: threads and processes.

    python -m benchmarks.processes [--rows N] [--iterations K]

Thirty elementwise functions of eight columns, and their sums, in each iteration. Beside ours on
threads and on processes: the same NumPy calls by hand, block by block, on threads and in processes
of `multiprocessing` that were forked with the columns in memory.

Goal: on processes at most 1.1 x multiprocessing by hand, and faster than on threads.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from time import perf_counter
from typing import Any

import numpy as np

import scalops as so
from benchmarks.measure import interleaved, report
from scalops.engine.blocks import block_rows
from scalops.table import Table

COLUMNS = "abcdefgh"
STEP = 1e-7


def data(rows: int) -> dict[str, Any]:
    """Eight columns of normal numbers."""
    rng = np.random.default_rng(7)
    return {name: rng.normal(size=rows) for name in COLUMNS}


def terms(r: Any, w: Any) -> Any:
    """Thirty elementwise functions, of a record or of a block's columns."""
    s = r.a * w + r.b
    t = abs(r.c - s) + r.d * r.e
    u = s * t - r.f + w * r.g
    v = abs(u) + r.h * s
    s2 = s * s + t * t
    u2 = u * u - v * w
    total = s2 + u2 * r.a - t * r.b + v * r.c
    return total + abs(s2 - u2) * r.d - s * r.e + u * r.f


def program(table: Table, iterations: int) -> Any:
    """As a user writes it."""

    @so.loop(1.0, range(iterations))
    def model(w: Any) -> Any:
        return w - STEP * table.map(lambda r: terms(r, w)).mean()

    return model


class Columns:
    """A block's columns by attribute."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self.__dict__.update(columns)


def partial(columns: dict[str, Any], start: int, stop: int, step: int, w: float) -> float:
    """The sum over a range of records, block by block."""
    total = 0.0
    for i in range(start, stop, step):
        block = Columns({n: c[i : min(i + step, stop)] for n, c in columns.items()})
        total += terms(block, w).sum()
    return float(total)


def serve(columns: dict[str, Any], start: int, stop: int, step: int, pipe: Any) -> None:
    """A process of our own making: w in, the sum out, until it is None."""
    while (w := pipe.recv()) is not None:
        pipe.send(partial(columns, start, stop, step, w))


def main(arguments: list[str] | None = None) -> float:
    """Run and print; the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=4)
    given = parser.parse_args(arguments)
    rows, iterations = given.rows, given.iterations
    columns = data(rows)
    step = block_rows(so.table(columns).schema)
    cores = len(os.sched_getaffinity(0))
    ends = [i * rows // cores for i in range(cores + 1)]
    parts = list(pairwise(ends))
    results: dict[str, float] = {}

    def ours(folds: str, session: so.Session) -> list[float]:
        with session:
            outcome = program(so.table(columns), iterations).run()
        results[f"scalops, {folds}"] = float(outcome.env)
        return [float(s) for s in outcome.history["seconds"].to_pylist()]

    def by_threads() -> list[float]:
        w, seconds = 1.0, []
        with ThreadPoolExecutor(cores) as pool:
            for _ in range(iterations):
                begin = perf_counter()
                sums = pool.map(lambda p: partial(columns, p[0], p[1], step, w), parts)  # noqa: B023
                w -= STEP * sum(sums) / rows
                seconds.append(perf_counter() - begin)
        results["threads by hand"] = w
        return seconds

    def by_processes() -> list[float]:
        context = multiprocessing.get_context("fork")
        pipes, workers = [], []
        for start, stop in parts:
            mine, theirs = context.Pipe()
            made = context.Process(target=serve, args=(columns, start, stop, step, theirs))
            made.start()
            pipes.append(mine)
            workers.append(made)
        w, seconds = 1.0, []
        for _ in range(iterations):
            begin = perf_counter()
            for pipe in pipes:
                pipe.send(w)
            w -= STEP * sum(pipe.recv() for pipe in pipes) / rows
            seconds.append(perf_counter() - begin)
        for pipe, worker in zip(pipes, workers, strict=True):
            pipe.send(None)
            worker.join()
        results["multiprocessing by hand"] = w
        return seconds

    timings = interleaved(
        {
            "scalops, processes": lambda: ours("processes", so.session(folds="processes")),
            "scalops, threads": lambda: ours("threads", so.session(folds="threads")),
            "multiprocessing by hand": by_processes,
            "threads by hand": by_threads,
        },
        given.rounds,
    )
    assert results["scalops, processes"] == results["scalops, threads"]
    np.testing.assert_allclose(list(results.values()), results["scalops, threads"], rtol=1e-9)
    title = f"{rows:,} records of {len(COLUMNS)} columns, 30 elementwise functions, per iteration"
    report(title, timings, "scalops, processes", "scalops, threads")
    seconds = {t.name: t.seconds for t in timings}
    ratio = seconds["scalops, processes"] / seconds["multiprocessing by hand"]
    print(f"  ratio scalops, processes / multiprocessing by hand: {ratio:.2f}")
    return ratio


if __name__ == "__main__":
    main()

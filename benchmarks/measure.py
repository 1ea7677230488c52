"""Interleaved measurement of several ways to do the same thing."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

Round = Callable[[], list[float]]  # runs once, gives the seconds of each iteration


@dataclass(frozen=True)
class Row:
    """A line of the last table: our milliseconds, and ratios to a peer and to a physical limit."""

    title: str
    milliseconds: float
    peer: str
    ratio: float
    limit: str | None
    of_limit: float | None


ROWS: list[Row] = []  # of all reports of this process


@dataclass(frozen=True)
class Timing:
    """Median seconds per iteration over all rounds, without each round's first."""

    name: str
    seconds: float
    least: float
    most: float


def interleaved(ways: Mapping[str, Round], rounds: int) -> list[Timing]:
    """Run the ways in turn, each round beginning with another, so that drift hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            times[name].extend(ways[name]()[1:])
    return [Timing(n, median(t), min(t), max(t)) for n, t in times.items()]


def report(
    title: str,
    timings: list[Timing],
    ours: str,
    peer: str,
    unit: float = 1e-3,
    limit: str | None = None,
) -> float:
    """Print a table and return our time as a ratio to the peer's; `limit` names a physical one."""
    label = {1e-3: "ms", 1e-6: "us"}[unit]
    print(f"\n{title}")
    for t in timings:
        low, high = t.least / unit, t.most / unit
        print(f"  {t.name:<28} {t.seconds / unit:10.3f} {label}   ({low:.3f} to {high:.3f})")
    by_name = {t.name: t.seconds for t in timings}
    ratio = by_name[ours] / by_name[peer]
    print(f"  ratio {ours} / {peer}: {ratio:.2f}")
    of_limit = None
    if limit is not None:
        of_limit = by_name[ours] / by_name[limit]
        print(f"  ratio {ours} / {limit}: {of_limit:.2f}")
    ROWS.append(Row(title, by_name[ours] * 1e3, peer, ratio, limit, of_limit))
    return ratio


def summary() -> str:
    """One table of all that was reported."""
    lines = [("", "ms", "ratio to", "", "ratio to", "")]
    for r in ROWS:
        own = f"{r.milliseconds:.3f}" if r.milliseconds < 10 else f"{r.milliseconds:.1f}"
        limit = "" if r.of_limit is None else f"{r.of_limit:.2f}"
        lines.append((r.title, own, r.peer, f"{r.ratio:.2f}", r.limit or "", limit))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [
        f"{t:<{widths[0]}}  {m:>{widths[1]}}  {p:<{widths[2]}}  {x:>{widths[3]}}"
        f"  {n:<{widths[4]}}  {y:>{widths[5]}}"
        for t, m, p, x, n, y in lines
    ]
    return "\n".join(line.rstrip() for line in shown)


def one_read(data: Any) -> list[float]:
    """Seconds to read the array once, on as many threads as there are processors.

    By BLAS's dot product, which streams: the least of three is the machine's limit.
    """
    flat = data.reshape(-1)
    parts = np.array_split(flat, os.cpu_count() or 1)

    seconds = []
    with ThreadPoolExecutor(len(parts)) as pool, threadpool_limits(1, "blas"):
        for _ in range(4):
            begin = perf_counter()
            list(pool.map(lambda part: float(np.dot(part, part)), parts))
            seconds.append(perf_counter() - begin)
    return [seconds[0], min(seconds)]


def blas() -> str:
    """Which BLAS and how many threads the peers use."""
    found = [i for i in threadpool_info() if i["user_api"] == "blas"]
    return ", ".join(f"{i['internal_api']} {i['version']} x{i['num_threads']}" for i in found)

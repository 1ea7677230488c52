"""An opaque function of each record and a reduce by key, beside hand-written Python.

    python -m benchmarks.opaque [--rows N] [--iterations K] [--processes P]

Sensor readings are graded by tables, tests and a short loop, and summed up per station. The peers
hold the records as tuples: one process, and `multiprocessing.Pool` with fork, which ships no data.
Goal: at most 1.2 x the pool per iteration, at 2,000,000 records.
"""

from __future__ import annotations

import argparse
import functools
import gc
import math
import multiprocessing
from collections.abc import Callable, Iterable
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

import scalops as so
from benchmarks.measure import Timing, report

SENSORS = 600
STATIONS = {f"sensor-{i}": f"station-{i % 24}" for i in range(SENSORS)}
GAINS = {f"sensor-{i}": 0.5 + (i % 13) / 7 for i in range(SENSORS) if i % 8}
SHIFTS = {0: 0.75, 2: -1.25, 5: 3.0}
STATES = ("good", "weak", "lost", "test")
RANGES = 16


def data(rows: int) -> pa.Table:
    """Seeded readings (sensor, state, level, hour); few sensors send most of them."""
    rng = np.random.default_rng(4)
    names = pa.array(list(STATIONS))
    sensors = np.minimum(rng.exponential(SENSORS / 6, rows).astype(np.int64), SENSORS - 1)
    states = rng.choice(len(STATES), rows, p=[0.6, 0.25, 0.1, 0.05])
    return pa.table(
        {
            "sensor": names.take(pa.array(sensors)),
            "state": pa.array(STATES).take(pa.array(states)),
            "level": rng.gamma(3.0, 12.0, rows),
            "hour": rng.integers(0, 168, rows).astype(np.int32),
        }
    )


def grade(sensor: str, state: str, level: float, hour: int) -> tuple[str, float]:
    """The station of a reading and what it counts for."""
    gain = GAINS.get(sensor)
    if gain is None:
        gain = 1.5 if sensor.endswith("6") and hour > 80 else 0.25
    if state == "good":
        value = level * gain
        if value > 60:
            value = 60 + math.sqrt(value - 60)
    elif state == "weak":
        value = level * gain / 2 + SHIFTS.get(hour % 6, 0.0)
    else:
        value = 0.0
        while hour > 1 and value < 6:
            hour = hour // 3 if hour % 3 == 0 else hour + 2
            value += 0.5
    return STATIONS[sensor], value


def fold(records: Iterable[tuple[Any, ...]]) -> dict[str, list[float]]:
    """Sum and count per station, by hand."""
    totals: dict[str, list[float]] = {}
    for record in records:
        station, value = grade(*record)
        total = totals.get(station)
        if total is None:
            totals[station] = [value, 1]
        else:
            total[0] += value
            total[1] += 1
    return totals


def add(totals: dict[str, list[float]], r: Any) -> dict[str, list[float]]:
    """The same as one step."""
    station, value = grade(r.sensor, r.state, r.level, r.hour)
    total = totals.get(station)
    if total is None:
        totals[station] = [value, 1]
    else:
        total[0] += value
        total[1] += 1
    return totals


def merge(a: dict[str, list[float]], b: dict[str, list[float]]) -> dict[str, list[float]]:
    """Totals of two runs of records."""
    for station, (value, count) in b.items():
        total = a.setdefault(station, [0.0, 0])
        total[0] += value
        total[1] += count
    return a


_records: list[tuple[Any, ...]] = []


def _fold_range(bounds: tuple[int, int]) -> dict[str, list[float]]:
    return fold(_records[bounds[0] : bounds[1]])


def by_pool(pool: Any) -> dict[str, list[float]]:
    """Processes forked with the records in memory."""
    count = len(_records)
    ranges = [(i * count // RANGES, (i + 1) * count // RANGES) for i in range(RANGES)]
    return functools.reduce(merge, pool.imap(_fold_range, ranges), {})


def main(arguments: list[str] | None = None) -> float:
    """Run and print; our time as a ratio to the pool's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args(arguments)
    arrow = data(given.rows)
    _records.extend(zip(*(c.to_pylist() for c in arrow.columns), strict=True))
    gc.freeze()
    graded = so.udf(lambda r: grade(r.sensor, r.state, r.level, r.hour)[1], returns=so.float64)
    seconds: dict[str, list[float]] = {}
    results: dict[str, Any] = {}
    with (
        multiprocessing.get_context("fork").Pool(given.processes) as pool,
        so.session(processes=given.processes),
    ):
        table = so.from_arrow(arrow)
        ways: dict[str, Callable[[], Any]] = {
            "one process by hand": lambda: fold(_records),
            "pool, forked": lambda: by_pool(pool),
            "scalops, aggregate": lambda: table.aggregate({}, add, merge).collect(),
            "scalops, map and sum": lambda: table.map(graded).sum().collect(),
        }
        for _ in range(given.iterations + 1):  # in turn, so that drift hits all alike
            for name, way in ways.items():
                begin = perf_counter()
                results[name] = way()
                seconds.setdefault(name, []).append(perf_counter() - begin)
    _check(results)
    timings = [Timing(n, median(s[1:]), min(s[1:]), max(s[1:])) for n, s in seconds.items()]
    title = f"opaque, {given.rows:,} records, {given.processes} processes, after the first pass"
    ratio = report(title, timings, "scalops, aggregate", "pool, forked")
    by_name = {t.name: t.seconds for t in timings}
    mapped = by_name["scalops, map and sum"] / by_name["pool, forked"]
    print(f"  ratio scalops, map and sum / pool, forked: {mapped:.2f}")
    for name, each in seconds.items():
        print(f"  {name:<28} first {each[0] * 1e3:10.3f} ms")
    return ratio


def _check(results: dict[str, Any]) -> None:
    expected, total = results["one process by hand"], results["scalops, aggregate"]
    assert {k: n for k, (_, n) in total.items()} == {k: n for k, (_, n) in expected.items()}
    for found in (total, results["pool, forked"]):
        sums = [found[k][0] for k in expected]
        np.testing.assert_allclose(sums, [v for v, _ in expected.values()], rtol=1e-9)
    whole = sum(v for v, _ in expected.values())
    np.testing.assert_allclose(results["scalops, map and sum"], whole, rtol=1e-9)


if __name__ == "__main__":
    main()

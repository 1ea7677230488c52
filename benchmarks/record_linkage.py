"""Record linkage: Fellegi and Sunter's model by expectation and maximisation, over many pairs.

    python -m benchmarks.record_linkage [--rows N] [--patterns P] [--iterations K] [--rounds R]

N compared pairs of records: 8 fields, each agreeing on one of 2 to 4 levels, in P different
patterns, frequent and rare ones. An iteration estimates the share of matches, and how probable each
level of each field is among matches and among others. The program is written one record at a time.

Peers: NumPy over whole arrays of all pairs, and NumPy over the patterns that `np.unique` finds
once, the ideal. Ours is run with `collapse_duplicates` and without it: seconds per iteration, and
all in all, planning and the collapse included.

Goals, at 5,000,000 pairs of 2,000 patterns: an iteration at least 20 x faster than without the
rule, and all of 20 iterations no slower than NumPy over patterns with its `np.unique`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import perf_counter
from typing import Any
from unittest import mock

import numpy as np

import scalops as so
from benchmarks.measure import interleaved, report
from scalops import planning
from scalops.optimizer.phases import PHASES

LEVELS = (2, 3, 4, 3, 2, 4, 3, 3)
MOST = max(LEVELS)
FIELDS = len(LEVELS)
RULE = "duplicates"

Estimate = dict[str, Any]


def data(rows: int, patterns: int) -> Any:
    """int8[rows, fields]: seeded comparisons; a pattern's frequency is drawn from a gamma law."""
    rng = np.random.default_rng(1)
    every = np.stack(np.unravel_index(np.arange(np.prod(LEVELS)), LEVELS), axis=1).astype(np.int8)
    chosen = every[rng.choice(len(every), patterns, replace=False)]
    return chosen[rng.choice(patterns, rows, p=rng.dirichlet(np.full(patterns, 0.5)))]


def start() -> Estimate:
    """Matches agree more often than other pairs do."""
    known = np.arange(MOST) < np.array(LEVELS)[:, None]
    m, u = known * np.arange(1.0, MOST + 1), known * 1.0
    totals = m.sum(axis=1, keepdims=True), u.sum(axis=1, keepdims=True)
    return {"m": m / totals[0], "u": u / totals[1], "p": 0.1}


def program(pairs: so.Table, iterations: int) -> Any:
    """As a user writes it: one record at a time."""

    @so.loop(start(), range(iterations))
    def model(env: Any) -> Any:
        def match(r: Any) -> Any:
            of_matches, of_others = env["p"], 1 - env["p"]
            for f in range(FIELDS):
                of_matches = of_matches * env["m"][f][r[f"g{f}"]]
                of_others = of_others * env["u"][f][r[f"g{f}"]]
            return of_matches / (of_matches + of_others)

        def levels(r: Any) -> Any:
            return np.stack([so.one_hot(r[f"g{f}"], MOST) for f in range(FIELDS)])

        matches, count = pairs.sum(match), pairs.count()
        return {
            "m": pairs.sum(lambda r: match(r) * levels(r)) / matches,
            "u": pairs.sum(lambda r: (1 - match(r)) * levels(r)) / (count - matches),
            "p": matches / count,
        }

    return model


def by_numpy(g: Any, weight: Any, iterations: int) -> tuple[Estimate, list[float]]:
    """Whole arrays: `g` a column for each field, `weight` None or how often each record is."""
    made, seconds = start(), []
    count = len(g[0]) if weight is None else weight.sum()
    for _ in range(iterations):
        begin = perf_counter()
        of_matches, of_others = made["p"], 1 - made["p"]
        for f in range(FIELDS):
            of_matches = of_matches * made["m"][f][g[f]]
            of_others = of_others * made["u"][f][g[f]]
        match = of_matches / (of_matches + of_others)
        other = 1 - match
        if weight is not None:
            match, other = match * weight, other * weight
        matches = match.sum()
        made = {
            "m": np.stack([np.bincount(g[f], match, MOST) for f in range(FIELDS)]) / matches,
            "u": np.stack([np.bincount(g[f], other, MOST) for f in range(FIELDS)])
            / (count - matches),
            "p": matches / count,
        }
        seconds.append(perf_counter() - begin)
    return made, seconds


def main(arguments: list[str] | None = None) -> float:
    """Run and print; the ratio of an iteration with the rule to one without it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--patterns", type=int, default=2000)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--slow-iterations", type=int, default=3, help="of those over all pairs")
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args(arguments)
    g = data(given.rows, given.patterns)
    columns = [np.ascontiguousarray(g[:, f]) for f in range(FIELDS)]
    del g
    results: dict[str, Estimate] = {}
    totals: dict[str, list[float]] = {}
    without = tuple(p for p in PHASES if p.name != RULE)

    def timed(name: str, call: Callable[[int], tuple[Estimate, list[float]]], times: int) -> Any:
        def one() -> list[float]:
            begin = perf_counter()
            results[name], seconds = call(times)
            totals.setdefault(name, []).append(perf_counter() - begin)
            return seconds

        return one

    def ours(iterations: int) -> tuple[Estimate, list[float]]:
        pairs = so.table({f"g{f}": column for f, column in enumerate(columns)})
        outcome = program(pairs, iterations).run()
        return outcome.env, [float(s) for s in outcome.history["seconds"].to_pylist()]

    def ours_over_all(iterations: int) -> tuple[Estimate, list[float]]:
        with mock.patch.object(planning, "PHASES", without):
            return ours(iterations)

    def over_patterns(iterations: int) -> tuple[Estimate, list[float]]:
        codes = np.zeros(given.rows, np.int64)
        for column in columns:
            codes = codes * MOST + column
        _, first, counts = np.unique(codes, return_index=True, return_counts=True)
        return by_numpy([c[first] for c in columns], counts, iterations)

    few, many = given.slow_iterations, given.iterations
    rounds = {
        "scalops": timed("scalops", ours, many),
        "scalops, without the rule": timed("scalops, without the rule", ours_over_all, few),
        "NumPy, all pairs": timed("NumPy, all pairs", lambda n: by_numpy(columns, None, n), few),
        "NumPy, patterns": timed("NumPy, patterns", over_patterns, many),
    }
    timings = interleaved(rounds, given.rounds)
    check(results, by_numpy(columns, None, many)[0] if few != many else results["NumPy, all pairs"])
    size = f"{given.rows:,} pairs of {given.patterns:,} patterns"
    ratio = report(f"record linkage, {size}, per iteration", timings, "scalops", "NumPy, patterns")
    seconds = {t.name: t.seconds for t in timings}
    for slow in ("scalops, without the rule", "NumPy, all pairs"):
        print(f"  {slow} / scalops: {seconds[slow] / seconds['scalops']:.0f}")
    print(f"all of {many} iterations")
    for name, times in totals.items():
        own = min(times) + (many - few) * seconds[name] * (name not in _OVER_PATTERNS)
        print(f"  {name:<28} {own:10.3f} s")
    return ratio


_OVER_PATTERNS = ("scalops", "NumPy, patterns")


def check(results: dict[str, Estimate], expected: Estimate) -> None:
    """Both ways over patterns give what whole arrays do."""
    for name in _OVER_PATTERNS:
        for field in ("m", "u", "p"):
            np.testing.assert_allclose(results[name][field], expected[field], rtol=1e-8, atol=1e-12)


if __name__ == "__main__":
    main()

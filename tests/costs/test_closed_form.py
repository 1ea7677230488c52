"""The closed form against golden values, and against minimisers that know nothing of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar

from scalops.algebra.errors import ConfigError
from scalops.optimizer.costs.closed_form import (
    best_fan_in,
    candidates,
    cheapest,
    fastest,
    growth,
    machine_seconds,
    parts,
    regime,
    seconds,
)
from scalops.optimizer.costs.symbols import Symbols

GOLDEN = [
    # R, P, D, M, A: fastest N, T; cheapest N, machine-seconds
    ((1e6, 1e-5, 2e-5, 2.5e5, 0.05), (73.58, 0.720), (4, 10.75)),
    ((1e8, 1e-6, 4e-6, 5e6, 0.5), (73.58, 7.201), (20, 181.43)),
    ((1e8, 1e-6, 4e-6, 5e6, 5), (20, 45.716), (1.60, 478.22)),
    ((1e8, 1e-6, 4e-6, 1e5, 0.5), (367.88, 8.989), (1, 499.6)),
]


def _decades(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high).map(lambda x: 10.0**x)


SYMBOLS = st.builds(
    Symbols,
    records=_decades(3, 9),
    map=_decades(-8, -3),
    load=st.one_of(st.just(0.0), _decades(-8, -3)),
    cache=st.one_of(st.just(math.inf), _decades(2, 9)),
    aggregate=_decades(-5, 1),
    broadcast=st.one_of(st.just(0.0), _decades(-5, 1)),
    level=st.one_of(st.just(0.0), _decades(-5, 1)),
)
FAN_INS = st.one_of(st.just(math.e), st.floats(1.1, 20))


@pytest.mark.parametrize(("given_symbols", "at_fastest", "at_cheapest"), GOLDEN)
def test_golden_values(
    given_symbols: tuple[float, ...],
    at_fastest: tuple[float, float],
    at_cheapest: tuple[float, float],
) -> None:
    s = Symbols(*given_symbols)
    n = fastest(s)
    assert (n, seconds(s, n)) == pytest.approx(at_fastest, rel=1e-3)
    n = cheapest(s)
    assert (n, machine_seconds(s, n)) == pytest.approx(at_cheapest, rel=2e-3)


@given(SYMBOLS, st.floats(0, 6).map(lambda x: 10.0**x), FAN_INS)
@settings(max_examples=30, deadline=None)
def test_seconds_are_those_of_the_equation(s: Symbols, n: float, f: float) -> None:
    spilled = max(0.0, s.records - s.cache * n)
    expected = (
        s.records * s.map / n
        + spilled / n * s.load
        + (s.aggregate * f + s.level) * np.emath.logn(f, n)
        + s.broadcast * np.log2(n)
    )
    assert seconds(s, n, f) == pytest.approx(float(expected), rel=1e-12)
    assert regime(s, n) == ("spilling" if spilled else "cached")


def _grid(s: Symbols, f: float, best: float) -> list[float]:
    """Machine counts all over the range, close to the kink, and where SciPy finds minima."""
    top = max(1e3, 10 * best, 10 * s.records / s.cache)
    found = list(np.geomspace(1, top, 400))
    found += [max(1.0, s.records / s.cache * (1 + d)) for d in (-1e-6, 0, 1e-6)]
    for of in (seconds, machine_seconds):
        for low, high in ((1.0, top), (1.0, max(1.0, best)), (max(1.0, best), top)):
            made = minimize_scalar(
                lambda x, of=of: of(s, math.exp(x), f),
                bounds=(math.log(low), math.log(high) + 1e-9),
                method="bounded",
            )
            found.append(max(1.0, math.exp(made.x)))
    return found


@given(SYMBOLS, FAN_INS)
@settings(max_examples=40, deadline=None)
def test_no_machine_count_is_faster_than_the_fastest(s: Symbols, f: float) -> None:
    best = fastest(s, f)
    least = seconds(s, best, f)
    assert all(least <= seconds(s, n, f) * (1 + 1e-12) for n in _grid(s, f, best))


@given(SYMBOLS, FAN_INS)
@settings(max_examples=40, deadline=None)
def test_no_machine_count_is_cheaper_than_the_cheapest(s: Symbols, f: float) -> None:
    best = cheapest(s, f)
    least = machine_seconds(s, best, f)
    assert all(least <= machine_seconds(s, n, f) * (1 + 1e-12) for n in _grid(s, f, best))


@given(SYMBOLS, st.floats(1.01, 100))
@settings(max_examples=30, deadline=None)
def test_the_fastest_moves_as_it_should(s: Symbols, factor: float) -> None:
    n = fastest(s)
    more = 1 - 1e-12
    assert fastest(replace(s, records=s.records * factor)) >= n * more
    assert fastest(replace(s, map=s.map * factor)) >= n * more
    assert fastest(replace(s, load=s.load * factor)) >= n * more
    for name in ("cache", "aggregate", "broadcast", "level"):
        moved = replace(s, **{name: getattr(s, name) * factor})
        assert fastest(moved) <= n / more


@given(SYMBOLS, st.floats(1.01, 100), st.floats(0, 5).map(lambda x: 10.0**x))
@settings(max_examples=30, deadline=None)
def test_seconds_move_as_they_should(s: Symbols, factor: float, n: float) -> None:
    before = seconds(s, n)
    assert seconds(replace(s, cache=s.cache * factor), n) <= before * (1 + 1e-12)
    for name in ("records", "map", "load", "aggregate", "broadcast", "level"):
        moved = replace(s, **{name: getattr(s, name) * factor})
        assert seconds(moved, n) >= before * (1 - 1e-12)


@given(SYMBOLS)
@settings(max_examples=30, deadline=None)
def test_the_cheapest_is_no_more_than_the_fastest_where_map_time_counts(s: Symbols) -> None:
    assert cheapest(s) <= fastest(s) * (1 + 1e-9)


@given(SYMBOLS)
@settings(max_examples=30, deadline=None)
def test_the_median_lies_between_both_minima(s: Symbols) -> None:
    found = candidates(s)
    assert found.cached <= found.spilling
    assert max(1.0, found.cached) <= fastest(s) <= max(1.0, found.spilling)


def test_the_fan_in_of_least_seconds_is_e() -> None:
    s = Symbols(1e6, 1e-5, aggregate=0.1)
    assert best_fan_in(s) == math.e
    above = [growth(s, f) / growth(s) - 1 for f in (2, 3, 4, 5, 8)]
    assert above == pytest.approx([0.061, 0.005, 0.061, 0.143, 0.415], abs=5e-4)


@given(_decades(-8, 8), _decades(-8, 8))
@settings(max_examples=30, deadline=None)
def test_levels_that_cost_want_wider_trees(level: float, aggregate: float) -> None:
    s = Symbols(1e6, 1e-5, aggregate=aggregate, level=level)
    f = best_fan_in(s)
    expected = brentq(
        lambda x: math.exp(x) * (x - 1) - level / aggregate, 1.0, 60.0, xtol=1e-14, rtol=1e-14
    )
    assert f == pytest.approx(math.exp(expected), rel=1e-9)
    assert growth(s, f) <= min(growth(s, f * 1.001), growth(s, f / 1.001))


def test_where_nothing_grows_more_machines_are_always_faster() -> None:
    s = Symbols(1e6, 1e-5, 2e-5, 1e5)
    assert fastest(s) == math.inf
    assert cheapest(s) == 10  # from there on all is cached, and N·T stays as it is
    assert best_fan_in(Symbols(1e6, 1e-5, level=1)) == math.inf
    assert fastest(Symbols(1e6, 0.0, 2e-5, 1e5)) == 10  # nothing is left to share out


def test_at_one_machine_there_is_no_tree() -> None:
    s = Symbols(1e6, 1e-5, 2e-5, 2.5e5, 0.05, 0.01, 0.1)
    assert parts(s, 1).aggregate == parts(s, 1).broadcast == 0
    assert parts(s, 1).total == pytest.approx(10 + 15)
    assert parts(s, 1).dominant == "load"
    assert parts(s, 1e6).dominant == "aggregate"


@pytest.mark.parametrize("machines", [0.5, 0, -1, math.inf, math.nan])
def test_machine_counts_below_one_are_refused(machines: float) -> None:
    with pytest.raises(ConfigError, match="expected a number, at least 1"):
        seconds(Symbols(1e6, 1e-5), machines)


@pytest.mark.parametrize("fan_in", [1.0, 0, -2, math.inf, math.nan])
def test_fan_ins_of_one_are_refused(fan_in: float) -> None:
    with pytest.raises(ConfigError, match="expected a number, more than 1"):
        growth(Symbols(1e6, 1e-5), fan_in)

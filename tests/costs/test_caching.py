"""Fractional knapsack: as good as a linear program, and filled in the order of savings per byte."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from scalops.algebra.errors import ConfigError
from scalops.optimizer.costs.caching import Invariant, held_bytes, saved_seconds

AMOUNTS = st.floats(0, 1e3, allow_subnormal=False)
TABLES = st.lists(st.tuples(st.floats(1e-3, 1e3), AMOUNTS, AMOUNTS), max_size=6).map(
    lambda rows: [Invariant(i, *row) for i, row in enumerate(rows)]
)


@given(TABLES, st.floats(0, 3e3))
@settings(max_examples=30, deadline=None)
def test_saves_as_much_as_a_linear_program(tables: list[Invariant], memory: float) -> None:
    held = held_bytes(tables, memory)
    assert sum(held.values()) <= memory * (1 + 1e-12)
    assert all(0 <= held[t.number] <= t.bytes for t in tables)
    if tables:
        # Variables are the parts that are held: of like size, as the solver wants them.
        values = np.array([t.saved for t in tables])
        scale = max(1.0, float(values.max()))
        best = linprog(
            -values / scale, [[t.bytes / 1e3 for t in tables]], [memory / 1e3], bounds=(0, 1)
        )
        assert best.success
        found = saved_seconds(tables, held)
        assert found == pytest.approx(-float(best.fun or 0.0) * scale, rel=1e-6, abs=1e-6 * scale)


def test_what_saves_most_per_byte_is_held_first() -> None:
    large = Invariant(1, 100.0, 10, 5.0)  # 0.5 s a byte
    small = Invariant(2, 10.0, 10, 1.0)  # 1 s a byte
    assert held_bytes([large, small], 60) == {1: 50.0, 2: 10.0}
    assert saved_seconds([large, small], {1: 50.0, 2: 10.0}) == 35.0


def test_what_saves_nothing_is_not_held() -> None:
    assert held_bytes([Invariant(1, 10.0, 0, 5.0), Invariant(2, 10.0, 5, 0.0)], 1e9) == {
        1: 0.0,
        2: 0.0,
    }


def test_all_is_held_where_all_fits() -> None:
    tables = [Invariant(i, 10.0 * i, 1, 1) for i in range(1, 4)]
    assert held_bytes(tables, math.inf) == {1: 10.0, 2: 20.0, 3: 30.0}
    assert held_bytes([Invariant(0, 0.0, 3, 2.0)], 0) == {0: 0.0}
    assert saved_seconds([Invariant(0, 0.0, 3, 2.0)], {}) == 6.0


def test_of_equal_tables_the_first_is_held() -> None:
    tables = [Invariant(7, 10.0, 1, 1), Invariant(3, 10.0, 1, 1)]
    assert held_bytes(tables, 15) == {7: 10.0, 3: 5.0}


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="bytes of table 4 is -1"):
        Invariant(4, -1.0, 1, 1)
    with pytest.raises(ConfigError, match="memory is nan; expected bytes"):
        held_bytes([], math.nan)
    with pytest.raises(ConfigError, match=r"tables are \[1, 1\]; expected different numbers"):
        held_bytes([Invariant(1, 1.0, 1, 1)] * 2, 1)

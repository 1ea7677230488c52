"""Long cumulative sums: added up in fours, and their carries all at once."""

from __future__ import annotations

import numpy as np
import pytest

from scalops.algebra.dtypes import FLOAT64, INT64, ArrayType
from scalops.engine.kernels.running import FORMS


@pytest.mark.parametrize("kind", [FLOAT64, INT64])
def test_carries_at_once_are_those_one_by_one(kind: ArrayType) -> None:
    form = FORMS["cumsum"](kind)
    rng = np.random.default_rng(2)
    summaries = [[(rng.normal(size=1) * 1e3).astype(form.dtype)] for _ in range(500)]
    carries = form.carries(summaries)
    assert carries is not None
    carry = form.start(1)
    for made, summary in zip(carries, summaries, strict=False):
        assert made.tobytes() == carry.tobytes()
        carry, _ = form.join(carry, summary)
    assert carries[-1].tobytes() == carry.tobytes()


def test_carries_are_led_one_by_one_where_a_sum_is_not_finite() -> None:
    form = FORMS["cumsum"](FLOAT64)
    with np.errstate(over="ignore"):
        assert form.carries([[np.array([1e308])], [np.array([1e308])]]) is None
    assert form.carries([[np.array([np.inf])]]) is None


@pytest.mark.parametrize("rows", [4_096, 4_097, 4_098, 65_535, 65_536])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_long_sums_are_numpys_and_never_fall(rows: int, dtype: str) -> None:
    rng = np.random.default_rng(3)
    values = (rng.gamma(2.0, 1.0, rows) * (rng.random(rows) < 0.5)).astype(dtype)
    form = FORMS["cumsum"](ArrayType(dtype))
    found = form.scan([values], form.start(1)[0] + 1)
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_allclose(found, 1 + np.cumsum(values.astype(np.float64)), rtol=1e-4)
    assert (np.diff(found) >= 0).all()
    in_place = form.scan([values[::-1]], form.start(1)[0], np.empty_like(values))
    np.testing.assert_allclose(in_place, np.cumsum(values[::-1].astype(np.float64)), rtol=1e-4)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_long_sums_run_on_from_what_is_not_finite(special: float) -> None:
    values = np.random.default_rng(4).normal(size=10_000)
    values[5_003] = special
    form = FORMS["cumsum"](FLOAT64)
    found = form.scan([values], form.start(1)[0])
    np.testing.assert_allclose(found, np.cumsum(values), rtol=1e-9, atol=1e-9)


def test_a_long_sum_that_overflows_in_four_does_not() -> None:
    values = np.zeros(10_000)
    values[3], values[400:402] = -1.5e308, 1e308
    form = FORMS["cumsum"](FLOAT64)
    with np.errstate(all="ignore"):
        found = form.scan([values], form.start(1)[0])
    np.testing.assert_allclose(found, np.cumsum(values))

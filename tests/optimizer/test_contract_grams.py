"""contract_grams: weighted sums of outer products of a vector with itself are symmetric."""

from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.optimizer.rules.contract_grams import contract_grams
from scalops.optimizer.rules.contract_products import contract_products
from tests.conftest import Golden
from tests.optimizer.plans import apply, assert_same_answer, assert_stays, before_and_after
from tests.optimizer.test_contract_products import T, merged


def products(*things: Any) -> Any:
    return apply(merged(*things), contract_products)[0]


def test_fires(golden: Golden) -> None:
    cases = {
        "a weight before": T.sum(lambda r: r.y * np.outer(r.x, r.x)),
        "a weight that is computed": T.mean(lambda r: np.outer(r.x, np.exp(r.y) * r.x) / 2.0),
        "a vector that is computed": T.sum(lambda r: r.y * np.outer(r.x + r.z, r.x + r.z)),
        "reduce": T.map(lambda r: np.outer(r.y * r.x, r.x)).reduce(lambda a, b: a + b),
    }
    jobs = {title: products(thing) for title, thing in cases.items()}
    golden(
        "rules/contract_grams.txt",
        before_and_after(*((t, j, apply(j, contract_grams)[0]) for t, j in jobs.items())),
    )


@pytest.mark.parametrize(
    "f",
    [
        pytest.param(lambda r: np.outer(r.x, r.x), id="no weight: BLAS sees one operand"),
        pytest.param(lambda r: r.y * np.outer(r.x, r.z), id="two vectors"),
        pytest.param(lambda r: np.outer(r.x * r.z, r.x), id="a vector of weights"),
    ],
)
def test_stays(f: Any) -> None:
    assert_stays(products(T.sum(f)), contract_grams)


def test_groups_keep_their_products() -> None:
    made = T.group_by(b="b").map(lambda key, rows: rows.sum(lambda r: r.y * np.outer(r.x, r.x)))
    assert_stays(products(made), contract_grams)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("columns", [1, 3, 100, 130])
@pytest.mark.parametrize("least", [0.0, -1.0], ids=["weights", "signed"])
def test_both_plans_same_answer(columns: int, least: float, dtype: str) -> None:
    rng = np.random.default_rng(columns)
    x = rng.standard_normal((700, columns)).astype(dtype)
    s = rng.uniform(least, 1, 700).astype(dtype)
    table = so.table({"x": x, "s": s})
    total = table.sum(lambda r: r.s * np.outer(r.x, r.x))
    mean = table.mean(lambda r: r.s * np.outer(r.x, r.x))
    kept = table.filter(lambda r: r.s < -2).sum(lambda r: r.s * np.outer(r.x, r.x))
    if columns <= 3:
        job = products(total, mean, kept)
        assert_same_answer(job, apply(job, contract_grams)[0])
    made, middle, nothing = so.collect(total, mean, kept)
    tolerance = 1e-12 if dtype == "float64" else 1e-4
    wide = x.astype("float64")
    expected = (s.astype("float64")[:, None] * wide).T @ wide
    np.testing.assert_allclose(made, expected, rtol=tolerance, atol=tolerance * 700)
    np.testing.assert_allclose(middle, expected / 700, rtol=tolerance, atol=tolerance * 10)
    np.testing.assert_array_equal(made, made.T)
    assert made.dtype == dtype
    assert not nothing.any()


def test_a_weight_that_is_nan_reaches_every_element() -> None:
    x = np.ones((5, 3))
    s = np.array([1.0, np.nan, 1.0, 1.0, 1.0])
    made = so.table({"x": x, "s": s}).sum(lambda r: r.s * np.outer(r.x, r.x)).collect()
    assert np.isnan(made).all()

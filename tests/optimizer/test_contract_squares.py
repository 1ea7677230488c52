"""contract_squares: shares times squared differences, summed over records."""

from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra.expressions import constant
from scalops.engine.kernels.squares import weighted_squares
from scalops.optimizer.rules.contract_squares import contract_squares
from tests.conftest import Golden
from tests.optimizer.plans import apply, assert_same_answer, assert_stays, before_and_after
from tests.optimizer.test_contract_products import merged

RNG = np.random.default_rng(3)
X, R, C = RNG.standard_normal((50, 3)), RNG.uniform(0, 1, (50, 4)), RNG.standard_normal((4, 3))
T = so.table({"x": X, "r": R, "h": X.astype(np.float32), "s": R.astype(np.float32), "y": R[:, 0]})


def test_fires(golden: Golden) -> None:
    cases = {
        "a sum": T.sum(lambda r: r.r[:, None] * (r.x - C) ** 2),
        "a mean, the other way round": T.mean(lambda r: np.square(C - r.x) * r.r.reshape(4, 1)),
        "reduce": T.map(lambda r: r.r[:, None] * (r.x - C) ** 2).reduce(lambda a, b: a + b),
    }
    jobs = {title: merged(thing) for title, thing in cases.items()}
    golden(
        "rules/contract_squares.txt",
        before_and_after(*((t, j, apply(j, contract_squares)[0]) for t, j in jobs.items())),
    )


@pytest.mark.parametrize(
    "f",
    [
        pytest.param(lambda r: r.y * (r.x - C) ** 2, id="one share for all"),
        pytest.param(lambda r: r.r[:, None] * (r.x - C) ** 2 / C, id="a quotient"),
        pytest.param(lambda r: r.r[:, None] * (r.x - C[0]) ** 2, id="one vector"),
        pytest.param(lambda r: R[0][:, None] * (r.x - C) ** 2, id="shares that all share"),
        pytest.param(lambda r: r.s[:, None] * (r.x - C) ** 2, id="two types"),
        pytest.param(lambda r: r.r[:, None] * np.abs(r.x - C), id="no squares"),
    ],
)
def test_stays(f: Any) -> None:
    assert_stays(merged(T.sum(f)), contract_squares)


def test_stays_at_groups() -> None:
    made = T.group_by(b=lambda r: r.y > 0.5).map(
        lambda key, rows: rows.sum(lambda r: r.r[:, None] * (r.x - C) ** 2)
    )
    assert_stays(merged(made), contract_squares)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_both_plans_same_answer(offset: float, dtype: str) -> None:
    x, r = (X + offset).astype(dtype), R.astype(dtype)
    c = (C + offset).astype(dtype)
    table = so.table({"x": x, "r": r})
    total = table.sum(lambda v: v.r[:, None] * (v.x - c) ** 2)
    mean = table.mean(lambda v: v.r[:, None] * (v.x - c) ** 2)
    nothing = table.filter(lambda v: v.r[0] < 0).sum(lambda v: v.r[:, None] * (v.x - c) ** 2)
    job = merged(total, mean, nothing)
    if offset == 0.0:
        assert_same_answer(job, apply(job, contract_squares)[0])
    wide = np.square(x[:, None].astype(np.longdouble) - c) * r[:, :, None]
    made, middle, none = so.collect(total, mean, nothing)
    tolerance = 1e-10 if dtype == "float64" else 1e-6
    np.testing.assert_allclose(made, wide.sum(axis=0), rtol=tolerance)
    np.testing.assert_allclose(middle, wide.mean(axis=0), rtol=tolerance)
    assert made.dtype == dtype
    assert not none.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0, 0.0])
def test_extreme_shares_and_records(bad: float) -> None:
    x, r, c = X.copy(), R.copy(), C + 1e9
    c[0] = x[0]
    r[3, 1], r[:, 2] = bad, 0.0
    if not np.isfinite(bad):
        x[5, 0] = bad
    with np.errstate(all="ignore"):
        wanted = np.stack([r[:, k] @ np.square(x - c[k]) for k in range(4)])
        made = weighted_squares(r, x, c)
    np.testing.assert_allclose(made, wanted, rtol=1e-10)


def test_vectors_close_together_far_from_others_keep_their_digits() -> None:
    c = np.concatenate((X[:3] + 1e7, X[:1] - 1e9))
    x, r = X + 1e7, np.eye(4)[np.arange(50) % 3]
    wide = (np.square(x[:, None].astype(np.longdouble) - c) * r[:, :, None]).sum(axis=0)
    np.testing.assert_allclose(weighted_squares(r, x, c), wide, rtol=1e-10)


def test_a_null_share_is_skipped() -> None:
    assert constant(C).type.shape == (4, 3)
    table = so.table({"x": X, "y": [None, *R[1:, 0].tolist()]})
    total = table.sum(lambda v: np.stack([v.y, v.y, v.y, v.y])[:, None] * (v.x - C) ** 2)
    with pytest.raises(so.DataError):
        total.collect()

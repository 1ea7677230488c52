"""contract_terms: a sum of sums of products is a sum of products of matrices."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from scalops.algebra import operators as op
from scalops.optimizer.rules.contract_grams import contract_grams
from scalops.optimizer.rules.contract_products import contract_products
from scalops.optimizer.rules.contract_terms import contract_terms
from tests.conftest import Golden
from tests.optimizer.plans import apply, assert_same_answer, assert_stays, before_and_after
from tests.optimizer.test_contract_products import T, merged

W = np.array([0.25, -1.5])
M = np.array([[2.0, 1.0], [1.0, 3.0]])


def products(*things: Any) -> op.Job:
    return apply(merged(*things), contract_products, contract_grams)[0]


TERMS: dict[str, Callable[[Any], Any]] = {
    "two scaled vectors": lambda r: r.y * r.x - r.z / (1 + r.y),
    "a regulariser written into the record's loss": lambda r: -r.y * r.x + 0.1 * W,
    "outer products and a matrix": lambda r: r.y * np.outer(r.x, r.x) - np.outer(r.x, r.z) + M,
    "a difference under a sign": lambda r: -(r.y * r.x - r.y**2 * r.z),
}


def test_fires(golden: Golden) -> None:
    jobs = {title: products(T.sum(f)) for title, f in TERMS.items()}
    jobs["a mean"] = products(T.mean(TERMS["two scaled vectors"]))
    golden(
        "rules/contract_terms.txt",
        before_and_after(*((t, j, apply(j, contract_terms)[0]) for t, j in jobs.items())),
    )


@pytest.mark.parametrize(
    "f",
    [
        pytest.param(lambda r: r.y * r.x + r.z, id="a term without a factor"),
        pytest.param(lambda r: r.x - W, id="a difference that may be exact"),
        pytest.param(lambda r: r.y * (r.x - W), id="a scaled difference: one product"),
        pytest.param(lambda r: r.y * r.x + r.y, id="a scalar term"),
        pytest.param(lambda r: r.y * r.x, id="one term"),
        pytest.param(lambda r: r.y * r.x + r.n, id="a term of another type"),
    ],
)
def test_stays(f: Any) -> None:
    assert_stays(products(T.sum(f)), contract_terms)


@pytest.mark.parametrize("title", TERMS)
def test_both_plans_same_answer(title: str) -> None:
    f = TERMS[title]
    none = T.filter(lambda r: r.y < -5)
    job = products(T.sum(f), T.mean(f), T.map(f).reduce(lambda a, b: a + b), none.sum(f))
    after, trace = apply(job, contract_terms)
    assert trace
    assert_same_answer(job, after)


@pytest.mark.parametrize("title", TERMS)
def test_blocks_agree_with_numpy(title: str) -> None:
    rng = np.random.default_rng(3)
    x, z, y = (rng.standard_normal((5000, *s)) for s in ((2,), (2,), ()))
    f = TERMS[title]
    table = so.table({"x": x, "z": z, "y": y})
    found, middle = so.collect(table.sum(f), table.mean(f))
    rows = [f(SimpleNamespace(x=a, z=b, y=c)) for a, b, c in zip(x, z, y, strict=True)]
    np.testing.assert_allclose(found, np.sum(rows, axis=0), rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(middle, np.mean(rows, axis=0), rtol=1e-9, atol=1e-12)


def test_a_record_with_a_null_in_any_term_counts_in_none() -> None:
    table = so.from_arrow(pa.table({"y": [1.0, None, 3.0], "k": [1.0, 2.0, 5.0]}))
    made = table.map(lambda r: {"u": r.y * W, "v": r.k * W})
    total = made.sum(lambda r: r.u + 0.5 * W).collect()
    np.testing.assert_allclose(total, (1 + 3) * W + 2 * 0.5 * W)
    both = table.sum(lambda r: r.y * (r.k * W) + r.k * (W + r.k) + 0.5 * W).collect()
    expected = (1 + 15) * W + (1 * (W + 1) + 5 * (W + 5)) + W
    np.testing.assert_allclose(both, expected)

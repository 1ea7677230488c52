"""contract_products over sparse vectors: no product, and no dense matrix, for each record."""

from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.tree import find
from scalops.optimizer.rules.contract_products import contract_products
from tests.conftest import Golden
from tests.optimizer.plans import (
    apply,
    assert_same_answer,
    assert_stays,
    before_and_after,
    firings,
    job_of,
)

I = np.array([[0, 2], [1, 1], [2, 0]])  # noqa: E741
T = so.table({"i": I, "v": np.arange(6.0).reshape(3, 2), "y": np.array([1.0, -2.0, 3.0])})


def x(r: Any) -> Any:
    """A record's sparse vector."""
    return so.sparse_vector(r.i, r.v, 3)


def with_sums_of(*things: Any) -> op.Job:
    """The job with the functions inside its folds."""
    from scalops.optimizer.rules.merge_maps import merge_maps

    return apply(job_of(*things), merge_maps)[0]


CASES: dict[str, Any] = {
    "a scalar times a sparse vector": T.sum(lambda r: r.y * x(r)),
    "a mean": T.mean(lambda r: -x(r) * r.y / 2),
    "a dense sum is a sparse one": T.sum(lambda r: so.dense(x(r))),
    "a scaled dense sum": T.sum(lambda r: r.y * so.dense(x(r))),
    "an outer product": T.sum(lambda r: r.y * np.outer(r.v, x(r))),
    "the scale goes to the dense side": T.sum(lambda r: r.y * np.outer(x(r), r.v)),
    "an outer product with a constant": T.sum(lambda r: np.outer(x(r), np.ones(2))),
    "of another type": T.sum(lambda r: np.outer(np.ones(2, np.float32), x(r))),
}


def test_fires(golden: Golden) -> None:
    jobs = {title: with_sums_of(thing) for title, thing in CASES.items()}
    golden(
        "rules/contract_sparse_products.txt",
        before_and_after(*((t, j, apply(j, contract_products)[0]) for t, j in jobs.items())),
    )


@pytest.mark.parametrize("title", CASES)
def test_both_plans_agree(title: str) -> None:
    before = with_sums_of(CASES[title])
    after, trace = apply(before, contract_products)
    assert firings(trace, contract_products) == 1
    assert_same_answer(before, after)
    (aggregate,) = find((after,), op.Aggregate)
    assert not any(a.type.shape and a.type.size > 3 for f in aggregate.folds for a in f.arguments)


@pytest.mark.parametrize(
    "f",
    [
        pytest.param(x, id="a plain sum"),
        pytest.param(lambda r: 2.0 * x(r), id="the same factor for all records"),
        pytest.param(lambda r: r.y * x(r) + np.ones(3), id="a dense sum"),
        pytest.param(lambda r: x(r) * np.ones(3), id="elementwise product"),
        pytest.param(lambda r: r.y * so.lit(so.sparse_vector([1], [1.0], 3)), id="no column"),
    ],
)
def test_stays(f: Any) -> None:
    assert_stays(with_sums_of(T.sum(f)), contract_products)

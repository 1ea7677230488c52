"""associate_products: products of matrices in the order that costs least for one record."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from scalops.optimizer.rules.associate_products import associate_products
from tests.conftest import Golden
from tests.optimizer.plans import apply, assert_same_answer, assert_stays, before_and_after
from tests.optimizer.test_contract_products import T, merged

A = np.array([[1.0, 2.0, -1.0], [0.5, 3.0, 2.0]])
B = np.array([[2.0, 1.0], [1.0, 0.0], [0.0, -3.0]])
w, v = np.array([1.0, -2.0]), np.array([3.0, 0.5, 1.0])

CASES: dict[str, Callable[[Any], Any]] = {
    "a vector before a matrix": lambda r: v @ (B @ r.x),
    "a narrow matrix after a wide one": lambda r: (r.x @ A) @ B,
    "an outer product and a vector": lambda r: np.outer(r.x, r.z) @ r.x,
    "a vector and an outer product": lambda r: w @ np.outer(r.x, w),
    "a sum of products": lambda r: (r.x * w).sum(),
    "of each row of a matrix": lambda r: (B * r.x).sum(axis=1),
    "of float32": lambda r: np.sum(r.h * w.astype(np.float32)),
}


def test_fires(golden: Golden) -> None:
    jobs = {title: merged(T.map(f)) for title, f in CASES.items()}
    golden(
        "rules/associate_products.txt",
        before_and_after(*((t, j, apply(j, associate_products)[0]) for t, j in jobs.items())),
    )


@pytest.mark.parametrize(
    "f",
    [
        pytest.param(lambda r: (r.x @ A[:, :1]) @ A[:1], id="wide after narrow"),
        pytest.param(lambda r: r.x @ (A @ B), id="what no record changes"),
        pytest.param(lambda r: np.outer(r.n, r.n) @ r.n, id="integers"),
        pytest.param(
            lambda r: v.astype(np.float32) @ (B.astype(np.float32) @ r.x),
            id="would meet in float32",
        ),
        pytest.param(lambda r: (r.x * r.x).sum(), id="squares"),
        pytest.param(lambda r: (B * r.x).sum(axis=0), id="over the first axis"),
        pytest.param(lambda r: (r.x * w).sum(keepdims=True), id="axes that stay"),
        pytest.param(lambda r: np.outer(r.x, r.x) @ np.outer(r.x, r.z), id="two outer products"),
    ],
)
def test_stays(f: Any) -> None:
    assert_stays(merged(T.map(f)), associate_products)


@pytest.mark.parametrize("title", CASES)
def test_both_plans_same_answer(title: str) -> None:
    job = merged(T.map(CASES[title]), T.sum(CASES[title]))
    after, trace = apply(job, associate_products)
    assert trace
    assert_same_answer(job, after)

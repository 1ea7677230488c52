"""expand_powers: small powers are products."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.optimizer.rules.expand_powers import expand_powers
from tests.conftest import Golden
from tests.optimizer.plans import apply, assert_same_answer, assert_stays, before_and_after
from tests.optimizer.test_contract_products import T, merged

CASES: dict[str, Callable[[Any], Any]] = {
    "a square": lambda r: (r.x - r.z) ** 2,
    "a cube of integers": lambda r: r.n**3,
    "a fourth power": lambda r: r.h**4,
    "a reciprocal": lambda r: 2 * r.y**-1,
    "small integers wrap around": lambda r: r.k**2,
}


def test_fires(golden: Golden) -> None:
    jobs = {title: merged(T.map(f)) for title, f in CASES.items()}
    golden(
        "rules/expand_powers.txt",
        before_and_after(*((t, j, apply(j, expand_powers)[0]) for t, j in jobs.items())),
    )


@pytest.mark.parametrize(
    "f",
    [
        pytest.param(lambda r: r.x**2.5, id="another power"),
        pytest.param(lambda r: r.x**r.y, id="a power that varies"),
        pytest.param(lambda r: 2**r.x, id="a power of a constant"),
        pytest.param(lambda r: r.y**0.5, id="a root"),
        pytest.param(lambda r: r.n**2.0, id="integers that become floats"),
        pytest.param(lambda r: r.x ** np.array([2.0, 3.0]), id="several powers"),
    ],
)
def test_stays(f: Any) -> None:
    assert_stays(merged(T.map(f)), expand_powers)


@pytest.mark.parametrize("title", CASES)
def test_both_plans_same_answer(title: str) -> None:
    job = merged(T.map(CASES[title]))
    after, trace = apply(job, expand_powers)
    assert trace
    assert_same_answer(job, after)


def test_extremes_are_numpys() -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -1.5, 1e200, 5e-324])
    table = so.table({"x": x})
    with np.errstate(all="ignore"):
        for power in (2, 3, 4, -1, 1):
            found = table.map(lambda r, p=power: r.x**p).collect()
            np.testing.assert_allclose(found.column(0).to_numpy(), x**power, rtol=1e-15)

"""split_distances: what all records share is added up beside a distance, not in it."""

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.optimizer.phases import PHASES
from scalops.optimizer.rewriter import rewrite
from scalops.optimizer.rules.contract_distances import contract_distances
from scalops.optimizer.rules.split_distances import split_distances
from tests.conftest import Golden
from tests.optimizer.plans import (
    apply,
    assert_same_answer,
    assert_stays,
    before_and_after,
    firings,
)
from tests.optimizer.test_contract_distances import ARRAYS, A, C, X, forms
from tests.optimizer.test_contract_products import merged
from tests.quick import repeated

T = so.table(ARRAYS)
LOGS = np.log(2 * np.pi * A)
WEIGHTED = [("weighted_squared_distances", "expanded")]
H, HA = C.astype(np.float32), A.astype(np.float32)


def test_fires(golden: Golden) -> None:
    @so.loop({"m": C, "v": A}, range(2))
    def mixture(env: Any) -> Any:
        m, v = env["m"], env["v"]

        def densities(r: Any) -> Any:
            return -0.5 * ((r.x - m) ** 2 / v + np.log(2 * np.pi * v)).sum(axis=1)

        return {"m": m + T.sum(lambda r: so.softmax(densities(r))).sum(), "v": v}

    cases = {
        "the density of a mixture's components": mixture,
        "a factor around": T.sum(lambda r: (-0.5 * ((r.x - C) ** 2 / A + LOGS)).sum(axis=1)),
        "subtracted, and a number": T.sum(
            lambda r: np.mean(1.5 - (r.x - C) ** 2 / A - LOGS, axis=1)
        ),
    }
    jobs = {title: merged(thing) for title, thing in cases.items()}
    golden(
        "rules/split_distances.txt",
        before_and_after(*((t, j, apply(j, split_distances)[0]) for t, j in jobs.items())),
    )


@pytest.mark.parametrize(
    "f",
    [
        pytest.param(lambda r: ((r.x - C) ** 2 / A + LOGS).sum(axis=1), id="a sum"),
        pytest.param(lambda r: (LOGS + (r.x - C) ** 2 / A).sum(axis=-1), id="the other way round"),
        pytest.param(lambda r: ((r.x - C) ** 2 / A - LOGS).mean(axis=1), id="a mean"),
        pytest.param(lambda r: (LOGS - (r.x - C) ** 2 / A).sum(axis=1), id="subtracted"),
        pytest.param(lambda r: (LOGS[0] + (r.x - C) ** 2 / A + 1).sum(axis=1), id="narrow"),
        pytest.param(lambda r: ((r.x - C) ** 2 / A + LOGS[:, :1]).sum(axis=1), id="a column"),
        pytest.param(
            lambda r: ((-0.5 * (r.x - C) ** 2 / A - 0.5 * LOGS) / 2).sum(axis=1), id="factors"
        ),
        pytest.param(
            lambda r: (-0.5 * ((r.x - C) ** 2 / A + LOGS) - np.log(3.0)).sum(axis=1), id="twice"
        ),
        pytest.param(lambda r: (-(r.y * ((r.x - C) ** 2 / A + LOGS))).sum(axis=1), id="own factor"),
        pytest.param(lambda r: (1 - (2 - (3 + (r.x - C) ** 2 / A))).sum(axis=1), id="signs"),
        pytest.param(lambda r: ((r.h - H) ** 2 / HA + 1.5).sum(axis=1), id="float32"),
    ],
)
def test_is_a_distance_and_what_is_shared(f: Any) -> None:
    assert forms(T.map(f)) == []
    before = merged(T.map(f))
    split, trace = apply(before, split_distances)
    assert firings(trace, split_distances) >= 1
    assert_same_answer(before, split)
    trace = apply(before, split_distances, contract_distances)[1]
    assert firings(trace, contract_distances) == 1
    made = np.array(T.map(f).collect().column(0).to_pylist())
    records = [type("Record", (), {n: v[i] for n, v in ARRAYS.items()}) for i in range(len(X))]
    wanted = np.stack([np.asarray(f(r)) for r in records])
    narrow = "h" in f.__code__.co_names
    np.testing.assert_allclose(made, wanted, rtol=1e-4 if narrow else 1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "f",
    [
        pytest.param(lambda r: ((r.x - C) ** 2 / A).sum(axis=1) + LOGS.sum(axis=1), id="outside"),
        pytest.param(lambda r: ((r.x - C) ** 2 / A + r.z).sum(axis=1), id="a record's own"),
        pytest.param(lambda r: ((r.x - C) ** 2 / A + r.y).sum(axis=1), id="a record's own number"),
        pytest.param(lambda r: (np.abs(r.x - C) + LOGS).sum(axis=1), id="no squares"),
        pytest.param(lambda r: ((r.x - C) ** 2 + LOGS).sum(axis=0), id="over the vectors"),
        pytest.param(lambda r: ((r.x - C) ** 2 + LOGS).sum(), id="over both axes"),
        pytest.param(lambda r: ((r.x - C) ** 2 + LOGS).sum(axis=1, keepdims=True), id="keepdims"),
        pytest.param(lambda r: ((r.x - C) ** 2 + LOGS).max(axis=1), id="no sum"),
        pytest.param(lambda r: ((r.x - C) ** 2 * LOGS).sum(axis=1), id="a product"),
        pytest.param(lambda r: ((r.x - C[0]) ** 2 + LOGS).sum(axis=1), id="wider than q"),
        pytest.param(lambda r: ((r.h - H) ** 2 + LOGS).sum(axis=1), id="wider type than q"),
        pytest.param(lambda r: (r.y * ((r.h - H) ** 2 + HA)).sum(axis=1), id="wider factor"),
        pytest.param(lambda r: (r.x + LOGS).sum(axis=1), id="no difference"),
        pytest.param(lambda r: (LOGS + A).sum(axis=1) * r.y, id="nothing of the record"),
    ],
)
def test_stays(f: Any) -> None:
    assert_stays(merged(T.map(f)), split_distances)


def test_a_mixtures_densities_have_no_array_of_vectors() -> None:
    def densities(r: Any) -> Any:
        return -0.5 * ((r.x - C) ** 2 / A + LOGS).sum(axis=1)

    shown = T.sum(lambda r: so.softmax(densities(r))[:, None] * r.x).explain()
    assert "form=expanded" in " ".join(shown.split())
    assert "as U.T @ V" in " ".join(shown.split())


@repeated(3)
@given(st.randoms(use_true_random=False))
@settings(max_examples=7)
def test_same_answer(run: int, random: Random) -> None:
    rng = np.random.default_rng(random.randrange(10**6))
    k, d, dtype = random.choice([1, 3]), random.choice([1, 2, 5]), random.choice("df")
    x = (rng.standard_normal((20, d)) + random.choice([0.0, 1e3])).astype(dtype)
    c = x[:k] + np.asarray(random.choice([0.0, 0.5]), dtype)
    a = rng.uniform(0.5, 2, random.choice([(k, d), (d,), (k, 1)])).astype(dtype)
    u = random.choice([np.log(a), np.abs(c), 2.0, np.zeros(d, dtype)])
    shapes: list[Any] = [
        lambda r: ((r.x - c) ** 2 / a + u).sum(axis=1),
        lambda r: (-0.5 * (u + a * (c - r.x) ** 2)).sum(axis=1),
        lambda r: ((r.x - c) ** 2 + u + 1).mean(axis=1),
    ]
    job = merged(so.table({"x": x}).map(random.choice(shapes)))
    after, trace = apply(job, split_distances)
    assert firings(trace, split_distances) >= 1
    assert_same_answer(job, after)
    if dtype == "d":
        assert_same_answer(job, rewrite(job, PHASES)[0])

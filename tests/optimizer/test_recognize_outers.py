"""recognize_outers: a column times a row is an outer product, where that is contracted."""

from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.printing import text
from scalops.algebra.relations import GroupAggregate
from scalops.algebra.tree import find
from scalops.optimizer.phases import PHASES
from scalops.optimizer.rewriter import rewrite
from scalops.optimizer.rules.contract_products import contract_products
from scalops.optimizer.rules.recognize_outers import recognize_outers
from tests.conftest import Golden
from tests.optimizer.plans import (
    apply,
    assert_same_answer,
    assert_stays,
    before_and_after,
    firings,
)
from tests.optimizer.test_contract_products import merged
from tests.quick import repeated

RNG = np.random.default_rng(5)
X, S = RNG.standard_normal((30, 3)), RNG.uniform(0, 1, (30, 2))
C = RNG.standard_normal((2, 3))
T = so.table({"x": X, "s": S, "y": X[:, 0], "h": X.astype(np.float32), "k": np.arange(30) % 3})


def test_fires(golden: Golden) -> None:
    cases = {
        "responsibilities times features": T.sum(lambda r: r.s[:, None] * r.x),
        "a mean of a matrix product": T.mean(lambda r: r.s[:, None] @ r.x[None, :]),
        "reduce of an einsum": T.map(lambda r: np.einsum("i,j->ji", r.s, r.x)).reduce(
            lambda a, b: a + b
        ),
        "with signs and factors": T.sum(lambda r: -(r.y * (r.x * r.s[:, None])) / 2),
        "a term of several": T.sum(lambda r: r.s[:, None] * r.x - C + np.outer(r.s, r.x)),
        "of groups": T.group_by("k").agg(m=so.sum(lambda r: r.s.reshape(2, 1) * r.x)),
    }
    jobs = {title: merged(thing) for title, thing in cases.items()}
    golden(
        "rules/recognize_outers.txt",
        before_and_after(*((t, j, apply(j, recognize_outers)[0]) for t, j in jobs.items())),
    )


SPELLINGS: list[Any] = [
    pytest.param(lambda r: r.s[:, None] * r.x, id="an index"),
    pytest.param(lambda r: r.x * r.s[:, np.newaxis], id="the other way round"),
    pytest.param(lambda r: r.s[:, None] * r.x[None, :], id="a row"),
    pytest.param(lambda r: r.s[..., None] * r.x[None], id="an ellipsis"),
    pytest.param(lambda r: r.s[:, None] @ r.x[None, :], id="matmul"),
    pytest.param(lambda r: np.dot(r.s[:, None], r.x.reshape(1, -1)), id="dot"),
    pytest.param(lambda r: np.einsum("i,j->ij", r.s, r.x), id="einsum"),
    pytest.param(lambda r: np.einsum("d,k->kd", r.x, r.s), id="einsum turned"),
    pytest.param(lambda r: np.einsum("i,j", r.s, r.x), id="einsum without result"),
    pytest.param(lambda r: np.multiply.outer(r.s, r.x), id="multiply.outer"),
    pytest.param(lambda r: np.reshape(r.s, (2, 1)) * r.x, id="reshape"),
    pytest.param(lambda r: np.expand_dims(r.s, 1) * np.expand_dims(r.x, 0), id="expand_dims"),
    pytest.param(lambda r: np.atleast_2d(r.s).T * r.x, id="a transposed row"),
    pytest.param(lambda r: (r.x[:, None] * r.s).T, id="a transposed product"),
]


@pytest.mark.parametrize("f", SPELLINGS)
def test_one_product_however_it_is_written(f: Any) -> None:
    before = merged(T.sum(f))
    after, _ = apply(before, recognize_outers)
    (aggregate,) = find((after,), op.Aggregate)
    assert text(aggregate.folds[0].arguments[0]) == "outer(s, x)"
    (contracted,) = find((apply(after, contract_products)[0],), op.Aggregate)
    assert contracted.folds[0].kind == "sum_outer"
    assert_same_answer(before, after)
    np.testing.assert_allclose(T.sum(f).collect(), S.T @ X, rtol=1e-12)


@pytest.mark.parametrize(
    ("f", "found"),
    [
        pytest.param(lambda r: r.s[:, None] / 2 * r.x, "outer(s / 2, x)", id="a scaled column"),
        pytest.param(
            lambda r: np.exp(-r.s[:, None]) * (r.y * r.x), "outer(exp(-s), y * x)", id="mapped"
        ),
        pytest.param(
            lambda r: (r.s[:, None] * C[:, :1]) * r.x,
            "outer(reshape(s[:, None] * float64[2,1] constant, shape=(2,)), x)",
            id="any column",
        ),
        pytest.param(lambda r: r.y * r.s[:, None] * r.x, "outer(y * s, x)", id="a factor before"),
        pytest.param(lambda r: r.x[:, None] * r.x, "outer(x, x)", id="a vector with itself"),
        pytest.param(
            lambda r: np.stack([r.y, r.y]).reshape(2, 1) * r.x,
            "outer(stack(y, y, axis=0), x)",
            id="computed",
        ),
    ],
)
def test_vectors_behind_columns(f: Any, found: str) -> None:
    before = merged(T.sum(f))
    after, trace = apply(before, recognize_outers)
    assert firings(trace, recognize_outers) == 1
    (aggregate,) = find((after,), op.Aggregate)
    assert text(aggregate.folds[0].arguments[0]) == found
    assert_same_answer(before, rewrite(before, PHASES)[0])


@pytest.mark.parametrize(
    "f",
    [
        pytest.param(lambda r: C[:, :1] * r.x, id="a column that all records share"),
        pytest.param(lambda r: r.s[:, None] * C[0], id="a row that all records share"),
        pytest.param(lambda r: r.s[:, None] * C, id="a matrix"),
        pytest.param(lambda r: r.s[:, None] * (r.x - C) ** 2, id="a matrix of the record's"),
        pytest.param(lambda r: r.s[:, None] * r.h, id="two types"),
        pytest.param(lambda r: r.s[:, None].astype(np.int64) * r.k, id="integers"),
        pytest.param(lambda r: r.x / r.s[:, None], id="a quotient"),
        pytest.param(lambda r: r.s[:, None] + r.x, id="a sum"),
        pytest.param(lambda r: np.einsum("i,i->i", r.x, r.x), id="elementwise einsum"),
        pytest.param(lambda r: np.exp(r.s[:, None] * r.x), id="inside of another function"),
        pytest.param(lambda r: r.s[:, None] * r.x * C, id="a factor for each element"),
        pytest.param(lambda r: r.s[:, None] * r.x + np.abs(r.x - C), id="beside no product"),
        pytest.param(lambda r: np.outer(r.s, r.x), id="an outer product"),
    ],
)
def test_stays(f: Any) -> None:
    assert_stays(merged(T.sum(f)), recognize_outers)


def test_stays_at_other_folds_and_in_maps() -> None:
    def f(r: Any) -> Any:
        return r.s[:, None] * r.x

    assert_stays(merged(T.max(f)), recognize_outers)
    assert_stays(merged(T.map(f)), recognize_outers)


def test_a_sum_of_shared_terms_is_looked_at_once() -> None:
    """Each term is twice the one before: written out it would be 2⁴⁰ terms."""

    def f(r: Any) -> Any:
        s = np.abs(r.s[:, None] * r.x)
        for _ in range(40):
            s = s + s
        return s

    assert_stays(merged(T.sum(f)), recognize_outers)


def test_sums_of_groups_are_products() -> None:
    made = T.group_by("k").agg(m=so.sum(lambda r: r.s[:, None] * r.x))
    before = merged(made)
    after, _ = rewrite(before, PHASES)
    (groups,) = find((after,), GroupAggregate)
    assert [f.kind for f in groups.folds] == ["sum_outer"]
    assert_same_answer(before, after)


def test_nulls_are_skipped_as_before() -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(4.0)), 2)
    table = so.from_arrow(pa.table({"x": vectors, "y": pa.array([None, 2.0])}))
    before = merged(table.sum(lambda r: (r.y * r.x)[:, None] * r.x))
    after, trace = apply(before, recognize_outers)
    assert firings(trace, recognize_outers) == 1
    assert_same_answer(before, after)
    assert_same_answer(before, rewrite(before, PHASES)[0])


@repeated(3)
@given(st.randoms(use_true_random=False))
@settings(max_examples=7)
def test_same_answer(run: int, random: Random) -> None:
    rng = np.random.default_rng(random.randrange(10**6))
    k, d, dtype = random.choice([1, 2, 4]), random.choice([1, 3]), random.choice("df")
    s, x = (rng.standard_normal((25, n)).astype(dtype) for n in (k, d))
    c = rng.standard_normal((k, d)).astype(dtype)
    table = so.table({"s": s, "x": x, "y": x[:, 0], "g": np.arange(25) % 2})
    f = random.choice(SPELLINGS[:4] + SPELLINGS[6:10] + SPELLINGS[11:]).values[0]
    around: list[Any] = [
        f,
        lambda r: -r.y * f(r) / 3,
        lambda r: f(r) - c,
        lambda r: f(r) * r.y + f(r),
    ]
    g = random.choice(around)
    things = [table.sum(g), table.mean(g), table.group_by("g").agg(m=so.sum(g))]
    before = merged(*things)
    after, trace = apply(before, recognize_outers)
    assert firings(trace, recognize_outers) >= 1
    assert_same_answer(before, after)
    if dtype == "d":  # of other factors in another order, float32 has few digits
        assert_same_answer(before, rewrite(before, PHASES)[0])

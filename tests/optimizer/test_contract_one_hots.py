"""contract_one_hots: sums of one-hot vectors are folds by the key that they stand for."""

from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.segment_folds import Segment
from scalops.algebra.tree import find
from scalops.engine.witness.interpreter import Interpreter
from scalops.optimizer.rules.contract_groups import SEGMENT_KEYS
from scalops.optimizer.rules.contract_one_hots import contract_one_hots
from scalops.optimizer.rules.contract_products import contract_products
from scalops.optimizer.rules.merge_maps import merge_maps
from tests.conftest import Golden
from tests.optimizer.plans import (
    answer,
    apply,
    assert_same_answer,
    before_and_after,
    collected,
    firings,
    job_of,
    same_answer,
)
from tests.optimizer.random_programs import random_table
from tests.quick import repeated

T = so.table(
    {
        "y": np.array([2, 0, 2]),
        "z": np.array([[0, 1], [1, 1], [2, 0]]),
        "x": np.arange(6.0).reshape(3, 2),
        "g": np.ones((3, 2), np.float32),
        "s": np.arange(3.0),
    }
)
W = np.ones((2, 3))


def merged(*things: Any) -> op.Job:
    return apply(job_of(*things), merge_maps)[0]


def contracted(job: op.Job) -> tuple[op.Job, int]:
    after, trace = apply(job, contract_products, contract_one_hots)
    return after, firings(trace, contract_one_hots)


def test_fires(golden: Golden) -> None:
    def add(a: Any, b: Any) -> Any:
        return a + b

    cases = {
        "a histogram": T.sum(lambda r: so.one_hot(r.y, 3)),
        "shares": T.mean(lambda r: so.one_hot(r.y, 3)),
        "a scaled one": T.sum(lambda r: -r.s * so.one_hot(r.y, 3)),
        "scaled by the same for all": T.sum(lambda r: 2.0 * so.one_hot(r.y, 3)),
        "an outer product": T.sum(lambda r: np.outer(so.one_hot(r.y, 3), r.x)),
        "a scaled outer product": T.map(
            lambda r: r.s * np.outer(so.one_hot(r.y, 3), r.x) / 2
        ).reduce(add),
    }
    jobs = {title: merged(thing) for title, thing in cases.items()}
    golden(
        "rules/contract_one_hots.txt",
        before_and_after(*((t, j, contracted(j)[0]) for t, j in jobs.items())),
    )


@pytest.mark.parametrize(
    "f",
    [
        pytest.param(
            lambda r: np.outer(so.softmax(r.x @ W) - so.one_hot(r.y, 3), r.x), id="residuals"
        ),
        pytest.param(lambda r: so.one_hot(r.y, 3) - 0.5, id="part of a sum"),
        pytest.param(lambda r: np.outer(r.x, so.one_hot(r.y, 3)), id="on the right"),
        pytest.param(lambda r: so.one_hot(r.z, 3), id="several indices a record"),
        pytest.param(lambda r: r.x[0] + so.one_hot(1, 3), id="an index that is no column"),
        pytest.param(lambda r: so.one_hot(r.y, SEGMENT_KEYS + 1), id="many keys"),
        pytest.param(lambda r: r.s * so.one_hot(r.y, 3) @ W.T, id="a product with a matrix"),
    ],
)
def test_stays(f: Any) -> None:
    assert contracted(merged(T.sum(f)))[1] == 0


def test_stays_at_other_folds() -> None:
    assert contracted(merged(T.max(lambda r: so.one_hot(r.y, 3))))[1] == 0
    of_groups = T.group_by("y").agg(v=so.sum(lambda r: so.one_hot(r.y, 3)))
    assert contracted(merged(of_groups))[1] == 0


def test_an_index_outside_is_one_hots_error_at_its_line() -> None:
    value = T.sum(lambda r: r.s * so.one_hot(r.y, 2))
    with pytest.raises(so.DataError) as written:
        Interpreter().value(value.expression)
    with pytest.raises(so.DataError, match=r"one_hot found 2; expected 0 to 1 .*one_hots") as run:
        value.collect()
    assert str(run.value).startswith(str(written.value).partition(";")[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_meets_the_zeros(bad: float) -> None:
    x = np.array([[1.0, 2.0], [bad, 3.0], [4.0, 5.0]])
    table = so.table({"y": [0, 1, 0], "x": x, "s": x[:, 0].copy()})
    with np.errstate(all="ignore"):
        hot = np.eye(3)[[0, 1, 0]]
        outer = (hot[:, :, None] * x[:, None, :]).sum(axis=0)
        scaled = (hot * x[:, :1]).sum(axis=0)
    found = table.sum(lambda r: np.outer(so.one_hot(r.y, 3), r.x)).collect()
    np.testing.assert_array_equal(found, outer)
    np.testing.assert_array_equal(table.sum(lambda r: r.s * so.one_hot(r.y, 3)).collect(), scaled)


def test_over_nothing() -> None:
    none = so.from_arrow(pa.table({"y": pa.array([None, None], pa.int64())}))
    one = none.map(lambda r: so.one_hot(r.y, 2))
    np.testing.assert_array_equal(one.sum().collect(), [0.0, 0.0])
    np.testing.assert_array_equal(one.mean().collect(), [np.nan, np.nan])
    with pytest.raises(so.DataError, match="reduce over no records"):
        one.reduce(lambda a, b: a + b).collect()


@repeated(3)
@given(st.randoms(use_true_random=False))
@settings(max_examples=9)
def test_same_answer(run: int, random: Random) -> None:
    table = random_table(random)
    size = random.choice((3, 9))
    keys: list[Any] = [lambda r: r.k % 3, lambda r: r.i % 3, lambda r: abs(r.i)]
    scalars: list[Any] = [lambda r: r.f, lambda r: r.k, lambda r: r.b, lambda r: r.g, lambda r: 2]
    key, s, t = random.choice(keys), random.choice(scalars), random.choice(scalars)
    shapes: list[Any] = [
        lambda r: so.one_hot(key(r), size),
        lambda r: s(r) * so.one_hot(key(r), size) * t(r),
        lambda r: np.outer(so.one_hot(key(r), size), r.x),
        lambda r: -(s(r) * np.outer(so.one_hot(key(r), size), t(r) * r.x)),
    ]
    values = [table.sum(random.choice(shapes)), table.mean(random.choice(shapes))]
    before = merged(*values)
    after, fired = contracted(before)
    assert fired
    assert find((after,), Segment)
    assert_same_answer(before, after)
    assert same_answer(answer(before), collected(*values))

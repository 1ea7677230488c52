"""contract_products: sums of products over records are products of matrices."""

from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.expressions import within
from scalops.algebra.printing import text
from scalops.algebra.tree import find
from scalops.optimizer.rules.contract_products import contract_products
from scalops.optimizer.rules.merge_maps import merge_maps
from tests.conftest import Golden
from tests.optimizer.plans import (
    apply,
    assert_same_answer,
    assert_stays,
    before_and_after,
    firings,
    job_of,
)
from tests.optimizer.random_programs import random_table
from tests.quick import repeated

T = so.table(
    {
        "x": np.ones((3, 2)),
        "z": np.ones((3, 2)),
        "h": np.ones((3, 2), np.float32),
        "n": np.ones((3, 2), np.int64),
        "y": np.arange(3.0),
        "k": np.array([100, 100, 3], np.int8),
        "u": np.array([1, 2, 3], np.uint8),
        "b": np.array([True, False, True]),
    }
)


def merged(*things: Any) -> op.Job:
    return apply(job_of(*things), merge_maps)[0]


def test_fires(golden: Golden) -> None:
    def add(a: Any, b: Any) -> Any:
        return a + b

    cases = {
        "a scalar times a vector": T.sum(lambda r: r.y * r.x),
        "a logistic gradient": T.sum(lambda r: -r.y * r.x / (1 + np.exp(r.y * (r.x @ np.ones(2))))),
        "a quotient alone": T.sum(lambda r: r.x / r.y),
        "a mean": T.mean(lambda r: r.y * r.x),
        "a mean of outer products": T.mean(lambda r: np.outer(r.x, r.x)),
        "reduce": T.map(lambda r: r.x * r.y).reduce(add),
        "narrow factors meet in the sum's type": T.sum(lambda r: r.k * (r.k * r.x) / r.u),
        "an outer product": T.sum(lambda r: np.outer(r.x, r.x)),
        "a scaled outer product": T.sum(lambda r: -(r.y * np.outer(r.x, r.z))),
        "some folds of several": T.sum(lambda r: {"a": r.y * r.x, "b": r.x, "c": r.y}).a,
    }
    jobs = {title: merged(thing) for title, thing in cases.items()}
    golden(
        "rules/contract_products.txt",
        before_and_after(*((t, j, apply(j, contract_products)[0]) for t, j in jobs.items())),
    )


def test_one_product_however_it_is_written() -> None:
    """Signs, numbers, order and divisions are those of the normal form."""
    ways: list[Any] = [
        lambda r: -3.0 * r.y * r.x / (2 * (1 + r.f)),
        lambda r: -(r.x * (1.5 * r.y) / (1 + r.f)),
        lambda r: (r.y / (1 + r.f)) * (-r.x) * 1.5,
        lambda r: -1.5 * (r.y * (np.reciprocal(1 + r.f) * r.x)),
        lambda r: r.x / ((1 + r.f) / -r.y) * 1.5,
    ]
    table = T.with_columns(f=lambda r: r.y * 2.0)
    folds = [find((apply(merged(table.sum(f)), contract_products)[0],), op.Aggregate) for f in ways]
    assert all(f == folds[0] for f in folds)
    (argument, _) = folds[0][0].folds[0].arguments
    assert text(argument) == "-1.5 * y / (1 + y * 2)"


def test_a_product_of_many_factors_stays_whole() -> None:
    """Each squares the one before: written out it would be 2⁴⁰ factors."""

    def f(r: Any) -> Any:
        s = r.y
        for _ in range(40):
            s = s * s
        return s * r.x

    after, _ = apply(merged(T.sum(f)), contract_products)
    (aggregate,) = find((after,), op.Aggregate)
    assert aggregate.folds[0].kind == "sum_scaled"
    assert len(within(aggregate.folds[0].arguments)) < 50


@pytest.mark.parametrize(
    "f",
    [
        pytest.param(lambda r: r.u * r.n, id="integers"),
        pytest.param(lambda r: r.y * r.k, id="scalars"),
        pytest.param(lambda r: r.x, id="a plain sum"),
        pytest.param(lambda r: -r.x, id="a sign is no factor"),
        pytest.param(lambda r: 2.0 * r.x, id="the same factor for all records"),
        pytest.param(lambda r: r.y * r.h, id="float32 vector scaled by float64"),
        pytest.param(lambda r: r.y * r.n, id="integer vector scaled by float64"),
        pytest.param(lambda r: r.x * r.z, id="elementwise product"),
        pytest.param(lambda r: r.y / r.x, id="a vector as divisor"),
        pytest.param(lambda r: r.y * np.ones(2), id="a vector that is no column"),
        pytest.param(lambda r: r.y * r.x[:1] * np.ones(2), id="a vector that is broadcast"),
        pytest.param(lambda r: r.y * r.x + r.x, id="a sum of products"),
        pytest.param(lambda r: np.outer(r.x, np.ones(2)), id="outer with a constant"),
        pytest.param(lambda r: np.outer(r.y, r.x), id="outer of a scalar"),
        pytest.param(lambda r: np.outer(r.x, r.h), id="outer of two types"),
    ],
)
def test_stays(f: Any) -> None:
    assert_stays(merged(T.sum(f)), contract_products)


@pytest.mark.parametrize("kind", ["min", "max"])
def test_stays_at_other_folds(kind: str) -> None:
    assert_stays(merged(getattr(T, kind)(lambda r: r.y * r.x)), contract_products)


def test_stays_in_a_reduce_of_the_users_own() -> None:
    own = T.map(lambda r: r.y * r.x).reduce(lambda a, b: np.hypot(a, b))
    assert_stays(merged(own), contract_products)


@pytest.mark.parametrize(
    ("f", "total"),
    [
        pytest.param(lambda r: r.k * (r.k * r.x), 20009.0, id="int8 factors do not overflow"),
        pytest.param(lambda r: -(r.u * r.x), -6.0, id="an unsigned factor may be negated"),
        pytest.param(lambda r: -(r.b * r.x), -2.0, id="a bool factor may be negated"),
        pytest.param(lambda r: r.b * (r.b * r.x), 2.0, id="bool factors are numbers"),
        pytest.param(lambda r: (r.k * r.k) * r.x, 41.0, id="a product by itself keeps its type"),
    ],
)
def test_factors_keep_their_meaning(f: Any, total: float) -> None:
    before = merged(T.sum(f))
    after, trace = apply(before, contract_products)
    assert firings(trace, contract_products) == 1
    np.testing.assert_array_equal(_value(before), [total, total])
    np.testing.assert_array_equal(_value(after), [total, total])


def test_float32_factors_do_not_cost_a_float64_sum_its_digits() -> None:
    third = so.table({"x": np.ones((1, 2)), "s": np.array([3.0], np.float32)})
    after, trace = apply(merged(third.sum(lambda r: r.x / r.s)), contract_products)
    assert firings(trace, contract_products) == 1
    np.testing.assert_allclose(_value(after), 1 / 3, rtol=1e-15)


def _value(job: op.Job) -> Any:
    from scalops.engine.witness.interpreter import Interpreter

    return Interpreter().value(job.outputs[0])  # type: ignore[arg-type]


def test_nulls_are_skipped_as_before() -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(4.0)), 2)
    table = so.from_arrow(pa.table({"x": vectors, "y": pa.array([None, 2.0])}))
    before = merged(table.sum(lambda r: r.y * r.x))
    after, _ = apply(before, contract_products)
    assert_same_answer(before, after)


@repeated(3)
@given(st.randoms(use_true_random=False))
@settings(max_examples=14)
def test_same_answer(run: int, random: Random) -> None:
    table = random_table(random, special=False)
    scalars: list[Any] = [
        lambda r: r.f,
        lambda r: r.k,
        lambda r: r.b,
        lambda r: r.g,
        lambda r: r.i * r.k,
        lambda r: np.exp(-np.abs(r.f)),
        lambda r: 2,
        lambda r: np.where(r.b, 1, -1),
    ]
    a, b, c = (random.choice(scalars) for _ in range(3))
    shapes: list[Any] = [
        lambda r: a(r) * r.x * b(r),
        lambda r: -(a(r) * (b(r) * (c(r) * r.x))),
        lambda r: c(r) * (r.x / (1.5 + np.abs(b(r) * 1.0))),
        lambda r: a(r) * np.outer(r.x, b(r) * r.x),
        lambda r: np.outer(r.x, r.x + 1) * c(r),
    ]
    results = [table.sum(f) for f in shapes]
    results += [table.map(shapes[0]).reduce(lambda p, q: p + q)] if random.randrange(2) else []
    before = merged(*results)
    after, trace = apply(before, contract_products)
    assert firings(trace, contract_products) >= 1
    assert find((after,), op.Aggregate)
    assert_same_answer(before, after)

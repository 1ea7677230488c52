"""merge_filters: two filters are one."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.optimizer.rules.merge_filters import merge_filters
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
    {"x": np.ones((3, 2)), "m": np.ones((3, 2, 2)), "y": np.arange(3.0), "i": np.arange(3)}
)


def test_fires(golden: Golden) -> None:
    opaque = T.filter(lambda r: bool(r.y > 1))
    cases = {
        "two": T.filter(lambda r: r.y > 0).filter(lambda r: r.i < 2),
        "three": T.filter(lambda r: r.y > 0).filter(lambda r: r.i < 2).filter(lambda r: r.i >= 1),
        "an opaque first": opaque.filter(lambda r: r.i < 2),
    }
    jobs = {title: job_of(thing) for title, thing in cases.items()}
    golden(
        "rules/merge_filters.txt",
        before_and_after(*((t, j, apply(j, merge_filters)[0]) for t, j in jobs.items())),
    )


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(lambda r: bool(r.y > 1), id="opaque"),
        pytest.param(lambda r: r.x[r.i] > 0, id="index that may be out of range"),
        pytest.param(lambda r: np.linalg.inv(r.m)[0, 0] > 0, id="inverse"),
        pytest.param(lambda r: 2**r.i > 1, id="integer power"),
    ],
)
def test_stays_where_the_second_may_raise(second: object) -> None:
    first = T.filter(lambda r: r.i < 2)
    assert_stays(job_of(first.filter(second)), merge_filters)  # type: ignore[arg-type]


def test_stays_above_a_limit() -> None:
    assert_stays(
        job_of(T.filter(lambda r: r.y > 0).limit(1).filter(lambda r: r.i < 2)), merge_filters
    )


def test_stays_at_a_single_filter() -> None:
    assert_stays(job_of(T.filter(lambda r: r.y > 0)), merge_filters)


@repeated(3)
@given(st.randoms(use_true_random=False))
@settings(max_examples=10)
def test_same_answer(run: int, random: Random) -> None:
    table = random_table(random)
    predicates = (
        lambda r: r.b,
        lambda r: r.f > 0,
        lambda r: r.i != 1,
        lambda r: r.x @ np.ones(3) > 0,
        lambda r: so.where(r.b, r.f, r.g) < 1,
        so.udf(lambda r: r.i is not None and r.i > 0, returns=so.bool_),
    )
    for _ in range(random.choice((2, 3, 4))):
        table = table.filter(random.choice(predicates))
    before = job_of(table, table.count())
    after, _ = apply(before, merge_filters)
    assert_same_answer(before, after)


def test_records_dropped_first_never_reach_a_function_that_raises() -> None:
    kept = T.filter(lambda r: r.i < 2).filter(lambda r: r.x[r.i] > 0)
    before = job_of(kept.count())
    after, trace = apply(before, merge_filters)
    assert firings(trace, merge_filters) == 0
    assert_same_answer(before, after)

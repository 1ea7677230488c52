"""push_filter_down: filter first, compute afterwards."""

from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.optimizer.rules.push_filter_down import push_filter_down
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

T = so.table({"x": np.ones((3, 2)), "y": np.arange(3.0), "i": np.arange(3)})


def test_fires(golden: Golden) -> None:
    slow = T.map(so.udf(lambda r: {"a": r.y, "b": r.i}))
    cases = {
        "below a map": T.map(lambda r: {"a": r.y + 1, "x": r.x}).filter(lambda r: r.a > 1),
        "below renamed columns": T.rename({"y": "z"}).filter(lambda r: r.z > 1),
        "below two maps": (
            T.map(lambda r: {"a": r.y + 1}).map(lambda r: r.a * 2).filter(lambda v: v > 1)
        ),
        "below a map of an opaque function's result that it does not read": (
            slow.map(lambda r: {"a": r.a, "c": 1}).filter(lambda r: r.c > 0)
        ),
    }
    jobs = {title: job_of(thing) for title, thing in cases.items()}
    golden(
        "rules/push_filter_down.txt",
        before_and_after(*((t, j, apply(j, push_filter_down)[0]) for t, j in jobs.items())),
    )


def test_stays_above_a_limit() -> None:
    assert_stays(job_of(T.limit(2).filter(lambda r: r.y > 0)), push_filter_down)


def test_stays_above_a_repartition() -> None:
    assert_stays(job_of(T.repartition(2).filter(lambda r: r.y > 0)), push_filter_down)


def test_stays_on_a_scan() -> None:
    assert_stays(job_of(T.filter(lambda r: r.y > 0)), push_filter_down)


def test_stays_where_the_predicate_is_opaque() -> None:
    mapped = T.map(lambda r: {"a": r.y + 1})
    assert_stays(job_of(mapped.filter(lambda r: bool(r.a > 1))), push_filter_down)


def test_stays_where_the_predicate_reads_an_opaque_function() -> None:
    slow = T.map(so.udf(lambda r: {"a": r.y, "b": r.i}))
    assert_stays(job_of(slow.filter(lambda r: r.a > 1)), push_filter_down)


@repeated(3)
@given(st.randoms(use_true_random=False))
@settings(max_examples=10)
def test_same_answer(run: int, random: Random) -> None:
    table = random_table(random)
    center = table.mean("f")
    mapped = table.map(lambda r: {"f": r.i - 1, "b": r.f > r.g, "c": r.k, "x": r.f * r.x})
    predicate = random.choice(
        (
            lambda r: r.f > 0,
            lambda r: r.b | (r.f < center),
            lambda r: r.c + 100 > 0,
            lambda r: np.sum(r.x) > 0,
        )
    )
    kept = mapped.with_columns(d=1).filter(predicate)
    before = job_of(kept, mapped.limit(2).filter(predicate), kept.filter(lambda r: r.d + r.c > 0))
    after, trace = apply(before, push_filter_down)
    assert firings(trace, push_filter_down) >= 3
    assert_same_answer(before, after)

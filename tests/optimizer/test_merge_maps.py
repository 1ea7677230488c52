"""merge_maps: a map over a map is one map, a fold over a map reads the map's input."""

from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.expressions import Opaque
from scalops.algebra.tree import find
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

T = so.table({"x": np.ones((4, 3)), "y": np.arange(4.0), "k": np.array([100, 1, 2, 3], np.int8)})


def test_fires(golden: Golden) -> None:
    cases = {
        "Project over Project": T.map(lambda r: {"a": r.y + 1, "b": r.x}).map(lambda r: r.a * r.b),
        "three in a row": T.map(lambda r: r.y + 1).map(lambda v: v * v).map(lambda v: np.exp(v)),
        "Aggregate over Project": T.map(lambda r: r.y * r.x).sum(),
        "swapped columns": T.select(x="y", y="x").select(x="y", y="x"),
        "a fold of several columns": T.sum(lambda r: {"a": r.y, "b": r.y**2}).b,
        "a constant column keeps its width": T.with_columns(c=1).map(lambda r: r.c + r.k),
    }
    jobs = {title: job_of(thing) for title, thing in cases.items()}
    golden(
        "rules/merge_maps.txt",
        before_and_after(*((t, j, apply(j, merge_maps)[0]) for t, j in jobs.items())),
    )


def test_stays_at_a_single_map() -> None:
    assert_stays(job_of(T.map(lambda r: r.y), T.sum("y")), merge_maps)


def test_stays_where_a_filter_stands_between() -> None:
    assert_stays(job_of(T.map(lambda r: r.y).filter(lambda v: v > 0).map(np.exp)), merge_maps)


def test_stays_where_a_limit_stands_between() -> None:
    assert_stays(job_of(T.map(lambda r: r.y).limit(2).sum()), merge_maps)


def test_stays_where_a_cache_stands_between() -> None:
    inner = T.map(lambda r: r.y)
    cached = so.Table(op.Cache(inner.plan))
    assert_stays(job_of(cached.map(np.exp), cached.sum()), merge_maps)


def test_an_opaque_function_read_twice_is_one_call() -> None:
    slow = T.map(so.udf(lambda r: {"a": r.y, "b": r.y + 1}))
    after, trace = apply(job_of(slow.map(lambda r: r.a * r.a + r.b)), merge_maps)
    assert firings(trace, merge_maps) == 1
    assert len(find((after,), Opaque)) == 1


def test_a_subquery_keeps_columns_of_the_same_name() -> None:
    mean = T.mean("y")
    before = job_of(T.map(lambda r: {"y": r.y * 10}).map(lambda r: r.y - mean))
    after, trace = apply(before, merge_maps)
    assert firings(trace, merge_maps) == 1
    assert_same_answer(before, after)


@repeated(3)
@given(st.randoms(use_true_random=False))
@settings(max_examples=10)
def test_same_answer(run: int, random: Random) -> None:
    table = random_table(random)
    center = table.mean("f")
    mapped = table.map(
        lambda r: {"f": r.i + 1, "h": np.where(r.b, 1, -1), "x": r.f * r.x, "k": r.k, "g": r.g}
    )
    results = (
        mapped.map(lambda r: {"f": r.f * r.h + center, "k": r.k + r.h, "g": r.g * r.h, "x": r.x}),
        mapped.map(lambda r: r.h * r.x).sum(),
        mapped.mean("f"),
        mapped.count("f"),
        mapped.with_columns(c=3).map(lambda r: r.k * r.c).sum(),
        mapped.map(lambda r: {"a": r.f, "b": r.h}).map(lambda r: r.a - r.b).count(),
    )
    before = job_of(*results)
    after, trace = apply(before, merge_maps)
    assert firings(trace, merge_maps) >= 5
    assert_same_answer(before, after)

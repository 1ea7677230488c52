"""cache_invariants: tables that a loop reads and does not change are held in memory."""

from random import Random
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.tree import find
from scalops.optimizer.rules.cache_invariants import cache_invariants
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

T = so.table({"y": np.arange(3.0)})
OTHER = so.table({"z": np.arange(5.0)})


def loop(body: Any, condition: Any = None) -> Any:
    return so.loop(0.0, condition or range(3), name="repeat")(body)


def nested() -> Any:
    @so.loop(0.0, range(2))
    def outer(w: Any) -> Any:
        kept = T.filter(lambda r: r.y > w)

        @so.loop(w, range(2))
        def inner(v: Any) -> Any:
            return v + kept.sum(lambda r: r.y * v)

        return inner

    return outer


def test_fires(golden: Golden) -> None:
    kept = T.filter(lambda r: r.y > 1).map(lambda r: {"y": r.y, "e": np.exp(r.y)})
    cases = {
        "a table": loop(lambda w: w + T.sum(lambda r: r.y * w)),
        "a filtered and mapped table": loop(lambda w: w + kept.sum(lambda r: r.e * w)),
        "two tables": loop(lambda w: T.sum(lambda r: r.y * w) + OTHER.sum(lambda r: r.z * w)),
        "an invariant fold of the same table reads the cache": loop(
            lambda w: (w + T.sum(lambda r: r.y * w)) / T.count()
        ),
        "a table that only the condition reads": loop(
            lambda w: w + 1, lambda w: T.filter(lambda r: r.y > w).count() > 0
        ),
        "in each of two nested loops": nested(),
    }
    jobs = {title: job_of(thing) for title, thing in cases.items()}
    golden(
        "rules/cache_invariants.txt",
        before_and_after(*((t, j, apply(j, cache_invariants)[0]) for t, j in jobs.items())),
    )


def test_stays_where_the_table_is_cached_already() -> None:
    after, _ = apply(job_of(loop(lambda w: w + T.sum(lambda r: r.y * w))), cache_invariants)
    assert_stays(after, cache_invariants)


def test_stays_where_only_invariant_folds_read_the_table() -> None:
    assert_stays(job_of(loop(lambda w: w + T.sum("y") / T.count())), cache_invariants)


def test_stays_where_the_loop_reads_no_table() -> None:
    assert_stays(job_of(loop(lambda w: w + 1)), cache_invariants)


def test_stays_outside_loops() -> None:
    assert_stays(job_of(T, T.map(lambda r: r.y), T.sum("y")), cache_invariants)


def test_a_loop_inside_that_reads_the_cache_of_the_one_around_it_adds_none() -> None:
    @so.loop(0.0, range(2))
    def outer(w: Any) -> Any:
        @so.loop(w, range(2))
        def inner(v: Any) -> Any:
            return v + T.sum(lambda r: r.y * v)

        return inner + T.sum(lambda r: r.y - w)

    after, _ = apply(job_of(outer), cache_invariants)
    assert len(find((after,), op.Cache)) == 1


@repeated(3)
@given(st.randoms(use_true_random=False))
@settings(max_examples=10)
def test_same_answer(run: int, random: Random) -> None:
    table, other = random_table(random), random_table(random)
    kept = other.filter(lambda r: r.b).map(lambda r: {"f": r.i + r.g, "x": r.x})
    sums: list[Any] = [
        lambda w: table.sum(lambda r: r.f * w),
        lambda w: kept.filter(lambda r: r.f > w + 0.03).sum("f"),
        lambda w: np.sum(kept.sum(lambda r: r.x * w)) / (1 + kept.count()),
        lambda w: other.limit(2).sum(lambda r: r.i - w),
        lambda w: table.mean(lambda r: (r.f - table.mean("f")) * w),
    ]
    first, second = random.choice(sums), random.choice(sums)

    @so.loop(0.5, lambda w: (w < 9) | (table.sum(lambda r: r.k * w) > 0), max_iterations=3)
    def model(w: Any) -> Any:
        return np.tanh(first(w)) + np.tanh(second(w))

    before = job_of(model)
    after, trace = apply(before, cache_invariants)
    assert firings(trace, cache_invariants) >= 1
    assert_same_answer(before, after)

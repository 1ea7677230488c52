"""merge_aggregates: all folds of one table are one pass."""

from random import Random
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.tree import find
from scalops.optimizer.rules.merge_aggregates import merge_aggregates
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

T = so.table({"x": np.ones((3, 2)), "y": np.arange(3.0)})
OTHER = so.table({"y": np.arange(5.0)})


def gradient_descent() -> so.Loop:
    @so.loop({"w": 0.0, "loss": 0.0}, range(3))
    def model(env: Any) -> Any:
        gradient = T.sum(lambda r: (env["w"] - r.y) * r.y)
        loss = T.sum(lambda r: (env["w"] - r.y) ** 2)
        return {"w": env["w"] - 0.1 * gradient / T.count(), "loss": loss / T.count()}

    return model  # type: ignore[no-any-return]


def test_fires(golden: Golden) -> None:
    cases = {
        "values of a job": (T.sum("y") / T.count(), T.max("y")),
        "in a loop, what varies apart from what does not": (gradient_descent(),),
        "the same fold twice": (T.sum("y") + 1, T.sum("y") + 2),
        "a reduce of structured records": (
            T.map(lambda r: {"a": r.y, "b": r.y * r.y}).reduce(
                lambda p, q: {"a": p.a + q.a, "b": np.maximum(p.b, q.b)}
            ).b,
            T.mean("y"),
        ),
    }  # fmt: skip
    jobs = {title: apply(job_of(*things), merge_maps)[0] for title, things in cases.items()}
    golden(
        "rules/merge_aggregates.txt",
        before_and_after(*((t, j, apply(j, merge_aggregates)[0]) for t, j in jobs.items())),
    )


def test_mean_then_variance_stays_two_passes() -> None:
    mean = T.mean("y")
    before, _ = apply(job_of(T.sum(lambda r: (r.y - mean) ** 2), mean), merge_maps)
    assert_stays(before, merge_aggregates)


def test_what_follows_from_one_result_joins_what_does_not() -> None:
    mean = T.mean("y")
    before, _ = apply(job_of(T.sum(lambda r: (r.y - mean) ** 2), T.count()), merge_maps)
    after, trace = apply(before, merge_aggregates)
    assert firings(trace, merge_aggregates) == 1
    assert len(find((after,), op.Aggregate)) == 2
    assert_same_answer(before, after)


def test_stays_at_different_tables() -> None:
    assert_stays(job_of(T.sum("y"), OTHER.sum("y")), merge_aggregates)


def test_stays_at_a_filtered_table_and_the_whole_one() -> None:
    kept = T.filter(lambda r: r.y > 0)
    assert_stays(job_of(kept.sum("y"), T.sum("y"), kept.limit(1).sum("y")), merge_aggregates)


def test_stays_at_different_filters() -> None:
    before = job_of(T.filter(lambda r: r.y > 0).sum("y"), T.filter(lambda r: r.y > 1).sum("y"))
    assert_stays(before, merge_aggregates)


def test_stays_in_an_inner_and_its_outer_loop() -> None:
    @so.loop(0.0, range(2))
    def outer(w: Any) -> Any:
        @so.loop(w, range(2))
        def inner(v: Any) -> Any:
            return v + T.sum(lambda r: r.y * v)

        return inner + T.sum(lambda r: r.y * w)

    before, _ = apply(job_of(outer), merge_maps)
    assert_stays(before, merge_aggregates)


def test_stays_where_a_fold_waits_for_a_loop_over_the_same_table() -> None:
    @so.loop(0.0, range(2))
    def model(w: Any) -> Any:
        return w + T.mean("y")

    before, _ = apply(job_of(T.sum(lambda r: r.y - model)), merge_maps)
    assert_stays(before, merge_aggregates)


def test_three_passes_become_one() -> None:
    after, _ = apply(job_of(T.sum("y"), T.mean("y"), T.count(), T.min("y")), merge_aggregates)
    (made,) = find((after,), op.Aggregate)
    assert [f.kind for f in made.folds] == ["sum", "mean", "count", "minimum"]


@repeated(3)
@given(st.randoms(use_true_random=False))
@settings(max_examples=10)
def test_same_answer(run: int, random: Random) -> None:
    table = random_table(random)
    kept = table.filter(lambda r: r.k > 0)
    mean = table.mean("f")
    folds = [
        table.sum("f"),
        table.sum("f") * 2,
        table.sum(lambda r: r.f * r.x),
        table.count(),
        table.count("i"),
        mean,
        table.sum(lambda r: (r.f - mean) ** 2),
        table.any("b"),
        table.all("b"),
        table.is_empty(),
        kept.sum("i"),
        kept.count(),
        table.map(lambda r: {"a": r.g, "b": r.g}).reduce(
            lambda p, q: {"a": p.a + q.a, "b": np.maximum(p.b, q.b)}
        ).b if table.plan.source.rows else kept.mean("g"),  # type: ignore[attr-defined]
    ]  # fmt: skip
    chosen = random.sample(folds, 5)

    @so.loop(1.0, range(2))
    def model(w: Any) -> Any:
        varying = [table.sum(lambda r: r.f * w), table.count() * w, kept.sum(lambda r: r.g - w)]
        return np.tanh(varying[0]) + np.tanh(varying[1]) - np.tanh(varying[2])

    before, _ = apply(job_of(*chosen, model), merge_maps)
    after, trace = apply(before, merge_aggregates)
    assert firings(trace, merge_aggregates) >= 1
    assert_same_answer(before, after)

"""fuse_map_reduce_update: a loop body that is one pass becomes one operator."""

from random import Random
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.tree import find
from scalops.optimizer.rules.cache_invariants import cache_invariants
from scalops.optimizer.rules.fuse_map_reduce_update import fuse_map_reduce_update
from scalops.optimizer.rules.hoist_invariants import hoist_invariants
from scalops.optimizer.rules.merge_aggregates import merge_aggregates
from scalops.optimizer.rules.merge_maps import merge_maps
from scalops.optimizer.rules.share_common_expressions import share_common_expressions
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


def loop(body: Any, condition: Any = None) -> Any:
    return so.loop(0.0, condition or range(3), name="repeat")(body)


def prepared(thing: Any) -> op.Job:
    """The job as it stands when its last phase begins."""
    job, _ = apply(job_of(thing), cache_invariants, merge_maps)
    job, _ = apply(job, merge_aggregates)
    job, _ = apply(job, hoist_invariants)
    return apply(job, share_common_expressions)[0]


def test_fires(golden: Golden) -> None:
    def renamed(w: Any) -> Any:
        swapped = T.map(lambda r: {"y": r.y + w, "x": r.x}).limit(3)
        return swapped.map(lambda r: {"y": r.x[0], "z": r.y}).limit(2).sum(lambda r: r.y * r.z)

    def twice(w: Any) -> Any:
        total = T.sum(lambda r: np.exp(r.y * w))
        return total / (w + T.sum(lambda r: r.x[0] * np.exp(r.y * w)))

    def unrolled(w: Any) -> Any:
        def steps(r: Any) -> Any:
            v = r.x
            for _ in range(3):
                v = np.tanh(v * np.exp(r.x * w))
            return v

        return T.sum(lambda r: steps(r) @ steps(r))

    cases = {
        "a fold and an update": prepared(loop(lambda w: w - T.sum(lambda r: r.y - w) / T.count())),
        "named columns": prepared(loop(twice)),
        "named columns that read others": prepared(loop(unrolled)),
        "a map that replaces columns stays below": job_of(
            loop(lambda w: T.map(lambda r: {"y": r.x[0] * w}).sum("y"))
        ),
        "over a limited table": prepared(loop(renamed)),
        "with a condition": prepared(loop(lambda w: T.sum(lambda r: r.y - w), lambda w: w < 5)),
    }
    golden(
        "rules/fuse_map_reduce_update.txt",
        before_and_after(*((t, j, apply(j, fuse_map_reduce_update)[0]) for t, j in cases.items())),
    )


def test_stays_where_a_fold_reads_another_result() -> None:
    def body(w: Any) -> Any:
        mean = T.mean(lambda r: r.y * w)
        return T.sum(lambda r: (r.y - mean) ** 2)

    assert_stays(prepared(loop(body)), fuse_map_reduce_update)


def test_stays_where_two_tables_are_folded() -> None:
    body = lambda w: T.sum(lambda r: r.y * w) + OTHER.sum(lambda r: r.y * w)  # noqa: E731
    assert_stays(prepared(loop(body)), fuse_map_reduce_update)


def test_stays_where_nothing_is_folded() -> None:
    assert_stays(prepared(loop(lambda w: w + 1)), fuse_map_reduce_update)
    assert_stays(prepared(loop(lambda w: w + T.count())), fuse_map_reduce_update)


def test_stays_where_the_condition_folds() -> None:
    condition = lambda w: T.filter(lambda r: r.y > w).count() > 0  # noqa: E731
    assert_stays(
        prepared(loop(lambda w: T.sum(lambda r: r.y + w), condition)), fuse_map_reduce_update
    )


def test_stays_outside_loops() -> None:
    assert_stays(prepared(T.sum("y")), fuse_map_reduce_update)


def test_an_inner_loop_is_fused_and_the_one_around_it_stays() -> None:
    @so.loop(1.0, range(2))
    def outer(w: Any) -> Any:
        @so.loop(w, range(2))
        def inner(v: Any) -> Any:
            return v + T.sum(lambda r: r.y - v)

        return inner + T.sum(lambda r: r.y * w)

    before = prepared(outer)
    after, trace = apply(before, fuse_map_reduce_update)
    assert firings(trace, fuse_map_reduce_update) == 1
    (first, second) = find((after,), op.Loop)
    assert (type(first.body), type(second.body)) == (op.MapReduceUpdate, op.Update)
    assert_same_answer(before, after)


@repeated(3)
@given(st.randoms(use_true_random=False))
@settings(max_examples=10)
def test_same_answer(run: int, random: Random) -> None:
    table = random_table(random)
    tables = [table, table.filter(lambda r: r.k > 0), table.map(lambda r: {"f": r.g, "x": r.x})]
    read = random.choice(tables)
    sums: list[Any] = [
        lambda w: read.sum(lambda r: r.f * w),
        lambda w: read.mean(lambda r: np.tanh(r.x @ np.ones(3) + w)),
        lambda w: np.sum(read.sum(lambda r: np.tanh(r.x @ np.ones(3) + w) * r.x)),
        lambda w: w + read.count(),
    ]
    first = random.choice(sums[:3])
    second = random.choice(sums)

    @so.loop({"w": 0.5, "n": 0}, lambda env: env["n"] < 2)
    def model(env: Any) -> Any:
        w = np.tanh(first(env["w"])) + np.tanh(second(env["w"]))
        return {"w": w, "n": env["n"] + 1}

    before = prepared(model)
    after, trace = apply(before, fuse_map_reduce_update)
    assert firings(trace, fuse_map_reduce_update) == 1
    assert_same_answer(before, after)

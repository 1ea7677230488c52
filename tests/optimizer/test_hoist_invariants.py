"""hoist_invariants: what a loop does not change is computed before it."""

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.tree import find
from scalops.optimizer.invariance import Invariance
from scalops.optimizer.rules.cache_invariants import cache_invariants
from scalops.optimizer.rules.hoist_invariants import hoist_invariants
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


def loop(body: Callable[[Any], Any], start: Any = 0.0, table: so.Table = T) -> op.Job:
    """Three iterations of `w = body(w)`, ready for the rule."""
    repeated = so.loop(start, range(3), name="repeat")(body)
    return apply(job_of(repeated), cache_invariants, merge_maps)[0]


def nested(table: so.Table = T, y: str = "y") -> so.Loop:
    """An inner loop that reads a mean, and a step that its outer loop sets."""

    @so.loop({"step": 0.1, "w": 0.0}, range(2))
    def outer(env: Any) -> Any:
        step = env["step"]

        @so.loop(env["w"], range(3))
        def inner(w: Any) -> Any:
            return w - np.sqrt(step) * (w - table.mean(y)) + table.sum(lambda r: w * r[y])

        return {"step": step / 2, "w": inner}

    return outer  # type: ignore[no-any-return]


def test_fires(golden: Golden) -> None:
    cases = {
        "values": loop(lambda w: (w + T.mean("y")) / T.count() + np.sqrt(so.lit(2.0))),
        "a value inside a record's expression": loop(
            lambda w: T.sum(lambda r: r.y * w * np.exp(so.lit(1.0)))
        ),
        "a column": loop(lambda w: T.sum(lambda r: np.log1p(r.y) * w)),
        "several columns, which leave one behind": loop(
            lambda w: T.sum(lambda r: (np.exp(r.y) - w) * (r.x @ np.ones(2) + w))
        ),
        "a column of a map": loop(lambda w: T.map(lambda r: np.log1p(r.y) + w).limit(1).sum()),
        "to the outermost loop that it does not read": apply(
            job_of(nested()), cache_invariants, merge_maps
        )[0],
    }
    golden(
        "rules/hoist_invariants.txt",
        before_and_after(*((t, j, apply(j, hoist_invariants)[0]) for t, j in cases.items())),
    )


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(lambda w: T.sum(lambda r: -r.y * w + r.y), id="cheap"),
        pytest.param(lambda w: T.sum(lambda r: np.log1p(r.y + w)), id="reads the state"),
        pytest.param(lambda w: w + 1.0, id="a constant"),
        pytest.param(lambda w: T.sum(lambda r: r.y + w), id="a column itself"),
        pytest.param(lambda w: T.filter(lambda r: r.y > w).sum(lambda r: np.log1p(r.y)),
                     id="above a filter that varies"),
        pytest.param(
            lambda w: T.sum(lambda r: np.where(r.y, 1, -1) * w + r.y),
            id="weakly typed",
        ),
    ],
)  # fmt: skip
def test_stays(body: Any) -> None:
    assert_stays(loop(body), hoist_invariants)


def test_stays_outside_a_loop() -> None:
    before, _ = apply(job_of(T.sum(lambda r: np.log1p(r.y)) / T.count()), merge_maps)
    assert_stays(before, hoist_invariants)


def test_stays_where_all_is_bound_already() -> None:
    after, _ = apply(loop(lambda w: w + T.mean("y")), hoist_invariants)
    assert_stays(after, hoist_invariants)


def test_an_invariant_table_does_not_come_to_read_a_binding() -> None:
    def body(w: Any) -> Any:
        above = T.filter(lambda r: r.y > T.mean("y"))
        return above.sum(lambda r: r.y * w) + T.mean("y")

    after, _ = apply(loop(body), hoist_invariants)
    (made,) = find((after,), op.Loop)
    analysis = Invariance(made)
    (cache,) = find(analysis.parts, op.Cache)
    assert not analysis.varies(cache)


def test_a_subquery_keeps_the_same_expression_over_its_own_records() -> None:
    def body(w: Any) -> Any:
        mean = T.mean(lambda r: np.exp(r.y) * w)
        return T.sum(lambda r: np.exp(r.y) - mean)

    before = loop(body, 1.0)
    after, trace = apply(before, hoist_invariants)
    assert firings(trace, hoist_invariants) >= 1
    assert_same_answer(before, after)


@repeated(3)
@given(st.randoms(use_true_random=False))
@settings(max_examples=10)
def test_same_answer(run: int, random: Random) -> None:
    table = random_table(random)
    sums: list[Any] = [
        lambda w: table.sum(lambda r: np.log1p(np.abs(r.f)) * w),
        lambda w: table.filter(lambda r: r.f > table.mean("f")).sum(lambda r: r.f * w),
        lambda w: table.mean("i") / table.count(),
        lambda w: table.sum(lambda r: np.where(r.b, 1, -1) * r.g * w),
        lambda w: np.sum(table.sum(lambda r: np.exp(r.x) / np.sum(np.exp(r.x)) * w)),
    ]
    first, second = random.choice(sums), random.choice(sums)

    above = random.choice((-9.0, 9.0))  # no iteration, or three

    @so.loop(1.0, lambda w: w < above, max_iterations=3, warn=False)
    def model(w: Any) -> Any:
        return np.tanh(first(w)) + np.tanh(second(w))

    before, _ = apply(job_of(model, nested(table, "f")), cache_invariants, merge_maps)
    after, trace = apply(before, hoist_invariants)
    assert firings(trace, hoist_invariants) >= 1
    assert_same_answer(before, after)

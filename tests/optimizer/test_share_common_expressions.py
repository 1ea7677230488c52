"""share_common_expressions: what is needed twice is computed once and has a name."""

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.tree import find
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

T = so.table({"x": np.ones((3, 2)), "y": np.arange(3.0), "s1": np.arange(3.0)})
W = np.array([1.0, 2.0])


def test_fires(golden: Golden) -> None:
    def margin(r: Any) -> Any:
        return r.y * (r.x @ W)

    gradient = T.sum(lambda r: -r.y * r.x / (1 + np.exp(margin(r))))
    loss = T.sum(lambda r: np.log1p(np.exp(-margin(r))))
    cases = {
        "a margin in two folds": (gradient, loss),
        "two columns of a map": (T.map(lambda r: {"a": np.exp(r.y), "b": 1 + np.exp(r.y)}),),
        "the largest part, and one that is read outside it too": (
            T.map(
                lambda r: {
                    "a": np.exp(np.sin(r.y)),
                    "b": np.exp(np.sin(r.y)) + 1,
                    "c": np.sin(r.y),
                }
            ),
        ),
    }
    jobs = {t: apply(job_of(*c), merge_maps, merge_aggregates)[0] for t, c in cases.items()}
    golden(
        "rules/share_common_expressions.txt",
        before_and_after(*((t, j, apply(j, share_common_expressions)[0]) for t, j in jobs.items())),
    )


@pytest.mark.parametrize(
    "f",
    [
        pytest.param(lambda r: {"a": -r.y, "b": -r.y * 2}, id="cheap"),
        pytest.param(lambda r: {"a": np.exp(r.y), "b": np.exp(r.s1)}, id="read once"),
        pytest.param(lambda r: {"a": r.y, "b": r.y}, id="a column"),
        pytest.param(
            lambda r: {"a": r.y + np.exp(so.lit(2.0)), "b": r.y - np.exp(so.lit(2.0))},
            id="reads no column",
        ),
    ],
)
def test_stays(f: object) -> None:
    assert_stays(job_of(T.map(f)), share_common_expressions)  # type: ignore[arg-type]


def test_stays_at_a_filter() -> None:
    kept = T.filter(lambda r: (np.exp(r.y) > 1) & (np.exp(r.y) < 9))
    assert_stays(job_of(kept), share_common_expressions)


def test_what_an_opaque_function_gives_is_shared() -> None:
    slow = T.map(so.udf(lambda r: r.y * 2, returns=so.float64))
    twice = slow.map(lambda v: {"a": v + 1, "b": v - 1})
    before, _ = apply(job_of(twice), merge_maps)
    after, trace = apply(before, share_common_expressions)
    assert firings(trace, share_common_expressions) == 1
    assert len(find((after,), op.Project)) == 2
    assert_same_answer(before, after)


def test_a_subquery_keeps_the_same_expression_over_its_own_records() -> None:
    mean = T.mean(lambda r: np.exp(r.y))
    before, _ = apply(job_of(T.map(lambda r: (np.exp(r.y) - mean) * np.exp(r.y))), merge_maps)
    after, trace = apply(before, share_common_expressions)
    assert firings(trace, share_common_expressions) == 1
    assert_same_answer(before, after)


@repeated(3)
@given(st.randoms(use_true_random=False))
@settings(max_examples=10)
def test_same_answer(run: int, random: Random) -> None:
    table = random_table(random)
    w = np.array([random.random() for _ in range(3)])
    center = table.mean(lambda r: r.x @ w)
    results = (
        table.map(lambda r: {"a": np.tanh(r.f), "b": np.tanh(r.f) * r.g, "s1": np.exp(r.x)}),
        table.sum(lambda r: (r.x @ w - center) ** 2 * (r.x @ w)),
        table.sum(lambda r: np.where(r.x @ w > 0, 1, -1) * (r.x @ w) * r.g),
        table.map(lambda r: np.exp(r.x) / np.sum(np.exp(r.x))),
    )
    before, _ = apply(job_of(*results), merge_maps, merge_aggregates)
    after, trace = apply(before, share_common_expressions)
    assert firings(trace, share_common_expressions) >= 3
    assert_same_answer(before, after)

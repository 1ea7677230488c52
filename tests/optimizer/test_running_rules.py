"""Running aggregates in the optimizer: two rewrites, and what passes through them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.optimizer.phases import PHASES
from scalops.optimizer.rewriter import rewrite
from scalops.optimizer.rules.merge_aggregates import merge_aggregates
from scalops.optimizer.rules.merge_maps import merge_maps
from scalops.optimizer.rules.push_columns_into_scan import push_columns_into_scan
from scalops.optimizer.rules.push_filter_down import push_filter_down
from scalops.optimizer.rules.push_limit_down import push_limit_down
from scalops.optimizer.rules.turn_suffix_sums import turn_suffix_sums
from scalops.optimizer.rules.weigh_cumulative_sums import weigh_cumulative_sums
from tests.conftest import Golden
from tests.optimizer.plans import (
    apply,
    assert_same_answer,
    assert_stays,
    before_and_after,
    job_of,
    plan_text,
)
from tests.quick import repeated

T = so.table({"y": np.arange(1.0, 6.0), "i": np.arange(5, dtype=np.int32), "g": np.arange(5) % 2})


def weigh(job: Any) -> Any:
    return apply(job, merge_maps, merge_aggregates, weigh_cumulative_sums)


def weighs(thing: Any) -> bool:
    return any(f.rule == "weigh_cumulative_sums" for f in weigh(job_of(thing))[1])


def test_suffix_sums_turn(golden: Golden) -> None:
    cases = {
        "an integer's": T.select(s=so.cumsum("i", reverse=True)),
        "beside the prefix sum": T.select(p=so.cumsum("g"), s=so.cumsum("g", reverse=True)),
    }
    jobs = {title: job_of(thing) for title, thing in cases.items()}
    golden(
        "rules/turn_suffix_sums.txt",
        before_and_after(*((t, j, apply(j, turn_suffix_sums)[0]) for t, j in jobs.items())),
    )


@pytest.mark.parametrize(
    "column",
    [
        so.cumsum("y", reverse=True),
        so.cumsum("i"),
        so.cumsum("i", over="g", reverse=True),
        so.cummax("i", reverse=True),
        so.cumprod("i", reverse=True),
    ],
    ids=["floats", "a prefix", "groups", "extremes", "products"],
)
def test_suffix_sums_stay(column: Any) -> None:
    assert_stays(job_of(T.select(s=column)), turn_suffix_sums)


def test_suffix_sums_stay_over_a_users_function() -> None:
    table = T.map(so.udf(lambda r: int(r.i), returns=so.int64)).select(
        s=so.cumsum("value", reverse=True)
    )
    assert_stays(job_of(table), turn_suffix_sums)


def test_cumulative_sums_are_weighed(golden: Golden) -> None:
    running = T.with_columns(c=so.cumsum("y"))
    cases = {
        "a sum of a cumulative sum": running.sum("c"),
        "from the end": T.with_columns(c=so.cumsum("y", reverse=True)).sum("c"),
    }
    jobs = {t: apply(job_of(v), merge_maps, merge_aggregates)[0] for t, v in cases.items()}
    golden(
        "rules/weigh_cumulative_sums.txt",
        before_and_after(*((t, j, weigh(j)[0]) for t, j in jobs.items())),
    )


def test_cumulative_sums_are_weighed_beside_other_folds() -> None:
    running = T.with_columns(c=so.cumsum(lambda r: r.y * 2))
    job = weigh(job_of(running.sum("c"), running.max("y")))[0]
    assert "Cumulate" not in plan_text(job)


@pytest.mark.parametrize(
    "value",
    [
        T.with_columns(c=so.cumsum("y")).mean("c"),
        T.with_columns(c=so.cumsum("y")).sum(lambda r: r.c * 2),
        T.with_columns(c=so.cumsum("y", over="g")).sum("c"),
        T.with_columns(c=so.cummax("y")).sum("c"),
        so.from_arrow(pa.table({"y": [1.0, None, 2.0]})).with_columns(c=so.cumsum("y")).sum("c"),
        T.map(so.udf(lambda r: float(r.y), returns=so.float64))
        .with_columns(c=so.cumsum("value"))
        .sum("c"),
    ],
    ids=["a mean", "in an expression", "groups", "extremes", "nulls", "a user's function"],
)
def test_other_folds_of_running_aggregates_stay(value: Any) -> None:
    assert not weighs(value)


def test_a_cumulative_sum_with_another_reader_stays() -> None:
    running = T.with_columns(c=so.cumsum("y"))
    job = job_of(running.sum("c"), running)
    assert not any(f.rule == "weigh_cumulative_sums" for f in weigh(job)[1])


@repeated(3)
@given(
    st.lists(st.integers(-(2**40), 2**40), max_size=12),
    st.sampled_from(["int8", "int64", "uint16", "bool", "float64", "float32"]),
    st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_same_answer(run: int, values: list[int], dtype: str, reverse: bool) -> None:
    given_values = np.array(values, np.int64) % 100
    table = so.table({"v": given_values.astype(dtype)})
    running = table.with_columns(c=so.cumsum("v", reverse=reverse))
    for job in (job_of(running), job_of(running.sum("c"))):
        assert_same_answer(job, rewrite(job, PHASES)[0])
    assert_same_answer(job_of(running), apply(job_of(running), turn_suffix_sums)[0])
    assert_same_answer(job_of(running.sum("c")), weigh(job_of(running.sum("c")))[0])


# Columns, filters and limits.


def optimized(table: so.Table) -> str:
    return plan_text(apply(job_of(table), merge_maps, push_columns_into_scan)[0])


def test_running_aggregates_that_nobody_reads_are_not_made() -> None:
    table = T.with_columns(a=so.cumsum("y"), b=so.cumsum(lambda r: r.i * 2, over="g"))
    shown = optimized(table.select("a"))
    assert "Cumulate a = cumsum(y)" in shown
    assert "columns  y: float64" in shown
    assert "g:" not in shown
    none = optimized(table.select("g"))
    assert "Cumulate" not in none
    assert "y:" not in none


def test_a_limit_goes_below_a_prefix_and_stays_above_a_suffix() -> None:
    forward = apply(job_of(T.select(c=so.cumsum("y")).limit(2)), push_limit_down)[0]
    lines = plan_text(forward).splitlines()
    assert [i for i, line in enumerate(lines) if "Limit" in line] > [
        i for i, line in enumerate(lines) if "Cumulate" in line
    ]
    backward = apply(job_of(T.select(c=so.cumsum("y", reverse=True)).limit(2)), push_limit_down)
    lines = plan_text(backward[0]).splitlines()
    assert [i for i, line in enumerate(lines) if "Limit" in line] < [
        i for i, line in enumerate(lines) if "Cumulate" in line
    ]


def test_a_filter_stays_above() -> None:
    table = T.select("i", c=so.cumsum("y")).filter(lambda r: r.i > 2)
    after = plan_text(apply(job_of(table), push_filter_down)[0])
    lines = after.splitlines()
    where = {w: i for w in ("Filter", "Cumulate") for i, line in enumerate(lines) if w in line}
    assert where["Filter"] < where["Cumulate"]
    found = table.collect().column("c").to_pylist()
    assert found == np.cumsum(np.arange(1.0, 6.0))[3:].tolist()

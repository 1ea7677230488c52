"""push_columns_into_scan: only the columns that are read are decoded, computed and cached."""

from random import Random
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.tree import find
from scalops.optimizer.rules.fuse_map_reduce_update import fuse_map_reduce_update
from scalops.optimizer.rules.merge_aggregates import merge_aggregates
from scalops.optimizer.rules.merge_maps import merge_maps
from scalops.optimizer.rules.push_columns_into_scan import push_columns_into_scan
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

T = so.table(
    {
        "name": ["a", "b", "c"],
        "x": np.ones((3, 8)),
        "y": np.arange(3.0),
        "small": np.arange(3, dtype=np.int8),
        "i": np.arange(3),
    }
)


def cached(table: so.Table) -> so.Table:
    return so.Table(op.Cache(table.plan))


def test_fires(golden: Golden) -> None:
    held = cached(T)
    cases = {
        "Project": (T.map(lambda r: r.y + 1),),
        "Aggregate": (T.sum("y"),),
        "a filter keeps what it reads itself": (T.filter(lambda r: r.i > 0).sum("y"),),
        "through a limit and a repartition": (T.limit(2).repartition(2).mean("y"),),
        "count keeps the narrowest column": (T.count(),),
        "a plain choice of columns disappears": (T.select("y", "name"),),
        "a choice above a filter": (T.filter(lambda r: r.i > 0).select("y"),),
        "a map computes what is read": (T.map(lambda r: {"a": r.y, "b": r.i}).limit(1).sum("a"),),
        "a cache keeps what any reader needs": (held.sum("y"), held.sum(lambda r: r.i * r.y)),
    }
    jobs = {title: apply(job_of(*things), merge_maps)[0] for title, things in cases.items()}
    golden(
        "rules/push_columns_into_scan.txt",
        before_and_after(*((t, j, apply(j, push_columns_into_scan)[0]) for t, j in jobs.items())),
    )


def test_stays_at_a_bare_table() -> None:
    assert_stays(job_of(T, T.limit(1), T.filter(lambda r: r.y > 0)), push_columns_into_scan)


def test_stays_where_every_column_is_read() -> None:
    assert_stays(
        job_of(T.map(lambda r: dict(zip("abcde", r, strict=True)))), push_columns_into_scan
    )


def test_stays_at_the_one_column_that_count_needs() -> None:
    one = so.table({"y": np.arange(3.0)})
    assert_stays(job_of(one.count(), one.is_empty()), push_columns_into_scan)


def test_one_column_stays_below_a_table_without_columns() -> None:
    none = so.Table(op.Project(T.plan, ()))
    before = job_of(none.limit(2).count(), none.count())
    after, _ = apply(before, push_columns_into_scan)
    assert [s.schema.names for s in find((after,), op.Scan)] == [("small",)]
    assert_same_answer(before, after)


def test_stays_where_a_cache_is_also_a_result() -> None:
    held = cached(T)
    assert_stays(job_of(held, held.sum("y")), push_columns_into_scan)


def test_stays_where_a_cache_is_filtered() -> None:
    held = cached(T)
    assert_stays(job_of(held.filter(lambda r: r.y > 0).limit(1)), push_columns_into_scan)


def test_stays_where_an_opaque_function_takes_whole_records() -> None:
    slow = so.udf(lambda r: r.y, returns=so.float64)
    assert_stays(job_of(T.map(slow)), push_columns_into_scan)


def test_no_scan_reads_a_column_that_nothing_reads() -> None:
    held = cached(T)
    narrow = held.filter(lambda r: r.i > 0).map(lambda r: {"y": r.y, "i": r.i}).sum("y")
    after, _ = apply(job_of(narrow, held.sum("y")), merge_maps, push_columns_into_scan)
    # A choice of columns stands between the cache and the filter, which hands records on.
    assert [s.schema.names for s in find((after,), op.Scan)] == [("y", "i")]
    after, _ = apply(job_of(held.sum("y"), held.map(lambda r: r.i)), push_columns_into_scan)
    assert [s.schema.names for s in find((after,), op.Scan)] == [("y", "i")]


@repeated(3)
@given(st.randoms(use_true_random=False))
@settings(max_examples=10)
def test_same_answer(run: int, random: Random) -> None:
    table = random_table(random)
    held = cached(table.filter(lambda r: r.k > 0))
    chosen = random.sample(table.columns, random.randrange(1, 6))
    results = (
        table.filter(lambda r: r.b).select(*chosen),
        table.select(*chosen).limit(2),
        table.limit(3).map(lambda r: r.f * r.x).sum(),
        table.map(lambda r: {"a": r.f, "b": r.g, "x": r.x}).filter(lambda r: r.a > 0).sum("b"),
        table.drop("x").repartition(2).count(),
        held.sum("f"),
        held.mean("i"),
        held.map(lambda r: {"x": r.x, "k": r.k}),
    )
    before = job_of(*results)
    after, trace = apply(before, push_columns_into_scan)
    assert firings(trace, push_columns_into_scan) >= 5
    assert_same_answer(before, after)


def test_a_fused_body_keeps_what_its_map_and_its_folds_read() -> None:
    @so.loop(1.0, range(3))
    def model(w: Any) -> Any:
        mapped = T.with_columns(e=lambda r: np.exp(r.i * w))
        return mapped.sum(lambda r: r.y * r.e * r.e) / mapped.sum(lambda r: r.e + np.exp(r.i * w))

    before, _ = apply(job_of(model), merge_maps)
    for rule in (merge_aggregates, share_common_expressions, fuse_map_reduce_update):
        before, _ = apply(before, rule)
    after, _ = apply(before, push_columns_into_scan)
    assert len(find((after,), op.MapReduceUpdate)) == 1
    assert [s.schema.names for s in find((after,), op.Scan)] == [("y", "i")]
    assert_same_answer(before, after)

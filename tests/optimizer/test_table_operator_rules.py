"""What the rules do with the operators that order, choose and multiply records."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.tree import find
from scalops.optimizer.cardinality import estimate
from scalops.optimizer.phases import PHASES
from scalops.optimizer.rewriter import rewrite
from scalops.optimizer.rules.merge_filters import merge_filters
from scalops.optimizer.rules.merge_maps import merge_maps
from scalops.optimizer.rules.push_columns_into_scan import push_columns_into_scan
from scalops.optimizer.rules.push_filter_down import push_filter_down
from scalops.optimizer.rules.push_limit_down import push_limit_down
from tests.conftest import Golden
from tests.optimizer.plans import (
    apply,
    assert_same_answer,
    assert_stays,
    before_and_after,
    job_of,
)
from tests.optimizer.random_programs import random_table
from tests.quick import repeated

T = so.table({"x": np.ones((3, 2)), "y": np.arange(3.0), "i": np.arange(3), "u": np.arange(3.0)})


def ticks(r: Any) -> Any:
    """An opaque condition."""
    return bool(r.y > 0)


def test_filters_go_below(golden: Golden) -> None:
    condition = T.count() > 2
    cases = {
        "below a sort": T.sort("y").filter(lambda r: r.i > 1),
        "below both sides of a union": T.union(T.limit(2)).filter(lambda r: r.y > 1),
        "below distinct, reading integers": T.distinct().filter(lambda r: r.i > 1),
        "below an explode whose items it does not read": (
            T.explode("x", index="j").filter(lambda r: r.y > 1)
        ),
        "one that reads no column, below all": (
            so.where(condition, T.sort("y").limit(2).with_row_index().drop("index"), T.slice(1))
        ),
    }
    jobs = {title: job_of(thing) for title, thing in cases.items()}
    golden(
        "rules/push_filter_down_tables.txt",
        before_and_after(*((t, j, apply(j, push_filter_down)[0]) for t, j in jobs.items())),
    )


@pytest.mark.parametrize(
    "table",
    [
        T.slice(1).filter(lambda r: r.y > 0),
        T.with_row_index().filter(lambda r: r.y > 0),
        T.shuffle(1).limit(2).filter(lambda r: r.y > 0),
        T.distinct().filter(lambda r: 1 / r.y > 0),  # 0.0 and -0.0 are one value there
        T.distinct().filter(so.udf(lambda r: True, returns=so.bool_)),
        T.explode("x").filter(lambda r: r.x > 0),
        T.explode("x", index="j").filter(lambda r: r.j > 0),
        T.explode("x").filter(so.udf(ticks, returns=so.bool_)),
        T.repartition(2).filter(lambda r: r.y > 0),
        T.map_batches(lambda b: b, T.schema).filter(lambda r: r.y > 0),
        T.cache().filter(lambda r: r.y > 0),
        T.cache().filter(lambda r: so.lit(True)),
    ],
)
def test_filters_stay_above(table: so.Table) -> None:
    assert_stays(job_of(table), push_filter_down)


def test_a_filter_that_reads_no_column_stays_apart() -> None:
    always = T.count() > 2
    assert_stays(job_of(T.filter(lambda r: r.y > 0).filter(lambda r: always)), merge_filters)
    assert_stays(job_of(T.filter(lambda r: always).filter(lambda r: r.y > 0)), merge_filters)


def test_limits_and_slices_go_below(golden: Golden) -> None:
    mapped = T.map(lambda r: {"a": r.y + 1})
    cases = {
        "a slice below a map": mapped.slice(1, 2),
        "a limit below row numbers": T.with_row_index().limit(2),
        "a limit of a slice": T.slice(1).limit(2),
        "a limit of a longer slice": T.slice(1, 5).limit(2),
    }
    jobs = {title: job_of(thing) for title, thing in cases.items()}
    golden(
        "rules/push_limit_down_tables.txt",
        before_and_after(*((t, j, apply(j, push_limit_down)[0]) for t, j in jobs.items())),
    )


@pytest.mark.parametrize(
    "table",
    [
        T.with_row_index().slice(1),
        T.sort("y").limit(1),
        T.filter(lambda r: r.y > 0).slice(1),
        T.union(T).limit(1),
        T.explode("x").slice(0, 1),
        T.slice(T.count() - 1, T.count()).limit(1),
    ],
)
def test_limits_and_slices_stay_above(table: so.Table) -> None:
    assert_stays(job_of(table), push_limit_down)


def test_columns_are_chosen_below(golden: Golden) -> None:
    cases = {
        "below a slice": T.slice(1).select("y"),
        "below a sort, which keeps its keys": T.sort("i").select("y"),
        "below both sides of a union": T.union(T.filter(lambda r: r.i > 0)).select("y"),
        "below row numbers": T.with_row_index().select("index", "y"),
        "row numbers that nobody reads are not made": T.with_row_index().select("y"),
        "below an explode, which keeps its lists": T.explode("x", index="j").select("y"),
        "below a flat_map": T.flat_map(lambda r: [{"a": r.y, "b": r.u}, {"a": r.i, "b": r.u}]).sum(
            "a"
        ),
        "a shuffle": T.shuffle(1).select("y"),
    }
    jobs = {title: job_of(thing) for title, thing in cases.items()}
    golden(
        "rules/push_columns_into_scan_tables.txt",
        before_and_after(*((t, j, apply(j, push_columns_into_scan)[0]) for t, j in jobs.items())),
    )


@pytest.mark.parametrize(
    "table",
    [
        T.distinct().select("y"),
        T.map_batches(lambda b: b, T.schema).select("y"),
        T.cache().select("y"),
    ],
)
def test_columns_are_not_chosen_below(table: so.Table) -> None:
    assert_stays(job_of(table), push_columns_into_scan)


def test_maps_and_expansions_become_one(golden: Golden) -> None:
    expanded = T.map(lambda r: {"a": r.y + 1}).flat_map(lambda r: [r.a, r.a * 2])
    cases = {
        "over a map": expanded,
        "below a map": T.flat_map(lambda r: [r.y, r.u]).map(lambda v: v + 1),
    }
    jobs = {title: job_of(thing) for title, thing in cases.items()}
    golden(
        "rules/merge_maps_tables.txt",
        before_and_after(*((t, j, apply(j, merge_maps)[0]) for t, j in jobs.items())),
    )
    opaque = so.udf(lambda v: v, returns=so.float64)
    assert_stays(job_of(T.flat_map(lambda r: [r.y, r.u]).map(opaque)), merge_maps)


@repeated(3)
@given(st.randoms(use_true_random=False))
@settings(max_examples=14)
def test_same_answer(run: int, random: Random) -> None:
    table = random_table(random)
    number = table.count()
    made = [
        table.sort("i", "k", descending=[True, False]).filter(lambda r: r.k > 0).select("f"),
        table.union(table.limit(2)).filter(lambda r: r.i > 0).select("k", "f"),
        table.distinct().filter(lambda r: r.i >= 0).select("i"),
        table.explode("x", index="j").filter(lambda r: r.b).select("j", "k"),
        so.where(number > 3, table.sort("k"), table.slice(1)).filter(lambda r: r.b).select("f"),
        table.with_row_index().with_columns(k=lambda r: r.k + 1).slice(1, number).select("k"),
        table.map(lambda r: {"f": r.f, "a": r.k}).flat_map(lambda r: [r.a, r.a + 1]).limit(3),
        table.with_row_index().slice(1).limit(2).select("index", "b"),
        table.shuffle(3).map(lambda r: r.k * 2),
        table.sample(0.5, 1).select("i"),
    ]
    before = job_of(*random.sample(made, 4))
    after, _ = rewrite(before, PHASES)
    assert_same_answer(before, after)


def test_invariant_tables_of_a_loop_are_cached_below_what_changes() -> None:
    shuffled = T.shuffle(1)

    @so.loop({"s": 0.0}, range(3))
    def model(env: Any, i: Any) -> Any:
        return {"s": env["s"] + shuffled.slice(i, 1).union(T.limit(1)).sum("y")}

    (caches,) = [find((rewrite(job_of(model), PHASES)[0],), op.Cache)]
    assert {type(c.source).__name__ for c in caches} <= {"Project", "Sort", "Limit", "Scan"}
    assert not any(find((c,), op.Slice) for c in caches)


@pytest.mark.parametrize(
    ("table", "rows", "known"),
    [
        (T.slice(1), 2, "exact"),
        (T.slice(1, 1), 1, "exact"),
        (T.slice(5), 0, "exact"),
        (T.slice(T.count() - 2), 3, "assumed"),
        (T.limit(T.count() - 1), 3, "assumed"),
        (T.union(T), 6, "exact"),
        (T.union(T.filter(lambda r: r.y > 0)), 5, "estimated"),
        (T.sort("y"), 3, "exact"),
        (T.with_row_index(), 3, "exact"),
        (T.distinct(), 1.5, "assumed"),
        (T.explode("x"), 6, "exact"),
        (T.flat_map(lambda r: [r.y, r.u]), 6, "exact"),
        (T.map_batches(lambda b: b, T.schema), 3, "assumed"),
    ],
)
def test_estimates(table: so.Table, rows: float, known: str) -> None:
    found = estimate(table.plan)
    assert (found.rows, found.provenance) == (rows, known)
    assert found.bytes == rows * table.schema.bytes_per_row

"""What the rules do with joins and groups: columns, maps, folds, limits, constants."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.expressions import Column, call, constant
from scalops.algebra.functions import function
from scalops.algebra.tree import find
from scalops.optimizer.phases import PHASES
from scalops.optimizer.rewriter import rewrite
from scalops.optimizer.rules.contract_products import contract_products
from scalops.optimizer.rules.fold_constants import fold_constants
from scalops.optimizer.rules.hoist_invariants import hoist_invariants
from scalops.optimizer.rules.merge_groups import merge_groups
from scalops.optimizer.rules.merge_maps import merge_maps
from scalops.optimizer.rules.push_columns_into_scan import push_columns_into_scan
from scalops.optimizer.rules.push_limit_down import push_limit_down
from scalops.optimizer.rules.share_common_expressions import share_common_expressions
from tests.conftest import Golden
from tests.optimizer.plans import apply, assert_same_answer, assert_stays, before_and_after, job_of
from tests.optimizer.random_programs import random_table
from tests.quick import repeated

L = so.table({"k": np.array([0, 1, 1]), "a": np.arange(3.0), "x": np.ones((3, 2)), "z": np.ones(3)})
R = so.table({"k": np.array([1, 2]), "b": np.arange(2.0), "y": np.ones(2)})
GROUPS = L.group_by("k").agg(s=so.sum("a"), n=so.count(), z=so.max("z"))


def only(job: op.Job, kind: type[Any]) -> Any:
    (found,) = find((job,), kind)
    return found


def columns_of(job: op.Job) -> list[tuple[str, ...]]:
    return [n.schema.names for n in find((job,), op.Scan)]


def test_columns_and_groups(golden: Golden) -> None:
    cases = {
        "a join reads its keys and what is read of it": L.join(R, on="k").select("a"),
        "a semi join reads keys alone of its right side": L.join(R, on="k", how="semi"),
        "groups read keys and what is folded": L.group_by("k").agg(s=so.sum("a")),
        "folds that nobody reads are not made": GROUPS.select("k", "n"),
        "distinct by a column": L.distinct("k").select("a"),
    }
    jobs = {title: job_of(thing) for title, thing in cases.items()}
    golden(
        "rules/push_columns_into_joins.txt",
        before_and_after(*((t, j, apply(j, push_columns_into_scan)[0]) for t, j in jobs.items())),
    )


def test_a_join_with_several_readers_keeps_what_any_of_them_reads() -> None:
    both = L.join(R, on="k")
    after, _ = apply(job_of(both.sum("a"), both.select("b")), push_columns_into_scan)
    assert only(after, rel.Join).schema.names == ("a", "b")
    assert columns_of(after) == [("k", "a"), ("k", "b")]


def test_groups_with_several_readers_keep_the_folds_that_any_of_them_reads() -> None:
    after, _ = apply(job_of(GROUPS.sum("s"), GROUPS.max("n")), push_columns_into_scan)
    assert only(after, rel.GroupAggregate).schema.names == ("k", "s", "n")


def test_a_counted_join_keeps_a_column() -> None:
    after, _ = apply(job_of(L.join(R, on="k").count()), push_columns_into_scan)
    assert len(only(after, rel.Join).schema) == 1
    assert columns_of(after) == [("k",), ("k",)]


def test_both_sides_of_a_join_of_a_table_with_itself() -> None:
    derived = L.with_columns(k=lambda r: r.k + 1)
    job = job_of(derived.join(derived, on="k").select("a", "z_right"))
    assert_same_answer(job, apply(job, push_columns_into_scan)[0])


def test_the_whole_of_a_join_or_of_groups_is_left_whole() -> None:
    assert_stays(job_of(L.join(R, on="k")), push_columns_into_scan)
    assert_stays(job_of(L.join(R, on="k").limit(2)), push_columns_into_scan)
    after, _ = apply(job_of(GROUPS.sort("k")), push_columns_into_scan)
    assert len(only(after, rel.GroupAggregate).folds) == 3


def test_a_table_of_the_environment_keeps_its_columns() -> None:
    @so.loop({"t": L}, range(2))
    def model(env: Any) -> Any:
        rest = env["t"].sum("a")
        return {"t": env["t"].with_columns(a=lambda r: r.a + rest)}

    after, _ = apply(op.Job((model.loop_plan,)), push_columns_into_scan)
    (state,) = find((after,), rel.StateTable)
    assert state.schema == L.schema
    assert after.outputs[0].body.tables[0][1].schema == L.schema  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "table",
    [
        L.join(R, on="k").limit(1),
        L.join(R, on="k", how="left").limit(1),
        GROUPS.limit(1),
        GROUPS.slice(1),
    ],
)
def test_limits_stay_above_joins_and_groups(table: so.Table) -> None:
    assert_stays(job_of(table), push_limit_down)


def test_groups_over_a_map(golden: Golden) -> None:
    mapped = L.map(lambda r: {"k": r.k % 2, "v": r.a * r.x})
    jobs = {
        "groups over a map": job_of(mapped.group_by("k").agg(s=so.sum("v"))),
    }
    golden(
        "rules/merge_maps_groups.txt",
        before_and_after(*((t, j, apply(j, merge_maps)[0]) for t, j in jobs.items())),
    )


def test_groups_over_an_opaque_map_stay() -> None:
    opaque = L.map(so.udf(lambda r: {"k": r.k, "v": r.a}, returns={"k": so.int64, "v": so.float64}))
    assert_stays(job_of(opaque.group_by("k").agg(s=so.sum("v"))), merge_maps)


def test_sums_of_products_in_groups_are_contracted() -> None:
    sums = L.group_by("k").agg(
        g=so.sum(lambda r: r.a * r.x), h=so.mean(lambda r: np.outer(r.x, r.x)), s=so.sum("a")
    )
    after, _ = apply(job_of(sums), contract_products)
    kinds = [f.kind for f in only(after, rel.GroupAggregate).folds]
    assert kinds == ["sum_scaled", "mean_outer", "sum"]
    assert_same_answer(job_of(sums), after)


def test_what_folds_and_keys_of_groups_share_is_computed_once() -> None:
    shared = L.group_by(j=lambda r: np.exp(r.a) > 1).agg(
        s=so.sum(lambda r: np.exp(r.a) + 1), t=so.max(lambda r: np.exp(r.a) * r.z)
    )
    after, _ = apply(job_of(shared), share_common_expressions)
    below = only(after, rel.GroupAggregate).source
    assert isinstance(below, op.Project)
    assert below.schema.names == ("z", "s1")
    assert_same_answer(job_of(shared), after)


def test_what_the_keys_of_a_join_share_is_computed_once() -> None:
    left = L.with_columns(e=lambda r: np.exp(r.a))
    job = job_of(left.join(R, left_on="k", right_on="k"))
    assert_stays(job, share_common_expressions)
    (plain,) = find((job,), rel.Join)
    e = left.plan.outputs[-1][1]  # type: ignore[attr-defined]
    keys = (e, call(function("multiply"), e, constant(2.0)))
    b = R.plan.schema["b"]
    by = (Column("b", b), Column("b", b))
    both = rel.Join(L.plan, R.plan, keys, by, "left", plain.outputs[:2])
    after, _ = apply(op.Job((both,)), share_common_expressions)
    assert isinstance(only(after, rel.Join).left, op.Project)
    assert_same_answer(op.Job((both,)), after)


def test_constants_below_joins_and_groups_are_folded() -> None:
    job = job_of(
        L.join(R.filter(lambda r: r.b > so.lit(2.0) * 3), on="k"),
        L.group_by(j=lambda r: r.k * (so.lit(2) * 3)).agg(
            s=so.sum(lambda r: r.a + so.lit(1.0) * 2)
        ),
    )
    after, trace = apply(job, fold_constants)
    assert len(trace) == 3
    assert_same_answer(job, after)


def test_groups_by_the_same_keys_are_one(golden: Golden) -> None:
    sums = L.group_by("k").agg(s=so.sum("a"))
    more = L.group_by(j="k").agg(s=so.max("a"), t=so.sum("a"))
    jobs = {"groups by the same keys": job_of(sums, more)}
    golden(
        "rules/merge_groups.txt",
        before_and_after(*((t, j, apply(j, merge_groups)[0]) for t, j in jobs.items())),
    )
    after, _ = apply(jobs["groups by the same keys"], merge_groups)
    assert len(only(after, rel.GroupAggregate).folds) == 2
    assert_same_answer(jobs["groups by the same keys"], after)


def test_groups_stay_apart() -> None:
    sums = L.group_by("k").agg(s=so.sum("a"))
    assert_stays(job_of(sums, L.group_by("z").agg(s=so.sum("a"))), merge_groups)
    assert_stays(job_of(sums, R.group_by("k").agg(s=so.sum("b"))), merge_groups)
    total = sums.max("s")
    assert_stays(job_of(sums, L.group_by("k").agg(p=so.sum(lambda r: r.a / total))), merge_groups)


def test_groups_that_a_loop_changes_stay_apart_from_those_that_it_does_not() -> None:
    fixed = L.group_by("k").agg(s=so.sum("a"))

    @so.loop(1.0, range(2))
    def model(w: Any) -> Any:
        varying = L.group_by("k").agg(s=so.sum(lambda r: r.a * w))
        return varying.sum("s") + fixed.sum("s")

    assert_stays(op.Job((model.loop_plan,)), merge_groups)


def test_an_invariant_key_of_groups_is_a_column_of_the_cache() -> None:
    @so.loop(1.0, range(2))
    def model(w: Any) -> Any:
        by = L.filter(lambda r: r.a > 0).group_by(j=lambda r: np.exp(np.exp(r.a)))
        return by.agg(s=so.sum(lambda r: r.a * w)).sum("s")

    job = op.Job((model.loop_plan,))
    after, _ = rewrite(job, PHASES[:4])
    hoisted, _ = apply(after, hoist_invariants)
    (cache,) = find((hoisted,), op.Cache)
    assert "h1" in cache.schema
    assert_same_answer(job, hoisted)


@repeated(3)
@given(st.randoms(use_true_random=False))
@settings(max_examples=10)
def test_same_answer(run: int, random: Random) -> None:
    table = random_table(random)
    other = table.filter(lambda r: r.f > 0).select("i", w=lambda r: r.f * 2)
    both = table.join(other, on="i", how=random.choice(["inner", "left", "right", "full"]))
    groups = table.group_by("i").agg(s=so.sum("f"), m=so.max("k"), n=so.count())
    made = [
        both.select("f", "w"),
        both.map(lambda r: {"a": r.f, "b": r.w}).filter(lambda r: r.b > 0),
        both.count(),
        both.sum("w"),
        groups.select("i", "n"),
        groups.map(lambda r: r.s),
        groups.filter(lambda r: (r.i > 0) & (r.n > 1)).select("m"),
        table.map(lambda r: {"k": r.k > 0, "v": r.f * r.x}).group_by("k").agg(v=so.sum("v")),
        table.group_by("i").agg(t=so.sum(lambda r: r.g + 1)),
        table.join(groups, on="i").limit(3).select("s"),
        table.distinct("i").select("k"),
    ]
    before = job_of(*random.sample(made, 4))
    assert_same_answer(before, rewrite(before, PHASES)[0])

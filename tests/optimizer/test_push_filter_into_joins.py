"""push_filter_into_joins: filter what a join or a group-by reads."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.tree import find
from scalops.optimizer.phases import PHASES
from scalops.optimizer.rewriter import rewrite
from scalops.optimizer.rules.push_filter_down import push_filter_down
from scalops.optimizer.rules.push_filter_into_joins import push_filter_into_joins
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

L = so.table({"k": np.array([0, 1, 1, 2]), "a": np.arange(4.0), "i": np.arange(4)})
R = so.table({"k": np.array([1, 2, 2, 3]), "b": np.arange(4.0), "j": np.arange(4)})
GROUPS = L.group_by("k").agg(total=so.sum("a"), n=so.count())
FLOATS = L.group_by("a").agg(n=so.count())
WANT = so.table({"on": np.ones(1)}).count() > 0


def joined(how: str = "inner") -> so.Table:
    return L.join(R, on="k", how=how)


def test_fires(golden: Golden) -> None:
    cases = {
        "a part to each side, the rest stays": joined().filter(
            lambda r: (r.a > 1) & (r.b > 2) & (r.a > r.b)
        ),
        "left join: the left side's part": joined("left").filter(lambda r: (r.a > 1) & (r.b > 2)),
        "right join: the right side's part": joined("right").filter(
            lambda r: (r.a > 1) & (r.b > 2)
        ),
        "semi": L.join(R, on="k", how="semi").filter(lambda r: r.a > 1),
        "cross": L.join(R, how="cross").filter(lambda r: (r.a > 1) & (r.b > 2)),
        "one that reads no column, to both sides": joined("full").filter(lambda r: WANT),
        "below a group-by: what reads keys": GROUPS.filter(lambda r: (r.k > 1) & (r.total > 2)),
    }
    jobs = {title: job_of(thing) for title, thing in cases.items()}
    golden(
        "rules/push_filter_into_joins.txt",
        before_and_after(*((t, j, apply(j, push_filter_into_joins)[0]) for t, j in jobs.items())),
    )


@pytest.mark.parametrize(
    "table",
    [
        joined("left").filter(lambda r: r.b > 1),  # a null there must be seen
        joined("left").filter(lambda r: so.is_null(r.b)),
        joined("right").filter(lambda r: r.a > 1),
        joined("full").filter(lambda r: r.a > 1),
        joined("full").filter(lambda r: r.b > 1),
        joined().filter(lambda r: r.a > r.b),
        joined().filter(lambda r: (r.a > 1) | (r.b > 1)),
        # Opaque, or failing: it would see records without a partner.
        joined().filter(so.udf(lambda r: True, returns=so.bool_)),
        joined().filter(lambda r: 2 ** (r.i - 3) > 1),
        L.join(R, on="k", how="semi").filter(lambda r: 2 ** (r.i - 3) > 1),
        GROUPS.filter(lambda r: r.n > 1),
        GROUPS.filter(lambda r: r.k > r.n),
        FLOATS.filter(lambda r: 1 / r.a > 0),  # 0.0 and -0.0 are one key
        GROUPS.filter(so.udf(lambda r: True, returns=so.bool_)),
        joined().limit(2).filter(lambda r: r.a > 1),
        joined().cache().filter(lambda r: r.a > 1),
    ],
)
def test_stays(table: so.Table) -> None:
    assert_stays(job_of(table), push_filter_into_joins)


def test_a_left_join_s_own_side_may_fail_below_as_it_would_above() -> None:
    job = job_of(joined("left").filter(lambda r: 2 ** (r.i - 3) > 1))
    after, _ = apply(job, push_filter_into_joins)
    assert isinstance(after.outputs[0], rel.Join)


def test_stays_where_another_operator_reads_the_join() -> None:
    both = joined()
    assert_stays(job_of(both.filter(lambda r: r.a > 1), both.count()), push_filter_into_joins)
    assert_stays(job_of(GROUPS.filter(lambda r: r.k > 1), GROUPS), push_filter_into_joins)


def loop_with(condition: Any) -> op.Job:
    @so.loop({"t": L.select("k", rank="a"), "w": 1.0}, range(3))
    def model(env: Any) -> Any:
        met = R.join(env["t"], on="k").filter(lambda r: condition(r, env["w"]))
        total = met.sum("rank")
        return {"t": env["t"].with_columns(rank=lambda r: r.rank + total), "w": env["w"] / 2}

    return op.Job((model.loop_plan,))


def test_in_a_loop_that_keeps_the_keys_only_what_it_keeps_goes_below() -> None:
    assert_stays(loop_with(lambda r, w: r.b > w), push_filter_into_joins)
    assert_stays(loop_with(lambda r, w: r.rank > 1), push_filter_into_joins)
    after, _ = apply(loop_with(lambda r, w: (r.b > 1) & (r.rank > 1)), push_filter_into_joins)
    below, above = find((after,), op.Filter)
    assert isinstance(above.source, rel.Join)
    assert below in find((above.source,), op.Filter)


def test_distinct_by_some_columns_lets_through_what_reads_them() -> None:
    after, _ = apply(job_of(L.distinct("k").filter(lambda r: r.k > 1)), push_filter_down)
    assert plan_text(after).splitlines()[1].strip().startswith("Distinct")
    assert_stays(job_of(L.distinct("k").filter(lambda r: r.i > 1)), push_filter_down)


@repeated(3)
@given(st.randoms(use_true_random=False))
@settings(max_examples=14)
def test_same_answer(run: int, random: Random) -> None:
    def column(kind: pa.DataType) -> pa.Array:
        return pa.array([random.choice((None, 0, 1, 2, -1)) for _ in range(5)], kind)

    def side(name: str) -> so.Table:
        columns = {"k": column(pa.int64()), name: column(pa.float64())}
        return so.from_arrow(pa.table(columns).slice(0, random.randrange(6)))

    left, right = side("a"), side("b")
    kinds = ["inner", "left", "right", "full", "cross"]
    both = left.join(right, **how(random.choice(kinds)))
    conditions: list[Any] = [
        lambda r: (r.a > 0) & (r.b > 0),
        lambda r: (r.k > 0) & so.is_null(r.b),
        lambda r: (r.a > r.b) & (r.a < 2) & (r.b < 2),
        lambda r: so.is_null(r.a) | (r.k > 0),
    ]
    groups = left.group_by("k").agg(a=so.sum("a"))
    before = job_of(
        both.filter(random.choice(conditions)),
        left.join(right, on="k", how=random.choice(["semi", "anti"])).filter(lambda r: r.a > 0),
        groups.filter(lambda r: (r.k > 0) & (r.a > 0)),
    )
    assert_same_answer(before, apply(before, push_filter_into_joins)[0])
    assert_same_answer(before, rewrite(before, PHASES)[0])


def how(kind: str) -> dict[str, Any]:
    return {"how": kind} if kind == "cross" else {"how": kind, "on": "k"}

"""Which columns of a loop's tables may settle, though nothing proves that they stay."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.expressions import Column
from scalops.algebra.tree import find
from scalops.optimizer.column_invariance import ColumnInvariance, invariant_columns
from scalops.optimizer.phases import PHASES
from scalops.optimizer.rewriter import rewrite
from scalops.optimizer.rules.index_joins import index_joins
from tests.conftest import Golden
from tests.optimizer.plans import apply, assert_same_answer, assert_stays, before_and_after

RATINGS = so.table(
    {"user": np.array([0, 0, 1, 2, 4]), "item": np.array([1, 0, 1, 3, 3]), "y": np.arange(5.0)}
)
USERS = so.table({"id": np.arange(5), "v": np.arange(5.0) + 1})
ITEMS = so.table({"id": np.arange(4), "v": np.arange(4.0) + 2})
EDGES = so.table({"id": np.array([0, 0, 1, 2]), "to": np.array([1, 2, 2, 3])})


def half(ratings: Any, this: str, other: str, factors: Any) -> Any:
    """Users by the items that they rated, or items by the users."""
    rows = ratings.join(factors, left_on=other, right_on="id")
    sums = rows.group_by(this).agg(a=so.sum(lambda r: r.v * r.v), b=so.sum(lambda r: r.y * r.v))
    return sums.select(id=this, v=lambda r: r.b / (r.a + 1))


def factors(ratings: so.Table = RATINGS, users: so.Table = USERS, items: so.Table = ITEMS) -> Any:
    @so.loop({"users": users, "items": items}, range(3))
    def model(env: Any) -> Any:
        new = half(ratings, "user", "item", env["items"])
        return {"users": new, "items": half(ratings, "item", "user", new)}

    return model.loop_plan


def loop_of(step: Callable[[Any, Any], Any]) -> op.Loop:
    """A loop whose table becomes what `step` makes of it and of a number that changes."""

    @so.loop({"t": USERS, "w": 1.0}, range(3))
    def model(env: Any) -> Any:
        return {"t": step(env["t"], env["w"]), "w": env["w"] / 2}

    return model.loop_plan  # type: ignore[no-any-return]


def marked(node: Any, kind: type[Any]) -> list[bool]:
    return [n.indexed for n in find((node,), kind)]


def test_keys_that_each_half_step_takes_from_the_other() -> None:
    loop = factors()
    assert invariant_columns(loop) == ([], ["users.id", "items.id"])
    found = ColumnInvariance(loop)
    assert found.state_columns("users") == frozenset()
    assert found.presumed_columns("users") == {"id"}
    joins, groups = find((loop.body,), rel.Join), find((loop.body,), rel.GroupAggregate)
    assert not any(map(found.rows, [*joins, *groups]))  # presumed is not proved
    assert {*found.indexable()} == {*joins, *groups}


@pytest.mark.parametrize(
    ("step", "presumed"),
    [
        # Rows that are chosen by presumed columns, columns that are handed on.
        (lambda t, w: t.filter(lambda r: r.id > 2), ["t.id", "t.v"]),
        (lambda t, w: t.filter(lambda r: r.id % 2 == 0).with_columns(v=lambda r: r.v * w),
         ["t.id"]),
        (lambda t, w: t.sort("id", descending=True).limit(3), ["t.id", "t.v"]),
        (lambda t, w: t.distinct(), ["t.id", "t.v"]),
        (lambda t, w: t.group_by("id").agg(v=so.sum("v")), ["t.id"]),
        (lambda t, w: t.join(EDGES, on="id", how="semi"), ["t.id", "t.v"]),
        (lambda t, w: EDGES.join(t, on="id").group_by(id="to").agg(v=so.sum("v")), ["t.id"]),
        (lambda t, w: USERS.join(t, on="id").select("id", v=lambda r: r.v + r.v_right), ["t.id"]),
        (lambda t, w: USERS.join(t.filter(lambda r: r.id > 1), on="id", how="left")
         .filter(lambda r: ~so.is_null(r.v_right))
         .select("id", v=lambda r: so.coalesce(r.v_right, r.v)), ["t.id", "t.v"]),
        # What else is reached joins what is: no more, once nothing else is.
        (lambda t, w: t.select("id").union(EDGES.join(t, on="id").select(id="to"))
         .distinct().select("id", v=lambda r: w), ["t.id"]),
        # A value that is computed of the state is another each time.
        (lambda t, w: t.sort("v").select(id=lambda r: r.id + 1, v="v"), ["t.v"]),
        (lambda t, w: t.filter(lambda r: r.id > 1).select(id=lambda r: r.id + 1, v="v"), []),
        (lambda t, w: t.group_by(id=lambda r: r.id // 2).agg(v=so.sum("v")), []),
        (lambda t, w: t.group_by("id").agg(v=so.sum("v"))
         .select(id=lambda r: so.cast(r.v, "int64"), v="v"), []),
        (lambda t, w: EDGES.filter(lambda r: r.id < t.count()).group_by(id="to")
         .agg(v=so.count()).select("id", v=lambda r: so.cast(r.v, "float64")), ["t.id"]),
        # So is what follows from a number that changes.
        (lambda t, w: t.filter(lambda r: r.v > w), []),
        (lambda t, w: t.filter(lambda r: r.id > t.sum("v")).with_columns(v=lambda r: r.v + w), []),
        # Rows that become more or fewer each time do not settle.
        (lambda t, w: t.union(t), []),
        (lambda t, w: t.filter(lambda r: r.id > 1).union(USERS), []),
        (lambda t, w: t.slice(1), []),
        (lambda t, w: t.slice(0, 2), ["t.id", "t.v"]),
        (lambda t, w: t.filter(lambda r: r.id > 1).flat_map(lambda r: [
            {"id": r.id, "v": r.v}, {"id": r.id, "v": r.v}]), []),
    ],
)  # fmt: skip
def test_columns_of_the_state(step: Callable[[Any, Any], Any], presumed: list[str]) -> None:
    assert invariant_columns(loop_of(step)) == ([], presumed)


def test_what_is_proved_is_not_presumed() -> None:
    loop = loop_of(lambda t, w: t.with_columns(v=lambda r: r.v * w))
    assert invariant_columns(loop) == (["t.id"], [])


def test_fires(golden: Golden) -> None:
    before = op.Job((factors(),))
    after = apply(before, index_joins)[0]
    case = ("factors that follow from each other", before, after)
    golden("rules/index_joins_presumed.txt", before_and_after(case))


def test_the_optimizer_as_a_whole_indexes_alternating_least_squares() -> None:
    after, _ = rewrite(op.Job((factors(),)), PHASES)
    assert marked(after, rel.Join) == [True] * 2
    assert marked(after, rel.GroupAggregate) == [True] * 2


@pytest.mark.parametrize(
    "step",
    [
        lambda t, w: USERS.join(t.filter(lambda r: r.v > w), on="id").select("id", v="v_right"),
        lambda t, w: t.select(id=lambda r: r.id + 1, v="v").group_by("id").agg(v=so.sum("v")),
        lambda t, w: t.group_by(id=lambda r: so.cast(r.v * w, "int64")).agg(v=so.sum("v")),
        lambda t, w: USERS.join(t.slice(1).union(t), on="id").select("id", v=lambda r: r.v_right),
    ],
)
def test_stays_where_keys_are_computed_of_the_state(step: Callable[[Any, Any], Any]) -> None:
    assert_stays(op.Job((loop_of(step),)), index_joins)


def test_expressions_that_a_presumed_join_keeps() -> None:
    @so.loop({"items": ITEMS}, range(3))
    def model(env: Any) -> Any:
        seen = RATINGS.join(env["items"], left_on="item", right_on="id").group_by("item")
        return {"items": seen.agg(v=so.sum(lambda r: r.y * r.v)).select(id="item", v="v")}

    loop = model.loop_plan
    found = ColumnInvariance(loop)
    (join,) = find((loop.body,), rel.Join)
    assert found.keeps(Column("user", join.schema["user"]), join)
    assert not found.keeps(Column("v", join.schema["v"]), join)


def test_a_proved_join_keeps_nothing_that_is_only_presumed() -> None:
    @so.loop({"t": USERS, "items": ITEMS, "w": 1.0}, range(3))
    def model(env: Any) -> Any:
        items, t = env["items"].filter(lambda r: r.id > 0), env["t"]
        # v settles with the ids of the items; the rows of t and of this join stay anyway.
        joined = t.join(items.distinct("id"), on="id", how="left")
        new = joined.select("id", v=lambda r: so.coalesce(r.v_right, r.v))
        both = RATINGS.join(new, left_on="user", right_on="id")
        total = both.sum(lambda r: r.v * env["w"])
        return {"t": new, "items": items, "w": total}

    loop = model.loop_plan
    found = ColumnInvariance(loop)
    assert invariant_columns(loop) == (["t.id"], ["t.v", "items.id", "items.v"])
    joined, both = find((loop.body,), rel.Join)
    assert [found.rows(t) for t in (joined, both)] == [True, True]
    assert found.keeps(Column("user", both.schema["user"]), both)
    assert not found.keeps(Column("v", both.schema["v"]), both)


@given(st.randoms(use_true_random=False))
@settings(max_examples=12)
def test_same_answer(random: Random) -> None:
    count = random.randrange(1, 12)
    ratings = so.table({
        "user": np.array([random.randrange(4) for _ in range(count)]),
        "item": np.array([random.randrange(4) for _ in range(count)]),
        "y": np.array([random.random() for _ in range(count)]),
    })  # fmt: skip
    missing = random.randrange(6)
    items = ITEMS.filter(lambda r: r.id != missing)
    before = op.Job((factors(ratings, items=random.choice((ITEMS, items))),))
    assert_same_answer(before, apply(before, index_joins)[0])
    assert_same_answer(before, rewrite(before, PHASES)[0])


STEPS: list[Callable[[Any, Any, int], Any]] = [
    lambda t, w, n: t.filter(lambda r: r.id != n),
    lambda t, w, n: t.sort("v", descending=n % 2 == 0),
    lambda t, w, n: t.limit(n + 1),
    lambda t, w, n: t.slice(n % 2),
    lambda t, w, n: t.union(USERS.filter(lambda r: r.id == n)).group_by("id").agg(v=so.max("v")),
    lambda t, w, n: t.with_columns(id=lambda r: (r.id + n) % 5),
    lambda t, w, n: t.with_columns(v=lambda r: r.v * w + n),
    lambda t, w, n: EDGES.join(t, on="id").group_by(id="to").agg(v=so.sum("v")),
    lambda t, w, n: t.join(EDGES, on="id").group_by("id").agg(v=so.mean("v")),
    lambda t, w, n: USERS.join(t, on="id", how="left").select(
        "id", v=lambda r: so.coalesce(r.v_right, w)),
    lambda t, w, n: t.join(USERS.filter(lambda r: r.id > n), on="id", how="anti"),
    lambda t, w, n: t.union(EDGES.join(t, on="id").select(id="to", v="v")).group_by("id").agg(
        v=so.min("v")),
]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 4)), min_size=1, max_size=3))
@settings(max_examples=30)
def test_same_answer_of_loops_of_any_steps(chosen: list[tuple[Any, int]]) -> None:
    def body(t: Any, w: Any) -> Any:
        for step, n in chosen:
            t = step(t, w, n)
        return t.select("id", "v")

    before = op.Job((loop_of(body),))
    assert_same_answer(before, apply(before, index_joins)[0])
    assert_same_answer(before, rewrite(before, PHASES)[0])

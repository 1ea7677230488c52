"""Which rows and columns of a loop's tables stay from one iteration to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.expressions import Column
from scalops.algebra.tree import find
from scalops.optimizer.column_invariance import ColumnInvariance, invariant_columns

NODES = so.table({"id": np.arange(4), "size": np.arange(4.0)})
EDGES = so.table({"src": np.array([0, 0, 1, 2]), "dst": np.array([1, 2, 2, 3])})
START = NODES.select("id", rank=lambda r: r.size + 1)


class Env(so.Environment):
    t: so.Table
    w: float


def loop_of(step: Callable[[Any], Any], start: so.Table = START) -> op.Loop:
    """A loop whose table `t` becomes what `step` makes of the environment."""

    @so.loop(Env(t=start, w=0.5), range(3))
    def model(env: Any) -> Any:
        env.t = step(env)
        env.w = env.w * 2
        return env

    return model.loop_plan  # type: ignore[no-any-return]


def proved(loop: op.Loop) -> list[str]:
    return invariant_columns(loop)[0]


def received(env: Any) -> so.Table:
    shares = EDGES.join(env.t, left_on="src", right_on="id")
    return shares.group_by("dst").agg(total=so.sum("rank"))


def shifted(r: Any) -> Any:
    return r.rank + 1


@pytest.mark.parametrize(
    ("step", "stays"),
    [
        (lambda env: env.t, ["t.id", "t.rank"]),
        (lambda env: START, ["t.id", "t.rank"]),
        (lambda env: NODES.select("id", rank=lambda r: r.size * 3.0), ["t.id", "t.rank"]),
        (lambda env: NODES.select("id", rank=lambda r: r.size * env.w), ["t.id"]),
        # A function of itself is not what it was, although it reads nothing else.
        (lambda env: env.t.with_columns(rank=shifted), ["t.id"]),
        (lambda env: env.t.select(id=lambda r: r.id + 1, rank="rank"), ["t.rank"]),
        (lambda env: env.t.select(id="id", rank=lambda r: so.cast(r.id, "float64")),
         ["t.id", "t.rank"]),
        (lambda env: env.t.filter(lambda r: r.rank > env.w), []),
        (lambda env: env.t.filter(lambda r: r.rank > 2), []),  # rank stays, but rows go once more
        (lambda env: env.t.with_columns(rank=shifted).sort("rank"), []),
        (lambda env: NODES.sort("size").select("id", rank=lambda r: r.size * env.w), ["t.id"]),
        (lambda env: env.t.slice(1), []),
        (lambda env: env.t.union(env.t), []),
        (lambda env: env.t.limit(2), []),
        (lambda env: START.limit(2), ["t.id", "t.rank"]),
        (lambda env: env.t.cache(), ["t.id", "t.rank"]),
        # The groups' rows and keys follow from what comes in; the left join keeps the nodes'.
        (lambda env: NODES.join(received(env), left_on="id", right_on="dst", how="left")
         .select("id", rank=lambda r: so.coalesce(r.total, 0.0)), ["t.id"]),
        (lambda env: env.t.join(received(env), left_on="id", right_on="dst", how="left")
         .select("id", rank=lambda r: so.coalesce(r.total, 0.0)), ["t.id"]),
        # An inner join may lose keys.
        (lambda env: env.t.join(received(env), left_on="id", right_on="dst")
         .select("id", rank="total"), []),
        # A right side that is not unique may give a node two records.
        (lambda env: env.t.join(EDGES.filter(lambda r: r.src > env.w), left_on="id",
                                right_on="dst", how="left")
         .select("id", rank="rank"), []),
        (lambda env: received(env).select(id="dst", rank="total"), []),
    ],
)  # fmt: skip
def test_columns_of_the_state(step: Callable[[Any], Any], stays: list[str]) -> None:
    assert proved(loop_of(step)) == stays


def test_the_start_may_have_other_keys_than_the_body_gives() -> None:
    fewer = START.filter(lambda r: r.id > 1)
    loop = loop_of(lambda env: NODES.select("id", rank=lambda r: r.size * env.w), fewer)
    assert proved(loop) == ["t.id"]


def test_one_column_may_follow_from_another_that_stays() -> None:
    loop = loop_of(lambda env: env.t.select("id", rank=lambda r: r.id * 2.0))
    assert proved(loop) == ["t.id", "t.rank"]


def test_what_only_the_starts_keys_change_brings_the_analysis_to_an_end() -> None:
    # Counts over the start's keys first, then over the body's: the second iteration gives more
    # that stays than the first one did.
    def step(env: Any) -> so.Table:
        shares = EDGES.join(env.t, left_on="src", right_on="id")
        counts = shares.group_by("dst").agg(n=so.count())
        joined = NODES.join(counts, left_on="id", right_on="dst", how="left")
        return joined.select("id", rank=lambda r: so.coalesce(r.n, 0) * 1.0)

    assert proved(loop_of(step, START.limit(2))) == ["t.id"]


def test_columns_that_change_places_do_not_stay() -> None:
    start = so.table({"a": np.arange(3), "b": np.arange(3) + 5})

    @so.loop({"t": start}, range(3))
    def model(env: Any) -> Any:
        return {"t": env["t"].select(a="b", b="a")}

    assert proved(model.loop_plan) == []


def test_a_value_of_the_environment_that_no_iteration_changes() -> None:
    @so.loop({"t": START, "c": 2.0, "w": 1.0}, range(3))
    def model(env: Any) -> Any:
        t = NODES.select("id", rank=lambda r: r.size * env["c"])
        return {"t": t, "c": env["c"], "w": env["w"] + 1}

    assert proved(model.loop_plan) == ["t.id", "t.rank"]


def test_rows_and_columns_of_the_tables_in_between() -> None:
    def step(env: Any) -> Any:
        joined = NODES.join(env.t, on="id")
        kept = joined.filter(lambda r: r.size > 1)
        big = joined.filter(lambda r: r.rank > 1)
        return kept.union(big).select("id", rank=lambda r: r.rank + r.size)

    def in_loop(env: Any) -> Any:
        _ = step(env)
        return NODES.select("id", rank=lambda r: r.size + step(env).count())

    loop = loop_of(in_loop)
    found = ColumnInvariance(loop)
    (joined,) = find((loop.body,), rel.Join)
    kept, big = find((loop.body,), op.Filter)
    assert [found.rows(t) for t in (joined, kept, big)] == [True, True, False]
    assert found.columns(joined) == found.columns(kept) == {"id", "size"}
    assert found.columns(big) == frozenset()
    assert found.keeps(Column("size", joined.schema["size"]), joined)
    assert not found.keeps(Column("rank", joined.schema["rank"]), joined)


def test_a_loop_inside_has_its_own_table_and_sees_the_outer_one_stand_still() -> None:
    @so.loop({"t": START}, range(2))
    def outer(env: Any) -> Any:
        @so.loop({"u": env["t"]}, range(2))
        def inner(own: Any) -> Any:
            both = env["t"].join(own["u"], on="id")
            return {"u": own["u"].with_columns(rank=lambda r: r.rank + both.sum("rank"))}

        return {"t": inner["u"]}

    loop = outer.loop_plan
    (inside,) = find((loop.body,), op.Loop)
    assert proved(inside) == ["u.id"]
    assert proved(loop) == []  # what a loop inside makes of it is not looked into
    (join,) = find((inside.body,), rel.Join)
    assert ColumnInvariance(inside).indexable() == [join]
    assert ColumnInvariance(loop).indexable() == []

"""index_joins: rows that meet, form a group or stay in each iteration are found once."""

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
from scalops.algebra.tree import find
from scalops.optimizer.phases import PHASES
from scalops.optimizer.rewriter import rewrite
from scalops.optimizer.rules.index_joins import index_joins
from tests.conftest import Golden
from tests.optimizer.plans import (
    apply,
    assert_same_answer,
    assert_stays,
    before_and_after,
    firings,
)
from tests.quick import repeated

NODES = so.table({"id": np.arange(4), "out": np.array([2, 1, 1, 0])})
EDGES = so.table({"src": np.array([0, 0, 1, 2]), "dst": np.array([1, 2, 2, 3])})
START = NODES.select("id", rank=lambda r: r.id * 0.0 + 0.25)


class Ranks(so.Environment):
    ranks: so.Table
    delta: float


def pagerank(nodes: so.Table = NODES, edges: so.Table = EDGES, start: so.Table = START) -> op.Job:
    @so.loop(Ranks(ranks=start, delta=np.inf), range(3), allow_nonfinite=True)
    def model(env: Any) -> Any:
        both = nodes.join(env.ranks, on="id")
        dangling = both.filter(lambda r: r.out == 0).sum("rank")
        shares = both.filter(lambda r: r.out > 0).select("id", share=lambda r: r.rank / r.out)
        received = edges.join(shares, left_on="src", right_on="id").group_by("dst")
        total = received.agg(total=so.sum("share"))
        updated = nodes.join(total, left_on="id", right_on="dst", how="left").select(
            "id", rank=lambda r: 0.1 + 0.9 * (so.coalesce(r.total, 0.0) + dangling)
        )
        change = updated.join(env.ranks, on="id")
        env.delta = change.sum(lambda r: abs(r.rank - r.rank_right))
        env.ranks = updated
        return env

    return op.Job((model.loop_plan,))


def components() -> op.Job:
    """Messages in Pregel's style: who sends one is different each time."""

    @so.loop({"labels": NODES.select("id", label="id"), "messages": EDGES}, range(3))
    def model(env: Any) -> Any:
        least = env["messages"].group_by("dst").agg(label=so.min("src"))
        joined = env["labels"].join(least, left_on="id", right_on="dst", how="left")
        labels = joined.select(
            "id", label=lambda r: np.minimum(r.label, so.coalesce(r.label_right, r.label))
        )
        changed = labels.join(env["labels"], on="id").filter(lambda r: r.label < r.label_right)
        sent = EDGES.join(changed, left_on="src", right_on="id").select(src="label", dst="dst")
        return {"labels": labels, "messages": sent}

    return op.Job((model.loop_plan,))


def loop_over(step: Callable[[Any, Any], Any]) -> op.Job:
    """A loop whose table becomes what `step` makes of it and of a number that changes."""

    @so.loop({"t": START, "w": 1.0}, range(3))
    def model(env: Any) -> Any:
        return {"t": step(env["t"], env["w"]), "w": env["w"] / 2}

    return op.Job((model.loop_plan,))


def marked(job: op.Job, kind: type[Any]) -> list[bool]:
    return [n.indexed for n in find((job,), kind)]


def test_fires(golden: Golden) -> None:
    def step(t: Any, w: Any) -> Any:
        shares = EDGES.join(t, left_on="src", right_on="id").filter(lambda r: r.dst > 1)
        total = shares.group_by("dst").agg(total=so.sum("rank"))
        joined = NODES.join(total, left_on="id", right_on="dst", how="left")
        return joined.select("id", rank=lambda r: so.coalesce(r.total, w))

    before = loop_over(step)
    case = ("ranks that go along edges", before, apply(before, index_joins)[0])
    golden("rules/index_joins.txt", before_and_after(case))


def test_all_joins_filters_and_groups_of_page_rank_are_indexed() -> None:
    after, trace = apply(pagerank(), index_joins)
    assert firings(trace, index_joins) == 1
    assert marked(after, rel.Join) == [True] * 4
    assert marked(after, rel.GroupAggregate) == [True]
    assert marked(after, op.Filter) == [True] * 2


def test_the_optimizer_as_a_whole_indexes_page_rank() -> None:
    after, _ = rewrite(pagerank(), PHASES)
    assert marked(after, rel.Join) == [True] * 4
    assert marked(after, rel.GroupAggregate) == [True]
    assert marked(after, op.Filter) == [True] * 2


def test_a_start_with_other_keys_than_the_body_does_not_matter() -> None:
    start = so.table({"id": np.array([3, 1, 7]), "rank": np.ones(3)})
    after, _ = apply(pagerank(start=start), index_joins)
    assert marked(after, rel.Join) == [True] * 4


def test_in_pregel_what_rests_on_messages_stays() -> None:
    job = components()
    after, _ = apply(job, index_joins)
    by_line = {n.label: n.indexed for n in find((after,), rel.GroupAggregate)}
    assert list(by_line.values()) == [False]
    # Of the joins only that of the labels, whose ids stay, with those before.
    assert sorted(marked(after, rel.Join)) == [False, False, True]
    assert marked(after, op.Filter) == [False]


@pytest.mark.parametrize(
    "step",
    [
        # A key can disappear, because a filter reads what changes.
        lambda t, w: NODES.join(t.filter(lambda r: r.rank > w), on="id").select("id", rank="rank"),
        lambda t, w: t.join(EDGES.filter(lambda r: r.src > w), left_on="id", right_on="dst").select(
            "id", rank="rank"
        ),
        # A key is computed from what changes.
        lambda t, w: t.select(id=lambda r: r.id + 1, rank="rank").join(NODES, on="id").drop("out"),
        lambda t, w: t.group_by(id=lambda r: so.cast(r.rank * w, "int64")).agg(rank=so.sum("rank")),
        # Nothing to find: there is no key.
        lambda t, w: NODES.join(t, how="cross").select("id", rank=lambda r: r.rank * w).limit(4),
        # A filter that reads no column looks at no record.
        lambda t, w: t.filter(lambda r: w > 0.3),
        lambda t, w: t.filter(lambda r: r.rank > w),
    ],
)
def test_stays_where_rows_or_keys_may_change(step: Callable[[Any, Any], Any]) -> None:
    assert_stays(loop_over(step), index_joins)


def test_stays_outside_loops() -> None:
    joined = NODES.join(EDGES, left_on="id", right_on="src").filter(lambda r: r.out > 0)
    assert_stays(op.Job((joined.group_by("id").agg(n=so.count()).plan,)), index_joins)


def test_what_no_iteration_changes_is_computed_once_and_needs_no_index() -> None:
    fixed = NODES.join(EDGES, left_on="id", right_on="src").group_by("id").agg(n=so.count())
    job = loop_over(lambda t, w: t.with_columns(rank=lambda r: r.rank * w + fixed.sum("n")))
    assert_stays(job, index_joins)


def test_groups_with_fixed_keys_need_no_table_in_the_environment() -> None:
    @so.loop(0.5, range(3))
    def model(w: Any) -> Any:
        sums = EDGES.group_by("dst").agg(s=so.sum(lambda r: r.src * w))
        return sums.max("s")

    after, _ = apply(op.Job((model.loop_plan,)), index_joins)
    assert marked(after, rel.GroupAggregate) == [True]


def test_a_join_belongs_to_the_innermost_loop_that_it_varies_with() -> None:
    @so.loop({"t": START}, range(2))
    def outer(env: Any) -> Any:
        @so.loop({"u": env["t"], "w": 1.0}, range(2))
        def inner(own: Any) -> Any:
            both = env["t"].join(own["u"], on="id")  # ids of env.t stay while inner runs
            kept = env["t"].filter(lambda r: r.rank > 0)  # of the outer loop
            total = both.sum("rank") + kept.count()
            return {"u": own["u"].with_columns(rank=lambda r: r.rank + total), "w": own["w"]}

        return {"t": inner["u"]}

    after, _ = apply(op.Job((outer.loop_plan,)), index_joins)
    assert marked(after, rel.Join) == [True]
    assert marked(after, op.Filter) == [False]


@repeated(3)
@given(st.randoms(use_true_random=False))
@settings(max_examples=5)
def test_same_answer(run: int, random: Random) -> None:
    ids = [random.randrange(5) for _ in range(random.randrange(1, 5))]
    nodes = so.table({"id": np.array(sorted({*ids})), "out": np.array(sorted({*ids})) % 3})
    ends = np.array([[random.randrange(5), random.randrange(5)] for _ in range(6)])
    edges = so.table({"src": ends[:, 0], "dst": ends[:, 1]})
    start = nodes.select("id", rank=lambda r: r.id + 1.0)
    before = pagerank(nodes, edges, random.choice((start, start.limit(1), START)))
    assert_same_answer(before, apply(before, index_joins)[0])
    assert_same_answer(before, rewrite(before, PHASES)[0])

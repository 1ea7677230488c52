"""Loops whose keys are presumed to stay: found once where they do, let go where they do not."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.tree import find
from scalops.engine.collective import Program
from scalops.engine.kernels import grouping
from scalops.engine.memory import MemoryBudget
from scalops.engine.pipelines.base import Stored
from scalops.engine.relations import indexed, indexed_groups
from scalops.optimizer.column_invariance import invariant_columns
from scalops.optimizer.phases import PHASES
from scalops.optimizer.rewriter import rewrite
from tests.engine.plans import run


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What was searched for: for each search of a join its left keys, of groups their keys."""
    found: list[tuple[str, ...]] = []
    matched, grouped = indexed.matched, grouping.group_rows
    make = indexed_groups.IndexGroup.make
    names: list[str] = []

    def match(*given: Any) -> Any:
        found.append(("join", *given[4].left_keys))
        return matched(*given)

    def group(*given: Any) -> Any:
        found.append(("group", *names))
        return grouped(*given)

    def making(self: Any, run: Any) -> Program[Stored]:
        names[:] = self._sink.names
        return make(self, run)

    monkeypatch.setattr(indexed, "matched", match)
    monkeypatch.setattr(indexed_groups, "group_rows", group)
    monkeypatch.setattr(indexed_groups.IndexGroup, "make", making)
    return found


# Alternating least squares.

RANK, RIDGE = 3, 0.1
RNG = np.random.default_rng(3)
USER, ITEM = RNG.integers(0, 40, 500), RNG.integers(0, 25, 500)
RATING = RNG.normal(size=500)
U, V = RNG.normal(size=(40, RANK)), RNG.normal(size=(25, RANK))


def half_step(y: Any, this: str, other: str, factors: Any) -> Any:
    rows = y.join(factors, left_on=other, right_on="id")
    sums = rows.group_by(this).agg(
        a=so.sum(lambda r: np.outer(r.v, r.v)), b=so.sum(lambda r: r.rating * r.v)
    )
    return sums.select(id=this, v=lambda r: np.linalg.solve(r.a + RIDGE * np.eye(RANK), r.b))


def least_squares(steps: int, users: Any, items: Any) -> Any:
    y = so.table({"user": USER, "item": ITEM, "rating": RATING})
    start = {
        "users": so.table({"id": users, "v": U[users]}),
        "items": so.table({"id": items, "v": V[items]}),
    }

    @so.loop(start, range(steps))
    def factors(env: Any) -> Any:
        users = half_step(y, "user", "item", env["items"])
        return {"users": users, "items": half_step(y, "item", "user", users)}

    return factors


def by_hand(steps: int) -> tuple[Any, Any]:
    u, v = U.copy(), V.copy()
    for _ in range(steps):
        for this, other, made, given in ((USER, ITEM, u, v), (ITEM, USER, v, u)):
            for k in range(len(made)):
                m = given[other[this == k]]
                a, b = m.T @ m + RIDGE * np.eye(RANK), m.T @ RATING[this == k]
                made[k] = np.linalg.solve(a, b)
    return u, v


def by_first_appearance(keys: Any) -> Any:
    return keys[np.sort(np.unique(keys, return_index=True)[1])]


def test_both_directions_of_least_squares_are_found_once(
    searches: list[tuple[str, ...]],
) -> None:
    items = by_first_appearance(ITEM)
    env = least_squares(8, np.arange(40), items).run().env
    assert sorted(searches) == [("group", "item"), ("group", "user"), ("join", "item"),
                                ("join", "user")]  # fmt: skip
    for table, expected in zip((env["users"], env["items"]), by_hand(8), strict=True):
        at = table["id"].to_numpy()
        np.testing.assert_allclose(np.stack(table["v"].to_pylist()), expected[at], rtol=1e-7)


def test_a_start_in_another_order_costs_one_search_more(searches: list[tuple[str, ...]]) -> None:
    env = least_squares(8, np.arange(40), np.arange(25)[::-1].copy()).run().env
    assert [s for s in searches if s[0] == "join"].count(("join", "item")) == 2
    assert searches.count(("join", "user")) == 1
    assert searches.count(("group", "user")) + searches.count(("group", "item")) <= 3
    at = env["users"]["id"].to_numpy()
    expected = by_hand(8)[0][at]
    np.testing.assert_allclose(np.stack(env["users"]["v"].to_pylist()), expected, rtol=1e-7)


def test_threads_do_not_change_a_bit() -> None:
    results = []
    for threads in (1, 2):
        with so.session(threads=threads):
            results.append(least_squares(5, np.arange(40), np.arange(25)).collect())
    assert results[0]["users"].equals(results[1]["users"])
    assert results[0]["items"].equals(results[1]["items"])


# Keys that change in each iteration, although they are only handed on.

SRC, DST = RNG.integers(0, 30, 200), RNG.integers(0, 30, 200)
TURNED = [RNG.permutation(30) for _ in range(3)]
VALUE = RNG.normal(size=30)


def turning(steps: int) -> Any:
    """Three columns of keys change places in each iteration."""
    links = so.table({"src": SRC, "dst": DST})
    a, b, c = TURNED
    start = so.table({"a": a, "b": b, "c": c, "v": VALUE})

    @so.loop({"t": start, "total": 0.0}, range(steps))
    def loop(env: Any) -> Any:
        t = env["t"]
        sums = links.join(t, left_on="src", right_on="a").group_by("b").agg(
            s=so.sum("v"), most=so.max("v")
        )  # fmt: skip
        even = t.filter(lambda r: r.a % 2 == 0)
        new = t.join(sums, left_on="c", right_on="b", how="left").select(
            a="b", b="c", c="a", v=lambda r: 0.5 * so.coalesce(r.s - r.most, 0.0) + r.v
        )
        return {"t": new, "total": even.sum("v")}

    return loop


def turned_by_hand(steps: int) -> tuple[dict[str, list[Any]], float]:
    a, b, c = (k.tolist() for k in TURNED)
    v, total = VALUE.tolist(), 0.0
    for _ in range(steps):
        received: dict[int, list[float]] = {}
        for s in SRC.tolist():
            i = a.index(s)
            received.setdefault(b[i], []).append(v[i])
        total = sum(x for x, k in zip(v, a, strict=True) if k % 2 == 0)
        for i, k in enumerate(c):
            own = received.get(k)
            v[i] += 0.5 * (sum(own) - max(own)) if own else 0.0
        a, b, c = b, c, a
    return {"a": a, "b": b, "c": c, "v": v}, total


class Held:
    """What relations and the budget hold after each iteration."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self.found: list[int] = []
        self.kept: list[int] = []
        self.budget: list[int] = []

    def iteration(self, loop: Any, number: int, scalars: Any, seconds: float) -> None:
        relations = [
            o
            for o in gc.get_objects()
            # Their types alone: some library's dead weak reference may be among all objects.
            if issubclass(type(o), indexed._Indexed | indexed_groups.IndexGroup)
        ]
        self.found.append(sum(o._index.found is not None for o in relations))
        self.kept.append(
            sum(len(o._gathered.vectors) for o in relations if isinstance(o, indexed._Indexed))
            + sum(len(o._index._vectors) for o in relations)
            + sum(
                s is not None
                for o in relations
                if isinstance(o, indexed_groups.IndexGroup)
                for s in o._sums
            )
        )
        self.budget.append(self._budget.held)


def test_keys_that_change_places_are_presumed_to_stay() -> None:
    assert invariant_columns(turning(3).plan) == ([], ["t.a", "t.b", "t.c"])
    after, _ = rewrite(op.Job((turning(3).plan,)), PHASES)
    assert all(n.indexed for n in find((after,), rel.Join))
    assert all(n.indexed for n in find((after,), rel.GroupAggregate))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 9])
def test_keys_that_change_give_what_a_plain_loop_gives(steps: int) -> None:
    env = turning(steps).collect()
    table, total = turned_by_hand(steps)
    for name in ("a", "b", "c"):
        assert env["t"][name].to_pylist() == table[name]
    np.testing.assert_allclose(env["t"]["v"].to_numpy(), table["v"], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(env["total"], total, rtol=1e-12)


def test_nothing_is_kept_of_keys_that_have_changed_three_times(
    searches: list[tuple[str, ...]],
) -> None:
    budget = MemoryBudget(None)
    held = Held(budget)
    run((turning(12),), 1, budget, listener=held)
    assert searches.count(("join", "src")) == searches.count(("group", "b")) == 12
    assert held.found[0] == 4  # two joins, a filter and the groups
    assert set(held.found[indexed.MOST_BUILDS :]) == {0}
    assert set(held.kept[indexed.MOST_BUILDS :]) == {0}
    assert len(set(held.budget[indexed.MOST_BUILDS :])) == 1
    assert budget.held == 0


def test_groups_that_stay_do_not_keep_the_nulls_of_each_iteration() -> None:
    links = so.table({"src": np.arange(2_000) % 60, "dst": np.arange(2_000) % 50})
    start = so.table({"id": np.arange(50), "v": np.ones(50)})

    @so.loop({"t": start, "most": 0.0}, range(30))
    def loop(env: Any) -> Any:
        rows = links.join(env["t"], left_on="src", right_on="id", how="left")
        most = rows.group_by("dst").agg(most=so.max("v")).sum("most")
        return {"t": env["t"].with_columns(v=lambda r: r.v * 0.5), "most": most}

    traced: list[int] = []

    class Traced:
        def iteration(self, loop: Any, number: int, scalars: Any, seconds: float) -> None:
            traced.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        run((loop,), 1, listener=Traced())
    finally:
        tracemalloc.stop()
    assert traced[-1] < traced[10] + 50_000  # the ids of one iteration take 16,000

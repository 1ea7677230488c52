"""Joins, filters and groups in loops whose keys stay: found once, and right when they do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.engine.kernels import grouping
from scalops.engine.kernels.kernel import Vector
from scalops.engine.relations import indexed, indexed_groups


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was searched for: a word for each search of joins and groups."""
    found: list[str] = []
    matched, grouped = indexed.matched, grouping.group_rows

    def match(*given: Any) -> Any:
        found.append("join")
        return matched(*given)

    def group(*given: Any) -> Any:
        found.append("group")
        return grouped(*given)

    monkeypatch.setattr(indexed, "matched", match)
    monkeypatch.setattr(indexed_groups, "group_rows", group)
    return found


class Env(so.Environment):
    """A table and a number."""

    t: so.Table
    total: float


def edges(seed: int = 1, nodes: int = 50, count: int = 400) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "src": rng.integers(0, nodes, count),
        "dst": rng.integers(0, nodes, count),
        "w": rng.normal(size=count),
    }


def by_hand(e: dict[str, Any], ids: Any, v: Any, steps: int, weight: Any) -> Any:
    """v[i] = 0.5 · Σ weight · v[src] over the edges to i."""
    for _ in range(steps):
        at = dict(zip(ids.tolist(), v, strict=True))
        new = {i: np.zeros_like(v[0]) for i in ids.tolist()}
        for s, d, w in zip(e["src"].tolist(), e["dst"].tolist(), weight, strict=True):
            if s in at and d in new:
                new[d] = new[d] + w * at[s]
        v = np.array([0.5 * new[i] for i in ids.tolist()])
    return v


def propagate(e: dict[str, Any], ids: Any, v: Any, steps: int, weighted: bool = True) -> Any:
    links, nodes = so.table(e), so.table({"id": ids})
    start = so.table({"id": ids[::-1].copy(), "v": v[::-1].copy()})  # another order

    @so.loop(Env(t=start, total=0.0), range(steps))
    def loop(env: Any) -> Any:
        sent = links.join(env.t, left_on="src", right_on="id")
        summed = so.sum(lambda r: r.w * r.v) if weighted else so.sum("v")
        sums = sent.group_by("dst").agg(s=summed)
        zero = np.zeros(v.shape[1:])
        env.t = nodes.join(sums, left_on="id", right_on="dst", how="left").select(
            "id", v=lambda r: 0.5 * so.coalesce(r.s, zero if v.ndim > 1 else 0.0)
        )
        env.total = env.t.map(lambda r: np.sum(r.v)).sum()
        return env

    return loop


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_sums_over_neighbours_are_those_of_a_plain_loop(
    weighted: bool, shape: tuple[int, ...]
) -> None:
    e, ids = edges(), np.arange(50)
    v = np.random.default_rng(2).normal(size=(50, *shape))
    env = propagate(e, ids, v, 4, weighted).collect()
    expected = by_hand(e, ids, v, 4, e["w"] if weighted else np.ones(400))
    assert env.t["id"].to_pylist() == ids.tolist()
    np.testing.assert_allclose(np.array(env.t["v"].to_pylist()), expected, rtol=1e-9, atol=1e-12)


def test_positions_are_searched_for_once_and_again_for_a_start_in_another_order(
    searches: list[str],
) -> None:
    """Of two joins and a group one join reads the start, in another order than the body's."""
    propagate(edges(), np.arange(50), np.ones(50), 6).collect()
    assert searches == ["join", "group", "join", "join"]


def test_threads_do_not_change_a_bit() -> None:
    e, ids = edges(count=3000, nodes=300), np.arange(300)
    v, results = np.random.default_rng(1).normal(size=300), []
    for threads in (1, 2):
        with so.session(threads=threads):
            results.append(propagate(e, ids, v, 5).collect())
    assert results[0].t.equals(results[1].t)


def test_keys_of_the_start_may_be_others_than_the_bodys() -> None:
    links = so.table({"src": [1, 2, 3, 9], "dst": [2, 3, 1, 9]})
    nodes = so.table({"id": [1, 2, 3]})
    start = so.table({"id": [9, 3, 7], "v": [100.0, 1.0, 5.0]})

    @so.loop(Env(t=start, total=0.0), range(3))
    def loop(env: Any) -> Any:
        sent = links.join(env.t, left_on="src", right_on="id")
        sums = sent.group_by("dst").agg(s=so.sum("v"))
        env.t = nodes.join(sums, left_on="id", right_on="dst", how="left").select(
            "id", v=lambda r: so.coalesce(r.s, 0.0) + 1.0
        )
        env.total = env.t.sum("v")
        return env

    v = {9: 100.0, 3: 1.0, 7: 5.0}
    for _ in range(3):
        v = {d: v.get(s, 0.0) + 1.0 for s, d in ((3, 1), (1, 2), (2, 3))}
    env = loop.collect()
    assert dict(zip(env.t["id"].to_pylist(), env.t["v"].to_pylist(), strict=True)) == v


def test_a_key_that_disappears_later_is_gone() -> None:
    """Records above a bound leave in iteration 3: their edges carry nothing any more."""
    links = so.table({"src": [0, 1, 2, 0], "dst": [1, 2, 0, 2]})
    start = so.table({"id": [0, 1, 2], "v": [1.0, 2.0, 3.0]})

    @so.loop(Env(t=start, total=0.0), range(5))
    def loop(env: Any) -> Any:
        sums = links.join(env.t, left_on="src", right_on="id").group_by("dst").agg(s=so.sum("v"))
        grown = env.t.join(sums, left_on="id", right_on="dst", how="left").select(
            "id", v=lambda r: r.v + so.coalesce(r.s, 0.0)
        )
        env.t = grown.filter(lambda r: r.v < 40)
        env.total = env.t.sum("v")
        return env

    v = {0: 1.0, 1: 2.0, 2: 3.0}
    gone = []
    for step in range(5):
        sums: dict[int, float] = {}
        for s, d in ((0, 1), (1, 2), (2, 0), (0, 2)):
            if s in v:
                sums[d] = sums.get(d, 0.0) + v[s]
        grown = {i: x + sums.get(i, 0.0) for i, x in v.items()}
        v = {i: x for i, x in grown.items() if x < 40}
        gone.append((step, len(v)))
    assert len({n for _, n in gone}) > 1  # one has left, and not at once
    env = loop.collect()
    assert dict(zip(env.t["id"].to_pylist(), env.t["v"].to_pylist(), strict=True)) == v


def test_an_index_that_is_rebuilt_again_and_again_is_kept_no_more() -> None:
    index: indexed.Index[str] = indexed.Index()
    for n in range(6):
        identities = (b"%d" % n,)
        assert not index.holds(identities, [(np.array([n]), None)])
        index.renew(identities, [(np.array([n]), None)], "positions")
        assert index.is_kept == (n < indexed.MOST_BUILDS)
        assert index.known(identities) == ("positions" if index.is_kept else None)


def test_equal_keys_of_another_identity_are_the_same_keys() -> None:
    index: indexed.Index[str] = indexed.Index()
    index.renew((b"a",), [(np.array([1.0, np.nan]), None)], "positions")
    assert index.holds((b"b",), [(np.array([1.0, np.nan]), None)])
    assert index.identities == (b"b",)
    assert not index.holds((b"c",), [(np.array([1.0, 2.0]), None)])
    assert not index.holds((None,), [])
    masked: list[Vector] = [(np.array([1.0, np.nan]), np.array([True, False]))]
    assert not index.holds((b"d",), masked)

"""Tables by key as somebody new to them writes them: whole programs, and messages that help."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import scalops as so
from scalops.algebra.errors import Location
from scalops.cli.commands import cli

T = so.table({"k": ["a", "b", "a"], "v": [1.0, 2.0, 3.0], "n": [1, 2, 3]})
G = T.group_by("k")

# Programs.


def test_sessions_of_a_log_are_those_of_pandas() -> None:
    rng = np.random.default_rng(1)
    log = pd.DataFrame(
        {
            "user": rng.choice(["u", "v", "w"], 200),
            "at": pd.Timestamp("2024-01-01")
            + pd.to_timedelta(rng.integers(0, 86_400, 200), unit="s"),
            "page": rng.choice(["home", "cart"], 200),
        }
    )
    ordered = so.from_arrow(log).sort("user", "at").with_row_index("row")
    before = ordered.select("user", before="at", row=lambda r: r.row + 1)
    begun = ordered.join(before, on=["user", "row"], how="left").with_columns(
        first=lambda r: so.coalesce(r.at - r.before > np.timedelta64(30, "m"), True)
    )
    sessions = begun.with_columns(session=so.cumsum("first"), nth=so.cumsum("first", over="user"))
    made = sessions.group_by("session").agg(
        user=so.first("user"),
        nth=so.first("nth"),
        n=so.count(),
        pages=so.collect_list("page"),
        begin=so.min("at"),
        end=so.max("at"),
    )
    got = made.with_columns(long=lambda r: r.end - r.begin).to_pandas()

    wanted = log.sort_values(["user", "at"], kind="stable")
    gap = wanted.groupby("user")["at"].diff()
    wanted["first"] = gap.isna() | (gap > pd.Timedelta("30min"))
    wanted["session"] = wanted["first"].cumsum()
    wanted["nth"] = wanted.groupby("user")["first"].cumsum()
    by = wanted.groupby("session")
    assert got["session"].tolist() == list(by.groups)
    assert got["user"].tolist() == by["user"].first().tolist()
    assert got["nth"].tolist() == by["nth"].first().tolist()
    assert got["n"].tolist() == by.size().tolist()
    assert [list(p) for p in got["pages"]] == by["page"].agg(list).tolist()
    assert got["long"].tolist() == (by["at"].max() - by["at"].min()).tolist()


def test_the_best_customers_are_those_of_pandas() -> None:
    rng = np.random.default_rng(2)
    c = pd.DataFrame({"customer": np.arange(40), "since": rng.integers(2010, 2025, 40)})
    p = pd.DataFrame({"product": np.arange(9), "price": rng.uniform(1, 9, 9)})
    o = pd.DataFrame(
        {
            "customer": rng.integers(0, 45, 500),  # some of them unknown
            "product": rng.integers(0, 9, 500),
            "quantity": rng.integers(1, 6, 500),
        }
    )
    orders, customers, products = map(so.from_arrow, (o, c, p))
    best = (
        orders.join(customers, on="customer")
        .join(products, on="product")
        .filter(lambda r: r.since >= 2015)
        .with_columns(amount=lambda r: r.quantity * r.price)
        .group_by("customer")
        .agg(revenue=so.sum("amount"), n=so.count(), top=so.argmax("amount", "product"))
        .filter(lambda r: r.n >= 2)
        .sort("revenue", descending=True)
        .limit(10)
    ).to_pandas()
    d = o.merge(c, on="customer").merge(p, on="product")
    d = d[d.since >= 2015].assign(amount=lambda x: x.quantity * x.price)
    by = d.groupby("customer")
    wanted = by["amount"].agg(["sum", "size"]).query("size >= 2").nlargest(10, "sum")
    assert best["customer"].tolist() == wanted.index.tolist()
    np.testing.assert_allclose(best["revenue"], wanted["sum"])
    chosen = d.loc[by["amount"].idxmax()].set_index("customer")["product"]
    assert best["top"].tolist() == chosen[best["customer"]].tolist()


class Paths(so.Environment):
    far: so.Table
    changed: so.Table
    rounds: int


def test_shortest_paths_end_when_no_message_is_left() -> None:
    rng = np.random.default_rng(3)
    pairs = np.unique(rng.integers(0, 60, (150, 2)), axis=0)
    weights = rng.uniform(1, 9, len(pairs))
    edges = so.table({"src": pairs[:, 0], "dst": pairs[:, 1], "w": weights})
    start = so.table({"id": np.arange(60)}).with_columns(
        d=lambda r: np.where(r.id == 0, 0.0, np.inf)
    )
    first = Paths(far=start, changed=start.filter(lambda r: r.d < np.inf), rounds=0)

    @so.loop(first, lambda env: ~env.changed.is_empty(), max_iterations=100)
    def paths(env: Any) -> Any:
        sent = env.changed.join(edges, left_on="id", right_on="src")
        offers = sent.group_by("dst").agg(offer=so.min(lambda r: r.d + r.w))
        both = env.far.join(offers, left_on="id", right_on="dst", how="left").with_columns(
            better=lambda r: so.coalesce(r.offer < r.d, False),
            d=lambda r: np.minimum(r.d, so.coalesce(r.offer, np.inf)),
        )
        env.far = both.select("id", "d")
        env.changed = both.filter(lambda r: r.better).select("id", "d")
        env.rounds += 1
        return env

    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_weighted_edges_from(zip(*pairs.T.tolist(), weights.tolist(), strict=True))
    wanted = nx.single_source_dijkstra_path_length(graph, 0)
    result = paths.run()
    far = dict(zip(*result.env.far.to_pydict().values(), strict=True))
    reached = {k: v for k, v in far.items() if v < np.inf}
    assert result.converged
    assert reached.keys() == wanted.keys()
    assert all(reached[k] == pytest.approx(wanted[k]) for k in wanted)


# Messages.

WRONG: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    ("agg by position", lambda: G.agg(so.sum("v")), so.SchemaError, r"agg\(name=so.sum\('v'\)\)"),
    ("agg of a string", lambda: G.agg("v"), so.SchemaError, "without one"),
    (
        "best by two columns",
        lambda: so.argmax("v", ["n", "k"]),  # type: ignore[arg-type]
        so.TraceError,
        r"\{'n': r\['n'\], ",
    ),
    ("an aggregate in map", lambda: T.map(lambda r: so.sum("v")), so.TraceError, "belongs in agg"),
    (
        "an aggregate in a dict",
        lambda: T.map(lambda r: {"v": r.v, "all": so.sum("v")}),
        so.TraceError,
        "belongs in agg",
    ),
    (
        "a running one in map",
        lambda: T.map(lambda r: so.cumsum("v")),
        so.TraceError,
        "new column of with_columns or select.*compute with that one in the next step",
    ),
    (
        "a running one in a dict",
        lambda: T.map(lambda r: {"v": r.v, "c": so.cumsum("v")}),
        so.TraceError,
        "new column of with_columns or select",
    ),
    ("a running one in filter", lambda: T.filter(lambda r: so.cummax("v")), so.TraceError, "new c"),
    (
        "distinct by a function",
        lambda: T.distinct(lambda r: r.k),  # type: ignore[arg-type]
        so.SchemaError,
        r"make it a column first: with_columns\(name=",
    ),
    (
        "another table's records",
        lambda: T.map(lambda r: T.filter(lambda q: q.k == r.k).count()),
        so.PlanError,
        r"beside this one's: join\(other, on=",
    ),
    (
        "a frame as state",
        lambda: so.loop({"t": pd.DataFrame({"a": [1]})}, range(2))(lambda env: env),
        so.LoopError,
        r"so.from_arrow\(\.\.\.\)",
    ),
]


@pytest.mark.parametrize(
    ("call", "kind", "says"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG]
)
def test_a_message_names_what_does_it(
    call: Callable[[], Any], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says) as caught:
        call()
    location = caught.value.location  # type: ignore[attr-defined]
    assert isinstance(location, Location)
    assert Path(location.file).name == Path(__file__).name


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("cumsum", 'with_columns(c=so.cumsum("v"))'),
        ("cumprod", 'with_columns(c=so.cumprod("v"))'),
        ("shift", "a join with the same table"),
        ("drop_duplicates", "distinct(*columns)"),
        ("value_counts", 'group_by("k").count()'),
        ("nlargest", "sort(*keys, descending=True).limit(n)"),
        ("concat", "union(other)"),
    ],
)
def test_other_packages_methods_are_translated(name: str, instead: str) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(T, name)
    assert instead in str(caught.value)


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("nunique", "so.n_unique(c)"),
        ("median", "so.quantile(0.5, c)"),
        ("lag", "a join with the same table"),
        ("row_number", "so.cumsum(lambda r: 1, over=...)"),
        ("col", "lambda r: r.c"),
        ("when", "so.where("),
    ],
)
def test_other_packages_functions_are_translated(name: str, instead: str) -> None:
    assert not hasattr(so, name)
    with pytest.raises(AttributeError, match=f"has no attribute '{name}'; use ") as caught:
        getattr(so, name)
    assert instead in str(caught.value)


def test_the_advice_for_numbers_within_a_group_holds() -> None:
    ranked = T.sort("v", descending=True).with_columns(rank=so.cumsum(lambda r: 1, over="k"))
    assert ranked.select("k", "rank").collect().to_pydict() == {
        "k": ["a", "b", "a"],
        "rank": [1, 1, 2],
    }
    best = G.agg(best=so.argmax("v", lambda r: {"n": r["n"], "k": r["k"]}))
    assert best.collect()["best"].to_pylist() == [{"n": 3, "k": "a"}, {"n": 2, "k": "b"}]


# What a plan and a profile say.


def test_explain_tells_why_a_table_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    T.write_csv("t.csv")
    Path("shared.py").write_text(
        "import scalops as so\n\n\n@so.program\ndef main():\n"
        "    positive = so.read_csv('t.csv').filter(lambda r: r.v > 0)\n"
        "    return positive.group_by('k').count(), positive.sort('v')\n"
    )
    shown = CliRunner().invoke(cli, ["explain", "shared.py"])
    assert shown.exit_code == 0
    assert "read by several, computed once by cache_shared: " in shown.output
    held = T.with_columns(m=lambda r: np.exp(r.v))
    loop = so.loop(0.0, range(3))(lambda s: s + held.map(lambda r: r.m - s).sum())
    assert "invariant, computed once by cache_invariants: " in loop.explain()
    assert "by your cache(), kept for later plans: " in T.cache().count().explain()


def test_joins_and_groups_of_an_iteration_are_no_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    links = so.table({"src": [0, 1, 2, 2], "dst": [1, 2, 0, 1]})
    start = so.table({"id": np.arange(3), "rank": np.ones(3)})

    @so.loop(start, range(20))
    def ranked(t: Any) -> Any:
        sent = t.join(links, left_on="id", right_on="src")
        given = sent.group_by("dst").agg(rank=so.mean("rank"))
        return given.select(id="dst", rank="rank")

    ticks = itertools.count()
    monkeypatch.setattr("scalops.engine.driver.perf_counter", lambda: float(next(ticks)))
    profile = ranked.run().profile
    assert profile["map"] >= 3 * 20  # a join, groups and the next table, a tick for each
    assert 0 < profile["load"] < 20  # what is held before the loop

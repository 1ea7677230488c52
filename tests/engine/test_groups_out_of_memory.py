"""Groups, functions of groups and running aggregates beyond the memory: same bits, none left."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra.dtypes import FLOAT64, INT64
from scalops.engine import blocks, memory
from scalops.engine.blas import single_threaded
from scalops.engine.driver import Driver
from scalops.engine.embedded import EmbeddedBackend
from scalops.engine.memory import MemoryBudget
from scalops.engine.relations import dealt, group_partials, group_parts, group_records, groups
from scalops.planning import plan as planned
from tests.cluster.lockstep import LockstepBackend
from tests.cluster.test_rank_groups import bits_of
from tests.engine.group_plans import applied
from tests.engine.grouped import KEYS, fold, grouped, source
from tests.engine.plans import job_of, pool
from tests.engine.test_grouped_folds import PARTS
from tests.engine.test_groups import keys_by_type
from tests.quick import quick, repeated

BUDGETS = {"1 KB": 1_000, "64 KB": 64_000, "1 MB": 1_000_000}
WAYS = {"block by block": 1e9, "as a whole": 0.0}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of at most 64 records, and parts of 50 KB, which are cut again."""
    monkeypatch.setattr(blocks, "MAX_BLOCK_ROWS", 64)
    monkeypatch.setattr(blocks, "MIN_PARTITION_BYTES", 1)
    monkeypatch.setattr(groups, "SMALL_BYTES", 0)
    monkeypatch.setattr(dealt, "SMALL_BYTES", 1 << 10)
    monkeypatch.setattr(group_parts, "LEAST_PART", 50_000)
    monkeypatch.setattr(group_partials, "MOST_BITS", 3)
    monkeypatch.setattr(group_records, "PART_BITS", 2)


def made(node: Any, limit: int | None, ranks: int = 1) -> Any:
    """The bits of what the engine gives; what it held it has given back."""
    if ranks == 1:
        budget = MemoryBudget(limit)
        backend: Any = EmbeddedBackend(pool(2), budget)
        budgets = [budget]
    else:
        backend = LockstepBackend(ranks, 2, limit)
        budgets = backend.budgets
    with single_threaded():
        (found,) = Driver(planned(job_of(SimpleNamespace(plan=node))), backend).run()
    backend.stop()
    assert [budget.owners() for budget in budgets] == [{}] * ranks
    return bits_of(list(found))


def same(node: Any, limit: int, sizes: tuple[int, ...] = (1, 3)) -> None:
    expected = made(node, None)
    for ranks in sizes:
        assert made(node, limit, ranks) == expected, ranks


CASES = [
    ("numbers", "many", "block by block", "1 KB"),
    ("choices", "few", "block by block", "64 KB"),
    ("products", "many", "as a whole", "1 KB"),
]
EVERY = [case for case in product(PARTS, KEYS, WAYS, BUDGETS) if case not in CASES]


@pytest.mark.parametrize(("part", "keys", "way", "budget"), quick(CASES + EVERY, len(CASES)))
def test_every_fold(
    part: str, keys: str, way: str, budget: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "WHOLE_SHARE", WAYS[way])
    table = source(200, keys, seed=4)
    same(grouped(table, ["k"], PARTS[part](table)), BUDGETS[budget])


KEYS_BY_TYPE = keys_by_type(300, 60)
TYPES = ["string", "float64", "sparse", *KEYS_BY_TYPE]


@pytest.mark.parametrize(("kind", "way"), quick(product(dict.fromkeys(TYPES), WAYS), 2))
def test_keys_of_every_type(kind: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "WHOLE_SHARE", WAYS[way])
    monkeypatch.setattr(group_parts, "LEAST_PART", 500)
    table = so.table({"k": KEYS_BY_TYPE[kind], "x": np.random.default_rng(1).normal(size=300)})
    folds = [
        fold(table, "n", "count"),
        fold(table, "s", "sum", "x"),
        fold(table, "f", "first", "x"),
    ]
    same(grouped(table, ["k"], folds), 1_000)


@pytest.mark.parametrize("limit", quick([20_000, 1_000], 1))
def test_a_group_of_most_records_and_many_of_one(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "WHOLE_SHARE", 0.0)
    monkeypatch.setattr(group_parts, "LEAST_PART", 500)
    k = np.arange(900)
    k[100:800] = 7
    table = so.table({"k": k, "x": np.random.default_rng(2).normal(size=900)})
    folds = [fold(table, "s", "sum", "x"), fold(table, "l", "collect_list", "x")]
    same(grouped(table, ["k"], folds), limit)


@repeated(8)
def test_random_queries(run: int) -> None:
    rng = np.random.default_rng(run)
    rows = 700
    t = so.table({"k": rng.integers(0, 150, rows), "j": rng.integers(0, 9, rows),
                  "x": rng.normal(size=rows)})  # fmt: skip
    queries = [
        t.group_by("k").agg(s=so.sum("x"), m=so.mean("x"), n=so.n_unique("j")),
        t.group_by("k", "j").agg(q=so.quantile(0.3, "x"), v=so.var("x")),
        t.with_columns(c=so.cumsum("x", over="k"), d=so.cummax("x", over=["k", "j"])),
        t.with_columns(c=so.cumsum("x", reverse=True), d=so.cumprod("x", reverse=True, over="j")),
        t.filter(lambda r: r.x > 0).group_by("k").agg(f=so.first("x"), a=so.argmax("x", "j")),
        t.group_by("j").agg(s=so.sum("x")).join(t, on="j").group_by("k").agg(s=so.sum("s")),
    ]
    for query in rng.permutation(len(queries)).tolist()[: 2 if run == 0 else None]:
        for limit in BUDGETS.values():
            same(queries[query].plan, limit)


def last_two(rows: Any) -> Any:
    return {"n": rows.num_rows, "t": float(np.asarray(rows["x"])[-2:].sum())}


def test_functions_of_groups() -> None:
    rng = np.random.default_rng(3)
    t = so.table({"k": rng.integers(0, 40, 600), "x": rng.normal(size=600)})
    keys = so.table({"k": np.arange(40)})
    query = applied(last_two, keys, t, gives={"n": INT64, "t": FLOAT64})
    for limit in BUDGETS.values():
        same(query.plan, limit)


def test_a_group_that_finds_no_room_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LEAST_WORKING", 50_000)
    k = np.arange(9_000) % 9
    k[1_000:] = 4
    t = so.table({"k": k, "x": np.zeros(9_000)})
    query = applied(last_two, so.table({"k": np.arange(9)}), t, gives={"n": INT64, "t": FLOAT64})
    with pytest.raises(so.ScalopsError, match=r"last_two\(\) .* key is 4 take 130 KB") as caught:
        made(query.plan, 1_000)
    assert "so.session(memory=...)" in str(caught.value)


def test_a_loop_over_groups_that_stay() -> None:
    rng = np.random.default_rng(5)
    edges = so.table({"a": rng.integers(0, 200, 900), "b": rng.integers(0, 200, 900)})
    ranks = so.table({"id": np.arange(200), "rank": np.ones(200)})

    def ranked(limit: int | None) -> Any:
        with so.session(memory=limit, processes=0):

            @so.loop({"ranks": ranks}, range(4))
            def iterated(env: Any) -> Any:
                there = edges.join(env["ranks"], left_on="a", right_on="id")
                sums = there.group_by("b").agg(rank=so.sum("rank"))
                return {"ranks": sums.map(lambda r: {"id": r.b, "rank": 0.1 + r.rank / 9})}

            return iterated.collect()["ranks"]

    assert ranked(1_000).equals(ranked(None))

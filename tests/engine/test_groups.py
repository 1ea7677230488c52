"""Groups: which records belong together, in which order, and how they are found."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

import scalops as so
from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.explain import PlanPrinter
from scalops.engine import blocks
from scalops.engine.kernels.grouping import group_rows
from scalops.engine.physical_display import display
from scalops.engine.relations import groups
from scalops.planning import plan as planned
from tests.engine.grouped import bits_of, differences, fold, found, grouped, rows_of, source
from tests.engine.plans import job_of


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of at most 64 records, one in each partition, folded on threads."""
    monkeypatch.setattr(blocks, "MAX_BLOCK_ROWS", 64)
    monkeypatch.setattr(blocks, "MIN_PARTITION_BYTES", 1)
    monkeypatch.setattr(groups, "SMALL_BYTES", 0)


def keys_by_type(rows: int, distinct: int) -> dict[str, Any]:
    """Columns of each type with about so many values."""
    rng = np.random.default_rng(0)
    n = rng.integers(0, distinct, rows)
    missing = rng.random(rows) < 0.1
    floats = n - distinct // 2 + 0.0
    floats[n == 1] = np.nan
    floats[(n == distinct // 2) & (rng.random(rows) < 0.5)] = -0.0
    far = n.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    dense = rng.random((rows, 4)) < 0.3
    return {
        "int64": np.ma.array(n - distinct // 2, mask=missing),
        "far apart": far.view(np.int64),
        "uint64": far,
        "int8": (n % 100 - 50).astype(np.int8),
        "bool": np.ma.array(n % 2 == 0, mask=missing),
        "float64": np.ma.array(floats, mask=missing),
        "float32": floats.astype(np.float32),
        "string": pa.array([None if m else f"s{i}" for i, m in zip(n, missing, strict=True)]),
        "time": np.where(missing, np.datetime64("NaT"), np.array("2020", "M8[us]") + n),
        "vector": np.stack([n % 3, n % 2], 1) + 0.0,
        "list": pa.array([[i] * (i % 3) for i in n.tolist()]),
        "sparse": sparse.csr_matrix(dense * 1.0),
    }


TYPES = list(keys_by_type(1, 1))


@pytest.mark.parametrize("distinct", [5, 200])
@pytest.mark.parametrize("name", TYPES)
def test_any_type_may_be_a_key(name: str, distinct: int) -> None:
    columns = keys_by_type(200, distinct)
    table = so.table({"key": columns[name], "x": np.arange(200.0)})
    node = grouped(table, ["key"], [fold(table, "n", "count"), fold(table, "s", "sum", "x")])
    assert list(differences(node, found(node, 2))) == []


@pytest.mark.parametrize("names", [("int64", "string"), ("float64", "bool", "far apart")])
def test_several_keys_are_one(names: tuple[str, ...]) -> None:
    columns = keys_by_type(300, 9)
    table = so.table({n: columns[n] for n in names} | {"x": np.arange(300.0)})
    node = grouped(table, names, [fold(table, "s", "sum", "x")])
    assert list(differences(node, found(node, 2))) == []


def test_without_keys_all_records_are_one_group() -> None:
    table = so.table({"x": np.arange(200.0)})
    node = grouped(table, [], [fold(table, "s", "sum", "x")])
    assert rows_of(found(node), node) == [{"s": np.arange(200.0).sum()}]
    nothing = grouped(table.limit(0), [], [fold(table, "s", "sum", "x")])
    assert rows_of(found(nothing), nothing) == []


def test_group_rows_numbers_groups_by_first_appearance() -> None:
    rng = np.random.default_rng(0)
    late = np.concatenate([np.zeros(900, int), [7, 3, 7, 0]])
    small, wide = rng.integers(-5, 5, 2_000), rng.integers(0, 2**62, 500)
    for values in (small, wide, np.arange(500)[::-1], late):
        kind = so.table({"k": values}).plan.schema["k"]
        ids, firsts = group_rows([(values, None)], [kind], len(values))
        order = list(dict.fromkeys(values.tolist()))
        assert ids.tolist() == [order.index(v) for v in values.tolist()]
        assert values[firsts].tolist() == order


def test_extreme_integers_are_keys() -> None:
    values = np.array([2**63 - 1, -(2**63), 0, 2**63 - 1, -(2**63), -1])
    table = so.table({"k": values})
    node = grouped(table, ["k"], [fold(table, "n", "count")])
    assert [r["k"] for r in rows_of(found(node), node)] == [2**63 - 1, -(2**63), 0, -1]


# Ways to go.


@pytest.mark.parametrize("keys", ["few", "many", "all distinct", "one"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1e9])
def test_both_ways_give_the_same_groups(
    keys: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "WHOLE_SHARE", share)
    table = source(500, keys)
    folds = [
        fold(table, "n", "count"),
        fold(table, "s", "sum", "n"),
        fold(table, "f", "first", "n"),
    ]
    folds.append(fold(table, "l", "collect_list", "n"))
    node = grouped(table, ["k"], folds)
    assert list(differences(node, found(node, 2))) == []


@pytest.mark.parametrize("keys", ["few", "many"])
def test_little_memory_changes_no_bit(keys: str) -> None:
    rng = np.random.default_rng(0)
    k = rng.integers(0, 5 if keys == "few" else 1_000, 2_000)
    table = so.table({"k": k, "x": rng.normal(size=2_000)})
    node = grouped(table, ["k"], [fold(table, "s", "sum", "x"), fold(table, "v", "mean", "x")])
    expected = bits_of(found(node), node)
    memory = 400 if keys == "few" else 200_000
    assert bits_of(found(node, 2, memory), node) == expected


def test_keys_that_all_differ_go_to_files_where_there_is_no_room() -> None:
    table = so.table({"k": np.arange(2_000), "x": np.arange(2_000.0)})
    node = grouped(table, ["k"], [fold(table, "s", "sum", "x")])
    assert bits_of(found(node, 2, 1_000), node) == bits_of(found(node, 2), node)


def test_groups_are_found_anew_where_keys_change_in_a_loop() -> None:
    table = so.table({"k": np.arange(300) % 4, "x": np.arange(300.0)})

    @so.loop(0.0, range(3))
    def total(value: Any, i: Any) -> Any:
        moved = table.with_columns(k=lambda r: r.k % (i + 1))
        return value * 10 + moved.group_by("k").agg(s=so.sum("x")).count()

    assert float(total.collect()) == 123.0


def test_records_that_stand_alone_at_first_do_not_decide_by_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(groups.GroupRows, "_of_whole", None)
    table = so.table({"k": np.arange(5_000) % 3, "x": np.arange(5_000.0)})
    late = table.filter(lambda r: (r.x == 0) | (r.x > 200))
    node = grouped(late, ["k"], [fold(table, "s", "sum", "x")])
    assert list(differences(node, found(node, 2))) == []


def test_a_filter_may_leave_nothing() -> None:
    table = so.table({"k": np.arange(300), "x": np.arange(300.0)}).filter(lambda r: r.x < 0)
    folds = [fold(table, k, k, "x") for k in ("sum", "minimum", "first", "collect_list")]
    node = grouped(table, ["k"], folds)
    assert rows_of(found(node, 2), node) == []


@pytest.mark.parametrize("count", [20, 30_000])
def test_sums_and_means_are_duckdbs(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MAX_BLOCK_ROWS", 4096)
    rng = np.random.default_rng(0)
    rows = pa.table({"k": rng.integers(0, count, 50_000), "x": rng.normal(size=50_000)})
    table = so.from_arrow(rows)
    kinds = {"s": "sum", "m": "mean", "a": "minimum", "b": "maximum"}
    folds = [fold(table, "n", "count"), *(fold(table, n, k, "x") for n, k in kinds.items())]
    folds.append(fold(table, "v", "var", "x", parameters={"ddof": 0}))
    node = grouped(table, ["k"], folds)
    made = found(node, 2)
    expected = (
        duckdb.connect()
        .execute(
            """select k, count(*) n, sum(x) s, avg(x) m, min(x) a, max(x) b, var_pop(x) v
        from (select *, row_number() over () as r from rows) group by k order by min(r)"""
        )
        .fetchnumpy()
    )
    for name in node.schema.names:
        own = np.concatenate([b.columns[name] for b in made])
        np.testing.assert_allclose(own, expected[name], rtol=1e-9, atol=1e-12)


# The user's own aggregates, group by group.


@pytest.mark.parametrize("rows", [0, 200])
@pytest.mark.parametrize("keys", ["few", "all distinct"])
def test_aggregates_of_the_users_run_over_each_group(keys: str, rows: int) -> None:
    table = source(rows, keys)
    made = table.group_by("k").map(
        lambda key, rows: {
            "traced": rows.aggregate(1.0, lambda s, r: s * 0.5 + r.n, lambda a, b: a + b),
        }
    )
    node = made.plan
    assert list(differences(node, found(node, 2))) == []


# Distinct by columns.


@pytest.mark.parametrize("columns", [("k",), ("s",), ("f", "b"), ()])
def test_distinct_keeps_the_first_record_of_equal_columns(columns: tuple[str, ...]) -> None:
    table = source(300).drop("l", "x")
    node = op.Distinct(table.plan, columns)
    assert list(differences(node, found(node, 2))) == []


# Plans for readers.


def test_the_plan_says_what_groups_are_of() -> None:
    table = so.table({"k": [1, 2], "x": [1.0, 2.0]})
    k = ex.Column("k", table.plan.schema["k"])
    node = grouped(table, ["k"], [fold(table, "s", "sum", "x")])
    node = type(node)(node.source, (("k", k), ("half", k)), node.folds, indexed=True)
    shown = PlanPrinter(node).display(node).to_text()
    assert "GroupBy k, half = k, groups found once" in shown
    assert "s = sum(x)" in shown
    distinct = op.Distinct(table.plan, ("k",))
    assert "Distinct by k" in PlanPrinter(distinct).display(distinct).to_text()


def test_the_physical_plan_says_that_the_data_decides() -> None:
    table = so.table({"k": [1, 2], "x": [1.0, 2.0]})
    node = grouped(table, ["k"], [fold(table, "s", "sum", "x")])
    text = display(planned(job_of(SimpleNamespace(plan=node)))).to_text()
    assert "GroupRows to t1 by k" in text
    assert "decided by the first records" in text

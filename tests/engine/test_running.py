"""Running aggregates in the engine: partitions, carries, and what must not differ with them."""

from __future__ import annotations

import itertools
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from scipy.signal import lfilter

import scalops as so
from scalops.algebra.dtypes import ArrayType
from scalops.engine import blocks
from scalops.engine.kernels.running import FORMS
from scalops.engine.memory import MemoryBudget
from scalops.engine.relations import running as relation
from tests.engine.plans import bits, run
from tests.quick import crossed

KINDS = ("cumsum", "cummin", "cummax", "cumprod")
UFUNCS = {"cumsum": np.add, "cummin": np.minimum, "cummax": np.maximum, "cumprod": np.multiply}


@pytest.fixture(params=[64, 65_536])
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Blocks of at most so many records, one in each partition."""
    monkeypatch.setattr(blocks, "MAX_BLOCK_ROWS", request.param)
    monkeypatch.setattr(blocks, "MIN_PARTITION_BYTES", 1)
    return int(request.param)


def made(column: Any, order: Any = None, **columns: Any) -> Any:
    """The running aggregate `c` of a table of these columns, as an Arrow array."""
    table = so.table(columns)
    return table.select(c=column).collect().column("c").combine_chunks()


def numbers(column: Any) -> Any:
    values = column.to_numpy(zero_copy_only=False)
    return values


def plain(kind: str, values: Any, reverse: bool = False) -> Any:
    turned = values[::-1] if reverse else values
    with np.errstate(all="ignore"):
        result = UFUNCS[kind].accumulate(turned, axis=0, dtype=np.cumsum(values[:1]).dtype)
    return result[::-1] if reverse else result


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_partitions_gives_numpys_result(
    small_blocks: int, kind: str, reverse: bool
) -> None:
    rng = np.random.default_rng(1)
    values = rng.uniform(0.9, 1.1, 1500)
    found = numbers(made(getattr(so, kind)("v", reverse=reverse), v=values))
    np.testing.assert_allclose(found, plain(kind, values, reverse), rtol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_integers_are_exact_and_wrap_as_numpys(small_blocks: int, kind: str, reverse: bool) -> None:
    values = np.random.default_rng(2).integers(-(2**62), 2**62, 1000)
    found = numbers(made(getattr(so, kind)("v", reverse=reverse), v=values))
    np.testing.assert_array_equal(found, plain(kind, values, reverse))


def loop(a: Any, b: Any, reverse: bool = False) -> Any:
    z = np.empty(len(a))
    before = 0.0
    for i in reversed(range(len(a))) if reverse else range(len(a)):
        before = z[i] = a[i] + b[i] * before
    return z


@pytest.mark.parametrize("reverse", [False, True])
def test_a_recurrence_is_that_of_a_plain_loop(small_blocks: int, reverse: bool) -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=1300), rng.uniform(-1.2, 1.2, 1300)
    found = numbers(made(so.cumsumprod("a", "b", reverse=reverse), a=a, b=b))
    np.testing.assert_allclose(found, loop(a, b, reverse), rtol=1e-9, atol=1e-9)


def test_a_recurrence_with_a_constant_is_a_linear_filter(small_blocks: int) -> None:
    a = np.random.default_rng(4).normal(size=1300)
    found = numbers(made(so.cumsumprod("a", lambda r: 0.9), a=a))
    np.testing.assert_allclose(found, lfilter([1.0], [1.0, -0.9], a), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [*KINDS, "cumsumprod"])
def test_float32_stays_float32(small_blocks: int, kind: str) -> None:
    values = np.random.default_rng(5).uniform(0.99, 1.01, 700).astype(np.float32)
    given = ("v", "v") if kind == "cumsumprod" else ("v",)
    found = numbers(made(getattr(so, kind)(*given), v=values))
    assert found.dtype == np.float32
    exact = values.astype(np.float64)
    expected = loop(exact, exact) if kind == "cumsumprod" else plain(kind, exact)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize(
    "values",
    [
        [1e-200, 1e-200, 1e200, 1e200] * 50,  # underflows to 0 and stays there
        [1e200, 1e200, 1e-200, 1e-200] * 50,  # overflows to infinity and stays there
        [2.0, 0.5] * 300,
        [1e150, 1e-150] * 300,
        [1.0, 0.0, np.inf] * 100,
        [1.0] * 200 + [0.0] + [1e300] * 200,  # 0 times what overflows by itself
        [1e-300] + [1.0] * 100 + [1e200] * 2 + [1.0] * 300,
        [-1.0, 2.0, np.nan] + [3.0] * 200,
        [-0.0, 5.0, -2.0] * 70,
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_products_at_the_ends_of_the_range_are_numpys(
    small_blocks: int, values: list[float], reverse: bool
) -> None:
    array = np.array(values)
    found = numbers(made(so.cumprod("v", reverse=reverse), v=array))
    np.testing.assert_allclose(found, plain("cumprod", array, reverse), rtol=1e-9)


@pytest.mark.parametrize("kind", ["cumsum", "cummin", "cummax"])
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_runs_on(small_blocks: int, kind: str, special: float) -> None:
    array = np.random.default_rng(6).normal(size=600)
    array[300] = special
    array[400] = -special
    found = numbers(made(getattr(so, kind)("v"), v=array))
    np.testing.assert_allclose(found, plain(kind, array), rtol=1e-9, atol=1e-9)


def test_a_sum_that_overflows_only_without_its_carry_does_not(small_blocks: int) -> None:
    array = np.concatenate([[-1.5e308], np.zeros(511), [1e308, 1e308], np.zeros(600)])
    found = numbers(made(so.cumsum("v"), v=array))
    np.testing.assert_allclose(found, np.cumsum(array))


def test_a_recurrence_recovers_from_factors_that_overflow(small_blocks: int) -> None:
    a = np.zeros(700)
    a[600] = 1.0
    b = np.full(700, 1e10)  # the product overflows, 0 times it is 0
    b[600:] = 0.5
    found = numbers(made(so.cumsumprod("a", "b"), a=a, b=b))
    np.testing.assert_allclose(found, loop(a, b))


# Groups.


def by_group(kind: str, keys: Any, values: Any, reverse: bool) -> Any:
    found = np.empty(len(values))
    for key in set(keys):
        own = np.array([k == key for k in keys])
        found[own] = plain(kind, values[own], reverse)
    return found


@pytest.mark.parametrize(
    ("kind", "reverse", "groups"), crossed(KINDS, (False, True), (1, 3, 40, 2000))
)
def test_each_group_has_a_run_of_its_own(
    small_blocks: int, kind: str, reverse: bool, groups: int
) -> None:
    rng = np.random.default_rng(7)
    keys, values = rng.integers(0, groups, 1500), rng.uniform(0.9, 1.1, 1500)
    found = numbers(made(getattr(so, kind)("v", over="g", reverse=reverse), v=values, g=keys))
    expected = by_group(kind, keys.tolist(), values, reverse)
    np.testing.assert_allclose(found, expected, rtol=1e-11)


@pytest.mark.parametrize("reverse", [False, True])
def test_many_groups_are_numbered_part_by_part(
    small_blocks: int, reverse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = relation._cut
    parts: list[int] = []

    def counted(keys: Any, schema: Any, bits: int, room: Any) -> Any:
        parts.append(1 << bits)
        return cut(keys, schema, bits, room)

    monkeypatch.setattr(relation, "coded_bytes", lambda budget: 500)
    monkeypatch.setattr(relation, "_cut", counted)
    rng = np.random.default_rng(17)
    keys, values = rng.integers(0, 400, 1500), rng.normal(size=1500)
    found = numbers(made(so.cumsum("v", over="g", reverse=reverse), v=values, g=keys))
    expected = by_group("cumsum", keys.tolist(), values, reverse)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert max(parts) > 2


@pytest.mark.parametrize("groups", [2, 300])
def test_each_group_has_a_recurrence_of_its_own(small_blocks: int, groups: int) -> None:
    rng = np.random.default_rng(8)
    keys, a, b = rng.integers(0, groups, 900), rng.normal(size=900), rng.uniform(-1, 1, 900)
    found = numbers(made(so.cumsumprod("a", "b", over="g"), a=a, b=b, g=keys))
    expected = np.empty(900)
    for key in range(groups):
        expected[keys == key] = loop(a[keys == key], b[keys == key])
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_one_groups_infinity_leaves_the_others_alone(small_blocks: int) -> None:
    values = np.random.default_rng(9).normal(size=800)
    keys = np.arange(800) % 5
    values[100] = np.inf
    values[205] = -np.inf  # both of group 0: NaN from there on
    found = numbers(made(so.cumsum("v", over="g"), v=values, g=keys))
    np.testing.assert_allclose(found, by_group("cumsum", keys.tolist(), values, False), rtol=1e-9)


def test_windows_of_duckdb_agree(small_blocks: int) -> None:
    rng = np.random.default_rng(10)
    rows = 1200
    data = pa.table(
        {
            "i": np.arange(rows),
            "v": pa.array(rng.normal(size=rows), mask=rng.random(rows) < 0.2),
            "g": pa.array([(*"abc", None)[i] for i in rng.integers(0, 4, rows)], pa.string()),
            "h": rng.integers(0, 3, rows),
        }
    )
    found = (
        so.from_arrow(data)
        .with_columns(
            s=so.cumsum("v", over=["g", "h"]),
            m=so.cummin("v", over="g"),
            r=so.cummax("v", over="g", reverse=True),
        )
        .collect()
    )
    known = "case when v is null then null else"
    window = "rows between unbounded preceding and current row"
    query: Any = duckdb.sql(
        f"select {known} sum(v) over (partition by g, h order by i {window}) end as s,"
        f" {known} min(v) over (partition by g order by i {window}) end as m,"
        f" {known} max(v) over (partition by g order by i desc {window}) end as r"
        " from data order by i"
    )
    expected = query.to_arrow_table()
    for name in "smr":
        mine, theirs = found.column(name).to_pylist(), expected.column(name).to_pylist()
        assert [x is None for x in mine] == [x is None for x in theirs]
        np.testing.assert_allclose(
            [x for x in mine if x is not None], [x for x in theirs if x is not None], rtol=1e-9
        )


# What may be below, and how it runs.


@pytest.mark.parametrize("keep", ["all", "few", "one", "none"])
@pytest.mark.parametrize("reverse", [False, True])
def test_partitions_may_be_empty_or_hold_one_record(
    small_blocks: int, keep: str, reverse: bool
) -> None:
    v = np.random.default_rng(11).normal(size=1000)
    i = np.arange(1000)
    kept = {"all": i >= 0, "few": i % 130 == 5, "one": i == 700, "none": i < 0}[keep]
    table = so.table({"v": v, "k": kept}).filter(lambda r: r.k)
    found = table.select(
        s=so.cumsum("v", reverse=reverse),
        p=so.cumprod("v", reverse=reverse),
        z=so.cumsumprod("v", "v", over="k", reverse=reverse),
    ).collect()
    own = v[kept]
    if not len(own):
        assert found.num_rows == 0
        return
    for name, expected in (
        ("s", plain("cumsum", own, reverse)),
        ("p", plain("cumprod", own, reverse)),
        ("z", loop(own, own, reverse)),
    ):
        np.testing.assert_allclose(found.column(name).to_numpy(), expected, rtol=1e-9, atol=1e-12)


def test_threads_change_no_bit(small_blocks: int) -> None:
    rng = np.random.default_rng(12)
    table = so.table({"v": rng.normal(size=3000), "g": rng.integers(0, 9, 3000)})
    plan = table.with_columns(
        s=so.cumsum("v"),
        r=so.cumsum("v", reverse=True),
        p=so.cumprod("v", over="g"),
        z=so.cumsumprod("v", lambda r: 0.5, over="g", reverse=True),
    )
    results = []
    for threads in (1, 2, 3):
        with so.session(threads=threads):
            results.append(plan.collect())
    assert results[0].equals(results[1])
    assert results[0].equals(results[2])


def test_a_function_that_cannot_be_traced_is_called_once_for_a_record() -> None:
    calls = []

    def seen(r: Any) -> float:
        calls.append(1)
        return float(r.v) if r.v > 0 else 0.0

    table = so.table({"v": np.arange(200.0)})
    udf = so.udf(seen, returns=so.float64)
    found = table.select(w=udf).with_columns(c=so.cumsum("w")).collect()
    np.testing.assert_allclose(found.column("c").to_numpy(), np.cumsum(np.arange(200.0)))
    assert len(calls) <= 200 + 16


def test_files_are_decoded_once(tmp_path: Any) -> None:
    import pyarrow.parquet as pq

    v = np.random.default_rng(13).normal(size=5000)
    pq.write_table(pa.table({"v": v}), tmp_path / "v.parquet", row_group_size=700)
    plan = so.read_parquet(tmp_path / "v.parquet").with_columns(
        c=so.cumsum("v"), r=so.cumsum("v", reverse=True)
    )
    assert "CacheTable" in plan.explain("physical")
    found = plan.collect()
    np.testing.assert_allclose(found.column("c").to_numpy(), np.cumsum(v), rtol=1e-9, atol=1e-9)
    expected = np.cumsum(v[::-1])[::-1]
    np.testing.assert_allclose(found.column("r").to_numpy(), expected, rtol=1e-9, atol=1e-9)


def test_files_beyond_the_memory_are_read_again(tmp_path: Any) -> None:
    import pyarrow.parquet as pq

    v = np.random.default_rng(14).normal(size=60_000)
    pq.write_table(pa.table({"v": v}), tmp_path / "v.parquet", row_group_size=7000)
    with so.session(memory="200KB"):
        found = so.read_parquet(tmp_path / "v.parquet").with_columns(c=so.cumsum("v")).collect()
    np.testing.assert_allclose(found.column("c").to_numpy(), np.cumsum(v), rtol=1e-9, atol=1e-8)


def test_folds_slices_and_sorts_read_running_aggregates(small_blocks: int) -> None:
    v = np.random.default_rng(15).normal(size=1500)
    c = np.cumsum(v)
    table = so.table({"v": v}).with_columns(c=so.cumsum("v"), m=so.cummax("v"))
    np.testing.assert_allclose(table.max("c").collect(), c.max(), rtol=1e-12)
    found = table.slice(700, 5).collect().column("c").to_numpy()
    np.testing.assert_allclose(found, c[700:705], rtol=1e-12)
    drawdown = table.map(lambda r: r.m - r.v).max().collect()
    assert drawdown == (np.maximum.accumulate(v) - v).max()
    ordered = table.sort("c").limit(3).collect().column("c").to_numpy()
    np.testing.assert_allclose(ordered, np.sort(c)[:3], rtol=1e-12)


def test_the_source_is_left_as_it_was() -> None:
    v = np.arange(100.0)
    so.table({"v": v}).with_columns(
        c=so.cumsum("v"), p=so.cumprod("v"), z=so.cumsumprod("v", "v")
    ).collect()
    np.testing.assert_array_equal(v, np.arange(100.0))


@pytest.mark.parametrize("kind", FORMS)
def test_a_summary_leads_a_carry_where_the_records_would(kind: str) -> None:
    rng = np.random.default_rng(16)
    form = FORMS[kind](ArrayType("float64", (2,)))
    for rows, carry in itertools.product((1, 2, 65), (0.0, -3.5, np.nan, np.inf)):
        given = [rng.normal(size=(rows, 2)) for _ in range(form.arguments)]
        before = np.full((1, 2), carry)
        summary, only = form.summary(1), np.zeros(1, np.intp)
        form.extend(summary, only, given, only)
        after, known = form.join(before, summary)
        expected = form.scan(given, before[0])[-1]
        close = np.isclose(after[0], expected, rtol=1e-9, equal_nan=True)
        assert (close | ~known[0]).all()


def test_what_is_held_for_two_passes_lies_in_a_file_without_room() -> None:
    rng = np.random.default_rng(17)
    data = {"x": rng.normal(size=(30_000, 20)), "s": rng.choice(["a", "bc", ""], 30_000).tolist()}

    def held(limit: int | None) -> tuple[Any, MemoryBudget]:
        given = so.table(data)
        table = given.map_batches(lambda b: b, given.schema)
        budget = MemoryBudget(limit)
        (found,) = run([table.with_columns(c=so.cumsum("x"))], 2, budget)
        assert budget.held == 0
        return found, budget

    expected, _ = held(None)
    total = sum(b.columns["x"].sum(axis=0) for b in expected)
    np.testing.assert_allclose(expected[-1].columns["c"][-1], total, rtol=1e-9)
    for limit in (1, 1_000_000):
        found, budget = held(limit)
        assert [bits(b) for b in found] == [bits(b) for b in expected]
        assert budget.spilled_by()["exchange 1"] > 3_000_000
        assert budget.peaks().get("exchange 1", 0) <= limit

"""first, last, var, std, n_unique, quantile, argmin, argmax: NumPy and plain Python witness."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from scalops.engine.witness.interpreter import Interpreter
from tests.language.test_aggregates import data
from tests.language.witness import assert_same, nulls
from tests.quick import crossed

ROWS = (1, 2, 7, 70_000)
DTYPES = ("float64", "float32", "int64", "int8", "uint16", "bool")
NAN, INF = math.nan, math.inf


def interpreted(value: Any) -> Any:
    """The record-by-record meaning."""
    return Interpreter().value(value.expression)


@pytest.mark.parametrize(("rows", "dtype", "ddof"), crossed(ROWS, DTYPES, (0, 1, 0.5)))
def test_variance_and_deviation_are_numpys(rows: int, dtype: str, ddof: float) -> None:
    columns = {"a": data(rows, dtype), "x": data(rows, dtype, 2, 3)}
    table = so.table(columns)
    with np.errstate(all="ignore"):
        for name, array in columns.items():
            rtol = 1e-4 if dtype == "float32" else 1e-10
            var, std = table.var(name, ddof=ddof), table.std(lambda r, n=name: r[n], ddof)
            made = so.collect(var, std)
            if rows <= ddof:
                assert np.isnan(made[0]).all()
                continue
            assert_same(made[0], np.var(array, axis=0, ddof=ddof), rtol)
            assert_same(made[1], np.std(array, axis=0, ddof=ddof), rtol)
            assert var.dtype == np.var(array).dtype
            assert var.shape == array.shape[1:]


@pytest.mark.parametrize("offset", [1e9, -1e12, 1e15])
def test_nothing_cancels_far_from_zero(offset: float) -> None:
    far = np.random.default_rng(0).normal(size=200_000) + offset
    found = so.table({"v": far}).var("v").collect()
    assert found == pytest.approx(np.var(far - offset), rel=1e-13)


@pytest.mark.parametrize("values", [[1.0, NAN], [INF, 1.0], [5.0] * 3, [0.1] * 10])
def test_variance_of_special_values(values: list[float]) -> None:
    with np.errstate(all="ignore"):
        expected = np.var(values)
    value = so.table({"v": values}).var("v")
    np.testing.assert_allclose(value.collect(), expected, atol=1e-30)
    np.testing.assert_allclose(interpreted(value), expected, atol=1e-30)


SHARES = (0.0, 0.25, 0.5, 0.9, 1.0, [0.1, 0.5], (0.5,), np.array([0.3, 1]))


@pytest.mark.parametrize(("rows", "dtype", "q"), crossed((1, 2, 7, 20_001), DTYPES, SHARES))
def test_quantiles_are_numpys(rows: int, dtype: str, q: Any) -> None:
    columns = {"a": data(rows, dtype), "x": data(rows, dtype, 3)}
    table = so.table(columns)
    for name, array in columns.items():
        whole = array.astype("uint8") if dtype == "bool" else array
        expected = np.quantile(whole, q, axis=0)
        value = table.quantile(q, name)
        assert value.shape == expected.shape
        rtol = 1e-6 if dtype == "float32" else 0
        np.testing.assert_allclose(value.collect(), expected, rtol=rtol)


def test_a_median_through_a_function_and_over_nan() -> None:
    bare = so.table({"a": [4.0, 1.0, 3.0]}).map(lambda r: r.a * 2)
    assert bare.quantile(0.5).collect() == 6.0
    assert np.isnan(so.table({"a": [1.0, NAN]}).quantile(0.5, "a").collect())


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ([1.0, NAN, NAN, 0.0, -0.0, 1.0], 3),
        ([3, 1, 3, 3], 2),
        ([True, True], 1),
        (["b", "", "b"], 2),
        ([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [NAN, 0.0], [NAN, -0.0]], 3),
        ([datetime(2020, 1, 1), datetime(2020, 1, 2), datetime(2020, 1, 1)], 2),
        (pa.array([1, None, 2, None]), 2),
        (pa.array(["a", None, "a"]), 1),
        (pa.array([None, None], pa.float64()), 0),
    ],
)
def test_distinct_values_are_counted(values: Any, count: int) -> None:
    columns = pa.table({"v": values}) if isinstance(values, pa.Array) else {"v": values}
    table = so.from_arrow(columns) if isinstance(columns, pa.Table) else so.table(columns)
    value = table.n_unique("v")
    assert value.collect() == count
    assert value.dtype == np.int64
    assert interpreted(value) == count
    assert table.n_unique().collect() == count


@pytest.mark.parametrize("distinct", [3, 50_000])
def test_distinct_values_of_many_blocks(distinct: int) -> None:
    values = np.random.default_rng(0).integers(0, distinct, 300_000)
    table = so.table({"v": values, "s": [f"k{v}" for v in values]})
    made = table.n_unique(lambda r: {"v": r.v, "s": r.s, "h": r.v * 0.5}).collect()
    assert set(made.values()) == {len(np.unique(values))}


TIMES = [datetime(2021, 3, 1), datetime(2020, 1, 1), datetime(2022, 1, 1)]
PEOPLE: dict[str, Any] = {
    "name": ["ann", "bob", "cy"], "age": [31, 25, 31], "at": TIMES, "x": [[1.0, 2], [3, 4], [5, 6]],
}  # fmt: skip


def test_first_and_last_give_a_record_or_a_value() -> None:
    people = so.table(PEOPLE)
    first = people.first().collect()
    assert list(first) == list(PEOPLE)
    assert (first["name"], first["age"]) == ("ann", 31)
    np.testing.assert_array_equal(first["x"], [1, 2])
    last = people.last()
    assert last.name.collect() == "cy"
    assert last["age"].dtype == np.int64
    assert people.last("at").collect() == np.datetime64(TIMES[2])
    assert people.first(lambda r: r.age + 1).collect() == 32
    assert people.map(lambda r: r.name).last().collect() == "cy"
    assert people.select("age").first().collect() == {"age": 31}
    pair = people.first(lambda r: (r.age, r.name))
    assert pair.collect() == (31, "ann")
    assert people.sort("age").first("name").collect() == "bob"


def test_the_first_record_keeps_its_nulls_and_the_first_value_is_none() -> None:
    columns = {"a": nulls([None, 1.5, None]), "b": [1, 2, 3], "s": nulls([None, "x", "y"])}
    table = so.from_arrow(pa.table(columns))
    assert table.first().collect() == {"a": None, "b": 1, "s": None}
    assert table.last().collect() == {"a": None, "b": 3, "s": "y"}
    assert (table.first("a").collect(), table.last("a").collect()) == (1.5, 1.5)
    assert table.first(lambda r: r.s).collect() == "x"
    null = table.first().a
    assert null.collect() is None
    assert (null + 1).collect() is None  # also when it is a kept result
    assert table.map(lambda r: r.b + null).collect()["value"].to_pylist() == [None] * 3
    assert so.coalesce(null, 7.0).collect() == 7.0


def test_argmax_and_argmin_give_a_value_or_the_record_ties_to_the_first() -> None:
    people = so.table(PEOPLE)
    assert people.argmax("age", "name").collect() == "ann"
    assert people.argmin("age", lambda r: r.name).collect() == "bob"
    assert people.argmax(lambda r: -r.age)["name"].collect() == "bob"
    assert people.argmax("at", "name").collect() == "cy"
    assert people.argmin("name", "age").collect() == 31
    assert people.argmax("name").name.collect() == "cy"
    np.testing.assert_array_equal(people.argmax("age", lambda r: r.x @ r.x).collect(), 5.0)
    assert people.argmin("age", lambda r: {"n": r.name, "t": r.age * 2}).collect() == {
        "n": "bob",
        "t": 50,
    }
    bare = so.table({"v": [3.0, 9.0, 2.0]}).map(lambda r: r.v)
    assert bare.argmax(lambda v: -v).collect() == 2.0


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@pytest.mark.parametrize("seed", range(4))
def test_arg_extremes_are_numpys(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    by = rng.integers(0, 50, 150_000).astype(float)
    if seed % 2:
        by[rng.integers(0, len(by), 3)] = NAN
    table = so.table({"by": by, "i": np.arange(len(by))})
    value = getattr(table, name)("by", "i")
    assert value.collect() == getattr(np, name)(by)
    small = table.limit(300)
    assert interpreted(getattr(small, name)("by", "i")) == getattr(np, name)(by[:300])


def test_a_null_to_go_by_is_skipped_and_a_null_value_is_null() -> None:
    table = so.from_arrow(pa.table({"by": pa.array([None, 2, 9]), "v": pa.array([1.0, 2.0, None])}))
    assert table.argmin("by", "v").collect() == 2.0
    assert table.argmax("by", "v").collect() is None
    assert table.argmax("by").collect() == {"by": 9, "v": None}
    nothing = table.filter(lambda r: r.by < 0)
    with pytest.raises(so.DataError, match="argmax over no records"):
        nothing.argmax("by", "v").collect()


@pytest.mark.parametrize("name", ["min", "max", "first", "last", "n_unique"])
def test_strings_and_times_have_an_order(name: str) -> None:
    words, times = ["pear", "apple", "zoo", "apple"], [*TIMES, TIMES[0]]
    table = so.table({"w": words, "t": times})
    expected: dict[str, Callable[[Any], Any]] = {
        "min": min, "max": max, "first": lambda v: v[0], "last": lambda v: v[-1],
        "n_unique": lambda v: len(set(v)),
    }  # fmt: skip
    for column, values in (("w", words), ("t", times)):
        found = getattr(table, name)(column).collect()
        wanted = expected[name](values)
        assert found == (np.datetime64(wanted) if isinstance(wanted, datetime) else wanted)


def test_folds_of_a_table_are_one_pass_and_follow_a_loop() -> None:
    y = np.arange(10.0)
    table = so.table({"y": y})

    @so.loop((0.0, 0.0), range(3))
    def loop(env: Any) -> Any:
        m, s = env
        centred = table.map(lambda r: r.y - m)
        best = centred.argmax(lambda v: -abs(v - s), lambda v: v)
        return centred.quantile(0.5), best + centred.std() + centred.n_unique() + centred.last()

    m, s = 0.0, 0.0
    for _ in range(3):
        v = y - m
        m, s = float(np.median(v)), v[np.argmax(-abs(v - s))] + np.std(v) + 10 + v[-1]
    found = loop.collect()
    np.testing.assert_allclose(found, (m, s))
    assert loop.explain().count("Scan memory") == 1


FOLDS: dict[str, Callable[[so.Table], Any]] = {
    "var": lambda t: t.var("v"),
    "std": lambda t: t.std("x", ddof=1),
    "quantile": lambda t: t.quantile([0.2, 0.7], "x"),
    "n_unique": lambda t: t.n_unique(lambda r: np.floor(r.v * 100)),
    "first": lambda t: t.filter(lambda r: r.v > 1).first("v"),
    "last": lambda t: t.last("x"),
    "argmax": lambda t: t.argmax("v", "x"),
    "argmin": lambda t: t.argmin(lambda r: abs(r.v), "v"),
}


@pytest.mark.parametrize("name", FOLDS)
def test_same_bits_for_any_threads_and_memory_and_as_the_interpreter(name: str) -> None:
    rng = np.random.default_rng(1)
    table = so.table({"v": rng.normal(size=120_000), "x": rng.normal(size=(120_000, 3))})
    found = []
    settings: list[dict[str, Any]] = [{"threads": 1}, {"threads": 2}, {"memory": 1 << 20}]
    for options in settings:
        with so.session(**options):
            found.append(np.asarray(FOLDS[name](table).collect()).tobytes())
    assert len(set(found)) == 1
    few = FOLDS[name](table.limit(200))
    np.testing.assert_allclose(few.collect(), interpreted(few), rtol=1e-12)


def raised(build: Callable[[], Any]) -> str:
    with pytest.raises(so.ScalopsError) as error:
        build()
    assert "test_more_aggregates.py" in str(error.value)
    return str(error.value)


def test_bad_arguments_are_named() -> None:
    t = so.table({"v": [1.0, 2.0], "s": ["a", "b"], "x": [[1, 2], [3, 4]]})
    assert 'write quantile(0.5, "column")' in raised(lambda: t.quantile("v", 0.5))  # type: ignore[arg-type]
    assert "from 0 to 1" in raised(lambda: t.quantile(50, "v"))
    assert "from 0 to 1" in raised(lambda: t.quantile([], "v"))
    assert "ddof" in raised(lambda: t.var("v", ddof="1"))  # type: ignore[arg-type]
    assert "needs a column or a function" in raised(lambda: t.var())
    assert "std: it has no meaning for string" in raised(lambda: t.std("s"))
    assert "quantile: it has no meaning for string" in raised(lambda: t.quantile(0.5, "s"))
    assert "one value for each record" in raised(lambda: t.argmax("x"))
    assert "one value for each record" in raised(lambda: t.argmax(lambda r: (r.v, r.s)))
    assert "argmin reads 'w'; the table has ['v', 's', 'x']" in raised(lambda: t.argmin("w"))
    assert "first reads 'w'" in raised(lambda: t.first("w"))

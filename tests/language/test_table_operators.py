"""Operators that give, order and choose records: what they mean, against plain Python and NumPy."""

from __future__ import annotations

import datetime
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from tests.language.witness import listed, ordered

NAN = float("nan")


def same(found: Any, expected: Any) -> bool:
    """Equality where NaN is NaN."""
    return repr(found) == repr(expected)


def mixed() -> so.Table:
    """Nulls, NaN and both zeros in one column, strings and ints beside it."""
    return so.from_arrow(
        pa.table(
            {
                "k": [3, 1, 2, 1, 3, 2],
                "v": pa.array([1.0, None, NAN, -0.0, 0.0, 1.0]),
                "s": pa.array(["b", "a", None, "é", "z", "a"]),
            }
        )
    )


def empty(table: so.Table) -> so.Table:
    """The same columns, no records."""
    return table.limit(0)


# Union.


def test_union_appends_by_name_and_widens_as_numpy_does() -> None:
    a = so.table({"i": np.array([1, 2], np.int8), "x": np.array([[1, 2], [3, 4]], np.int32)})
    b = so.table({"x": np.array([[0.5, 1.5]]), "i": np.array([300], np.int64)})
    both = a.union(b)
    assert str(both.schema) == "i: int64, x: float64[2]"
    assert ordered(both) == {"i": [1, 2, 300], "x": [[1.0, 2.0], [3.0, 4.0], [0.5, 1.5]]}
    assert str(b.union(a).schema) == "x: float64[2], i: int64"


def test_union_keeps_nulls_nan_and_strings() -> None:
    t = mixed()
    found = ordered(t.union(t.limit(2)))
    one = ordered(t)
    assert same(found, {n: v + v[:2] for n, v in one.items()})


def test_union_of_bare_tables_is_bare() -> None:
    t = so.table({"x": [1, 2]}).map(lambda r: r.x)
    both = t.union(t.map(lambda v: v * 0.5))
    assert both.schema.bare
    assert listed(both.map(lambda v: v + 1)) == [2.0, 3.0, 1.5, 2.0]


def test_union_with_nothing_is_the_other() -> None:
    t = mixed()
    assert same(ordered(t.union(empty(t))), ordered(t))
    assert same(ordered(empty(t).union(t)), ordered(t))
    assert empty(t).union(empty(t)).count().collect() == 0


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: so.table({"k": [1]}), r"the second has no \['v', 's'\]"),
        (lambda: mixed().with_columns(extra=1), r"the first has no \['extra'\]"),
        (lambda: mixed().with_columns(k="s"), "'k' is int64 in the first table and string in"),
        (lambda: mixed().with_columns(k=lambda r: np.stack([r.k, r.k])), "int64 in the first"),
        (lambda: mixed().map(lambda r: r.k), "bare values and one of columns"),
        (lambda: [1, 2], "union takes a Table, not a list"),
    ],
)
def test_union_refuses_tables_that_do_not_fit(other: Any, message: str) -> None:
    with pytest.raises(so.SchemaError, match=message):
        mixed().union(other())


# Distinct.


def test_distinct_keeps_the_first_of_equal_records() -> None:
    t = mixed()
    assert same(listed(t.select("v").distinct(), "v"), [1.0, None, NAN, -0.0])
    assert listed(t.select("s").distinct(), "s") == ["b", "a", None, "é", "z"]
    assert listed(t.select("k").distinct(), "k") == [3, 1, 2]


def test_distinct_compares_whole_records() -> None:
    t = mixed()
    assert same(ordered(t.union(t).distinct()), ordered(t))
    assert same(ordered(t.distinct().distinct()), ordered(t))
    assert empty(t).distinct().count().collect() == 0


def test_distinct_compares_vectors_and_times() -> None:
    x = np.array([[0.0, NAN], [-0.0, NAN], [0.0, 1.0], [0.0, NAN]])
    when = np.array(["2020-01-01", "2020-01-01", "NaT", "2021-01-01"], "M8[s]")
    t = so.table({"x": x, "when": when})
    assert t.select("x").distinct().count().collect() == 2
    assert t.select("when").distinct().count().collect() == 3
    assert t.distinct().count().collect() == 3


def test_distinct_over_many_partitions_agrees_with_duckdb() -> None:
    rng = np.random.default_rng(1)
    data = pa.table({"a": rng.integers(0, 40, 200_000), "b": rng.integers(0, 30, 200_000) / 4})
    found = so.from_arrow(data).distinct().collect()
    with duckdb.connect() as database:
        database.register("data", data)
        counted = database.execute("select count(*) from (select distinct * from data)").fetchone()
    assert (len(found),) == counted
    firsts = list(dict.fromkeys(zip(*(c.to_pylist() for c in data.columns), strict=True)))
    assert list(zip(*(c.to_pylist() for c in found.columns), strict=True)) == firsts


def test_distinct_of_a_column_that_is_not_there_is_refused() -> None:
    with pytest.raises(so.SchemaError, match="distinct reads 'nope'"):
        mixed().distinct("nope")


# Sort.


def test_sort_puts_nan_before_nulls_and_both_last_in_either_direction() -> None:
    t = mixed()
    up, down = t.sort("v"), t.sort("v", descending=True)
    assert same(listed(up, "v"), [-0.0, 0.0, 1.0, 1.0, NAN, None])
    assert same(listed(down, "v"), [1.0, 1.0, -0.0, 0.0, NAN, None])
    assert listed(up, "s") == ["é", "z", "b", "a", None, "a"]  # equal ones keep their order
    assert listed(down, "s") == ["b", "a", "é", "z", None, "a"]


def test_sort_of_strings_goes_by_code_points() -> None:
    t = so.table({"s": ["b", "é", "Z", "", "a", "\U0001f600", "ﬁ", "ab"]})
    expected = sorted(["b", "é", "Z", "", "a", "\U0001f600", "ﬁ", "ab"])
    assert listed(t.sort("s"), "s") == expected
    assert listed(t.sort("s", descending=True), "s") == expected[::-1]
    assert listed(mixed().sort("s"), "s")[-1] is None
    assert listed(mixed().sort("s", descending=True), "s")[-1] is None


def test_sort_by_several_keys_and_directions() -> None:
    t = mixed()
    rows = list(zip(*ordered(t).values(), strict=True))
    expected = sorted(rows, key=lambda r: (-r[0], r[2] is None, r[2] or ""))
    found = t.sort("k", "s", descending=[True, False])
    assert same(list(zip(*ordered(found).values(), strict=True)), expected)


def test_sort_of_large_unsigned_numbers_is_exact() -> None:
    numbers = np.array([2**64 - 1, 2**64 - 2, 0, 2**53 + 1, 2**53], np.uint64)
    t = so.table({"u": numbers})
    assert listed(t.sort("u"), "u") == sorted(numbers.tolist())
    assert listed(t.sort("u", descending=True), "u") == sorted(numbers.tolist())[::-1]


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "int64", "float16", "float32", "M8[us]"]
)
@pytest.mark.parametrize("descending", [False, True])
def test_sort_is_stable_for_every_type(dtype: str, descending: bool) -> None:
    rng = np.random.default_rng(3)
    keys = rng.integers(0, 5, 3000).astype(dtype)
    t = so.table({"k": keys, "i": np.arange(3000)})
    by = np.argsort(keys.astype(np.int64) * (-1 if descending else 1), kind="stable")
    assert listed(t.sort("k", descending=descending), "i") == by.tolist()


def test_sort_by_functions_and_of_bare_values() -> None:
    t = mixed()
    assert listed(t.sort(lambda r: -r.k, "s"), "s") == ["b", "z", "a", None, "a", "é"]
    assert listed(t.map(lambda r: r.k).sort(descending=True)) == [3, 3, 2, 2, 1, 1]
    assert listed(t.map(lambda r: r.k).sort(lambda v: (v - 2) ** 2)) == [2, 2, 3, 1, 1, 3]
    odd = so.udf(lambda r: str(r.k)[::-1], returns=so.string)
    assert listed(t.sort(odd), "k") == [1, 1, 2, 2, 3, 3]


def test_sort_by_times() -> None:
    days = [datetime.datetime(2020, 1, d) for d in (3, 1, 2)]
    t = so.table({"d": [days[0], None, days[1], days[2]]})
    assert listed(t.sort("d"), "d") == [days[1], days[2], days[0], None]
    assert listed(t.sort("d", descending=True), "d") == [days[0], days[2], days[1], None]


def test_sort_of_nothing_and_of_nulls_only() -> None:
    t = mixed()
    assert empty(t).sort("v", "s").count().collect() == 0
    nulls = t.filter(lambda r: r.k == 1).limit(1).with_columns(w="v")
    assert same(listed(nulls.sort("w", descending=True), "w"), [None])


def test_sort_over_many_partitions_is_numpys() -> None:
    rng = np.random.default_rng(5)
    keys = rng.normal(size=150_000).round(3)
    t = so.table({"k": keys, "i": np.arange(len(keys))})
    with so.session(threads=2):
        assert listed(t.sort("k"), "i") == np.argsort(keys, kind="stable").tolist()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda t: t.sort(), "sort needs a key"),
        (lambda t: t.sort("nope"), "sort reads 'nope'"),
        (lambda t: t.sort(["k", "s"]), "pass keys one by one"),
        (lambda t: t.sort("k", descending=[True, False]), "sort has 1 key and descending"),
        (lambda t: t.sort("k", descending="yes"), "expected a bool"),
        (lambda t: t.sort(lambda r: (r.k, r.v)), "expected one value"),
        (lambda t: t.sort(lambda r: np.stack([r.k, r.k])), "one value for each record"),
    ],
)
def test_sort_refuses_what_is_no_key(write: Any, message: str) -> None:
    with pytest.raises(so.ScalopsError, match=message):
        write(mixed())


# Limit and slice.


@pytest.mark.parametrize(
    ("start", "length"), [(0, None), (2, None), (2, 3), (4, 100), (6, 1), (100, 5), (0, 0)]
)
def test_slice_is_a_slice(start: int, length: int | None) -> None:
    t = mixed().repartition(3)
    stop = None if length is None else start + length
    expected = {n: v[start:stop] for n, v in ordered(mixed()).items()}
    assert same(ordered(t.slice(start, length)), expected)
    values = so.lit(start) + t.count() - 6, None if length is None else t.count() * 0 + length
    assert same(ordered(t.slice(*values)), expected)


def test_limit_takes_a_value() -> None:
    t = mixed()
    assert listed(t.limit(t.count() - 4), "k") == [3, 1]
    assert listed(t.limit(t.min("k") * 0), "k") == []


def test_slices_of_filtered_and_joined_up_tables() -> None:
    t = so.table({"i": np.arange(50_000)})
    even = t.filter(lambda r: r.i % 2 == 0)
    both = even.union(t)
    expected = [*range(0, 50_000, 2), *range(50_000)]
    assert listed(both.slice(24_998, 5), "i") == expected[24_998:25_003]
    assert listed(both.slice(24_000, 2000).slice(990, 20).limit(3), "i") == expected[24_990:24_993]
    assert even.slice(10, 7).sum("i").collect() == sum(range(20, 34, 2))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda t: t.slice(-1), "slice needs an int of at least 0, not -1"),
        (lambda t: t.slice(0, -3), "slice needs an int of at least 0, not -3"),
        (lambda t: t.slice(1.5), "slice needs an int of at least 0, not 1.5"),
        (lambda t: t.limit("2"), "limit needs an int of at least 0, not '2'"),
        (lambda t: t.limit(t.mean("k")), "limit needs an integer, not a value of type float64"),
        (lambda t: t.slice(t.count(), t.mean("k")), "needs an integer"),
    ],
)
def test_slice_and_limit_refuse_what_is_no_number_of_records(write: Any, message: str) -> None:
    with pytest.raises(so.SchemaError, match=message):
        write(mixed())


def test_a_negative_value_is_a_data_error_when_it_runs() -> None:
    t = mixed()
    with pytest.raises(so.DataError, match=r"slice got start -1; expected 0 or more.*test_table"):
        t.slice(t.count() - 7).collect()
    with pytest.raises(so.DataError, match="limit got length -2"):
        t.limit(t.count() - 8).sum("k").collect()


# Numbers of records, and what is random.


def test_with_row_index_puts_the_numbers_in_front() -> None:
    t = mixed().repartition(4)
    assert ordered(t.with_row_index())["index"] == [0, 1, 2, 3, 4, 5]
    assert t.with_row_index("n").columns == ["n", "k", "v", "s"]
    assert str(t.with_row_index("n").schema).startswith("n: int64")
    assert listed(t.filter(lambda r: r.k > 1).with_row_index(), "index") == [0, 1, 2, 3]
    assert listed(t.with_row_index().filter(lambda r: r.k > 1), "index") == [0, 2, 4, 5]
    assert listed(t.with_row_index().slice(4), "index") == [4, 5]
    assert listed(t.map(lambda r: r.k).with_row_index(), "index") == [0, 1, 2, 3, 4, 5]
    assert empty(t).with_row_index().columns == ["index", "k", "v", "s"]
    with pytest.raises(so.SchemaError, match="would add the column 'k'"):
        t.with_row_index("k")


def test_shuffle_is_a_permutation_of_seed_and_number_alone() -> None:
    t = so.table({"i": np.arange(10_000)})
    once, again, other = (listed(t.shuffle(s), "i") for s in (1, 1, 2))
    assert once == again
    assert once != other
    assert sorted(once) == list(range(10_000))
    assert listed(t.repartition(7).shuffle(1), "i") == once
    assert listed(t.with_columns(x="i").shuffle(1), "x") == once
    assert abs(np.corrcoef(once, np.arange(10_000))[0, 1]) < 0.05
    bare = t.map(lambda r: r.i).shuffle(t.min("i") + 1)
    assert bare.schema.bare
    assert listed(bare) == once


def test_sample_keeps_order_and_about_the_share() -> None:
    t = so.table({"i": np.arange(20_000)})
    drawn = listed(t.sample(0.25, 3), "i")
    assert drawn == sorted(set(drawn))
    assert 4_700 < len(drawn) < 5_300
    assert set(listed(t.sample(0.1, 3), "i")) <= set(drawn)
    assert listed(t.sample(1, 3), "i") == list(range(20_000))
    assert listed(t.sample(0.0, 3), "i") == []
    assert listed(t.repartition(3).sample(0.25, 3), "i") == drawn
    assert t.map(lambda r: r.i).sample(0.5, 1).schema.bare


def test_random_split_shares_out_every_record_once() -> None:
    t = so.table({"i": np.arange(20_000)})
    parts = so.collect(t.random_split([8, 2], 5))
    train, test = (p["i"].to_pylist() for p in parts)
    assert sorted(train + test) == list(range(20_000))
    assert abs(len(train) / 20_000 - 0.8) < 0.02
    halves = so.collect(t.random_split([0.8, 0.2], 5))
    assert halves[0] == parts[0]
    three = [listed(p, "i") for p in t.random_split([1, 0, 1, 0], 5)]
    assert [len(p) > 0 for p in three] == [True, False, True, False]
    assert sorted(i for part in three for i in part) == list(range(20_000))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda t: t.sample(1.5, 0), "a fraction from 0 to 1, not 1.5"),
        (lambda t: t.sample("a", 0), "a fraction from 0 to 1"),
        (lambda t: t.sample(0.5, 0.5), "the seed of sample is 0.5"),
        (lambda t: t.shuffle(None), "the seed of shuffle is None"),
        (lambda t: t.shuffle(t.mean("k")), "shuffle needs an integer"),
        (lambda t: t.random_split([], 0), "shares that are not negative"),
        (lambda t: t.random_split([1, -1], 0), "shares that are not negative"),
        (lambda t: t.random_split(0.5, 0), "shares that are not negative"),
    ],
)
def test_random_operators_refuse_senseless_arguments(write: Any, message: str) -> None:
    with pytest.raises(so.SchemaError, match=message):
        write(mixed())


def test_an_opaque_function_after_a_small_sample_finds_its_type() -> None:
    t = so.table({"i": np.arange(3_000)})
    named = so.udf(lambda r: f"n{r.i}")
    found = listed(t.sample(0.01, 1).map(named))
    assert found == [f"n{i}" for i in listed(t.sample(0.01, 1), "i")]
    assert listed(t.slice(2_000, 1).map(named)) == ["n2000"]


# Choosing a table.


def test_where_chooses_a_table_by_one_condition() -> None:
    t = mixed()
    a, b = t.select("k"), t.select(k=lambda r: -r.k)
    assert listed(so.where(t.count() > 5, a, b), "k") == listed(a, "k")
    assert listed(so.where(t.count() > 6, a, b), "k") == listed(b, "k")
    assert listed(so.where(True, a, b), "k") == listed(a, "k")
    assert listed(so.where(t.count() > 6, a, b.sort("k")), "k") == [-3, -3, -2, -2, -1, -1]


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda t: so.where(True, t, t.select("k")), r"the second has no \['v', 's'\]"),
        (lambda t: so.where(True, t, t.with_columns(k="v")), "they have one schema"),
        (lambda t: so.where(t.count(), t, t), "one true or false to choose a table"),
        (lambda t: so.where(True, t, 1), "chooses between a Table and a int"),
    ],
)
def test_where_refuses_tables_of_two_schemas(write: Any, message: str) -> None:
    with pytest.raises(so.ScalopsError, match=message):
        write(mixed())

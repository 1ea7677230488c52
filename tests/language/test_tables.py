"""Tables: what each operator gives, over no, one and many records and columns of every type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import scalops as so
from tests.language.witness import assert_same, is_opaque, listed, nulls, ordered, records

ROWS = (0, 1, 7, 70_000)  # 70,000 take several blocks and partitions


def many(rows: int) -> dict[str, Any]:
    """Columns of every type."""
    i = np.arange(rows)
    return {
        "f": i / 4,
        "g": (i / 8).astype("float32"),
        "k": i - 2,
        "tiny": (i % 100).astype("int8"),
        "b": i % 3 == 0,
        "x": np.stack([i, i + 0.5], axis=1),
        "m": (i[:, None, None] + np.arange(6).reshape(2, 3)).astype("float32"),
        "t": np.datetime64("2020-01-01", "us") + i.astype("m8[h]"),
        "s": pa.array([f"s{n % 5}" for n in i.tolist()], pa.string()),
    }


NAMES = list(many(1))


@pytest.fixture(params=ROWS)
def rows(request: pytest.FixtureRequest) -> int:
    """How many records."""
    return int(request.param)


def test_a_table_of_arrays_collects_to_the_same_columns(rows: int) -> None:
    data = many(rows)
    table = so.table(data)
    made = table.collect()
    assert made.column_names == table.columns == NAMES
    assert made.num_rows == rows
    for name, array in data.items():
        if isinstance(array, np.ndarray):
            assert_same(records(table, name), array)
        else:
            assert listed(table, name) == array.to_pylist()


def test_vectors_are_fixed_size_lists_and_matrices_tensors() -> None:
    schema = so.table(many(3)).collect().schema
    assert schema.field("x").type == pa.list_(pa.float64(), 2)
    assert schema.field("m").type == pa.fixed_shape_tensor(pa.float32(), [2, 3])
    assert schema.field("t").type == pa.timestamp("us")
    assert str(so.table(many(3)).schema["m"]) == "float32[2,3]"


def test_a_table_of_records_widens_numbers_and_fills_missing_keys_with_null() -> None:
    table = so.table([{"a": 1, "s": "p"}, {"a": 2.5}])
    assert ordered(table) == {"a": [1.0, 2.5], "s": ["p", None]}
    vectors = so.table([{"v": [1, 2]}, {"v": [3.0, 4]}])
    assert_same(records(vectors, "v"), [[1.0, 2], [3, 4]])


def test_arrow_polars_and_other_tables_of_arrow_come_in() -> None:
    class Stream:
        def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
            return pa.table({"a": [1, 2]}).__arrow_c_stream__(requested_schema)

    assert ordered(so.from_arrow(Stream())) == {"a": [1, 2]}
    assert ordered(so.from_arrow(so.table({"a": [1, 2]}).map(lambda r: r.a + 1))) == {
        "value": [2, 3]
    }


def test_files_are_read_in_path_order(tmp_path: Path) -> None:
    for number in (1, 0, 2):
        part = pa.table({"a": [number * 10, number * 10 + 1], "s": ["p", None]})
        pq.write_table(part, tmp_path / f"{number}.parquet")
        pyarrow.csv.write_csv(part, tmp_path / f"{number}.csv")
    expected = [0, 1, 10, 11, 20, 21]
    assert listed(so.read_parquet(str(tmp_path / "*.parquet")), "a") == expected
    assert listed(so.read_csv(tmp_path / "0.csv"), "a") == [0, 1]
    both = so.read_parquet([tmp_path / "2.parquet", tmp_path / "0.parquet"], columns=["a"])
    assert ordered(both) == {"a": [20, 21, 0, 1]}


def test_csv_without_a_header_takes_given_names(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1;2.5\n3;4.5\n")
    table = so.read_csv(tmp_path / "a.csv", column_names=["i", "v"], delimiter=";")
    assert ordered(table) == {"i": [1, 3], "v": [2.5, 4.5]}
    typed = so.read_csv(
        tmp_path / "a.csv", ["i", "v"], ";", columns=["i"], column_types={"i": so.float64}
    )
    assert str(typed.schema) == "i: float64"


# map


def test_map_of_every_type_gives_numpys_answer(rows: int) -> None:
    data = many(rows)
    table = so.table(data)
    cases: list[tuple[Callable[[Any], Any], Any]] = [
        (lambda r: r.f * 2 + r.k, data["f"] * 2 + data["k"]),
        (lambda r: r.g * 2, data["g"] * 2),
        (lambda r: r.tiny + 1, data["tiny"] + 1),
        (lambda r: ~r.b, ~data["b"]),
        (lambda r: r.x * r.f, data["x"] * data["f"][:, None]),
        (lambda r: r.m @ np.ones(3, "float32"), data["m"].sum(axis=2)),
        (lambda r: r.t > np.datetime64("2020-01-02"), data["t"] > np.datetime64("2020-01-02")),
        (lambda r: r.t <= datetime(2020, 1, 2), data["t"] <= np.datetime64("2020-01-02")),
        (lambda r: datetime(2020, 1, 2) - r.t, np.datetime64("2020-01-02") - data["t"]),
        (lambda r: r.t + np.timedelta64(1, "h"), data["t"] + np.timedelta64(1, "h")),
        (lambda r: r.t - r.t, data["t"] - data["t"]),
        (lambda r: r["f"] > r[2], data["f"] > data["k"]),
    ]
    for f, expected in cases:
        made = table.map(f)
        assert not is_opaque(made)
        assert_same(records(made), expected)
    equal = records(table.map(lambda r: r.s == "s1"))
    assert_same(equal, np.arange(rows) % 5 == 1)
    assert listed(table.map(lambda r: np.where(r.b, r.s, "no"))) == [
        s if b else "no" for s, b in zip(data["s"].to_pylist(), data["b"].tolist(), strict=True)
    ]


class Pair(NamedTuple):
    """A result with names."""

    left: Any
    right: Any


@dataclass
class Point:
    """A result with names."""

    x: Any
    y: Any


@pytest.mark.parametrize(
    ("f", "names"),
    [
        (lambda r: (r.a, r.b), ["_0", "_1"]),
        (lambda r: {"p": r.a, "q": r.b}, ["p", "q"]),
        (lambda r: Pair(r.a, r.b), ["left", "right"]),
        (lambda r: Point(r.a, r.b), ["x", "y"]),
        (lambda r: Point(y=r.b, x=r.a), ["x", "y"]),
        (lambda r: r, ["a", "b"]),
    ],
)
@pytest.mark.parametrize("mark", [lambda f: f, so.udf], ids=["traced", "opaque"])
def test_structured_results_name_the_columns(f: Any, names: list[str], mark: Any) -> None:
    table = so.table({"a": [1.0, 2.0], "b": [True, False]})
    made = table.map(mark(f))
    assert is_opaque(made) == (mark is so.udf)
    assert made.columns == names
    assert list(ordered(made).values()) == [[1.0, 2.0], [True, False]]


def test_a_bare_value_is_the_next_functions_argument() -> None:
    table = so.table({"a": [1.0, 2.0, 3.0]})
    bare = table.map(lambda r: r.a * 2)
    assert bare.columns == ["value"]
    assert listed(bare.map(lambda v: v + 1)) == [3.0, 5.0, 7.0]
    assert listed(bare.filter(lambda v: v > 2)) == [4.0, 6.0]
    assert listed(bare.filter(lambda v: v > 2).map(lambda v: v)) == [4.0, 6.0]
    assert bare.limit(2).sum().collect() == 6.0
    assert bare.reduce(lambda a, b: a * b).collect() == 48.0
    assert listed(bare.with_columns(twice=lambda v: v * 2), "twice") == [4.0, 8.0, 12.0]
    assert listed(bare.map(lambda v: v if v > 2 else 0.0)) == [0.0, 4.0, 6.0]


def test_positions_of_a_tuples_columns() -> None:
    table = so.table({"a": [1.0, 2.0]}).map(lambda r: (r.a, r.a * 10))
    assert listed(table.map(lambda r: r[1] - r[0])) == [9.0, 18.0]
    assert listed(table.map(lambda r: r._1 - r[-2])) == [9.0, 18.0]


def test_a_record_unpacks() -> None:
    table = so.table({"a": [1.0, 2.0], "b": [3.0, 4.0]})

    def product(r: Any) -> Any:
        a, b = r
        return a * b

    assert listed(table.map(product)) == [3.0, 8.0]


def test_a_constant_result_is_repeated() -> None:
    table = so.table({"a": [1.0, 2.0]})
    assert listed(table.map(lambda r: 7)) == [7, 7]
    assert listed(table.map(lambda r: "all")) == ["all", "all"]
    assert_same(records(table.map(lambda r: np.arange(2))), [[0, 1], [0, 1]])


def test_columns_may_be_named_like_python_words() -> None:
    table = so.table({"class": [1, 2], "items": [3, 4], "_values": [5, 6], "a b": [7, 8]})
    made = table.map(lambda r: r["class"] + r.items + r["_values"] + r["a b"])
    assert listed(made) == [16, 20]


# filter


def test_filter_keeps_order(rows: int) -> None:
    data = many(rows)
    kept = data["k"] % 3 == 1
    made = so.table(data).filter(lambda r: r.k % 3 == 1)
    assert made.columns == NAMES
    for name in ("f", "x", "m", "t", "b"):
        assert_same(records(made, name), data[name][kept])
    assert listed(made, "s") == data["s"].filter(pa.array(kept)).to_pylist()


def test_filters_and_maps_in_any_number(rows: int) -> None:
    f = np.arange(rows) / 4
    made = (
        so.table({"f": f})
        .filter(lambda r: r.f > 0.3)
        .map(lambda r: {"g": r.f * 2})
        .filter(lambda r: r.g < 5_000)
        .map(lambda r: r.g + 1)
        .filter(lambda v: v != 3.0)
    )
    g = f[f > 0.3] * 2
    expected = g[g < 5_000] + 1
    assert_same(records(made), expected[expected != 3.0])


def test_filter_takes_a_column() -> None:
    table = so.table({"b": nulls([True, False, None, True]), "k": [0, 1, 2, 3]})
    assert listed(table.filter("b"), "k") == [0, 3]


def test_filter_of_all_or_none() -> None:
    table = so.table({"k": [0, 1, 2]})
    assert listed(table.filter(lambda r: True), "k") == [0, 1, 2]
    assert table.filter(lambda r: r.k > 9).collect().num_rows == 0
    assert table.filter(lambda r: r.k > 9).count().collect() == 0


# select, with_columns, drop, rename, assemble


def test_select_swaps() -> None:
    table = so.table({"src": [1, 2], "dst": [3, 4]})
    assert ordered(table.select(src="dst", dst="src")) == {"src": [3, 4], "dst": [1, 2]}


def test_select_takes_columns_and_new_ones() -> None:
    table = so.table({"a": [1.0, 2.0], "k": [3, 4], "s": ["p", "q"]})
    total = table.sum("a")
    made = table.select(
        "s", "a", twice=lambda r: r.a * 2, k="k", five=5, yes=True, total=total, name=so.lit("n")
    )
    assert ordered(made) == {
        "s": ["p", "q"], "a": [1.0, 2.0], "twice": [2.0, 4.0], "k": [3, 4], "five": [5, 5],
        "yes": [True, True], "total": [3.0, 3.0], "name": ["n", "n"],
    }  # fmt: skip


def test_with_columns_reads_the_old_record_and_keeps_the_order() -> None:
    table = so.table({"a": [1.0, 2.0], "b": [10.0, 20.0], "c": [0, 0]})
    made = table.with_columns(d=lambda r: r.a + r.b, b=lambda r: r.a, a="b")
    assert made.columns == ["a", "b", "c", "d"]
    assert ordered(made) == {
        "a": [10.0, 20.0], "b": [1.0, 2.0], "c": [0, 0], "d": [11.0, 22.0],
    }  # fmt: skip


def test_drop_and_rename() -> None:
    table = so.table({"a": [1], "b": [2], "c": [3]})
    assert table.drop("b").columns == ["a", "c"]
    assert ordered(table.drop("a", "c")) == {"b": [2]}
    assert ordered(table.rename({"a": "z"})) == {"z": [1], "b": [2], "c": [3]}
    assert ordered(table.rename({"a": "b", "b": "a"})) == {"b": [1], "a": [2], "c": [3]}
    assert table.rename({}).columns == ["a", "b", "c"]


def test_assemble_makes_float64_vectors_that_replace_the_columns(rows: int) -> None:
    data = many(rows)
    made = so.table(data).assemble(v=["f", "tiny", "b"], w=["g"])
    assert made.columns == ["k", "x", "m", "t", "s", "v", "w"]
    expected = np.stack([data["f"], data["tiny"], data["b"]], axis=1).astype("float64")
    assert_same(records(made, "v"), expected)
    assert_same(records(made, "w"), data["g"].astype("float64")[:, None])


def test_assemble_may_take_the_name_of_a_column_it_replaces() -> None:
    made = so.table({"a": [1.0], "b": [2]}).assemble(a=["a", "b"])
    assert_same(records(made, "a"), [[1.0, 2.0]])


# limit, repartition


def test_limit_takes_the_first(rows: int) -> None:
    table = so.table(many(rows))
    for n in (0, 1, 5, rows, rows + 1):
        assert_same(records(table.limit(n), "k"), np.arange(rows)[:n] - 2)
    kept = np.arange(rows)[np.arange(rows) % 7 == 3][: rows // 2] - 2
    odd = table.filter(lambda r: (r.k + 2) % 7 == 3).limit(rows // 2)
    assert_same(records(odd, "k"), kept)
    assert odd.count().collect() == len(kept)
    first = table.limit(40).limit(3).filter(lambda r: r.b)
    assert listed(first, "k") == [-2][: min(1, rows)]


@pytest.mark.parametrize("n", [1, 3, 100])
def test_repartition_keeps_records_and_order(rows: int, n: int) -> None:
    data = many(rows)
    made = so.table(data).filter(lambda r: r.k % 2 == 0).repartition(n)
    even = data["k"] % 2 == 0
    assert_same(records(made, "k"), data["k"][even])
    assert_same(records(made, "x"), data["x"][even])
    assert made.count().collect() == np.count_nonzero(even)
    assert_same(made.sum("x").collect(), data["x"][even].sum(axis=0))


# Nulls and NaN


def test_arithmetic_with_null_is_null() -> None:
    table = so.table({"a": nulls([1.0, None, 3.0]), "b": nulls([1, 2, None])})
    assert listed(table.map(lambda r: r.a + r.b)) == [2.0, None, None]
    assert listed(table.map(lambda r: np.exp(r.a * 0))) == [1.0, None, 1.0]
    assert listed(table.map(lambda r: r.a > r.b)) == [False, None, None]
    assert listed(table.map(lambda r: (r.a, r.b, 1)), "_1") == [1, 2, None]
    assert listed(table.map(lambda r: r.a * np.ones(2))) == [[1.0, 1.0], None, [3.0, 3.0]]


@pytest.mark.parametrize("mark", [lambda f: f, so.udf], ids=["traced", "opaque"])
def test_nulls_pass_through(mark: Any) -> None:
    table = so.table({
        "s": ["p", None, "q"], "t": nulls([datetime(2020, 1, 1), None, datetime(2021, 1, 1)]),
        "k": nulls([1, None, 3], pa.int8()), "b": nulls([True, None, False]),
    })  # fmt: skip
    made = table.map(mark(lambda r: r))
    assert ordered(made) == ordered(table)


def test_filter_drops_null() -> None:
    table = so.table({"a": nulls([1.0, None, 3.0, -1.0])})
    assert listed(table.filter(lambda r: r.a > 0), "a") == [1.0, 3.0]
    assert listed(table.filter(lambda r: ~(r.a > 0)), "a") == [-1.0]


THREE = [True, False, None]


def test_and_and_or_are_kleene() -> None:
    pairs = [(a, b) for a in THREE for b in THREE]
    table = so.table({"a": nulls([a for a, _ in pairs]), "b": nulls([b for _, b in pairs])})

    def both(a: Any, b: Any) -> Any:
        return False if a is False or b is False else None if None in (a, b) else True

    def either(a: Any, b: Any) -> Any:
        return True if a is True or b is True else None if None in (a, b) else False

    assert listed(table.map(lambda r: r.a & r.b)) == [both(a, b) for a, b in pairs]
    assert listed(table.map(lambda r: r.a | r.b)) == [either(a, b) for a, b in pairs]
    assert listed(table.map(lambda r: ~r.a)) == [None if a is None else not a for a, _ in pairs]
    assert listed(table.map(lambda r: r.a ^ r.b)) == [
        None if None in (a, b) else a != b for a, b in pairs
    ]
    assert listed(table.map(lambda r: r.a & True)) == [a for a, _ in pairs]
    assert listed(table.map(lambda r: False & r.a)) == [False] * 9
    assert listed(table.map(lambda r: np.True_ | r.a)) == [True] * 9


def test_kleene_logic_of_arrays_with_a_null_beside() -> None:
    table = so.table({
        "x": [[True, False], [True, True], [False, False], [True, True]],
        "b": nulls([None, None, None, False]),
    })  # fmt: skip
    assert listed(table.map(lambda r: r.x & r.b)) == [None, None, [False, False], [False, False]]
    assert listed(table.map(lambda r: r.b | r.x)) == [None, [True, True], None, [True, True]]
    mask = np.array([False, False])
    assert listed(table.map(lambda r: mask & r.b)) == [[False, False]] * 4


def test_where_takes_null_for_false_and_gives_the_chosen_ones_null() -> None:
    table = so.table({
        "c": nulls([True, False, None, True, False]),
        "a": nulls([1.0, 2.0, 3.0, None, 5.0]),
        "b": nulls([10.0, None, 30.0, 40.0, 50.0]),
        "x": np.array([[1.0, -1.0], [1, 1], [-1, -1], [-1, -1], [1, 1]]),
        "s": ["p", None, "q", None, "r"],
    })  # fmt: skip
    expected = [1.0, None, 30.0, None, 50.0]
    assert listed(table.map(lambda r: np.where(r.c, r.a, r.b))) == expected
    assert listed(table.map(lambda r: so.where(r.c, r.a, 0.0))) == [1.0, 0.0, 0.0, None, 0.0]
    assert listed(table.map(lambda r: np.where(r.c, r.x, 0.0))) == [
        [1, -1], [0, 0], [0, 0], [-1, -1], [0, 0],
    ]  # fmt: skip
    # An array of which one element would be null is null as a whole.
    assert listed(table.map(lambda r: np.where(r.x > 0, r.b, 0.0))) == [
        [10, 0], None, [0, 0], [0, 0], [50, 50],
    ]  # fmt: skip
    assert listed(table.map(lambda r: np.where(r.a > 1, r.s, "no"))) == [
        "no", None, "q", "no", "r",
    ]  # fmt: skip


def test_nan_is_no_null() -> None:
    table = so.table({"a": [1.0, np.nan, 3.0]})
    assert table.count("a").collect() == 3
    assert listed(table.filter(lambda r: ~np.isnan(r.a)), "a") == [1.0, 3.0]
    assert listed(table.map(lambda r: r.a == r.a)) == [True, False, True]
    made = table.map(lambda r: np.where(r.a > 1, r.a, np.nan))
    assert not is_opaque(made)
    np.testing.assert_array_equal(records(made), [np.nan, np.nan, 3.0])


def test_division_by_zero_is_infinite_without_a_warning() -> None:
    table = so.table({"a": [1.0, -1.0, 0.0]})
    np.testing.assert_array_equal(
        records(table.map(lambda r: r.a / 0.0)), [np.inf, -np.inf, np.nan]
    )
    made = table.map(so.udf(lambda r: np.divide(r.a, 0.0)))
    np.testing.assert_array_equal(records(made), [np.inf, -np.inf, np.nan])


def test_assemble_takes_columns_whose_nulls_are_gone() -> None:
    table = so.table({"a": nulls([1.0, None, 3.0]), "b": [1, 2, 3]})
    made = table.filter(lambda r: r.a > 0).assemble(v=["a", "b"])
    assert_same(records(made, "v"), [[1.0, 1], [3, 3]])
    filled = table.with_columns(a=lambda r: np.where(r.a > 0, r.a, 0.0)).assemble(v=["a", "b"])
    assert listed(filled, "v")[0] == [1.0, 1.0]


# What a table is not


@pytest.mark.parametrize(
    ("ask", "instead"),
    [
        (lambda t: t.a, 'select("a")'),
        (lambda t: t["a"], "select('a')"),
        (lambda t: len(t), "count()"),
        (lambda t: list(t), "collect()"),
        (lambda t: bool(t), "is_empty()"),
    ],
)
def test_asking_a_table_for_records_names_what_to_use(ask: Any, instead: str) -> None:
    with pytest.raises(TypeError) as caught:
        ask(so.table({"a": [1]}))
    assert instead in str(caught.value)


def test_a_misspelt_method_names_the_nearest() -> None:
    table = so.table({"price": [1]})
    with pytest.raises(AttributeError, match="did you mean 'map'"):
        table.maps
    with pytest.raises(AttributeError, match="did you mean 'price'"):
        table.prise
    assert not hasattr(table, "shape")


def test_repr_and_schema_run_nothing() -> None:
    def fails(r: Any) -> Any:
        raise ValueError(r)

    table = so.table({"a": [1.0]}).map(so.udf(fails, returns={"p": so.float64, "q": so.vector(2)}))
    assert repr(table) == "Table(p: float64, q: float64[2])"
    assert "Project" in table.explain()

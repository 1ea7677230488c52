"""Joins of tables: what they give and in which order, against plain Python and DuckDB."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

import scalops as so
from tests.language.witness import ordered

KINDS = ("inner", "left", "right", "full", "semi", "anti")
Pairs = list[tuple[int | None, int | None]]


def pairs_of(left: Sequence[Any], right: Sequence[Any], how: str) -> Pairs:
    """The numbers of the records that go together, by their keys, in the order of the language."""

    def equal(a: Any, b: Any) -> bool:
        pairs = list(zip(a, b, strict=True))
        return all(x is not None and y is not None for x, y in pairs) and all(
            x == y or (x != x and y != y) for x, y in pairs
        )

    if how == "right":
        return [(j, i) for i, j in pairs_of(right, left, "left")]
    found: Pairs = []
    used = set()
    for i, a in enumerate(left):
        matches = [j for j, b in enumerate(right) if equal(a, b)]
        used.update(matches)
        if how in ("semi", "anti"):
            found += [(i, None)] if bool(matches) == (how == "semi") else []
        elif matches:
            found += [(i, j) for j in matches]
        elif how != "inner":
            found.append((i, None))
    if how == "full":
        found += [(None, j) for j in range(len(right)) if j not in used]
    return found


def expected(
    left: dict[str, list[Any]],
    right: dict[str, list[Any]],
    keys: Sequence[str],
    how: str,
) -> dict[str, list[Any]]:
    """The join of two tables on keys of one name, whose other columns differ in name."""
    rows = [list(zip(*(t[k] for k in keys), strict=True)) for t in (left, right)]
    pairs = pairs_of(rows[0], rows[1], how)
    made: dict[str, list[Any]] = {}
    for name, values in left.items():
        if not (how == "right" and name in keys):
            made[name] = [None if i is None else values[i] for i, _ in pairs]
    if how in ("semi", "anti"):
        return made
    for name, values in right.items():
        taken = [None if j is None else values[j] for _, j in pairs]
        if name not in keys or how == "right":
            made[name] = taken
        elif how == "full":
            made[f"{name}_right"] = taken
    return made


def tables(seed: int, rows: tuple[int, int] = (30, 25)) -> tuple[pa.Table, pa.Table]:
    """Two tables with few different keys `k` and `s`, nulls among them."""
    random = np.random.default_rng(seed)

    def some(values: list[Any], count: int) -> pa.Array:
        return pa.array([values[i] for i in random.integers(0, len(values), count)])

    made = []
    for count, name in zip(rows, ("a", "b"), strict=True):
        k, s = some([1, 2, 3, 4, 5, 6, None], count), some(["x", "y", "ü", None], count)
        columns = {"k": k.cast(pa.int64()), "s": s.cast(pa.string()), name: list(range(count))}
        made.append(pa.table(columns))
    return made[0], made[1]


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("keys", [["k"], ["s"], ["k", "s"]])
def test_a_join_is_that_of_plain_python_in_its_order(how: str, keys: list[str]) -> None:
    left, right = tables(len(keys))
    if len(keys) == 1:
        other = "s" if keys == ["k"] else "k"
        left, right = left, right.rename_columns({other: f"{other}2"})
    joined = so.from_arrow(left).join(so.from_arrow(right), on=keys, how=how)
    found = ordered(joined)
    assert found == expected(left.to_pydict(), right.to_pydict(), keys, how)
    assert joined.columns == list(found)


@pytest.mark.parametrize("how", KINDS)
def test_a_join_has_the_records_of_duckdb(how: str) -> None:
    left, right = tables(7, (200, 150))
    found = ordered(
        so.from_arrow(left).join(so.from_arrow(right), left_on="k", right_on="k", how=how)
    )
    with duckdb.connect() as database:
        database.register("l", left)
        database.register("r", right)
        word = {"semi": "semi", "anti": "anti"}.get(how, f"{how}")
        wanted = ("a",) if how in ("semi", "anti") else ("a", "b")
        query = f"select {', '.join(wanted)} from l {word} join r on l.k = r.k"
        rows = database.execute(query).fetchall()
    mine = list(zip(*(found[n] for n in wanted), strict=True))
    assert sorted(mine, key=repr) == sorted(rows, key=repr)


def test_a_cross_join_is_every_pair_in_the_left_order() -> None:
    a, b = so.table({"x": [1, 2], "y": [3, 4]}), so.table({"x": ["p", "q", "r"]})
    found = ordered(a.join(b, how="cross"))
    assert found == {
        "x": [1, 1, 1, 2, 2, 2],
        "y": [3, 3, 3, 4, 4, 4],
        "x_right": ["p", "q", "r"] * 2,
    }


@pytest.mark.parametrize("how", [*KINDS, "cross"])
@pytest.mark.parametrize("empty", [(True, False), (False, True), (True, True)])
def test_sides_without_records(how: str, empty: tuple[bool, bool]) -> None:
    left, right = tables(3)
    right = right.drop_columns(["s"])
    cut = [t.slice(0, 0) if none else t for t, none in zip((left, right), empty, strict=True)]
    a, b = map(so.from_arrow, cut)
    if how == "cross":
        assert a.join(b, how=how).collect().num_rows == 0
        return
    found = a.join(b, on="k", how=how).collect()
    assert found.to_pydict() == expected(cut[0].to_pydict(), cut[1].to_pydict(), ["k"], how)


def test_nulls_never_match_nan_matches_nan_and_zeros_match() -> None:
    nan = float("nan")
    a = so.from_arrow(pa.table({"v": [None, nan, -0.0, 1.0], "i": [0, 1, 2, 3]}))
    b = so.from_arrow(pa.table({"v": [0.0, nan, None, nan], "j": [0, 1, 2, 3]}))
    found = ordered(a.join(b, on="v").select("i", "j"))
    assert found == {"i": [1, 1, 2], "j": [1, 3, 0]}
    left = ordered(a.join(b, on="v", how="full").select("i", "j"))
    assert left["i"] == [0, 1, 1, 2, 3, None]
    assert left["j"] == [None, 1, 3, 0, None, 2]


def test_vectors_lists_sparse_vectors_and_strings_go_along() -> None:
    matrix = sparse.csr_matrix(np.array([[0.0, 2.0, 0.0], [1.0, 0.0, 3.0]]))
    b = so.table(
        {
            "id": [5, 6],
            "v": np.arange(6.0).reshape(2, 3),
            "m": np.arange(8).reshape(2, 2, 2),
            "l": [[1, 2], [3]],
            "z": matrix,
            "t": ["é", "longer"],
        }
    )
    a = so.table({"id": [6, 5, 6], "w": ["a", "b", "c"]})
    joined = a.join(b, on="id")
    assert str(joined.schema) == (
        "id: int64, w: string, v: float64[3], m: int64[2,2], l: list[int64],"
        " z: sparse[3], t: string"
    )
    found = joined.collect()
    assert found.column("w").to_pylist() == ["a", "b", "c"]
    assert found.column("v").to_pylist() == [[3.0, 4.0, 5.0], [0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert found.column("m").combine_chunks().to_numpy_ndarray().tolist() == [
        [[4, 5], [6, 7]],
        [[0, 1], [2, 3]],
        [[4, 5], [6, 7]],
    ]
    assert found.column("l").to_pylist() == [[3], [1, 2], [3]]
    assert found.column("t").to_pylist() == ["longer", "é", "longer"]
    assert listed_sums(joined) == [4.0, 2.0, 4.0]


def listed_sums(joined: so.Table) -> list[float]:
    """The sums of the sparse vectors."""
    made: list[float] = joined.map(lambda r: r.z.sum()).collect().column("value").to_pylist()
    return made


def test_columns_without_a_match_are_null() -> None:
    a = so.table({"id": [1, 2]})
    b = so.table({"id": [2], "t": ["x"], "l": [[1, 2]], "n": [3], "on": [True]})
    found = ordered(a.join(b, on="id", how="left"))
    assert found == {
        "id": [1, 2],
        "t": [None, "x"],
        "l": [None, [1, 2]],
        "n": [None, 3],
        "on": [None, True],
    }
    filled = a.join(b, on="id", how="left").map(lambda r: so.coalesce(r.n, 0) + r.id)
    assert filled.collect().column("value").to_pylist() == [1, 5]


def test_columns_are_named_as_polars_names_them() -> None:
    a = so.table({"k": [1, 2], "a": [1, 2], "v": [1, 2]})
    b = so.table({"w": [5, 6], "k": [2, 3], "v": [7, 8], "b": [1, 1]})
    pl = pytest.importorskip("polars")
    frames = [pl.DataFrame({n: [0] for n in t.columns}) for t in (a, b)]
    for how in KINDS:
        for keys in ({"on": "k"}, {"left_on": "a", "right_on": "b"}, {"on": ["k", "v"]},
                     {"left_on": ["k", "v"], "right_on": ["b", "k"]}):  # fmt: skip
            mine = a.join(b, how=how, **keys).columns
            assert mine == frames[0].join(frames[1], how=how, **keys).columns, (how, keys)
    assert a.join(b, how="cross").columns == frames[0].join(frames[1], how="cross").columns
    named = a.join(b, on="k", suffix="_of_b").columns
    assert named == frames[0].join(frames[1], on="k", suffix="_of_b").columns


def test_a_key_that_is_a_function_leaves_both_tables_columns() -> None:
    a, b = so.table({"k": [10, 21, 35]}), so.table({"k": [1, 2, 2], "n": ["a", "b", "c"]})
    joined = a.join(b, left_on=lambda r: r.k // 10, right_on="k")
    assert ordered(joined) == {"k": [10, 21, 21], "k_right": [1, 2, 2], "n": ["a", "b", "c"]}
    both = a.join(b, left_on=lambda r: r.k % 2, right_on=lambda r: r.k - 1, how="left")
    assert ordered(both)["n"] == ["a", "b", "c", "b", "c"]


def test_a_key_that_is_an_opaque_function() -> None:
    def first(r: Any) -> str:
        return str(r.s)[0] if r.s else "?"

    a, b = so.table({"s": ["ab", "cd", ""]}), so.table({"c": ["c", "a", "?"], "n": [1, 2, 3]})
    joined = a.join(b, left_on=so.udf(first), right_on="c")
    assert ordered(joined) == {"s": ["ab", "cd", ""], "c": ["a", "c", "?"], "n": [2, 1, 3]}
    two = a.join(b, left_on=[so.udf(first), "s"], right_on=["c", "c"], how="semi")
    assert ordered(two) == {"s": []}


def test_a_function_of_several_keys() -> None:
    a = so.table({"x": [1, 2, 3], "y": [1, 1, 2]})
    b = so.table({"p": [1, 2], "q": [1, 1], "n": [7, 8]})
    joined = a.join(b, left_on=lambda r: (r.x, r.y), right_on=["p", "q"])
    assert ordered(joined.select("x", "n")) == {"x": [1, 2], "n": [7, 8]}


def test_a_table_joins_itself() -> None:
    edges = so.table({"src": [1, 1, 2], "dst": [2, 3, 3]})
    paths = edges.join(edges, left_on="dst", right_on="src")
    assert ordered(paths) == {"src": [1], "dst": [2], "dst_right": [3]}
    twins = edges.join(edges, on="src").filter(lambda r: r.dst < r.dst_right)
    assert ordered(twins) == {"src": [1], "dst": [2], "dst_right": [3]}


@pytest.mark.parametrize(
    ("left", "right", "common"),
    [
        (np.int8, np.int64, "int64"),
        (np.uint8, np.int8, "int16"),
        (np.uint32, np.int32, "int64"),
        (np.uint64, np.uint8, "uint64"),
        (np.float32, np.float64, "float64"),
        (np.bool_, np.bool_, "bool"),
    ],
)
def test_widths_of_one_kind_of_number_are_compared(left: Any, right: Any, common: str) -> None:
    a = so.table({"k": np.array([1, 0, 1], left)})
    b = so.table({"k": np.array([1, 2 if common != "bool" else 1], right), "n": [1, 2]})
    joined = a.join(b.limit(1), on="k")
    assert str(joined.schema["k"]) == np.dtype(left).name  # the left one stays as it is
    assert ordered(joined)["n"] == [1, 1]


def test_times_are_keys() -> None:
    day = [datetime(2024, 1, d) for d in (1, 2, 3)]
    a, b = so.from_arrow(pa.table({"t": day})), so.from_arrow(pa.table({"t": day[1:], "n": [1, 2]}))
    assert ordered(a.join(b, on="t", how="left"))["n"] == [None, 1, 2]


def test_tables_of_bare_values_join_on_value() -> None:
    a = so.table({"x": [1, 2, 3, 2]}).map("x")
    b = so.table({"x": [2, 4]}).map("x")
    assert ordered(a.join(b, on="value")) == {"value": [2, 2]}
    assert ordered(a.join(b)) == {"value": [2, 2]}
    assert a.join(b, how="anti").map(lambda v: v * 10).collect().column("value").to_pylist() == [
        10,
        30,
    ]
    named = so.table({"k": [3, 1], "n": ["c", "a"]})
    assert ordered(a.join(named, left_on="value", right_on="k"))["n"] == ["a", "c"]


@pytest.mark.parametrize("how", KINDS)
def test_the_same_bits_on_one_thread_and_on_two(how: str) -> None:
    left, right = tables(11, (500, 150))
    a, b = so.from_arrow(left).repartition(7), so.from_arrow(right).repartition(3)
    joined = a.join(b.drop("s"), on="k", how=how)
    with so.session(threads=1):
        one = joined.collect()
    with so.session(threads=2):
        two = joined.collect()
    assert one.equals(two)
    rows = [[(k,) for k in t.column("k").to_pylist()] for t in (left, right)]
    pairs = pairs_of(rows[0], rows[1], how)
    assert one.column("a").to_pylist() == [i for i, _ in pairs]


# Several tables.


def several(*shapes: int) -> list[so.Table]:
    """Tables of a key `k` that repeats and the record's number `i`."""
    random = np.random.default_rng(sum(shapes))
    return [so.table({"k": random.integers(0, 4, n), "i": np.arange(n)}) for n in shapes]


@pytest.mark.parametrize("shapes", [(5, 6), (4, 5, 3), (3, 3, 3, 3, 2, 2, 2, 2)])
def test_so_join_is_nested_loops_over_its_tables(shapes: tuple[int, ...]) -> None:
    made = several(*shapes)
    keys = [t.collect().column("k").to_pylist() for t in made]
    rows: list[tuple[int, ...]] = [(i,) for i in range(shapes[0])]
    for own in keys[1:]:
        rows = [(*r, j) for r in rows for j, k in enumerate(own) if k == keys[0][r[0]]]
    found = so.join(*(t.by("k") for t in made)).collect().to_pylist()
    assert [tuple(r[f"_{n}"]["i"] for n in range(len(made))) for r in found] == rows
    assert all(r["_0"]["k"] == r["_1"]["k"] for r in found)


def test_so_join_takes_functions_several_keys_and_bare_values() -> None:
    a = so.table({"x": [1, 2, 3], "y": ["p", "q", "r"]})
    b = so.table({"u": [10, 20, 20], "w": ["p", "q", "z"]})
    both = so.join(a.by("x", "y"), b.by(lambda r: r.u // 10, "w"))
    assert both.columns == ["_0", "_1"]
    assert ordered(both.map(lambda p: (p[0].x, p[1].u))) == {"_0": [1, 2], "_1": [10, 20]}
    bare = so.join(a.map("x").by("value"), b.by(lambda r: r.u // 10))
    assert ordered(bare.map(lambda p: {"x": p[0], "w": p[1].w})) == {
        "x": [1, 2, 2],
        "w": ["p", "q", "z"],
    }


def test_so_join_takes_opaque_keys() -> None:
    def length(r: Any) -> int:
        return len(r.y) if r.y else 0

    a = so.table({"y": ["p", "qq", "rrr"]})
    b = so.table({"n": [3, 1]})
    joined = so.join(a.by(so.udf(length)), b.by("n"), b.by("n"))
    assert joined.columns == ["_0", "_1", "_2"]
    assert ordered(joined.map(lambda p: (p[0].y, p[1].n, p[2].n))) == {
        "_0": ["p", "rrr"],
        "_1": [1, 3],
        "_2": [1, 3],
    }


def test_so_join_of_a_table_with_itself_and_of_a_join() -> None:
    a = so.table({"k": [1, 1, 2], "n": [0, 1, 2]})
    branch = a.by("k")
    same = so.join(branch, branch)
    assert ordered(same.map(lambda p: (p[0].n, p[1].n)))["_1"] == [0, 1, 0, 1, 2]
    deep = so.join(same.by(lambda p: p[0].n), a.by("n"))
    assert str(deep.schema["_0․_1․k"]) == "int64"
    assert ordered(deep.map(lambda q: q[0][1].n * 10 + q[1].k)) == {"value": [1, 11, 1, 11, 22]}


def test_plans_show_joins_with_their_keys() -> None:
    a, b = so.table({"id": [1], "x": [2]}), so.table({"id": [1], "y": [2]})
    assert "Join inner on id = id  (" in a.join(b, on="id").explain()
    two = a.join(b, left_on=["id", "x"], right_on=["y", "id"], how="left").explain()
    assert "Join left on (id = y, x = id)" in two
    assert "Join cross  (" in a.join(b, how="cross").explain()
    assert "Distinct by id  (" in a.distinct("id").explain()
    function = a.join(b, left_on=lambda r: r.x + 1, right_on="id", how="anti").explain()
    assert "Join anti on x + 1 = id" in function


ROW_FUNCTIONS: list[Callable[[Any], Any]] = [lambda r: r.k * 2, lambda r: -r.k]


@pytest.mark.parametrize("f", ROW_FUNCTIONS)
def test_key_functions_are_checked_against_plain_calls(f: Callable[[Any], Any]) -> None:
    a = so.table({"k": [1, 2, 3]})
    assert a.join(a, left_on=f, right_on=f).count().collect() == 3
    calls = iter(range(100))
    drifting = {0: 1, 1: 1}

    def changes(r: Any) -> Any:
        return r.k + drifting.get(next(calls), 5)

    with pytest.raises(so.TraceError, match=r"gives .* when called plainly"):
        a.join(a, left_on=changes, right_on="k").collect()


def test_columns_of_records_join_and_are_keys() -> None:
    t = so.table({"a": [1, 2], "b": ["x", "y"]}).map(lambda r: {"k": r, "n": r.a * 10})
    other = so.table({"a": [2, 1], "b": ["y", "z"]}).map(lambda r: {"k": r, "n": r.a})
    joined = t.join(other, on="k", how="left")
    assert str(joined.schema) == "k: record[a: int64, b: string], n: int64, n_right: int64"
    assert ordered(joined.select("n", "n_right")) == {"n": [10, 20], "n_right": [None, 2]}
    both = t.join(other, left_on="n", right_on=lambda r: r.n * 10)
    assert both.columns == ["k", "n", "k_right", "n_right"]
    assert ordered(both.map(lambda r: r.k.b + r.k_right.b)) == {"value": ["xz", "yy"]}


def test_arrays_without_a_match_are_null() -> None:
    a, b = so.table({"id": [1, 2]}), so.table({"id": [2], "v": np.ones((1, 2)), "x": [0.5]})
    found = ordered(a.join(b, on="id", how="left"))
    assert found == {"id": [1, 2], "v": [None, [1.0, 1.0]], "x": [None, 0.5]}
    pairs = so.join(a.by("id"), a.join(b, on="id", how="left").by("id"))
    assert ordered(pairs.map(lambda p: p[1].x)) == {"value": [None, 0.5]}

"""`group_by`, `agg` and the words of groups: plain Python and DuckDB are the witnesses."""

from __future__ import annotations

import math
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from tests.language.groups import assert_rows, collected, grouped, rows_of

NAN = float("nan")
DATA: dict[str, Any] = {
    "k": ["b", "a", None, "b", "a", "c", "b", None],
    "j": [1, 2, 1, 1, 2, 3, 2, 1],
    "v": [1.0, 2.5, 3.0, None, -1.0, None, 4.0, NAN],
    "n": [3, 1, None, 3, 2, None, 5, 0],
    "b": [True, False, None, True, True, None, False, False],
}
T = so.table(rows_of(DATA))


def known(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [r[name] for r in rows if r[name] is not None]


def test_agg_gives_one_record_per_key_by_first_appearance() -> None:
    made = T.group_by("k").agg(n=so.count(), known=so.count("v"), total=so.sum("v"))
    expected = [
        {"k": k, "n": len(rows), "known": len(known(rows, "v")), "total": sum(known(rows, "v"))}
        for k, rows in grouped(rows_of(DATA), lambda r: r["k"])
    ]
    assert str(made.schema) == "k: string, n: int64, known: int64, total: float64"
    assert_rows(collected(made), expected)


@pytest.mark.parametrize(
    ("made", "meant", "nothing"),
    [
        (so.sum("n"), sum, 0),
        (so.mean("n"), np.mean, NAN),
        (so.min("n"), min, None),
        (so.max("n"), max, None),
        (so.any("b"), any, False),
        (so.all("b"), all, True),
        (so.first("n"), lambda v: v[0], None),
        (so.last("n"), lambda v: v[-1], None),
        (so.var("n"), np.var, NAN),
        (so.std("n", ddof=1), lambda v: np.std(v, ddof=1) if len(v) > 1 else NAN, NAN),
        (so.n_unique("n"), lambda v: len(set(v)), 0),
        (so.quantile(0.25, "n"), lambda v: np.quantile(v, 0.25), NAN),
    ],
    ids=lambda x: repr(x) if "so." in repr(x) else "",
)
def test_an_aggregate_skips_nulls_and_has_its_value_over_nothing(
    made: Any, meant: Any, nothing: Any
) -> None:
    name = made.of
    expected = []
    for k, rows in grouped(rows_of(DATA), lambda r: r["k"]):
        values = known(rows, name)
        with np.errstate(all="ignore"):
            expected.append({"k": k, "x": meant(values) if values else nothing})
    assert_rows(collected(T.group_by("k").agg(x=made)), expected)


def test_collect_list_keeps_table_order() -> None:
    made = T.group_by("j").agg(k=so.collect_list("k"), n=so.collect_list("n"))
    expected = [
        {"j": j, "k": known(rows, "k"), "n": known(rows, "n")}
        for j, rows in grouped(rows_of(DATA), lambda r: r["j"])
    ]
    assert made.collect().to_pylist() == expected


def test_argmax_gives_a_value_or_the_record_and_ties_go_to_the_first() -> None:
    made = T.group_by("k").agg(at=so.argmax("n", "j"), low=so.argmin(lambda r: r.n, "v"))
    expected = []
    for k, rows in grouped(rows_of(DATA), lambda r: r["k"]):
        rows = [r for r in rows if r["n"] is not None]
        best = max(rows, key=lambda r: r["n"], default={"j": None})
        least = min(rows, key=lambda r: r["n"], default={"v": None})
        expected.append({"k": k, "at": best["j"], "low": least["v"]})
    assert_rows(made.collect(), expected)
    whole = so.table(rows_of(DATA)).select("k", "n").group_by("k").agg(best=so.argmax("n"))
    assert whole.schema.names == ("k", "best\u2024k", "best\u2024n")


def test_several_keys_functions_and_names_of_keys() -> None:
    rows = rows_of(DATA)
    table = T.group_by("k", "j").agg(n=so.count())
    expected = [
        {"k": k, "j": j, "n": len(own)} for (k, j), own in grouped(rows, lambda r: (r["k"], r["j"]))
    ]
    assert_rows(collected(table), expected)
    half = T.group_by(lambda r: r.j // 2).count()
    assert half.columns == ["key", "count"]
    assert collected(half).to_pylist() == [{"key": 0, "count": 4}, {"key": 1, "count": 4}]
    named = T.group_by("k", odd=lambda r: r.j % 2 == 1).agg(n=so.count())
    assert named.columns == ["k", "odd", "n"]
    both = T.group_by(lambda r: {"odd": r.j % 2, "k": r.k}).agg(n=so.count())
    assert both.columns == ["odd", "k", "n"]
    assert [(r["k"], bool(r["odd"]), r["n"]) for r in both.collect().to_pylist()] == [
        (r["k"], r["odd"], r["n"]) for r in named.collect().to_pylist()
    ]
    assert T.group_by(lambda r: (r.j, r.k)).agg(n=so.count()).columns == ["_0", "_1", "n"]
    assert T.group_by(x="j").count().columns == ["x", "count"]


def test_an_opaque_key_gives_the_same_groups_as_a_traced_one() -> None:
    def opaque(r: Any) -> int:
        return 0 if r.j > 1 else 7

    traced = T.group_by(key=lambda r: np.where(r.j > 1, 0, 7)).agg(s=so.sum("j"))
    made = T.group_by(so.udf(opaque, returns=so.int64)).agg(
        s=so.sum(so.udf(lambda r: r.j, returns=so.int64))
    )
    assert made.collect().equals(traced.collect())


def test_the_words_of_groups_name_their_column_after_what_they_read() -> None:
    groups = T.group_by("j")
    assert groups.sum("v").columns == ["j", "v"]
    assert groups.count("v").columns == ["j", "count"]
    assert groups.mean(lambda r: r.n * 2).columns == ["j", "mean"]
    assert groups.argmax("n", "k").columns == ["j", "k"]
    assert groups.max(lambda r: {"a": r.n, "b": r.v}).columns == ["j", "a", "b"]
    for word in ("min", "max", "first", "last", "mean", "var", "std", "n_unique"):
        made = getattr(groups, word)("n").collect()
        wanted = groups.agg(n=getattr(so, word)("n")).collect()
        assert_rows(made, wanted.to_pylist())
    assert_rows(
        groups.quantile(0.5, "n").collect(),
        groups.agg(n=so.quantile(0.5, "n")).collect().to_pylist(),
    )
    assert groups.any("b").columns == groups.all("b").columns == ["j", "b"]
    assert groups.collect_list("n").columns == groups.argmin("v", "n").columns == ["j", "n"]


def test_an_aggregate_of_a_structure_is_a_column_of_records() -> None:
    made = T.group_by("j").agg(s=so.sum(lambda r: {"n": r.n, "v": r.v}), first=so.first())
    assert made.schema.names[:3] == ("j", "s\u2024n", "s\u2024v")
    assert [n for n in made.schema.names if n.startswith("first")] == [
        f"first\u2024{n}" for n in DATA
    ]


@pytest.mark.parametrize("rows", [0, 1, 1000, 70_000])
@pytest.mark.parametrize("distinct", [3, 40_000])
def test_duckdb_says_the_same(rows: int, distinct: int) -> None:
    random = np.random.default_rng(rows)
    data = pa.table(
        {
            "k": random.integers(0, distinct, rows),
            "v": random.normal(size=rows),
            "n": pa.array(random.integers(0, 9, rows), mask=random.random(rows) < 0.2),
        }
    )
    made = so.from_arrow(data).group_by("k").agg(
        s=so.sum("v"), m=so.mean("v"), c=so.count("n"), low=so.min("n"), top=so.max("v"),
        u=so.n_unique("n"),
    )  # fmt: skip
    with duckdb.connect() as base:
        base.register("data", data)
        answer = base.sql(
            "select k, sum(v) s, avg(v) m, count(n) c, min(n) low, max(v) top,"
            " count(distinct n) u from data group by k order by k"
        )
        assert answer is not None
        expected = answer.to_arrow_table()
    found = made.collect().sort_by("k")
    assert found.column_names == expected.column_names
    for name in found.column_names:
        own, other = (t.column(name).to_numpy().astype(float) for t in (found, expected))
        np.testing.assert_allclose(own, other, rtol=1e-9, atol=1e-12)


def test_bits_do_not_depend_on_threads() -> None:
    random = np.random.default_rng(5)
    table = so.table({"k": random.integers(0, 50, 100_000), "x": random.normal(size=(100_000, 3))})
    made = table.group_by("k").agg(m=so.mean("x"), s=so.sum(lambda r: r.x[0]))
    found = []
    for threads in (1, 2):
        with so.session(threads=threads):
            found.append(made.collect())
    assert found[0].equals(found[1])


KEYS: list[tuple[str, Any]] = [
    ("vector", np.array([[1.0, 2], [1, 2], [NAN, 0], [NAN, -0.0], [1, 3]])),
    ("list", [["a"], ["a"], [], [], ["a", "b"]]),
    ("NaN", np.array([NAN, 0.0, -0.0, NAN, 1.0])),
    ("null", [None, 1, None, 2, 1]),
    ("bool", np.array([True, False, True, True, False])),
    ("timestamp", np.array(["2020-01-01", "2020-01-02"] * 2 + ["2020-01-01"], "datetime64[s]")),
]


@pytest.mark.parametrize(("kind", "keys"), KEYS, ids=[k for k, _ in KEYS])
def test_keys_of_any_type(kind: str, keys: Any) -> None:
    if isinstance(keys, list):
        table = so.table([{"k": k, "v": i} for i, k in enumerate(keys)])
    else:
        table = so.table({"k": keys, "v": np.arange(5)})
    made = table.group_by("k").agg(v=so.collect_list("v")).collect()
    rows = [{"k": k, "v": i} for i, k in enumerate(keys)]
    rows = [{"k": k.tolist() if isinstance(k, np.ndarray) else k, "v": r["v"]}
            for r in rows for k in [r["k"]]]  # fmt: skip
    expected = [[r["v"] for r in own] for _, own in grouped(rows, lambda r: r["k"])]
    assert made.column("v").to_pylist() == expected


def test_an_empty_table_has_no_groups() -> None:
    empty = so.empty({"k": so.string, "v": so.float64})
    made = empty.group_by("k").agg(s=so.sum("v"), n=so.count())
    assert made.collect().num_rows == 0
    assert made.collect().column_names == ["k", "s", "n"]
    mapped = empty.group_by("k").map(lambda key, rows: {"key": key, "m": rows.mean("v")})
    assert mapped.collect().num_rows == 0


def test_groups_of_bare_values() -> None:
    made = so.table({"v": [1.0, 2.0, 3.0]}).map(lambda r: r.v).group_by(lambda v: v > 1).sum()
    assert made.columns == ["key", "sum"]
    assert made.collect().to_pylist() == [{"key": False, "sum": 1.0}, {"key": True, "sum": 5.0}]


def test_a_loop_may_group_by_what_it_computes() -> None:
    x = np.array([0.0, 1.0, 9.0, 10.0])

    @so.loop(np.array([0.0, 5.0]), range(5))
    def centres(c: Any) -> Any:
        means = so.table({"x": x}).group_by(near=lambda r: np.argmin(abs(c - r.x))).mean("x")
        return means.to_array("x", index="near", size=2, fill=c)

    assert np.allclose(centres.collect(), [0.5, 9.5])


def test_no_nan_is_made_of_a_group_whose_values_are_known() -> None:
    made = T.filter(lambda r: r.k == "b").group_by("k").agg(m=so.mean("v")).collect()
    assert not math.isnan(made.column("m")[0].as_py())

"""Columns that hold records: symbols, operators, opaque functions, Arrow's structs and files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

import scalops as so
from tests.language.witness import listed, ordered


@pytest.fixture
def pairs() -> so.Table:
    """Books (title, author, v) beside their authors (id, name)."""
    books = so.table(
        {
            "title": ["Emma", "Ulysses", "Persuasion"],
            "author": [1, 2, 1],
            "v": np.arange(6.0).reshape(3, 2),
        }
    )
    authors = so.table({"id": [1, 2], "name": ["Austen", "Joyce"]})
    return so.join(books.by("author"), authors.by("id"))


TITLES = ["Emma", "Ulysses", "Persuasion"]
NAMES = ["Austen", "Joyce", "Austen"]


def test_fields_are_read_by_position_attribute_and_name(pairs: so.Table) -> None:
    for f in (
        lambda p: p[0].title,
        lambda p: p._0.title,
        lambda p: p["_0"]["title"],
        lambda p: p[0][0],
        lambda p: p[-2]["title"],
    ):
        assert listed(pairs.map(f)) == TITLES
    assert listed(pairs.map(lambda p: p[0].v.sum() + p[1].id)) == [2.0, 7.0, 10.0]


def test_the_schema_shows_columns_as_the_user_sees_them(pairs: so.Table) -> None:
    assert pairs.columns == ["_0", "_1"]
    text = (
        "_0: record[title: string, author: int64, v: float64[2]],"
        " _1: record[id: int64, name: string]"
    )
    assert str(pairs.schema) == text
    assert repr(pairs) == f"Table({text})"


def test_a_record_becomes_the_columns_of_a_table(pairs: so.Table) -> None:
    assert ordered(pairs.map(lambda p: p[1])) == {"id": [1, 2, 1], "name": NAMES}
    assert ordered(pairs.map("_1")) == {"id": [1, 2, 1], "name": NAMES}


def test_records_inside_records_and_tuples_of_them(pairs: so.Table) -> None:
    made = pairs.map(lambda p: {"who": p[1], "n": {"len": p[0].title.str.length(), "one": 1}})
    assert str(made.schema) == (
        "who: record[id: int64, name: string], n: record[len: int64, one: int64]"
    )
    assert made.collect().to_pylist()[1] == {
        "who": {"id": 2, "name": "Joyce"},
        "n": {"len": 7, "one": 1},
    }
    swapped = pairs.map(lambda p: (p[1], p[0]))
    assert swapped.columns == ["_0", "_1"]
    assert listed(swapped.map(lambda p: p[0].name)) == NAMES
    deep = pairs.map(lambda p: {"a": {"b": {"c": p[0]}}, "t": (p[1], 1)})
    assert listed(deep.map(lambda r: r.a.b.c.author + r.t[0].id + r.t[1])) == [3, 5, 3]


class Point(NamedTuple):
    x: Any
    y: Any


@dataclass
class Named:
    name: Any
    point: Any


def test_tuples_with_names_and_dataclasses_are_records() -> None:
    t = so.table({"a": [1, 2], "s": ["p", "q"]})
    made = t.map(lambda r: Named(r.s, Point(r.a, r.a * 0.5)))
    assert str(made.schema) == "name: string, point: record[x: int64, y: float64]"
    assert made.collect().column("point").to_pylist() == [{"x": 1, "y": 0.5}, {"x": 2, "y": 1.0}]
    # A plain tuple inside a record is an array, as it is for NumPy.
    assert str(t.map(lambda r: {"v": (r.a, r.a)}).schema) == "v: int64[2]"


def test_select_drop_rename_and_with_columns_take_the_whole_column(pairs: so.Table) -> None:
    assert ordered(pairs.select("_1"))["_1"] == [
        {"id": 1, "name": "Austen"},
        {"id": 2, "name": "Joyce"},
        {"id": 1, "name": "Austen"},
    ]
    assert pairs.select(a=lambda p: p[0].title, b="_1").columns == ["a", "b"]
    assert listed(pairs.select(b="_1").map(lambda r: r.b.name)) == NAMES
    assert listed(pairs.select(b=lambda p: p[1]).map(lambda r: r.b.name)) == NAMES
    assert pairs.drop("_0").columns == ["_1"]
    renamed = pairs.rename({"_0": "book", "_1": "_0"})
    assert renamed.columns == ["book", "_0"]
    assert listed(renamed.map(lambda r: r._0.name)) == NAMES
    more = pairs.with_columns(_0=lambda p: p[0].title, n=lambda p: {"m": p[1].id})
    assert str(more.schema) == (
        "_0: string, _1: record[id: int64, name: string], n: record[m: int64]"
    )
    assert ordered(more.drop("_1")) == {"_0": TITLES, "n": [{"m": 1}, {"m": 2}, {"m": 1}]}
    replaced = pairs.with_columns(_0=lambda p: {"t": p[0].title})
    assert replaced.columns == ["_0", "_1"]
    assert ordered(replaced)["_0"] == [{"t": t} for t in TITLES]


def test_filter_sort_limit_union_and_distinct(pairs: so.Table) -> None:
    by_name = pairs.filter(lambda p: p[1].name == "Austen").sort(lambda p: p[0].title.str.length())
    assert listed(by_name.map(lambda p: p[0].title)) == ["Emma", "Persuasion"]
    twice = pairs.union(pairs)
    assert twice.distinct().count().collect() == 3
    assert listed(twice.distinct("_1").map(lambda p: p[0].title)) == ["Emma", "Ulysses"]
    numbered = pairs.with_row_index().limit(2)
    assert numbered.columns == ["index", "_0", "_1"]
    assert listed(numbered.map(lambda r: r._0.title)) == TITLES[:2]


def test_folds_give_structures_of_structures(pairs: so.Table) -> None:
    first = pairs.first()
    assert first[1].name.collect() == "Austen"
    assert first[1].collect() == {"id": 1, "name": "Austen"}
    whole = first.collect()
    assert whole[0]["title"] == "Emma"
    assert whole[1] == {"id": 1, "name": "Austen"}
    assert pairs.last("_1").collect() == {"id": 1, "name": "Austen"}
    longest = pairs.argmax(lambda p: p[0].title.str.length(), "_1")
    assert longest.name.collect() == "Austen"
    sums = pairs.map(lambda p: {"a": {"id": p[1].id, "n": 1}}).reduce(
        lambda p, q: {"a": {"id": p.a.id + q.a.id, "n": p.a.n + q.a.n}}
    )
    assert sums.a.id.collect() == 4
    assert sums.collect() == {"a": {"id": 4, "n": 3}}
    assert so.where(True, sums, sums).collect() == {"a": {"id": 4, "n": 3}}
    assert pairs.map(lambda p: {"a": p[1].id}).sum("a").collect() == 4


def test_flat_map_gives_records_that_hold_records(pairs: so.Table) -> None:
    traced = pairs.flat_map(lambda p: [{"who": p[1], "n": i} for i in range(2)])
    assert listed(traced.map(lambda r: r.who.id * 10 + r.n)) == [10, 11, 20, 21, 10, 11]

    def halves(p: Any) -> Any:
        return [{"who": p[1], "c": c} for c in str(p[0].title)[:2]]

    opaque = pairs.flat_map(so.udf(halves))
    assert str(opaque.schema) == "who: record[id: int64, name: string], c: string"
    assert opaque.collect().to_pylist()[2:4] == [
        {"who": {"id": 2, "name": "Joyce"}, "c": "U"},
        {"who": {"id": 2, "name": "Joyce"}, "c": "l"},
    ]


# Opaque functions.


def test_opaque_functions_get_and_give_records(pairs: so.Table) -> None:
    def initials(p: Any) -> Any:
        return {"t": p[0].title[0], "who": p._1, "v": {"s": float(p["_0"]["v"].sum())}}

    with so.session(processes=0):
        made = pairs.map(so.udf(initials))
        assert str(made.schema) == (
            "t: string, who: record[id: int64, name: string], v: record[s: float64]"
        )
        found = made.collect().to_pylist()
    assert found[1] == {"t": "U", "who": {"id": 2, "name": "Joyce"}, "v": {"s": 5.0}}
    kept = pairs.filter(so.udf(lambda p: p[0].author == p[1].id and "U" in p[0].title))
    assert listed(kept.map(lambda p: p[1].name)) == ["Joyce"]


def test_opaque_functions_in_worker_processes_do(pairs: so.Table) -> None:
    with so.session(processes=1):
        found = pairs.map(so.udf(lambda p: (p[1], p))).collect().to_pylist()
    assert [r["_0"]["name"] for r in found] == NAMES
    assert [r["_1"]["_0"]["title"] for r in found] == TITLES


def test_declared_types_hold_records(pairs: so.Table) -> None:
    kinds = {"who": {"id": so.int64, "name": so.string}, "n": so.int64}
    made = pairs.map(so.udf(lambda p: {"who": p[1], "n": 1}, returns=kinds))
    assert str(made.schema) == "who: record[id: int64, name: string], n: int64"
    assert made.collect().to_pylist()[0] == {"who": {"id": 1, "name": "Austen"}, "n": 1}
    wrong = pairs.map(so.udf(lambda p: {"who": {"id": 1}, "n": 1}, returns=kinds))
    with pytest.raises(so.UserFunctionError, match="expected"):
        wrong.collect()


def test_a_batch_function_gets_records_of_arrays(pairs: so.Table) -> None:
    made = pairs.map(so.udf(lambda p: p[0].v.sum(axis=1) + p[1].id, batch=True))
    assert listed(made) == [2.0, 7.0, 10.0]


def test_opaque_aggregates_and_reduces_get_records(pairs: so.Table) -> None:
    def longest(state: Any, p: Any) -> Any:
        return max(state, p[0].title, key=len) if p[1].id else state

    found = pairs.aggregate(
        "", so.assume_associative(longest), lambda a, b: max(a, b, key=len)
    ).collect()
    assert found == "Persuasion"


def test_map_batches_has_structs(pairs: so.Table) -> None:
    def turned(batch: pa.Table) -> pa.Table:
        assert batch.column_names == ["_0", "_1"]
        return pa.table({"who": batch.column("_1"), "n": pa.array([batch.num_rows] * len(batch))})

    made = pairs.map_batches(
        turned, pa.schema([("who", pairs.collect().schema.field("_1").type), ("n", pa.int64())])
    )
    assert str(made.schema) == "who: record[id: int64, name: string], n: int64"
    assert [r["who"]["name"] for r in made.collect().to_pylist()] == NAMES


def test_a_traced_function_is_compared_on_records(pairs: so.Table) -> None:
    known = {"Emma": 1}

    def looked_up(p: Any) -> Any:
        return p[1].id + len([k for k in known if k is p[0].title])

    assert listed(pairs.map(looked_up)) == [1, 2, 1]
    with pytest.raises(
        so.TraceError, match=r"gives .* when traced; the record is \{'_0': \{'title'"
    ):
        pairs.map(lambda p: p[1].id + (0 if isinstance(p[1].id, so.Value) else 1)).collect()


# Arrow and files.


def every_kind() -> so.Table:
    """A record with a column of each kind."""
    t = so.table(
        {
            "i": [1, 2],
            "s": ["a", "b"],
            "v": np.arange(4.0).reshape(2, 2),
            "m": np.arange(8).reshape(2, 2, 2),
            "l": [["x"], []],
            "z": sparse.csr_matrix(np.array([[0.0, 2.0], [3.0, 0.0]])),
            "t": np.array(["2024-01-01", "2024-01-02"], "M8[s]"),
        }
    )
    return t.map(lambda r: {"r": r, "k": r.i, "deep": {"r": {"z": r.z, "t": r.t}}})


@pytest.mark.parametrize("form", ["parquet", "ipc"])
def test_files_hold_records(form: str, tmp_path: Path) -> None:
    t = every_kind()
    path = tmp_path / f"a.{form}"
    getattr(t, f"write_{form}")(path)
    again = getattr(so, f"read_{form}")(path)
    assert again.schema == t.schema
    assert again.collect().equals(t.collect())
    assert ordered(again.select(s=lambda r: r.r.s, z=lambda r: r.deep.r.z.sum())) == {
        "s": ["a", "b"],
        "z": [2.0, 3.0],
    }
    some = getattr(so, f"read_{form}")(path, columns=["k", "deep"])
    assert some.columns == ["k", "deep"]
    assert listed(some.map(lambda r: r.deep.r.z.sum() + r.k)) == [3.0, 5.0]
    with pytest.raises(so.SchemaError, match=r"columns=\['nope'\].*\['r', 'k', 'deep'\]"):
        getattr(so, f"read_{form}")(path, columns=["nope"])


def test_json_has_objects_and_csv_refuses(pairs: so.Table, tmp_path: Path) -> None:
    pairs.write_json(tmp_path / "a.json")
    lines = [json.loads(line) for line in (tmp_path / "a.json").read_text().splitlines()]
    assert lines[1] == {
        "_0": {"title": "Ulysses", "author": 2, "v": [2.0, 3.0]},
        "_1": {"id": 2, "name": "Joyce"},
    }
    with pytest.raises(so.SchemaError, match="write_csv cannot hold the column '_0', which holds"):
        pairs.write_csv(tmp_path / "a.csv")
    assert not (tmp_path / "a.csv").exists()


def test_arrow_structs_come_in_and_go_out() -> None:
    structs = [{"a": 1, "b": {"c": "x"}}, None, {"a": None, "b": None}]
    t = so.from_arrow(pa.table({"s": structs, "n": [1, 2, 3]}))
    assert str(t.schema) == "s: record[a: int64, b: record[c: string]], n: int64"
    assert listed(t.map(lambda r: so.coalesce(r.s.a, 0) + r.n)) == [2, 2, 3]
    null = {"a": None, "b": {"c": None}}
    assert t.collect().column("s").to_pylist() == [structs[0], null, null]
    assert t.slice(1).collect().column("s").to_pylist() == [null, null]
    one = pa.table({"s": structs})
    chunked = pa.concat_tables([one.slice(1), one.slice(0, 1)])
    assert so.from_arrow(chunked).collect().column("s").to_pylist() == [null, null, structs[0]]


def test_empty_tables_keep_the_types_of_their_records(pairs: so.Table) -> None:
    none = pairs.limit(0).collect()
    assert none.schema == pairs.collect().schema
    assert so.empty(pairs.schema).collect().schema == none.schema
    assert so.empty(none.schema).columns == ["_0", "_1"]


def test_groups_by_records_and_of_them(pairs: so.Table) -> None:
    counted = pairs.group_by("_1").agg(n=so.count())
    assert counted.collect().to_pylist() == [
        {"_1": {"id": 1, "name": "Austen"}, "n": 2},
        {"_1": {"id": 2, "name": "Joyce"}, "n": 1},
    ]
    firsts = pairs.group_by(lambda p: p[1].name).agg(book=so.first("_0"))
    assert listed(firsts.map(lambda r: r.book.title)) == ["Emma", "Ulysses"]


def test_plans_print_fields(pairs: so.Table) -> None:
    text = pairs.filter(lambda p: p[0].title == "Emma").explain(stage="traced")
    assert "Filter _0․title == 'Emma'" in text


def test_times_in_records_are_pythons_for_opaque_functions() -> None:
    t = so.table({"t": np.array(["2024-01-01"], "M8[us]")}).map(lambda r: {"r": r})
    assert listed(t.map(so.udf(lambda p: p.r.t.year))) == [datetime(2024, 1, 1).year]

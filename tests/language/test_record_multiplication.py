"""Operators that make several records of one: explode, flat_map, map_batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import scalops as so
from tests.language.witness import is_opaque, line, listed, ordered


def lists() -> so.Table:
    """Lists with an empty one, a null one and a null item."""
    return so.from_arrow(
        pa.table(
            {
                "id": [1, 2, 3, 4],
                "n": pa.array([[1, 2, None], [], None, [3]], pa.list_(pa.int64())),
                "s": pa.array([["a"], ["b", None], [], ["c", "d"]], pa.list_(pa.string())),
            }
        )
    )


def vectors() -> so.Table:
    return so.table({"y": [1.0, -1.0], "x": np.array([[1.0, 2, 3], [4, 5, 6]])})


# Explode.


def test_explode_gives_one_record_for_each_item() -> None:
    t = lists().drop("s")
    assert ordered(t.explode("n")) == {"id": [1, 1, 1, 4], "n": [1, 2, None, 3]}
    assert ordered(t.explode("n", index="j")) == {
        "id": [1, 1, 1, 4],
        "n": [1, 2, None, 3],
        "j": [0, 1, 2, 0],
    }
    assert str(t.explode("n", index="j").schema) == "id: int64, n: int64, j: int64"


def test_explode_of_strings_keeps_null_items() -> None:
    t = lists().select("s", "id")
    assert ordered(t.explode("s")) == {"s": ["a", "b", None, "c", "d"], "id": [1, 2, 2, 4, 4]}


def test_explode_of_vectors_and_matrices() -> None:
    t = vectors()
    assert ordered(t.explode("x", index="j")) == {
        "y": [1.0, 1.0, 1.0, -1.0, -1.0, -1.0],
        "x": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "j": [0, 1, 2, 0, 1, 2],
    }
    rows = t.map(lambda r: {"m": np.outer(r.x, r.x), "y": r.y}).explode("m")
    assert str(rows.schema) == "m: float64[3], y: float64"
    x = np.array([[1.0, 2, 3], [4, 5, 6]])
    assert listed(rows, "m") == [(a * row).tolist() for row in x for a in row]
    assert rows.limit(0).count().collect() == 0


def test_explode_of_a_bare_table_is_bare() -> None:
    items = vectors().map(lambda r: r.x).explode("value")
    assert items.schema.bare
    assert items.sum().collect() == 21.0


def test_explode_of_sparse_vectors_gives_what_is_stored() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.csr_matrix(np.array([[0.0, 2, 0, 3], [0, 0, 0, 0], [5, 0, 0, 0]]))
    t = so.table({"id": [1, 2, 3], "x": matrix})
    assert ordered(t.explode("x", index="i")) == {
        "id": [1, 1, 3],
        "x": [2.0, 3.0, 5.0],
        "i": [1, 3, 0],
    }


def test_explode_makes_blocks_of_many_records() -> None:
    wide = np.arange(60_000.0).reshape(600, 100)
    t = so.table({"i": np.arange(600), "x": wide})
    items = t.explode("x", index="j")
    assert items.count().collect() == 60_000
    assert listed(items, "x") == wide.ravel().tolist()
    assert items.slice(12_345, 2).map(lambda r: r.x).collect()["value"].to_pylist() == [
        12_345.0,
        12_346.0,
    ]


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda t: t.explode("id"), "needs a column of lists or vectors; 'id' is int64"),
        (lambda t: t.explode("nope"), "explode reads 'nope'"),
        (lambda t: t.explode("n", index="id"), "would add the column 'id'"),
    ],
)
def test_explode_refuses_what_has_no_items(write: Any, message: str) -> None:
    with pytest.raises(so.SchemaError, match=message):
        write(lists())


# flat_map.


class Pair(NamedTuple):
    a: float
    b: float


def test_flat_map_of_a_list_of_records_is_traced() -> None:
    t = vectors()
    made = t.flat_map(lambda r: [{"a": r.y, "b": 1}, {"a": r.x[0], "b": 2.5}])
    assert not is_opaque(made)
    assert str(made.schema) == "a: float64, b: float64"
    assert ordered(made) == {"a": [1.0, 1.0, -1.0, 4.0], "b": [1.0, 2.5, 1.0, 2.5]}
    assert listed(t.flat_map(lambda r: [r.y, r.y * 2])) == [1.0, 2.0, -1.0, -2.0]
    assert ordered(t.flat_map(lambda r: [Pair(r.y, 2), Pair(r.x[1], 3)])) == {
        "a": [1.0, 2.0, -1.0, 5.0],
        "b": [2, 3, 2, 3],
    }
    assert listed(t.flat_map(lambda r: (r.x[i] for i in range(2)))) == [1.0, 2.0, 4.0, 5.0]


def test_flat_map_of_nulls_strings_and_vectors() -> None:
    t = so.from_arrow(pa.table({"v": [1.0, None], "s": pa.array([None, "b"])}))
    made = t.flat_map(lambda r: [{"s": r.s, "v": r.v}, {"s": "c", "v": r.v + 1}])
    assert ordered(made) == {"s": [None, "c", "b", "c"], "v": [1.0, 2.0, None, None]}
    twice = vectors().flat_map(lambda r: [r.x, -r.x])
    assert listed(twice) == [[1, 2, 3], [-1, -2, -3], [4, 5, 6], [-4, -5, -6]]


def test_flat_map_of_a_list_expression_gives_its_items() -> None:
    assert listed(vectors().flat_map(lambda r: r.x * 2)) == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    assert listed(lists().flat_map(lambda r: r.s)) == ["a", "b", None, "c", "d"]


def test_opaque_flat_map_takes_any_iterable() -> None:
    t = so.table({"k": [0, 3, 1]})

    def below(r: Any) -> Iterator[int]:
        yield from range(int(r.k))

    assert listed(t.flat_map(below)) == [0, 1, 2, 0]
    assert ordered(t.flat_map(so.udf(lambda r: {(r.k, "x")}))) == {
        "_0": [0, 3, 1],
        "_1": ["x", "x", "x"],
    }
    named = so.udf(lambda r: [{"k": r.k, "s": "ab"[i]} for i in range(r.k % 2)])
    assert ordered(t.flat_map(named)) == {"k": [3, 1], "s": ["a", "a"]}


def test_opaque_flat_map_declares_one_record() -> None:
    t = so.table({"k": [0, 3, 1]})
    nothing = so.udf(lambda r: [], returns={"a": so.float64, "x": so.vector(2)})
    made = t.flat_map(nothing)
    assert str(made.schema) == "a: float64, x: float64[2]"
    assert made.count().collect() == 0
    pairs = so.udf(lambda r: [(r.k, None)] * r.k, returns=(so.int64, so.string))
    assert ordered(t.flat_map(pairs)) == {"_0": [3, 3, 3, 1], "_1": [None] * 4}
    vector = so.udf(lambda r: [np.arange(2.0) + r.k] * r.k, returns=so.vector(2))
    assert listed(t.flat_map(vector)) == [[3.0, 4.0]] * 3 + [[1.0, 2.0]]


def test_flat_map_reads_the_environment_of_a_loop() -> None:
    t = so.table({"k": [1.0, 2.0]})

    @so.loop({"s": 0.0}, range(3))
    def model(env: Any, i: Any) -> Any:
        made = t.flat_map(lambda r: [r.k * i, r.k + env["s"]])
        return {"s": made.sum()}

    s = 0.0
    for i in range(3):
        s = sum(k * i + k + s for k in (1.0, 2.0))
    assert model.collect()["s"] == s


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda r: r.y, "returns one float64; expected a list of records"),
        (lambda r: {"a": r.y}, "returns a dict; expected a list of records"),
        (lambda r: [], "returns no records, whatever the record is"),
        (lambda r: [r.y, {"a": 1}], "bare values and of"),
        (lambda r: [r.y, r.x], "as float64 and as float64\\[3\\]"),
        (so.udf(lambda r: 1), "returns a int; expected a list of records"),
        (so.udf(lambda r: []), "gives no record for the first records"),
        (so.udf(lambda r: "ab"), "returns a str"),
        ("y", "flat_map needs a function"),
    ],
)
def test_flat_map_refuses_what_is_no_list_of_records(f: Any, message: str) -> None:
    with pytest.raises(so.ScalopsError, match=message):
        vectors().flat_map(f).collect()


def test_opaque_flat_map_refuses_records_that_change() -> None:
    t = so.table({"k": np.arange(40)})
    f = so.udf(lambda r: [{"a": r.k}] if r.k < 30 else [{"b": r.k}])
    with pytest.raises(so.UserFunctionError, match=r"records of \['b'\] after records of \['a'\]"):
        t.flat_map(f).collect()


# map_batches.


def test_map_batches_gives_what_the_function_makes() -> None:
    t = so.table({"k": np.arange(5), "s": ["a", None, "c", "d", "e"]})

    def twice(batch: pa.Table) -> pa.Table:
        return pa.table({"k": pc.multiply(batch["k"], 2), "s": batch["s"]})

    made = t.map_batches(twice, {"k": so.int64, "s": so.string})
    assert ordered(made) == {"k": [0, 2, 4, 6, 8], "s": ["a", None, "c", "d", "e"]}
    schema = pa.schema([("k", pa.int64()), ("s", pa.string())])
    assert ordered(t.map_batches(twice, schema)) == ordered(made)
    assert "called once per batch" in " ".join(made.explain().split())
    kept = t.map_batches(lambda b: b.filter(pc.greater(b["k"], 2)).select(["k"]), {"k": pa.int64()})
    assert listed(kept, "k") == [3, 4]
    assert kept.sum("k").collect() == 7


def test_map_batches_takes_polars_batches_and_vectors() -> None:
    t = vectors()
    made = t.map_batches(lambda b: pl.DataFrame(b).select("y"), {"y": so.float64})
    assert listed(made, "y") == [1.0, -1.0]
    batch = t.map_batches(lambda b: b.combine_chunks().to_batches()[0], t.schema)
    assert ordered(batch) == ordered(t)


def test_map_batches_keeps_order_and_calls_once_per_block() -> None:
    t = so.table({"i": np.arange(300_000)})

    def sizes(batch: pa.Table) -> pa.Table:
        return pa.table({"n": [len(batch)], "first": [batch["i"][0].as_py()]})

    found = ordered(t.map_batches(sizes, {"n": so.int64, "first": so.int64}))
    assert sum(found["n"]) == 300_000
    assert found["first"] == sorted(found["first"])
    with so.session(threads=2):
        assert ordered(t.map_batches(sizes, {"n": so.int64, "first": so.int64})) == found


def test_map_batches_is_not_called_without_records() -> None:
    t = vectors().limit(0)
    made = t.map_batches(lambda b: 1 / 0, {"a": so.float64})
    assert made.count().collect() == 0
    assert made.collect().schema == pa.schema([("a", pa.float64())])


def test_map_batches_sees_values_and_the_environment() -> None:
    t = so.table({"k": [1.0, 2.0]})
    total = t.sum("k")

    @so.loop({"s": 1.0}, range(3))
    def model(env: Any) -> Any:
        s = env["s"]
        made = t.map_batches(
            lambda b: pa.table({"v": pc.multiply(b["k"], float(s) + float(total))}),
            {"v": so.float64},
        )
        return {"s": made.sum("v")}

    s = 1.0
    for _ in range(3):
        s = 3 * (s + 3)
    assert model.collect()["s"] == s


def fails(batch: pa.Table) -> pa.Table:
    raise ValueError("no such thing")


FAILS_LINE = line() - 3


def test_map_batches_names_the_line_that_raised() -> None:
    with pytest.raises(so.UserFunctionError, match="the number of records in the batch is 2") as e:
        vectors().map_batches(fails, {"a": so.float64}).collect()
    assert isinstance(e.value.__cause__, ValueError)
    assert e.value.location is not None
    assert (e.value.location.file, e.value.location.line) == (__file__, FAILS_LINE)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda b: 1, "gives a int; expected a pyarrow.Table"),
        (lambda b: b.rename_columns(["y", "z"]), r"gives the columns \['y', 'z'\]"),
        (lambda b: pa.table({"y": ["a"], "x": ["b"]}), "gives string as 'y'; expected float64"),
    ],
)
def test_map_batches_checks_what_comes_back(f: Any, message: str) -> None:
    with pytest.raises(so.UserFunctionError, match=message):
        vectors().map_batches(f, vectors().schema).collect()


@pytest.mark.parametrize("schema", [None, {}, [("a", so.float64)]])
def test_map_batches_needs_a_schema(schema: Any) -> None:
    with pytest.raises(so.SchemaError, match="map_batches declares its columns"):
        vectors().map_batches(lambda b: b, schema)

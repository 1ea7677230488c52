"""Sentences on joins, groups and tables in loops that no other test is named after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so

RNG = np.random.default_rng(5)
LEFT = so.table({"k": RNG.integers(0, 9, 60), "v": RNG.integers(-9, 9, 60) / 4})
RIGHT = so.table({"k": RNG.integers(3, 12, 40), "w": np.arange(40)})
BOOKS = so.table([{"title": "t1", "author": "F"}, {"title": "t2", "author": "G"}])
AUTHORS = so.table([{"name": "G", "born": 1950}, {"name": "F", "born": 1960}])


class Tables(so.Environment):
    a: so.Table
    b: so.Table
    n: int


def related(a: so.Table, b: so.Table) -> list[so.Table]:
    """Every operator that relates records to each other, over two tables."""
    hows = ("inner", "left", "right", "full", "semi", "anti", "cross")
    joins = [a.join(b, on=None if how == "cross" else "k", how=how) for how in hows]
    folds = {"s": so.sum("v"), "l": so.collect_list("v"), "f": so.first("v"), "m": so.mean("v")}
    return [
        *joins,
        so.join(a.by("k"), b.by("k"), a.by("k")).map(lambda p: {"v": p[0].v, "w": p[1].w}),
        so.cogroup(a.by("k"), b.by("k")).map(lambda k, x, y: {"s": x.sum("v"), "n": y.count()}),
        a.group_by("k").agg(**folds),
        a.group_by("k").map(lambda key, rows: {"k": key, "d": rows.max("v") - rows.min("v")}),
        a.distinct("k"),
    ]


def test_order_is_the_same_for_every_partition_count() -> None:
    def collected(a: int, b: int) -> list[dict[str, list[Any]]]:
        made = related(LEFT.repartition(a), RIGHT.repartition(b))
        return [t.to_pydict() for t in so.collect(made)]

    expected = [t.to_pydict() for t in so.collect(related(LEFT, RIGHT))]
    assert collected(1, 5) == expected
    assert collected(7, 2) == expected


def test_a_join_of_branches_is_a_table_of_pairs_of_records() -> None:
    pairs = so.join(BOOKS.by("author"), AUTHORS.by(lambda r: r.name))
    assert pairs.columns == ["_0", "_1"]
    assert pa.types.is_struct(pairs.collect().schema.field("_0").type)
    read = pairs.map(lambda p: {"title": p[0].title, "born": p[1].born}).collect()
    assert read.to_pydict() == {"title": ["t1", "t2"], "born": [1960, 1950]}


def test_a_running_aggregate_of_a_cogroup_needs_a_sort() -> None:
    made = so.cogroup(LEFT.by("k"), RIGHT.by("k")).map(
        lambda key, a, b: {"k": key, "n": a.count(), "m": b.count()}
    )
    with pytest.raises(so.PlanError, match=r"cogroup .*test_relation_sentences.py"):
        made.with_columns(c=so.cumsum("n"))
    found = made.sort("k").with_columns(c=so.cumsum("n")).collect()
    assert found["c"].to_pylist() == np.cumsum(found["n"].to_pylist()).tolist()


def test_nulls_form_one_group_and_never_join() -> None:
    t = so.table([{"k": None, "v": 1}, {"k": 1, "v": 2}, {"k": None, "v": 4}])
    groups = t.group_by("k").agg(s=so.sum("v")).collect()
    assert groups.to_pydict() == {"k": [None, 1], "s": [5, 2]}
    assert t.distinct("k").count().collect() == 2
    assert t.join(t, on="k").count().collect() == 1
    assert so.join(t.by("k"), t.by("k")).count().collect() == 1
    cogroup = so.cogroup(t.by("k"), t.by("k")).map(
        lambda key, a, b: {"k": key, "n": a.count() + b.count()}
    )
    assert cogroup.collect().to_pydict() == {"k": [None, 1], "n": [4, 2]}


def test_distinct_by_columns_keeps_the_first_record_whole() -> None:
    found = LEFT.with_row_index("i").distinct("k").collect().to_pydict()
    keys = LEFT.collect()["k"].to_pylist()
    assert found["i"] == [keys.index(k) for k in dict.fromkeys(keys)]


def test_an_assigned_table_is_the_new_one_from_there_on() -> None:
    one = so.table({"v": [1.0, 2.0]})

    @so.loop(Tables(a=one, b=one.limit(0), n=0), range(2))
    def made(env: Any) -> Any:
        before = env.a.count()  # of the table as it was here
        doubled = env.a.union(env.a)
        env.a = doubled
        env.b = env.a.limit(3)  # of the new one
        env.n += before
        return env

    env = made.collect()
    assert (env.a.num_rows, env.b.num_rows, env.n) == (8, 3, 2 + 4)


def test_functions_of_tables_see_the_environment_as_it_was() -> None:
    @so.loop({"t": so.table({"v": [1.0, 2.0]}), "w": 1.0}, range(2))
    def made(env: Any) -> Any:
        w = env["w"]
        moved = env["t"].with_columns(v=lambda r: r.v + w)
        w = w * 10
        return {"t": moved, "w": w}

    assert made.collect()["t"]["v"].to_pylist() == [1.0 + 1 + 10, 2.0 + 1 + 10]


def test_tables_of_groups_and_joins_are_checkpointed(tmp_path: Path) -> None:
    def made() -> so.Loop:
        @so.loop({"t": LEFT, "total": 0.0}, range(5))
        def loop(env: Any) -> Any:
            sums = env["t"].group_by("k").agg(s=so.sum("v"))
            t = env["t"].join(sums, on="k").select("k", v=lambda r: np.tanh(r.v + 0.1 * r.s))
            return {"t": t, "total": env["total"] + t.sum("v")}

        return loop  # type: ignore[no-any-return]

    with so.session():
        whole = made().run().env
    with so.session():
        made().run(checkpoint=tmp_path, on_iteration=lambda i, env: i < 2)
    with so.session():
        resumed = made().run(resume=tmp_path)
    assert resumed.iterations == 5
    assert resumed.env["t"].equals(whole["t"])
    assert resumed.env["total"].tobytes() == whole["total"].tobytes()


def test_a_key_that_disappears_in_the_third_iteration_is_gone() -> None:
    nodes = so.table({"id": np.arange(5), "v": np.ones(5)})

    @so.loop({"t": nodes}, range(4))
    def made(env: Any, i: Any) -> Any:
        sums = env["t"].filter(lambda r: (r.id != 3) | (i < 2)).group_by("id")
        joined = env["t"].join(sums.agg(s=so.sum("v")), on="id")
        return {"t": joined.select("id", v=lambda r: r.v + r.s)}

    assert made.collect()["t"].to_pydict() == {"id": [0, 1, 2, 4], "v": [16.0] * 4}


def test_a_pregel_loop_ends_when_no_message_is_left() -> None:
    edges = so.table({"src": [0, 1, 2, 5], "dst": [1, 2, 3, 5]})
    start = so.table({"id": [0]})

    @so.loop({"seen": start, "new": start}, lambda env: ~env["new"].is_empty())
    def reached(env: Any) -> Any:
        sent = edges.join(env["new"], left_on="src", right_on="id").select(id="dst").distinct()
        new = sent.join(env["seen"], on="id", how="anti")
        return {"seen": env["seen"].union(new), "new": new}

    result = reached.run()
    assert result.env["seen"]["id"].to_pylist() == [0, 1, 2, 3]
    assert (result.iterations, result.converged) == (4, True)


def test_to_array_of_groups_of_an_opaque_key_in_a_loop() -> None:
    x = np.array([[0.0, 0.1], [1.0, 0.9], [0.1, 0.0], [1.1, 1.0]])
    data = so.table({"x": x})

    def nearest(r: Any, c: Any) -> int:
        return 0 if float(((r.x - c[0]) ** 2).sum()) < float(((r.x - c[1]) ** 2).sum()) else 1

    @so.loop(x[:2].copy(), range(3))
    def centroids(c: Any) -> Any:
        groups = data.group_by(cluster=lambda r: nearest(r, c))
        means = groups.agg(centre=so.mean("x"))
        return means.to_array("centre", index="cluster", size=2, fill=c)

    with so.session(processes=0):
        found = centroids.collect()
    np.testing.assert_allclose(found, [x[[0, 2]].mean(axis=0), x[[1, 3]].mean(axis=0)])

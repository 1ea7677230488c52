"""Functions of a group's records: what they get."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse

import scalops as so
from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.dtypes import FLOAT64, INT64, OBJECT
from scalops.algebra.dtypes import sparse as sparse_of
from scalops.algebra.relations import GroupApply, RowsArgument
from scalops.algebra.schema import HIDDEN, Schema
from scalops.capture import capture
from scalops.engine.processes.runner import ProcessRunner
from scalops.table import Table
from tests.engine.group_plans import (
    COUNT_AND_SUM,
    ROWS,
    TEXT,
    applied,
    columns,
    keys_of,
    rows,
    run,
    small,
    sums,
)
from tests.engine.plans import column_of

# What a function gets.


def test_each_group_has_its_records_in_table_order(runner: ProcessRunner | None) -> None:
    def values(table: pa.Table) -> str:
        return repr(table.to_pydict())

    t = small()
    found = rows(applied(values, keys_of(t), t, gives=TEXT), runner)
    assert found == [
        (3, "{'k': [3, 3, 3], 'v': [0.0, 2.0, 5.0]}"),
        (1, "{'k': [1, 1], 'v': [1.0, 4.0]}"),
        (2, "{'k': [2], 'v': [3.0]}"),
    ]


def test_results_come_in_the_order_of_the_groups(runner: ProcessRunner | None) -> None:
    rng = np.random.default_rng(1)
    t = so.table({"k": rng.integers(0, 300, 5000), "v": rng.normal(size=5000)})
    groups = keys_of(t).sort("k", descending=True)
    data = t.collect().to_pydict()
    k, v = np.array(data["k"]), np.array(data["v"])
    expected = [(int(g), int((k == g).sum()), v[k == g].sum()) for g in np.unique(k)[::-1]]
    assert rows(applied(sums, groups, t, gives=COUNT_AND_SUM), runner, threads=2) == expected


def test_null_keys_are_one_group(runner: ProcessRunner | None) -> None:
    t = so.from_arrow(
        pa.table({"k": [None, "a", None, "b", "a"], "j": [1, 2, 1, None, 2], "v": np.arange(5.0)})
    )
    found = rows(applied(sums, keys_of(t, "k", "j"), t, on=("k", "j"), gives=COUNT_AND_SUM), runner)
    assert found == [(None, 1, 2, 2.0), ("a", 2, 2, 5.0), ("b", None, 1, 3.0)]


def test_nans_are_one_group_and_so_are_zeros_of_either_sign(runner: ProcessRunner | None) -> None:
    t = so.table({"k": np.array([np.nan, 0.0, -0.0, np.nan]), "v": np.arange(4.0)})
    groups = so.table({"k": np.array([-0.0, np.nan])})
    found = run(applied(sums, groups, t, gives=COUNT_AND_SUM), runner)
    assert column_of(found, "_1") == [3.0, 3.0]


def test_a_group_without_records_gets_a_table_without_rows(runner: ProcessRunner | None) -> None:
    groups = so.table({"k": np.array([7, 1, 9])})
    found = rows(applied(sums, groups, small(), gives=COUNT_AND_SUM), runner)
    assert found == [(7, 0, 0.0), (1, 2, 5.0), (9, 0, 0.0)]


def test_several_tables_by_one_key(runner: ProcessRunner | None) -> None:
    def both(left: pa.Table, factor: float, right: pa.Table) -> float:
        return float(len(left) * factor + len(right))

    a, b = small(), so.table({"k": np.array([5, 1, 1]), "name": np.array(["x", "y", "z"])})
    groups = so.table({"k": np.array([1, 3, 5]), "f": np.array([10.0, 100.0, 1000.0])})
    arguments = (ROWS, ex.Column("f", FLOAT64), RowsArgument("rows", OBJECT, 1))
    found = rows(applied(both, groups, a, b, arguments=arguments, gives=FLOAT64), runner)
    assert found == [(1, 22.0), (3, 300.0), (5, 1.0)]


def test_groups_may_come_twice(runner: ProcessRunner | None) -> None:
    groups = so.table({"k": np.array([1, 2, 1])})
    found = rows(applied(sums, groups, small(), gives=COUNT_AND_SUM), runner)
    assert found == [(1, 2, 5.0), (2, 1, 3.0), (1, 2, 5.0)]


def test_a_table_without_records_and_one_without_groups(runner: ProcessRunner | None) -> None:
    nothing = small().filter(lambda r: r.v < 0)
    groups = so.table({"k": np.array([1, 2])})
    assert rows(applied(sums, groups, nothing, gives=COUNT_AND_SUM), runner) == [
        (1, 0, 0.0),
        (2, 0, 0.0),
    ]
    assert rows(applied(sums, keys_of(nothing), small(), gives=COUNT_AND_SUM), runner) == []


def test_vectors_lists_texts_bools_and_sparse_vectors_in_the_tables(
    runner: ProcessRunner | None,
) -> None:
    def described(table: pa.Table) -> str:
        tags = table.column("tags").combine_chunks()
        flat = tags.values.to_pylist()  # the group's own items, not its neighbours'
        parts = [
            np.stack(table.column("x").to_pylist()).sum(axis=0).tolist(),
            table.column("s").to_pylist(),
            table.column("on").to_pylist(),
            (tags.to_pylist(), flat),
            [[(i["index"], i["value"]) for i in v] for v in table.column("z").to_pylist()],
            str(table.schema.field("x").type),
        ]
        return repr(parts)

    z = sparse.csr_array(np.array([[0, 2.0, 0], [1.0, 0, 0], [0, 0, 3.0], [0, 0, 0]]))
    named = so.table({"k": np.array([1, 0, 1, 0]), "x": np.arange(8.0).reshape(4, 2), "z": z})
    more = pa.table(
        {
            "j": [1, 0, 1, 0],
            "s": ["ä", None, "c", ""],
            "on": [True, False, None, True],
            "tags": [["p"], ["q", "r"], [], None],
        }
    )
    assert named.plan.schema["z"] == sparse_of(3)
    t = so.from_arrow(
        pa.table(
            {n: named.collect().column(n) for n in ("k", "x", "z")}
            | {n: more.column(n) for n in ("s", "on", "tags")},
            schema=pa.schema([*named.collect().schema, *(more.schema.field(n) for n in
                              ("s", "on", "tags"))]),
        )
    )  # fmt: skip
    found = rows(applied(described, keys_of(t), t, gives=TEXT), runner)
    assert found == [
        (
            1,
            "[[4.0, 6.0], ['ä', 'c'], [True, None], ([['p'], []], ['p']), "
            "[[(1, 2.0)], [(2, 3.0)]], 'fixed_size_list<item: double>[2]']",
        ),
        (
            0,
            "[[8.0, 10.0], [None, ''], [False, True], ([['q', 'r'], None], ['q', 'r']), "
            "[[(0, 1.0)], []], 'fixed_size_list<item: double>[2]']",
        ),
    ]


def test_columns_of_the_groups_are_python_values(runner: ProcessRunner | None) -> None:
    def kinds(table: pa.Table, *values: Any) -> str:
        writeable = [v.flags.writeable for v in values if isinstance(v, np.ndarray)]
        return f"{[(type(v).__name__, v) for v in values]} {writeable}"

    groups = so.from_arrow(
        pa.table(
            {
                "k": [1, 2],
                "n": pa.array([4, None]),
                "s": ["a", None],
                "x": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float64(), 2)),
            }
        )
    )
    arguments = (ROWS, *columns(groups, "n", "s", "x"))
    found = rows(applied(kinds, groups, small(), arguments=arguments, gives=TEXT), runner)
    assert found == [
        (1, "[('int', 4), ('Text', 'a'), ('ndarray', array([1., 2.]))] [False]"),
        (2, "[('NoneType', None), ('NoneType', None), ('ndarray', array([3., 4.]))] [False]"),
    ]


def test_columns_of_records_are_structs(runner: ProcessRunner | None) -> None:
    def named(table: pa.Table) -> str:
        return repr(table.to_pydict())

    people = pa.array([{"name": "a", "age": 1}, {"name": "b", "age": None}])
    t = so.from_arrow(pa.table({"k": [1, 1], "p": people}))
    ((_, found),) = rows(applied(named, keys_of(t), t, gives=TEXT), runner)
    assert found == repr({"k": [1, 1], "p": people.to_pylist()})


def test_columns_that_are_there_for_keys_alone_are_not_handed_over() -> None:
    def names(table: pa.Table) -> str:
        return ",".join(table.column_names)

    t = small()
    plan = op.Project(
        t.plan,
        (
            *((n, ex.Column(n, kind)) for n, kind in t.plan.schema),
            (HIDDEN + "b", columns(t, "k")[0]),
        ),
    )
    captured, _ = capture(names)
    node = GroupApply(
        keys_of(t).plan, (plan,), columns(t, "k"), ((ex.Column(HIDDEN + "b", INT64),),), captured,
        (ROWS,), (), Schema((("value", TEXT),), True), single=True,
    )  # fmt: skip
    assert rows(Table(node)) == [("k,v",)] * 3


def test_keys_may_be_computed_of_columns(runner: ProcessRunner | None) -> None:
    t = so.table({"i": np.arange(10), "v": np.arange(10.0)})
    groups = so.table({"bin": np.arange(3)})
    by = t.map(lambda r: r.i % 3).plan
    assert isinstance(by, op.Project)
    captured, _ = capture(sums)
    node = GroupApply(
        groups.plan, (t.plan,), columns(groups, "bin"), ((by.outputs[0][1],),), captured,
        (ROWS,), (), Schema((*COUNT_AND_SUM.items(),)), single=True, kept=("bin",),
    )  # fmt: skip
    assert rows(Table(node), runner) == [(0, 4, 18.0), (1, 3, 12.0), (2, 3, 15.0)]

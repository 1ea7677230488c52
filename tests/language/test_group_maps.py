"""A group's map: traced for one group, done to all at once; plain Python is the witness."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from scalops.algebra.errors import PlanError
from scalops.algebra.relations import GroupAggregate, GroupApply, Join
from scalops.algebra.tree import find
from tests.language.groups import assert_rows, collected, grouped, rows_of

NAN = float("nan")
DATA: dict[str, Any] = {
    "k": [2, 1, None, 2, 1, 3, 2, None, 3],
    "j": [1, 2, 1, 1, 2, 3, 2, 1, 1],
    "v": [1.0, 2.5, 3.0, None, -1.0, 7.0, 4.0, 0.5, 6.0],
    "tags": [["a", "b"], [], ["c"], ["a"], [], ["a", "a"], ["d"], None, ["b"]],
}
T = so.table(rows_of(DATA))
GROUPS = grouped(rows_of(DATA), lambda r: r["k"])


def values(rows: list[dict[str, Any]]) -> Any:
    return np.array([r["v"] for r in rows if r["v"] is not None])


def nodes(table: so.Table, kind: Any) -> int:
    return len(find((table.plan,), kind))


def test_folds_become_one_combinable_aggregate() -> None:
    made = T.group_by("k").map(
        lambda key, rows: {
            "k": key,
            "sum": rows.sum("v"),
            "squares": rows.map(lambda r: r.v * r.v).sum(),
            "big": rows.filter(lambda r: r.v > 2).count(),
            "least": rows.filter(lambda r: r.j == 1).min("v"),
            "none": rows.filter(lambda r: r.v > 100).is_empty(),
            "total": rows.filter(lambda r: r.v > 1).filter(lambda r: r.j > 1).sum("v"),
        }
    )
    assert (nodes(made, GroupAggregate), nodes(made, Join)) == (1, 0)
    expected = []
    for k, rows in GROUPS:
        v = values(rows)
        ones = values([r for r in rows if r["j"] == 1])
        both = values([r for r in rows if r["j"] > 1 and (r["v"] or 0) > 1])
        expected.append(
            {
                "k": k,
                "sum": v.sum(),
                "squares": (v * v).sum(),
                "big": int((v > 2).sum()),
                "least": ones.min() if len(ones) else None,
                "none": True,
                "total": both.sum(),
            }
        )
    assert_rows(collected(made), expected)


def test_the_key_is_the_bare_key_or_a_record_also_in_rows_own_functions() -> None:
    one = T.group_by("j").map(lambda key, rows: rows.map(lambda r: r.v * key).sum())
    assert one.columns == ["value"]
    expected = [{"value": values(rows).sum() * j} for j, rows in
                grouped(rows_of(DATA), lambda r: r["j"])]  # fmt: skip
    assert_rows(collected(one), expected)
    two = T.group_by("k", half=lambda r: r.j // 2).map(
        lambda key, rows: (key.k, key["half"], rows.map(lambda r: r.j + key[1]).max())
    )
    assert two.columns == ["_0", "_1", "_2"]
    rows = grouped(rows_of(DATA), lambda r: (r["k"], r["j"] // 2))
    assert_rows(
        collected(two),
        [{"_0": k, "_1": h, "_2": max(r["j"] for r in own) + h} for (k, h), own in rows],
    )


class Spread(NamedTuple):
    mean: Any
    spread: Any


def test_a_fold_may_read_another_fold_of_its_group() -> None:
    def spread(key: Any, rows: so.Table) -> Spread:
        m = rows.mean("v")
        around = rows.map(lambda r: (r.v - m) ** 2)
        return Spread(m, around.sum() / rows.count("v"))

    made = T.group_by("k").map(spread)
    assert made.columns == ["mean", "spread"]
    expected = [{"mean": values(r).mean(), "spread": values(r).var()} for _, r in GROUPS]
    assert_rows(collected(made), expected)


def test_a_fold_of_a_fold_of_a_fold() -> None:
    def f(key: Any, rows: so.Table) -> Any:
        top = rows.max("v")
        near = rows.filter(lambda r: r.v > top / 2)
        return {"top": top, "near": near.count(), "mean": near.map(lambda r: r.v / top).mean()}

    expected = []
    for _, rows in GROUPS:
        v = values(rows)
        near = v[v > v.max() / 2]
        expected.append({"top": v.max(), "near": len(near), "mean": (near / v.max()).mean()})
    assert_rows(collected(T.group_by("k").map(f)), expected)


def test_groups_that_vanish_are_still_there() -> None:
    def f(key: Any, rows: so.Table) -> Any:
        tags = rows.explode("tags")
        return {
            "key": key,
            "tags": tags.count(),
            "kinds": tags.n_unique("tags"),
            "sum": tags.sum("v"),
            "mean": tags.mean("v"),
            "most": tags.max("v"),
            "none": tags.is_empty(),
            "any": tags.any(lambda r: r.v > 5),
            "all": tags.all(lambda r: r.v > 5),
            "rows": rows.count(),
        }

    expected = []
    for k, rows in GROUPS:
        tags = [(t, r["v"]) for r in rows for t in r["tags"] or []]
        v = np.array([w for _, w in tags if w is not None])
        expected.append(
            {
                "key": k,
                "tags": len(tags),
                "kinds": len({t for t, _ in tags}),
                "sum": v.sum(),
                "mean": v.mean() if len(v) else NAN,
                "most": v.max() if len(v) else None,
                "none": not tags,
                "any": bool((v > 5).any()),
                "all": bool((v > 5).all()),
                "rows": len(rows),
            }
        )
    assert_rows(collected(T.group_by("k").map(f)), expected)


def test_sort_distinct_and_new_columns_of_rows() -> None:
    def f(key: Any, rows: so.Table) -> Any:
        order = rows.filter(lambda r: ~so.is_null(r.v)).sort("v", descending=True)
        return {
            "top": order.first("v"),
            "last": order.last("v"),
            "js": rows.select("j").distinct().count(),
            "scaled": rows.with_columns(w=lambda r: r.v * 2).sum("w"),
            "twice": rows.flat_map(lambda r: [r.v, r.v + 1]).sum(),
        }

    expected = []
    for _, rows in GROUPS:
        v = values(rows)
        expected.append(
            {
                "top": v.max(),
                "last": v.min(),
                "js": len({r["j"] for r in rows}),
                "scaled": 2 * v.sum(),
                "twice": (2 * v + 1).sum(),
            }
        )
    assert_rows(collected(T.group_by("k").map(f)), expected)


def test_groups_within_a_group() -> None:
    def f(key: Any, rows: so.Table) -> Any:
        return {"k": key, "most": rows.group_by("j").agg(s=so.sum("v")).max("s")}

    expected = [
        {"k": k, "most": max(values(own).sum() for _, own in grouped(rows, lambda r: r["j"]))}
        for k, rows in GROUPS
    ]
    assert_rows(collected(T.group_by("k").map(f)), expected)


def test_a_function_that_may_fail_sees_no_record_that_a_filter_left_out() -> None:
    table = so.table({"k": [1, 1, 2], "s": ["1", "x", "y"]})
    made = table.group_by("k").map(
        lambda key, rows: (
            rows.filter(lambda r: r.s != "x")
            .filter(lambda r: r.s != "y")
            .map(lambda r: so.cast(r.s, "int64"))
            .sum()
        )
    )
    assert collected(made).to_pylist() == [{"value": 1}, {"value": 0}]


def test_opaque_functions_of_a_groups_rows_run_as_they_are() -> None:
    made = T.group_by("j").map(
        lambda key, rows: rows.map(so.udf(lambda r: float(r.j) * 2, returns=so.float64)).sum()
    )
    expected = [{"value": 2.0 * j * len(r)} for j, r in grouped(rows_of(DATA), lambda r: r["j"])]
    assert_rows(collected(made), expected)


def test_values_and_environment_fields_are_free_variables() -> None:
    total = T.sum("v")
    share = T.group_by("j").map(lambda key, rows: rows.sum("v") / total)
    whole = values(rows_of(DATA)).sum()
    expected = [{"value": values(r).sum() / whole} for _, r in
                grouped(rows_of(DATA), lambda r: r["j"])]  # fmt: skip
    assert_rows(collected(share), expected)

    @so.loop(1.0, range(3))
    def grown(w: Any) -> Any:
        w2 = w * 2
        return T.group_by("j").map(lambda key, rows: rows.count() * w2).max()

    counts = [len(r) for _, r in grouped(rows_of(DATA), lambda r: r["j"])]
    assert grown.collect() == 8.0 * max(counts) ** 3


def test_so_call_gets_a_groups_rows_and_its_values() -> None:
    def f(rows: pa.Table, key: Any, mean: Any, w: Any) -> tuple[Any, Any]:
        known = [v for v in rows.column("v").to_pylist() if v is not None]
        return np.array([len(known), mean]), float(sum(known) * w)

    like = (np.zeros(2), 0.0)
    made = T.group_by("j").map(
        lambda key, rows: so.call(f, rows, key, rows.mean("v"), 2.0, like=like)
    )
    assert made.columns == ["_0", "_1"]
    assert nodes(made, GroupApply) == 1
    expected = []
    for _, rows in grouped(rows_of(DATA), lambda r: r["j"]):
        v = values(rows)
        expected.append({"_0": [len(v), v.mean()], "_1": 2 * v.sum()})
    assert_rows(made.collect(), expected)


def test_so_call_sees_the_rows_columns_alone_and_in_table_order() -> None:
    seen = T.group_by(lambda r: r.j % 2).map(
        lambda key, rows: {
            "all": so.call(lambda t: ",".join(t.column_names), rows, like=""),
            "some": so.call(
                lambda t: ",".join(t.column_names) + str(t.column("w").to_pylist()),
                rows.filter(lambda r: r.j < 3).map(lambda r: {"w": r.j}),
                like="",
            ),
        }
    )
    assert seen.collect().to_pylist() == [
        {"all": "k,j,v,tags", "some": "w[1, 1, 1, 1, 1]"},
        {"all": "k,j,v,tags", "some": "w[2, 2, 2]"},
    ]


def test_apply_gives_any_number_of_records_of_the_declared_schema() -> None:
    def top(rows: pa.Table) -> pa.Table:
        assert rows.column_names == ["k", "j", "v", "tags", "odd"]
        return rows.sort_by([("v", "descending")]).select(["odd", "v"]).slice(0, 2)

    made = T.group_by(odd=lambda r: r.j % 2).apply(top, {"odd": so.int64, "v": so.float64})
    assert str(made.schema) == "odd: int64, v: float64"
    expected = []
    for odd, rows in grouped(rows_of(DATA), lambda r: r["j"] % 2):
        best = sorted(values(rows), reverse=True)[:2]
        expected += [{"odd": odd, "v": v} for v in best]
    assert_rows(made.collect(), expected)


def test_results_of_groups_that_differ_in_shape_name_the_group() -> None:
    groups = T.group_by("j")
    made = groups.map(
        lambda key, rows: so.call(lambda t: np.zeros(t.num_rows), rows, like=np.zeros(5))
    )
    with pytest.raises(so.ScalopsError, match="2"):
        made.collect()
    wrong = groups.apply(
        lambda t: t if t.num_rows > 4 else t.drop_columns(["v"]),
        {"k": so.int64, "j": so.int64, "v": so.float64, "tags": so.list_(so.string)},
    )
    with pytest.raises(so.ScalopsError, match="2"):
        wrong.collect()


def test_a_structure_in_a_map_is_a_column_of_records() -> None:
    made = T.group_by("j").map(
        lambda key, rows: {"j": key, "both": {"n": rows.count(), "v": rows.sum("v")}}
    )
    assert made.schema.names == ("j", "both\u2024n", "both\u2024v")


def test_a_count_is_weakly_typed_as_in_a_value() -> None:
    table = so.table({"k": [1, 1], "x": np.array([1, 2], np.float32)})
    made = table.group_by("k").map(lambda key, rows: rows.sum("x") / rows.count())
    assert str(made.schema) == "value: float32"
    assert collected(made).to_pylist() == [{"value": 1.5}]


def test_what_is_done_to_one_group_alone_is_refused_with_the_users_line() -> None:
    for f, word in (
        (lambda rows: rows.limit(1).count(), "limit"),
        (lambda rows: rows.slice(1, 2).count(), "slice"),
        (lambda rows: rows.with_row_index().count(), "with_row_index"),
        (lambda rows: rows.union(rows).count(), "union"),
        (lambda rows: rows.shuffle(1).first("v"), "shuffle"),
    ):
        with pytest.raises(PlanError, match=word) as caught:
            T.group_by("k").map(lambda key, rows, f=f: f(rows))
        assert "apply" in str(caught.value)
        assert "test_group_maps.py" in str(caught.value)

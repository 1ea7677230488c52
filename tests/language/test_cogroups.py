"""`so.cogroup`: the groups of several tables by one key; plain Python is the witness."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from tests.language.groups import assert_rows, collected, hashable, rows_of

A: dict[str, Any] = {"k": [2, 1, None, 2, 5], "v": [1.0, 2.0, 3.0, None, 4.0]}
B: dict[str, Any] = {"j": [3, 2, None, None], "w": [10, 20, 30, 40]}
C: dict[str, Any] = {"i": [1, 3, 7], "z": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]}
TA, TB = so.table(rows_of(A)), so.table(rows_of(B))
TC = so.table({"i": C["i"], "z": np.array(C["z"])})


def cogrouped(*branches: tuple[dict[str, Any], str]) -> list[tuple[Any, list[list[Any]]]]:
    """Every key by first appearance, with each branch's rows."""
    found: dict[Any, tuple[Any, list[list[Any]]]] = {}
    for i, (columns, key) in enumerate(branches):
        for row in rows_of(columns):
            own = found.setdefault(hashable(row[key]), (row[key], [[] for _ in branches]))
            own[1][i].append(row)
    return list(found.values())


def total(rows: list[Any], name: str) -> Any:
    return sum(r[name] for r in rows if r[name] is not None)


def test_every_key_of_any_branch_by_first_appearance() -> None:
    made = so.cogroup(TA.by("k"), TB.by("j")).map(
        lambda key, a, b: {
            "key": key, "a": a.count(), "v": a.sum("v"), "w": b.sum("w"), "most": b.max("w"),
            "mean": a.mean("v"), "empty": b.is_empty(),
        }
    )  # fmt: skip
    expected = []
    for key, (a, b) in cogrouped((A, "k"), (B, "j")):
        v = [r["v"] for r in a if r["v"] is not None]
        expected.append(
            {
                "key": key, "a": len(a), "v": total(a, "v"), "w": total(b, "w"),
                "most": max((r["w"] for r in b), default=None),
                "mean": sum(v) / len(v) if v else math.nan, "empty": not b,
            }
        )  # fmt: skip
    assert [e["key"] for e in expected] == [2, 1, None, 5, 3]
    assert_rows(collected(made), expected)


@pytest.mark.parametrize("inner", [(0,), (1,), (0, 1), (2,), (0, 1, 2)])
def test_an_inner_branch_keeps_only_its_keys(inner: tuple[int, ...]) -> None:
    branches = [TA.by("k"), TB.by("j"), TC.by(lambda r: r.i)]
    for i in inner:
        branches[i] = branches[i].inner()
    made = so.cogroup(*branches).map(
        lambda key, a, b, c: {"key": key, "v": a.sum("v"), "w": b.count(), "z": c.sum("z")}
    )
    expected = [
        {
            "key": key, "v": total(a, "v"), "w": len(b),
            "z": np.sum([r["z"] for r in c], axis=0).tolist() if c else [0.0, 0.0],
        }
        for key, (a, b, c) in cogrouped((A, "k"), (B, "j"), (C, "i"))
        if all((a, b, c)[i] for i in inner)
    ]  # fmt: skip
    assert_rows(collected(made), expected)


def test_a_fold_of_one_branch_may_read_a_fold_of_another() -> None:
    made = so.cogroup(TA.by("k"), TB.by("j")).map(
        lambda key, a, b: {"key": key, "x": a.map(lambda r: r.v * b.sum("w")).sum()}
    )
    expected = [
        {"key": k, "x": total(a, "v") * total(b, "w")}
        for k, (a, b) in cogrouped((A, "k"), (B, "j"))
    ]
    assert_rows(collected(made), expected)


def test_so_call_gets_the_rows_of_several_branches() -> None:
    def f(a: pa.Table, b: pa.Table, key: Any) -> str:
        return f"{key}: {a.column('v').to_pylist()} {b.num_rows} {b.column_names}"

    made = so.cogroup(TA.by("k"), TB.by("j")).map(
        lambda key, a, b: so.call(f, a, b.filter(lambda r: r.w > 20), key, like="")
    )
    expected = [
        f"{k}: {[r['v'] for r in a]} {sum(r['w'] > 20 for r in b)} ['j', 'w']"
        for k, (a, b) in cogrouped((A, "k"), (B, "j"))
    ]
    assert made.collect().column("value").to_pylist() == expected


def test_several_keys_and_a_table_with_itself() -> None:
    made = so.cogroup(TA.by("k", "v"), TA.by("k", lambda r: r.v + 0)).map(
        lambda key, a, b: {"k": key.k, "v": key[1], "n": a.count() + b.count()}
    )
    expected = [{"k": k, "v": v, "n": 2} for k, v in zip(A["k"], A["v"], strict=True)]
    assert_rows(collected(made), expected)
    shifted = so.cogroup(TA.by("k"), TA.by(lambda r: r.k + 1)).map(
        lambda key, a, b: (key, a.count(), b.count())
    )
    assert collected(shifted).to_pylist() == [
        {"_0": 2, "_1": 2, "_2": 1}, {"_0": 1, "_1": 1, "_2": 0}, {"_0": None, "_1": 1, "_2": 1},
        {"_0": 5, "_1": 1, "_2": 0}, {"_0": 3, "_1": 0, "_2": 2}, {"_0": 6, "_1": 0, "_2": 1},
    ]  # fmt: skip


def test_eight_branches_and_empty_ones() -> None:
    none = so.empty({"k": so.int64, "v": so.float64})
    made = so.cogroup(*[TA.by("k")] * 7, none.by("k")).map(
        lambda key, *rows: {"key": key, "n": sum(r.count() for r in rows)}
    )
    expected = [{"key": k, "n": 7 * n} for k, n in ((2, 2), (1, 1), (None, 1), (5, 1))]
    assert_rows(collected(made), expected)
    assert so.cogroup(none.by("k"), none.by("k")).map(
        lambda key, a, b: key
    ).collect().num_rows == 0  # fmt: skip


def test_integers_of_other_widths_are_compared_as_the_type_that_holds_both() -> None:
    narrow = so.table({"k": np.array([2, 9], np.int8), "x": [1.0, 2.0]})
    made = so.cogroup(narrow.by("k"), TB.by("j")).map(
        lambda key, a, b: (key, a.sum("x"), b.count())
    )
    assert collected(made).to_pylist() == [
        {"_0": 2, "_1": 1.0, "_2": 1}, {"_0": 9, "_1": 2.0, "_2": 0},
        {"_0": 3, "_1": 0.0, "_2": 1}, {"_0": None, "_1": 0.0, "_2": 2},
    ]  # fmt: skip


def test_a_cogroups_operators_bear_its_name() -> None:
    made = so.cogroup(TA.by("k"), TB.by("j")).map(lambda key, a, b: a.count())
    assert made.plan.label == "cogroup"


def test_bad_cogroups_are_named_errors_with_the_users_line() -> None:
    cases: list[tuple[Any, Any, str]] = [
        (lambda: so.cogroup(*[TA.by("k")] * 9), so.SchemaError, "takes 2 to 8 branches; it got 9"),
        (lambda: so.cogroup(TA.by("k")), so.SchemaError, "it got 1"),
        (lambda: so.cogroup(), so.SchemaError, "it got 0"),
        (lambda: so.cogroup(TA, TB.by("j")), so.SchemaError, "branch 0 of so.cogroup is a Table"),  # type: ignore[arg-type]
        (
            lambda: so.cogroup(TA.by("k"), TB.by("j", "w")),
            so.SchemaError,
            r"\['k'\] and branch 1 \['j', 'w'\]",
        ),
        (lambda: so.cogroup(TA.by("k"), TA.by("v")), so.SchemaError, "is int64 and .* is float64"),
        (
            lambda: so.cogroup(TA.by("k"), TB.by("j")).map(lambda key, a: a.count()),
            so.TraceError,
            "it takes 3",
        ),
        (lambda: so.cogroup(TA.by("k"), TB.by("j")).collect(), so.PlanError, "map"),
        (
            lambda: so.cogroup(TA.by("k"), TB.by("j")).map(lambda key, a, b: a),
            so.PlanError,
            "returns a Table",
        ),
    ]
    for made, kind, words in cases:
        with pytest.raises(kind, match=words) as caught:
            made()
        assert "test_cogroups.py" in str(caught.value)
    assert TA.count().collect() == 5

"""The interpreter gives what NumPy and Python give: it is the witness of every other test here."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from scalops.algebra import operators as op
from scalops.engine.witness.interpreter import Interpreter, same_value
from tests.optimizer.plans import job_of


def value_of(value: Any) -> Any:
    return Interpreter().value(value.expression)


def column_of(table: so.Table) -> list[Any]:
    return [row["value"] for row in Interpreter().records(table.plan)]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "bool", "float32", "int64"])
@pytest.mark.parametrize("fold", ["sum", "mean", "min", "max"])
def test_folds_are_numpys(fold: str, dtype: str) -> None:
    data = np.array([100, 100, 1], dtype)
    value = value_of(getattr(so.table({"a": data}), fold)("a"))
    assert value == getattr(np, fold)(data)
    assert value.dtype == getattr(np, fold)(data).dtype


def test_bools_combine_as_kleene_says() -> None:
    p = pa.array([True, False, None] * 3)
    q = pa.array([True] * 3 + [False] * 3 + [None] * 3)
    table = so.from_arrow(pa.table({"p": p, "q": q}))
    both = [True, False, None, False, False, False, None, False, None]
    either = [True, True, True, True, False, None, True, None, None]
    assert [v if v is None else bool(v) for v in column_of(table.map(lambda r: r.p & r.q))] == both
    assert [
        v if v is None else bool(v) for v in column_of(table.map(lambda r: r.p | r.q))
    ] == either


def test_integers_and_null_give_null() -> None:
    table = so.from_arrow(pa.table({"n": pa.array([0, None]), "m": pa.array([None, 0])}))
    assert column_of(table.map(lambda r: r.n & r.m)) == [None, None]


def test_aggregates_skip_nulls() -> None:
    table = so.from_arrow(pa.table({"a": pa.array([1.0, None, 3.0])}))
    folds = [table.sum("a"), table.mean("a"), table.count("a"), table.count(), table.max("a")]
    assert [value_of(f) for f in folds] == [4.0, 2.0, 2, 3, 3.0]


def test_a_number_without_a_width_stays_without_one() -> None:
    table = so.table({"g": np.array([0.3], np.float32)})
    (value,) = column_of(table.map(lambda r: r.g == so.lit(0.1) + so.lit(0.2)))
    assert value


def test_over_no_records() -> None:
    empty = so.table({"a": np.zeros(0), "x": np.zeros((0, 2))})
    assert value_of(empty.sum("x")).tolist() == [0.0, 0.0]
    assert np.isnan(value_of(empty.mean("a")))
    assert value_of(empty.count()) == 0
    assert value_of(empty.is_empty())
    with pytest.raises(so.DataError, match="over no records"):
        value_of(empty.max("a"))


def test_an_opaque_function_may_take_a_value_as_column_and_as_free_variable() -> None:
    @so.loop(1.0, range(2))
    def model(w: Any) -> Any:
        repeated = so.table({"a": np.ones(2)}).map(lambda r: {"a": w})
        return repeated.map(so.udf(lambda r: r.a + w, returns=so.float64)).sum()

    assert Interpreter().run_loop(model.plan)["value"] == 16.0


def test_loops_restart_at_each_iteration_of_the_loop_around_them() -> None:
    data = np.arange(3.0)
    table = so.table({"y": data})

    @so.loop(1.0, range(3))
    def outer(w: Any) -> Any:
        @so.loop(w, range(2))
        def inner(v: Any) -> Any:
            return v / 2 + table.sum(lambda r: r.y * w)

        return inner

    expected = 1.0
    for _ in range(3):
        w = expected
        for _ in range(2):
            expected = expected / 2 + float(np.sum(data * w))
    assert Interpreter().run_loop(outer.plan)["value"] == expected


def test_what_a_record_does_not_change_is_not_computed_for_each() -> None:
    calls: list[int] = []

    class Counting(Interpreter):
        def aggregate(self, node: op.Aggregate) -> Any:
            calls.append(1)
            return super().aggregate(node)

        def _fold(self, *args: Any) -> Any:
            calls.append(100)
            return super()._fold(*args)

    table = so.table({"y": np.arange(4.0)})
    mean = table.mean("y")
    (output,) = job_of(table.sum(lambda r: r.y - mean)).outputs
    Counting().value(output)  # type: ignore[arg-type]
    assert sum(c == 100 for c in calls) == 2


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (None, None, True),
        (None, 0.0, False),
        (np.nan, np.nan, True),
        (np.inf, -np.inf, False),
        ("a", "a", True),
        (1.0, 1.0 + 1e-12, True),
        (1.0, 1.0 + 1e-6, False),
        (np.float32(1.0), 1.0 + 1e-6, True),
        (np.ones(2), np.ones(3), False),
        (np.array([1.0, np.nan]), np.array([1.0, np.nan]), True),
    ],
)
def test_same_value(left: Any, right: Any, same: bool) -> None:
    assert same_value(left, right) is same

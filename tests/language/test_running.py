"""Running aggregates as the user writes them: new columns of with_columns and select."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from tests.optimizer.plans import answer, job_of

V = np.random.default_rng(1).normal(size=200)
G = np.arange(200) % 3
T = so.table({"v": V, "g": G, "i": np.arange(200)})


BAD: Any = so.cumsum("v")
NUMBER: Any = 3


def column(table: so.Table, name: str = "c") -> Any:
    return table.collect().column(name).to_numpy(zero_copy_only=False)


def test_each_is_numpys() -> None:
    found = T.with_columns(
        s=so.cumsum("v"), low=so.cummin("v"), high=so.cummax("v"), p=so.cumprod("v")
    ).collect()
    assert found.column_names == ["v", "g", "i", "s", "low", "high", "p"]
    np.testing.assert_allclose(found.column("s").to_numpy(), np.cumsum(V), rtol=1e-9)
    np.testing.assert_array_equal(found.column("low").to_numpy(), np.minimum.accumulate(V))
    np.testing.assert_array_equal(found.column("high").to_numpy(), np.maximum.accumulate(V))
    np.testing.assert_allclose(found.column("p").to_numpy(), np.cumprod(V), rtol=1e-9)


def test_cumsumprod_is_a_linear_recurrence_from_zero() -> None:
    z, expected = 0.0, []
    for v in V:
        z = 0.1 * v + 0.9 * z
        expected.append(z)
    found = column(T.with_columns(c=so.cumsumprod(lambda r: 0.1 * r.v, lambda r: 0.9)))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_over_restarts_for_each_value() -> None:
    for over in ("g", ["g"], lambda r: r.i % 3):
        found = column(T.with_columns(c=so.cumsum("v", over=over)))
        for g in range(3):
            np.testing.assert_allclose(found[g == G], np.cumsum(V[g == G]), rtol=1e-9)


def test_over_takes_several_columns() -> None:
    table = T.with_columns(h=lambda r: r.i // 100)
    found = column(table.with_columns(c=so.cumsum("v", over=["g", "h"])))
    for g in range(3):
        for own in (np.arange(200) < 100, np.arange(200) >= 100):
            mask = (g == G) & own
            np.testing.assert_allclose(found[mask], np.cumsum(V[mask]), rtol=1e-9)


def test_reverse_runs_from_the_last_record() -> None:
    found = column(T.with_columns(c=so.cumsum("v", reverse=True)))
    np.testing.assert_allclose(found, np.cumsum(V[::-1])[::-1], rtol=1e-9)
    exact = column(T.with_columns(c=so.cumsum("i", reverse=True)))
    np.testing.assert_array_equal(exact, np.cumsum(np.arange(200)[::-1])[::-1])


def test_new_columns_read_the_old_record() -> None:
    found = T.with_columns(v=so.cumsum("v"), w=lambda r: r.v + 1, g=so.cummax("v")).collect()
    assert found.column_names == ["v", "g", "i", "w"]
    np.testing.assert_allclose(found.column("v").to_numpy(), np.cumsum(V), rtol=1e-9)
    np.testing.assert_array_equal(found.column("w").to_numpy(), V + 1)
    np.testing.assert_array_equal(found.column("g").to_numpy(), np.maximum.accumulate(V))


def test_select_takes_them_in_its_order() -> None:
    found = T.select("i", c=so.cumsum("v"), d=1).collect()
    assert found.column_names == ["i", "c", "d"]


def test_a_table_of_bare_values_has_them() -> None:
    table = T.map(lambda r: r.v * 2).with_columns(c=so.cumsum("value"))
    np.testing.assert_allclose(column(table), np.cumsum(V * 2), rtol=1e-9)
    found = column(T.map(lambda r: r.v).with_columns(c=so.cumsum(lambda v: v * 2)))
    np.testing.assert_allclose(found, np.cumsum(V * 2), rtol=1e-9)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int32", "uint64", "float32"])
@pytest.mark.parametrize("kind", ["cumsum", "cumprod", "cummin", "cummax"])
def test_types_are_numpys(kind: str, dtype: str) -> None:
    values = np.array([1, 0, 1, 3, 200]).astype(dtype)
    ufuncs: dict[str, Any] = {
        "cumsum": np.cumsum,
        "cumprod": np.cumprod,
        "cummin": np.minimum.accumulate,
        "cummax": np.maximum.accumulate,
    }
    expected = ufuncs[kind](values)
    found = column(so.table({"v": values}).select(c=getattr(so, kind)("v")))
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_vectors_run_element_by_element() -> None:
    x = np.random.default_rng(2).normal(size=(90, 3))
    table = so.table({"x": x, "b": np.full((90, 3), 0.5), "g": np.arange(90) % 4})
    found = table.select(
        s=so.cumsum("x"),
        m=so.cummax("x", reverse=True),
        z=so.cumsumprod("x", "b"),
        o=so.cumsum("x", over="g"),
    ).collect()

    def array(name: str) -> Any:
        return np.array(found.column(name).to_pylist())

    np.testing.assert_allclose(array("s"), np.cumsum(x, axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(array("m"), np.maximum.accumulate(x[::-1])[::-1])
    z = np.zeros(3)
    for i in range(90):
        z = x[i] + 0.5 * z
        np.testing.assert_allclose(array("z")[i], z, rtol=1e-9, atol=1e-12)
    for g in range(4):
        own = np.arange(90) % 4 == g
        np.testing.assert_allclose(array("o")[own], np.cumsum(x[own], axis=0), atol=1e-12)


def test_nulls_are_passed_over_and_stay_null() -> None:
    table = so.from_arrow(
        pa.table({"v": [None, 1.0, None, 2.0, 4.0], "g": ["a", None, "a", None, "a"]})
    )
    found = table.select(
        s=so.cumsum("v"),
        r=so.cumsum("v", reverse=True),
        o=so.cummax("v", over="g"),
        z=so.cumsumprod("v", lambda r: 0.5),
    ).collect()
    assert found.column("s").to_pylist() == [None, 1.0, None, 3.0, 7.0]
    assert found.column("r").to_pylist() == [None, 7.0, None, 6.0, 4.0]
    assert found.column("o").to_pylist() == [None, 1.0, None, 2.0, 4.0]
    assert found.column("z").to_pylist() == [None, 1.0, None, 2.5, 5.25]


def test_null_is_a_group() -> None:
    table = so.from_arrow(pa.table({"v": [1, 2, 3, 4], "g": ["a", None, "a", None]}))
    found = table.select(c=so.cumsum("v", over="g")).collect().column("c").to_pylist()
    assert found == [1, 2, 4, 6]


def test_nan_runs_on() -> None:
    table = so.table({"v": np.array([1.0, np.nan, 2.0])})
    for kind in ("cumsum", "cummin", "cummax", "cumprod"):
        found = column(table.select(c=getattr(so, kind)("v")))
        np.testing.assert_array_equal(np.isnan(found), [False, True, True])


def test_a_loops_state_may_be_read() -> None:
    class Env(so.Environment):
        scale: float
        total: float

    @so.loop(Env(scale=1.0, total=0.0), range(4))
    def found(env: Any) -> Any:
        made = T.with_columns(c=so.cumsum(lambda r: r.v * env.scale, over="g"))
        env.total += made.max("c")
        env.scale *= 2.0
        return env

    per_group = [np.cumsum(V[g == G]).max() for g in range(3)]
    assert found.collect().total == pytest.approx(max(per_group) * 15, rel=1e-9)


def test_what_runs_can_be_folded_and_filtered() -> None:
    table = T.with_columns(c=so.cumsum("v"))
    assert table.sum("c").collect() == pytest.approx(np.cumsum(V).sum(), rel=1e-9)
    kept = column(table.filter(lambda r: r.c > 0))
    np.testing.assert_allclose(kept, np.cumsum(V)[np.cumsum(V) > 0], rtol=1e-9)


def test_interpreter_and_engine_agree() -> None:
    table = T.with_columns(
        s=so.cumsum("v", over="g"), z=so.cumsumprod("v", "v", reverse=True), m=so.cummin("i")
    )
    (rows,) = answer(job_of(table))
    for mine, theirs in zip(table.collect().to_pylist(), rows, strict=True):
        assert mine == pytest.approx({k: v.item() for k, v in theirs.items()}, rel=1e-9)


# Order.


@pytest.mark.parametrize(
    ("table", "word"),
    [
        (T.shuffle(1), "shuffle"),
        (T.repartition(3), "repartition"),
        (T.shuffle(1).filter(lambda r: r.v > 0).map(lambda r: {"v": r.v}), "shuffle"),
        (T.union(T.repartition(2)), "repartition"),
        (T.repartition(2).limit(4).with_row_index(), "repartition"),
    ],
)
def test_records_without_an_order_are_refused(table: so.Table, word: str) -> None:
    with pytest.raises(so.PlanError, match=rf"so.cumsum .* {word} .*test_running.py") as caught:
        table.with_columns(c=so.cumsum("v"))
    assert "sort(" in str(caught.value)
    assert T.count().collect() == 200


def test_a_sort_gives_the_order_back() -> None:
    for table in (T.shuffle(1), T.repartition(3), T.union(T.shuffle(2)).limit(200)):
        ordered = table.sort("i").with_columns(c=so.cumsum("v"))
        assert ordered.count().collect() == 200
    found = column(T.shuffle(1).sort("i").with_columns(c=so.cumsum("v")))
    np.testing.assert_allclose(found, np.cumsum(V), rtol=1e-9)


# Refusals.


@pytest.mark.parametrize(
    "use",
    [
        lambda: T.map(lambda r: so.cumsum("v")),
        lambda: T.map(lambda r: {"c": so.cumsum("v")}),
        lambda: T.filter(BAD),
        lambda: T.filter(lambda r: so.cumsum("v") > 1),
        lambda: T.with_columns(c=lambda r: so.cumsum("v")),
        lambda: T.with_columns(c=so.cumsum("v") + 1),
        lambda: T.with_columns(c=so.cumsum(BAD)),
        lambda: so.collect(so.cumsum("v")),
        lambda: np.exp(so.cumsum("v")),
        lambda: float(so.cumsum("v")),
        lambda: T.sum(lambda r: r.v) + so.cumsum("v"),
        lambda: T.sort(BAD),
        lambda: so.cumsum(NUMBER),
        lambda: so.cumsum("v", over=3),
        lambda: so.cumsum("v", over=[]),
        lambda: so.cumsum("v", reverse=NUMBER),
        lambda: T.with_columns(c=so.cumsum("nothing")),
        lambda: T.with_columns(c=so.cumsum("v", over="nothing")),
        lambda: T.with_columns(c=so.cumsum(lambda r: (r.v, r.i))),
    ],
)
def test_other_uses_are_named_errors(use: Any) -> None:
    with pytest.raises(so.ScalopsError, match=r"test_running\.py:\d+"):
        use()


def test_columns_without_a_sum_are_refused() -> None:
    table = so.table([{"s": "a", "t": [1, 2]}, {"s": "b", "t": [1]}])
    for name in ("s", "t"):
        with pytest.raises(so.ScalopsError, match=r"cumsum.*test_running\.py"):
            table.with_columns(c=so.cumsum(name))
    other = so.table({"x": np.ones((3, 2)), "y": np.ones(3)})
    with pytest.raises(so.ScalopsError, match="cumsumprod"):
        other.with_columns(c=so.cumsumprod("x", "y"))


def test_explain_shows_what_runs() -> None:
    plan = T.with_columns(total=so.cumsum("v"), best=so.cummax("v", over="g", reverse=True))
    assert "Cumulate total = cumsum(v), best = cummax(v, reverse) over g" in plan.explain()
    assert "SummarizeRuns" in plan.explain("physical")


@pytest.mark.parametrize("begins", [False, True])
def test_a_state_without_an_order_is_refused_in_a_loop_too(begins: bool) -> None:
    t = so.table({"v": np.arange(4.0)})
    start = t.shuffle(1) if begins else t
    with pytest.raises(so.PlanError, match=r"so\.cumsum follows the order.*shuffle.*sort"):

        @so.loop({"t": start}, range(2))
        def loop(env: Any) -> Any:
            summed = env["t"].with_columns(v=so.cumsum("v"))
            return {"t": summed if begins else summed.shuffle(2)}


def test_a_state_that_is_sorted_in_the_body_may_be_shuffled() -> None:
    t = so.table({"v": np.arange(4.0)})

    @so.loop({"t": t}, range(2))
    def loop(env: Any) -> Any:
        return {"t": env["t"].sort("v").with_columns(v=so.cumsum("v")).shuffle(2)}

    assert sorted(loop.collect()["t"]["v"].to_pylist()) == [0.0, 1.0, 4.0, 10.0]

"""Loops: when they stop, what their state may be, and what they leave behind."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import scalops as so
from tests.language.witness import assert_same, line, listed, ordered, records

Array = np.ndarray[Any, Any]
A = np.array([1.0, 2.0, 3.0, 4.0])


@pytest.fixture
def table() -> so.Table:
    """Four records."""
    return so.table({"a": A, "x": np.arange(8.0).reshape(4, 2), "g": A.astype("float32")})


# When it stops.


@pytest.mark.parametrize("start", [0.0, 4.5, 9.9, 10.0, 11.0])
def test_the_condition_is_tested_before_each_iteration(start: float) -> None:
    made = so.loop(start, lambda v: v < 10)(lambda v: v + 1)
    expected, iterations = start, 0
    while expected < 10:
        expected, iterations = expected + 1, iterations + 1
    result = made.run()
    assert (result.env, result.iterations, result.converged) == (expected, iterations, True)
    assert result.history.num_rows == iterations


@pytest.mark.parametrize(
    "elements",
    [range(4), range(0), range(3, 7), range(5, 5), range(10, 0, -3), range(0, 10, 4), range(5, 2)],
    ids=str,
)
def test_a_range_gives_its_elements(elements: range) -> None:
    made = so.loop({"last": -1, "total": 0}, elements)(
        lambda env, i: {"last": i, "total": env["total"] + i}
    )
    result = made.run()
    assert result.env == {"last": [-1, *elements][-1], "total": sum(elements)}
    assert (result.iterations, result.converged) == (len(elements), True)


def test_a_condition_loop_gives_its_iteration_number() -> None:
    result = so.loop({"v": 0.0, "n": -1}, lambda env: env["v"] < 6)(
        lambda env, n: {"v": env["v"] + n, "n": n}
    )
    assert result.collect() == {"v": 6.0, "n": 3}


def test_the_iteration_number_is_weakly_typed() -> None:
    result = so.loop(np.float32(0.5), range(3))(lambda v, i: v + i)
    assert result.dtype == np.float32
    assert_same(result.collect(), np.float32(3.5))


def test_the_condition_may_read_a_table(table: so.Table) -> None:
    made = so.loop(0.0, lambda low: table.filter(lambda r: r.a > low).count() > 1)(
        lambda v: v + 0.5
    )
    assert made.collect() == 3.0


def test_a_second_parameter_with_a_default_is_no_iteration_number() -> None:
    assert so.loop(0.0, range(3))(lambda v, step=2.0: v + step).collect() == 6.0


def test_a_loop_is_a_call_or_a_decorator() -> None:
    @so.loop(1.0, range(3))
    def doubled(v: Any) -> Any:
        return v * 2

    class Doubler:
        def twice(self, v: Any) -> Any:
            return v * 2

    assert doubled.collect() == so.loop(1.0, range(3))(Doubler().twice).collect() == 8.0


def test_max_iterations_ends_a_loop_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    made = so.loop(0.0, lambda v: v < 10, max_iterations=3)(lambda v: v + 1)
    at = line() - 1
    with caplog.at_level(logging.WARNING, "scalops"):
        result = made.run()
    assert (result.env, result.iterations, result.converged) == (3.0, 3, False)
    assert caplog.messages == [
        f"the loop stopped after max_iterations=3 without converging (test_loops.py:{at})"
    ]
    caplog.clear()
    quiet = so.loop(0.0, lambda v: v < 10, max_iterations=3, warn=False)(lambda v: v + 1)
    enough = so.loop(0.0, lambda v: v < 10, max_iterations=10)(lambda v: v + 1)
    none = so.loop(0.0, lambda v: v < 10, max_iterations=0, warn=False)(lambda v: v + 1)
    assert quiet.run().converged is False
    assert enough.run().converged is True
    assert none.run().iterations == 0
    assert caplog.messages == []


def test_max_iterations_of_a_range() -> None:
    short = so.loop(0.0, range(5), max_iterations=2, warn=False)(lambda v: v + 1).run()
    assert (short.env, short.converged) == (2.0, False)
    exact = so.loop(0.0, range(5), max_iterations=5)(lambda v: v + 1).run()
    assert (exact.env, exact.converged) == (5.0, True)


def test_nested_loops_warn_once(caplog: pytest.LogCaptureFixture) -> None:
    def body(v: Any) -> Any:
        return so.loop(v, lambda w: w < 1e9, max_iterations=2)(lambda w: w + 1)

    with caplog.at_level(logging.WARNING, "scalops"):
        assert so.loop(0.0, range(4))(body).collect() == 8.0
    assert len(caplog.messages) == 1


# What its state may be.


class Model(so.Environment):
    """Fields of several kinds."""

    w: Array
    loss: float = np.inf
    steps: int = 0
    done: bool = False
    note: str = "-"


def test_an_environment_of_named_fields(table: so.Table) -> None:
    @so.loop(Model(w=np.zeros(2)), lambda env: ~env.done)
    def model(env: Any) -> Any:
        env.w += table.mean("x")
        env.loss = abs(env.w).sum()
        env.steps += 1
        env.done = env.steps >= 3
        env.note = "seen"
        return env

    result = model.collect()
    assert isinstance(result, Model)
    assert result == Model(w=np.array([9.0, 12.0]), loss=21.0, steps=3, done=True, note="seen")
    assert isinstance(result.loss, np.float64)
    assert isinstance(result.steps, np.int64)
    assert isinstance(result.done, np.bool)


def test_the_body_gets_a_copy_and_the_start_stays() -> None:
    start = Model(w=np.zeros(2))

    def body(env: Any) -> Any:
        env.w = env.w + 1
        return env

    first = so.loop(start, range(2))(body)
    second = so.loop(start, range(3))(body)
    assert_same(start.w, np.zeros(2))
    assert_same(first.collect().w, np.full(2, 2.0))
    assert_same(second.collect().w, np.full(2, 3.0))
    start.w[:] = 100
    assert_same(first.collect().w, np.full(2, 2.0))


class State(NamedTuple):
    """A NamedTuple as an environment."""

    x: Any
    y: Any


@pytest.mark.parametrize(
    ("start", "body", "expected"),
    [
        (1.0, lambda v: v * 2, 8.0),
        (1, lambda v: v + 1, 4),
        (True, lambda v: ~v, False),
        ("a", lambda v: np.where(v == "a", "b", "a"), "b"),
        (np.float32(1), lambda v: v / 2, np.float32(0.125)),
        (np.ones(2), lambda v: v @ np.eye(2) * 2, np.full(2, 8.0)),
        ([1.0, 2.0], lambda v: v + v[0], np.array([8.0, 9.0])),
        (np.ones((2, 2)), lambda v: v @ v, np.full((2, 2), 128.0)),
        ((1.0, 2), lambda s: (s[0] + s[1], s[1]), (7.0, 2)),
        ({"p": 1.0, "q": 2.0}, lambda s: {"p": s["q"], "q": s["p"]}, {"p": 2.0, "q": 1.0}),
        ({"p": 1.0, "q": 2.0}, lambda s: {"q": s["p"], "p": s["q"]}, {"p": 2.0, "q": 1.0}),
        (State(1.0, 2), lambda s: State(s.x + s.y, s.y), State(7.0, 2)),
        (State(1.0, 2), lambda s: s._replace(x=s.x * s.y), State(8.0, 2)),
    ],
)
def test_bare_tuple_dict_and_named_environments(
    start: Any, body: Callable[[Any], Any], expected: Any
) -> None:
    result = so.loop(start, range(3))(body).collect()
    assert type(result) is type(expected) or np.ndim(expected) == 0
    if isinstance(expected, np.ndarray):
        assert_same(result, expected)
    else:
        assert result == expected


def test_start_values_take_their_annotations_type() -> None:
    class Typed(so.Environment):
        a: float
        b: float
        n: int
        x: np.float32

    start = Typed(a=1, b=np.arange(2), n=np.int8(3), x=2.0)
    result = so.loop(start, range(1))(lambda env: env).collect()
    assert_same(result.a, np.float64(1))
    assert_same(result.b, np.array([0.0, 1.0]))
    assert_same(result.n, np.int64(3))
    assert_same(result.x, np.float32(2))


def test_an_int_annotated_as_float_may_become_one() -> None:
    class Typed(so.Environment):
        a: float

    assert so.loop(Typed(a=0), range(2))(lambda env: Typed(a=env.a + 0.5)).collect().a == 1.0


def test_a_returned_field_is_cast_where_numpys_in_place_rule_allows() -> None:
    start = {"g": np.float32(1), "k": np.int8(1), "h": np.zeros(2, "float32")}
    made = so.loop(start, range(2))(
        lambda s: {
            "g": s["g"] * np.float64(1.5),
            "k": s["k"] + np.int64(1),
            "h": s["h"] + np.ones(2),
        }
    )
    result = made.collect()
    assert_same(result["g"], np.float32(2.25))
    assert_same(result["k"], np.int8(3))
    assert_same(result["h"], np.full(2, 2, "float32"))


def test_float32_stays_float32_beside_counts_and_python_numbers(table: so.Table) -> None:
    made = so.loop(np.float32(0), range(3))(lambda v, i: v + table.sum("g") / table.count() * 2 + i)
    assert_same(made.collect(), np.float32(18))


def test_inherited_fields_come_first() -> None:
    class Longer(Model):
        extra: float

    start = Longer(w=np.zeros(1), extra=1.0)
    made = so.loop(start, range(1))(lambda env: env)
    assert list(made.plan.state_types) == ["w", "loss", "steps", "done", "note", "extra"]


def test_a_start_may_be_a_value(table: so.Table) -> None:
    made = so.loop({"v": table.mean("x"), "n": table.count()}, range(2))(
        lambda s: {"v": s["v"] * 2, "n": s["n"] + 1}
    )
    assert_same(made.collect()["v"], np.array([12.0, 16.0]))
    assert_same(made.collect()["n"], np.int64(6))


def test_an_infinite_start_may_become_finite_and_stay_infinite() -> None:
    made = so.loop({"delta": np.inf, "v": 1.0}, lambda env: env["delta"] > 0.2)(
        lambda env: {"delta": abs(env["v"] - env["v"] / 2), "v": env["v"] / 2}
    )
    assert made.run().iterations == 3
    assert so.loop(np.array([np.inf, 0]), range(3))(lambda v: v + 1).collect()[1] == 3.0


def test_nan_is_an_error_and_so_is_an_infinity_out_of_a_finite_number() -> None:
    cases: list[tuple[Any, Callable[[Any], Any], str, int]] = [
        (
            {"v": 1.0, "w": 2.0},
            lambda s: {"v": s["v"] - 1, "w": s["w"] / s["v"]},
            "the field 'w' .* infinite",
            1,
        ),
        ({"v": 0.0}, lambda s: {"v": s["v"] / s["v"]}, "the field 'v' .* NaN", 0),
        (np.inf, lambda v: v - v, "the state .* NaN", 0),
        (np.array([1.0, np.inf]), lambda v: v * np.array([1e200, 1]), "the state .* infinite", 1),
        (np.float32(1e20), lambda v: v * v, "the state .* infinite", 0),
    ]
    for start, body, message, iteration in cases:
        made = so.loop(start, range(5))(body)
        at = line() - 1
        with pytest.raises(so.LoopError, match=f"{message}.* iteration {iteration}") as caught:
            made.collect()
        assert f"(test_loops.py:{at})" in str(caught.value)
        assert "allow_nonfinite" in str(caught.value)
        allowed = so.loop(start, range(5), allow_nonfinite=True)(body).run()
        assert allowed.iterations == 5


# History and results.


def test_history_has_a_row_per_iteration() -> None:
    made = so.loop({"v": 1.0, "w": np.zeros(2), "n": 0, "ok": True, "s": "a"}, range(3))(
        lambda e: {"v": e["v"] * 2, "w": e["w"], "n": e["n"] + 1, "ok": ~e["ok"], "s": "b"}
    )
    history = made.run().history
    assert history.column_names == ["iteration", "v", "n", "ok", "s", "seconds"]
    rows = history.drop(["seconds"]).to_pydict()
    assert rows == {
        "iteration": [0, 1, 2], "v": [2.0, 4.0, 8.0], "n": [1, 2, 3],
        "ok": [False, True, False], "s": ["b", "b", "b"],
    }  # fmt: skip
    assert all(s >= 0 for s in history["seconds"].to_pylist())


def test_fields_may_have_the_names_of_the_results_own_columns() -> None:
    names = ("iteration", "seconds", "iterations", "converged", "env", "run", "plan")
    start = dict.fromkeys(names, 1.5)
    made = so.loop(start, range(2))(lambda env: {n: v + 1 for n, v in env.items()})
    result = made.run()
    assert result.env == dict.fromkeys(names, 3.5)
    assert result.history.column_names[0] == "iteration"
    assert result.history["iteration"].to_pylist() == [0, 1]
    assert result.history["env.iteration"].to_pylist() == [2.5, 3.5]
    assert result.history["env.seconds"].to_pylist() == [2.5, 3.5]
    made.forget()
    fields = so.collect({n: made[n] for n in names})
    assert fields == dict.fromkeys(names, 3.5)
    assert so.collect(made.iterations, made.converged) == (2, True)


def test_a_loops_fields_are_values_for_later_plans(table: so.Table) -> None:
    def loops() -> Any:
        return so.loop({"w": np.ones(2), "n": 1}, range(2))(
            lambda s: {"w": s["w"] * 2, "n": s["n"] + 1}
        )

    for collected in (False, True):
        model = loops()
        if collected:
            model.collect()
        x = np.arange(8.0).reshape(4, 2)
        assert_same(records(table.map(lambda r: r.x @ model.w)), x @ np.full(2, 4.0))  # noqa: B023
        assert_same((model["n"] + 1).collect(), np.int64(4))
        assert_same((model.w.sum() / model.n).collect(), np.float64(8 / 3))
        assert_same(table.filter(lambda r: r.a > model.n).count().collect(), np.int64(1))  # noqa: B023
        again = so.loop(model["w"], range(1))(lambda v: v + model["n"])  # noqa: B023
        assert_same(again.collect(), np.full(2, 7.0))
        assert_same((model.iterations * 2).collect(), np.int64(4))
        assert bool(model.converged.collect()) is True


def test_a_bare_loop_is_a_value(table: so.Table) -> None:
    bare = so.loop(1.0, range(3))(lambda v: v * 2)
    assert isinstance(bare, so.Value)
    assert (bare + 1).collect() == 9.0
    assert bare.collect() == 8.0
    assert listed(table.map(lambda r: r.a * bare)) == [8.0, 16.0, 24.0, 32.0]
    assert listed(table.with_columns(b=bare), "b") == [8.0] * 4
    vector = so.loop(np.arange(3.0), range(2))(lambda v: v + 1)
    assert vector.shape == (3,)
    assert [v.collect() for v in vector] == [2.0, 3.0, 4.0]
    run: Any = bare
    assert (run.run().iterations, run.iterations.collect()) == (3, 3)


# Loops in loops.


def test_an_inner_loop_restarts_from_its_own_start() -> None:
    def body(v: Any, i: Any) -> Any:
        inner = so.loop(0.0, range(3))(lambda w, j: w + v + j)
        return inner + i

    expected = 1.0
    for i in range(4):
        inner = 0.0
        for j in range(3):
            inner = inner + expected + j
        expected = inner + i
    assert so.loop(1.0, range(4))(body).collect() == expected


def test_an_inner_loop_over_a_table_with_a_condition_of_the_outer_state(table: so.Table) -> None:
    def body(env: Any) -> Any:
        def inner(s: Any) -> Any:
            high = table.filter(lambda r: r.a > s["low"] + env["shift"])
            return {"low": s["low"] + 0.5, "n": s["n"] + high.count()}

        found = so.loop({"low": 0.0, "n": 0}, lambda s: s["low"] < env["shift"] + 1)(inner)
        return {"shift": env["shift"] + 0.5, "n": env["n"] + found["n"], "k": found.iterations}

    shift, n, k = 0.0, 0, 0
    for _ in range(3):
        low, own, k = 0.0, 0, 0
        while low < shift + 1:
            own, low, k = own + int(np.sum(low + shift < A)), low + 0.5, k + 1
        shift, n = shift + 0.5, n + own
    result = so.loop({"shift": 0.0, "n": 0, "k": 0}, range(3))(body).collect()
    assert result == {"shift": shift, "n": n, "k": k}


def test_an_inner_loop_may_start_from_the_outer_state_and_run_opaque_functions(
    table: so.Table,
) -> None:
    def body(env: Any) -> Any:
        def inner(w: Any) -> Any:
            return w + table.sum(lambda r: r.a if r.a > w - env["v"] else 0.0) / 10

        return {"v": so.loop(env["v"], range(2))(inner)}

    v = 1.0
    for _ in range(3):
        w = v
        for _ in range(2):
            w = w + sum(a for a in A.tolist() if a > w - v) / 10
        v = w
    assert so.loop({"v": 1.0}, range(3))(body).collect()["v"] == pytest.approx(v)


def test_pythons_for_around_loops_gives_independent_ones(table: so.Table) -> None:
    loops = []
    for rate in (0.1, 0.2):
        loops.append(so.loop(0.0, range(5))(lambda v: v - rate * (v - table.mean("a"))))  # noqa: B023
    expected = []
    for rate in (0.1, 0.2):
        v = 0.0
        for _ in range(5):
            v -= rate * (v - 2.5)
        expected.append(v)
    np.testing.assert_allclose(so.collect(*loops), expected)


def test_a_loop_of_a_logistic_regression_is_numpys() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(500, 4))
    y = np.sign(x @ np.array([1.0, -2.0, 0.5, 0.0]) + random.normal(size=500))
    xy = so.table({"x": x, "y": y})

    class Logistic(so.Environment):
        w: Array
        loss: float
        delta: float

    @so.loop(Logistic(w=np.zeros(4), loss=np.inf, delta=np.inf), lambda env: env.delta > 1e-3)
    def model(env: Any) -> Any:
        def margin(r: Any) -> Any:
            return r.y * (r.x @ env.w)

        gradient = xy.map(lambda r: -r.y * r.x / (1 + np.exp(margin(r)))).reduce(lambda a, b: a + b)
        loss = xy.map(lambda r: np.log1p(np.exp(-margin(r)))).reduce(lambda a, b: a + b)
        env.w -= 0.5 * gradient / xy.count()
        env.delta = abs(env.loss - loss)
        env.loss = loss
        return env

    w, last, delta, steps = np.zeros(4), np.inf, np.inf, 0
    while delta > 1e-3:
        margin = y * (x @ w)
        g = (-(y / (1 + np.exp(margin)))[:, None] * x).sum(axis=0)
        loss = np.log1p(np.exp(-margin)).sum()
        w, delta, last, steps = w - 0.5 * g / 500, abs(last - loss), loss, steps + 1
    result = model.run()
    assert result.iterations == steps
    np.testing.assert_allclose(result.env.w, w, rtol=1e-9)
    np.testing.assert_allclose(result.env.loss, last, rtol=1e-9)
    assert ordered(xy.select("y"))["y"] == y.tolist()

"""loop.run: callbacks, what converged says, what a session keeps of a run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import scalops as so
from tests.language.witness import line

Array = np.ndarray[Any, Any]


class Model(so.Environment):
    """A vector, a number, a name."""

    w: np.ndarray
    loss: float
    name: str
    done: bool


@pytest.fixture
def table() -> so.Table:
    """Ten records."""
    return so.table({"x": np.arange(20.0).reshape(10, 2), "y": np.arange(10.0)})


def trained(table: so.Table, condition: Any, **options: Any) -> so.Loop:
    """Gradient steps."""
    start = Model(w=np.zeros(2), loss=np.inf, name="m", done=False)

    @so.loop(start, condition, **options)
    def model(env: Any) -> Any:
        errors = table.map(lambda r: (r.x @ env.w - r.y) ** 2).mean()
        env.w = env.w - 1e-3 * table.map(lambda r: (r.x @ env.w - r.y) * r.x).mean()
        env.done = errors < 1.0
        env.loss = errors
        return env

    made: so.Loop = model
    return made


# Callbacks.


def test_callback_hears_of_every_iteration_in_order(table: so.Table) -> None:
    made = trained(table, range(4))
    heard: list[tuple[int, Model]] = []
    result = made.run(on_iteration=lambda i, env: heard.append((i, env)))
    assert [i for i, _ in heard] == [0, 1, 2, 3]
    assert all(type(env) is Model and type(i) is int for i, env in heard)
    assert heard[-1][1] == result.env
    assert [env.loss for _, env in heard] == result.history.column("loss").to_pylist()
    w, expected = np.zeros(2), []
    x, y = np.arange(20.0).reshape(10, 2), np.arange(10.0)
    for _ in range(4):
        w = w - 1e-3 * ((x @ w - y)[:, None] * x).mean(0)
        expected.append(w)
    np.testing.assert_allclose([env.w for _, env in heard], expected, rtol=1e-12)
    assert result.converged is True


def test_callback_may_keep_and_change_what_it_gets(table: so.Table) -> None:
    plain = trained(table, range(4)).run()
    kept: list[Array] = []

    def spoil(i: int, env: Model) -> None:
        kept.append(env.w)
        env.w[:] = 1e9
        env.loss = -1.0

    spoiled = trained(table, range(4)).run(on_iteration=spoil)
    assert spoiled.env == plain.env
    assert all((w == 1e9).all() for w in kept)


class Pair(NamedTuple):
    """Two numbers."""

    a: float
    b: float


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (1.0, 2.0),
        (np.ones(2), np.array([2.0, 2.0])),
        ((1, 2.5), (2, 3.5)),
        ({"n": 1, "m": 0.5}, {"n": 2, "m": 1.5}),
        (Pair(1.0, 2.0), Pair(2.0, 3.0)),
        (np.float32(1), np.float32(2)),
        (7, 8),
    ],
    ids=["scalar", "array", "tuple", "dict", "NamedTuple", "float32", "int"],
)
def test_callback_gets_the_users_structure(start: Any, expected: Any) -> None:
    def step(env: Any) -> Any:
        if isinstance(env, dict):
            return {n: v + 1 for n, v in env.items()}
        if isinstance(env, Pair):
            return Pair(env.a + 1, env.b + 1)
        return tuple(v + 1 for v in env) if isinstance(env, tuple) else env + 1

    heard: list[Any] = []
    result = so.loop(start, range(1))(step).run(on_iteration=lambda i, env: heard.append(env))
    (found,) = heard
    assert type(found) is type(result.env)
    np.testing.assert_equal(found, expected)
    if not isinstance(expected, (dict, tuple, int)):
        assert np.asarray(found).dtype == np.asarray(expected).dtype


def test_false_stops_without_a_warning(table: so.Table, caplog: pytest.LogCaptureFixture) -> None:
    made = trained(table, lambda env: env.loss > 0, max_iterations=9)
    result = made.run(on_iteration=lambda i, env: i < 2)
    assert (result.iterations, result.converged) == (3, False)
    assert result.history.num_rows == 3
    # A comparison of the environment's numbers gives NumPy's.
    assert made.run(on_iteration=lambda i, env: env.loss < 0).iterations == 1
    assert caplog.messages == []


@pytest.mark.parametrize("answer", [None, 0, "", [], True, np.True_])
def test_only_false_itself_stops(answer: Any) -> None:
    result = so.loop(0, range(3))(lambda s: s + 1).run(on_iteration=lambda i, env: answer)
    assert (result.iterations, result.converged) == (3, True)


def test_stop_after_the_last_iteration_is_a_stop() -> None:
    result = so.loop(0, range(3))(lambda s: s + 1).run(on_iteration=lambda i, env: i != 2)
    assert (result.env, result.iterations, result.converged) == (3, 3, False)


def test_exception_of_the_callback_surfaces_as_it_is(table: so.Table) -> None:
    class Enough(Exception):
        pass

    def fail(i: int, env: Any) -> None:
        if i == 1:
            raise Enough("at one")

    made = trained(table, range(4))
    with pytest.raises(Enough, match="at one") as caught:
        made.run(on_iteration=fail)
    assert caught.value.__cause__ is None
    assert made.run().iterations == 4
    assert table.count().collect() == 10


def test_interrupt_in_the_callback_leaves_the_session_usable(table: so.Table) -> None:
    def interrupt(i: int, env: Any) -> None:
        raise KeyboardInterrupt

    made = trained(table, range(4))
    with pytest.raises(KeyboardInterrupt):
        made.run(on_iteration=interrupt)
    assert made.run().iterations == 4


def test_callback_may_run_plans_of_its_own(table: so.Table) -> None:
    seen: list[float] = []

    def validate(i: int, env: Model) -> None:
        seen.append(float(table.map(lambda r: (r.x @ env.w - r.y) ** 2).mean().collect()))

    result = trained(table, range(4)).run(on_iteration=validate)
    np.testing.assert_allclose(seen[:-1], result.history.column("loss").to_pylist()[1:])


def test_callback_sees_the_users_floating_point_settings() -> None:
    def overflow(i: int, env: Any) -> None:
        with pytest.warns(RuntimeWarning, match="divide"):
            np.float64(1) / np.float64(0)

    so.loop(0.0, range(1))(lambda s: s).run(on_iteration=overflow)


def test_callback_belongs_to_the_outermost_loop() -> None:
    heard: list[tuple[int, Any]] = []

    @so.loop(1.0, range(3))
    def outer(s: Any) -> Any:
        return so.loop(s, range(2))(lambda z: z * 2)

    result = outer.run(on_iteration=lambda i, env: heard.append((i, env)))
    assert heard == [(0, 4.0), (1, 16.0), (2, 64.0)]
    assert result.history.num_rows == 3


def test_callback_is_not_called_for_a_loop_that_this_one_reads() -> None:
    first = so.loop(1.0, range(5))(lambda s: s + 1)
    heard: list[int] = []
    second = so.loop(first, range(2))(lambda s: s + 1)
    assert second.run(on_iteration=lambda i, env: heard.append(i)).env == 8.0
    assert heard == [0, 1]


# What is kept.


def test_run_with_a_callback_runs_though_its_result_is_known(table: so.Table) -> None:
    made = trained(table, range(3))
    plain = made.run()
    heard: list[int] = []
    again = made.run(on_iteration=lambda i, env: heard.append(i))
    assert heard == [0, 1, 2]
    assert again.env == plain.env


def test_result_of_a_run_with_a_callback_is_kept(table: so.Table) -> None:
    made = trained(table, range(3))
    result = made.run(on_iteration=lambda i, env: None)
    kept = made.run()
    assert kept.env == result.env
    assert kept.history.equals(result.history)  # the seconds too: it was not run again


def test_result_of_a_stopped_run_is_not_kept(table: so.Table) -> None:
    made = trained(table, range(3))
    assert made.run(on_iteration=lambda i, env: False).iterations == 1
    assert made.run().iterations == 3
    assert made.run(on_iteration=lambda i, env: False).iterations == 1
    assert made.iterations.collect() == 3


# converged.


def test_converged_and_iterations_are_values_of_later_plans(table: so.Table) -> None:
    limited = so.loop(0.0, lambda v: v < 9, max_iterations=3, warn=False)(lambda v: v + 1)
    ranged = so.loop(0.0, range(4))(lambda v: v + 1)
    turned = so.loop(0.0, lambda v: v < 2)(lambda v: v + 1)
    found = so.collect(*[(m.iterations * 10, m.converged) for m in (limited, ranged, turned)])
    assert found == ((30, False), (40, True), (20, True))
    iterations, converged = limited.iterations, limited.converged
    kept = table.filter(lambda r: (r.y < iterations) & ~converged).count()
    assert kept.collect() == 3
    chosen = so.where(limited.converged, limited, -1.0)
    assert chosen.collect() == -1.0


def test_nested_loops_warn_once_with_callbacks(caplog: pytest.LogCaptureFixture) -> None:
    @so.loop(0.0, range(4))
    def outer(v: Any) -> Any:
        return so.loop(v, lambda w: w < 1e9, max_iterations=2)(lambda w: w + 1)

    with caplog.at_level(logging.WARNING, "scalops"):
        result = outer.run(on_iteration=lambda i, env: None)
    assert (result.env, result.converged, len(caplog.messages)) == (8.0, True, 1)


# Arguments.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_iteration": 3}, r"on_iteration is 3; expected a function"),
        ({"checkpoint": 3}, r"checkpoint is 3; expected a folder"),
        ({"resume": 2.5}, r"resume is 2.5; expected a folder"),
        ({"checkpoint": "f", "every": 0}, r"every is 0; expected an int of at least 1"),
        ({"checkpoint": "f", "every": True}, r"every is True; expected an int"),
        ({"checkpoint": "f", "every": 1.5}, r"every is 1.5; expected an int"),
        ({"every": 2}, r"every= is given without checkpoint="),
    ],
)
def test_arguments_without_sense_are_refused(options: Any, message: str) -> None:
    made = so.loop(0, range(3))(lambda s: s + 1)
    with pytest.raises(so.LoopError, match=message) as caught:
        made.run(**options)
    assert caught.value.location is not None


def test_options_of_a_run_are_no_options_of_the_loop() -> None:
    with pytest.raises(so.PlanError, match=r"on_iteration= is an option of a run.*loop\.run\("):
        so.loop(0, range(3), on_iteration=print)


def test_run_inside_a_body_is_refused() -> None:
    at = line() + 3
    with pytest.raises(so.TraceError, match=rf"the result of a loop.*:{at}\)"):
        so.loop(0, range(3))(
            lambda s: so.loop(s, range(2))(lambda z: z + 1).run(on_iteration=print).env
        )


# Names.


def test_loop_has_its_fields_as_attributes_and_no_others(table: so.Table) -> None:
    made = trained(table, range(1))
    assert hasattr(made, "w")
    assert not hasattr(made, "weights")
    assert getattr(made, "weights", None) is None
    with pytest.raises(so.LoopError, match=r"no field 'weights'; its fields are \['w', 'loss'"):
        made.weights


def test_deeply_nested_loops_are_traced_in_few_calls() -> None:
    calls = 0

    def nested(depth: int, s: Any) -> Any:
        nonlocal calls

        def body(z: Any) -> Any:
            nonlocal calls
            calls += 1
            return nested(depth - 1, z) if depth else z + 1

        return so.loop(s, range(1))(body)

    assert nested(7, 0.0).collect() == 1.0
    assert calls <= 8 * 9  # and not 2 ** 8


def test_loop_inside_that_is_not_the_same_again_is_still_found() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(so.TraceError, match="gives another expression for 'value'"):
        so.loop(0.0, range(2))(lambda s: so.loop(s, range(2))(lambda z: z + rng.normal()))


def test_profile_counts_the_caches_that_were_filled_before_the_loop(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("x\n" + "\n".join(map(str, range(1000))))
    table = so.read_csv(path)
    profile = so.loop(0.0, range(3))(lambda s: table.sum(lambda r: abs(r.x - s))).run().profile
    assert profile["load"] > 0
    assert profile["total"] >= profile["load"] + profile["map"] + profile["update"]

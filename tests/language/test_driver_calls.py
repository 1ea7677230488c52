"""so.call: an ordinary Python function of Values, at the driver."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize

import scalops as so
from scalops.engine.witness.interpreter import Interpreter
from tests.engine.plans import bits, run
from tests.language.witness import assert_same, line, value

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(11)
X, Y = RNG.normal(size=(40, 3)), RNG.normal(size=40)


@pytest.fixture
def table() -> so.Table:
    """40 records."""
    return so.table({"x": X, "y": Y})


def written(path: Path) -> Callable[..., Any]:
    """A function that adds its first argument and one, and leaves a line at each call."""

    def add(a: Any, *more: Any) -> Any:
        with path.open("a") as file:
            file.write(f"{a}\n")
        return a + 1

    return add


# Results.


def test_scipy_routine_of_folds(table: so.Table) -> None:
    gram = table.map(lambda r: np.outer(r.x, r.x)).sum()
    right = table.map(lambda r: r.y * r.x).sum()
    solved = so.call(scipy.linalg.solve, gram, right, like=np.zeros(3))
    assert repr(solved) == "Value(float64[3])"
    expected = scipy.linalg.solve(X.T @ X, X.T @ Y)
    np.testing.assert_allclose(solved.collect(), expected, rtol=1e-10)
    np.testing.assert_allclose((solved * 2 + gram[0]).collect(), 2 * expected + (X.T @ X)[0])


class Fit(NamedTuple):
    """A line."""

    slope: float
    offset: float


@pytest.mark.parametrize(
    ("like", "result"),
    [
        (0.0, 2.5),
        (0, np.int32(3)),
        (0.0, 3),
        (np.float32(0), 0.1),
        (False, np.bool_(True)),
        ("", "text"),
        (np.zeros(2), [1, 2]),
        (np.zeros((2, 1), "float32"), np.ones((2, 1))),
        (np.zeros(2, "int64"), np.array([1, 2], "int32")),
        (np.datetime64("2000-01-01", "s"), np.datetime64("2026-01-01", "s")),
        (0.0, np.array(1.5)),
    ],
    ids=str,
)
def test_result_has_the_type_and_shape_of_like(like: Any, result: Any) -> None:
    found = so.call(lambda x: result, value(1.0), like=like).collect()
    if isinstance(like, str):
        assert found == result
        return
    assert_same(found, np.asarray(result).astype(np.asarray(like).dtype))


def test_tuple_gives_several_values(table: so.Table) -> None:
    least, most = so.call(
        lambda v: (float(v.min()), v * 2), table.sum("x"), like=(0.0, np.zeros(3))
    )
    assert_same(least.collect(), np.float64(X.sum(0).min()))
    np.testing.assert_allclose(most.collect(), 2 * X.sum(0))
    as_list = so.call(lambda v: [v, 1], 2.0, like=(0.0, 0))
    assert so.collect(as_list) == (2.0, 1)


def test_dict_and_namedtuple_give_a_structure() -> None:
    for like in ({"slope": 0.0, "offset": 0.0}, Fit(0.0, 0.0)):
        for result in (Fit(2.0, 3.0), {"offset": 3.0, "slope": 2.0}):
            made = so.call(lambda x, r=result: r, 1.0, like=like)
            assert made.slope.collect() == 2.0
            assert made["offset"].collect() == 3.0
            assert made.collect() == {"slope": 2.0, "offset": 3.0}
    again = so.call(lambda x: Fit(x, x), 1.0, like=made)
    assert again.collect() == {"slope": 1.0, "offset": 1.0}


def test_like_may_be_a_value_which_is_not_run() -> None:
    singular = np.linalg.inv(value(np.zeros((2, 2))))
    assert_same(
        so.call(lambda x: np.full((2, 2), x), 3.0, like=singular).collect(), np.full((2, 2), 3.0)
    )


def test_function_gets_python_scalars_and_read_only_arrays() -> None:
    def look(number: Any, whole: Any, truth: Any, text: Any, array: Any) -> Any:
        kinds = [type(v).__name__ for v in (number, whole, truth, array)]
        return f"{kinds} {text} {array.flags.writeable} {array.dtype}"

    given = (value(1.5), value(2), value(True), so.lit("t"), value(np.zeros(2, "float32")))
    found = so.call(look, *given, like="").collect()
    assert found == "['float', 'int', 'bool', 'ndarray'] t False float32"


def test_result_is_copied_from_the_functions_own_array() -> None:
    work = np.zeros(2)

    def reuse(s: Any) -> Any:
        work[:] = s + 1
        return work

    result = so.loop(np.zeros(2), range(3))(lambda s: so.call(reuse, s, like=np.zeros(2))).run()
    assert_same(result.env, np.full(2, 3.0))
    returned = so.call(lambda a: a, value(np.arange(2.0)), like=np.zeros(2)).collect()
    returned[0] = 5.0  # the caller's own


def test_function_closes_over_values_as_they_were(table: so.Table) -> None:
    scale, offset = table.sum("y"), 1.0
    made = so.call(lambda v: v * scale + offset, 2.0, like=0.0)
    scale, offset = table.count(), 100.0
    np.testing.assert_allclose(made.collect(), 2 * Y.sum() + 1)


# In loops.


class State(so.Environment):
    """A point and its value."""

    w: np.ndarray
    loss: float


def test_update_step_in_a_loop(table: so.Table) -> None:
    def line_search(w: Any, gradient: Any, h: Any) -> Any:
        best = scipy.optimize.minimize_scalar(
            lambda t: -t * gradient @ gradient + t * t / 2 * gradient @ h @ gradient
        )
        return w - best.x * gradient, float(gradient @ gradient)

    @so.loop(State(w=np.zeros(3), loss=np.inf), lambda env: env.loss > 1e-16, max_iterations=200)
    def model(env: Any) -> Any:
        gradient = table.map(lambda r: (r.x @ env.w - r.y) * r.x).sum()
        hessian = table.map(lambda r: np.outer(r.x, r.x)).sum()
        env.w, env.loss = so.call(line_search, env.w, gradient, hessian, like=(env.w, 0.0))
        return env

    result = model.run()
    assert result.converged
    np.testing.assert_allclose(result.env.w, np.linalg.lstsq(X, Y)[0], atol=1e-7)
    for stage in ("logical", "optimized", "physical"):
        assert "call line_search(" in " ".join(model.explain(stage).split())
    assert "called at the driver" in model.explain()


def test_engine_and_interpreter_agree_and_threads_change_no_bit(table: so.Table) -> None:
    def step(s: Any, total: Any) -> Any:
        return np.tanh(s + total)

    def body(s: Any) -> Any:
        inner = so.loop(s, range(2))(lambda z: so.call(step, z, table.sum("x"), like=z))
        return so.call(lambda a: a / 2, inner, like=s) + table.map(lambda r: r.x @ inner).sum()

    made = so.loop(np.ones(3), range(3))(body)
    found = [run([made], threads, memory)[0] for threads in (1, 2) for memory in (None, 10_000)]
    assert all(bits(f) == bits(found[0]) for f in found)
    np.testing.assert_allclose(
        found[0].state["value"], Interpreter().run_loop(made.plan)["value"], rtol=1e-12
    )


def test_condition_may_call(tmp_path: Path) -> None:
    made = so.loop(0, lambda s: so.call(lambda v: v < 5, s, like=True))(lambda s: s + 2)
    result = made.run()
    assert (result.env, result.iterations) == (6, 3)


def test_it_is_called_once_per_iteration(tmp_path: Path) -> None:
    f = written(tmp_path / "calls")

    def body(s: Any) -> Any:
        made = so.call(f, s, like=0.0)
        return made + made * 0 + so.call(f, s, like=0.0) * 0

    assert so.loop(0.0, range(4))(body).collect() == 4.0
    assert (tmp_path / "calls").read_text().split() == ["0.0", "1.0", "2.0", "3.0"]


def test_outputs_of_one_call_are_one_call(tmp_path: Path) -> None:
    f = written(tmp_path / "calls")
    a, b = so.call(lambda v: (f(v), f(v)), 1.0, like=(0.0, 0.0))
    assert so.collect(a, b, a + b) == (2.0, 2.0, 4.0)
    assert len((tmp_path / "calls").read_text().split()) == 2


def test_call_of_what_a_loop_leaves_alone_is_made_once(tmp_path: Path, table: so.Table) -> None:
    f = written(tmp_path / "calls")
    made = so.loop(0.0, range(5))(lambda s: s + so.call(f, table.count() * 1.0, like=0.0))
    assert made.collect() == 5 * 41.0
    assert (tmp_path / "calls").read_text().split() == ["40.0"]


def test_explain_and_tracing_call_nothing(tmp_path: Path, table: so.Table) -> None:
    f = written(tmp_path / "calls")
    total = so.call(f, table.sum("y"), like=2.0)
    opaque = table.map(lambda r: r.y if r.y > total else 1 / total)
    for thing in (total, opaque, so.loop(total, range(3))(lambda s: so.call(f, s, like=0.0))):
        for stage in ("traced", "physical"):
            thing.explain(stage)
    assert not (tmp_path / "calls").exists()
    expected = [y if y > Y.sum() + 1 else 1 / (Y.sum() + 1) for y in Y]
    np.testing.assert_allclose(opaque.collect().column("value"), expected)
    assert len((tmp_path / "calls").read_text().split()) == 1


def test_result_is_read_by_records(table: so.Table) -> None:
    w = so.call(np.sort, table.sum("x"), like=np.zeros(3))
    np.testing.assert_allclose(
        table.map(lambda r: r.x @ w).sum().collect(), (X @ np.sort(X.sum(0))).sum()
    )


def test_a_kept_result_is_used(tmp_path: Path) -> None:
    f = written(tmp_path / "calls")
    made = so.call(f, value(1.0), like=0.0)
    assert made.collect() == made.collect() == 2.0
    assert (made + 1).collect() == 3.0
    assert len((tmp_path / "calls").read_text().split()) == 1
    made.forget()
    made.collect()
    assert len((tmp_path / "calls").read_text().split()) == 2


# Errors.


@pytest.mark.parametrize(
    ("like", "result", "found", "expected"),
    [
        (np.zeros(2), np.zeros(3), r"float64\[3\]", r"float64\[2\]"),
        (0.0, np.zeros(1), r"float64\[1\]", "float64"),
        (0, 1.5, "float64", "int64"),
        (0.0, None, "None", "float64"),
        (0.0, "text", "string", "float64"),
        ("", 1.0, "float64", "string"),
        pytest.param(0.0, object(), "a object", "float64", id="an object"),
        (0.0, (1.0, 2.0), r"\(float64, float64\)", "float64"),
        ((0.0, 0.0), 1.0, "float64", r"\(float64, float64\)"),
        ((0.0, 0.0), (1.0, 2.0, 3.0), r"\(float64, float64, float64\)", r"\(float64, float64\)"),
        ((0.0, ""), (1.0, 2.0), r"\(float64, float64\)", r"\(float64, string\)"),
        ({"a": 0.0}, {"b": 1.0}, r"{b: float64}", r"{a: float64}"),
        ({"a": 0.0}, {"a": np.zeros(2)}, r"{a: float64\[2\]}", r"{a: float64}"),
        (np.zeros(2), [[1.0], [2.0, 3.0]], "a list", r"float64\[2\]"),
        (0.0, 1j, "a complex", "float64"),
    ],
    ids=str,
)
def test_other_result_is_an_error_naming_both(
    like: Any, result: Any, found: str, expected: str
) -> None:
    made = so.call(lambda x: result, value(1.0), like=like)
    at = line() - 1
    message = rf"gives {found}; expected {expected}, as like= says \(test_driver_calls\.py:{at}\)"
    with pytest.raises(so.UserFunctionError, match=message):
        so.collect(made)


def test_exception_of_the_function_is_the_cause() -> None:
    def fail(s: Any) -> Any:
        return 1 / (s - 2)

    at = line() - 2
    made = so.loop(0.0, range(5))(lambda s: s + 1 + 0 * so.call(fail, s, like=0.0))
    with pytest.raises(so.UserFunctionError) as caught:
        made.collect()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    text = str(caught.value)
    assert "fail() raised ZeroDivisionError: float division by zero" in text
    assert f"its arguments are (2.0,) (test_driver_calls.py:{at})" in text
    assert "in iteration 2" in text
    assert so.loop(0.0, range(2))(lambda s: s + 1).collect() == 2.0


@pytest.mark.parametrize("error", [SystemExit(3), AssertionError()])
def test_function_cannot_end_the_program(error: BaseException) -> None:
    def leave(x: Any) -> Any:
        raise error

    with pytest.raises(so.UserFunctionError, match=type(error).__name__):
        so.call(leave, 1.0, like=0.0).collect()


def test_records_column_is_refused(table: so.Table) -> None:
    with pytest.raises(so.PlanError, match=r"so\.call in a row function.*so\.udf"):
        table.map(lambda r: so.call(np.sin, r.y, like=0.0))
    kept: list[Any] = []

    def keep(r: Any) -> Any:
        kept.append(r.y)
        return r.y

    table.map(keep)
    with pytest.raises(so.PlanError, match=r"so\.call of a record's column"):
        so.call(np.sin, kept[0], like=0.0)
    with pytest.raises(so.TraceError, match="it keeps the symbol of another record"):
        so.call(lambda: kept[0], like=0.0)


def test_arguments_that_are_no_values_are_refused(table: so.Table) -> None:
    with pytest.raises(so.TraceError, match=r"needs a function; it got a float"):
        so.call(1.0, 2.0, like=0.0)  # type: ignore[arg-type]
    with pytest.raises(so.TraceError, match=r"argument 2 of so\.call is a NoneType"):
        so.call(np.add, 1.0, None, like=0.0)
    with pytest.raises(so.TraceError, match=r"argument 1 .*State.*pass its fields"):
        so.call(np.add, State(w=np.zeros(2), loss=0.0), like=0.0)
    loop = so.loop({"a": 1.0}, range(2))(lambda env: env)
    with pytest.raises(so.TraceError, match=r"argument 1 .*Loop.*use its fields: model\.w"):
        so.call(np.sin, loop, like=0.0)
    with pytest.raises(so.PlanError, match=r"takes Values; fold the table first.*groups\.map"):
        so.call(len, table, like=0)
    with pytest.raises(so.TraceError, match="like= shows a NoneType"):
        so.call(np.sin, 1.0, like=None)
    with pytest.raises(so.TraceError, match="like= shows a dict"):
        so.call(np.sin, 1.0, like={"a": {"b": 1.0}})
    with pytest.raises(so.TraceError, match="like= shows nothing"):
        so.call(np.sin, 1.0, like=())


def test_function_that_cannot_be_captured_names_the_variable(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w") as stream:

        def write(x: Any) -> Any:
            stream.write("x")
            return x

        with pytest.raises(
            so.TraceError, match=r"write\(\) cannot be captured: its variable 'stream'"
        ):
            so.call(write, 1.0, like=0.0)

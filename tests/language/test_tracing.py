"""Row functions: what they see, when they are traced, and when they run record by record."""

from __future__ import annotations

import functools
import logging
import math
import random
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from tests.language.witness import assert_same, is_opaque, line, listed, nulls, ordered, records

A = np.array([1.0, 2.0, 3.0, 4.0])
X = np.arange(12.0).reshape(4, 3)
WEIGHTS = np.array([1.0, 2.0, 3.0])
FACTOR = 3.0

Mark = Callable[[Any], Any]


def traced(f: Any) -> Any:
    """The function as it is."""
    return f


@pytest.fixture(params=[traced, so.udf], ids=["traced", "opaque"])
def mark(request: pytest.FixtureRequest) -> Mark:
    """Makes a row function run in either way."""
    made: Mark = request.param
    return made


@pytest.fixture
def table() -> so.Table:
    """Four records."""
    return so.table({"a": A, "x": X, "k": [1, 2, 3, 4], "s": ["p", "q", "p", "r"]})


# What a function closes over, by whatever means.


class Scaler:
    """Holds what a method needs."""

    def __init__(self, by: Any) -> None:
        self.by = by

    def __call__(self, r: Any) -> Any:
        return r.a * self.by

    def scaled(self, r: Any) -> Any:
        return r.a * self.by

    @classmethod
    def plain(cls, r: Any) -> Any:
        return r.a * FACTOR

    @staticmethod
    def static(r: Any) -> Any:
        return r.a * FACTOR


def times(by: Any, r: Any) -> Any:
    """For functools.partial."""
    return r.a * by


def by_factor(r: Any) -> Any:
    """Reads a global."""
    return r.a * FACTOR


CAPTURES: dict[str, Callable[[Any], Any]] = {
    "closure": lambda w: lambda r: r.a * w,
    "default": lambda w: lambda r, by=w: r.a * by,
    "partial": lambda w: functools.partial(times, w),
    "keyword partial": lambda w: functools.partial(lambda r, by: r.a * by, by=w),
    "bound method": lambda w: Scaler(w).scaled,
    "callable object": lambda w: Scaler(w),
    "list": lambda w: (lambda kept: lambda r: r.a * kept[0])([w]),
    "dict": lambda w: (lambda kept: lambda r: r.a * kept["w"])({"w": w}),
    "nested function": lambda w: lambda r: (lambda v: v * w)(r.a),
}


@pytest.mark.parametrize("how", CAPTURES)
def test_a_number_reaches_the_function(table: so.Table, mark: Mark, how: str) -> None:
    assert_same(records(table.map(mark(CAPTURES[how](3.0)))), A * 3)


@pytest.mark.parametrize("how", CAPTURES)
def test_a_value_reaches_the_function(table: so.Table, mark: Mark, how: str) -> None:
    total = table.sum("a")
    assert_same(records(table.map(mark(CAPTURES[how](total)))), A * 10)


@pytest.mark.parametrize("how", CAPTURES)
def test_an_environments_field_reaches_the_function(table: so.Table, mark: Mark, how: str) -> None:
    def body(env: Any) -> Any:
        return {"w": table.map(mark(CAPTURES[how](env["w"]))).mean() + 1}

    expected = 1.0
    for _ in range(3):
        expected = float(np.mean(A * expected)) + 1
    assert so.loop({"w": 1.0}, range(3))(body).collect()["w"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "f", [by_factor, Scaler.plain, Scaler.static], ids=["function", "class", "static"]
)
def test_a_global_reaches_the_function(table: so.Table, mark: Mark, f: Any) -> None:
    assert_same(records(table.map(mark(f))), A * 3)


def test_the_whole_environment_reaches_the_function(table: so.Table, mark: Mark) -> None:
    class Model(so.Environment):
        w: np.ndarray[Any, Any]
        b: float

    @so.loop(Model(w=np.ones(3), b=0.5), range(3))
    def model(env: Any) -> Any:
        def inner(r: Any) -> Any:
            def margin() -> Any:
                return r.x @ env.w + env.b

            return margin() * r.x

        env.w = env.w + table.map(mark(inner)).mean() / 100
        env.b = env.b + 1
        return env

    w, b = np.ones(3), 0.5
    for _ in range(3):
        w, b = w + ((X @ w + b)[:, None] * X).mean(axis=0) / 100, b + 1
    result = model.collect()
    assert_same(result.w, w)
    assert result.b == 3.5
    assert is_opaque(model) == (mark is so.udf)


def test_the_result_of_a_loop_and_its_fields_reach_the_function(
    table: so.Table, mark: Mark
) -> None:
    model = so.loop({"w": np.ones(3), "n": 0}, range(2))(
        lambda env: {"w": env["w"] * 2, "n": env["n"] + 1}
    )
    bare = so.loop(1.0, range(3))(lambda v: v + 1)
    w = model["w"]
    assert_same(records(table.map(mark(lambda r: r.x @ w))), X @ (4 * np.ones(3)))
    assert_same(records(table.map(mark(lambda r: r.a * bare))), A * 4)


def test_a_structure_reaches_the_function(table: so.Table, mark: Mark) -> None:
    both = table.sum(lambda r: {"a": r.a, "k": r.k})
    assert_same(records(table.map(mark(lambda r: r.a * both.a + both["k"]))), A * 10 + 10)


def test_arrays_large_and_small_reach_the_function(mark: Mark) -> None:
    for size in (3, 5_000):
        w = np.arange(float(size))
        x = np.ones((4, size))
        made = so.table({"x": x}).map(mark(lambda r, w=w: r.x @ w))
        assert_same(records(made), x @ w)


def test_a_large_array_is_read_only_inside_a_function() -> None:
    w = np.arange(5_000.0)
    made = so.table({"a": A}).map(so.udf(lambda r: float(w.flags.writeable)))
    assert listed(made) == [0.0] * 4
    assert w.flags.writeable


# The moment: when the operator is written.


def test_a_later_assignment_to_a_variable_changes_nothing(table: so.Table, mark: Mark) -> None:
    factor = 3.0
    made = table.map(mark(lambda r: r.a * factor))
    factor = 5.0
    later = table.map(mark(lambda r: r.a * factor))
    assert_same(records(made), A * 3)
    assert_same(records(later), A * 5)


def test_a_loop_variable_of_python_is_the_one_of_its_turn(table: so.Table, mark: Mark) -> None:
    tables = [table.map(mark(lambda r: r.a * i)) for i in (1.0, 2.0, 3.0)]  # noqa: B023
    for i, made in enumerate(tables):
        assert_same(records(made), A * (i + 1))


def test_a_later_change_of_a_global_changes_nothing(
    table: so.Table, mark: Mark, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = table.map(mark(by_factor))
    monkeypatch.setitem(globals(), "FACTOR", 100.0)
    assert_same(records(made), A * 3)


@pytest.mark.parametrize("size", [3, 5_000])
def test_a_later_change_inside_an_array_changes_nothing(mark: Mark, size: int) -> None:
    w = np.ones(size)
    x = np.ones((2, size))
    made = so.table({"x": x}).map(mark(lambda r: r.x @ w))
    w[:] = 100.0
    assert_same(records(made), [float(size)] * 2)


def test_a_later_change_of_an_object_changes_nothing(table: so.Table, mark: Mark) -> None:
    scaler, numbers = Scaler(3.0), [1.0]
    made = table.map(mark(lambda r: scaler(r) + numbers[0]))
    scaler.by, numbers[0] = 100.0, 100.0
    assert_same(records(made), A * 3 + 1)


def test_a_later_assignment_to_the_environment_changes_nothing(table: so.Table, mark: Mark) -> None:
    class Model(so.Environment):
        w: float
        before: float
        after: float

    @so.loop(Model(w=1.0, before=0.0, after=0.0), range(3))
    def model(env: Any) -> Any:
        def f(r: Any) -> Any:
            return r.a * env.w

        before = table.map(mark(f))
        env.w = env.w + 10
        after = table.map(mark(f))
        env.before, env.after = before.sum(), after.sum()
        return env

    result = model.collect()
    assert (result.w, result.before, result.after) == (31.0, 210.0, 310.0)


# Traced, or record by record.


def test_numpy_stays_traced(table: so.Table) -> None:
    def f(r: Any) -> Any:
        margin = r.x @ WEIGHTS
        return {"p": np.where(margin > 10, np.log1p(r.a), 0.0), "q": [r.a, r.k], "s": r.s == "p"}

    made = table.map(f)
    assert not is_opaque(made)
    assert "opaque" not in made.explain(stage="all")
    assert_same(records(made, "p"), np.where(X @ WEIGHTS > 10, np.log1p(A), 0.0))


def asks_hidden_by_except(r: Any) -> Any:
    try:
        return 1.0 if r.a > 2 else 0.0
    except Exception:
        return -1.0


def asks_hidden_by_bare_except(r: Any) -> Any:
    try:
        return 1.0 if r.a > 2 else 0.0
    except:  # noqa: E722
        return -1.0


def asks_hidden_by_finally(r: Any) -> Any:
    try:
        return 1.0 if r.a > 2 else 0.0
    finally:
        str(r.k)


def loops_while(r: Any) -> Any:
    n = 0.0
    while n < r.a:
        n += 1
    return n


def iterates(r: Any) -> Any:
    total = 0.0
    for v in r.x:
        if v > 3:
            total += v
    return total


NUMBERS = {"p": 1, "q": 2}
ASKING: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], str]] = {
    "if": (lambda r: r.a if r.a > 2 else 0.0, lambda r: r.a if r.a > 2 else 0.0, "a truth value"),
    "and": (lambda r: r.a > 1 and r.k > 2, lambda r: r.a > 1 and r.k > 2, "a truth value"),
    "not": (lambda r: not r.a > 2, lambda r: not r.a > 2, "a truth value"),
    "chained": (lambda r: 1 < r.a < 4, lambda r: 1 < r.a < 4, "a truth value"),
    "float": (lambda r: float(r.k) / 2, lambda r: float(r.k) / 2, "a float"),
    "int": (lambda r: int(r.a * 1.5), lambda r: int(r.a * 1.5), "an int"),
    "math": (lambda r: math.exp(r.a), lambda r: math.exp(r.a), "a float"),
    "range": (lambda r: sum(range(r.k)), lambda r: sum(range(r.k)), "an index"),
    "f-string": (lambda r: f"{r.k}!", lambda r: f"{r.k}!", "a string"),
    "format": (lambda r: f"{r.a:.2f}", lambda r: f"{r.a:.2f}", "a formatted number"),
    "str": (lambda r: str(r.k), lambda r: str(r.k), "a string"),
    "in": (lambda r: 4.0 in r.x, lambda r: 4.0 in r.x, "membership"),
    "in a tuple": (lambda r: r.k in (1, 3), lambda r: r.k in (1, 3), "a truth value"),
    "look-up": (lambda r: NUMBERS.get(r.s, 3), lambda r: NUMBERS.get(r.s, 3), "unhashable"),
    "max": (lambda r: max(r.a, 2.5), lambda r: max(r.a, 2.5), "a truth value"),
    "sorted": (lambda r: sorted([r.a, 2.5])[0], lambda r: sorted([r.a, 2.5])[0], "a truth value"),
    "string method": (lambda r: r.s.upper(), lambda r: r.s.upper(), "raises AttributeError"),
    "str accessor": (lambda r: r.s.str.title(), lambda r: r.s.title(), "asks for .str.title"),
    "len of a string": (lambda r: len(r.s), lambda r: len(r.s), "raises TypeError"),
    "isinstance raises": (lambda r: r.a.is_integer(), lambda r: r.a.is_integer(), "raises"),
    "while": (loops_while, loops_while, "a truth value"),
    "for": (iterates, iterates, "a truth value"),
    "except": (asks_hidden_by_except, lambda r: 1.0 if r.a > 2 else 0.0, "a truth value"),
    "bare except": (asks_hidden_by_bare_except, lambda r: 1.0 if r.a > 2 else 0.0, "a truth value"),
    "finally": (asks_hidden_by_finally, lambda r: 1.0 if r.a > 2 else 0.0, "a truth value"),
    "None": (lambda r: r.a == None, lambda r: False, "a comparison with None"),  # noqa: E711
    "write": (lambda r: WEIGHTS.copy().dot(r.x), lambda r: WEIGHTS @ r.x, "a NumPy array"),
}  # fmt: skip


class Row(NamedTuple):
    """A record for the witness."""

    a: float
    x: Any
    k: int
    s: str


def rows() -> list[Row]:
    """The records of the table as plain Python values."""
    return [Row(*r) for r in zip(A.tolist(), X, [1, 2, 3, 4], ["p", "q", "p", "r"], strict=True)]


@pytest.mark.parametrize("case", ASKING)
def test_what_a_symbol_cannot_answer_makes_the_function_opaque(table: so.Table, case: str) -> None:
    f, plain, reason = ASKING[case]
    made = table.map(f)
    shown = made.explain()
    assert "opaque" in shown
    assert reason in shown
    assert f"test_tracing.py:{f.__code__.co_firstlineno}" in shown or f.__name__ != "<lambda>"
    assert listed(made) == pytest.approx([plain(r) for r in rows()])


def test_the_reason_and_the_line_are_logged_once(
    table: so.Table, caplog: pytest.LogCaptureFixture
) -> None:
    def clipped(r: Any) -> Any:
        bound = 2.0
        return r.a if r.a < bound else bound  # this line

    asked = clipped.__code__.co_firstlineno + 2
    with caplog.at_level(logging.WARNING, "scalops"):
        made = table.map(clipped)
        table.map(clipped).collect()
    assert f"asks for a truth value (test_tracing.py:{asked})" in made.explain()
    assert caplog.messages == [
        f"clipped() runs record by record: it asks for a truth value (test_tracing.py:{asked})"
    ]


def test_opaque_functions_may_be_refused(table: so.Table) -> None:
    with so.session(opaque="error"):
        with pytest.raises(so.TraceError, match="asks for a truth value, and opaque") as caught:
            table.filter(lambda r: r.a > 2 and r.k > 1)
        at = line() - 1
        assert caught.value.location is not None
        assert caught.value.location.line == at
        assert "so.udf" in str(caught.value)
        assert listed(table.map(so.udf(lambda r: r.k))) == [1, 2, 3, 4]
        assert listed(table.map(lambda r: r.k)) == [1, 2, 3, 4]


def test_randomness_a_clock_and_counters_make_a_row_function_opaque(table: so.Table) -> None:
    generator = np.random.default_rng(0)
    count, lock = iter(range(10**6)), threading.Lock()
    for f in (
        lambda r: r.a * 0 + random.random(),
        lambda r: r.a * 0 + generator.random(),
        lambda r: r.a * 0 + time.perf_counter(),
        lambda r: r.a * 0 + time.time_ns(),
    ):
        made = table.map(f)
        assert "random numbers, a clock, a counter" in " ".join(made.explain().split())
        assert len(set(listed(made))) > 1
    with pytest.raises(so.TraceError, match="cannot be captured: its variable 'lock'"):
        table.map(lambda r: r.a + next(count) + lock.locked())


def test_randomness_in_a_loop_body_is_refused() -> None:
    for body in (lambda v: v + random.random(), lambda v: v * 0 + time.perf_counter()):
        with pytest.raises(so.TraceError, match="random numbers, a clock, a counter"):
            so.loop(0.0, range(3))(body)


# A trace that runs through and is wrong.


def is_none(r: Any) -> Any:
    return 0.0 if r.a is None else r.a


def asks_a_helper(r: Any) -> Any:
    return filled(r.a)


def filled(v: Any, default: float = -1.0) -> Any:
    return default if v is None else v


def is_instance(r: Any) -> Any:
    return r.a * 2 if isinstance(r.a, float) else r.a


def looks_up(r: Any) -> Any:
    try:
        return r.a * {1: 10.0, 2: 20.0, 3: 30.0, 4: 40.0}[r.k]
    except TypeError:
        return r.a


def has_attribute(r: Any) -> Any:
    return r.a if hasattr(r.a, "expression") else -r.a


@pytest.mark.parametrize(
    ("f", "column", "plain", "seen"),
    [
        (is_none, nulls([1.0, None, 3.0, 4.0]), "0.0", "None"),
        (asks_a_helper, nulls([1.0, None, 3.0, 4.0]), "-1.0", "None"),
        (is_instance, A, "2.0", "1.0"),
        (looks_up, A, "10.0", "1.0"),
        (has_attribute, A, "-1.0", "1.0"),
    ],
)
def test_a_trace_that_differs_from_the_plain_call_is_an_error(
    f: Callable[[Any], Any], column: Any, plain: str, seen: str
) -> None:
    table = so.table({"a": column, "k": [1, 2, 3, 4]})
    with pytest.raises(so.TraceError) as caught:
        table.map(f).collect()
    message = str(caught.value)
    assert f"{f.__name__}() gives " in message
    assert f"{plain}) when called plainly" in message or f"{plain} when called plainly" in message
    assert f"{seen}) when traced" in message or f"{seen} when traced" in message
    assert f"(test_tracing.py:{f.__code__.co_firstlineno})" in message
    assert "random numbers, a clock, `is None`, isinstance" in message
    assert table.map(so.udf(f)).collect().num_rows == 4


def test_a_default_argument_that_is_none_is_no_reason_to_refuse() -> None:
    table = so.table({"a": nulls([1.0, None, 3.0])})

    def scaled(r: Any, by: Any = None) -> Any:
        return r.a * (2.0 if by is None else by)

    assert listed(table.map(scaled)) == [2.0, None, 6.0]


def begins_with_nothing(r: Any) -> Any:
    kept = None
    for v in (3.0, 7.0):
        one = r["a"] != v
        kept = one if kept is None else kept & one
    return kept


def fills_in_a_branch(r: Any) -> Any:
    kept = None
    for v in (3.0, 7.0):
        if kept is not None:
            kept &= r["a"] != v
        else:
            kept = r["a"] != v
    return kept


@pytest.mark.parametrize("f", [begins_with_nothing, fills_in_a_branch])
def test_variables_of_its_own_may_be_none_where_records_have_nulls(f: Any) -> None:
    table = so.table({"a": nulls([None, 1.0, 3.0])})
    assert listed(table.filter(f), "a") == [1.0]


def test_variables_that_hold_columns_are_asked() -> None:
    def asks(r: Any) -> Any:
        a = r.a
        return True if a is None else a != 3.0

    def asks_in_a_loop(r: Any) -> Any:
        kept = True
        for name in ("k", "a"):
            kept = r[name] if kept is True else kept
        return True if kept is None else kept != 3.0

    table = so.table({"a": nulls([None, 1.0, 3.0]), "k": nulls([None, 1.0, 3.0])})
    for f in (asks, asks_in_a_loop):
        with pytest.raises(so.TraceError, match="gives True when called plainly and None when"):
            table.filter(f).collect()


def test_a_plain_call_that_raises_is_an_error() -> None:
    def f(r: Any) -> Any:
        return r.a.expression and r.a

    with pytest.raises(so.TraceError):
        so.table({"a": A}).map(f).collect()


def test_traces_of_filters_and_reduces_are_compared_too(table: so.Table) -> None:
    for make in (
        lambda: table.filter(lambda r: isinstance(r.a, float)),
        lambda: table.map(lambda r: r.a).reduce(
            lambda p, q: p + q if isinstance(p, float) else p * q
        ),
        lambda: table.with_columns(z=lambda r: 1 if isinstance(r.k, so.Value) else 2),
    ):
        with pytest.raises(so.TraceError, match="when traced"):
            make().collect()


def test_a_literal_and_our_own_functions_are_the_same_called_plainly(table: so.Table) -> None:
    with so.session(implicit_collect=False):
        made = table.map(
            lambda r: {
                "s": np.where(r.s == so.lit("p"), so.lit("yes"), r.s),
                "l": so.lit("x"),
                "c": so.cast(r.a, "int32"),
                "w": so.where(r.a > 2, r.x, 0.0),
                "g": so.sigmoid(r.a),
            }
        )
        assert not is_opaque(made)
        assert listed(made, "s") == ["yes", "q", "yes", "r"]
        assert listed(made, "c") == [1, 2, 3, 4]

    def f(r: Any) -> Any:
        return so.cast(r.a, "int8") if r.a > 2 else so.where(r.a > 1, so.sigmoid(0.0), 0)

    assert listed(table.map(f)) == [0.0, 0.5, 3.0, 4.0]


# Opaque functions: what they get and what they give.


def test_an_opaque_function_gets_plain_values() -> None:
    table = so.table({
        "f": np.ones(1, "float32"), "k": np.ones(1, "int8"), "b": [True], "s": ["p"],
        "t": np.array(["2020-01-01"], "M8[ns]"), "d": np.array([1], "m8[s]"), "x": X[:1],
        "n": nulls([None], pa.float64()),
    })  # fmt: skip
    seen = table.map(so.udf(lambda r: {n: type(v).__name__ for n, v in vars_of(r)}))
    assert ordered(seen) == {
        "f": ["float"], "k": ["int"], "b": ["bool"], "s": ["str"], "t": ["datetime"],
        "d": ["timedelta"], "x": ["ndarray"], "n": ["NoneType"],
    }  # fmt: skip
    with pytest.raises(so.UserFunctionError, match="read-only") as caught:
        table.map(so.udf(lambda r: r.x.sort())).collect()
    assert isinstance(caught.value.__cause__, ValueError)


def vars_of(r: Any) -> Any:
    """A record's columns."""
    return {n: r[n] for n in ("f", "k", "b", "s", "t", "d", "x", "n")}.items()


def test_values_and_fields_come_to_an_opaque_function_as_plain_values(table: so.Table) -> None:
    total, mean = table.sum("k"), table.mean("x")
    made = table.map(
        so.udf(lambda r: f"{type(total).__name__} {type(mean).__name__} {mean.flags.writeable}")
    )
    assert listed(made) == ["int ndarray False"] * 4

    def body(env: Any) -> Any:
        kind = so.udf(lambda r: 1.0 if type(env["n"]) is int else 0.0)
        return {"n": env["n"] + 1, "same": table.map(kind).min()}

    assert so.loop({"n": 0, "same": 0.0}, range(2))(body).collect()["same"] == 1.0


def test_dividing_by_zero_raises_where_a_traced_function_gives_infinity(table: so.Table) -> None:
    assert np.isinf(records(table.map(lambda r: r.a / 0))).all()
    with pytest.raises(so.UserFunctionError) as caught:
        table.map(so.udf(lambda r: r.a / 0)).collect()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("f", "kind", "expected"),
    [
        (lambda r: r.k, "int64", [1, 2, 3, 4]),
        (lambda r: r.k / 2, "float64", [0.5, 1.0, 1.5, 2.0]),
        (lambda r: r.k if r.k < 2 else r.a, "float64", [1.0, 2.0, 3.0, 4.0]),
        (lambda r: None if r.k == 2 else r.k, "int64", [1, None, 3, 4]),
        (lambda r: None if r.k == 2 else r.s, "string", ["p", None, "p", "r"]),
        (lambda r: r.k > 2, "bool", [False, False, True, True]),
        (lambda r: np.float32(r.a), "float32", [1.0, 2.0, 3.0, 4.0]),
        (lambda r: np.where(r.k > 2, "big", "small"), "string", ["small", "small", "big", "big"]),
        (lambda r: np.array(r.k), "int64", [1, 2, 3, 4]),
        (lambda r: [r.k, r.a], "float64[2]", [[1, 1], [2, 2], [3, 3], [4, 4]]),
        (lambda r: r.x[:2], "float64[2]", X[:, :2].tolist()),
        (
            lambda r: datetime(2020, 1, r.k),
            "timestamp[us]", [datetime(2020, 1, d) for d in (1, 2, 3, 4)],
        ),
        (
            lambda r: None if r.k == 1 else np.datetime64("2020-01-02", "us"),
            "timestamp[us]", [None, *[datetime(2020, 1, 2)] * 3],
        ),
        (
            lambda r: timedelta(seconds=r.k),
            "duration[us]", [timedelta(seconds=s) for s in (1, 2, 3, 4)],
        ),
    ],
)  # fmt: skip
def test_the_type_of_an_opaque_result_is_found_from_samples(
    table: so.Table, f: Callable[[Any], Any], kind: str, expected: list[Any]
) -> None:
    made = table.map(so.udf(f))
    assert str(made.schema["value"]) == kind
    assert listed(made) == expected


@pytest.mark.parametrize(
    ("returns", "f", "expected"),
    [
        (so.float64, lambda r: r.k, [1.0, 2.0, 3.0, 4.0]),
        (so.float32, lambda r: r.a / 3, np.float32(A / 3).tolist()),
        (so.int32, lambda r: r.k, [1, 2, 3, 4]),
        (so.string, lambda r: r.s, ["p", "q", "p", "r"]),
        (so.bool_, lambda r: r.k > 2, [False, False, True, True]),
        (so.vector(2), lambda r: r.x[0] * np.ones(2), (X[:, :1] * np.ones(2)).tolist()),
        (so.timestamp, lambda r: datetime(2020, 1, 1), [datetime(2020, 1, 1)] * 4),
        (so.float64, lambda r: None, [None] * 4),
    ],
)  # fmt: skip
def test_declared_types(
    table: so.Table, returns: Any, f: Callable[[Any], Any], expected: list[Any]
) -> None:
    made = table.map(so.udf(f, returns=returns))
    assert made.schema["value"] == returns
    assert listed(made) == expected


def test_declared_columns(table: so.Table) -> None:
    decorate: Any = so.udf(returns=(so.float64, so.string))

    @decorate  # type: ignore[untyped-decorator]
    def pair(r: Any) -> Any:
        return r.a, r.s

    assert table.map(pair).columns == ["_0", "_1"]
    named = so.udf(lambda r: {"p": r.a, "q": None}, returns={"p": so.float64, "q": so.int64})
    assert ordered(table.map(named)) == {"p": A.tolist(), "q": [None] * 4}


def test_a_declared_type_needs_no_sample() -> None:
    calls: list[int] = []

    def f(r: Any) -> Any:
        calls.append(1)
        return 0.0

    empty = so.table({"a": np.empty(0)})
    assert records(empty.map(so.udf(f, returns=so.float64))).dtype == np.float64
    with pytest.raises(so.TraceError, match=r"no record was found .*returns="):
        empty.map(so.udf(lambda r: 0.0))


def test_a_result_of_another_type_is_an_error(table: so.Table) -> None:
    many = so.table({"k": np.arange(100)})
    for f, found in (
        (lambda r: "late" if r.k == 50 else 1.0, "the str 'late'"),
        (lambda r: 1.5 if r.k == 50 else 1, "the float 1.5"),
        (lambda r: np.zeros(3) if r.k == 50 else np.zeros(2), r"an array of float64\[3\]"),
        (lambda r: (1, 2) if r.k == 50 else 1, r"\('_0', '_1'\)"),
        (lambda r: {} if r.k == 50 else 1, "gives "),
        (lambda r: datetime(2020, 1, 1) if r.k == 50 else 1, "the datetime"),
    ):
        with pytest.raises(so.UserFunctionError, match=rf"{found}.*{{'k': 50}}"):
            many.map(so.udf(f)).collect()
    late_none = many.map(so.udf(lambda r: None if r.k == 50 else 1))
    assert listed(late_none)[49:52] == [1, None, 1]
    late_int = many.map(so.udf(lambda r: 2 if r.k == 50 else 0.5))
    assert listed(late_int)[49:52] == [0.5, 2.0, 0.5]
    with pytest.raises(so.UserFunctionError, match="the int 1099511627776; expected int32"):
        table.map(so.udf(lambda r: 2**40, returns=so.int32)).collect()


def test_a_udf_in_every_place(table: so.Table) -> None:
    assert listed(table.filter(so.udf(lambda r: r.s == "p")), "k") == [1, 3]
    assert listed(table.with_columns(z=so.udf(lambda r: r.k * 2)), "z") == [2, 4, 6, 8]
    assert table.sum(so.udf(lambda r: r.k)).collect() == 10
    assert table.count(so.udf(lambda r: None if r.k == 1 else 1)).collect() == 3
    bare = table.map(lambda r: r.a)
    assert bare.reduce(so.udf(lambda p, q: max(p, q))).collect() == 4.0
    chained = table.map(so.udf(lambda r: {"v": r.a})).map(so.udf(lambda r: r.v + 1))
    assert_same(records(chained), A + 1)


def test_an_opaque_reduce_reads_each_iterations_fields(table: so.Table) -> None:
    bare = table.map(lambda r: r.a)

    def body(env: Any) -> Any:
        def capped(p: Any, q: Any) -> Any:
            return min(max(p, q), env["cap"])

        return {"cap": bare.reduce(capped) + 1.5}

    cap = 0.0
    for _ in range(4):
        cap = min(max(A.tolist()), cap) + 1.5
    assert so.loop({"cap": 0.0}, range(4))(body).collect()["cap"] == cap


def test_an_opaque_filter_reads_each_iterations_fields(table: so.Table) -> None:
    def body(env: Any) -> Any:
        kept = table.filter(lambda r: r.a > env["low"] and r.k != 3)
        return {"low": env["low"] + 0.75, "n": env["n"] + kept.count()}

    low, n = 0.0, 0
    for _ in range(4):
        n += sum(r.a > low and r.k != 3 for r in rows())
        low += 0.75
    result = so.loop({"low": 0.0, "n": 0}, range(4))(body).collect()
    assert (result["low"], result["n"]) == (low, n)


def test_the_iteration_number_reaches_opaque_functions(table: so.Table) -> None:
    made = so.loop(0.0, range(5, 8))(lambda v, i: v + table.sum(so.udf(lambda r: r.a * i)))
    assert made.collect() == 10.0 * (5 + 6 + 7)


# What cannot be captured.


def test_a_variable_that_cannot_be_pickled_is_named(table: so.Table) -> None:
    lock = threading.Lock()

    def f(r: Any) -> Any:
        with lock:
            return r.a if r.a > 2 else 0.0

    with pytest.raises(so.TraceError, match=r"cannot be captured: its variable 'lock' \(lock\)"):
        table.map(f)

    def harmless(r: Any) -> Any:
        with lock:
            return r.a * 2

    assert_same(records(table.map(harmless)), A * 2)


def test_a_table_inside_a_row_function_is_refused(table: so.Table) -> None:
    other = so.table({"b": [1.0]})
    with pytest.raises(so.PlanError, match="reads the record of another row function"):
        table.map(lambda r: other.map(lambda q: q.b * r.a).sum())
    with pytest.raises(so.TraceError, match="it reads a Table"):
        table.map(lambda r: other.count() if r.a > 2 else 0)
    model = so.loop({"w": 1.0}, range(2))(lambda env: env)
    with pytest.raises(so.TraceError, match="it keeps a whole Loop; use its fields"):
        table.map(so.udf(lambda r: model.w + r.a))
    assert listed(table.map(lambda r: r.a + other.sum("b"))) == [2.0, 3.0, 4.0, 5.0]


def test_a_symbol_that_leaves_its_function_is_refused(table: so.Table) -> None:
    kept: list[Any] = []

    def leak(r: Any) -> Any:
        kept.append(r.a)
        return r.a

    table.map(leak)
    with pytest.raises(so.PlanError, match="a record's symbol is used outside its row function"):
        so.collect(kept[0])
    with pytest.raises(so.PlanError, match="a record's symbol is used outside its row function"):
        (kept[0] + 1).collect()
    with pytest.raises(so.TraceError, match="it keeps the symbol of another record"):
        table.map(so.udf(lambda r: r.k + kept[0]))


def test_a_record_cannot_be_changed(table: so.Table, mark: Mark) -> None:
    def f(r: Any) -> Any:
        r.a = 1.0
        return r

    with pytest.raises(so.SchemaError, match="a record cannot be changed"):
        table.map(mark(f))


# Samples stand for the whole only where they can.


def test_a_matrix_that_only_the_sample_makes_singular_is_no_error() -> None:
    x = np.repeat(np.eye(20), 3, axis=0)
    y = x @ np.arange(20.0)
    table = so.table({"x": x, "y": y})
    w = np.linalg.solve(table.sum(lambda r: np.outer(r.x, r.x)), table.sum(lambda r: r.x * r.y))
    for row in (lambda r: r.x @ w - r.y, so.udf(lambda r: float(r.x @ w - r.y))):
        np.testing.assert_allclose(records(table.map(row)), np.zeros(60), atol=1e-12)


def test_a_record_at_which_numpy_itself_fails_is_told_by_the_run() -> None:
    table = so.table({"x": np.ones((3, 4)), "k": [0, 1, 9]})
    with pytest.raises(so.ExecutionError, match="index 9 is out of bounds") as caught:
        table.map(lambda r: r.x[r.k]).collect()
    assert caught.value.location is not None
    assert caught.value.location.line == line() - 2


def test_a_function_behind_a_value_that_raises_is_the_users_error() -> None:
    def fails(r: Any) -> Any:
        if r.a > 2:
            raise ValueError("too large")
        return r.a

    table = so.table({"a": A})
    total = table.map(so.udf(fails, returns=so.float64)).sum()
    with pytest.raises(so.UserFunctionError, match=r"too large.*'a': 3.0") as caught:
        table.map(lambda r: r.a * total).collect()
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_null_after_the_sample_does_not_hide_is_none() -> None:
    values = [None if i == 29 else float(i) for i in range(30)]
    table = so.table({"a": values, "k": list(range(30))})
    with pytest.raises(so.TraceError, match="when called plainly and None when traced"):
        table.map(is_none).sum().collect()
    with pytest.raises(so.TraceError, match="when called plainly"):
        table.filter(lambda r: r.a is not None).count().collect()
    without = so.table({"a": np.arange(30.0)})
    assert without.map(is_none).sum().collect() == np.arange(30.0).sum()

"""`table.aggregate`: a plain loop over the records is the witness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from scalops.engine.witness.interpreter import Interpreter
from tests.language.witness import is_opaque

ROWS = 70_000
rng = np.random.default_rng(5)
V = rng.normal(size=ROWS)
K = rng.integers(0, 9, ROWS)
X = rng.normal(size=(ROWS, 3))
LARGE: dict[str, Any] = {"v": V, "k": K, "x": X}
SMALL = {n: c[:50] for n, c in LARGE.items()}


def rows(columns: dict[str, Any]) -> list[Any]:
    """The records, for plain Python."""
    names = list(columns)

    class Row(NamedTuple):
        v: Any
        k: Any
        x: Any

    return [Row(*values) for values in zip(*(columns[n] for n in names), strict=True)]


class Mean(NamedTuple):
    """A sum and a count."""

    total: Any
    n: Any


@dataclass
class Span:
    """The least and the greatest."""

    low: Any
    high: Any


class Moment(so.Aggregate):
    """Welford's recurrence: the next state reads all of the last one."""

    def initialize(self) -> Any:
        return {"n": 0, "mean": 0.0, "m2": 0.0}

    def transition(self, state: Any, record: Any) -> Any:
        n = state["n"] + 1
        apart = record.v - state["mean"]
        mean = state["mean"] + apart / n
        return {"n": n, "mean": mean, "m2": state["m2"] + apart * (record.v - mean)}

    def merge(self, a: Any, b: Any) -> Any:
        n = np.maximum(a["n"] + b["n"], 1)
        apart = b["mean"] - a["mean"]
        mean = a["mean"] + apart * b["n"] / n
        m2 = a["m2"] + b["m2"] + apart**2 * a["n"] * b["n"] / n
        return {"n": a["n"] + b["n"], "mean": mean, "m2": m2}

    def finalize(self, state: Any) -> Any:
        return state["m2"] / state["n"]


class Descent(so.Aggregate):
    """Incremental gradient descent; runs are averaged by their numbers of records."""

    def __init__(self, start: Any) -> None:
        self.start = start

    def initialize(self) -> Any:
        return self.start, 0.0

    def transition(self, state: Any, record: Any) -> Any:
        w, n = state
        return w - 0.05 * (record.x @ w - record.v) * record.x, n + 1

    def merge(self, a: Any, b: Any) -> Any:
        n = a[1] + b[1]
        share = np.where(n > 0, b[1] / np.maximum(n, 1.0), 0.0)
        return a[0] + (b[0] - a[0]) * share, n

    def finalize(self, state: Any) -> Any:
        return state[0]


STATES: dict[str, tuple[Any, Callable[..., Any], Callable[..., Any]]] = {
    "scalar": (0.0, lambda s, r: s + r.v, lambda a, b: a + b),
    "array": (np.zeros(3), lambda s, r: s + r.v * r.x, lambda a, b: b + a),
    "tuple": (
        (0, 1.0),
        lambda s, r: (s[0] - r.k, s[1] * (1 + r.v / 1e3)),
        lambda a, b: (a[0] + b[0], a[1] * b[1]),
    ),
    "named tuple": (
        Mean(0.0, 0),
        lambda s, r: Mean(s.total + r.v, s.n + 1),
        lambda a, b: Mean(a.total + b.total, a.n + b.n),
    ),
    "dataclass": (
        Span(np.inf, -np.inf),
        lambda s, r: Span(np.minimum(s.low, r.v), np.maximum(r.v, s.high)),
        lambda a, b: Span(np.minimum(a.low, b.low), np.maximum(a.high, b.high)),
    ),
    "dict of truths": (
        {"some": False, "every": True},
        lambda s, r: {"some": s["some"] | (r.v > 3), "every": (r.k < 9) & s["every"]},
        lambda a, b: {"some": a["some"] | b["some"], "every": a["every"] & b["every"]},
    ),
}


def parts(state: Any) -> list[Any]:
    """A state's fields."""
    if isinstance(state, Span):
        return [state.low, state.high]
    if isinstance(state, dict):
        return list(state.values())
    return list(state) if isinstance(state, tuple) else [state]


@pytest.mark.parametrize("name", STATES)
def test_sums_products_and_extremes_are_ordinary_folds(name: str) -> None:
    zero, add, merge = STATES[name]
    value = so.table(LARGE).aggregate(zero, add, merge)
    assert "in record order" not in value.explain()
    assert not is_opaque(value)
    expected = parts(reduce(add, rows(LARGE), zero))
    for found, wanted in zip(parts(value.collect()), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9)


@pytest.mark.parametrize("name", STATES)
def test_over_no_records_the_result_is_that_of_the_zero(name: str) -> None:
    zero, add, merge = STATES[name]
    nothing = so.table(SMALL).filter(lambda r: r.k > 100).aggregate(zero, add, merge)
    for found, wanted in zip(parts(nothing.collect()), parts(zero), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_the_greatest_of_a_zero_and_the_records_may_start_anywhere() -> None:
    table = so.table(SMALL)
    for zero in (-9.0, 0.5, 9.0):
        value = table.aggregate(zero, lambda s, r: np.maximum(s, r.v), np.maximum)
        assert value.collect() == max(zero, SMALL["v"].max())


def test_a_recurrence_runs_over_the_records_in_their_order() -> None:
    value = so.table(LARGE).aggregate(Moment())
    assert "in record order" in value.explain()
    assert value.collect() == pytest.approx(np.var(V), rel=1e-12)


def test_within_a_run_of_records_descent_is_a_plain_loop() -> None:
    w = np.zeros(3)
    for row in rows(SMALL):
        w = w - 0.05 * (row.x @ w - row.v) * row.x
    value = so.table(SMALL).aggregate(Descent(np.zeros(3)))
    np.testing.assert_allclose(value.collect(), w, rtol=1e-12)


def truth(s: Any) -> Any:
    """Asks for a truth value, so that what calls it runs as it is."""
    return s if bool(s > -1e9) else 0.0


class OpaqueDescent(Descent):
    """The same, record by record."""

    def transition(self, state: Any, record: Any) -> Any:
        truth(record.v)
        return super().transition(state, record)


class OpaqueMoment(Moment):
    """The same, record by record."""

    def transition(self, state: Any, record: Any) -> Any:
        truth(record.v)
        return super().transition(state, record)


@pytest.mark.parametrize(
    ("traced", "opaque"),
    [(Descent(np.zeros(3)), OpaqueDescent(np.zeros(3))), (Moment(), OpaqueMoment())],
)
def test_an_opaque_aggregate_gives_the_same(traced: Any, opaque: Any) -> None:
    table = so.table({n: c[:40_000] for n, c in LARGE.items()})
    one, other = table.aggregate(traced), table.aggregate(opaque)
    assert is_opaque(other)
    assert not is_opaque(one)
    np.testing.assert_allclose(other.collect(), one.collect(), rtol=1e-11)


def by_key(state: Any, record: Any) -> Any:
    total = state.setdefault(int(record.k), [0.0, 0])
    total[0] += record.v
    total[1] += 1
    return state


def merged_keys(a: Any, b: Any) -> Any:
    for key, (total, n) in b.items():
        own = a.setdefault(key, [0.0, 0])
        own[0] += total
        own[1] += n
    return a


BITS: dict[str, Callable[[so.Table], Any]] = {
    "ordinary": lambda t: t.aggregate(*STATES["array"]),
    "sequential": lambda t: t.aggregate(Descent(np.zeros(3))),
    "opaque": lambda t: t.limit(10_000).aggregate({}, by_key, merged_keys),
}


@pytest.mark.parametrize("name", BITS)
def test_same_bits_for_any_threads_processes_and_memory(name: str) -> None:
    table = so.table(LARGE)
    found = []
    settings: list[dict[str, Any]] = [
        {"threads": 1, "processes": 0},
        {"threads": 2, "processes": 0},
        {"threads": 2, "processes": 2, "memory": 1 << 20},
    ]
    for options in settings:
        with so.session(**options):
            result = BITS[name](table).collect()
        found.append(repr(result) if isinstance(result, dict) else result.tobytes())
    assert len(set(found)) == 1


@pytest.mark.parametrize("aggregate", [Moment(), Descent(np.ones(3)), OpaqueMoment()])
def test_the_interpreter_agrees(aggregate: Any) -> None:
    value = so.table(SMALL).aggregate(aggregate)
    np.testing.assert_allclose(Interpreter().value(value.expression), value.collect(), rtol=1e-12)


def test_keys_need_not_be_known_beforehand() -> None:
    value = so.table(SMALL).aggregate({}, by_key, merged_keys)
    assert value.type == so.table(SMALL).aggregate({}, by_key, merged_keys).type
    assert repr(value) == "Value(object)"
    found = value.collect()
    assert found == {
        k: [pytest.approx(SMALL["v"][SMALL["k"] == k].sum()), int((SMALL["k"] == k).sum())]
        for k in np.unique(SMALL["k"]).tolist()
    }
    found.clear()
    assert value.collect()  # the caller's is a copy


def test_a_python_object_is_read_by_opaque_functions_alone() -> None:
    table = so.table(SMALL)
    totals = table.aggregate({}, by_key, merged_keys)
    shares = table.map(lambda r: r.v / totals[int(r.k)][1])
    count = {k: int((SMALL["k"] == k).sum()) for k in range(9)}
    expected = [v / count[k] for v, k in zip(SMALL["v"], SMALL["k"].tolist(), strict=True)]
    np.testing.assert_allclose(shares.collect()["value"].to_pylist(), expected)
    keys = so.call(lambda d: len(d), totals, like=0)
    assert keys.collect() == len(set(SMALL["k"].tolist()))
    wrongs: list[Callable[[], Any]] = [
        lambda: totals + 1,
        lambda: np.exp(totals),
        lambda: table.sum(lambda r: r.v * totals),
    ]
    for wrong in wrongs:
        with pytest.raises(so.TraceError, match="no meaning for a Python object"):
            wrong()
    with pytest.raises(so.TraceError, match=r"collect\(\) it first"):
        totals["a"]
    with pytest.raises(so.SchemaError, match="is no column: \\['o'\\]"):
        table.with_columns(o=totals)


def test_a_python_object_may_be_the_environment_of_a_loop() -> None:
    totals = so.table(SMALL).aggregate({}, by_key, merged_keys)

    @so.loop((totals, 0.0), range(2))
    def loop(env: Any) -> Any:
        return env[0], env[1] + so.call(len, env[0], like=0)

    run = loop.run()
    assert run.env == (totals.collect(), 2.0 * len(set(SMALL["k"].tolist())))
    assert run.history.column_names == ["iteration", "_1", "seconds"]


class Best(so.Aggregate):
    """The name beside the greatest number: strings and times in a state."""

    def initialize(self) -> Any:
        return {"best": -np.inf, "name": "", "at": np.datetime64("1970-01-01", "us")}

    def chosen(self, better: Any, s: Any, t: Any) -> Any:
        return {n: so.where(better, t[n], s[n]) for n in ("best", "name", "at")}

    def transition(self, state: Any, record: Any) -> Any:
        other = {"best": record.v, "name": record.name, "at": record.at}
        return self.chosen(record.v > state["best"], state, other)

    def merge(self, a: Any, b: Any) -> Any:
        return self.chosen(b["best"] > a["best"], a, b)


def test_strings_and_times_may_be_in_a_state() -> None:
    times = np.datetime64("2020-01-01", "us") + np.arange(ROWS).astype("m8[s]")
    table = so.table({"v": V, "name": [f"n{i}" for i in range(ROWS)], "at": times})
    value = table.aggregate(Best())
    assert not is_opaque(value)
    at = int(np.argmax(V))
    assert value.collect() == {"best": V[at], "name": f"n{at}", "at": times[at]}


@pytest.mark.parametrize(
    ("zero", "add", "merge", "expected"),
    [
        ([0, 0], lambda s, r: [s[0] + 1, max(s[1], r.k)],
         lambda a, b: [a[0] + b[0], max(a[1], b[1])], [50, int(SMALL["k"].max())]),
        ("", lambda s, r: max(s, str(r.k)), max, str(SMALL["k"].max())),
        (0, lambda s, r: s + (1 if r.v > 0 else 0), lambda a, b: a + b,
         int((SMALL["v"] > 0).sum())),
        ((), lambda s, r: (*s, r.k) if r.v > 1 else s, lambda a, b: a + b,
         tuple(SMALL["k"][SMALL["v"] > 1].tolist())),
    ],
)  # fmt: skip
def test_states_of_an_opaque_aggregate(zero: Any, add: Any, merge: Any, expected: Any) -> None:
    value = so.table(SMALL).aggregate(zero, add, merge)
    assert is_opaque(value)
    assert value.collect() == expected


def test_an_opaque_result_of_fixed_names_is_a_structure() -> None:
    class Signs(so.Aggregate):
        def initialize(self) -> Any:
            return {}

        def transition(self, state: Any, record: Any) -> Any:
            key = "plus" if record.v > 0 else "minus"
            return {**state, key: state.get(key, 0) + 1}

        def merge(self, a: Any, b: Any) -> Any:
            return {k: a.get(k, 0) + b.get(k, 0) for k in ("plus", "minus")}

        def finalize(self, state: Any) -> Any:
            plus, minus = state.get("plus", 0), state.get("minus", 0)
            return {"plus": plus, "share": plus / max(1, plus + minus)}

    value = so.table(SMALL).aggregate(so.assume_associative(Signs()))
    plus = int((SMALL["v"] > 0).sum())
    assert value.collect() == {"plus": plus, "share": plus / 50}
    assert (value.share * 2).collect() == plus / 25


def test_finalize_may_look_at_the_state() -> None:
    class Careful(so.Aggregate):
        def initialize(self) -> Any:
            return Mean(0.0, 0)

        def transition(self, state: Any, record: Any) -> Any:
            return Mean(state.total + record.v, state.n + 1)

        def merge(self, a: Any, b: Any) -> Any:
            return Mean(a.total + b.total, a.n + b.n)

        def finalize(self, state: Any) -> Any:
            return state.total / state.n if state.n else -1.0

    table = so.table(SMALL)
    value = table.aggregate(Careful())
    assert not is_opaque(value)  # the records are folded as ever
    assert "total = sum(v)" in value.explain()
    assert value.collect() == pytest.approx(SMALL["v"].mean())
    assert table.filter(lambda r: r.k < 0).aggregate(Careful()).collect() == -1.0


def test_a_field_keeps_its_value_where_the_next_one_would_be_null() -> None:
    table = so.from_arrow(pa.table({"v": pa.array([1.0, None, 3.0]), "w": [2.0, 3.0, 4.0]}))
    for turn in (lambda s, g: s + g, lambda s, g: s + g * (s < 1e9)):

        def add(s: Any, r: Any, turn: Any = turn) -> Any:
            return {"n": s["n"] + 1, "v": turn(s["v"], r.v), "w": turn(s["w"], r.w)}

        def merge(a: Any, b: Any) -> Any:
            return {k: a[k] + b[k] for k in a}

        value = table.aggregate({"n": 0, "v": 0.0, "w": 0.0}, add, merge)
        assert value.collect() == {"n": 3, "v": 4.0, "w": 9.0}
    seen = table.aggregate(
        0.0,
        lambda s, r: s + np.where(so.is_null(r.v), 10.0 + s * 0, so.coalesce(r.v, 0.0)),
        lambda a, b: a + b,
    )
    assert seen.collect() == 14.0


def test_a_state_widens_to_what_it_turns_into() -> None:
    table = so.table({"k": np.array([1, 2, 3], "int8")})
    assert table.aggregate(0, lambda s, r: s + r.k, lambda a, b: a + b).dtype == np.int64
    halves = table.aggregate(0, lambda s, r: s / 2 + r.k, so.assume_associative(lambda a, b: a + b))
    assert halves.collect() == 4.25


def test_integers_wrap_around_as_numpys() -> None:
    table = so.table({"k": np.array([2**62, 2**62, 5], "int64")})
    value = table.aggregate(
        {"a": 0, "b": 0.0},
        lambda s, r: {"a": s["a"] * 1 + r.k, "b": (s["a"] + 1) / (s["a"] * 0)},
        so.assume_associative(lambda a, b: b),
    )
    with np.errstate(all="ignore"):
        assert value.collect() == {"a": -(2**63) + 5, "b": -np.inf}


def test_a_zero_may_read_values_and_the_environment() -> None:
    table = so.table(LARGE)
    mean = table.mean("v")
    bare = table.map(lambda r: r.v)
    value = bare.aggregate((mean * 0, mean), lambda s, v: (s[0] + (v - s[1]) ** 2, s[1] + 0 * v),
                           lambda a, b: (a[0] + b[0], a[1]))  # fmt: skip
    assert value[0].collect() == pytest.approx(np.var(V) * ROWS)

    @so.loop(np.zeros(3), range(3))
    def passes(w: Any) -> Any:
        return table.aggregate(Descent(w))

    with so.session(threads=1):
        once = passes.collect()
    w = np.zeros(3)
    for _ in range(3):
        w = table.aggregate(Descent(w)).collect()
    np.testing.assert_array_equal(once, w)


def test_aggregates_of_one_table_are_one_pass() -> None:
    table = so.table(LARGE)

    @so.loop({"a": 0.0, "b": 0.0, "n": 0}, range(2))
    def loop(env: Any) -> Any:
        a = table.aggregate(env["a"] * 0, lambda s, r: s * 0.5 + r.v, so.assume_associative(max))
        del a
        m = table.aggregate(Moment())
        d = table.aggregate(Descent(np.zeros(3)))
        return {"a": m + env["a"], "b": d.sum() + table.sum("v"), "n": table.n_unique("k")}

    assert loop.explain().count("Scan memory") == 1
    found = loop.collect()
    assert found["a"] == pytest.approx(2 * np.var(V))
    assert found["n"] == 9

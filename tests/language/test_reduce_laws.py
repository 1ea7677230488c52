"""`reduce` is checked for associativity on real and random values; each part is computed once."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.engine.kernels.folds import FoldSet
from scalops.optimizer.lowering import lower
from tests.language.witness import is_opaque

V = np.random.default_rng(2).normal(size=500)
TABLE = so.table({"v": V, "n": np.arange(1, 501), "s": [f"s{i % 40}" for i in range(500)]})
BARE = TABLE.map(lambda r: r.v)


def refused(value: Any) -> str:
    with pytest.raises(so.TraceError, match="needs an associative function") as error:
        value.collect()
    assert "test_reduce_laws.py" in str(error.value)
    return str(error.value)


NOT_ASSOCIATIVE: dict[str, Callable[[Any, Any], Any]] = {
    "difference": lambda a, b: a - b,
    "mean": lambda a, b: (a + b) / 2,
    "weighted": lambda a, b: np.where(a > b, a, b + 1e-3),
    "opaque difference": lambda a, b: a - b if b < 1e9 else a,
    "larger than a square": lambda a, b: a if a > b * b else b,
}


@pytest.mark.parametrize("name", NOT_ASSOCIATIVE)
def test_a_function_that_is_not_associative_is_an_error_with_its_records(name: str) -> None:
    text = refused(BARE.reduce(NOT_ASSOCIATIVE[name]))
    assert "f(f(a, b), c) = f(a, f(b, c))" in text
    assert "{'value': " in text
    assert "so.assume_associative(f) silences this" in text
    BARE.reduce(so.assume_associative(NOT_ASSOCIATIVE[name])).collect()


def test_a_difference_that_neighbours_do_not_show_is_found() -> None:
    # Sorted records: the last is the greatest of any three neighbours.
    ordered = TABLE.sort("v").map(lambda r: r.v)
    assert "needs" in refused(ordered.reduce(lambda a, b: np.where(a > b, a - b, b)))


def test_random_values_between_the_real_ones_find_more() -> None:
    # On multiples of 10 it is a maximum.
    tens = so.table({"k": np.arange(0.0, 40.0, 10.0)}).map(lambda r: r.k)
    refused(tens.reduce(lambda a, b: np.where(a % 10 == 0, np.maximum(a, b), a - b)))


def test_outside_the_range_of_the_real_values_nothing_is_asked() -> None:
    # Associative where no number is negative.
    positive = so.table({"v": abs(V)}).map(lambda r: r.v)
    found = positive.reduce(lambda a, b: np.minimum(a + b, 100.0)).collect()
    assert found == 100.0


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e200])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_rounding_is_no_difference(scale: float, dtype: str) -> None:
    if dtype == "float32" and scale != 1.0:
        return
    values = ((V - V.mean()) * scale).astype(dtype)
    bare = so.table({"v": values}).map(lambda r: r.v)
    total = bare.reduce(lambda a, b: (a + b) + 0 * a).collect()
    np.testing.assert_allclose(total, values.sum(), atol=1e-3 * scale)


def test_a_reduce_of_moments_is_associative_far_from_zero() -> None:
    far = so.table({"n": np.ones(300), "m": V[:300] + 1e8, "q": np.zeros(300)})

    def merge(a: Any, b: Any) -> Any:
        n, apart = a.n + b.n, b.m - a.m
        return {"n": n, "m": a.m + apart * b.n / n, "q": a.q + b.q + apart**2 * a.n * b.n / n}

    found = far.reduce(merge).collect()
    assert found["q"] / 300 == pytest.approx(np.var(V[:300]), rel=1e-6)


def test_what_is_well_known_is_not_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    from scalops import checks

    def called(*_: Any) -> None:
        raise AssertionError("sampled")

    monkeypatch.setattr(checks, "check_reduce", called)
    pairs = TABLE.map(lambda r: {"a": r.v, "b": r.n})
    for f in (
        operator.add,
        lambda p, q: {"a": p.a + q.a, "b": np.maximum(q.b, p.b)},
        lambda p, q: {"a": np.minimum(p.a, q.a), "b": p.b * 1 * q.b if False else p.b | q.b},
    ):
        pairs.reduce(f).collect()


def test_slow_functions_are_tested_on_fewer_records() -> None:
    calls: list[int] = []

    def slow(a: Any, b: Any) -> Any:
        calls.append(1)
        return a if a > b else b

    with so.session(processes=0):
        assert BARE.reduce(slow).collect() == V.max()


def test_strings_are_compared_too() -> None:
    words = TABLE.map(lambda r: {"s": r.s, "n": r.n})

    def longest(a: Any, b: Any) -> Any:
        return {"s": np.where(a.s < b.s, a.s, b.s), "n": a.n + b.n}

    assert words.reduce(longest).collect() == {"s": "s0", "n": 500 * 501 // 2}

    def changing(a: Any, b: Any) -> Any:
        return {"s": np.where(a.n > b.n, a.s, b.s), "n": a.n - b.n}

    refused(words.reduce(changing))


def test_a_structured_opaque_reduce_of_strings() -> None:
    words = TABLE.map(lambda r: {"s": r.s, "n": r.n})

    def joined(a: Any, b: Any) -> Any:
        return {"s": a.s if a.n > b.n else b.s, "n": max(a.n, b.n)}

    value = words.reduce(joined)
    assert is_opaque(value)
    assert value.collect() == {"s": "s19", "n": 500}
    assert value.s.collect() == "s19"


def test_the_parts_of_one_reduce_are_computed_once() -> None:
    fields = {f"f{i}": V + i for i in range(6)}

    def merge(a: Any, b: Any) -> Any:
        return {n: np.logaddexp(a[n], b[n]) for n in fields}

    value = so.table(fields).reduce(merge)
    from scalops.algebra.operators import Job

    plan = lower(Job((value[0].expression,)))
    (stage,) = plan.stages
    folds = stage.sink.folds  # type: ignore[attr-defined]
    assert len(folds) == 6
    assert len(FoldSet(folds).blank()) == 1
    found = value.collect()
    for name, values in fields.items():
        assert found[name] == pytest.approx(functools.reduce(np.logaddexp, values))

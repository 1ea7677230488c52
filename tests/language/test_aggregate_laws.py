"""The laws of aggregates, and what is wrong with the functions of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import scalops as so
from tests.language.test_aggregate_objects import SMALL, Descent, Moment, truth


def raised(build: Callable[[], Any], kind: type[Exception] = so.TraceError) -> str:
    with pytest.raises(kind) as error:
        build()
    assert "test_aggregate_laws.py" in str(error.value)
    return str(error.value)


class Averaged(Descent):
    """Plain averages of averages: not associative."""

    def merge(self, a: Any, b: Any) -> Any:
        return (a[0] + b[0]) / 2, a[1] + b[1]


class OpaqueAveraged(Averaged):
    """The same, record by record."""

    def transition(self, state: Any, record: Any) -> Any:
        truth(record.v)
        return super().transition(state, record)


@pytest.mark.parametrize("kind", [Averaged, OpaqueAveraged])
def test_a_merge_that_is_not_associative_is_an_error_with_its_states(kind: Any) -> None:
    table = so.table(SMALL)
    text = raised(lambda: table.aggregate(kind(np.zeros(3))).collect())
    assert "needs an associative merge" in text
    assert "for the states" in text
    table.aggregate(so.assume_associative(kind(np.zeros(3)))).collect()


@pytest.mark.parametrize("asks", [False, True])
def test_a_zero_with_an_effect_is_an_error(asks: bool) -> None:
    def add(s: Any, r: Any) -> Any:
        return (truth(s) if asks else s * 1.0) + r.v

    text = raised(lambda: so.table(SMALL).aggregate(10.0, add, lambda a, b: a + b).collect())
    assert "merging with the first state, zero, must change nothing" in text


def test_a_trace_that_is_not_the_plain_function_is_an_error() -> None:
    table = so.table(SMALL)
    kinds = {"float64": 1.0}

    def add(s: Any, r: Any) -> Any:
        return s + r.v * kinds.get(type(r.v).__name__, 2.0)

    text = raised(lambda: table.aggregate(0.0, add, lambda a, b: a + b).collect())
    assert "when called plainly" in text


def test_what_is_no_aggregate_is_named() -> None:
    t = so.table(SMALL)
    assert "write aggregate(Moment())" in raised(lambda: t.aggregate(Moment))
    assert "add(state, record) is a NoneType" in raised(lambda: t.aggregate(0.0))
    assert "merge(a, b) is a str" in raised(lambda: t.aggregate(0.0, lambda s, r: s, "sum"))
    assert "takes nothing else" in raised(lambda: t.aggregate(Moment(), lambda s, r: s))
    assert "two, the state and the record" in raised(
        lambda: t.aggregate(0.0, lambda s: s, lambda a, b: a)
    )
    assert "the field 'w' from float64[2] into float64[3]" in raised(
        lambda: t.aggregate(
            {"w": np.zeros(2)}, lambda s, r: {"w": r.x}, lambda a, b: {"w": a["w"] + b["w"]}
        )
    )
    text = raised(lambda: t.aggregate({"m": 0}, lambda s, r: {"n": 1}, lambda a, b: a))
    assert "transition of an aggregate gives a dict of ['n']; its state is dict of ['m']" in text
    with pytest.raises(so.UserFunctionError, match="returned None; return the state"):
        t.aggregate(0, lambda s, r: None, lambda a, b: a)

    class Part(so.Aggregate):
        def initialize(self) -> Any:
            return 0.0

    assert "the aggregate Part has no transition" in raised(lambda: t.aggregate(Part()))

    class Broken(Moment):
        def initialize(self) -> Any:
            raise ValueError("no start")

    assert "initialize() of an aggregate raises ValueError: no start" in raised(
        lambda: t.aggregate(Broken())
    )


def test_an_error_in_an_opaque_function_shows_record_and_line() -> None:
    def add(s: Any, r: Any) -> Any:
        if r.k > 100:
            raise ValueError("too large")
        return s + 1

    many = so.table({"k": np.append(np.zeros(40, int), 101)})
    text = raised(
        lambda: many.aggregate(0, add, lambda a, b: a + b).collect(), so.UserFunctionError
    )
    assert "too large" in text
    assert "101" in text


def test_a_state_may_not_be_anything() -> None:
    t = so.table(SMALL)
    text = raised(
        lambda: t.aggregate(set(), lambda s, r: s | {int(r.k)}, lambda a, b: a | b),
        so.UserFunctionError,
    )
    assert "a set" in text

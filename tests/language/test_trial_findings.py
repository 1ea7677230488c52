"""What a trial by users found: each error names what to write instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import scalops as so


def words() -> so.Table:
    return so.table({"s": ["Bern", "Basel", None, "Chur"], "n": [1, 2, 3, 4]})


# New columns.


@pytest.mark.parametrize(
    ("z", "found"),
    [
        (np.arange(4), r"an array of shape \(4,\)"),
        ([1, 2, 3, 4], "a list of 4 items"),
        ((1, 2), "a tuple of 2 items"),
        (np.array(["a", "b"]), r"an array of shape \(2,\)"),
    ],
)
@pytest.mark.parametrize("method", ["with_columns", "select"])
def test_plain_items_are_no_new_column(method: str, z: Any, found: str) -> None:
    with pytest.raises(so.SchemaError, match=found) as caught:
        getattr(words(), method)(z=z)
    assert "not one value per record" in str(caught.value)
    assert "so.lit(array)" in str(caught.value)
    assert "test_trial_findings.py" in str(caught.value)


def test_lit_gives_every_record_the_same_vector() -> None:
    made = words().select(z=so.lit(np.arange(2)), k=np.float64(3), zero_d=np.array(2))
    assert made.collect().to_pylist() == [{"z": [0, 1], "k": 3.0, "zero_d": 2}] * 4


# Aggregates that are marked to run as they are.


def add(state: dict[str, int], r: Any) -> dict[str, int]:
    state[r.s or "none"] = state.get(r.s or "none", 0) + r.n
    return state


def merge(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    return {k: a.get(k, 0) + b.get(k, 0) for k in {**a, **b}}


COUNTED = {"Bern": 1, "Basel": 2, "none": 3, "Chur": 4}


@pytest.mark.parametrize("merging", [merge, so.udf(merge), so.assume_associative(so.udf(merge))])
def test_a_marked_aggregate_runs_as_it_is_without_a_warning(
    merging: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with so.session(opaque="error"):
        assert words().aggregate({}, so.udf(add), merging).collect() == COUNTED
    assert not caplog.records


def test_marked_methods_of_an_aggregate_are_bound(caplog: pytest.LogCaptureFixture) -> None:
    class Longest(so.Aggregate):
        least = 2

        def initialize(self) -> Any:
            return {"n": 0}

        @so.udf
        def transition(self, state: Any, r: Any) -> Any:
            return {"n": state["n"] + 1 if r.n > self.least else state["n"]}

        def merge(self, a: Any, b: Any) -> Any:
            return {"n": a["n"] + b["n"]}

        @so.udf
        def finalize(self, state: Any) -> Any:
            return int(state["n"]) * 10

    with so.session(opaque="error"):
        assert words().aggregate(Longest()).collect() == 20
    assert not caplog.records


def test_a_marked_finalize_alone_leaves_the_rest_traced() -> None:
    class Sum(so.Aggregate):
        def initialize(self) -> Any:
            return 0

        def transition(self, state: Any, r: Any) -> Any:
            return state + r.n

        def merge(self, a: Any, b: Any) -> Any:
            return a + b

        @so.udf
        def finalize(self, state: Any) -> Any:
            return float(str(state)) / 4

    with so.session(opaque="error"):
        assert words().aggregate(Sum()).collect() == 2.5


def test_errors_of_a_marked_aggregate_name_its_function() -> None:
    def broken(state: Any, r: Any) -> Any:
        raise ValueError("no")

    with pytest.raises(so.UserFunctionError, match=r"broken\(\) raised ValueError"):
        words().aggregate({}, so.udf(broken), merge)
    with pytest.raises(so.TraceError, match=r"add\(\) is marked by so.udf with returns="):
        words().aggregate({}, so.udf(add, returns=so.int64), merge)


def test_a_set_as_a_state_names_the_users_function() -> None:
    with pytest.raises(so.UserFunctionError, match=r"zero for add\(\) gives .* a set") as caught:
        words().aggregate(set(), so.udf(add), merge)
    assert "_Zero" not in str(caught.value)
    assert "Udf" not in str(caught.value)


@pytest.mark.parametrize("zero", [0, {}, {"n": 0}])
@pytest.mark.parametrize("mark", [lambda f: f, so.udf])
def test_a_state_function_without_return_is_told_to_return_it(zero: Any, mark: Any) -> None:
    def count(state: Any, r: Any) -> None:
        state and r.n

    def plain(state: Any, r: Any) -> None:
        r.n + 1

    function = count if zero == {} else plain
    name = function.__name__
    with pytest.raises(so.UserFunctionError, match=rf"{name}\(\) returned None; return the state"):
        words().aggregate(zero, mark(function), merge)

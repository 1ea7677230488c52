"""What a trial by users found: each error names what to write instead."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
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


# Types, however they are written.


@pytest.mark.parametrize(
    "written",
    ["int64", int, np.int64, np.dtype("int64"), so.int64, "i8", pa.int64()],
)
def test_declared_types_may_be_names_and_numpys(written: Any) -> None:
    made = words().map(so.udf(lambda r: r.n + 1, returns=written))
    assert made.collect()["value"].to_pylist() == [2, 3, 4, 5]
    batches = words().map_batches(lambda t: t.select(["n"]), {"n": written})
    assert batches.collect() == words().select("n").collect()
    assert so.list_(written) == so.list_(so.int64)
    assert str(so.empty({"n": written}).schema["n"]) == "int64"


def test_declared_types_may_be_lists_vectors_tuples_and_dicts() -> None:
    def parts(r: Any) -> Any:
        return {"p": [r.s or ""], "v": np.full(3, float(r.n)), "s": r.s, "b": r.n > 2}

    returns = {"p": "list[string]", "v": "float64[3]", "s": str, "b": bool}
    made = words().map(so.udf(parts, returns=returns)).collect().to_pylist()
    assert made[0] == {"p": ["Bern"], "v": [1.0, 1.0, 1.0], "s": "Bern", "b": False}
    pair = words().map(so.udf(lambda r: (r.n, r.n / 2), returns=(int, "float64")))
    assert [str(kind) for _, kind in pair.schema] == ["int64", "float64"]


def test_errors_print_types_readably() -> None:
    wrong: list[Any] = [
        lambda: words().map(so.udf(lambda r: r.n, returns=([so.int64], so.int64))),
        lambda: words().map(so.udf(lambda r: r.n, returns=dict)),
        lambda: words().map(so.udf(lambda r: r.n, returns="integer")),
        lambda: words().map_batches(lambda t: t, {"n": [so.int64]}),
        lambda: words().map_batches(lambda t: t, [so.int64]),
        lambda: so.empty({"n": (so.int64, so.vector(2))}),
        lambda: so.list_([so.int64]),
    ]
    for f in wrong:
        with pytest.raises((so.SchemaError, so.TraceError)) as caught:
            f()
        assert "ArrayType" not in str(caught.value)
        assert "test_trial_findings.py" in str(caught.value)


# Membership of strings.


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "items", [["Bern", "Basel"], ("Bern", "Basel"), np.array(["Bern", "Basel"])]
)
def test_isin_of_strings_is_traced_and_keeps_null(items: Any, threads: int) -> None:
    with so.session(opaque="error", threads=threads):
        made = words().select(
            i=lambda r: np.isin(r.s, items), o=lambda r: np.isin(r.s, items, invert=True)
        )
        found = made.collect()
        kept = words().filter(lambda r: np.isin(r.s, items)).collect()
        none = words().select(i=lambda r: np.isin(r.s, [])).collect()
    assert found["i"].to_pylist() == [True, True, None, False]
    assert found["o"].to_pylist() == [False, False, None, True]
    assert kept["s"].to_pylist() == ["Bern", "Basel"]
    assert none["i"].to_pylist() == [False, False, None, False]


def test_isin_of_a_string_value_is_pythons_in() -> None:
    word: Any = so.lit("Bern")
    inside: Any = np.isin(word, ["Bern"])
    outside: Any = np.isin(word, ["Ber", "Bern\0"])
    assert inside.collect()
    assert not outside.collect()


def test_isin_of_strings_among_other_things_is_refused() -> None:
    items: Any = ["Bern", None]
    with pytest.raises(so.TraceError, match="needs a list of Python strings"):
        words().filter(lambda r: np.isin(r.s, items))


# Tables, strings and lists where there is no such thing.


def test_call_of_a_table_says_to_fold_it_first() -> None:
    with pytest.raises(so.PlanError, match=r"so\.call takes Values; fold the table first"):
        so.call(len, words(), like=0.0)


@pytest.mark.parametrize("key", [0, slice(0, 3)])
def test_an_index_of_a_string_names_the_way_out(key: Any) -> None:
    with pytest.raises(so.TraceError, match="a string cannot be indexed") as caught:
        words().map(lambda r: r.s[key])
    assert "so.udf" in str(caught.value)
    assert "lower, upper, strip" in str(caught.value)


@pytest.mark.parametrize(
    ("f", "says"),
    [
        (lambda r: r.s.str.len(), r"did you mean length\(\)\?"),
        (lambda r: r.s.str.slice(0, 3), "it has lower, upper"),
        (lambda r: r.x.list.len(), r"did you mean length\(\)\?"),
        (lambda r: r.x.list.get(0), r"index the list itself: r.items\[0\]"),
    ],
)
def test_an_unknown_method_of_strings_and_lists_is_named(f: Any, says: str) -> None:
    table = so.table({"s": ["Bern"], "x": [["a", "b"]]})
    with pytest.raises(so.TraceError, match="has no method") as caught:
        table.map(f)
    assert re.search(says, str(caught.value))
    assert "test_trial_findings.py" in str(caught.value)


def test_a_method_of_pythons_strings_still_runs_as_it_is() -> None:
    made = words().filter(lambda r: r.s.str.startswith("Be") if r.s is not None else False)
    assert made.limit(1).collect()["s"].to_pylist() == ["Bern"]

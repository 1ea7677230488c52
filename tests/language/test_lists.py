"""Lists in row functions: Python's own lists are the witness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.engine.witness.interpreter import Interpreter
from tests.language.witness import is_opaque, listed
from tests.quick import repeated

few = settings(max_examples=14)
LISTS: dict[str, tuple[list[Any], pa.DataType]] = {
    "strings": ([["a", "B"], [], None, ["x", None], ["ß"]], pa.string()),
    "ints": ([[1, 2, 3], None, [4], [], [None, 6]], pa.int32()),
    "floats": ([[1.5, float("nan")], [], None, [2.5, None], [0.0]], pa.float64()),
    "bools": ([[True, False], [], None, [None, True], [False]], pa.bool_()),
    "vectors": ([[[1.0, 2.0], [3.0, 4.0]], [], None, [[5.0, 6.0]], []], pa.list_(pa.float64(), 2)),
    "lists": ([[[1], [2, 3]], [], None, [None, []], [[4]]], pa.list_(pa.int64())),
}
any_list = pytest.mark.parametrize("name", LISTS)
INDICES = [0, 1, -1, 2, -3, 10**12]


def table_of(lists: list[Any], item: pa.DataType, **more: Any) -> so.Table:
    return so.from_arrow(pa.table({"l": pa.array(lists, pa.list_(item)), **more}))


def outside(items: list[Any] | None, index: int | None) -> Any:
    """The witness: a list's item, None outside."""
    if items is None or index is None or not -len(items) <= index < len(items):
        return None
    return items[index]


def same(found: list[Any], expected: list[Any]) -> bool:
    """Equal, NaN to NaN."""
    return repr(found) == repr(expected)


@any_list
def test_items_and_lengths(name: str) -> None:
    lists, item = LISTS[name]
    table = table_of(lists, item)
    for index in INDICES:
        made = table.map(lambda r, i=index: r.l[i])
        assert not is_opaque(made)
        assert same(listed(made), [outside(x, index) for x in lists])
        interpreted = [r["value"] for r in Interpreter().records(made.plan)]
        plain = [v.tolist() if isinstance(v, (np.generic, np.ndarray)) else v for v in interpreted]
        assert same(plain, [outside(x, index) for x in lists])
    lengths = [None if x is None else len(x) for x in lists]
    assert listed(table.map(lambda r: r.l.list.length())) == lengths


@any_list
@pytest.mark.parametrize("kind", ["int8", "int64", "uint64"])
def test_an_index_may_be_a_column(name: str, kind: str) -> None:
    lists, item = LISTS[name]
    indices = [1, 0, 0, None, 127] if kind != "int64" else [-1, 0, 0, None, -5]
    table = table_of(lists, item, i=pa.array(indices, pa.type_for_alias(kind)))
    expected = [outside(x, i) for x, i in zip(lists, indices, strict=True)]
    assert same(listed(table.map(lambda r: r.l[r.i])), expected)
    last = table.count() - len(lists)  # a Value: 0
    assert same(listed(table.map(lambda r: r.l[last])), [outside(x, 0) for x in lists])


@repeated(3)
@few
@given(
    st.lists(st.none() | st.lists(st.none() | st.integers(-9, 9), max_size=4), max_size=8),
    st.integers(-5, 5),
    st.integers(0, 3),
)
def test_items_of_any_lists(run: int, lists: list[Any], index: int, start: int) -> None:
    table = table_of(lists, pa.int64()).slice(start, 4)
    made = table.map(lambda r: {"v": r.l[index], "n": r.l.list.length(), "t": r.l[index] * 2 + 1})
    part = lists[start : start + 4]
    items = [outside(x, index) for x in part]
    assert made.collect().to_pydict() == {
        "v": items,
        "n": [None if x is None else len(x) for x in part],
        "t": [None if v is None else 2 * v + 1 for v in items],
    }


def test_items_of_lists_of_times() -> None:
    days = [[np.datetime64("2020-01-01", "us")], []]
    table = table_of(days, pa.timestamp("us"))
    assert listed(table.map(lambda r: r.l[0])) == [days[0][0].item(), None]


def test_nulls_of_items_meet_the_functions_that_see_nulls() -> None:
    table = table_of(*LISTS["ints"])
    made = table.map(
        lambda r: {
            "null": so.is_null(r.l[0]),
            "filled": so.coalesce(r.l[0], -1),
            "kleene": (r.l[0] > 0) | so.is_null(r.l[0]),
            "chosen": np.where(r.l[0] > 0, r.l[0], 0),
        }
    )
    assert made.collect().to_pydict() == {
        "null": [False, True, False, True, True],
        "filled": [1, -1, 4, -1, -1],
        "kleene": [True, True, True, True, True],
        "chosen": [1, 0, 4, 0, 0],
    }
    assert listed(table.filter(lambda r: r.l[0] > 0).map(lambda r: r.l[0])) == [1, 4]
    assert table.count(lambda r: r.l[0]).collect() == 2
    assert table.sum(lambda r: r.l[-1]).collect() == 13


def test_lists_are_passed_on_and_chosen() -> None:
    lists, item = LISTS["strings"]
    table = table_of(lists, item, k=pa.array(range(5)))
    default = so.table({"s": ["a b"]}).max("s").str.split()
    made = table.select(
        "l",
        w=lambda r: so.where(r.k < 2, r.l, r.l[0].str.split("x")),
        c=lambda r: so.coalesce(r.l, default),
    )
    split = [None if outside(x, 0) is None else x[0].split("x") for x in lists]
    assert made.collect().to_pydict() == {
        "l": lists,
        "w": lists[:2] + split[2:],
        "c": [["a", "b"] if x is None else x for x in lists],
    }
    kept = table.filter(lambda r: r.l.list.length() > 1)
    assert listed(kept, "l") == [["a", "B"], ["x", None]]


def test_a_line_becomes_fields_and_a_field_words() -> None:
    lines = ["ham\tGo on  now", "spam\tWIN", "broken", None]
    table = so.from_arrow(pa.table({"line": pa.array(lines)}))
    fields = table.map(lambda r: {"parts": r.line.str.split("\t")})
    made = fields.select(
        y=lambda r: np.where(r.parts[0] == "spam", 1.0, -1.0),
        words=lambda r: r.parts[1].str.lower().str.split(),
    )
    assert not is_opaque(made)
    assert made.collect().to_pydict() == {
        "y": [-1.0, 1.0, -1.0, -1.0],
        "words": [["go", "on", "now"], ["win"], None, None],
    }


@pytest.mark.parametrize("threads", [1, 2])
def test_lists_are_the_same_for_any_threads_and_little_memory(threads: int) -> None:
    lists = [[j * i for j in range(i % 4)] for i in range(20_000)]
    with so.session(threads=threads, memory="16MB"):
        made = table_of(lists, pa.int64()).map(lambda r: r.l[-1])
        assert listed(made) == [outside(x, -1) for x in lists]
        assert made.sum().collect() == sum(outside(x, -1) or 0 for x in lists)


def test_an_opaque_function_gets_lists_with_the_same_methods() -> None:
    def first_long(r: Any) -> Any:
        if r.l is None or r.l.list.length() == 0:
            return "none"
        return r.l[0].str.upper()

    table = table_of([["a"], [], None, ["b", "c"]], pa.string())
    made = table.map(first_long)
    assert is_opaque(made)
    assert listed(made) == ["A", "none", "none", "B"]


REFUSED: dict[str, Callable[[Any], Any]] = {
    "a sum": lambda r: r.l + 1,
    "a comparison": lambda r: r.l == r.l,
    "a function": lambda r: np.sqrt(r.l),
    "a fold": lambda r: r.l.sum(),
    "a slice": lambda r: r.l[1:],
    "a fraction as index": lambda r: r.l[r.f],
    "two indices": lambda r: r.l[0, 1],
    "a stack": lambda r: np.stack([r.l, r.l]),
    "a cast": lambda r: so.cast(r.l, "string"),
    "a hash": lambda r: so.hash(r.l, 3),
    "a choice between a list and a number": lambda r: so.where(r.f > 0, r.l, 1),
    "a number in its place": lambda r: so.coalesce(r.l, 0),
    "methods of strings": lambda r: r.l.str.lower(),
    "methods of lists for a number": lambda r: r.f.list.length(),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_meaning_for_lists_is_refused(what: str) -> None:
    table = table_of([[1]], pa.int64(), f=pa.array([1.0]))
    with pytest.raises(so.TraceError) as caught:
        table.map(REFUSED[what])
    assert caught.value.location is not None
    assert caught.value.location.file == __file__
    assert "list" in str(caught.value)

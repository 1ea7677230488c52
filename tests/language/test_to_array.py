"""`to_array`: a small keyed table as an array; NumPy is the witness."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import scalops as so

KEYED = so.table({"i": [3, 0, 4], "v": [1.5, 2.5, 3.5], "x": np.arange(6.0).reshape(3, 2)})


def filled(values: Any, fill: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    made = np.empty(shape, dtype)
    made[...] = fill
    made[[3, 0, 4]] = values
    return made


@pytest.mark.parametrize("fill", [0.0, -1.0, 7, np.arange(6.0), float("nan")], ids=str)
def test_values_stand_at_their_index_and_fill_elsewhere(fill: Any) -> None:
    made = KEYED.to_array("v", index="i", size=6, fill=fill)
    assert made.shape == (6,)
    np.testing.assert_array_equal(made.collect(), filled([1.5, 2.5, 3.5], fill, (6,), float))


@pytest.mark.parametrize(
    "fill", [0.0, np.array([1.0, 2.0]), np.arange(12.0).reshape(6, 2)], ids=str
)
def test_items_may_be_arrays(fill: Any) -> None:
    made = KEYED.to_array("x", index="i", size=6, fill=fill)
    expected = filled(np.arange(6.0).reshape(3, 2), fill, (6, 2), float)
    np.testing.assert_array_equal(made.collect(), expected)


def test_columns_may_be_functions_and_fill_a_value() -> None:
    made = KEYED.to_array(lambda r: r.v * 2, lambda r: r.i - 0, 5, KEYED.sum("v"))
    np.testing.assert_array_equal(made.collect(), [5.0, 7.5, 7.5, 3.0, 7.0])


def test_the_type_is_that_of_np_where() -> None:
    table = so.table({"i": [0], "n": np.array([5], np.int32)})
    assert table.to_array("n", "i", 2, fill=0).dtype == np.int32
    assert table.to_array("n", "i", 2).dtype == np.where(True, np.int32(5), 0.0).dtype
    assert table.to_array("n", "i", 2, fill=np.int64(1)).collect().tolist() == [5, 1]


def test_no_records_and_no_size() -> None:
    empty = so.empty({"i": so.int64, "v": so.float64})
    np.testing.assert_array_equal(empty.to_array("v", "i", 3, fill=2.0).collect(), [2.0, 2, 2])
    assert empty.to_array("v", "i", 0).collect().shape == (0,)


@pytest.mark.parametrize("threads", [1, 2])
def test_many_records(threads: int) -> None:
    order = np.random.default_rng(1).permutation(100_000)
    table = so.table({"i": order, "v": np.arange(100_000.0)})
    with so.session(threads=threads):
        made = table.to_array("v", "i", 100_001).collect()
    assert made[-1] == 0.0
    np.testing.assert_array_equal(made[order], np.arange(100_000.0))


BAD: list[tuple[Any, str]] = [
    ([0, None, 1], "null"),
    ([0, 3, 1], "3"),
    ([0, -1, 1], "-1"),
    ([0, 1, 1], "twice"),
]


@pytest.mark.parametrize(("index", "word"), BAD, ids=[w for _, w in BAD])
def test_a_bad_index_is_a_data_error_with_the_users_line(index: Any, word: str) -> None:
    table = so.table([{"i": i, "v": 1.0} for i in index])
    with pytest.raises(so.DataError, match=word) as caught:
        table.to_array("v", index="i", size=3).collect()
    assert "test_to_array.py" in str(caught.value)
    assert so.table({"x": [1]}).sum("x").collect() == 1


@pytest.mark.parametrize("bad", ["outside", "twice"])
def test_so_it_is_in_a_later_iteration(bad: str) -> None:
    table = so.table({"i": [0, 1], "v": [1.0, 2.0]})

    @so.loop(0, range(5))
    def steps(n: Any) -> Any:
        moved = table.with_columns(
            i=(lambda r: r.i + n) if bad == "outside" else (lambda r: r.i * (3 - n))
        )
        return n + so.cast(moved.to_array("v", "i", 4).sum() * 0 + 1, "int64")

    with pytest.raises(so.DataError):
        steps.collect()


def test_a_size_that_is_no_int_and_a_fill_that_does_not_fit_are_trace_errors() -> None:
    for size in (-1, 2.5, True, "3", KEYED.count()):
        with pytest.raises(so.TraceError, match="size"):
            KEYED.to_array("v", "i", size)  # type: ignore[arg-type]
    for fill in (np.zeros(3), np.zeros((2, 6)), "a", [1.0, 2.0], {"a": 1}):
        with pytest.raises(so.TraceError, match="fill"):
            KEYED.to_array("v", "i", 6, fill=fill)
    with pytest.raises(so.TraceError, match="integer"):
        KEYED.to_array("v", "v", 6)
    with pytest.raises(so.TraceError, match="columns"):
        KEYED.to_array(lambda r: {"a": r.v, "b": r.v}, "i", 6)
    with pytest.raises(so.SchemaError, match="reads 'w'"):
        KEYED.to_array("w", "i", 6)

"""Lists seen as byte strings are the same lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from scalops.engine.columns import filtered, taken
from scalops.engine.packed_lists import PackedLists

_TYPES = [pa.int8(), pa.uint16(), pa.int32(), pa.float64(), pa.timestamp("us"), pa.duration("s")]


def lists(item: pa.DataType, nulls: bool, wide: bool = False) -> pa.Array:
    """50 lists of 0 to 4 items, some null."""
    made: list[Any] = [[i + j for j in range(i % 5)] for i in range(50)]
    if nulls:
        made = [None if i % 7 == 3 else m for i, m in enumerate(made)]
    kind = pa.large_list(item) if wide else pa.list_(item)
    values = [m if m is None else pa.array(m, pa.int64()).cast(item) for m in made]
    return pa.array([v if v is None else v.to_pylist() for v in values], kind)


@pytest.mark.parametrize("item", _TYPES, ids=str)
@pytest.mark.parametrize("nulls", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_takes_and_filters_as_arrow_does(item: pa.DataType, nulls: bool, wide: bool) -> None:
    whole = lists(item, nulls, wide)
    rows = np.array([0, 3, 3, 17, 4, 10, 0, 19])
    for column in (whole, whole.slice(5, 20), whole.slice(3, 30).slice(2, 25)):
        packed = PackedLists.of(column)
        assert packed is not None
        for chosen in (pa.array(rows), pa.array(rows, mask=rows == 3), pa.array([], pa.int64())):
            found = packed.take(chosen)
            found.validate(full=True)
            assert found.equals(column.take(chosen))
            again = PackedLists.of(found.slice(1))
            if len(found) > 1:
                assert again is not None
                assert again.take(pa.array([2, 0])).equals(found.take(pa.array([3, 1])))
        mask = np.arange(len(column)) % 3 == 0
        for keep in (mask, ~mask, mask & False):
            found = filtered(column, keep)
            found.validate(full=True)
            assert found.equals(column.filter(pa.array(keep)))


def test_empty_lists_alone() -> None:
    for column in (pa.array([[], []], pa.list_(pa.int32())), pa.nulls(3, pa.list_(pa.int32()))):
        assert taken(column, np.array([1, 0])).equals(column.take(pa.array([1, 0])))


def test_null_extents_that_are_not_empty() -> None:
    """A null's offsets may span items."""
    values = pa.array([1, 2, 3, 4], pa.int32())
    column = pa.ListArray.from_arrays(
        pa.array([0, 2, 4], pa.int32()), values, mask=pa.array([True, False])
    )
    assert taken(column, np.array([1, 0])).to_pylist() == [[3, 4], None]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1, None], [2]], pa.list_(pa.int32())),
        pa.array([[True], [False, True]]),
        pa.array([["a"], ["b", "c"]]),
        pa.array([[[1.0], []], [[2.0]]]),
        pa.array([[[1.0, 2.0]], []], pa.list_(pa.list_(pa.float64(), 2))),
        pa.array([], pa.list_(pa.int32())),
    ],
    ids=lambda c: str(c.type),
)
def test_other_lists_are_left_to_arrow(column: pa.Array) -> None:
    assert PackedLists.of(column) is None
    rows = np.arange(len(column))[::-1].copy()
    assert taken(column, rows).equals(column.take(pa.array(rows)))
    assert filtered(column, rows == 0).equals(column.filter(pa.array(rows == 0)))


def test_a_null_item_elsewhere_does_not_matter() -> None:
    column = pa.array([[None], [1, 2], [3]], pa.list_(pa.int64())).slice(1)
    assert PackedLists.of(column) is not None
    assert taken(column, np.array([1, 0])).to_pylist() == [[3], [1, 2]]

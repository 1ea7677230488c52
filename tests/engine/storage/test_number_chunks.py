"""Arrow numbers in chunks, cut as arrays: what is seen is what Arrow holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from scalops.engine.storage import MemorySource
from scalops.engine.storage.memory_columns import number_chunks

SIZES = ([5], [0, 3, 0, 4, 0], [1, 1, 1], [7, 2])


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", ["float64", "float32", "int8", "uint16"])
def test_any_cut_is_that_of_the_whole(sizes: list[int], dtype: str) -> None:
    whole = np.arange(sum(sizes)).astype(dtype)
    parts = np.split(whole, np.cumsum(sizes)[:-1])
    column = pa.chunked_array([pa.array(p) for p in parts])
    source = MemorySource.of_arrow(pa.table({"v": column}))
    chunks = number_chunks(column, source.schema["v"])
    assert chunks is not None
    for start in range(len(whole) + 1):
        for stop in range(start, len(whole) + 1):
            found = chunks.slice(start, stop)
            assert found.dtype == whole.dtype
            np.testing.assert_array_equal(found, whole[start:stop])


def test_a_cut_within_a_chunk_shares_its_memory() -> None:
    part = np.arange(10.0)
    column = pa.chunked_array([pa.array(part), pa.array(part)])
    chunks = number_chunks(column, MemorySource.of_arrow(pa.table({"v": column})).schema["v"])
    assert chunks is not None
    assert np.shares_memory(chunks.slice(2, 9), part)


@pytest.mark.parametrize(
    "column",
    [
        pa.chunked_array([[1.0, None], [2.0]]),
        pa.chunked_array([[True], [False]]),
        pa.chunked_array([["a"], ["b"]]),
        pa.chunked_array([[1], [2]]).cast(pa.timestamp("us")),
        pa.chunked_array([[1, 2], [1]]).dictionary_encode(),
        np.arange(3),
    ],
)
def test_other_columns_are_left_to_arrow(column: Any) -> None:
    kind = MemorySource.of_arrays({"v": column}).schema["v"]
    assert number_chunks(column, kind) is None


def test_sliced_chunks_begin_where_they_were_cut() -> None:
    whole = pa.array(np.arange(100))
    column = pa.chunked_array([whole.slice(10, 20), whole.slice(50, 30)])
    found = so.from_arrow(pa.table({"v": column})).select("v").collect().column("v")
    assert found.to_pylist() == [*range(10, 30), *range(50, 80)]

"""Arrow's types and arrays become columns and come back."""

from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import DataError, SchemaError
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Block
from scalops.engine.storage import MemorySource, read_ipc, read_parquet
from scalops.engine.storage.arrow import (
    block_to_batch,
    schema_from_arrow,
    to_arrow,
    to_column,
    type_from_arrow,
    type_to_arrow,
)
from tests.engine.storage.reading import to_table

SCALARS = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "timestamp[s]", "timestamp[ns]", "duration[ms]"),
]


def vectors(rows: Any, size: int) -> pa.Array:
    return pa.array(rows, pa.list_(pa.float64(), size))


def sample(kind: ArrayType, rows: int, seed: int = 0) -> Any:
    numbers = np.random.default_rng(seed).integers(0, 100, (rows, *kind.shape))
    return (numbers % 2 == 0) if kind.name == "bool" else numbers.astype(kind.numpy)


@pytest.mark.parametrize("name", SCALARS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,), (1, 2, 2)])
def test_types_and_values_come_back(name: str, shape: tuple[int, ...]) -> None:
    kind = ArrayType(name, shape)
    column = sample(kind, 5)
    array = to_arrow(column, None, kind)
    array.validate(full=True)
    assert type_from_arrow(array.type) == kind
    back, valid = to_column(array, kind, "column 'x'")
    assert valid is None
    np.testing.assert_array_equal(back, column)
    assert isinstance(back, np.ndarray)
    assert back.dtype == kind.numpy


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.large_string()),
    ],
)
def test_all_encodings_of_strings_are_strings(kind: pa.DataType) -> None:
    assert type_from_arrow(kind) == ArrayType("string")
    texts = ["a", None, "long enough to be no inline view", "a"]
    array = pa.array(texts, pa.string()).cast(kind)
    column, valid = to_column(array.slice(1), ArrayType("string"), "column 'x'")
    assert isinstance(column, pa.StringArray)
    assert column.to_pylist() == texts[1:]
    assert valid is not None
    assert valid.tolist() == [False, True, True]


def test_zone_is_dropped_if_it_is_utc() -> None:
    assert type_from_arrow(pa.timestamp("us", "UTC")) == ArrayType("timestamp[us]")
    assert type_from_arrow(pa.timestamp("us", "Europe/Berlin")) is None


DAYS = [date(1969, 12, 31), None, date(2024, 1, 17), date(9999, 12, 31), date(1, 1, 1)]


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
@pytest.mark.parametrize("days", [DAYS, DAYS[2:]])
def test_dates_are_timestamps_in_memory_and_in_files(
    kind: pa.DataType, days: list[date | None], tmp_path: Path
) -> None:
    array = pa.array(days, kind)
    times = pa.array([None if d is None else datetime(d.year, d.month, d.day) for d in days])
    table = pa.table(
        {
            "d": array,
            "c": pa.chunked_array([array.slice(0, 1), array.slice(1)]),
            "e": array.dictionary_encode(),
            "l": pa.array([None if d is None else [d, d] for d in days], pa.list_(kind)),
        }
    )
    wanted = times.cast(pa.timestamp("s")).to_pylist()
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    files = read_parquet(tmp_path / "a.parquet"), read_ipc(tmp_path / "a.arrow")
    for source in (MemorySource.of_arrow(table), *files):
        found = to_table(source)
        assert found.schema.field("d").type == pa.timestamp("s")
        assert [found.column(n).to_pylist() for n in "dce"] == [wanted] * 3
        assert found.column("l").to_pylist() == [None if w is None else [w, w] for w in wanted]


def test_date_with_a_part_of_a_day_is_refused() -> None:
    odd = pa.array([5], pa.int64()).view(pa.date64())
    with pytest.raises(DataError, match=r"column 'x' cannot be read as timestamp\[s\]"):
        to_column(odd, ArrayType("timestamp[s]"), "column 'x'")


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.decimal128(5, 2)),
        pa.list_(pa.struct([("index", pa.int32()), ("value", pa.float64())])),
        pa.struct([("a", pa.int64())]),
        pa.map_(pa.string(), pa.int64()),
        pa.decimal128(10, 2),
        pa.time32("s"),
        pa.binary(),
        pa.null(),
        pa.list_(pa.string(), 2),
        pa.timestamp("us", "Europe/Berlin"),
    ],
)
def test_other_types_are_refused_by_name(kind: pa.DataType) -> None:
    with pytest.raises(SchemaError) as error:
        schema_from_arrow(pa.schema([("id", pa.int64()), ("odd", kind)]), "train.parquet")
    assert "train.parquet: column 'odd'" in str(error.value)
    assert str(kind) in str(error.value)
    assert error.value.hint


def test_column_name_that_occurs_twice_is_refused() -> None:
    with pytest.raises(SchemaError, match="two columns 'a'"):
        schema_from_arrow(pa.schema([("a", pa.int64()), ("a", pa.int64())]), "t")


def test_string_vectors_are_refused() -> None:
    with pytest.raises(SchemaError, match="not supported yet"):
        type_to_arrow(ArrayType("string", (2,)))


def test_vectors_share_memory_with_arrow() -> None:
    flat = np.arange(30.0)
    array = pa.FixedSizeListArray.from_arrays(pa.array(flat), 3)
    column, _ = to_column(array.slice(2, 5), ArrayType("float64", (3,)), "column 'x'")
    assert isinstance(column, np.ndarray)
    assert np.shares_memory(column, flat)
    np.testing.assert_array_equal(column, flat.reshape(10, 3)[2:7])


def test_scalars_share_memory_both_ways() -> None:
    flat = np.arange(10)
    column, _ = to_column(pa.array(flat).slice(3), ArrayType("int64"), "column 'x'")
    assert isinstance(column, np.ndarray)
    assert np.shares_memory(column, flat)
    matrix = np.arange(12.0).reshape(4, 3)
    array = to_arrow(matrix, None, ArrayType("float64", (3,)))
    back, _ = to_column(array, ArrayType("float64", (3,)), "column 'x'")
    assert isinstance(back, np.ndarray)
    assert np.shares_memory(back, matrix)


def test_nested_lists_of_fixed_size_are_matrices() -> None:
    kind = pa.list_(pa.list_(pa.int32(), 2), 3)
    assert type_from_arrow(kind) == ArrayType("int32", (3, 2))
    numbers = np.arange(24).reshape(4, 3, 2)
    array = pa.array(numbers.tolist(), kind)
    column, _ = to_column(array.slice(1, 2), ArrayType("int32", (3, 2)), "column 'x'")
    np.testing.assert_array_equal(column, numbers[1:3])


def test_permuted_tensor_is_read_in_logical_order() -> None:
    kind = pa.fixed_shape_tensor(pa.int64(), (2, 3), permutation=[1, 0])
    stored = pa.array([list(range(6)), list(range(6, 12))], pa.list_(pa.int64(), 6))
    assert type_from_arrow(kind) == ArrayType("int64", (3, 2))
    array = pa.ExtensionArray.from_storage(kind, stored)
    column, _ = to_column(array, ArrayType("int64", (3, 2)), "column 'x'")
    np.testing.assert_array_equal(column, np.arange(12).reshape(2, 2, 3).transpose(0, 2, 1))


@pytest.mark.parametrize(
    "array",
    [
        vectors([[1.0, 2.0], None], 2),
        vectors([[1.0, 2.0], [None, 3.0]], 2),
        pa.chunked_array([vectors([[1.0, 2.0]], 2), vectors([None], 2)]),
    ],
)
def test_fixed_shape_refuses_nulls(array: Any) -> None:
    with pytest.raises(DataError, match=r"column 'x'.*fixed-shape arrays refuse nulls"):
        to_column(array, ArrayType("float64", (2,)), "column 'x'")


def test_nulls_outside_a_slice_do_no_harm() -> None:
    array = vectors([None, [1.0, 2.0], [3.0, 4.0], [None, 1.0]], 2).slice(1, 2)
    column, _ = to_column(array, ArrayType("float64", (2,)), "column 'x'")
    np.testing.assert_array_equal(column, [[1, 2], [3, 4]])


def test_not_a_time_inside_a_vector_is_no_null() -> None:
    times = np.array([["2020-01-01", "NaT"]], "M8[s]")
    array = to_arrow(times, None, ArrayType("timestamp[s]", (2,)))
    back, _ = to_column(array, ArrayType("timestamp[s]", (2,)), "column 'x'")
    np.testing.assert_array_equal(back, times)


@given(st.sampled_from(SCALARS), st.data())
def test_random_chunks_slices_and_nulls_match_numpy(name: str, data: st.DataObject) -> None:
    kind = ArrayType(name)
    chunks, expected, present = [], [], []
    for length in data.draw(st.lists(st.integers(0, 9), max_size=4)):
        column = sample(kind, length + 3, seed=length)
        valid = np.array(data.draw(st.lists(st.booleans(), min_size=length, max_size=length)), bool)
        mask = np.concatenate([[True, False], valid, [True]])
        chunks.append(pa.array(column, type_to_arrow(kind), mask=~mask).slice(2, length))
        expected.append(np.where(valid, column[2:-1], np.zeros((), kind.numpy)))
        present.append(valid)
    back, found = to_column(pa.chunked_array(chunks, type_to_arrow(kind)), kind, "column 'x'")
    want = np.concatenate([np.empty(0, kind.numpy), *expected])
    want_valid = np.concatenate([np.empty(0, bool), *present])
    np.testing.assert_array_equal(back, want)
    assert (found is None) == bool(want_valid.all())
    if found is not None:
        np.testing.assert_array_equal(found, want_valid)
        again, _ = to_column(to_arrow(back, found, kind), kind, "column 'x'")
        np.testing.assert_array_equal(again, want)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=4), st.integers(0, 3))
def test_random_chunks_of_vectors_match_numpy(cuts: list[tuple[int, int]], size: int) -> None:
    kind = ArrayType("float64", (size,))
    chunks, expected = [], []
    for skip, length in cuts:
        column = np.random.default_rng(skip).random((skip + length + 1, size))
        chunks.append(to_arrow(column, None, kind).slice(skip, length))
        expected.append(column[skip : skip + length])
    back, valid = to_column(pa.chunked_array(chunks, type_to_arrow(kind)), kind, "column 'x'")
    np.testing.assert_array_equal(back, np.concatenate([np.empty((0, size)), *expected]))
    assert valid is None


def test_block_becomes_a_batch_of_its_schema() -> None:
    schema = Schema(
        (
            ("m", ArrayType("float64", (2, 2))),
            ("n", ArrayType("int64")),
            ("s", ArrayType("string")),
        )
    )
    block = Block(
        2,
        {
            "n": np.array([1, 0]),
            "s": pa.array(["a", "b"]),
            "m": np.arange(8.0).reshape(2, 2, 2),
            "unread": np.zeros(2),
        },
        {"n": np.array([True, False]), "s": np.array([False, True])},
    )
    batch = block_to_batch(block, schema)
    assert batch.schema.names == ["m", "n", "s"]
    assert batch.column(1).to_pylist() == [1, None]
    assert batch.column(2).to_pylist() == [None, "b"]
    assert batch.column(0).to_numpy_ndarray().tolist() == np.arange(8.0).reshape(2, 2, 2).tolist()


def test_vectors_that_are_absent_become_nulls() -> None:
    array = to_arrow(np.zeros((2, 2)), np.array([True, False]), ArrayType("float64", (2,)))
    assert array.to_pylist() == [[0.0, 0.0], None]


@pytest.mark.parametrize("items", [["a", "b"], [1.0, 2.0]])
def test_index_outside_of_a_dictionary_is_named(items: list[Any]) -> None:
    indices = pa.array([0, 9], pa.int32())
    column = pa.DictionaryArray.from_arrays(indices, pa.array(items), safe=False)
    kind = type_from_arrow(pa.array(items).type)
    assert kind is not None
    with pytest.raises(DataError, match=r"column 'x' of a\.arrow has an index outside of its dict"):
        to_column([column], kind, "column 'x' of a.arrow")

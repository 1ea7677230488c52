"""Arrays, records and Arrow tables in memory are read as they are, and watched for changes."""

import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalops.algebra.errors import DataError, ScalopsError, SchemaError
from scalops.engine.blocks import block_rows
from scalops.engine.storage import MemorySource
from tests.engine.storage.reading import layout, values, whole


def of(value: Any) -> MemorySource:
    return MemorySource.of_arrays({"x": value})


def read(source: MemorySource, name: str = "x") -> list[Any]:
    """Python values, None for nulls."""
    block = whole(source)
    valid = block.valid.get(name, np.ones(block.rows, bool))
    column = values(block, name).tolist()
    return [v if ok else None for v, ok in zip(column, valid, strict=True)]


def test_arrays_are_shared_not_copied() -> None:
    x, y = np.random.rand(1_000, 3), np.arange(1_000)[::-1]
    source = MemorySource.of_arrays({"x": x, "y": y})
    assert str(source.schema) == "x: float64[3], y: int64"
    (block,) = source.read(source.partitions()[0], ("x", "y"))
    assert np.shares_memory(values(block, "x"), x)
    assert np.shares_memory(values(block, "y"), y)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ([1, 2], "int64", [1, 2]),
        ([1, 2.5], "float64", [1.0, 2.5]),
        ([1, None], "int64", [1, None]),
        (["a", None, "b"], "string", ["a", None, "b"]),
        ([[1, 2], [3, 4]], "int64[2]", [[1, 2], [3, 4]]),
        (np.array(["a", "bc"]), "string", ["a", "bc"]),
        (np.array(["a", None], object), "string", ["a", None]),
        (np.array([1, 2], ">i4"), "int32", [1, 2]),
        (np.array([1, 2], "f2"), "float16", [1.0, 2.0]),
        (np.array([1, 0], bool), "bool", [True, False]),
        (np.zeros((2, 2, 1)), "float64[2,1]", [[[0.0], [0.0]], [[0.0], [0.0]]]),
        (np.zeros((2, 0)), "float64[0]", [[], []]),
        (np.array([1, 2], "m8[ms]"), "duration[ms]", None),
        (np.ma.masked_array([1, 2], [True, False]), "int64", [None, 2]),
        (pa.array([True, None]), "bool", [True, None]),
        (pa.chunked_array([["a"], ["b"]]), "string", ["a", "b"]),
        ([], "float64", []),
    ],
)
def test_column_has_the_expected_type_and_values(value: Any, kind: str, expected: Any) -> None:
    source = of(value)
    assert str(source.schema["x"]) == kind
    assert expected is None or read(source) == expected


def test_days_become_seconds_and_not_a_time_is_null() -> None:
    source = of(np.array(["2020-01-02", "NaT"], "M8[D]"))
    assert str(source.schema["x"]) == "timestamp[s]"
    assert read(source)[1] is None
    assert values(whole(source), "x")[0] == np.datetime64("2020-01-02", "s")


def test_multiples_of_a_unit_become_the_unit() -> None:
    source = of(np.array([2], "m8[25s]"))
    assert values(whole(source), "x")[0] == np.timedelta64(50, "s")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "at least one column"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "'a' has 2, 'b' has 3"),
        ({"z": np.zeros(2, complex)}, "'z' has the NumPy type complex128"),
        ({"z": np.zeros(2, "i4,i4")}, "'z' has the NumPy type"),
        ({"z": np.array([b"a"])}, "'z' has the NumPy type"),
        ({"z": 3.0}, "'z' is a single float64"),
        ({"z": [[1], ["a", "b"]]}, "'z' holds values without a common type: int, str"),
        ({"z": [[1], 2]}, "'z' holds values without a common type: int, list"),
        ({"z": [1, "a"]}, "'z' holds values without a common type: int, str"),
        ({"z": [None, None]}, "'z' holds only None"),
        ({"z": np.array(["a", 1], object)}, "'z' is an array of objects that holds 1 of type int"),
        ({"z": np.array([["a"]])}, "'z' is an array of 2 axes"),
        ({"z": pa.array([{"a": 1}])}, "'z' has the Arrow type struct"),
        ({1: np.zeros(1)}, "column names are strings, found 1"),
    ],
)
def test_what_is_no_column_is_refused(columns: Any, message: str) -> None:
    with pytest.raises(SchemaError) as error:
        MemorySource.of_arrays(columns)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: of([[1.0], None]),
        lambda: of(np.ma.masked_array([[1, 2]], [[True, False]])),
        lambda: of(pa.array([[1, None]], pa.list_(pa.int64(), 2))),
        lambda: of(pa.chunked_array([[[1]], [None]], pa.list_(pa.int64(), 1))),
    ],
)
def test_fixed_shape_refuses_nulls(make: Callable[[], MemorySource]) -> None:
    with pytest.raises(DataError, match=r"column 'x'.*refuse nulls"):
        make()


def test_records_widen_numbers_and_fill_missing_keys() -> None:
    source = MemorySource.of_records(
        [{"id": 1, "v": [1, 2]}, {"id": 2.5, "v": np.array([3.5, 4])}, {"v": [0, 0], "s": "a"}]
    )
    assert str(source.schema) == "id: float64, v: float64[2], s: string"
    assert read(source, "id") == [1.0, 2.5, None]
    assert read(source, "v") == [[1.0, 2.0], [3.5, 4.0], [0.0, 0.0]]
    assert read(source, "s") == [None, None, "a"]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "no records, so no column has a type; use arrays, or a table with a schema"),
        ([{}], "no keys"),
        ([{"a": 1}, 2], "record 1 is a int"),
        ([{"a": 1}, {"a": "x"}], "'a' holds values without a common type"),
        ([{"a": {"b": 1}}], "'a' has the Arrow type struct"),
        ([{"a": 2**70}], "'a' holds values without a common type"),
    ],
)
def test_what_are_no_records_is_refused(records: Any, message: str) -> None:
    with pytest.raises(SchemaError) as error:
        MemorySource.of_records(records)
    assert message in str(error.value)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=4), st.integers(0, 70))
def test_chunks_of_arrow_tables_do_not_show(lengths: list[int], head: int) -> None:
    rng = np.random.default_rng(len(lengths))
    tables, n = [], sum(lengths)
    x, i = rng.random((n, 2)), rng.integers(0, 9, n)
    first = 0
    for length in lengths:
        part = slice(first, first + length)
        vectors = pa.array(x[part].tolist(), pa.list_(pa.float64(), 2))
        numbers = pa.array(i[part], mask=i[part] == 3)
        words = pa.array([f"w{v}" for v in i[part]], pa.string())
        tables.append(pa.table({"x": vectors, "i": numbers, "s": words}))
        first += length
    source = MemorySource.of_arrow(pa.concat_tables(tables))
    np.testing.assert_array_equal(whole(source).columns["x"], x)
    assert read(source, "i") == [None if v == 3 else v for v in i]
    assert read(source, "s") == [f"w{v}" for v in i]
    assert MemorySource.of_arrow(pa.concat_tables(tables)).stamp == source.stamp
    start = source.head(head, ("s",))
    assert start.rows == min(head, n)
    assert values(start, "s").tolist() == [f"w{v}" for v in i[:head]]


def test_bounds_follow_the_whole_schema() -> None:
    source = MemorySource.of_arrays({"x": np.zeros((9_000, 100)), "y": np.arange(9_000)})
    size = block_rows(source.schema)
    assert layout(source, ("y",)) == layout(source, ("x", "y"))
    assert layout(source, ()) == layout(source, ("x", "y"))
    assert all(p.start % size == 0 for p in source.partitions())
    assert [p.rows for p in source.partitions()] == [p.stop - p.start for p in source.partitions()]
    np.testing.assert_array_equal(whole(source, ("y",)).columns["y"], np.arange(9_000))


def test_table_of_no_rows_has_one_empty_partition() -> None:
    source = MemorySource.of_arrays({"x": np.zeros((0, 3)), "s": pa.array([], pa.string())})
    assert len(source.partitions()) == 1
    assert whole(source).rows == 0
    assert source.head(5, ("x", "s")).rows == 0
    source.check_unchanged()


@pytest.mark.parametrize("order", ["C", "F", "reversed"])
def test_change_of_a_sampled_element_is_noticed(order: str) -> None:
    x = np.asfortranarray(np.zeros((100, 3))) if order == "F" else np.zeros((100, 3))
    source = MemorySource.of_arrays(
        {"y": np.zeros(100), "x": x[::-1] if order == "reversed" else x}
    )
    source.check_unchanged()
    x[57, 1] = 1
    with pytest.raises(DataError, match="column 'x' of memory changed after the table was made"):
        source.check_unchanged()


def test_change_of_a_whole_column_of_a_large_matrix_is_noticed() -> None:
    x = np.zeros((100_000, 100))
    source = of(x)
    x[:, 37] = 1
    with pytest.raises(DataError, match="column 'x'"):
        source.check_unchanged()


def test_change_of_the_last_element_is_noticed() -> None:
    x = np.zeros(1_000_003)
    source = of(x)
    x[-1] = 1
    with pytest.raises(DataError, match="column 'x'"):
        source.check_unchanged()


def test_check_takes_well_under_a_millisecond() -> None:
    source = of(np.zeros((200_000, 20)))
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        source.check_unchanged()
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.001


def test_equal_contents_have_one_stamp_and_two_names() -> None:
    a, b = of(np.arange(10_000.0)), of(np.arange(10_000.0))
    assert a.stamp == b.stamp
    assert repr(a) != repr(b)
    assert of(np.arange(10_001.0)).stamp != a.stamp
    assert of(np.asfortranarray(np.eye(9))).stamp == of(np.eye(9)).stamp


def test_stamp_is_the_same_in_another_process() -> None:
    program = (
        "import numpy as np; from scalops.engine.storage import MemorySource as M;"
        "print(M.of_arrays({'x': np.arange(9.0), 's': ['a', None] * 4 + ['b']}).stamp)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    source = MemorySource.of_arrays({"x": np.arange(9.0), "s": ["a", None] * 4 + ["b"]})
    assert found.stdout.strip() == source.stamp


def test_source_travels_by_pickle() -> None:
    source = MemorySource.of_arrays({"x": np.arange(5), "s": ["a"] * 5})
    copy = pickle.loads(pickle.dumps(source))
    assert repr(copy) == repr(source)
    assert read(copy, "s") == ["a"] * 5


def test_errors_are_ours() -> None:
    with pytest.raises(ScalopsError):
        MemorySource.of_records([{"a": object()}])

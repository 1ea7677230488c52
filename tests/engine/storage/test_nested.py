"""Lists and sparse vectors come from Arrow, Python and SciPy, and go back to Arrow."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from scalops.algebra.dtypes import FLOAT64, INT64, ArrayType, list_of, sparse
from scalops.algebra.errors import DataError, SchemaError
from scalops.algebra.sparse import SparseVector
from scalops.engine.columns import SparseColumn
from scalops.engine.storage import MemorySource, read_parquet
from scalops.engine.storage.arrow import to_arrow, to_column, type_from_arrow, type_to_arrow
from scalops.engine.storage.arrow_types import field_to_arrow, type_from_field
from tests.engine.storage.reading import to_table, whole

STRING = ArrayType("string")
KINDS = [
    (list_of(INT64), [[1, 2], [], None, [None, 3]]),
    (list_of(STRING), [["a"], None, [None, "b"], []]),
    (list_of(ArrayType("bool")), [[True, False], []]),
    (list_of(ArrayType("float64", (2,))), [[[1.0, 2.0]], [], [[3.0, 4.0], [5.0, 6.0]]]),
    (list_of(ArrayType("int32", (2, 1))), [[[[1], [2]]], [], None]),
    (list_of(list_of(FLOAT64)), [[[1.0], []], [], None, [None]]),
    (list_of(list_of(ArrayType("int8", (2, 1)))), [[[[[1], [2]]]], []]),
]


def of(value: Any) -> MemorySource:
    return MemorySource.of_arrays({"x": value})


@pytest.mark.parametrize(("kind", "rows"), KINDS, ids=lambda v: str(v) if v is not list else "")
def test_lists_come_back(kind: ArrayType, rows: list[Any]) -> None:
    array = pa.array(rows, type_to_arrow(kind))
    assert type_from_arrow(array.type) == kind
    for given_array, expected in ((array, rows), (array.slice(1), rows[1:])):
        column, valid = to_column(given_array, kind, "column 'x'")
        assert column.type == to_column(array, kind, "")[0].type
        assert (valid is None) == (None not in expected)
        back = to_arrow(column, valid, kind)
        back.validate(full=True)
        assert back.type == array.type
        assert back.to_pylist() == expected


@pytest.mark.parametrize(
    "kind",
    [
        pa.large_list(pa.string()),
        pa.list_(pa.large_string()),
        pa.list_(pa.string_view()),
        pa.list_(pa.dictionary(pa.int8(), pa.string())),
        pa.list_view(pa.string()),
        pa.large_list_view(pa.string()),
    ],
    ids=str,
)
def test_all_encodings_of_lists_are_lists(kind: pa.DataType) -> None:
    rows = [["a", "b"], None, [], [None, "c"]]
    if pa.types.is_dictionary(kind.value_type):
        words = pa.array(["a", "b", None, "c"]).dictionary_encode().cast(kind.value_type)
        mask = pa.array([False, True, False, False])
        array = pa.ListArray.from_arrays(pa.array([0, 2, 2, 2, 4], pa.int32()), words, mask=mask)
    else:
        array = pa.array(rows, kind)
    assert type_from_arrow(kind) == list_of(STRING)
    column, _ = to_column(array, list_of(STRING), "column 'x'")
    assert column.type == pa.list_(pa.string())
    assert column.to_pylist() == rows
    table = MemorySource.of_arrow(pa.table({"x": array}))
    assert to_table(table).column("x").to_pylist() == rows


def test_times_in_lists_lose_their_zone_and_get_their_unit() -> None:
    array = pa.array([[1_000]], pa.list_(pa.timestamp("ms", "UTC")))
    column, _ = to_column(array, list_of(ArrayType("timestamp[s]")), "column 'x'")
    assert column.type == pa.list_(pa.timestamp("s"))
    assert column.values.cast(pa.int64()).to_pylist() == [1]


def test_null_among_arrays_in_a_list_is_refused() -> None:
    array = pa.array([[[[1.0]], None]], pa.list_(pa.list_(pa.list_(pa.float64(), 1), 1)))
    with pytest.raises(DataError, match="column 'x' holds a null"):
        to_column(array, list_of(ArrayType("float64", (1, 1))), "column 'x'")


@pytest.mark.parametrize(
    ("value", "kind", "rows"),
    [
        ([[1], [2, 3]], "list[int64]", [[1], [2, 3]]),
        ([[1, None], [2.5]], "list[float64]", [[1.0, None], [2.5]]),
        ([["a", "b"], ["c", "d"]], "list[string]", [["a", "b"], ["c", "d"]]),
        ([["a"], None, []], "list[string]", [["a"], None, []]),
        ([np.arange(2), np.arange(1)], "list[int64]", [[0, 1], [0]]),
        ([[[1, 2], [3, 4]], [[5, 6]]], "list[int64[2]]", [[[1, 2], [3, 4]], [[5, 6]]]),
        ([[[1], [2, 3]], []], "list[list[int64]]", [[[1], [2, 3]], []]),
        ([np.ones((2, 3)), np.ones((1, 3))], "list[float64[3]]", [[[1] * 3] * 2, [[1] * 3]]),
        (np.array([["a"], ["b", "c"]], object), "list[string]", [["a"], ["b", "c"]]),
        ([[True], [False, True]], "list[bool]", [[True], [False, True]]),
    ],
)
def test_python_lists_of_varying_length_are_lists(value: Any, kind: str, rows: Any) -> None:
    source = of(value)
    assert str(source.schema["x"]) == kind
    assert to_table(source).column("x").to_pylist() == rows


def test_records_with_lists_and_missing_keys() -> None:
    records: list[dict[str, Any]] = [{"t": ["a", "b"], "n": 1}, {"n": 2}, {"t": [], "n": 3}]
    source = MemorySource.of_records(records)
    assert str(source.schema) == "t: list[string], n: int64"
    assert to_table(source).to_pylist() == [{"t": None, "n": 2, **r} for r in records]


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil"])
@pytest.mark.parametrize("dtype", ["f8", "f4", "i4", "?"])
def test_scipy_matrices_are_sparse_vectors(form: str, dtype: str) -> None:
    matrix: Any = (sp.random_array((20, 7), density=0.3, rng=0) * 9).astype(dtype)
    matrix = matrix.asformat(form)
    source = of(matrix)
    assert source.schema["x"] == sparse(7)
    column = whole(source).columns["x"]
    assert isinstance(column, SparseColumn)
    assert column.indices.dtype == np.int32
    assert column.values.dtype == np.float64
    dense = sp.csr_array((column.values, column.indices, column.indptr), (20, 7)).toarray()
    np.testing.assert_array_equal(dense, matrix.toarray())


def test_canonical_csr_shares_memory_and_another_is_not_written_to() -> None:
    matrix: Any = sp.random_array((50, 9), density=0.2, rng=0, format="csr")
    column = whole(of(matrix)).columns["x"]
    assert np.shares_memory(column.values, matrix.data)
    unsorted = sp.csr_matrix(([1.0, 2.0, 3.0], [2, 0, 2], [0, 3]), (1, 4))
    column = whole(of(unsorted)).columns["x"]
    assert column.indices.tolist() == [0, 2]
    assert column.values.tolist() == [2.0, 4.0]
    assert unsorted.indices.tolist() == [2, 0, 2]
    assert unsorted.data.tolist() == [1.0, 2.0, 3.0]


def test_sparse_rows_in_records() -> None:
    rows: list[Any] = [
        sp.csr_array(np.eye(3)[[0]]),
        sp.coo_array(np.eye(3)[1]),
        SparseVector([2], [5.0], 3),
    ]
    source = MemorySource.of_records([{"x": row, "i": i} for i, row in enumerate(rows)])
    assert str(source.schema) == "x: sparse[3], i: int64"
    column = whole(source).columns["x"]
    assert (column.indices.tolist(), column.values.tolist()) == ([0, 1, 2], [1.0, 1.0, 5.0])


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (sp.coo_array(np.eye(3)[0]), SchemaError, "sparse array of 1 axes"),
        (sp.eye_array(3, dtype=complex), SchemaError, "sparse matrix of complex128"),
        ([sp.eye_array(2)], SchemaError, r"shape \(2, 2\) in a record"),
        ([SparseVector([], [], 2), SparseVector([], [], 3)], SchemaError, r"dimensions: \[2, 3\]"),
        ([SparseVector([], [], 2), None], DataError, "None among its sparse vectors"),
        ([SparseVector([], [], 2), 1.0], SchemaError, "without a common type"),
        ([[SparseVector([], [], 2)]], SchemaError, "lists of sparse vectors"),
    ],
)
def test_what_is_no_sparse_column_is_refused(
    value: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"'x'.*{message}"):
        of(value)


def test_changes_of_sparse_and_list_columns_are_noticed_and_stamps_tell() -> None:
    matrix: Any = sp.random_array((50, 9), density=0.2, rng=0, format="csr")
    source = of(matrix)
    assert of(matrix.copy()).stamp == source.stamp
    assert of([[1], [2, 3]]).stamp != of([[1, 2], [3]]).stamp
    matrix.data[3] += 1
    with pytest.raises(DataError, match="column 'x' of memory changed"):
        source.check_unchanged()


def test_sparse_field_keeps_its_dimension_in_metadata() -> None:
    field = field_to_arrow("x", sparse(1_000))
    assert field.metadata == {b"scalops:dimension": b"1000"}
    assert str(field.type) == "list<item: struct<index: int32, value: double>>"
    assert type_from_field(field) == sparse(1_000)
    assert type_from_field(field.remove_metadata()) is None
    assert type_from_field(field.with_metadata({b"scalops:dimension": b"many"})) is None


@pytest.mark.parametrize("form", [pa.list_, pa.large_list])
def test_sparse_vectors_of_other_writers_are_sorted_and_added_up(form: Any) -> None:
    kind = form(pa.struct([("index", pa.int64()), ("value", pa.float32())]))
    rows = [[(3, 1.0), (0, 2.0)], [], [(1, 0.5), (1, 0.5)]]
    array = pa.array([[{"index": i, "value": v} for i, v in row] for row in rows], kind)
    column, valid = to_column([array.slice(0, 1), array.slice(1)], sparse(4), "column 'x'")
    assert valid is None
    assert column.indptr.tolist() == [0, 2, 2, 3]
    assert column.indices.tolist() == [0, 3, 1]
    assert column.values.tolist() == [2.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (None, "holds a null"),
        ([None], "holds a null"),
        ([{"index": None, "value": 1.0}], "holds a null"),
        ([{"index": 1, "value": None}], "holds a null"),
        ([{"index": 4, "value": 1.0}], "at the index 4; its dimension is 4"),
        ([{"index": -1, "value": 1.0}], "at the index -1"),
    ],
)
def test_bad_sparse_vectors_are_refused(row: Any, message: str) -> None:
    array = pa.array([[], row], type_to_arrow(sparse(4)))
    with pytest.raises(DataError, match=f"column 'x'.*{message}"):
        to_column(array, sparse(4), "column 'x'")


@given(
    st.lists(st.dictionaries(st.integers(0, 9), st.floats(-5, 5), max_size=4), max_size=12),
    st.integers(0, 4),
)
def test_random_sparse_vectors_come_back(rows: list[dict[int, float]], skip: int) -> None:
    lengths = np.cumsum([0, *(len(row) for row in rows)])
    column = SparseColumn(
        lengths,
        np.array([i for row in rows for i in sorted(row)], np.int32),
        np.array([row[i] for row in rows for i in sorted(row)], np.float64),
        10,
    )
    array = to_arrow(column, None, sparse(10))
    array.validate(full=True)
    back, _ = to_column(array.slice(skip), sparse(10), "column 'x'")
    expected = column.slice(min(skip, len(rows)), len(rows))
    np.testing.assert_array_equal(back.indptr, expected.indptr)
    np.testing.assert_array_equal(back.indices, expected.indices)
    np.testing.assert_array_equal(back.values, expected.values)


def test_parquet_keeps_both(tmp_path: Any) -> None:
    matrix: Any = sp.random_array((300, 40), density=0.1, rng=0, format="csr")
    lists = [[f"w{j}" for j in range(i % 4)] if i % 7 else None for i in range(300)]
    source = MemorySource.of_arrays(
        {"x": matrix, "l": lists, "m": [[[1, 2]] * (i % 3) for i in range(300)]}
    )
    table = to_table(source)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=77)
    read = read_parquet(tmp_path / "a.parquet")
    assert read.schema == source.schema
    assert to_table(read).equals(table)
    assert read.head(3, ("l",)).columns["l"].to_pylist() == lists[:3]

"""Parquet files are read in exact row ranges, each row group decoded once, unread columns never."""

import pickle
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import DataError, SchemaError
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Block, concatenate, partition_bounds
from scalops.engine.storage import FileSource, read_parquet
from scalops.engine.storage.arrow import to_arrow
from tests.engine.storage.reading import layout, values, whole
from tests.quick import repeated

Write = Callable[..., Path]


def matrix(rows: int, columns: int = 100) -> pa.Array:
    flat = np.arange(rows * columns, dtype=float)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), columns)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write("a.parquet", row_group_size, x=column, ...) writes a file."""

    def file(name: str, size: int, **columns: Any) -> Path:
        pq.write_table(pa.table(columns), tmp_path / name, row_group_size=size)
        return tmp_path / name

    return file


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every batch that Parquet decodes."""
    rows: list[int] = []
    plain = pq.ParquetFile.iter_batches

    def counted(self: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        for batch in plain(self, *args, **kwargs):
            rows.append(len(batch))
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    return rows


def test_schema_rows_and_partitions_come_from_the_footers(write: Write, decoded: list[int]) -> None:
    write("a.parquet", 3_000, x=matrix(7_000), y=np.arange(7_000))
    path = write("b.parquet", 900, x=matrix(2_000), y=np.arange(2_000))
    source = read_parquet(path.parent)
    assert str(source.schema) == "x: float64[100], y: int64"
    assert source.rows == 9_000
    bounds = partition_bounds(9_000, source.schema)
    assert [(p.start, p.stop) for p in source.partitions()] == bounds
    assert [p.rows for p in source.partitions()] == [b - a for a, b in bounds]
    assert source.partitions()[0].path == str(path.parent / "a.parquet")
    assert None in [p.path for p in source.partitions()]
    assert decoded == []
    assert source.bytes == sum(p.stat().st_size for p in path.parent.iterdir())


def test_partitions_hold_all_rows_once_in_order(write: Write) -> None:
    write("a.parquet", 3_000, x=matrix(7_000), s=[f"a{i}" for i in range(7_000)])
    path = write("b.parquet", 900, x=matrix(2_000), s=[f"b{i}" for i in range(2_000)])
    block = whole(read_parquet(path.parent))
    expected = np.concatenate([np.arange(700_000.0), np.arange(200_000.0)]).reshape(-1, 100)
    np.testing.assert_array_equal(block.columns["x"], expected)
    texts = [f"a{i}" for i in range(7_000)] + [f"b{i}" for i in range(2_000)]
    assert values(block, "s").tolist() == texts


@repeated(3)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=14)
@given(
    files=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 150)), min_size=1, max_size=3),
    columns=st.sampled_from([("x",), ("n",), ("s",), ("s", "x", "n"), ("n", "m")]),
    head=st.integers(0, 500),
)
def test_random_row_groups_match_what_was_written(
    run: int, tmp_path: Path, files: list[tuple[int, int]], columns: tuple[str, ...], head: int
) -> None:
    total = sum(rows for rows, _ in files)
    rng = np.random.default_rng(total)
    # Wide, so that a partition has few rows and there are many of them.
    x, n = rng.random((total, 2_000)), rng.integers(0, 5, total)
    m = rng.random((total, 2, 1))
    vector = ArrayType("float64", (2_000,))
    first, paths = 0, []
    for index, (rows, size) in enumerate(files):
        part = slice(first, first + rows)
        table = pa.table(
            {
                "x": to_arrow(x[part], None, vector),
                "n": pa.array(n[part], mask=n[part] == 0),
                "s": pa.array([f"t{i}" for i in n[part]], pa.string()),
                "m": pa.FixedShapeTensorArray.from_numpy_ndarray(m[part])
                if rows
                else pa.array([], pa.fixed_shape_tensor(pa.float64(), (2, 1))),
            }
        )
        paths.append(tmp_path / f"{index}.parquet")
        pq.write_table(table, paths[-1], row_group_size=size)
        first += rows
    source = read_parquet(paths)
    expected = {"x": x, "n": n, "m": m, "s": np.array([f"t{i}" for i in n], object)}
    assert source.rows == total
    blocks = [b for p in source.partitions() for b in source.read(p, columns)]
    assert [b.rows for b in blocks] == [b for _, rows in layout(source, ()) for b in rows]
    for block in (_together(blocks, source, columns), source.head(total, columns)):
        for name in columns:
            np.testing.assert_array_equal(values(block, name), expected[name])
        if "n" in columns:
            valid = block.valid.get("n", np.ones(total, bool))
            np.testing.assert_array_equal(valid, n != 0)
    start = source.head(head, columns)
    assert start.rows == min(head, total)
    np.testing.assert_array_equal(values(start, columns[0]), expected[columns[0]][:head])


def _together(blocks: list[Block], source: FileSource, columns: tuple[str, ...]) -> Block:
    return concatenate(blocks, Schema(tuple((n, source.schema[n]) for n in columns)))


def test_bounds_do_not_move_with_the_columns(write: Write) -> None:
    source = read_parquet(write("a.parquet", 700, x=matrix(5_000), y=np.arange(5_000)))
    assert layout(source, ("y",)) == layout(source, ("x", "y"))
    assert layout(source, ()) == layout(source, ("x", "y"))


def test_consecutive_partitions_decode_each_row_once(write: Write, decoded: list[int]) -> None:
    source = read_parquet(write("a.parquet", 20_000, x=matrix(20_000), y=np.arange(20_000)))
    assert len(source.partitions()) > 5
    for _ in range(2):
        decoded.clear()
        whole(source, ("y",))
        assert sum(decoded) == 20_000


def test_two_threads_in_turn_decode_each_row_twice_at_most(
    write: Write, decoded: list[int]
) -> None:
    source = read_parquet(write("a.parquet", 20_000, x=matrix(20_000), y=np.arange(20_000)))
    for partition in source.partitions()[::2] + source.partitions()[1::2]:
        list(source.read(partition, ("y",)))
    assert sum(decoded) <= 40_000


def test_partition_in_a_later_row_group_decodes_nothing_before_it(
    write: Write, decoded: list[int]
) -> None:
    source = read_parquet(write("a.parquet", 2_048, x=matrix(20_000)))
    list(source.read(source.partitions()[-1], ("x",)))
    assert sum(decoded) <= 2_048


def test_head_decodes_one_batch(write: Write, decoded: list[int]) -> None:
    source = read_parquet(write("a.parquet", 20_000, x=matrix(20_000)))
    assert source.head(5, ("x",)).rows == 5
    assert sum(decoded) <= 2_048


def test_row_group_is_streamed(write: Write) -> None:
    path = write("a.parquet", 20_000, x=matrix(20_000))
    source = read_parquet(path)
    before, most = pa.total_allocated_bytes(), 0
    for partition in source.partitions():
        for _ in source.read(partition, ("x",)):
            most = max(most, pa.total_allocated_bytes() - before)
    assert most < 8_000_000 < 20_000 * 100 * 8


def test_reader_that_stops_early_disturbs_no_other(write: Write) -> None:
    source = read_parquet(write("a.parquet", 20_000, x=matrix(20_000), y=np.arange(20_000)))
    partition = source.partitions()[0]
    stopped = source.read(partition, ("y",))
    next(stopped)
    beside = source.read(partition, ("y",))
    next(beside)
    stopped.close()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(whole(source, ("y",)).columns["y"], np.arange(20_000))
    rest = [values(b, "y") for b in beside]
    assert not rest or rest[0][0] > 0


def test_threads_read_the_same_records(write: Write) -> None:
    source = read_parquet(write("a.parquet", 6_000, x=matrix(20_000), y=np.arange(20_000)))

    def read(index: int) -> Any:
        blocks = source.read(source.partitions()[index % len(source.partitions())], ("x", "y"))
        return [(b.columns["y"], b.columns["x"]) for b in blocks]

    count = len(source.partitions())
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(read, range(3 * count)))
    for round_ in range(3):
        part = [pair for blocks in found[round_ * count : (round_ + 1) * count] for pair in blocks]
        y = np.concatenate([pair[0] for pair in part])
        np.testing.assert_array_equal(y, np.arange(20_000))
        np.testing.assert_array_equal(np.concatenate([p[1] for p in part])[:, 0], y * 100.0)


def test_unread_column_is_not_decoded(write: Write) -> None:
    path = write("a.parquet", 5_000, x=np.arange(5_000.0), y=np.arange(5_000))
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(0)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(data)
    source = read_parquet(path)
    np.testing.assert_array_equal(whole(source, ("y",)).columns["y"], np.arange(5_000))
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet") as error:
        whole(source, ("x",))
    assert isinstance(error.value.__cause__, (OSError, pa.ArrowException))


def test_columns_prune_the_schema_at_once(write: Write) -> None:
    path = write("a.parquet", 5_000, x=matrix(100), y=np.arange(100), z=np.arange(100))
    source = read_parquet(path, columns=["z", "y"])
    assert source.schema.names == ("z", "y")
    assert repr(source) != repr(read_parquet(path))
    assert source.stamp != read_parquet(path).stamp


def test_files_in_another_order_of_columns_fit_together(write: Write) -> None:
    write("a.parquet", 9, x=[1, 2], s=["a", "b"])
    path = write("b.parquet", 9, s=pa.array(["c"]).dictionary_encode(), x=[3])
    block = whole(read_parquet(path.parent))
    assert values(block, "x").tolist() == [1, 2, 3]
    assert values(block, "s").tolist() == ["a", "b", "c"]


def test_files_of_other_columns_are_named_with_the_difference(write: Write) -> None:
    write("a.parquet", 9, x=[1, 2], y=[1, 2])
    path = write("b.parquet", 9, x=[1.0], z=[3])
    with pytest.raises(SchemaError) as error:
        read_parquet(path.parent)
    assert "b.parquet has other columns than" in str(error.value)
    assert "'x' is float64 instead of int64" in str(error.value)
    assert "'y' is missing instead of int64" in str(error.value)


def test_type_without_a_column_is_named_with_the_file(write: Write) -> None:
    path = write("a.parquet", 9, x=[[{"a": 1}]], y=[1])
    with pytest.raises(SchemaError, match=r"a\.parquet: column 'x' has the Arrow type list"):
        read_parquet(path)
    assert str(read_parquet(path, columns=["y"]).schema) == "y: int64"


def test_null_in_a_vector_is_named_with_the_file(write: Write) -> None:
    path = write("a.parquet", 9, x=pa.array([[1.0], None], pa.list_(pa.float64(), 1)))
    with pytest.raises(DataError, match=r"column 'x' of .*a\.parquet .*refuse nulls"):
        whole(read_parquet(path))


def test_file_of_no_rows_is_an_empty_table(write: Write) -> None:
    source = read_parquet(write("a.parquet", 9, x=pa.array([], pa.float64())))
    assert source.rows == 0
    assert len(source.partitions()) == 1
    assert whole(source).rows == 0
    assert source.head(3, ("x",)).rows == 0


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "not a Parquet file: it has 0 bytes"),
        (b"id,name\n1,a\n2,b\n", "not a Parquet file; read_csv"),
        (b"PAR1" + b"x" * 100, "a Parquet file without its end"),
        (b"PAR1" + b"x" * 100 + b"\x10\0\0\0PAR1", "cannot be read as Parquet"),
        (b"PAR1" + b"x" * 100 + b"\xff\xff\0\0PAR1", "cannot be read as Parquet"),
    ],
)
def test_broken_file_is_named(tmp_path: Path, contents: bytes, message: str) -> None:
    (tmp_path / "a.parquet").write_bytes(contents)
    with pytest.raises(DataError, match=f"a.parquet.*{message}"):
        read_parquet(tmp_path / "a.parquet")


def test_file_replaced_by_a_shorter_one_is_noticed(write: Write) -> None:
    path = write("a.parquet", 100, x=np.arange(1_000))
    source = read_parquet(path)
    write("a.parquet", 100, x=np.arange(950))
    with pytest.raises(DataError, match=r"a\.parquet"):
        whole(source, ("x",))
    path.unlink()
    with pytest.raises(DataError, match="is gone since the table was made"):
        whole(source, ("x",))


def test_random_damage_never_shows_an_error_that_is_not_ours(write: Write, tmp_path: Path) -> None:
    path = write("a.parquet", 30, x=matrix(100, 3), s=[str(i) for i in range(100)])
    whole_file, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(whole_file)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        with suppress(DataError, SchemaError):
            whole(read_parquet(path))


def test_stamp_is_that_of_the_contents(write: Write, tmp_path: Path) -> None:
    path = write("a.parquet", 100, x=np.arange(1_000))
    source = read_parquet(path)
    (tmp_path / "sub").mkdir()
    shutil.copyfile(path, tmp_path / "sub" / "b.parquet")
    copy = read_parquet(tmp_path / "sub")
    assert copy.stamp == source.stamp
    assert repr(copy) != repr(source)
    assert read_parquet(write("a.parquet", 99, x=np.arange(1_000))).stamp != source.stamp


def test_source_travels_by_pickle_while_cursors_are_open(write: Write) -> None:
    source = read_parquet(write("a.parquet", 20_000, x=matrix(20_000)))
    list(source.read(source.partitions()[0], ("x",)))
    copy = pickle.loads(pickle.dumps(source))
    assert whole(copy).rows == 20_000
    assert copy.stamp == source.stamp

"""Arrow IPC files are mapped, cut by rows, and what is broken in them is named."""

import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pytest
import scipy.sparse as sp

from scalops.algebra.errors import DataError, SchemaError
from scalops.engine.blocks import partition_bounds
from scalops.engine.storage import MemorySource, Partition, block_to_batch, read_ipc
from tests.engine.storage.reading import layout, to_table, whole
from tests.quick import quick

CODECS = (None, "lz4", "zstd")
Write = Callable[..., Path]


def mixed(rows: int, seed: int = 0) -> pa.Table:
    """Columns of every kind."""
    rng = np.random.default_rng(seed)
    return to_table(
        MemorySource.of_arrays(
            {
                "v": rng.random((rows, 20)),
                "n": pa.array(rng.integers(0, 9, rows), mask=rng.random(rows) < 0.1),
                "s": [None if i % 5 == 3 else f"t{i}" for i in range(rows)],
                "l": [list(range(i % 4)) for i in range(rows)],
                "x": sp.random_array((rows, 30), density=0.1, rng=rng, format="csr"),
                "m": rng.random((rows, 2, 2)),
                "b": rng.random(rows) < 0.5,
            }
        )
    )


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def file(name: str, table: pa.Table, rows: int, compression: str | None = None) -> Path:
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.ipc.new_file(tmp_path / name, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=rows)
        return tmp_path / name

    return file


@pytest.mark.parametrize("codec", CODECS)
def test_batches_of_several_files_come_back(write: Write, codec: str | None) -> None:
    first, second = mixed(9_000), mixed(4_000, seed=1)
    write("a.arrow", first, 4_000, codec)
    path = write("b.feather", second, 700, codec)
    source = read_ipc(path.parent)
    assert source.rows == source.likely_rows == 13_000
    assert to_table(source).equals(pa.concat_tables([first, second]).combine_chunks())
    assert source.schema == MemorySource.of_arrow(first).schema
    assert source.head(5, ("s", "l")).columns["s"].to_pylist() == first.column("s")[:5].to_pylist()
    found = [b.columns["n"] for b in source.read(Partition(0, 8_990, 9_010), ("n",))]
    assert sum(map(len, found)) == 20


def test_partitions_are_those_of_rows_but_compressed_batches_stay_whole(write: Write) -> None:
    table = mixed(9_000)
    plain = read_ipc(write("a.ipc", table, 9_000))
    bounds = [(p.start, p.stop) for p in plain.partitions()]
    assert bounds == partition_bounds(9_000, plain.schema)
    assert layout(plain, ("n",)) == layout(plain, ("x", "n", "s")) == layout(plain, ())
    packed = read_ipc(write("b.ipc", table, 3_000, "zstd"))
    assert [(p.start, p.stop) for p in packed.partitions()] == [
        (0, 3_000),
        (3_000, 6_000),
        (6_000, 9_000),
    ]


def test_blocks_stay_what_they_are_when_the_file_is_written_to(write: Write) -> None:
    path = write("a.ipc", mixed(1_000), 1_000)
    source = read_ipc(path)
    block = whole(source)
    expected = to_table(source)
    with open(path, "r+b") as stream:
        stream.seek(2_000)
        stream.write(b"\xff" * 10_000)
    found = pa.Table.from_batches([block_to_batch(block, source.schema)]).combine_chunks()
    assert found.equals(expected)


def test_unread_columns_are_not_decoded(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    source = read_ipc(write("a.ipc", mixed(1_000), 1_000, "zstd"))
    before = pa.total_allocated_bytes()
    (block,) = source.read(source.partitions()[0], ("b",))
    assert pa.total_allocated_bytes() - before < 10_000
    assert block.rows == 1_000


def test_dictionaries_views_and_feather_are_read(tmp_path: Path) -> None:
    table = pa.table(
        {
            "d": pa.array(["a", None, "a"]).dictionary_encode(),
            "w": pa.array(["x", None, "long enough to be no inline view"], pa.string_view()),
            "t": pa.array([1, None, 3], pa.timestamp("us", "UTC")),
        }
    )
    feather.write_feather(table.select(["d", "t"]), tmp_path / "a.feather")
    with pa.ipc.new_file(tmp_path / "b.arrow", table.schema) as writer:
        writer.write_table(table)
    assert to_table(read_ipc(tmp_path / "a.feather")).column("d").to_pylist() == ["a", None, "a"]
    source = read_ipc(tmp_path / "b.arrow")
    assert str(source.schema) == "d: string, w: string, t: timestamp[us]"
    assert to_table(source).column("w").to_pylist() == table.column("w").to_pylist()


def test_columns_and_files_fit_together(write: Write) -> None:
    write("a.ipc", pa.table({"x": [1], "y": ["a"]}), 1)
    path = write("b.ipc", pa.table({"y": ["b"], "x": [2]}), 1)
    assert to_table(read_ipc(path.parent)).to_pydict() == {"x": [1, 2], "y": ["a", "b"]}
    assert str(read_ipc(path.parent, columns=["y"]).schema) == "y: string"
    write("c.ipc", pa.table({"x": [1.5], "y": ["a"]}), 1)
    with pytest.raises(SchemaError, match=r"c\.ipc has other columns than .*'x' is float64"):
        read_ipc(path.parent)
    odd = write("d.arrow", pa.table({"x": [[{"a": 1}]], "y": [1]}), 1)
    with pytest.raises(SchemaError, match=r"d\.arrow: column 'x' has the Arrow type list"):
        read_ipc(odd)
    assert to_table(read_ipc(odd, columns=["y"])).to_pydict() == {"y": [1]}


def test_file_of_no_rows_is_an_empty_table(write: Write) -> None:
    for name, table in (("a.ipc", mixed(0)), ("b.ipc", pa.table({"x": pa.array([], "f8")}))):
        source = read_ipc(write(name, table, 1))
        assert source.rows == 0
        assert len(source.partitions()) == 1
        assert whole(source).rows == 0
        assert source.head(3, (source.schema.names[0],)).rows == 0


def stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "is not an Arrow file"),
        (b"id,name\n1,a\n", "is not an Arrow file; read_csv"),
        (b"PAR1" + b"x" * 100, "it is a Parquet file: use read_parquet"),
        (b"FEA1" + b"x" * 100, "first version of Feather"),
        (stream(pa.table({"a": [1]})), "it is an Arrow stream"),
        (b"ARROW1", "an Arrow file without its end"),
        (b"ARROW1\0\0" + b"x" * 100, "an Arrow file without its end"),
        (b"ARROW1\0\0" + b"x" * 100 + b"\x10\0\0\0ARROW1", "cannot be read as an Arrow file"),
        (b"ARROW1\0\0" + b"x" * 100 + b"\xff\xff\0\0ARROW1", "cannot be read as an Arrow file"),
    ],
)
def test_broken_file_is_named(tmp_path: Path, contents: bytes, message: str) -> None:
    (tmp_path / "a.arrow").write_bytes(contents)
    with pytest.raises(DataError, match=rf"a\.arrow.*{message}"):
        read_ipc(tmp_path / "a.arrow")


def test_cut_file_is_named(write: Write) -> None:
    path = write("a.arrow", mixed(2_000), 500)
    source = read_ipc(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="changed after the table was made"):
        whole(source)
    with pytest.raises(DataError, match="without its end"):
        read_ipc(path)
    path.unlink()
    with pytest.raises(DataError, match="does not exist"):
        whole(source)


def test_damaged_name_within_a_column_is_told_of(write: Write) -> None:
    path = write("a.arrow", mixed(20), 20)
    path.write_bytes(path.read_bytes().replace(b"index", b"ind\xddx"))  # of a sparse vector
    with pytest.raises(DataError, match=r"a\.arrow cannot be read as an Arrow file: 'utf-8' codec"):
        read_ipc(path)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("times", quick([50, 150], 1))
def test_random_damage_never_shows_an_error_that_is_not_ours(
    times: int, write: Write, codec: str | None
) -> None:
    path = write("a.arrow", mixed(60), 30, codec)
    whole_file, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(times):
        data = bytearray(whole_file)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        with suppress(DataError, SchemaError):
            whole(read_ipc(path))


def test_stamp_is_that_of_the_contents_and_the_source_travels(write: Write) -> None:
    source = read_ipc(write("a.ipc", mixed(1_000), 400))
    same = read_ipc(write("b.ipc", mixed(1_000), 400))
    assert same.stamp == source.stamp
    assert repr(same) != repr(source)
    assert read_ipc(write("c.ipc", mixed(1_000), 300)).stamp != source.stamp
    copy: Any = pickle.loads(pickle.dumps(source))
    assert copy.stamp == source.stamp
    assert to_table(copy).equals(to_table(source))


def spoiled(tmp_path: Path, column: pa.Array, before: bytes, after: bytes) -> Path:
    """A file of one column with other bytes in its metadata."""
    path = tmp_path / "a.arrow"
    table = pa.table({"x": column})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    data = path.read_bytes()
    assert before in data
    path.write_bytes(data.replace(before, after))
    return path


def test_list_of_a_negative_size_is_a_damaged_footer(tmp_path: Path) -> None:
    column = pa.array([[0.5] * 3_333], pa.list_(pa.float64(), 3_333))
    sizes = ((n).to_bytes(4, "little", signed=True) for n in (3_333, -5))
    path = spoiled(tmp_path, column, *sizes)
    with pytest.raises(DataError, match=r"a\.arrow .*the footer is damaged: column 'x'"):
        read_ipc(path)


@pytest.mark.parametrize("told", [5, 7])
@pytest.mark.parametrize("values", [[1.5, None] * 6, ["a", None] * 6])
def test_count_of_nulls_that_is_wrong(tmp_path: Path, values: list[Any], told: int) -> None:
    nodes = ((12).to_bytes(8, "little") + n.to_bytes(8, "little") for n in (6, told))
    source = read_ipc(spoiled(tmp_path, pa.array(values), *nodes))
    with pytest.raises(DataError, match=rf"a\.arrow .* is told to have {told} nulls"):
        whole(source)

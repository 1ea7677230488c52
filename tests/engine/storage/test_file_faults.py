"""Many files, huge ones, and files that break: metadata alone, few open at a time, named errors."""

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import scalops as so
from scalops.algebra.errors import DataError, SchemaError
from scalops.engine.storage import FileSource, read_csv, read_ipc, read_parquet
from tests.engine.storage.reading import values, whole

TRAILER = 8


def write(folder: Path, name: str, group: int = 100, **columns: Any) -> Path:
    path = folder / name
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def spoil(path: Path, start: int, size: int) -> None:
    """Flip bytes, leaving the time of change as it was."""
    times = os.stat(path)
    data = bytearray(path.read_bytes())
    data[start : start + size] = bytes(255 - b for b in data[start : start + size])
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def pages(path: Path, group: int) -> tuple[int, int]:
    """Where the pages of a row group's first column lie."""
    chunk = pq.read_metadata(path).row_group(group).column(0)
    return chunk.dictionary_page_offset or chunk.data_page_offset, chunk.total_compressed_size


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """No more than 64 files open beyond those that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(map(int, os.listdir("/proc/self/fd"))) + 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_descriptors")
@pytest.mark.parametrize("form", ["parquet", "csv", "ipc"])
def test_more_files_than_may_be_open(tmp_path: Path, form: str) -> None:
    count = 200
    for i in range(count):
        table = pa.table({"x": [i, 2 * i]})
        path = tmp_path / f"{i:03}.{form}"
        if form == "parquet":
            pq.write_table(table, path)
        elif form == "csv":
            path.write_text(f"x\n{i}\n{2 * i}\n")
        else:
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
                file.write_table(table)
    table = getattr(so, f"read_{form}")(tmp_path)
    total, rows = so.collect(table.sum(lambda r: r.x), table.count())
    assert (total, rows) == (3 * sum(range(count)), 2 * count)


@pytest.mark.long
@pytest.mark.usefixtures("few_descriptors")
def test_ten_thousand_files(tmp_path: Path) -> None:
    count = 10_000
    for i in range(count):
        (tmp_path / f"k={i % 10}").mkdir(exist_ok=True)
        pq.write_table(pa.table({"x": [i, i]}), tmp_path / f"k={i % 10}" / f"{i:04}.parquet")
    table = so.read_parquet(tmp_path)
    assert table.sum(lambda r: r.x).collect() == 2 * sum(range(count))
    assert table.filter(lambda r: (r.k == 3) & (r.x < 100)).count().collect() == 20


def test_a_huge_file_is_counted_by_its_metadata(tmp_path: Path) -> None:
    path = write(tmp_path, "a.parquet", 100_000, x=np.zeros(100_000))
    start, size = pages(path, 0)
    metadata = pq.read_metadata(path)
    for _ in range(10):  # doubles the row groups, which share their pages
        metadata.append_row_groups(metadata)
    footer = tmp_path / "footer"
    metadata.write_metadata_file(footer)
    with open(path, "r+b") as file:
        file.truncate(start + size)
        file.seek(0, os.SEEK_END)
        file.write(footer.read_bytes()[4:])
    table = so.read_parquet(path)
    spoil(path, start, size)
    assert table.count().collect() == 100_000 << 10
    assert "TableScan a.parquet: no columns" in table.count().explain("physical")
    assert "102_400_000 rows" in table.count().explain("physical")
    with pytest.raises(DataError, match=r"a\.parquet"):
        table.limit(1).collect()


def test_only_the_read_columns_and_row_groups_are_touched(tmp_path: Path) -> None:
    path = write(tmp_path, "a.parquet", x=np.arange(400), y=np.arange(400.0))
    for group in (1, 2):  # not the first, on some records of which functions are tried
        spoil(path, *pages(path, group))
    table = so.read_parquet(path)
    assert table.sum(lambda r: r.y).collect() == sum(range(400))
    assert table.filter(lambda r: r.x >= 300).sum(lambda r: r.x).collect() == sum(range(300, 400))
    table = so.read_parquet(write(tmp_path, "b.parquet", 50_000, x=np.arange(200_000)))
    spoil(tmp_path / "b.parquet", *pages(tmp_path / "b.parquet", 3))
    assert table.limit(3).collect().column("x").to_pylist() == [0, 1, 2]


def test_unreadable_row_group_names_file_and_row_group(tmp_path: Path) -> None:
    path = write(tmp_path, "a.parquet", x=np.arange(400))
    table = so.read_parquet(path)
    spoil(path, *pages(path, 2))
    with pytest.raises(DataError, match=r"a\.parquet.*row group 2"):
        table.sum(lambda r: r.x).collect()


def test_file_that_is_being_written_or_empty_among_many(tmp_path: Path) -> None:
    for i in range(12):
        write(tmp_path, f"{i:02}.parquet", x=np.arange(3))
    last = tmp_path / "11.parquet"
    whole = last.read_bytes()
    last.write_bytes(whole[:-TRAILER])
    with pytest.raises(DataError, match=r"11\.parquet is a Parquet file without its end"):
        read_parquet(tmp_path)
    last.write_bytes(b"")
    with pytest.raises(DataError, match=r"11\.parquet is not a Parquet file: it has 0 bytes"):
        read_parquet(tmp_path)
    (tmp_path / "a.csv").write_text("x\n1\n")
    (tmp_path / "b.csv").write_text("")
    assert so.read_csv(str(tmp_path / "*.csv")).count().collect() == 1
    (tmp_path / "a.arrow").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.arrow is not an Arrow file"):
        read_ipc(tmp_path)


def test_empty_folder_and_missing_permission_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="has no file that ends in"):
        read_parquet(tmp_path)
    path = write(tmp_path, "a.parquet", x=[1])

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # the tests may run as root, who may all
    with pytest.raises(DataError, match=r"a\.parquet may not be read: permission denied"):
        read_parquet(path)


def test_other_columns_in_the_last_of_many_files_are_named(tmp_path: Path) -> None:
    for i in range(300):
        write(tmp_path, f"{i:03}.parquet", x=[1], y=[0.5])
    write(tmp_path, "299.parquet", x=["a"], z=[0.5])
    with pytest.raises(SchemaError, match=r"299\.parquet has other columns than .*000") as error:
        read_parquet(tmp_path)
    for part in ("'x' is string instead of int64", "'y' is missing", "'z' is float64"):
        assert part in str(error.value)


def test_folder_removed_after_the_table_was_made(tmp_path: Path) -> None:
    (tmp_path / "k=1").mkdir()
    path = write(tmp_path / "k=1", "a.parquet", x=[1])
    table = so.read_parquet(tmp_path)
    path.unlink()
    path.parent.rmdir()
    with pytest.raises(DataError, match=r"k=1/a\.parquet is gone since the table was made"):
        table.sum(lambda r: r.x).collect()


@pytest.mark.parametrize("form", ["parquet", "csv", "ipc"])
def test_a_file_that_changed_is_not_read_again(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"a.{form}"

    def put(first: int) -> None:
        table = pa.table({"x": [first, 2, 3]})
        if form == "parquet":
            pq.write_table(table, path)
        elif form == "csv":
            path.write_text(f"x\n{first}\n2\n3\n")
        else:
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
                file.write_table(table)
        os.utime(path, ns=(first, first))

    put(1)
    readers: dict[str, Callable[..., FileSource]] = {
        "parquet": read_parquet, "csv": read_csv, "ipc": read_ipc,
    }  # fmt: skip
    source = readers[form](path)
    assert values(whole(source), "x").tolist() == [1, 2, 3]
    put(5)  # of the same size, as between two iterations of a loop
    with pytest.raises(DataError, match=rf"a\.{form} changed after the table was made"):
        whole(source)


@pytest.mark.parametrize("change", ["cut", "longer", "gone"])
def test_a_parquet_file_that_changed_between_iterations_is_called_so(
    tmp_path: Path, change: str
) -> None:
    path = write(tmp_path, "a.parquet", x=list(range(300)))
    source = read_parquet(path)
    whole(source)
    data = path.read_bytes()
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-20] if change == "cut" else data + b"more")
    wanted = "is gone since" if change == "gone" else "changed after"
    with pytest.raises(DataError, match=rf"a\.parquet {wanted} the table was made"):
        whole(source)


def test_pages_are_compared_with_their_checksums(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"x": np.arange(1_000.0)})
    options: dict[str, Any] = {"use_dictionary": False, "compression": "none"}
    pq.write_table(table, path, write_page_checksum=True, **options)
    start, size = pages(path, 0)
    spoil(path, start + size - 80, 8)  # a value: without checksums it would be another
    with pytest.raises(DataError, match=r"a\.parquet.*row group 0"):
        whole(read_parquet(path))


@pytest.mark.parametrize("kind", ["plain", "dictionary", "list", "record"])
def test_text_that_is_not_utf8_is_named(tmp_path: Path, kind: str) -> None:
    texts = pa.array([b"good", b"\xff\xfe"], pa.binary()).view(pa.string())
    column = {
        "plain": texts,
        "dictionary": pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), texts),
        "list": pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), texts),
        "record": pa.StructArray.from_arrays([texts], ["y"]),
    }[kind]
    path = write(tmp_path, "a.parquet", x=column)
    with pytest.raises(DataError, match=r"a\.parquet: column 'x.*' of row group 0 .*UTF8"):
        whole(read_parquet(path))


def test_files_that_the_system_makes_up_are_refused() -> None:
    with pytest.raises(DataError, match="/proc/cpuinfo is not a regular file on disk"):
        so.read_text("/proc/cpuinfo")

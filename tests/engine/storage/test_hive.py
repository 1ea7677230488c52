"""Folders named key=value give columns, of every format."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import scalops as so
from scalops.algebra.errors import SchemaError
from scalops.engine.storage import FileSource, read_csv, read_parquet
from tests.engine.storage.reading import to_table

WRITERS: dict[str, Callable[[pa.Table, Path], object]] = {
    "parquet": lambda t, path: pq.write_table(t, path, row_group_size=3),
    "ipc": lambda t, path: _ipc(t, path),
    "csv": lambda t, path: path.write_text(
        "x\n" + "".join(f"{x}\n" for x in t.column("x").to_pylist())
    ),
    "json": lambda t, path: path.write_text(
        "".join(f'{{"x": {x}}}\n' for x in t.column("x").to_pylist())
    ),
    "text": lambda t, path: path.write_text("".join(f"{x}\n" for x in t.column("x").to_pylist())),
    "libsvm": lambda t, path: path.write_text(
        "".join(f"{x} 1:1\n" for x in t.column("x").to_pylist())
    ),
}
SUFFIXES = {"text": "txt", "libsvm": "svm"}


def _ipc(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


def put(folder: Path, name: str, x: list[int], form: str = "parquet") -> Path:
    """A file of the column x under folder/name."""
    path = folder / f"{name}.{SUFFIXES.get(form, form)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[form](pa.table({"x": pa.array(x, pa.int64())}), path)
    return path


def sales(folder: Path, form: str = "parquet") -> Path:
    put(folder, "year=2020/city=S%C3%A3o%20Paulo/a", [1, 2, 3, 4], form)
    put(folder, "year=2020/city=Rome/a", [5], form)
    put(folder, "year=2021/city=__HIVE_DEFAULT_PARTITION__/a", [6, 7], form)
    return folder


EXPECTED = {
    "year": [2020] * 5 + [2021] * 2,
    "city": ["Rome"] + ["São Paulo"] * 4 + [None] * 2,
}


@pytest.mark.parametrize("form", WRITERS)
def test_every_format_has_the_folders_columns_behind_its_own(tmp_path: Path, form: str) -> None:
    table = getattr(so, f"read_{form}")(sales(tmp_path, form))
    assert table.schema.names[-2:] == ("year", "city")
    assert str(table.schema["year"]) == "int64"
    found = table.collect()
    assert {name: found.column(name).to_pylist() for name in EXPECTED} == EXPECTED
    own = table.schema.names[0]
    assert [float(v) for v in found.column(own).to_pylist()] == [5, 1, 2, 3, 4, 6, 7]
    years = getattr(so, f"read_{form}")(tmp_path, columns=["year"])
    assert years.schema.names == ("year",)
    assert years.collect().column("year").to_pylist() == EXPECTED["year"]
    assert table.filter(lambda r: r.year == 2021).count().collect() == 2


def test_records_are_those_of_duckdb_and_arrow(tmp_path: Path) -> None:
    table = to_table(read_parquet(sales(tmp_path))).sort_by("x")
    arrow = ds.dataset(tmp_path, partitioning="hive", format="parquet").to_table().sort_by("x")
    assert table.to_pylist() == arrow.to_pylist()
    found = duckdb.execute(
        f"select x, year, city from read_parquet('{tmp_path}/**/*.parquet',"
        " hive_partitioning=true) order by x"
    ).fetchall()
    assert [tuple(row.values()) for row in table.to_pylist()] == found


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (["1", "-02"], "int64", [1, -2]),
        (["1", "2.5e1"], "float64", [1.0, 25.0]),
        (["1", "__HIVE_DEFAULT_PARTITION__"], "int64", [1, None]),
        (["1", "x"], "string", ["1", "x"]),
        (["9" * 20, "9" * 19 + "8"], "string", ["9" * 20, "9" * 19 + "8"]),
        (["nan", "1"], "string", ["nan", "1"]),
        (["0x1F", "1"], "string", ["0x1F", "1"]),
        (["2024-02-29", "2024-03-01"], "timestamp[s]", None),
        (["2024-02-30", "2024-03-01"], "string", ["2024-02-30", "2024-03-01"]),
        (["a%2Fb", "a%3Db"], "string", ["a/b", "a=b"]),
    ],
)
def test_types_are_found_over_all_values(
    tmp_path: Path, values: list[str], kind: str, expected: list[Any] | None
) -> None:
    for i, value in enumerate(values):
        put(tmp_path, f"{i}/k={value}/a", [i])
    source = read_parquet(tmp_path)
    assert str(source.schema["k"]) == kind
    found = to_table(source).column("k").to_pylist()
    if expected is None:
        assert [str(v.date()) for v in found] == values
    else:
        assert found == expected


def test_schema_given_by_the_user_wins(tmp_path: Path) -> None:
    put(tmp_path, "id=007/a", [1])
    found = so.read_parquet(tmp_path, hive_schema={"id": "string"}).collect()
    assert found.column("id").to_pylist() == ["007"]
    with pytest.raises(SchemaError, match=r"hive_schema names \['ids'\]"):
        read_parquet(tmp_path, hive_schema={"ids": "string"})
    put(tmp_path, "id=x/a", [1])
    with pytest.raises(SchemaError, match=r"id=x/a\.parquet lies in a folder id=x; expected int"):
        read_parquet(tmp_path, hive_schema={"id": "int64"})


def test_which_folders_count(tmp_path: Path) -> None:
    path = put(tmp_path, "a=1/b=2/f", [1])

    def columns(paths: Any, **options: Any) -> tuple[str, ...]:
        return read_parquet(paths, **options).schema.names[1:]

    assert columns(tmp_path) == ("a", "b")
    assert columns(tmp_path / "a=1") == ("b",)
    assert columns(str(tmp_path / "a=*" / "b=2" / "*.parquet")) == ("a", "b")
    assert columns(str(tmp_path / "a=1" / "b=2" / "*.parquet")) == ()
    assert columns(path) == ()
    assert columns([path, path]) == ()
    assert columns(path, hive_partitioning=True) == ("a", "b")
    assert columns(tmp_path, hive_partitioning=False) == ()


def test_files_in_folders_of_other_keys_are_named(tmp_path: Path) -> None:
    put(tmp_path, "a=1/f", [1])
    put(tmp_path, "b=1/f", [1])
    with pytest.raises(SchemaError, match=r"b=1/f\.parquet lies in folders of the keys \['b'\]"):
        read_parquet(tmp_path)
    assert read_parquet(tmp_path, hive_partitioning=False).schema.names == ("x",)


def test_the_folder_wins_over_a_column_of_the_file_in_its_type(tmp_path: Path) -> None:
    for year in (2020, 2021):
        folder = tmp_path / f"year={year}"
        folder.mkdir()
        pq.write_table(
            pa.table({"year": pa.array([1, 2], pa.int16()), "x": [1, 2]}), folder / "a.parquet"
        )
    source = read_parquet(tmp_path)
    assert str(source.schema) == "x: int64, year: int16"
    assert to_table(source).column("year").to_pylist() == [2020, 2020, 2021, 2021]
    (tmp_path / "year=none").mkdir()
    pq.write_table(
        pa.table({"year": pa.array([1], pa.int16()), "x": [1]}), tmp_path / "year=none" / "a.pq"
    )
    with pytest.raises(
        SchemaError, match=r"year=none/a\.pq .* the file's own column 'year' is int"
    ):
        read_parquet(tmp_path)


def test_bad_records_of_text_keep_the_folders_values(tmp_path: Path) -> None:
    for year, lines in ((1, "x\n1\nz\n"), (2, "x\n3\n")):
        (tmp_path / f"year={year}").mkdir()
        (tmp_path / f"year={year}" / "a.csv").write_text(lines)
    kept = {"skip": ([1, 3], [1, 2]), "null": ([1, None, 3], [1, 1, 2])}
    for mode, (x, years) in kept.items():
        source = read_csv(tmp_path, column_types={"x": "int64"}, on_error=mode)
        found = to_table(source)
        assert found.column("x").to_pylist() == x
        assert found.column("year").to_pylist() == years
        assert "1 record" in str(source.bad_records())


def test_partitions_and_blocks_are_those_of_the_files(tmp_path: Path) -> None:
    rows = 100_000
    for k in range(3):
        (tmp_path / f"k={k}").mkdir()
        pq.write_table(pa.table({"x": np.arange(rows)}), tmp_path / f"k={k}" / "a.parquet")
    source = read_parquet(tmp_path)
    found = to_table(source)
    assert found.column("k").to_numpy().tolist() == np.repeat(np.arange(3), rows).tolist()
    constant = [b for p in source.partitions() for b in source.read(p, ("k",))]
    both = [b for p in source.partitions() for b in source.read(p, ("k", "x"))]
    assert [b.rows for b in constant] == [b.rows for b in both]
    assert source.range_of("k") == (0, 2)


def test_digests_tell_folders_apart(tmp_path: Path) -> None:
    def source(value: str) -> FileSource:
        folder = tmp_path / value
        put(folder, f"k={value}/a", [1])
        return read_parquet(folder)

    one, other = source("1"), source("2")
    assert one.stamp != other.stamp
    assert one.inspected == other.inspected
    assert one.stamp != read_parquet(tmp_path / "1", hive_partitioning=False).stamp


def test_a_folder_of_the_name_of_a_column_of_records(tmp_path: Path) -> None:
    (tmp_path / "a=3").mkdir()
    pq.write_table(pa.table({"a": [{"b": 1}], "v": [2]}), tmp_path / "a=3" / "f.parquet")
    with pytest.raises(SchemaError, match=r"f\.parquet lies in a folder a=3.*holds records"):
        read_parquet(tmp_path)
    found = to_table(read_parquet(tmp_path, hive_schema={"a": "int64"}))
    assert found.to_pylist() == [{"v": 2, "a": 3}]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_come_back_as_they_were_written(tmp_path: Path, unit: str) -> None:
    times = np.array([1, 10**9 + 7], f"M8[{unit}]")
    table = so.from_arrow(pa.table({"x": [0, 1], "t": times}))
    table.write_parquet(tmp_path / "out", partition_by="t")
    found = to_table(read_parquet(tmp_path / "out"))
    assert found.column("t").type == pa.timestamp(unit)
    assert found.sort_by("x").column("t").to_numpy().tolist() == times.tolist()

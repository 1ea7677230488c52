"""Tables in folders of files: what other readers find there, and what is left when it fails."""

import hashlib
import os
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import scalops as so
from scalops.engine.storage import destinations, written
from scalops.engine.storage import writers as formats
from tests.quick import quick

WRITERS = {"parquet": "parquet", "ipc": "arrow", "csv": "csv", "json": "json"}  # and suffixes
ROWS = 2_000


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(rows: int = ROWS) -> so.Table:
    """Keys with nulls and odd texts, and values."""
    rng = np.random.default_rng(1)
    texts = ["a", "b/c=d", "50 %", None, "é", "01"]
    return so.table(
        {
            "year": rng.integers(2020, 2024, rows),
            "x": rng.normal(size=rows),
            "name": pa.array([texts[i] for i in rng.integers(0, len(texts), rows)], pa.string()),
            "n": np.arange(rows),
        }
    )


def write(t: so.Table, form: str, path: str, **options: Any) -> None:
    getattr(t, f"write_{form}")(path, **options)


def files(path: str) -> dict[str, str]:
    """The files below a folder, with a digest of each."""
    return {
        str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(Path(path).rglob("*"))
        if p.is_file()
    }


def rows_of(found: pa.Table) -> list[Any]:
    """The records in the order of `n`."""
    names = ["n", "name", "x", "year"]
    return sorted(zip(*(found[n].to_pylist() for n in names), strict=True))


def test_parquet_folders_are_read_by_arrow_and_duckdb() -> None:
    t = table()
    t.write_parquet("out", partition_by=["year", "name"])
    expected = rows_of(t.collect())
    kinds = pa.schema([("year", pa.int64()), ("name", pa.string())])
    by_arrow = ds.dataset("out", partitioning=ds.partitioning(kinds, flavor="hive")).to_table()
    assert rows_of(by_arrow) == expected
    with duckdb.connect() as connection:
        by_duckdb = connection.sql(
            "select * from read_parquet('out/**/*.parquet', hive_partitioning=true,"
            " hive_types={'year': bigint, 'name': varchar})"
        ).to_arrow_table()
    assert rows_of(by_duckdb) == expected
    (one, *_) = Path("out").rglob("*.parquet")
    assert pq.read_schema(one).names == ["x", "n"]
    assert {p.name for p in Path("out").iterdir()} == {f"year={y}" for y in range(2020, 2024)}
    assert "name=b%2Fc%3Dd" in {p.name for p in Path("out/year=2020").iterdir()}
    assert "name=__HIVE_DEFAULT_PARTITION__" in {p.name for p in Path("out/year=2020").iterdir()}


@pytest.mark.parametrize("form", WRITERS)
def test_every_format_has_folders_and_keeps_the_order_within(form: str) -> None:
    t = table(300)
    write(t, form, "out", partition_by="year")
    for year in range(2020, 2024):
        path = Path(f"out/year={year}/part-00000.{WRITERS[form]}")
        part = so.load(str(path)).collect()
        expected = t.filter(lambda r, year=year: r.year == year).drop("year").collect()
        assert part["n"].to_pylist() == expected["n"].to_pylist()
        assert part["x"].to_pylist() == expected["x"].to_pylist()
    assert len(files("out")) == 4


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        ([True, False, None], ["true", "false", None]),
        ([0.5, -0.0, 0.0], ["0.5", "0", "0"]),
        ([float("nan"), 1e300, float("inf")], ["nan", "1e%2B300", "inf"]),
        (np.array(["2020-01-02T03", "2021", "NaT"], "M8[s]"),
         ["2020-01-02%2003%3A00%3A00", "2021-01-01%2000%3A00%3A00", None]),
        (np.array([5, 7, 5], "m8[ms]"), ["5", "7", "5"]),
        (np.array([1, 2, 1], np.uint64), ["1", "2", "1"]),
    ],
)  # fmt: skip
def test_folders_are_named_by_values(column: Any, texts: list[str | None]) -> None:
    so.table({"k": column, "n": [0, 1, 2]}).write_json("out", partition_by="k")
    names = {f"k={written.NULL_FOLDER if t is None else t}" for t in texts}
    assert {p.name for p in Path("out").iterdir()} == names
    assert sum(len(p.read_text().splitlines()) for p in Path("out").rglob("*.json")) == 3


def test_files_are_split_by_records() -> None:
    t = table(1_005).sort("n")
    t.write_parquet("out", max_rows_per_file=250)
    names = [f"part-{i:05d}.parquet" for i in range(5)]
    assert list(files("out")) == names
    counts = [pq.read_metadata(f"out/{n}").num_rows for n in names]
    assert counts == [250, 250, 250, 250, 5]
    assert so.read_parquet("out").collect()["n"].to_pylist() == list(range(1_005))
    t.write_csv("both", partition_by="year", max_rows_per_file=100)
    sizes = Counter(p.parent.name for p in Path("both").rglob("*.csv"))
    years = Counter(t.collect()["year"].to_pylist())
    assert sizes == {f"year={y}": -(-n // 100) for y, n in years.items()}
    t.write_json("one/")
    assert list(files("one")) == ["part-00000.json"]


@pytest.mark.parametrize("form", WRITERS)
def test_no_records_leave_a_file_with_the_columns(form: str) -> None:
    # A filter gives blocks without records, limit() gives no block.
    for i, none in enumerate((table(20).filter(lambda r: r.n > 99), table(20).limit(0))):
        write(none, form, f"{i}.{form}")
        write(none, form, f"{i}", max_rows_per_file=9)
        write(none, form, f"{i}_keys", partition_by="year")
        kinds = {"column_types": none.schema} if form in ("csv", "json") else {}
        for path in (f"{i}.{form}", f"{i}", f"{i}_keys"):
            found = getattr(so, f"read_{form}")(path, **kinds)
            assert found.count().collect() == 0
            assert dict(found.schema) == dict(none.schema)
        assert os.listdir(f"{i}_keys") == [f"part-00000.{WRITERS[form]}"]


@pytest.mark.parametrize("name", ["_k", ".j", ""])
def test_keys_whose_folders_readers_pass_over_are_refused(name: str) -> None:
    t = so.table({name: [1, 2], "v": [1.0, 2.0]})
    with pytest.raises(so.SchemaError, match=f"no folder can be named after the column '{name}'"):
        t.write_parquet("out", partition_by=name)
    assert os.listdir() == []


def test_bytes_depend_on_the_records_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "GROUP_ROWS", 700)
    monkeypatch.setattr(formats, "_BATCH_ROWS", 500)
    t = table(4_000).repartition(20).filter(lambda r: r.x > -1)
    found = []
    for options in ({"threads": 1}, {"threads": 3, "memory": "1KB"}):
        with so.session(**options):
            for form in WRITERS:
                write(t, form, f"{form}/", overwrite=True)
                write(t, form, f"{form}_keys", partition_by="year", overwrite=True)
        found.append(files("."))
    assert found[0] == found[1]
    groups = pq.read_metadata("parquet/part-00000.parquet")
    assert groups.num_row_groups >= 2
    assert groups.row_group(0).num_rows >= 700


def test_row_groups_end_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "GROUP_BYTES", 40_000)
    so.table({"s": ["x" * 100] * 3_000}).repartition(10).write_parquet("a.parquet")
    found = pq.read_metadata("a.parquet")
    assert found.num_row_groups == 5  # of two blocks each, of 31 KB
    assert found.num_rows == 3_000


def test_functions_are_called_once_for_each_record() -> None:
    log = os.path.abspath("calls.txt")

    def seen(n: int) -> float:
        with open(log, "a") as file:
            file.write(f"{n}\n")
        return n / 2

    half = so.udf(seen, returns=so.float64)
    t = table(300).select("year", "n").repartition(20).with_columns(h=lambda r: half(r.n))
    os.unlink(log)  # some records are tried when the plan is made
    with so.session(processes=0, memory="1KB"):
        t.write_parquet("out", partition_by="year", max_rows_per_file=100)
    assert sorted(map(int, Path(log).read_text().split())) == list(range(300))


def test_a_folder_with_something_in_it_is_kept_unless_told_otherwise() -> None:
    os.mkdir("out")
    table(9).write_parquet("out", partition_by="year")  # it was empty
    before = files("out")
    with pytest.raises(so.ExecutionError, match=r"out is not empty .*overwrite=True") as error:
        table(50).write_parquet("out", partition_by="year")
    assert error.value.location is not None
    assert files("out") == before
    os.chmod("out", 0o750)
    table(9).write_csv("out", partition_by="name", overwrite=True)
    assert all(name.startswith("name=") for name in files("out"))
    assert os.stat("out").st_mode & 0o777 == 0o750
    assert os.listdir() == ["out"]


@pytest.mark.parametrize("place", ["out", "memory://filled/out"])
def test_a_folder_that_another_fills_meanwhile_is_left_alone(place: str) -> None:
    first = table(9)
    second = destinations.destination(place, None, is_folder=True, overwrite=False)
    first.write_parquet(place, max_rows_per_file=5)
    with closing(second.open("part-00000.parquet")) as file:
        file.write(b"second")
    with pytest.raises(so.ExecutionError, match="filled by another while the plan ran; it is left"):
        second.commit()
    second.abort()
    assert so.read_parquet(place).columns == first.columns
    assert so.read_parquet(place).count().collect() == 9
    assert os.listdir() == (["out"] if place == "out" else [])


def test_links_that_lead_in_a_circle_are_no_destination() -> None:
    os.symlink("loop", "loop")
    for path in ("loop", "loop/"):
        with pytest.raises(so.ExecutionError, match=r"loop cannot be written: Too many levels"):
            table(9).write_parquet(path)


@pytest.mark.parametrize("swaps", [True, False], ids=["exchanged", "renamed twice"])
def test_a_folder_may_be_written_over_what_is_read(
    swaps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not swaps:
        monkeypatch.setattr(destinations, "_exchanged", lambda one, other: False)
    table(100).write_parquet("out", max_rows_per_file=30)
    left = so.read_parquet("out").filter(lambda r: r.n < 50)
    left.write_parquet("out", max_rows_per_file=30, overwrite=True)
    assert so.read_parquet("out").collect()["n"].to_pylist() == list(range(50))
    assert os.listdir() == ["out"]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table(9).write_parquet("out/")
    before, rename = files("out"), os.rename

    def refuse(one: str, other: str) -> None:
        if not one.endswith(".old") and other.endswith("/out") and not os.path.exists(other):
            raise OSError(13, "Permission denied")
        rename(one, other)

    monkeypatch.setattr(destinations, "_exchanged", lambda one, other: False)
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(so.ExecutionError, match=r"out cannot be written: Permission denied"):
        table(50).write_parquet("out/", overwrite=True)
    assert files("out") == before
    assert os.listdir() == ["out"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"partition_by": "none"}, so.SchemaError, r"partition_by reads \['none'\]; .*'year'"),
        ({"partition_by": []}, so.PlanError, r"partition_by=\[\] is no name of a column"),
        ({"partition_by": ["n", "n"]}, so.PlanError, "names a column twice"),
        ({"partition_by": ["year", "x", "name", "n"]}, so.SchemaError, "all columns are in"),
        ({"max_rows_per_file": 0}, so.PlanError, "whole number of 1 or more"),
        ({"max_rows_per_file": True}, so.PlanError, "whole number of 1 or more"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_plan_runs(
    options: dict[str, Any], error: type[so.ScalopsError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        table().write_parquet("out", **options)
    assert caught.value.location is not None
    assert caught.value.location.file == __file__
    assert os.listdir() == []


def test_keys_that_name_no_folder_are_refused() -> None:
    t = so.table({"v": np.ones((2, 2)), "s": ["", "a"], "n": [1, 2]})
    with pytest.raises(so.SchemaError, match=r"'v' of float64\[2\] does not hold single values"):
        t.write_parquet("out", partition_by="v")
    with pytest.raises(so.ExecutionError, match=r"'s' holds '', .* cannot\s+tell a null"):
        t.write_parquet("out", partition_by="s")
    assert os.listdir() == []


@pytest.mark.parametrize("seed", quick(range(20), 3))
def test_random_tables_come_back_from_their_folders(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(0, 500))
    keys = rng.permutation(["a", "b"])[: rng.integers(1, 3)].tolist()
    data = pa.table(
        {
            "a": pa.array(rng.integers(-3, 3, rows), mask=rng.random(rows) < 0.2),
            "b": pa.array([f"{i}%" for i in rng.integers(0, 9, rows)], pa.string()),
            "n": np.arange(rows),
        }
    )
    most = int(rng.integers(1, 200)) if rng.random() < 0.5 else None
    with so.session(memory=str(rng.choice(["1KB", "1GB"]))):
        so.from_arrow(data).write_parquet("out", partition_by=keys, max_rows_per_file=most)
    if not rows:
        return
    kinds = ds.partitioning(data.select(keys).schema, flavor="hive")
    found = ds.dataset("out", partitioning=kinds).to_table().select(data.column_names)
    assert found.sort_by("n").to_pydict() == data.to_pydict()

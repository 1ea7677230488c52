"""`scalops convert` writes what the readers read, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from tests.cli.conftest import Invoke, Write

ROWS = "id,score,name\n1,0.5,x\n2,2.5,y\n3,-1,z\n"
LINES = ["1 |f a b:2", "-1 |f b"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("target", "options", "reader"),
    [
        ("b.arrow", (), so.read_ipc),
        ("b.ipc", ("--compression", "zstd"), so.read_ipc),
        ("b.feather", ("--columns", "name,id"), so.read_ipc),
        ("b.parquet", ("--compression", "none"), so.read_parquet),
        ("b.data", ("--to", "parquet"), so.read_parquet),
    ],
)
def test_files_are_written_in_the_format_of_their_suffix(
    target: str, options: tuple[str, ...], reader: Any, write: Write, invoke: Invoke
) -> None:
    write(ROWS, "a.csv")
    done = invoke("convert", "a.csv", target, *options)
    assert done.exit_code == 0, done.stderr
    columns = ["name", "id"] if "--columns" in options else None
    assert reader(target).collect() == so.read_csv("a.csv", columns=columns).collect()
    assert done.stdout.startswith(f"{target}: 3 records, 37 B read, ")
    assert not done.stderr


def test_several_files_are_one_table(write: Write, invoke: Invoke) -> None:
    write(ROWS, "a.csv")
    write("id,score,name\n9,1,w\n", "b.csv")
    assert invoke("convert", "a.csv", "b.csv", "c.arrow").exit_code == 0
    assert so.read_ipc("c.arrow").collect()["id"].to_pylist() == [1, 2, 3, 9]


def test_a_summary_as_json(write: Write, invoke: Invoke) -> None:
    write(ROWS + "4,bad,w\n", "a.csv")
    done = invoke(
        "convert", "a.csv", "b.arrow", "--on-error", "skip", "--type", "score=float64", "--json"
    )
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["records"] == 3
    assert found["bytes_in"] == Path("a.csv").stat().st_size
    assert found["bytes_out"] == Path("b.arrow").stat().st_size
    (skipped,) = found["skipped"]
    assert "1 record was skipped: " in skipped
    assert "a.csv:5: column 'score' holds 'bad', expected float64" in skipped


def test_skipped_records_are_in_the_summary(write: Write, invoke: Invoke) -> None:
    write("\n".join([*LINES, "no bar", "x |f a"]), "a.vw")
    done = invoke("convert", "a.vw", "b.arrow", "--on-error", "skip")
    assert done.exit_code == 0
    first, second = done.stdout.splitlines()
    assert first.startswith("b.arrow: 2 records")
    assert "2 records were skipped: " in second
    assert "a.vw:3: it has no '|'" in second
    assert "(" not in second.partition(": ")[0]  # no line of a program


def test_options_go_to_the_reader(write: Write, invoke: Invoke) -> None:
    write("\n".join(LINES), "a.vw")
    write("1\t2\n3\t4\n", "a.txt")
    assert invoke("convert", "a.vw", "a.arrow", "--bits", "5", "--constant").exit_code == 0
    assert str(so.read_ipc("a.arrow").schema["x"]) == "sparse[32]"
    expected = so.read_vw("a.vw", bits=5, constant=True).collect()
    assert so.read_ipc("a.arrow").collect() == expected
    done = invoke(
        *("convert", "a.txt", "b.arrow", "--from", "csv", "--delimiter", "\\t", "--no-header"),
        *("--type", "f0=float32"),
    )
    assert done.exit_code == 0, done.stderr
    assert so.read_ipc("b.arrow").collect().to_pydict() == {"f0": [1.0, 3.0], "f1": [2, 4]}
    done = invoke("convert", "a.txt", "c.arrow", "--from", "tsv", "--column-names", "a,b")
    assert so.read_ipc("c.arrow").columns == ["a", "b"]


def test_columns_are_put_together_as_vectors(write: Write, invoke: Invoke) -> None:
    write("f9,y,f10,f11\n1,2,3,4\n5,6,7,8\n", "a.csv")
    done = invoke("convert", "a.csv", "b.arrow", "--vector", "x=f9..f11", "--vector", "z=y")
    assert done.exit_code == 0, done.stderr
    table = so.read_ipc("b.arrow")
    assert str(table.schema) == "x: float64[3], z: float64[1]"
    found = table.collect()["x"].combine_chunks().flatten().to_numpy()
    np.testing.assert_array_equal(found, [1, 3, 4, 5, 7, 8])


def test_partitions_are_folders(write: Write, invoke: Invoke) -> None:
    write(ROWS, "a.csv")
    for force in ((), ("--force",)):
        done = invoke("convert", "a.csv", "b", "--to", "parquet", "--partition-by", "name", *force)
        assert done.exit_code == 0, done.stderr
        assert "b: 3 records" in done.stdout
    assert sorted(p.name for p in Path("b").iterdir()) == ["name=x", "name=y", "name=z"]


def test_a_file_that_is_there_stays_unless_forced(write: Write, invoke: Invoke) -> None:
    write(ROWS, "a.csv")
    Path("b.arrow").write_text("mine")
    done = invoke("convert", "a.csv", "b.arrow")
    assert done.exit_code == 2
    assert "b.arrow is there already: --force replaces it" in done.stderr
    assert Path("b.arrow").read_text() == "mine"
    assert invoke("convert", "a.csv", "b.arrow", "--force").exit_code == 0
    assert so.read_ipc("b.arrow").count().collect() == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.csv", "b.txt"), "OUT is b.txt: give it one of the suffixes .ipc, .arrow"),
        (("a.csv", "b.arrow", "--n-features", "3"), "--n-features does not go with csv"),
        (("a.csv", "b.arrow", "--type", "id"), "--type id: write it as in --type score=float64"),
        (("a.csv", "b.arrow", "--vector", "x=f0..g3"), "differ by a number alone"),
        (("a.csv", "b.arrow", "--vector", "x=f3..f0"), "3 comes after 0"),
        (("a.csv", "b.arrow", "--from", "xml"), "'xml' is not one of"),
        (("a.csv", "b.arrow", "--n-features", "0"), "'--n-features': 0 is not in the range"),
        (("a.csv", "b.arrow", "--bits", "31"), "'--bits': 31 is not in the range"),
        (("a.csv", "b.arrow", "--delimiter", ";;"), "--delimiter: delimiter=';;' must be one"),
        (("a.csv", "b.arrow", "--type", "id=bogus"), "--type: id=bogus: there is no such type"),
        (("a.csv", "b.arrow", "--compression", "gzip"), "--compression: compression='gzip'"),
        (("a.csv", "b.parquet", "--compression", "bogus"), "known are none, snappy"),
        (("a.csv", "b.arrow", "--vector", "x=id,nme"), "--vector: assemble reads 'nme'"),
        (("a.csv", "b.arrow", "--vector", "x=id,name"), "Invalid value for --vector: "),
        (("a.csv", "memory://b.arrow"), "OUT is memory://b.arrow, which would be gone"),
        (("a.csv", "a.csv", "--to", "ipc", "--force"), "OUT is a.csv, and "),
        (("*.csv", "l.csv", "--to", "ipc", "--force"), "a.csv is read from there"),
        ((".", ".", "--from", "csv", "--to", "ipc", "--partition-by", "id", "--force"), "OUT is ."),
    ],
)
def test_a_command_line_that_makes_no_sense_is_a_usage_error(
    arguments: tuple[str, ...], message: str, write: Write, invoke: Invoke
) -> None:
    write(ROWS, "a.csv")
    Path("l.csv").symlink_to("a.csv")
    done = invoke("convert", *arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert sorted(p.name for p in Path().iterdir()) == ["a.csv", "l.csv"]
    assert Path("a.csv").read_text() == ROWS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no.csv", "b.arrow"), "DataError: no file 'no.csv'"),
        (("a.xyz", "b.arrow"), "PlanError: no reader for a.xyz"),
        (("a.csv", "no/b.arrow"), "ExecutionError: "),
        (("a.csv", "b.arrow", "--type", "name=float64"), "a.csv:2: column 'name' holds 'x'"),
        (("a.csv", "b.arrow", "--columns", "nme"), "SchemaError: columns=['nme']"),
    ],
)
def test_what_fails_leaves_nothing_behind(
    arguments: tuple[str, ...], message: str, write: Write, invoke: Invoke
) -> None:
    write(ROWS, "a.csv")
    Path("a.xyz").write_text("")
    done = invoke("convert", *arguments)
    assert done.exit_code == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in Path().iterdir()) == ["a.csv", "a.xyz"]


def test_progress_is_told_on_standard_error(write: Write, invoke: Invoke) -> None:
    write(ROWS, "a.csv")
    done = invoke("convert", "a.csv", "b.arrow", "--progress")
    assert done.exit_code == 0, done.stderr
    assert done.stderr == "100% read\n"


def test_it_takes_little_memory(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    table = pa.table({f"f{i}": rng.random(60_000) for i in range(5)})
    so.from_arrow(table).write_csv("a.csv")
    monkeypatch.setenv("SCALOPS_MEMORY", "100KB")
    done = invoke("convert", "a.csv", "b.arrow", "--vector", "x=f0..f4")
    assert done.exit_code == 0, done.stderr
    found = so.read_ipc("b.arrow").collect()["x"].combine_chunks().flatten().to_numpy()
    expected = np.stack([c.to_numpy() for c in table.columns], 1).reshape(-1)
    np.testing.assert_allclose(found, expected)

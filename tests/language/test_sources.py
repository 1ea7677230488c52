"""Readers, `load` and `empty`: what a user reads from files, and what bad records do."""

import gzip
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
from sklearn.datasets import dump_svmlight_file

import scalops as so

BAD_CSV = "a,b\n1,x\nzz,y\n3\n4,z\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def here() -> str:
    return Path(__file__).name


def test_text_has_one_column_without_line_ends() -> None:
    Path("a.txt").write_bytes(b"one\r\n\ntwo # x\nthree")
    lines = so.read_text("a.txt")
    assert lines.columns == ["line"]
    assert lines.collect().to_pydict() == {"line": ["one", "", "two # x", "three"]}
    assert lines.filter(lambda r: ~r.line.str.contains("#")).count().collect() == 3


def test_libsvm_gives_labels_and_sparse_vectors() -> None:
    x: Any = sp.random_array((200, 12), density=0.3, rng=0, format="csr")
    y = np.sign(np.random.default_rng(0).normal(size=200))
    dump_svmlight_file(x, y, "a.svm", zero_based=False)
    table = so.read_libsvm("a.svm")
    assert str(table.schema) == "y: float64, x: sparse[12]"
    w = np.arange(12.0)
    found = table.map(lambda r: r.y * (r.x @ w)).sum().collect()
    assert found == pytest.approx(float((y * (x @ w)).sum()))
    gradient = table.sum(lambda r: r.y * r.x).collect()
    np.testing.assert_allclose(gradient, x.T @ y)
    assert str(so.read_libsvm("a.svm", n_features=20).schema["x"]) == "sparse[20]"


@pytest.mark.parametrize("threads", [1, 2])
def test_any_threads_and_little_memory_give_the_same_bits(threads: int) -> None:
    rng = np.random.default_rng(0)
    x = sp.random_array((9_000, 60), density=0.2, rng=rng, format="csr")
    dump_svmlight_file(x, rng.random(9_000), "a.svm", zero_based=False)
    so.read_libsvm("a.svm").write_ipc("a.ipc")
    Path("a.json").write_text("\n".join(f'{{"v":{v!r}}}' for v in rng.random(40_000).tolist()))
    tables = {"svm": so.read_libsvm("a.svm"), "ipc": so.read_ipc("a.ipc")}
    sums: dict[str, Any] = {n: t.sum(lambda r: r.y * r.x) for n, t in tables.items()}
    sums["json"] = so.read_json("a.json").sum("v")
    expected = so.collect(sums, threads=1)
    found = so.collect({n: s + 0 for n, s in sums.items()}, threads=threads, memory="64MB")
    for name in sums:
        np.testing.assert_array_equal(found[name], expected[name])


def test_json_lines_are_records() -> None:
    Path("a.json").write_text('{"id":1,"tags":["a","b"]}\n{"id":2,"tags":[]}\n')
    table = so.read_json("a.json")
    assert str(table.schema) == "id: int64, tags: list[string]"
    assert table.collect().to_pydict() == {"id": [1, 2], "tags": [["a", "b"], []]}
    vectors = so.read_json("a.json", columns=["id"], column_types={"id": so.float32})
    assert str(vectors.schema) == "id: float32"


def test_paths_lists_globs_folders_and_compressed_files() -> None:
    os.mkdir("logs")
    for name, text in (("b.txt", "b\n"), ("a.txt", "a\n"), ("_c.txt", "c\n"), ("d.log", "d\n")):
        Path("logs", name).write_text(text)
    with gzip.open("logs/e.txt.gz", "wt") as file:
        file.write("e\n")

    def lines(path: Any) -> list[Any]:
        found: list[Any] = so.read_text(path).collect().column("line").to_pylist()
        return found

    assert lines("logs") == ["a", "b", "e"]
    assert lines("logs/*.txt") == ["a", "b"]
    assert lines(["logs/d.log", Path("logs/a.txt")]) == ["d", "a"]
    assert lines(f"file://{os.getcwd()}/logs/b.txt") == ["b"]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.csv", lambda t, p: t.write_csv(p)),
        ("a.tsv", lambda t, p: t.write_csv(p, delimiter="\t")),
        ("a.csv.gz", lambda t, p: t.write_csv(p)),
        ("A.PARQUET", lambda t, p: t.write_parquet(p)),
        ("a.pq", lambda t, p: t.write_parquet(p)),
        *((f"a.{s}", lambda t, p: t.write_ipc(p)) for s in ("ipc", "arrow", "feather")),
        *((f"a.{s}", lambda t, p: t.write_json(p)) for s in ("json", "jsonl", "ndjson.gz")),
    ],
)
def test_load_reads_by_suffix(name: str, write: Any) -> None:
    table = so.table({"i": [1, 2], "s": ["a", "b"]})
    write(table, name)
    assert so.load(name).collect() == table.collect()
    assert so.load(name, columns=["s"]).columns == ["s"]
    assert so.load([name, Path(name)]).count().collect() == 4


def test_load_reads_text_and_libsvm_and_passes_options() -> None:
    Path("a.txt").write_text("1 2:3\n")
    for suffix in ("libsvm", "svm", "svmlight"):
        Path(f"a.{suffix}").write_text("1 2:3\n")
        assert str(so.load(f"a.{suffix}").schema) == "y: float64, x: sparse[2]"
    assert so.load("a.txt").columns == ["line"]
    assert str(so.load("a.svm", n_features=9).schema["x"]) == "sparse[9]"
    os.mkdir("folder")
    os.rename("a.svm", "folder/a.svm")
    assert so.load("folder").columns == so.load("folder/*").columns == ["y", "x"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: so.load("a.xyz"), r"'\.xyz' is not known .*; known are \.csv, \.tsv, \.parquet"),
        (lambda: so.load("plain"), "a name without suffix' is not known"),
        (lambda: so.load("a.parquet.gz"), r"'\.gz' is not known"),
        (lambda: so.load("both"), r"files of several formats: .*a\.csv and .*b\.txt"),
        (lambda: so.load("a.csv", n_features=3), r"n_features=\.\.\.\) reads with so.read_csv"),
        (lambda: so.load("a.csv", filesystem=object()), r"filesystem=<object .* no filesystem"),
        (lambda: so.read_text("a.csv", on_error="ignore"), 'must be "raise", "skip" or "null"'),
        (lambda: so.read_text("foo://b/a.txt"), "foo://b/a.txt: Protocol not known: foo"),
        (lambda: so.load("file://b/a.txt"), "another host's"),
        (lambda: so.read_text([]), "no file to read"),
        (lambda: so.read_libsvm("a.csv", n_features=1.5), "n_features=1.5 must be an int"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_loaded_is_a_plan_error_at_the_line(call: Any, message: str) -> None:
    os.mkdir("both")
    for name in ("a.xyz", "plain", "a.parquet.gz", "a.csv", "both/a.csv", "both/b.txt"):
        Path(name).write_text("a\n1\n")
    with pytest.raises(so.PlanError, match=message) as error:
        call()
    assert error.value.location is not None
    assert error.value.location.file.endswith(here())


@pytest.mark.parametrize(
    "reader", ["read_csv", "read_json", "read_text", "read_libsvm", "read_ipc"]
)
def test_hostile_paths_are_data_errors_at_the_line(reader: str) -> None:
    os.mkdir("empty")
    os.mkdir("folder.txt")
    Path("secret").write_text("a\n")
    os.chmod("secret", 0)
    os.mkfifo("pipe")
    read = getattr(so, reader)
    for path in ("missing", "empty", "no*match", "pipe", *(["secret"] if os.geteuid() else [])):
        with pytest.raises(so.DataError, match=path.replace("*", r"\*")) as error:
            read(path)
        assert error.value.location is not None
        assert error.value.location.file.endswith(here())


@pytest.mark.parametrize("mode", ["skip", "null"])
def test_bad_records_are_counted_in_one_warning(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    Path("a.csv").write_text(BAD_CSV)
    table = so.read_csv("a.csv", on_error=mode, column_types={"a": so.int64})
    with caplog.at_level(logging.WARNING, "scalops"):
        found = table.collect().to_pydict()
    expected = {
        "skip": {"a": [1, 4], "b": ["x", "z"]},
        "null": {"a": [1, None, 3, 4], "b": ["x", "y", None, "z"]},
    }
    assert found == expected[mode]
    (message,) = caplog.messages
    does = {"skip": "were skipped", "null": "have nulls for what cannot be read"}
    assert f"a.csv ({here()}:" in message
    assert f"2 records {does[mode]}: " in message
    assert "a.csv:3: column 'a' holds 'zz', expected int64" in message
    assert "a.csv:4 has 1 field, expected 2" in message


def test_loop_over_bad_records_warns_once_and_counts_each_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lines = [f"{i},1.5" if i % 1_000 else "bad" for i in range(50_000)]
    Path("a.csv").write_text("i,v\n" + "\n".join(lines))
    table = so.read_csv("a.csv", on_error="skip")

    @so.loop(0.0, range(3))
    def total(env: Any) -> Any:
        return env + table.sum(lambda r: r.v + 0 * env)

    with caplog.at_level(logging.WARNING, "scalops"):
        assert so.collect(total, memory="64MB") == pytest.approx(3 * 1.5 * (50_000 - 50))
    (message,) = [m for m in caplog.messages if "skipped" in m]
    assert "50 records were skipped" in message
    assert "and 47 more" in message
    caplog.clear()
    with caplog.at_level(logging.WARNING, "scalops"):
        assert table.count().collect() == 49_950
    assert len(caplog.messages) == 1


def test_good_records_warn_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    Path("a.csv").write_text("a\n1\n")
    with caplog.at_level(logging.WARNING, "scalops"):
        so.read_csv("a.csv", on_error="skip").collect()
    assert not caplog.messages


def test_raise_names_file_line_and_text() -> None:
    Path("a.csv").write_text("a\n1\n2\nx9\n")
    Path("a.json").write_text('{"a":1}\n{"a":"x9"}\n')
    Path("a.txt").write_bytes(b"ok\nx9\xff\n")
    Path("a.svm").write_text("1 1:2\nx9 1:2\n")
    cases: list[tuple[Any, int]] = [
        (lambda: so.read_csv("a.csv", column_types={"a": so.int64}), 4),
        (lambda: so.read_json("a.json", column_types={"a": "int64"}), 2),
        (lambda: so.read_text("a.txt"), 2),
        (lambda: so.read_libsvm("a.svm"), 2),
    ]
    for read, line in cases:
        with pytest.raises(so.DataError, match=rf":{line}: .*x9"):
            read().collect()


@pytest.mark.parametrize(
    "schema",
    [
        {"i": so.int64, "v": so.vector(2), "l": so.list_(so.string), "t": so.timestamp},
        {"i": "int64", "v": "float64[2]", "l": "list[string]", "t": "timestamp[us]"},
        {"i": int, "v": so.vector(2), "l": so.list_(so.string), "t": "timestamp[us]"},
        pa.schema(
            [
                ("i", pa.int64()),
                ("v", pa.list_(pa.float64(), 2)),
                ("l", pa.list_(pa.string())),
                ("t", pa.timestamp("us")),
            ]
        ),
    ],
)
def test_empty_takes_types_names_and_schemas(schema: Any) -> None:
    table = so.empty(schema)
    assert str(table.schema) == "i: int64, v: float64[2], l: list[string], t: timestamp[us]"
    assert table.collect().num_rows == 0
    assert table.count().collect() == 0
    np.testing.assert_array_equal(table.sum("v").collect(), [0, 0])
    again = so.empty(table.schema)
    assert str(again.schema) == str(table.schema)
    assert again.union(so.table({"i": [1], "v": [[1.0, 2]], "l": [["a"]], "t": ["x"]}).drop("t")
                       .with_columns(t=lambda r: so.cast(r.i, "timestamp[us]"))
                       ).count().collect() == 1  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({}, "at least one column"),
        ({"a": "integer"}, "the column 'a' has the type 'integer' .*; types are so.float64"),
        ({"a": complex}, "the column 'a' has the type"),
        ({1: "int64"}, "the column 1 has"),
        (["a"], "so.empty takes a dict of types by column name, not a list"),
        (pa.schema([("a", pa.decimal128(5))]), "so.empty: column 'a' has the Arrow type decimal"),
    ],
)
def test_empty_of_what_is_no_schema_is_refused(schema: Any, message: str) -> None:
    with pytest.raises(so.SchemaError, match=message) as error:
        so.empty(schema)
    assert error.value.location is not None
    assert error.value.location.file.endswith(here())


def test_tables_take_scipy_matrices_and_lists() -> None:
    x = sp.random_array((30, 5), density=0.4, rng=0, format="csc")
    table = so.table({"x": x, "t": [["a"] * (i % 3) for i in range(30)]})
    assert str(table.schema) == "x: sparse[5], t: list[string]"
    collected = table.collect()
    assert collected.schema.field("x").metadata == {b"scalops:dimension": b"5"}
    assert collected.column("t").to_pylist()[:3] == [[], ["a"], ["a", "a"]]
    assert str(so.from_arrow(collected).schema) == str(table.schema)
    records = so.table([{"t": ["a", "b"]}, {"t": ["c"]}, {}])
    assert records.collect().to_pydict() == {"t": [["a", "b"], ["c"], None]}


def test_json_types_from_another_table() -> None:
    Path("a.json").write_text(json.dumps({"v": [1, 2], "i": 3}))
    table = so.table({"v": [[0.5, 1.5]], "i": np.array([1], np.int8)})
    assert str(so.read_json("a.json", column_types=table.schema).schema) == str(table.schema)
    with pytest.raises(so.SchemaError, match="must be a dict of types"):
        so.read_json("a.json", column_types=[1])  # type: ignore[arg-type]


def test_explain_of_sources_reads_no_records() -> None:
    Path("a.txt").write_text("a\n")
    so.table({"i": [1]}).write_ipc("a.ipc")
    for table in (so.read_text("a.txt"), so.read_ipc("a.ipc")):
        assert table.count().explain() is not None
        assert "a." in str(table.count().explain())

"""Writers put a whole file in place or none, and reading it back gives the same table."""

import errno
import fcntl
import gzip
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

import scalops as so
from scalops.algebra.errors import OutOfMemoryError
from scalops.engine.storage import writers
from scalops.engine.storage.hidden_names import HiddenName

WRITERS = ("write_parquet", "write_ipc", "write_csv", "write_json")
ROWS = 7


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scalars() -> dict[str, Any]:
    """A column of each scalar type, with nulls, NaN and the ends of the types."""
    times = np.arange(ROWS) * 1_000 + 1
    return {
        "f": pa.array([1.5, float("nan"), None, 1e300, 0.1, float("inf"), -0.0]),
        "g": np.full(ROWS, 0.1, np.float32),
        "h": np.arange(ROWS, dtype=np.float16) / 4,
        "i": pa.array([1, None, 2**63 - 1, -(2**63), 0, 5, 7]),
        "u": np.full(ROWS, 2**64 - 1, np.uint64),
        "y": pa.array([None if i % 2 else i for i in range(ROWS)], pa.int8()),
        "b": pa.array([True, None, False, True, False, None, True]),
        "s": ["a", 'q"', "", "ü,\u2028", "x\\y", "NA", "null"],
        **{f"t_{unit}": pa.array(times, pa.timestamp(unit)) for unit in ("s", "ms", "us", "ns")},
        "d": pa.array([5, None, 0, -1, 2, 3, 4], pa.duration("ms")),
    }


def nested() -> dict[str, Any]:
    """Vectors, tensors, lists and sparse vectors."""
    rng = np.random.default_rng(0)
    return {
        "v": rng.random((ROWS, 3)),
        "m": rng.random((ROWS, 2, 2)),
        "vt": (np.arange(2 * ROWS).reshape(ROWS, 2) * 1_000).astype("M8[s]"),
        "vb": rng.random((ROWS, 2)) < 0.5,
        "l": [list(range(i % 3)) if i != 2 else None for i in range(ROWS)],
        "ls": [["a", None]] * (ROWS - 1) + [[]],
        "lv": [[[1.0, 2.0]] * (i % 3) for i in range(ROWS)],
        "lm": [[np.eye(2)] * (i % 3) for i in range(ROWS)],
        "ll": [[[1], []]] * ROWS,
        "lt": [[np.datetime64("2020-01-01", "s")] * (i % 2) for i in range(ROWS)],
        "x": sp.random_array((ROWS, 30), density=0.1, rng=0, format="csr"),
        "nulls": pa.array([None, "x", None, "", "y", None, "z"], pa.string()),
    }


def assert_same(found: so.Table, expected: so.Table) -> None:
    assert str(found.schema) == str(expected.schema)
    left, right = found.collect().combine_chunks(), expected.collect().combine_chunks()
    for name in left.column_names:
        a, b = left.column(name).combine_chunks(), right.column(name).combine_chunks()
        assert a.is_valid() == b.is_valid()
        if a.type == pa.float64():
            np.testing.assert_array_equal(a.fill_null(0).to_numpy(), b.fill_null(0).to_numpy())
            signs = (np.signbit(x.fill_null(0).to_numpy()) for x in (a, b))
            np.testing.assert_array_equal(*signs)
        else:
            assert a.to_pylist() == b.to_pylist(), name


@pytest.mark.parametrize("rows", [ROWS, 0])
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.json", "a.jsonl.gz"])
def test_every_column_comes_back(name: str, rows: int) -> None:
    table = so.table({**scalars(), **nested()}).limit(rows)
    if "json" in name:
        table.write_json(name)
        back = so.read_json(name, column_types=table.schema)
    else:
        (table.write_ipc if name == "a.arrow" else table.write_parquet)(name)
        back = so.load(name)
    assert_same(back, table)


def test_delimiters_that_occur_in_values_are_refused() -> None:
    table = so.table({"f": [-1.5e-30, np.inf], "i": [12, 3]})
    table.write_csv("a.csv")
    for delimiter in ("1", ".", "a", "-", "+", "e", "\0", "", 5):
        for call in (table.write_csv, so.read_csv):
            with pytest.raises(so.PlanError, match=f"delimiter={re.escape(repr(delimiter))} "):
                call("a.csv", delimiter=delimiter)  # type: ignore[arg-type]
    for delimiter in (" ", ":"):
        table.write_csv("b.csv", delimiter=delimiter)
        assert_same(so.read_csv("b.csv", delimiter=delimiter), table)
        with pytest.raises(so.SchemaError, match=r"'t_s' of timestamp.* in the text of a time"):
            so.table(scalars()).select("t_s").write_csv("b.csv", delimiter=delimiter)


@pytest.mark.parametrize("rows", [ROWS, 0])
@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.csv.gz", ";")])
def test_scalars_come_back_through_csv(name: str, delimiter: str, rows: int) -> None:
    table = so.table(scalars()).limit(rows)
    table.write_csv(name, delimiter=delimiter)
    assert_same(so.read_csv(name, delimiter=delimiter, column_types=table.schema), table)


@pytest.mark.parametrize("name", ["i", "f", "b", "s", "t_us", "d"])
def test_null_of_a_lone_column_is_a_record_of_csv(name: str) -> None:
    table = so.table(scalars()).select(name)
    table.write_csv("a.csv")
    assert_same(so.read_csv("a.csv", column_types=table.schema), table)
    table.write_csv("b.csv", header=False)
    types = {name: str(table.schema[name])}
    assert_same(so.read_csv("b.csv", column_names=[name], column_types=types), table)


def test_inferred_types_come_back_where_text_tells_them() -> None:
    table = so.table({"i": [1, 2], "f": [0.5, 1e-9], "s": ["a", "b"], "b": [True, False]})
    table.write_csv("a.csv")
    table.write_json("a.json")
    assert_same(so.load("a.csv"), table)
    assert_same(so.load("a.json"), table)


def test_files_are_those_of_the_formats() -> None:
    so.table({"i": [1, 2], "v": [[1.0, 2], [3, 4]], "t": [["a"], []]}).write_json("a.json.gz")
    with gzip.open("a.json.gz", "rt") as file:
        assert [json.loads(line) for line in file] == [
            {"i": 1, "v": [1.0, 2.0], "t": ["a"]},
            {"i": 2, "v": [3.0, 4.0], "t": []},
        ]
    table = so.table({"i": np.arange(1_000)})
    for compression in ("zstd", "snappy", "gzip", None):
        table.write_parquet("a.parquet", compression=compression)
        codec = pq.ParquetFile("a.parquet").metadata.row_group(0).column(0).compression
        assert codec == (compression or "uncompressed").upper()
    for compression in ("zstd", "lz4", None):
        table.write_ipc("a.arrow", compression=compression)
        assert pa.ipc.open_file("a.arrow").read_all().num_rows == 1_000
        assert so.read_ipc("a.arrow").sum("i").collect() == 499_500
    so.table({"a": ["x,y", "z"]}).write_csv("a.csv", header=False)
    assert Path("a.csv").read_text() == '"x,y"\n"z"\n'


def test_plan_runs_and_equal_tables_give_equal_files() -> None:
    table = so.table({"i": np.arange(100_000)}).filter(lambda r: r.i % 3 == 0)
    table.select(j=lambda r: r.i * 2).write_ipc("a.ipc")
    assert so.read_ipc("a.ipc").sum("j").collect() == sum(range(0, 100_000, 3)) * 2
    for writer in WRITERS:
        for name in ("one.gz", "two.gz"):
            with so.session(threads=2 if name == "two.gz" else 1):
                getattr(table, writer)(name)
        assert Path("one.gz").read_bytes() == Path("two.gz").read_bytes()


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ([[1.0, 2.0]] * 2, "float64[2]"),
        ([[[1]], [[1], [2]]], "list[int64[1]]"),
        (sp.eye_array(2), "sparse[2]"),
    ],
)
def test_csv_refuses_what_is_no_single_value(column: Any, kind: str) -> None:
    table = so.table({"id": [1, 2], "odd": column})
    message = re.escape(f"write_csv cannot hold the column 'odd' of {kind}")
    with pytest.raises(so.SchemaError, match=message) as error:
        table.write_csv("a.csv")
    assert error.value.location is not None
    assert os.listdir() == []
    table.drop("odd").write_csv("a.csv")


def test_parquet_refuses_vectors_of_no_elements() -> None:
    table = so.table({"odd": np.zeros((3, 0))})
    with pytest.raises(so.SchemaError, match=r"cannot hold the column 'odd' of float64\[0\]"):
        table.write_parquet("a.parquet")
    table.write_ipc("a.ipc")
    assert so.read_ipc("a.ipc").count().collect() == 3


class Broken:
    """A writer of files that fails in the middle of one."""

    def __init__(self, stream: Any, error: BaseException) -> None:
        self._stream, self._error = stream, error

    def write(self, table: pa.Table) -> None:
        self._stream.write(b"half of it")
        self._stream.flush()
        raise self._error

    def close(self) -> None:
        self._stream.write(b"the end")


def breaking_off(error: BaseException) -> writers.Format:
    """A format none of whose files is ever complete."""
    return writers.Format("bin", 1, 1, lambda stream, name, schema: Broken(stream, error))


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyboardInterrupt(), SystemExit(), MemoryError()]
)
@pytest.mark.parametrize("before", [None, b"what was there"])
@pytest.mark.parametrize("many", [False, True], ids=["file", "folder"])
def test_failure_leaves_nothing_and_touches_nothing(
    error: BaseException, before: bytes | None, many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path("a/b.bin" if many else "a")
    if before is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(before)
    monkeypatch.setattr(writers, "json_format", lambda: breaking_off(error))
    table = so.table({"a": [1]})
    options: dict[str, Any] = {"max_rows_per_file": 1, "overwrite": True} if many else {}
    expected = OutOfMemoryError if isinstance(error, MemoryError) else type(error)
    with pytest.raises(expected):
        table.write_json("a", **options)
    assert os.listdir() == ([] if before is None else ["a"])
    assert before is None or path.read_bytes() == before


def test_failure_of_the_system_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(writers, "json_format", lambda: breaking_off(full))
    with pytest.raises(so.ExecutionError, match=r"a\.bin cannot be written: No space left"):
        so.table({"a": [1]}).write_json("a.bin")
    assert os.listdir() == []


@pytest.mark.parametrize("writer", WRITERS)
def test_plan_that_fails_touches_nothing(writer: str) -> None:
    Path("a").write_text("before")
    table = so.table({"s": ["1", "x"]}).map(lambda r: {"n": so.cast(r.s, "int64")})
    with pytest.raises(so.ScalopsError):
        getattr(table, writer)("a")
    assert os.listdir() == ["a"]
    assert Path("a").read_text() == "before"


@pytest.mark.parametrize("writer", WRITERS)
def test_destination_that_cannot_be_is_refused_before_the_plan_runs(writer: str) -> None:
    calls = []

    def seen(r: Any) -> float:
        calls.append(1)
        return float(str(r.a)[0] == "1")

    table = so.table({"a": [1, 2]}).map(so.udf(seen, returns=so.float64))
    os.mkdir("folder")
    os.mkfifo("pipe")
    for path, message in (
        ("folder", "is a folder, not a file"),
        ("missing/a.x", "there is no folder"),
        ("pipe", "is not a regular file"),
    ):
        with pytest.raises(so.ExecutionError, match=message) as error:
            getattr(table, writer)(path)
        assert error.value.location is not None
        assert error.value.location.file == __file__
    with pytest.raises(so.PlanError, match="a path is a"):
        getattr(table, writer)(3)
    assert not calls
    assert sorted(os.listdir()) == ["folder", "pipe"]


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda t: t.write_parquet("a", compression="rar"), "compression='rar'.*known are none"),
        (lambda t: t.write_ipc("a", compression="snappy"), "compression='snappy'.*none, lz4, zstd"),
        (lambda t: t.write_csv("a", delimiter="ab"), "delimiter='ab' must be one ASCII"),
    ],
)
def test_options_that_make_no_sense_are_plan_errors(write: Any, message: str) -> None:
    with pytest.raises(so.PlanError, match=message) as error:
        write(so.table({"a": [1]}))
    assert error.value.location is not None
    assert os.listdir() == []


def test_mode_of_the_file_stays_and_a_link_is_followed() -> None:
    Path("a.csv").write_text("x")
    os.chmod("a.csv", 0o600)
    os.symlink("a.csv", "link.csv")
    so.table({"a": [1]}).write_csv("link.csv")
    assert Path("a.csv").read_text() == '"a"\n1\n'
    assert os.path.islink("link.csv")
    assert stat.S_IMODE(os.stat("a.csv").st_mode) == 0o600
    so.table({"a": [1]}).write_csv("new.csv")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(os.stat("new.csv").st_mode) == 0o666 & ~mask


def test_table_may_be_written_over_its_own_file() -> None:
    so.table({"i": [1, 2, 3]}).write_ipc("a.ipc")
    table = so.read_ipc("a.ipc").filter(lambda r: r.i > 1)
    table.write_ipc("a.ipc")
    assert so.read_ipc("a.ipc").collect().to_pydict() == {"i": [2, 3]}
    with pytest.raises(so.DataError, match="changed after the table was made"):
        table.collect()


@pytest.mark.parametrize("writer", WRITERS)
def test_writing_while_tracing_is_a_trace_error(writer: str) -> None:
    table = so.table({"a": [1.0, 2.0]})

    def body(env: Any) -> Any:
        getattr(table, writer)("a")
        return env

    with pytest.raises(so.TraceError, match=rf"{writer}\(\), which runs a plan"):
        so.loop(0.0, range(2))(body)

    def row(r: Any) -> Any:
        getattr(table, writer)("a")
        return r.a

    with pytest.raises(so.TraceError, match=rf"{writer}\(\), which runs a plan") as error:
        table.map(row)
    assert error.value.location is not None
    assert error.value.location.file == __file__
    assert os.listdir() == []


def test_written_file_is_one_name_only() -> None:
    for writer in WRITERS:
        getattr(so.table({"a": [1]}), writer)(Path(f"{writer}.bin"))
    assert sorted(os.listdir()) == sorted(f"{writer}.bin" for writer in WRITERS)


@pytest.mark.parametrize("target", ["out.json", "out"])
def test_what_killed_writers_left_is_removed_by_the_next(target: str, folder: Path) -> None:
    dead, living, other = (HiddenName(str(folder / n)) for n in (target, target, "else.json"))
    for hidden in (dead, living, other):
        hidden.make_file().close()
    dead_folder = HiddenName(str(folder / target))
    dead_folder.make_folder()
    (Path(dead_folder.path) / "part-00000.json").write_text("{")
    for hidden in (dead, dead_folder, other):
        hidden.free()  # as the system does where a process ends
    old = Path(f"{dead.path}.old")
    old.write_text("kept")
    table = so.table({"v": np.arange(3)})
    for _ in range(2):
        if target == "out":
            table.write_json(target, max_rows_per_file=2, overwrite=True)
        else:
            table.write_json(target)
        left = {folder / target, Path(living.path), Path(other.path), old}
        assert set(folder.iterdir()) == left
    living.free()


@pytest.mark.parametrize("make", ["make_file", "make_folder"])
def test_a_name_that_another_takes_for_left_is_changed(
    make: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other looks between the making of a file and its lock."""
    hidden, other = (HiddenName(str(folder / "out.json")) for _ in range(2))
    lock, before = fcntl.flock, hidden.path

    def late(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        other.remove_left()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    made = getattr(hidden, make)()
    assert hidden.path != before
    assert list(folder.iterdir()) == [Path(hidden.path)]
    other.remove_left()
    assert Path(hidden.path).exists()
    if made is not None:
        made.close()
    hidden.free()


def test_without_locks_nothing_is_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)
    other = HiddenName(str(folder / "out.json"))
    other.make_file().close()
    so.table({"v": np.arange(3)}).write_json("out.json")
    assert set(folder.iterdir()) == {folder / "out.json", Path(other.path)}
    other.free()

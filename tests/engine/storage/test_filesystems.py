"""Files of any filesystem are found, read and checked as local ones are."""

import gzip
import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from scalops.algebra.errors import DataError, PlanError, SchemaError
from scalops.engine.storage import (
    FileSource,
    block_to_batch,
    read_csv,
    read_ipc,
    read_json,
    read_libsvm,
    read_parquet,
    read_text,
    reader_of,
    schema_to_arrow,
)
from scalops.engine.storage.files import File, find_files
from scalops.engine.storage.filesystems import located, told
from scalops.engine.storage.masking import without_secrets
from tests.engine.storage.filesystems import PLACES, failing, memory_of, mock_of
from tests.quick import quick

ROWS = 40_000
SUFFIXES = (".csv",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same records in files of every format; those of text have several partitions."""
    made = tmp_path_factory.mktemp("files") / "data"
    made.mkdir()
    random = np.random.default_rng(5)
    numbers, texts = random.normal(size=ROWS), [f"t{i % 7}" for i in range(ROWS)]
    table = pa.table({"n": numbers, "i": range(ROWS), "t": texts})
    pq.write_table(table, made / "a.parquet", row_group_size=9_000)
    feather.write_feather(table, str(made / "a.arrow"), compression="lz4", chunksize=7_000)
    feather.write_feather(table, str(made / "b.arrow"), compression="uncompressed")
    lines = [f"{n!r},{i},{t}" for n, i, t in zip(numbers.tolist(), range(ROWS), texts, strict=True)]
    csv = "\n".join(["n,i,t", *lines]) + "\n"
    (made / "a.csv").write_text(csv)
    (made / "a.csv.gz").write_bytes(gzip.compress(csv.encode(), 1))
    (made / "a.txt").write_text(csv)
    rows = [json.dumps({"n": n, "i": i}) for i, n in enumerate(numbers.tolist())]
    (made / "a.jsonl").write_text("\n".join(rows))
    (made / "a.libsvm").write_text("\n".join(f"{i % 2} 1:{i} 9:0.5" for i in range(20_000)))
    return made


FILES: dict[str, Callable[..., FileSource]] = {
    "a.csv": read_csv,
    "a.parquet": read_parquet,
    "a.arrow": read_ipc,
    "a.jsonl": read_json,
    "a.csv.gz": read_csv,
    "a.libsvm": read_libsvm,
    "a.txt": read_text,
    "b.arrow": read_ipc,
}


def partition_tables(source: FileSource) -> list[tuple[int, int, pa.RecordBatch]]:
    """Bounds and blocks of every partition."""
    names, arrow = source.schema.names, schema_to_arrow(source.schema)
    return [
        (p.start, p.stop, block_to_batch(block, source.schema).cast(arrow))
        for p in source.partitions()
        for block in source.read(p, names)
    ]


CASES = [(name, place) for place in PLACES for name in FILES]
# Each format and each place is in a quick case.
CASES.sort(key=lambda c: (list(FILES).index(c[0]) - list(PLACES).index(c[1])) % len(FILES))


@pytest.mark.parametrize(("name", "place"), quick(CASES, len(PLACES)))
def test_every_format_is_read_as_from_local_files(folder: Path, name: str, place: str) -> None:
    base, filesystem = PLACES[place](folder)
    found = FILES[name](f"{base}/{name}", filesystem=filesystem)
    local = FILES[name](folder / name)
    found.check_unchanged()
    assert found.title == local.title == name
    assert (found.stamp, found.rows, found.bytes) == (local.stamp, local.rows, local.bytes)
    assert partition_tables(found) == partition_tables(local)
    assert found.files[0].path.endswith(f"data/{name}")


@pytest.mark.parametrize("place", quick(["memory", "mock", "handler", *PLACES], 3))
def test_folders_lists_and_patterns_follow_the_rules_of_local_files(
    tmp_path: Path, place: str
) -> None:
    for name in (
        *("b.csv", "a.csv", "_old.csv", ".a.csv", "notes.txt", "[ab].csv"),
        *("z/x.csv", "c/x.csv", "c/deep/y.csv", "_tmp/x.csv", ".git/x.csv", "c/x.txt"),
    ):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text("n\n1\n")
    base, filesystem = PLACES[place](tmp_path / "data")

    def names(pattern: Any) -> list[str]:
        listed = isinstance(pattern, list)
        paths = [f"{base}/{p}" for p in pattern] if listed else f"{base}/{pattern}".rstrip("/")
        files = find_files(paths, SUFFIXES, filesystem)[0]
        return [file.path.partition("data/")[2] for file in files]

    every = ["[ab].csv", "a.csv", "b.csv", "c/deep/y.csv", "c/x.csv", "z/x.csv"]
    assert names("") == every
    assert names("*.csv") == ["[ab].csv", "a.csv", "b.csv"]
    assert names("[ab].csv") == ["[ab].csv"]
    assert names("?.csv") == ["a.csv", "b.csv"]
    assert names("**/*.csv") == every
    assert names("*/*.csv") == ["c/x.csv", "z/x.csv"]
    assert names("c/**") == ["c/deep/y.csv", "c/x.csv", "c/x.txt"]
    assert names("c*") == ["c/deep/y.csv", "c/x.csv"]
    assert names(["z/x.csv", "c*"]) == ["z/x.csv", "c/deep/y.csv", "c/x.csv"]
    assert names("_*.csv") == ["_old.csv"]
    assert names("_tmp/*.csv") == ["_tmp/x.csv"]
    assert names([".a.csv"]) == [".a.csv"]
    for missing in ("none.csv", "*.none", "none/*.csv"):
        with pytest.raises(DataError, match=r"no file .*none"):
            names(missing)


def test_folder_without_such_files_names_the_suffix(folder: Path) -> None:
    memory = memory_of(folder)
    memory.pipe("/other/a.json", b"{}")
    with pytest.raises(DataError, match=r"memory://other has no file that ends in \.parquet"):
        read_parquet("memory://other")


def test_folders_that_hold_values_give_columns_anywhere(tmp_path: Path) -> None:
    for year in (2023, 2024):
        (tmp_path / f"year={year}").mkdir()
        (tmp_path / f"year={year}" / "a.csv").write_text(f"n\n{year % 10}\n")
    memory_of(tmp_path)
    for path in ("memory://data", "memory://data/year=*/*.csv"):
        found = read_csv(path)
        assert found.schema.names == ("n", "year")
        years = [b.columns["year"] for p in found.partitions() for b in found.read(p, ("year",))]
        assert np.concatenate(years).tolist() == [2023, 2024]


def test_the_format_is_known_by_the_suffix_of_a_uri(folder: Path) -> None:
    memory_of(folder)
    assert reader_of("memory://data/a.csv.gz") is read_csv
    assert reader_of(["memory://data/a.arrow", "memory://data/b.arrow"]) is read_ipc
    with pytest.raises(PlanError, match="several formats"):
        reader_of("memory://data")


# Changes and faults.


@pytest.mark.parametrize("place", ["memory", "handler", "no times"])
@pytest.mark.parametrize("name", quick(["a.csv", "a.parquet", "b.arrow"], 1))
def test_changed_and_vanished_files_are_named(tmp_path: Path, name: str, place: str) -> None:
    path = tmp_path / "data" / name
    path.parent.mkdir()
    table = pa.table({"n": [1.5, 2.5]})
    write = {"a.csv": lambda t: path.write_text("n\n" + "\n".join(map(str, t["n"].to_pylist())))}
    write["a.parquet"] = lambda t: pq.write_table(t, path)
    write["b.arrow"] = lambda t: feather.write_feather(t, str(path))
    write[name](table)
    base, filesystem = PLACES[place](path.parent)
    source = FILES[name](f"{base}/{name}", filesystem=filesystem)
    source.check_unchanged()

    def again(table: pa.Table) -> None:
        write[name](table)
        if place == "memory":
            filesystem.pipe(f"/data/{name}", path.read_bytes())

    again(pa.table({"n": [1.5, 3.5]}))
    os.utime(path, ns=(0, 0))
    with pytest.raises(DataError, match=rf"://data/{name} changed after the table was made;"):
        source.check_unchanged()
    again(pa.table({"n": [1.5, 2.5] * 400}))
    with pytest.raises(DataError, match=r"changed after .*: \d+ bytes then, \d+ now"):
        source.check_unchanged()
    path.unlink()
    if place == "memory":
        filesystem.rm(f"/data/{name}")
    with pytest.raises(DataError, match=rf"://data/{name} is gone since the table was made"):
        source.check_unchanged()


def test_growing_file_is_noticed_while_reading() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/data/a.csv", b"n\n1\n")
    source = read_csv("memory://data/a.csv")
    memory.pipe("/data/a.csv", b"n\n1\n2\n")
    with pytest.raises(DataError, match=r"memory://data/a\.csv changed .*: 4 bytes then, 6 now"):
        list(source.read(source.partitions()[0], ("n",)))


@pytest.mark.parametrize("form", ["csv", "csv.gz", "parquet", "arrow"])
def test_file_that_is_replaced_while_it_is_read_is_noticed(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"a.{form}"

    def put(value: int) -> None:
        if form == "parquet":
            pq.write_table(pa.table({"n": [value, value]}), path)
        elif form == "arrow":
            feather.write_feather(pa.table({"n": [value, value]}), str(path))
        else:
            text = f"n\n{value}\n{value}\n".encode()
            path.write_bytes(gzip.compress(text, mtime=0) if form == "csv.gz" else text)
        os.utime(path, ns=(value, value * 10**9))

    put(1)
    filesystem, handler = failing(tmp_path)
    readers = {"parquet": read_parquet, "arrow": read_ipc}
    source = readers.get(form, read_csv)(path.name, filesystem=filesystem)
    handler.fail = lambda: put(2)  # of the same size, while the first bytes are read
    with pytest.raises(DataError, match=rf"a\.{form} changed after the table was made"):
        list(source.read(source.partitions()[0], ("n",)))


class Unreachable(Exception):
    """As a store's client raises them: no OSError."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionResetError(104, "reset"), r"reset.*; check the network and the endpoint"),
        (Unreachable("timed out"), r"Unreachable: timed out; check the network"),
        (PermissionError("no"), r"may not be read: permission denied; check the credentials"),
        (OSError("HTTP 403 Forbidden"), r"cannot be read.*Forbidden; check the credentials"),
        (OSError(5, "I/O error"), r"cannot be read.*I/O error$"),
    ],
)
@pytest.mark.parametrize("name", quick(["a.parquet", "a.csv", "a.csv.gz", "b.arrow"], 1))
def test_errors_while_reading_name_the_file_and_what_to_do(
    folder: Path, name: str, error: Exception, message: str
) -> None:
    filesystem, handler = failing(folder.parent)
    source = FILES[name](f"data/{name}", filesystem=filesystem)

    def fail() -> None:
        raise error

    handler.fail = fail
    with pytest.raises(DataError, match=message) as found:
        partition_tables(source)
    assert f"failing://data/{name} " in str(found.value)


def test_other_columns_in_a_file_elsewhere_name_it(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"n": ["1"]}), tmp_path / "b.parquet")
    memory_of(tmp_path)
    with pytest.raises(SchemaError, match=r"memory://data/b\.parquet has other columns than mem"):
        read_parquet("memory://data/*.parquet")


# Filesystems and URIs.


@pytest.mark.parametrize(
    ("path", "filesystem", "message"),
    [
        ("foo://a/b.csv", None, "foo://a/b.csv: .*; known are file://, s3://"),
        ("s3://k:hidden@b/a.csv?regoin=x", None, "s3://b has the option 'regoin'; those"),
        ("file://host/a.csv", None, "another host's"),
        ("a.csv", object(), "is no filesystem; pass one of pyarrow.fs"),
        ("a.csv", "s3://bucket", "is no filesystem"),
        ("s3://b/a.csv", fs.LocalFileSystem(), "is a URI; a path within"),
        ("../a.csv", fs.SubTreeFileSystem("/tmp/x", fs.LocalFileSystem()), "leads out of"),
    ],
)
def test_what_is_no_filesystem_is_a_plan_error(path: str, filesystem: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message) as error:
        located(path, filesystem)
    assert "hidden" not in str(error.value)


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def unknown(*_: Any) -> Any:
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", unknown)
    with pytest.raises(PlanError, match="a package that zip:// needs is not installed: Please"):
        located("zip://a")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(PlanError, match=r"read by the package fsspec.*pip install fsspec"):
        located("memory://a")


def test_hdfs_without_java_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_java(uri: str) -> Any:
        raise OSError("Unable to load libjvm\ndlopen(/usr/lib/x) failed")

    monkeypatch.setattr(fs, "FileSystem", type("FileSystem", (), {"from_uri": no_java}))
    with pytest.raises(DataError, match="Unable to load libjvm; hdfs:// needs Java") as error:
        located("hdfs://host/a.csv")
    assert "dlopen" not in str(error.value)


def test_options_of_s3_uris_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    store, path = located("s3://user:hidden@bucket/a b/part-?.csv?scheme=http&anonymous=false")
    assert store is not None
    assert path == "bucket/a b/part-?.csv"
    assert store.shown(path) == "s3://bucket/a b/part-?.csv"
    options = store.filesystem.__reduce__()[1][0]
    chosen = ("region", "endpoint_override", "scheme", "access_key", "secret_key")
    expected = ["eu-west-1", "http://127.0.0.1:9", "http", "user", "hidden"]
    assert [options[name] for name in chosen] == expected
    assert "hidden" not in repr(store)
    assert located("s3a://user:hidden@bucket/a?scheme=http&anonymous=false") == (store, "bucket/a")
    again = pickle.loads(pickle.dumps(store))
    assert (again, again.filesystem) == (store, store.filesystem)


def test_other_stores_of_arrow_are_found() -> None:
    store, path = located("gs://anonymous@bucket/a/*.csv")
    assert store is not None
    assert (store.shown(path), path) == ("gs://bucket/a/*.csv", "bucket/a/*.csv")
    assert store.filesystem.__reduce__()[1][0]["retry_time_limit"].total_seconds() == 20
    store, path = located("abfs://container@account.dfs.core.windows.net/a.csv")
    assert store is not None
    assert (store.shown(path), path) == ("abfs://container/a.csv", "container/a.csv")


def test_secrets_are_not_shown() -> None:
    shown = without_secrets("s3://key:secret@b/x?secret_key=abc&region=eu&X-Amz-Signature=12")
    assert shown == "s3://b/x?secret_key=***&region=eu&X-Amz-Signature=***"
    assert without_secrets("s3://b/key=5/token=a.csv") == "s3://b/key=5/token=a.csv"
    assert told(OSError("bad https://u:p@h/x\nmore")) == "bad https://h/x"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://b:SECRET/x.csv", "s3://b:***/x.csv"),
        ("s3://user:SEC/RET@b/x.csv", "s3://user:***@b/x.csv"),
        ("'s3://b/x.csv#SECRET'", "'s3://b/x.csv#***'"),
        ("s3://b/x#SECRET", "s3://b/x#***"),
        ("s3://b/part#1.csv", "s3://b/part#1.csv"),
        ("hdfs://h:9000/data@v1/x.csv", "hdfs://h:9000/data@v1/x.csv"),
        ("https://[::1]:900/x", "https://[::1]:900/x"),
        ("<Broken token=SECRET1>", "<Broken token=***>"),
        ("Own(key='A b', n=2)", "Own(key=***, n=2)"),
        ("{'secret_key': 'abc', 'x': 1}", "{'secret_key': ***, 'x': 1}"),
        ("no secret=a1/b2+c password = p", "no secret=*** password = ***"),
        ("s3://b/key=5/x.csv, key == 3", "s3://b/key=5/x.csv, key == 3"),
    ],
)
def test_what_may_be_a_secret_is_not_told(text: str, expected: str) -> None:
    assert told(OSError(text)) == expected


@pytest.mark.parametrize(
    "uri",
    [
        *(f"{scheme}://b:SECRET/x.csv" for scheme in ("s3", "gs", "hdfs", "abfs", "http", "foo")),
        "s3://u:SEC/SECRET@b/x.csv",
        "s3://b:12345/x.SECRET",
        "file://u:SECRET@h/x.csv",
        "memory://a.csv#SECRET",
    ],
)
def test_malformed_uris_keep_their_secrets(uri: str) -> None:
    with pytest.raises((PlanError, DataError)) as error:
        read_csv(uri)
    assert "SECRET" not in str(error.value).replace("x.SECRET", "")
    assert "12345" not in str(error.value)


def test_objects_of_other_fragments_are_other_files(folder: Path) -> None:
    memory = memory_of(folder)
    for name in ("#1", "#2"):
        memory.pipe_file(f"/fragments/a.csv{name}", b"a\n1\n")
    files = [File.remote(*_stored(f"/fragments/a.csv{name}", memory)) for name in ("#1", "#2")]
    assert files[0].path != files[1].path


def test_plan_text_follows_path_size_time_or_sample(folder: Path) -> None:
    memory = memory_of(folder)
    first = read_csv("memory://data/a.csv")
    assert repr(first) == repr(read_csv("data/a.csv", filesystem=memory))
    assert repr(first) != repr(read_csv(folder / "a.csv"))
    assert first.stamp == read_csv(folder / "a.csv").stamp
    filesystem, _ = failing(folder.parent, tells_time=False)
    told_none = File.remote(*_stored("data/a.csv", filesystem))
    assert told_none.mtime == 0
    assert told_none.sample
    assert hash(told_none) == hash(File.remote(*_stored("data/a.csv", filesystem)))


def _stored(path: str, filesystem: Any) -> tuple[Any, Any]:
    store, within = located(path, filesystem)
    assert store is not None
    return store, store.info(within)


# On their way to workers.


def test_files_travel_with_their_filesystem(folder: Path) -> None:
    store, _ = located("s3://bucket/a.csv?region=eu-west-1&endpoint_override=127.0.0.1:9")
    assert store is not None
    file = File("s3://bucket/a.csv", 1, 2, (), store, "bucket/a.csv")
    assert pickle.loads(pickle.dumps(file)) == file


def test_filesystems_that_cannot_travel_are_named(folder: Path) -> None:
    memory_of(folder)
    with pytest.raises(PlanError, match=r"workers cannot read memory:/.*lies in the memory of"):
        pickle.dumps(read_csv("memory://data/a.csv"))
    with pytest.raises(PlanError, match="mock:// cannot be sent to the workers"):
        pickle.dumps(read_csv("data/a.csv", filesystem=mock_of(folder)))

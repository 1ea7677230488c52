"""Tables go to filesystems that are not local, and come from them, whole or with a named error."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from pyarrow import fs

import scalops as so
from scalops.engine.storage.filesystems import located
from tests.engine.storage.filesystems import failing, memory_of, mock_of
from tests.engine.storage.s3_server import BUCKET, S3Server, s3_server
from tests.quick import quick

ROWS = 3_000
FORMATS = ("parquet", "csv", "json", "ipc")


def records() -> so.Table:
    return so.table({"id": np.arange(ROWS), "year": 2020 + np.arange(ROWS) % 3})


def paths_in(filesystem: Any, folder: str) -> list[str]:
    """All files, hidden ones too, below a folder, which is cut off."""
    store, within = located(folder, filesystem)
    assert store is not None
    found = store.listed(within, recursive=True)
    base = within.strip("/")
    return sorted(i.path.strip("/")[len(base) + 1 :] for i in found if i.type == fs.FileType.File)


FILESYSTEMS: dict[str, Callable[[Path], Any]] = {
    "memory": memory_of,
    "mock": mock_of,
    "handler": lambda folder: failing(folder)[0],
    "subtree": lambda folder: fs.SubTreeFileSystem("sub", mock_of(folder)),
}


@pytest.mark.parametrize(
    ("name", "form"),
    quick([("memory", "csv"), ("mock", "parquet"), ("handler", "ipc"), ("subtree", "json")], 3)
    + quick([(n, f) for n in FILESYSTEMS for f in FORMATS], 0),
)
def test_writers_and_readers_take_a_filesystem(tmp_path: Path, name: str, form: str) -> None:
    table, filesystem = records(), FILESYSTEMS[name](tmp_path)
    write = getattr(table, f"write_{form}")
    for _ in range(2):  # the second one replaces the first
        write(f"out-{name}/a.{form}", filesystem=filesystem)
    assert paths_in(filesystem, f"out-{name}") == [f"a.{form}"]
    found = getattr(so, f"read_{form}")(f"out-{name}/a.{form}", filesystem=filesystem)
    assert found.collect() == table.collect()
    assert so.load(f"out-{name}", filesystem=filesystem).count().collect() == ROWS


@pytest.mark.parametrize("name", quick(FILESYSTEMS, 2))
def test_folders_are_written_and_replaced_as_a_whole(tmp_path: Path, name: str) -> None:
    table, filesystem, folder = records(), FILESYSTEMS[name](tmp_path), f"parted-{name}"
    table.write_parquet(folder, partition_by="year", filesystem=filesystem)
    assert paths_in(filesystem, folder) == [
        f"year={year}/part-00000.parquet" for year in (2020, 2021, 2022)
    ]
    with pytest.raises(so.ExecutionError, match=f"://.*{folder} is not empty .*overwrite=True"):
        table.write_parquet(folder, partition_by="year", filesystem=filesystem)
    with pytest.raises(so.ExecutionError, match=r"is a folder, not a file .*give the file a name"):
        table.write_parquet(folder, filesystem=filesystem)
    some = table.filter(lambda r: r.year < 2022)
    some.write_parquet(folder, partition_by="year", filesystem=filesystem, overwrite=True)
    assert len(paths_in(filesystem, folder)) == 2
    found = so.read_parquet(folder, filesystem=filesystem).sort("id")
    assert found.select("id", "year").collect() == some.collect()


@pytest.mark.parametrize("form", quick(FORMATS, 2))
@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), KeyboardInterrupt()])
def test_what_is_not_complete_never_has_its_name(
    tmp_path: Path, form: str, error: BaseException
) -> None:
    filesystem, handler = failing(tmp_path)
    path = tmp_path / "out" / f"a.{form}"
    path.parent.mkdir()
    path.write_text("what was there")

    def fail() -> None:
        raise error

    handler.fail = fail
    with pytest.raises((so.ExecutionError, KeyboardInterrupt)) as raised:
        getattr(records(), f"write_{form}")(f"out/a.{form}", filesystem=filesystem)
    assert path.read_text() == "what was there"
    assert paths_in(filesystem, "out") == [f"a.{form}"]
    if isinstance(raised.value, so.ExecutionError):
        assert f"failing://out/a.{form} cannot be written" in str(raised.value)
        assert "check the network" in str(raised.value)
        assert raised.value.location is not None


@pytest.mark.long
def test_workers_are_told_what_they_cannot_reach() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/plan/a.csv", b"n\n1\n2\n")
    table = so.read_csv("memory://plan/a.csv")
    assert table.sum("n").collect() == 3
    with (
        so.session(workers=2, threads=1),
        pytest.raises(
            so.PlanError, match=r"workers cannot read memory:/.*run without workers"
        ) as error,
    ):
        table.sum("n").collect()
    assert error.value.location is not None


# S3's own client against a server of this machine.


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server of the bucket that `s3://bucket/` is in this test."""
    with s3_server() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server.endpoint}")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
        yield server


@pytest.mark.parametrize("form", quick(FORMATS, 1))
def test_tables_go_to_s3_and_come_back(s3: S3Server, form: str) -> None:
    table = records()
    getattr(table, f"write_{form}")(f"s3://{BUCKET}/out/a.{form}")
    assert [key for key in s3.objects if not key.endswith("/")] == [f"out/a.{form}"]
    assert so.load(f"s3://{BUCKET}/out/*.{form}").collect() == table.collect()
    assert so.load(f"s3://{BUCKET}/out").count().collect() == ROWS


def test_folders_on_s3_are_replaced(s3: S3Server) -> None:
    table = records()
    for chosen in (table, table.filter(lambda r: r.year == 2021)):
        chosen.write_parquet(f"s3://{BUCKET}/p", partition_by="year", overwrite=True)
        found = so.read_parquet(f"s3://{BUCKET}/p").sort("id").select("id", "year")
        assert found.collect() == chosen.collect()
    assert not any(".tmp" in key for key in s3.objects)


def test_faults_of_s3_are_named(s3: S3Server) -> None:
    records().write_csv(f"s3://{BUCKET}/a.csv")
    table = so.read_csv(f"s3://{BUCKET}/a.csv").count()
    data, changed = s3.objects["a.csv"]
    s3.objects["a.csv"] = data, changed + 5
    with pytest.raises(so.DataError, match=r"s3://bucket/a\.csv changed after the table was made"):
        table.collect()
    del s3.objects["a.csv"]
    with pytest.raises(so.DataError, match=r"s3://bucket/a\.csv is gone since the table was made"):
        table.collect()
    s3.refused = 403
    with pytest.raises(so.DataError, match=r"ACCESS_DENIED.*check the credentials") as error:
        so.read_csv(f"s3://{BUCKET}/a.csv")
    assert "hidden" not in str(error.value)
    with pytest.raises(so.ExecutionError, match=r"cannot be written.*check the credentials"):
        records().write_csv(f"s3://{BUCKET}/a.csv")


@pytest.mark.long
def test_a_server_that_does_not_answer_is_named(s3: S3Server) -> None:
    s3.refused = 503
    with pytest.raises(so.DataError, match=r"503.*check the network and the endpoint"):
        so.read_csv(f"s3://{BUCKET}/a.csv")
    s3.shutdown()
    s3.server_close()
    with pytest.raises(so.DataError, match=r"NETWORK_CONNECTION.*check the network"):
        so.read_csv(f"s3://{BUCKET}/a.csv")


@pytest.mark.long
def test_workers_read_from_s3_themselves(s3: S3Server) -> None:
    table = records()
    table.write_parquet(f"s3://{BUCKET}/p", partition_by="year")
    found = so.read_parquet(f"s3://{BUCKET}/p")
    alone = found.sum(lambda r: r.id * 1.5).collect()
    with so.session(workers=2, threads=1):
        assert found.sum(lambda r: r.id * 1.5).collect() == alone

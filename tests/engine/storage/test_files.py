"""Paths, lists, patterns and folders find files in a known order, and changes are noticed."""

import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scalops.algebra.errors import DataError, PlanError, SchemaError
from scalops.engine.storage import FileSource, read_csv, read_parquet
from scalops.engine.storage.files import File, find_files, reading
from scalops.engine.storage.partitions import pieces
from tests.engine.storage.reading import whole

SUFFIXES = (".csv", ".tsv")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files whose one record is a number: b.csv 2, a.csv 1, and what is to be passed over."""
    for name, number in [("b.csv", 2), ("a.csv", 1), ("_old.csv", 8), (".a.csv", 9)]:
        (tmp_path / name).write_text(f"n\n{number}\n")
    (tmp_path / "notes.txt").write_text("no table")
    (tmp_path / "_done").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def numbers(source: FileSource) -> Any:
    return np.asarray(whole(source).columns["n"]).tolist()


def names(paths: Any) -> list[str]:
    return [os.path.relpath(file.path) for file in find_files(paths, SUFFIXES)[0]]


@pytest.mark.parametrize("path", [".", "*.csv", "./[ab].csv"])
def test_folders_and_patterns_are_read_in_path_order(folder: Path, path: str) -> None:
    assert numbers(read_csv(path)) == [1, 2]


def test_list_keeps_its_order(folder: Path) -> None:
    assert numbers(read_csv(["b.csv", Path("a.csv")])) == [2, 1]


def test_subfolders_belong_to_a_folder(folder: Path) -> None:
    for name in ("z/x.csv", "c/x.csv", "_tmp/x.csv", ".git/x.csv", "c/x.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert names(".") == ["a.csv", "b.csv", "c/x.csv", "z/x.csv"]
    assert names("**/*.csv") == ["a.csv", "b.csv", "c/x.csv", "z/x.csv"]
    assert names(["c*", "a.csv"]) == ["c/x.csv", "a.csv"]


def test_hidden_files_are_read_if_written_out(folder: Path) -> None:
    assert names(["_old.csv", ".a.csv", "_*.csv"]) == ["_old.csv", ".a.csv", "_old.csv"]


def test_file_whose_name_looks_like_a_pattern_is_itself(folder: Path) -> None:
    (folder / "[ab].csv").write_text("n\n7\n")
    assert numbers(read_csv("[ab].csv")) == [7]


def test_file_uri_is_a_path(folder: Path) -> None:
    (folder / "a b.csv").write_text("n\n7\n")
    assert numbers(read_csv((folder / "a b.csv").as_uri())) == [7]


@pytest.mark.parametrize("path", [3, b"a.csv", [], [b"a.csv"], None])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(PlanError):
        read_csv(path)


@pytest.mark.parametrize("path", ["none.csv", "*.none", ["a.csv", "none/*.csv"]])
def test_nothing_found_names_pattern_and_folder(folder: Path, path: Any) -> None:
    with pytest.raises(DataError, match="none") as error:
        read_csv(path)
    assert str(folder) in str(error.value)


def test_folder_without_such_files_names_the_suffix(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no file that ends in \.parquet"):
        read_parquet(folder)


def test_title_is_short(folder: Path) -> None:
    assert read_csv(folder / "a.csv").title == "a.csv"
    assert read_csv(str(folder / "*.csv")).title == "*.csv"
    assert read_csv(folder).title == folder.name
    assert read_csv(["b.csv", "a.csv"]).title == "b.csv and 1 more"


def test_relative_path_stays_valid_after_a_change_of_folder(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = read_csv("a.csv")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    source.check_unchanged()
    assert numbers(source) == [1]


def test_changed_and_missing_files_are_named(folder: Path) -> None:
    source = read_csv("*.csv")
    source.check_unchanged()
    status = os.stat("b.csv")
    os.utime("b.csv", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(DataError, match=r"b\.csv changed"):
        source.check_unchanged()
    os.remove("a.csv")
    with pytest.raises(DataError, match=r"a\.csv is gone"):
        source.check_unchanged()


def test_growing_file_is_noticed_while_reading(folder: Path) -> None:
    source = read_csv("a.csv")
    with open("a.csv", "a") as stream:
        stream.write("5\n")
    with pytest.raises(DataError, match=r"a\.csv changed .*: 4 bytes then, 6 now"):
        whole(source)


def test_name_follows_time_and_stamp_does_not(folder: Path) -> None:
    before = read_csv("a.csv")
    os.utime("a.csv", ns=(0, 0))
    after = read_csv("a.csv")
    assert repr(before) != repr(after)
    assert before.stamp == after.stamp


def test_stamp_follows_contents_options_and_columns_not_the_folder(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "a.csv").write_text("n\n1\n")
    stamp = read_csv("a.csv").stamp
    assert read_csv("sub/a.csv").stamp == stamp
    assert read_csv("b.csv").stamp != stamp
    assert read_csv("a.csv", column_types={"n": "float64"}).stamp != stamp
    assert repr(read_csv("sub/a.csv")) != repr(read_csv("a.csv"))


@pytest.mark.parametrize("columns", [["none"], ["n", "n"], [], "n"])
def test_columns_that_are_not_there_are_refused(folder: Path, columns: Any) -> None:
    with pytest.raises(SchemaError, match="columns="):
        read_csv("a.csv", columns=columns)


def test_source_travels_by_pickle(folder: Path) -> None:
    source = read_csv("*.csv")
    assert numbers(pickle.loads(pickle.dumps(source))) == [1, 2]


def test_folder_in_place_of_a_file_is_named(folder: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        File.at(str(folder))


def test_special_file_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="not a regular file"):
        read_csv(os.devnull)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "denied"), "/d/x.csv may not be read: permission denied"),
        (FileNotFoundError(2, "none"), "/d/x.csv does not exist"),
        (IsADirectoryError(21, "folder"), "/d/x.csv is a folder, not a file"),
        (OSError(5, "I/O error"), "/d/x.csv cannot be read as CSV: [Errno 5] I/O error"),
    ],
)
def test_system_errors_become_data_errors(error: OSError, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as found, reading("/d/x.csv", "CSV"):
        raise error
    assert found.value.__cause__ is error


def test_errors_of_other_code_pass_through() -> None:
    with pytest.raises(KeyError), reading("/d/x.csv"):
        raise KeyError("x")


def test_pieces_pass_over_empty_files() -> None:
    assert list(pieces([0, 0, 5, 5, 9], 0, 9)) == [(1, 0, 5), (3, 0, 4)]
    assert list(pieces([0, 0], 0, 0)) == []


def test_patterns_of_any_depth_follow_no_links_to_folders(tmp_path: Path) -> None:
    inner = tmp_path / "s"
    inner.mkdir()
    for folder in (tmp_path, inner):
        (folder / "x.csv").write_text("n\n1\n")
    (inner / "up").symlink_to("..")
    (inner / "same").symlink_to(".")
    wanted = [str(inner / "x.csv"), str(tmp_path / "x.csv")]
    for pattern in ("**/*.csv", "**/**/x.csv", "**"):
        files, _ = find_files(tmp_path / pattern, (".csv",))
        assert [file.path for file in files] == wanted
    files, _ = find_files(tmp_path / "s" / "up" / "**" / "*.csv", (".csv",))
    assert len(files) == 2  # a link that is written out
    with pytest.raises(DataError, match="only folders match"):
        find_files(tmp_path / "**" / "s", (".csv",))

"""Golden files and shared folders behave as the tests that use them expect."""

from pathlib import Path

import pytest

from tests.conftest import check_golden, shared_folder


def test_golden_accepts_the_same_text(tmp_path: Path) -> None:
    (tmp_path / "plan.txt").write_text("Scan orders\n")
    check_golden(tmp_path / "plan.txt", "Scan orders", update=False)


def test_golden_shows_the_difference_and_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "plan.txt").write_text("Scan orders\n")
    with pytest.raises(pytest.fail.Exception) as failure:
        check_golden(tmp_path / "plan.txt", "Scan items", update=False)
    assert "-Scan orders\n+Scan items\n" in str(failure.value)
    assert "pytest --update-golden" in str(failure.value)


def test_golden_file_that_is_missing_fails(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"\+Scan items"):
        check_golden(tmp_path / "plan.txt", "Scan items", update=False)


def test_golden_update_writes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rules" / "plan.txt"
    check_golden(path, "Scan items", update=True)
    assert path.read_text() == "Scan items\n"


def test_shared_folder_follows_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALOPS_TEST_DATA", str(tmp_path))
    assert shared_folder("data", "SCALOPS_TEST_DATA") == tmp_path


def test_shared_folder_that_is_missing_skips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALOPS_TEST_DATA", str(tmp_path / "none"))
    with pytest.raises(pytest.skip.Exception, match="SCALOPS_TEST_DATA can name another"):
        shared_folder("data", "SCALOPS_TEST_DATA")

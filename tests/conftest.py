"""What all tests share: golden files and the folders of shared data and programs."""

import difflib
import os
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import settings

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[2] / "shared"

# A busy machine is no bug: examples are judged by their answer, not by their time.
settings.register_profile("scalops", deadline=None)
settings.load_profile("scalops")


class Golden(Protocol):
    """Compares a text with the golden file of that name."""

    def __call__(self, name: str, text: str) -> None: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --update-golden."""
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden")


def check_golden(path: Path, text: str, *, update: bool) -> None:
    """Fail with a diff unless the file holds `text`; with `update`, make it so."""
    text = text.rstrip("\n") + "\n"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if text == before:
        return
    if update:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
        return
    lines = before.splitlines(), text.splitlines()
    diff = difflib.unified_diff(*lines, os.path.relpath(path), "this run", lineterm="")
    pytest.fail("\n".join([*diff, "", "If this run is right: pytest --update-golden"]), False)


def shared_folder(name: str, variable: str) -> Path:
    """The folder shared/<name> next to the repository, or the one the variable names."""
    folder = Path(os.environ.get(variable) or SHARED / name)
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}; {variable} can name another")
    return folder


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """`golden("rules/merge_filters.txt", text)` compares with tests/golden/<name>."""
    update = bool(request.config.getoption("--update-golden"))

    def compare(name: str, text: str) -> None:
        check_golden(GOLDEN / name, text, update=update)

    return compare


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data files."""
    return shared_folder("data", "SCALOPS_TEST_DATA")


@pytest.fixture(scope="session")
def shared_programs() -> Path:
    """The folder of users' programs."""
    return shared_folder("programs", "SCALOPS_TEST_PROGRAMS")

"""Programs written for a test, and the command line called on them."""

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from click.testing import CliRunner, Result

from scalops.cli.commands import cli


class Write(Protocol):
    """Writes a file of the user's and gives its path."""

    def __call__(self, text: str, name: str = ...) -> Path: ...


class Invoke(Protocol):
    """Calls the command line in this process."""

    def __call__(self, *arguments: object) -> Result: ...


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write("...")` writes program.py into the test's folder."""

    def write_file(text: str, name: str = "program.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write_file


@pytest.fixture
def invoke() -> Iterator[Invoke]:
    """`invoke("run", path)`; what a program's import leaves behind is taken back."""
    # What tests elsewhere have left that have run a program in this process.
    for name in [n for n in sys.modules if n.endswith("program") and "." not in n]:
        del sys.modules[name]
    sys.path[:] = [p for p in sys.path if not (Path(p) / "program.py").is_file()]
    modules, path = set(sys.modules), list(sys.path)
    yield lambda *arguments: CliRunner().invoke(cli, [str(a) for a in arguments])
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not name.startswith("scalops"):
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and "site-packages" not in file and "/lib/python" not in file:
                del sys.modules[name]

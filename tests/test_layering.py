"""Imports go one way, are spelled in full, and no module outgrows its story."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "algebra": ("scalops.algebra",),
    "engine": ("scalops.algebra", "scalops.engine"),
    # The physical plan is data: stages and tables, sinks that relate records, running aggregates,
    # what folds take.
    "optimizer": (
        "scalops.algebra",
        "scalops.engine.neutral",
        "scalops.engine.origins",
        "scalops.engine.physical_compiled",
        "scalops.engine.physical_plan",
        "scalops.engine.physical_relations",
        "scalops.engine.physical_running",
        "scalops.engine.physical_work",
        "scalops.engine.stage_operators",
        "scalops.optimizer",
    ),
    "scalops": ("scalops",),
}
MOST_LINES = 500
# Module -> why it stays longer than MOST_LINES, as in {"algebra/functions.py": "one table"}.
LONG: dict[str, str] = {}


def modules(folder: str) -> list[Path]:
    """The modules of a top-level folder; links lead to another folder and are left out."""
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if path.is_file()]


def imported(source: str) -> Iterator[tuple[int, str]]:
    """Line and full name of all that is imported, functions' own imports too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{name.name}") for name in node.names)


def within(name: str, packages: tuple[str, ...]) -> bool:
    """Is `name` one of the packages, or inside one?"""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def wrong_imports(source: str, may_import: tuple[str, ...]) -> list[str]:
    """Imports of ours that are not allowed, or not spelled `scalops.…`."""
    ours = ("scalops", "algebra", "optimizer", "engine")
    return [
        f"{line}: {name}"
        for line, name in imported(source)
        if name.startswith(".") or (within(name, ours) and not within(name, may_import))
    ]


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_go_one_way(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{found}"
        for path in modules(folder)
        for found in wrong_imports(path.read_text(encoding="utf-8"), MAY_IMPORT[folder])
    ]
    assert not wrong, f"{folder} may import {MAY_IMPORT[folder]} of ours only"


@pytest.mark.parametrize("folder", ["tests", "examples", "benchmarks"])
def test_imports_around_the_code_are_spelled_in_full(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{found}"
        for path in modules(folder)
        for found in wrong_imports(path.read_text(encoding="utf-8"), ("scalops",))
    ]
    assert not wrong, "write scalops.algebra, not algebra, nor a relative import"


def test_no_module_is_too_long() -> None:
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for folder in MAY_IMPORT
        for path in modules(folder)
    }
    long = {name for name, count in lines.items() if count > MOST_LINES}
    new = {name: lines[name] for name in sorted(long - LONG.keys())}
    assert not new, f"look for the second story: over {MOST_LINES} lines"
    assert LONG.keys() <= long, "LONG excuses modules that are not long"


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("algebra", "import scalops"),
        ("algebra", "from scalops import engine"),
        ("algebra", "def f():\n    from scalops.optimizer.cost import Cost"),
        ("engine", "import scalops.optimizer"),
        ("optimizer", "from scalops.engine import physical_planner"),
        ("optimizer", "from scalops.engine.memory import MemoryBudget"),
        ("scalops", "from algebra.tree import walk"),
        ("scalops", "from .table import Table"),
        ("scalops", "from . import table"),
    ],
)
def test_wrong_import_is_found(folder: str, source: str) -> None:
    assert wrong_imports(source, MAY_IMPORT[folder])


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("algebra", "from scalops.algebra.tree import walk"),
        ("engine", "from scalops import algebra"),
        ("optimizer", "from scalops.engine import physical_plan"),
        ("optimizer", "from scalops.engine.physical_plan import Exchange"),
        ("scalops", "import scalops.engine.embedded"),
        ("algebra", "import numpy.linalg, enginelike"),
    ],
)
def test_right_import_is_let_be(folder: str, source: str) -> None:
    assert not wrong_imports(source, MAY_IMPORT[folder])

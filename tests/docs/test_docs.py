"""The examples of the documentation run and give what it says; what it lists is complete."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import scalops as so
from scalops.algebra import errors
from scalops.optimizer.phases import PHASES
from scalops.options import Options
from tests.cli.conftest import Invoke
from tests.docs.examples import blocks, run
from tests.programs.conftest import invoke

__all__ = ["invoke"]

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
FILES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")] + DOCS
SHOWS_DEFAULTS = ("language.md",)


# The defaults are what is described; of those that show none, worker processes give the same.
@pytest.mark.parametrize("processes", [pytest.param("default", marks=pytest.mark.long), "none"])
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_examples_give_what_the_file_says(
    path: Path,
    processes: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    if processes == "default" or path.name in SHOWS_DEFAULTS:
        monkeypatch.delenv("SCALOPS_PROCESSES", raising=False)
    text = path.read_text(encoding="utf-8")
    with so.session():
        found = run(text, path.name)
    if request.config.getoption("--update-golden"):
        path.write_text(found.text, encoding="utf-8", newline="\n")
    else:
        hint = "if the code is right: pytest --update-golden"
        assert text == found.text, f"{path.name}: {hint}"
    assert not found.differences, "\n\n".join(found.differences)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8"))
    missing = [link for link in links if not (path.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_named_files_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"`((?:algebra|optimizer|engine|scalops|tests|examples)/[\w./]*)`", text)
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_readme_is_short_and_its_example_too() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    example = next(b for b in blocks(text) if b.language == "python")
    assert len(text.splitlines()) <= 150
    assert len(example.text.splitlines()) <= 30


def test_architecture_is_one_page() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 1500


def test_language_names_every_public_name_and_method() -> None:
    text = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
    kinds = {errors.ScalopsError, *errors.ScalopsError.__subclasses__()}
    kinds |= set(errors.ExecutionError.__subclasses__())
    names = [n for n in so.__all__ if getattr(so, n) not in kinds]
    missing = [n for n in names if not re.search(rf"\bso\.{n}\b", text)]
    methods = [n for n, _ in inspect.getmembers(so.Table) if not n.startswith("_") and n != "plan"]
    missing += [n for n in methods if not re.search(rf"\b{n}\b", text)]
    assert not missing


def test_errors_shows_every_class() -> None:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    kinds = [n for n in so.__all__ if n.endswith(("Error", "Lost"))]
    assert not [n for n in kinds if f"`{n}`" not in text]


def test_optimizer_has_a_section_for_each_rule_in_the_order_of_the_phases() -> None:
    text = (ROOT / "docs" / "optimizer.md").read_text(encoding="utf-8")
    rules = list(dict.fromkeys(rule.__name__ for phase in PHASES for rule in phase.rules))
    assert re.findall(r"^### `(\w+)`", text, re.MULTILINE) == rules
    table = re.findall(r"^\| \d+ \| ([\w ]+?) *\| ([^|]*) \|", text, re.MULTILINE)
    assert [(name, tuple(re.findall(r"`(\w+)`", listed))) for name, listed in table] == [
        (phase.name, tuple(rule.__name__ for rule in phase.rules)) for phase in PHASES
    ]


def test_optimizer_shows_the_golden_cases(request: pytest.FixtureRequest) -> None:
    path = ROOT / "docs" / "optimizer.md"
    text = path.read_text(encoding="utf-8")
    golden = re.sub(
        r"^<!-- (\w+): ([^\n]*) -->\n```text\n.*?^```$", _golden_case, text, flags=re.M | re.S
    )
    if request.config.getoption("--update-golden"):
        path.write_text(golden, encoding="utf-8", newline="\n")
    else:
        assert text == golden, "docs/optimizer.md: if the rules are right: pytest --update-golden"


def _golden_case(match: re.Match[str]) -> str:
    rule, title = match.groups()
    file = ROOT / "tests" / "golden" / "rules" / f"{rule}.txt"
    cases = re.split(r"^== (.*)\n", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = dict(zip(cases[1::2], cases[2::2], strict=True))
    return f"<!-- {rule}: {title} -->\n```text\n{found[title].strip()}\n```"


def test_language_names_every_option_of_a_session() -> None:
    text = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
    names = [field.name for field in dataclasses.fields(Options)]
    assert not [name for name in names if f"\n| `{name}` |" not in text]


def test_the_demo_shows_plan_and_result() -> None:
    command = [sys.executable, "-m", "examples.demo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "MapReduceUpdate one pass each iteration" in done.stdout
    accuracy = re.search(r"accuracy +([0-9.]+)% of 114 records held out", done.stdout)
    assert accuracy is not None
    assert float(accuracy[1]) > 94
    # Of the iterations it tells as often as seconds pass.
    assert all(" s/iteration" in line for line in done.stderr.splitlines()), done.stderr


def test_the_demo_is_a_program(invoke: Invoke) -> None:
    done = invoke("run", ROOT / "examples" / "demo.py", "--json", "--eps", "1e-4")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["model"]["converged"]
    assert result["held_out"] == 114
    assert result["accuracy"] > 0.95

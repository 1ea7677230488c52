"""Every test that `sentences.md` names for a sentence of the language exists."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
FOLDERS = {
    "A/": "algebra/", "C/": "cli/", "E/": "engine/", "L/": "language/", "O/": "optimizer/",
    "tests/": "",
}  # fmt: skip
_TEST = re.compile(r"((?:[ACELO]|tests)/[\w/]+\.py)(?:::(\w+))?")


def test_every_test_of_a_sentence_exists() -> None:
    text = (TESTS / "language" / "sentences.md").read_text()
    named = _TEST.findall(text)
    assert len(named) > 200
    missing = []
    for file, test in named:
        short = next(s for s in FOLDERS if file.startswith(s))
        path = TESTS / FOLDERS[short] / file.removeprefix(short)
        if not path.exists() or (test and f"def {test}(" not in path.read_text()):
            missing.append(f"{file}::{test}")
    assert not missing


def test_every_sentence_has_a_test_or_says_why_not() -> None:
    rows = [
        line
        for line in (TESTS / "language" / "sentences.md").read_text().splitlines()
        if line.startswith("| ") and not line.startswith(("| sentence", "| ---"))
    ]
    assert len(rows) > 150
    assert [r for r in rows if not _TEST.search(r) and "not this version" not in r] == []

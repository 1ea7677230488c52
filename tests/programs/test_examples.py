"""The examples agree with their NumPy references, from the command line too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = ("elastic_net", "minibatch_sgd", "topics")
FOLDER = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", EXAMPLES)
def test_agrees_with_its_reference(name: str) -> None:
    command = [sys.executable, str(FOLDER / f"{name}.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{name}:")
    assert not done.stderr  # nothing runs record by record, no loop ends without converging


@pytest.mark.parametrize("name", EXAMPLES)
def test_runs_from_the_command_line(name: str) -> None:
    path = str(FOLDER / f"{name}.py")
    command = [sys.executable, "-m", "scalops", "run", path, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)


@pytest.mark.parametrize("name", EXAMPLES)
def test_its_plan_is_explained_without_running(name: str) -> None:
    path = str(FOLDER / f"{name}.py")
    command = [sys.executable, "-m", "scalops", "explain", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "MapReduceUpdate" in done.stdout
    assert "opaque" not in done.stdout

"""The examples agree with their NumPy references, from the command line too."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke

EXAMPLES = ("elastic_net", "minibatch_sgd", "mixture", "softmax", "topics")
FOLDER = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", EXAMPLES)
def test_agrees_with_its_reference(
    name: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith(f"{name}:")
    assert not caplog.records  # nothing runs record by record, no loop ends without converging


@pytest.mark.parametrize("name", EXAMPLES)
def test_runs_from_the_command_line(name: str, invoke: Invoke) -> None:
    done = invoke("run", FOLDER / f"{name}.py", "--json")
    assert done.exit_code == 0, done.stderr
    json.loads(done.stdout)


@pytest.mark.parametrize("name", EXAMPLES)
def test_its_plan_is_explained_without_running(name: str, invoke: Invoke) -> None:
    done = invoke("explain", FOLDER / f"{name}.py")
    assert done.exit_code == 0, done.stderr
    assert "MapReduceUpdate" in done.stdout
    assert "opaque" not in done.stdout

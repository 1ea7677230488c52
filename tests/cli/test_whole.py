"""Programs run and explained for real, by the whole of scalops."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Invoke, Write
from tests.cli.test_process import run

HALVING = """
import numpy as np
import scalops as so


class Model(so.Environment):
    w: np.ndarray
    loss: float


@so.program
def main(steps: int = 3, eta: float = 0.5):
    rows = so.table({"x": np.arange(4.0)})

    @so.loop(Model(w=np.zeros(2), loss=1.0), range(steps))
    def model(env):
        env.w = env.w + eta * rows.map(lambda r: r.x).sum()
        env.loss = env.loss / 2
        return env

    return {"model": model, "rows": rows, "n": rows.count(), "loss": model.loss}


@so.program
def loop(steps: int = 3):
    return main(steps)["model"]


@so.program
def fails():
    def row(r):
        raise ValueError("no such row")

    return so.table({"x": [1.0, 2.0]}).map(so.udf(row, returns=(so.float64,)))
"""


def test_nesting_as_text(write: Write, invoke: Invoke) -> None:
    result = invoke("run", write(HALVING), "--steps", "2")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("model: 2 iterations, converged, ")
    assert lines[1:] == [
        "  w: float64[2] [6. 6.]",
        "  loss: 0.25",
        "rows: 4 rows",
        *("  x", "  0.0", "  1.0", "  2.0", "  3.0"),
        "n: 4",
        "loss: 0.25",
    ]


def test_loop_as_json(write: Write, invoke: Invoke) -> None:
    result = invoke("run", f"{write(HALVING)}:loop", "--json")
    document = json.loads(result.stdout)
    assert document.pop("seconds") > 0
    assert document == {"env": {"w": [9.0, 9.0], "loss": 0.125}, "iterations": 3, "converged": True}


def test_progress_line_is_written(write: Write, invoke: Invoke) -> None:
    result = invoke("run", f"{write(HALVING)}:loop", "--progress")
    assert result.stderr.startswith("model: iteration 3  loss 0.125  ")
    assert result.stdout.startswith("3 iterations")


@pytest.mark.parametrize("stage", ["traced", "logical", "optimized", "physical", "all"])
def test_explain_shows_the_plan_and_runs_nothing(
    write: Write, invoke: Invoke, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalops.planning.execute", None)
    monkeypatch.setattr("scalops.engine.driver.Driver.run", None)
    path = write(HALVING)
    text = invoke("explain", path, "--stage", stage, "--trace")
    assert (text.exit_code, text.stderr) == (0, "")
    assert "loss" in text.stdout
    document = invoke("explain", path, "--stage", stage, "--format", "json")
    assert json.loads(document.stdout)["stages"]


def test_error_of_a_users_function_names_its_line(write: Write, invoke: Invoke) -> None:
    result = invoke("run", f"{write(HALVING)}:fails")
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("UserFunctionError: row() raised ValueError: no such row")
    assert last.endswith("(program.py:32), in partition 0")


def test_error_of_a_users_function_shows_its_traceback(write: Write, invoke: Invoke) -> None:
    path = write(HALVING)
    result = invoke("run", f"{path}:fails")
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert f'File "{path}", line 32, in row' in result.stderr
    assert "ValueError: no such row\n" in result.stderr
    assert "/scalops/" not in result.stderr


def test_logistic_regression(shared_programs: Path, shared_data: Path) -> None:
    done = run("run", shared_programs / "logistic_regression.py", "--eps", "1e-3", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)

    raw = np.loadtxt(shared_data / "spambase.data", delimiter=",")
    x, y = np.log1p(raw[:, :57]), np.where(raw[:, 57] == 1, 1.0, -1.0)
    w, last, delta, steps = np.zeros(57), np.inf, np.inf, 0
    while delta > 1e-3 and steps < 500:
        margin = y * (x @ w)
        gradient, loss = x.T @ (-y / (1 + np.exp(margin))), np.log1p(np.exp(-margin)).mean()
        w, delta, last = w - 0.3 * gradient / len(y), abs(last - loss), loss
        steps += 1
    assert document["iterations"] == steps
    assert document["converged"] is True
    np.testing.assert_allclose(document["env"]["w"], w, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(document["env"]["loss"], last, rtol=1e-10)


def test_explain_of_logistic_regression(shared_programs: Path, shared_data: Path) -> None:
    done = run("explain", shared_programs / "logistic_regression.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Loop" in done.stdout
    assert "logistic_regression.py:" in done.stdout


@pytest.mark.parametrize(
    ("form", "start"),
    [("dot", "digraph"), ("mermaid", "flowchart"), ("html", "<!doctype html>")],
)
def test_explain_writes_each_format(write: Write, invoke: Invoke, form: str, start: str) -> None:
    result = invoke("explain", f"{write(HALVING)}:loop", "--format", form)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(start)
    assert "Loop loop1 model" in result.stdout

"""The commands themselves: what is offered, what is refused, what is passed on."""

import importlib
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from scalops.cli.progress import ProgressLine
from scalops.engine.events import SILENT
from scalops.loop import LoopResult
from tests.cli.conftest import Invoke, Write

COUNT = """
import numpy as np
import scalops as so

print("importing")

@so.program
def main(n: int = 3):
    print("building")
    return so.table({"x": np.arange(float(n))}).count()
"""
LOOP = """
import scalops as so

@so.program
def main(steps: int = 3):
    return so.loop({"x": 1.0}, range(steps))(lambda env: {"x": env["x"] / 2})

@so.program
def nested():
    return {"models": [main()], "bare": so.loop(1.0, range(2))(lambda x: x / 2)}
"""
HISTORY = pa.table({"iteration": [0, 1], "seconds": [0.25, 0.5]})
RESULT = LoopResult({"x": np.float64(0.125)}, 2, True, HISTORY, {})


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A session that runs nothing: every loop gives RESULT, all else 7. Lists the event logs."""
    listeners: list[Any] = []
    module = importlib.import_module("scalops.session")

    def collect(thing: Any) -> Any:
        listeners.append(module.current_session().events)
        return {"models": [{"x": 0.125}], "bare": 0.25} if isinstance(thing, dict) else np.int64(7)

    def run_loop(loop: Any) -> LoopResult:
        listeners.append(module.current_session().events)
        return RESULT

    monkeypatch.setattr(module, "collect", collect)
    monkeypatch.setattr(module, "run_loop", run_loop)
    return listeners


@pytest.fixture
def explained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was asked to be explained, and how."""
    calls = []

    def explain(thing: Any, **given: Any) -> str:
        calls.append((thing, given))
        print("looking")
        return "the plan\n"

    module = ModuleType("scalops.explain")
    module.explain = explain  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "scalops.explain", module)
    return calls


def test_only_the_result_goes_to_standard_output(
    write: Write, invoke: Invoke, session: list[Any]
) -> None:
    result = invoke("run", write(COUNT))
    assert (result.exit_code, result.stdout) == (0, "7\n")
    assert result.stderr == "importing\nbuilding\n"
    assert session == [SILENT]


def test_loop_tells_its_iterations(write: Write, invoke: Invoke, session: list[Any]) -> None:
    path = write(LOOP)
    assert invoke("run", path).stdout == "2 iterations, converged, 0.75 s\nx: 0.125\n"
    assert invoke("run", path, "--json").stdout == (
        '{"env": {"x": 0.125}, "iterations": 2, "converged": true, "seconds": 0.75}\n'
    )


def test_loops_in_a_nesting_tell_their_iterations(
    write: Write, invoke: Invoke, session: list[Any]
) -> None:
    assert invoke("run", f"{write(LOOP)}:nested").stdout.splitlines() == [
        "models:",
        "  [0]: 2 iterations, converged, 0.75 s",
        "    x: 0.125",
        "bare: 2 iterations, converged, 0.75 s",
        "  x: 0.125",
    ]


def test_own_options_may_stand_before_or_after_the_program(
    write: Write, invoke: Invoke, session: list[Any]
) -> None:
    path = write(LOOP)
    before = invoke("run", "--json", "--progress", path, "--steps", "2")
    after = invoke("run", path, "--steps", "2", "--progress", "--json")
    assert before.stdout == after.stdout
    assert before.stdout.startswith("{")
    assert [type(log) for told in session for log in told.logs] == [ProgressLine, ProgressLine]


def test_progress_is_off_without_a_terminal(
    write: Write, invoke: Invoke, session: list[Any]
) -> None:
    path = write(LOOP)
    invoke("run", path)
    invoke("run", path, "--no-progress")
    assert session == [SILENT, SILENT]


def test_explain_passes_on_what_was_returned(
    write: Write, invoke: Invoke, explained: list[Any]
) -> None:
    path = write(LOOP)
    result = invoke("explain", f"{path}:nested")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "the plan\n", "looking\n")
    invoke("explain", path, "--stage", "all", "--format", "json", "--trace", "--no-costs")
    (nesting, defaults), (_, given) = explained
    assert set(nesting) == {"models", "bare"}
    others = {"analyze": False}
    assert defaults == {"stage": None, "format": "text", "trace": False, "costs": True, **others}
    assert given == {"stage": "all", "format": "json", "trace": True, "costs": False, **others}


def test_wrong_stage_is_wrong_usage(write: Write, invoke: Invoke) -> None:
    result = invoke("explain", write(COUNT), "--stage", "phisical")
    assert result.exit_code == 2
    assert "'phisical' is not one of 'traced', 'logical', 'optimized', 'physical', 'all'" in (
        result.stderr
    )

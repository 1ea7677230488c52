"""`scalops run --log-file`: one JSON object per event, line by line."""

from __future__ import annotations

import importlib
import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.cli.event_file import EventFile
from tests.cli.conftest import Invoke, Write

SESSION = importlib.import_module("scalops.session")  # so.session hides it
HALVING = """
import numpy as np
import scalops as so

@so.program
def main(steps: int = 3, bad: bool = False):
    rows = so.table({"x": np.arange(4.0)}).map(lambda r: np.log1p(r.x))

    @so.loop({"w": np.zeros(2), "loss": 1.0}, range(steps))
    def model(env):
        total = rows.map(lambda x: x * env["loss"]).sum()
        return {"w": env["w"] + total, "loss": env["loss"] / (0 if bad else 2)}

    return model
"""


def events_of(path: Path) -> list[dict[str, Any]]:
    """The file's lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_events_of_a_run(write: Write, invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    result = invoke("run", write(HALVING), "--log-file", path, "--no-progress")
    assert (result.exit_code, result.stderr) == (0, "")
    events = events_of(path)
    assert [e["event"] for e in events] == [
        "run", "plan", "cache", *(["stage", "iteration"] * 3), "end",
    ]  # fmt: skip
    run, plan, cache = events[:3]
    assert (run["options"]["workers"], run["options"]["opaque"]) == (0, "run")
    assert len(plan["fingerprint"]) == 32
    assert (cache["rows"], cache["partitions"], cache["cached"]) == (4, 1, 1)
    iterations = [e for e in events if e["event"] == "iteration"]
    assert [(e["number"], e["scalars"], e["rows"]) for e in iterations] == [
        (0, {"loss": 0.5}, 4),
        (1, {"loss": 0.25}, 4),
        (2, {"loss": 0.125}, 4),
    ]
    assert all(e["seconds"] > 0 for e in iterations)
    assert events[-1]["failed"] is False
    times = [datetime.fromisoformat(e["time"]) for e in events]
    assert times == sorted(times)
    assert all(t.tzinfo == UTC for t in times)


def test_an_error_is_an_event_and_runs_are_appended(
    write: Write, invoke: Invoke, tmp_path: Path
) -> None:
    path = tmp_path / "run.log"
    invoke("run", write(HALVING), "--log-file", path)
    before = events_of(path)
    assert invoke("run", write(HALVING), "--bad", "--log-file", path).exit_code == 1
    events = events_of(path)
    assert events[: len(before)] == before
    error, end = events[-2:]
    assert (error["event"], error["type"]) == ("error", "LoopError")
    assert "has become infinite" in error["message"]
    assert (end["event"], end["failed"]) == ("end", True)


def test_an_error_without_a_line_of_the_program_names_none(
    write: Write, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(*given: Any) -> list[Any]:
        raise so.ExecutionError("it is lost")

    monkeypatch.setattr(SESSION, "execute", execute)
    path = tmp_path / "run.log"
    assert invoke("run", write(HALVING), "--log-file", path).exit_code == 1
    (error,) = (e for e in events_of(path) if e["event"] == "error")
    assert error["message"] == "it is lost"


@pytest.mark.parametrize(
    ("ended", "message"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(143), "the process is ended with exit code 143"),
    ],
)
def test_an_end_from_outside_says_what_it_is(
    write: Write, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    ended: BaseException, message: str,
) -> None:  # fmt: skip
    def execute(*given: Any) -> list[Any]:
        raise ended

    monkeypatch.setattr(SESSION, "execute", execute)
    path = tmp_path / "run.log"
    invoke("run", write(HALVING), "--log-file", path)
    (error,) = (e for e in events_of(path) if e["event"] == "error")
    assert (error["type"], error["message"]) == (type(ended).__name__, message)


def test_a_file_that_cannot_be_opened_is_wrong_usage(
    write: Write, invoke: Invoke, tmp_path: Path
) -> None:
    result = invoke("run", write(HALVING), "--log-file", tmp_path / "no" / "run.log")
    assert result.exit_code == 2
    assert "cannot be opened: No such file or directory" in result.stderr


def test_values_without_a_json_form_are_told(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    with EventFile(str(path)) as log:
        log.emit("iteration", scalars={"loss": np.float64("nan"), "n": np.int64(3), "é": "ü"})
    (event,) = events_of(path)
    assert event["scalars"] == {"loss": "NaN", "n": 3, "é": "ü"}


def test_lines_are_there_at_once_and_none_after_the_end(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    with EventFile(str(path)) as log:
        log.emit("worker_joined", worker="w", host="h")
        assert [e["event"] for e in events_of(path)] == ["worker_joined"]
    log.emit("end")
    assert len(events_of(path)) == 1


def test_a_full_disk_is_told_once_and_the_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "scalops"), EventFile("/dev/full") as log:
        for _ in range(3):
            log.emit("stage")
    assert caplog.messages == ["no more is written to /dev/full: No space left on device"]

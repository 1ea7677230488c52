"""A loop whose state is lost goes back, and says to where."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.engine.checkpoint import Checkpoint, CheckpointFolder
from scalops.engine.cluster.coordinator import StateLost
from scalops.engine.cluster.going_back import MOST_TIMES, run_again
from scalops.engine.loop_runner import LoopControl

LOST = "all workers that held the loop's tables were lost: it goes back to "


class Events:
    """Those that were emitted."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []

    def emit(self, kind: str, **fields: Any) -> None:
        self.heard.append((kind, fields))


class Runs:
    """Runs that lose the state so many times, each 40 iterations after it began, if it saves."""

    def __init__(self, losses: int, folder: CheckpointFolder | None = None) -> None:
        self.losses, self.folder = losses, folder
        self.begun_at: list[int] = []

    def __call__(self, control: LoopControl | None) -> list[Any]:
        resumed = None if control is None else control.resumed
        self.begun_at.append(0 if resumed is None else resumed.iterations)
        if len(self.begun_at) > self.losses:
            return ["done"]
        if self.folder is not None:
            state = {"w": np.float64(1)}
            self.folder.save(Checkpoint("f", {}, self.begun_at[-1] + 40, state))
        raise StateLost


def test_without_checkpoints_it_begins_again_and_says_what_would_have_saved_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runs, events = Runs(2), Events()
    with caplog.at_level(logging.WARNING, "scalops"):
        assert run_again(runs, None, events) == ["done"]
    assert runs.begun_at == [0, 0, 0]
    assert events.heard == [("went_back", {"iteration": 0})] * 2
    text = f"{LOST}its start; loop.run(checkpoint=folder) saves it from time to time"
    assert caplog.messages == [text] * 2


def test_it_goes_on_after_the_last_checkpoint(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    folder, events = CheckpointFolder(tmp_path), Events()
    runs = Runs(2, folder)
    with caplog.at_level(logging.WARNING, "scalops"):
        run_again(runs, LoopControl(folder=folder), events)
    assert runs.begun_at == [0, 40, 80]
    assert events.heard == [("went_back", {"iteration": i}) for i in (40, 80)]
    assert caplog.messages == [f"{LOST}its last checkpoint, of {i} iterations" for i in (40, 80)]


def test_the_last_loss_is_an_error_and_goes_nowhere() -> None:
    runs, events = Runs(MOST_TIMES), Events()
    with pytest.raises(so.ExecutionError, match=f"were lost {MOST_TIMES} times"):
        run_again(runs, None, events)
    assert len(runs.begun_at) == MOST_TIMES
    assert len(events.heard) == MOST_TIMES - 1

"""The progress line: what it says, and how often it is drawn."""

import io

import numpy as np
import pytest

from scalops.cli import progress
from scalops.cli.progress import ProgressLine


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_line_names_loop_iteration_fields_and_seconds(clock: Clock) -> None:
    line = ProgressLine(io.StringIO(), is_terminal=False)
    line.iteration("model", 0, {"loss": 0.5}, 0.1)
    line.iteration("model", 1, {"loss": 0.25, "delta": 1e-7}, 0.3)
    assert line.text() == "model: iteration 2  loss 0.25  delta 1e-07  0.2 s/iteration"
    for unnamed in (None, "<lambda>"):
        line.iteration(unnamed, 0, {}, 0.5)
        assert line.text() == "iteration 1  0.5 s/iteration"


def test_line_tells_rows_a_second_and_workers(clock: Clock) -> None:
    line = ProgressLine(io.StringIO(), is_terminal=False)
    for i in range(3):
        line.emit("worker_joined", worker=f"w{i}", host="here")
    line.emit("iteration", loop="model", number=0, scalars={}, seconds=0.5, rows=1_000_000)
    line.emit("stage", stages=[1], sink="TreeAggregate", seconds=0.1)
    line.emit("iteration", loop="model", number=1, scalars={}, seconds=0.5, rows=500_000)
    assert line.text() == "model: iteration 2  1.5M rows/s  0.5 s/iteration  3 workers"
    line.emit("worker_lost", worker="w1", reason="killed")
    assert line.text().endswith("  2 workers, 1 lost")
    line.emit("worker_joined", worker="w3", host="here")
    assert line.text().endswith("  3 workers, 1 lost")


def test_line_tells_where_a_loop_went_back_to(clock: Clock) -> None:
    line = ProgressLine(io.StringIO(), is_terminal=False)
    line.emit("worker_joined", worker="w1", host="here")
    line.iteration("model", 84, {}, 9.0)
    line.emit("worker_lost", worker="w1", reason="killed")
    line.emit("went_back", iteration=40)
    line.emit("worker_joined", worker="w2", host="here")
    line.iteration("model", 40, {}, 0.5)
    ends = "0.5 s/iteration  1 worker, 1 lost, went back to iteration 41"
    assert line.text() == f"model: iteration 41  {ends}"


def test_rows_that_nobody_counted_are_not_shown(clock: Clock) -> None:
    line = ProgressLine(io.StringIO(), is_terminal=False)
    line.iteration(None, 0, {}, 0.5, 100)
    line.iteration(None, 1, {}, 0.5, None)
    assert line.text() == "iteration 2  0.5 s/iteration"


@pytest.mark.parametrize(
    ("rows", "shown"), [(5, "5"), (1500, "1.5k"), (2_000_000, "2M"), (3 * 10**12, "3e+03G")]
)
def test_rows_a_second_have_few_digits(clock: Clock, rows: int, shown: str) -> None:
    line = ProgressLine(io.StringIO(), is_terminal=False)
    line.iteration(None, 0, {}, 1.0, rows)
    assert f"  {shown} rows/s  " in line.text()


def test_fields_that_are_no_numbers_are_shown(clock: Clock) -> None:
    line = ProgressLine(io.StringIO(), is_terminal=False)
    line.iteration(None, 0, {"done": np.bool_(False), "n": np.int64(7), "name": "a"}, 1.0)
    assert line.text() == "iteration 1  done False  n 7  name a  1 s/iteration"


def test_next_loop_of_the_same_name_starts_again(clock: Clock) -> None:
    line = ProgressLine(io.StringIO(), is_terminal=False)
    line.iteration("model", 0, {}, 9.0)
    line.iteration("model", 0, {}, 1.0)
    assert line.text() == "model: iteration 1  1 s/iteration"


def test_without_a_terminal_one_line_a_second_and_the_last(clock: Clock) -> None:
    stream = io.StringIO()
    with ProgressLine(stream, is_terminal=False) as line:
        for i in range(30):
            clock.now += 0.125
            line.iteration(None, i, {}, 0.1)
    assert [text.split()[1] for text in stream.getvalue().splitlines()] == ["8", "16", "24", "30"]


def test_last_iteration_is_written_once(clock: Clock) -> None:
    stream = io.StringIO()
    with ProgressLine(stream, is_terminal=False) as line:
        line.iteration(None, 0, {}, 0.1)
    assert stream.getvalue() == "iteration 1  0.1 s/iteration\n"


def test_without_a_loop_nothing_is_written() -> None:
    stream = io.StringIO()
    with ProgressLine(stream, is_terminal=False):
        pass
    assert stream.getvalue() == ""


def test_terminal_line_is_redrawn_and_disappears(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    with ProgressLine(stream, is_terminal=True) as line:
        for i in range(100):
            clock.now += 0.01
            line.iteration("model", i, {"loss": 1.0}, 0.01)
    drawn = stream.getvalue()
    assert 8 <= drawn.count("model: iteration") <= 11
    assert "\x1b[2K" in drawn
    assert drawn.rpartition("\x1b[2K")[2].strip("\r") == ""


def test_short_loop_on_a_terminal_draws_nothing(clock: Clock) -> None:
    stream = io.StringIO()
    with ProgressLine(stream, is_terminal=True) as line:
        line.iteration("model", 0, {}, 0.01)
    assert stream.getvalue() == ""

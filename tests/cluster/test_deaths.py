"""Whose fault it is that workers die, what they note of where they are, and interrupts."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest

from scalops.algebra.captured import Captured
from scalops.algebra.errors import ExecutionError, Location, UserFunctionError, WorkerLost
from scalops.engine import progress
from scalops.engine.backends import StageFailure
from scalops.engine.cluster.death_places import heard_places, told_places
from scalops.engine.cluster.deaths import MOST_UNKNOWN, Deaths
from scalops.engine.cluster.hub import Left
from scalops.engine.cluster.interrupts import Interrupts
from scalops.engine.passes import in_partition
from scalops.engine.processes.errors import decode_error, encode_error
from scalops.engine.progress import Notes, Place, calling, overdue, places

F = Captured(b"", "f()", Location("own.py", 7))


def died(partition: int, function: str = "", reason: str = "killed by signal 9 (SIGKILL)") -> Left:
    """A worker that was there."""
    return Left("w", reason, (Place(partition, function),))


def text(
    deaths: Deaths, *lefts: Left, command: tuple[str, Any] = ("fold", [3]), rank: int = 0
) -> str:
    """What the last death leads to; none before it does."""
    *before, last = [deaths.add(*command, left, rank) for left in lefts]
    assert before == [None] * len(before)
    return str(last)


def test_three_deaths_at_one_partition_of_one_command_are_its_fault() -> None:
    own = Place(2, "f()", Location("own.py", 7), ", over records 0 to 9 of a block")
    left = Left("w", "exit code 3", (own,))
    assert text(Deaths(), left, left, left) == (
        "f() ended its worker process 3 times, the last time by exit code 3, over records 0 to 9 of"
        " a block (own.py:7), in partition 2, stage 3; something in it ends its process: look for"
        " os._exit, or a library that exits"
    )
    without = text(Deaths(), *[died(2)] * 3, command=("fold", [3, 4]))
    assert without.startswith(
        "3 worker processes ended, the last one by signal 9 (SIGKILL), in partition 2, stages 3"
        " and 4; signal 9 may mean"
    )
    silent = text(Deaths(), *[died(2, reason="silent for 10 s")] * 3)
    assert "the last one (silent for 10 s), in partition 2" in silent


@pytest.mark.parametrize(
    ("command", "stages"),
    [
        (("partials", [3, 4]), "stages 3 and 4"),
        (("gather", 5), "stage 5"),
        (("steps", [["exchange", 3]]), "stage 3"),
        (
            ("steps", [["exchange", 3], ["count", 7], ["exchange", 3], ["fold", [9]]]),
            "stages 3 and 7 and 9",
        ),
    ],
    ids=["partials", "gather", "one step", "steps"],
)
def test_the_stages_of_a_command_are_named(command: tuple[str, Any], stages: str) -> None:
    found = text(Deaths(), *[died(2)] * 3, command=command)
    assert found.endswith(f"in partition 2, {stages}; {found.partition('; ')[2]}")


def test_a_command_of_no_stage_names_none() -> None:
    for command in (("put", [3, None]), ("dump", [3, 0]), ("release", 3), ("adopt", [[1, 2, 0]])):
        assert "stage" not in text(Deaths(), *[died(2)] * 3, command=command)


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        ("killed by signal 9 (SIGKILL)", "memory ran out; so.session(workers=0, processes=0) runs"),
        ("killed by signal 11 (SIGSEGV)", "under python -X faulthandler"),
        ("exit code 9", "look for os._exit, or a library that exits"),
        ("silent for 10 s", "stage 3; so.session(workers=0, processes=0) runs it here"),
    ],
)
def test_hints_are_of_the_cause(reason: str, hint: str) -> None:
    assert hint in text(Deaths(), *[died(2, "f()", reason)] * 3)
    assert hint in text(Deaths(), *[died(2, reason=reason)] * 3)


def test_places_travel_in_messages() -> None:
    found = (Place(2, "f()", F.location, ", over records 0 to 9 of a block", 7.5), Place(3))
    assert heard_places(told_places(found)) == (found[0]._replace(since=0.0), Place(3))
    assert heard_places(None) is None


def test_deaths_elsewhere_count_on_their_own() -> None:
    deaths = Deaths()
    for command in (("fold", [3]), ("fold", [4]), ("load", 3)):
        for partition in range(50):
            assert text(deaths, died(partition), died(partition), command=command) == "None"
    assert text(Deaths(), *[Left("w", "exit code 1", ())] * 50) == "None"  # at nothing


def test_a_command_that_succeeds_clears_what_came_before() -> None:
    deaths = Deaths()
    assert text(deaths, died(2)) == "None"
    assert not deaths.is_suspicious
    assert text(deaths, died(2)) == "None"
    assert deaths.is_suspicious
    deaths.clear()
    assert not deaths.is_suspicious
    assert text(deaths, died(2), died(2)) == "None"


def test_functions_outside_of_partitions_count_by_rank() -> None:
    deaths = Deaths()
    for rank in range(4):
        assert text(deaths, *[died(-1, "merge()")] * 2, rank=rank) == "None"
    assert text(deaths, died(-1, "merge()"), rank=1).startswith(
        "merge() ended its worker process 3"
    )


def test_where_nobody_knows_it_takes_more() -> None:
    unknown = Left("w", "silent for 10 s", None)
    assert "the last one (silent for 10 s), in stage 3" in text(Deaths(), *[unknown] * MOST_UNKNOWN)
    deaths = Deaths()
    for rank in range(9):
        assert text(deaths, *[unknown] * (MOST_UNKNOWN - 1), rank=rank) == "None"


# What workers note.


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> bytearray:
    """That in which this process notes where it is."""
    made = bytearray(progress.BYTES)
    monkeypatch.setattr(progress, "_own", Notes(made))
    return made


def test_partitions_and_calls_are_noted(memory: bytearray) -> None:
    assert places(memory) == []
    with in_partition(3):
        assert places(memory) == [Place(3)]
        with in_partition(0):
            assert places(memory) == [Place(0)]
            with calling(F, lambda: ", over records 0 to 9 of a block"):
                (found,) = places(memory)
            assert found[:-1] == (0, "f()", F.location, ", over records 0 to 9 of a block")
            assert found.since > 0
        assert places(memory) == [Place(3)]
    assert places(memory) == []
    with calling(Captured(b"", "g()" * 1000, Location("x" * 10_000, 1)), lambda: "é" * 10_000):
        (found,) = places(memory)
        assert (found.partition, len(found.function), found.location) == (-1, 100, None)
        assert overdue(memory, 100.0) is None
        assert overdue(memory, -1.0) == found


def test_a_function_leaves_no_trace_in_a_worker(memory: bytearray) -> None:
    before = np.geterr()

    def called() -> None:
        with calling(F, str):
            np.seterr(all="raise")
            raise KeyboardInterrupt("own")

    with pytest.raises(
        UserFunctionError, match=r"f\(\) raised KeyboardInterrupt: own \(own.py:7\)"
    ):
        called()
    assert np.geterr() == before
    assert places(memory) == []


def test_elsewhere_nothing_is_noted() -> None:
    assert progress.notes() is None
    with pytest.raises(KeyboardInterrupt), in_partition(1), calling(F, lambda: 1 / 0):  # type: ignore[arg-type, return-value]
        raise KeyboardInterrupt


def test_errors_travel_with_their_place_and_stage() -> None:
    error = WorkerLost("found", location=Location("own.py", 7), hint="do")
    error.add_place("partition 2")
    made = decode_error(encode_error(error, None), F)
    assert (type(made), str(made)) == (WorkerLost, str(error))
    stage = decode_error(encode_error(StageFailure(4, error), None), F)
    assert isinstance(stage, StageFailure)
    assert (stage.stage, str(stage.error)) == (4, str(error))


# Interrupts.


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_waits_until_nothing_is_half_done() -> None:
    woken: list[int] = []
    done: list[str] = []
    interrupts = Interrupts(lambda: woken.append(1))

    def nested() -> None:
        with interrupts:
            with interrupts:
                interrupt()
                done.append("inner")
            done.append("outer")
            interrupts.check()
            done.append("never")

    def plain() -> None:
        with interrupts:
            interrupt()
            done.append("to the end")

    with pytest.raises(KeyboardInterrupt):
        nested()
    assert (woken, done) == ([1], ["inner", "outer"])
    with pytest.raises(KeyboardInterrupt):
        plain()
    assert done[-1] == "to the end"
    interrupts.check()
    with interrupts:
        interrupts.check()
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_the_users_own_handler_is_called() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with Interrupts(lambda: None):
            interrupt()
            assert heard == []
        assert heard == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(ExecutionError), Interrupts(lambda: None):
        raise ExecutionError("as ever")

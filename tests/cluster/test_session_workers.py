"""A session's workers: there from the first run to the session's end, however that comes."""

from __future__ import annotations

import gc
import importlib
import os
import subprocess
import sys
from typing import Any

import pytest

import scalops as so
from scalops.engine.events import SILENT

SESSION = importlib.import_module("scalops.session")  # so.session hides it


class FakeWorkers:
    """Counts how often it is closed."""

    def __init__(self, options: Any) -> None:
        self.options, self.closed, self.is_running = options, 0, False
        self.hub = self

    def workers(self) -> list[str]:
        return ["w"] * self.options.workers

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[FakeWorkers]:
    """Those that were opened."""
    found: list[FakeWorkers] = []

    def open_workers(options: Any) -> FakeWorkers:
        found.append(FakeWorkers(options))
        return found[-1]

    monkeypatch.setattr(SESSION, "open_workers", open_workers)
    return found


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """Runs as (workers, process runner); each gives 7."""
    found: list[tuple[Any, Any]] = []

    def execute(job: Any, plan: Any, decided: Any, options: Any, *rest: Any) -> list[Any]:
        _, runner, _, _, _, workers, events, *_ = rest
        assert events is SILENT
        assert (workers is not None) == bool(decided.neutral.workers)
        found.append((workers, runner))
        return [7 for _ in job.outputs]

    monkeypatch.setattr(SESSION, "execute", execute)
    return found


def count() -> Any:
    """A Value of its own."""
    return so.table({"x": [1.0]}).count()


def test_workers_are_there_from_the_first_run_to_the_end(
    opened: list[FakeWorkers], runs: list[Any]
) -> None:
    with so.session(workers=2, threads=1) as session:
        assert (opened, session.attached) == ([], None)
        so.collect(count())
        so.collect(count())
        (made,) = opened
        assert (made.options.workers, session.attached) == (2, 2)
        with session:
            so.collect(count())
        assert made.closed == 0
    assert (made.closed, len(opened)) == (1, 1)
    assert runs == [(made, None)] * 3
    assert session.attached is None


def test_an_embedded_session_has_none(opened: list[FakeWorkers], runs: list[Any]) -> None:
    with so.session(workers=0, processes=0):
        so.collect(count())
    assert (opened, runs) == ([], [(None, None)])


def test_a_session_inside_has_its_own(opened: list[FakeWorkers], runs: list[Any]) -> None:
    with so.session(workers=2):
        so.collect(count())
        with so.session(workers=0):
            so.collect(count())
        with so.session(fan_in=2):
            so.collect(count())
        assert [(h.options.workers, h.closed) for h in opened] == [(2, 0), (2, 1)]
    assert [h.closed for h in opened] == [1, 1]
    assert [workers for workers, _ in runs] == [opened[0], None, opened[1]]


def test_an_exception_ends_it(
    opened: list[FakeWorkers], runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def program() -> None:
        with so.session(workers=2):
            so.collect(count())
            raise KeyError

    with pytest.raises(KeyError):
        program()
    assert opened[0].closed == 1

    def failing(*_: Any) -> None:
        raise so.WorkerLost("all workers are gone")

    monkeypatch.setattr(SESSION, "execute", failing)
    with so.session(workers=2):
        for _ in range(2):
            with pytest.raises(so.WorkerLost):
                so.collect(count())
        assert [h.closed for h in opened] == [1, 0]  # a failed run ends no session
    assert [h.closed for h in opened] == [1, 1]


def test_workers_that_cannot_be_had_are_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, runs: list[Any]
) -> None:
    def refused(options: Any) -> Any:
        raise so.SecurityError("the broker does not know the key")

    monkeypatch.setattr(SESSION, "open_workers", refused)
    with so.session(workers=2) as session:
        with pytest.raises(so.SecurityError, match=r"test_session_workers\.py:\d+"):
            so.collect(count())
        monkeypatch.setattr(SESSION, "open_workers", FakeWorkers)
        so.collect(count())
        assert session.attached == 2


def test_a_closed_session_may_be_entered_again(opened: list[FakeWorkers], runs: list[Any]) -> None:
    session = so.session(workers=2)
    for _ in range(2):
        with session:
            so.collect(count())
    assert [h.closed for h in opened] == [1, 1]
    session.close()
    assert [h.closed for h in opened] == [1, 1]


def test_workers_end_with_a_session_that_nobody_closed(opened: list[FakeWorkers]) -> None:
    session = so.session(workers=2)
    session.workers()
    del session
    gc.collect()
    assert opened[0].closed == 1


def test_the_rest_is_given_back_where_closing_fails(
    opened: list[FakeWorkers], runs: list[Any]
) -> None:
    total = count()

    def stuck() -> None:
        raise OSError("stuck")

    session: Any = so.session(workers=2)
    with session:
        so.collect(total)
        assert session._results
        session._end_workers = stuck
        with pytest.raises(OSError, match="stuck"):
            session.close()
    assert not session._results


def test_a_fork_leaves_the_workers_alone(opened: list[FakeWorkers]) -> None:
    session = so.session(workers=2)
    session.workers()
    (made,) = opened
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        session.close()
        os.write(writer, bytes([made.closed, session._workers is None]))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 2) == bytes([0, 1])
    os.close(reader)
    os.close(writer)
    session.close()
    assert made.closed == 1


def test_the_interpreters_end_is_theirs() -> None:
    program = """
import importlib, scalops as so
session_module = importlib.import_module("scalops.session")
class Workers:
    def close(self): print("closed", flush=True)
session_module.open_workers = lambda options: Workers()
kept = so.session(workers=2)
kept.workers()
import sys
print("zmq" in sys.modules)
raise RuntimeError("the driver's")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "closed"]
    assert "RuntimeError: the driver's" in done.stderr

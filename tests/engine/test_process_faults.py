"""Workers that hang, stop, die or answer too much: what the driver makes of it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
import pytest

import scalops as so
from scalops.algebra.dtypes import FLOAT64, INT64
from scalops.algebra.errors import ExecutionError, UserFunctionError, WorkerLost
from scalops.capture import capture
from scalops.engine.opaque.arguments import Argument, Column
from scalops.engine.opaque.pieces import TIMED_ROWS
from scalops.engine.processes.runner import ProcessRunner
from scalops.engine.threads import ThreadPool

ROWS = 50


@pytest.fixture
def runner() -> Iterator[ProcessRunner]:
    """Two workers with little time."""
    made = ProcessRunner(2, timeout=0.3)
    yield made
    made.stop()


def call(
    runner: ProcessRunner, function: Callable[..., Any], rows: int = ROWS, source: Any = None
) -> Any:
    """The function's results over the numbers from 0 on."""
    arguments = [Argument(None, (Column(np.arange(rows), None),))]
    ((values, _),) = runner.call_rows(
        capture(function)[0], runner.slots([]), arguments, rows, None, [INT64], source
    )
    return values.tolist()


def where(v: int) -> int:
    """The worker of a record."""
    return os.getpid()


def test_a_function_that_takes_too_long_is_ended(runner: ProcessRunner) -> None:
    def hangs(v: int) -> int:
        if v == 40:
            threading.Event().wait()
        return v

    before = set(call(runner, where))
    with pytest.raises(
        UserFunctionError, match=r"hangs\(\) was ended after 0.3 s, over records 25 to 49"
    ) as caught:
        call(runner, hangs)
    assert "task_timeout" in str(caught.value)
    assert caught.value.location is not None
    assert caught.value.location.file == __file__
    after = set(call(runner, where))
    assert len(after) == 2
    assert len(after & before) == 1
    assert not any(psutil.pid_exists(p) for p in before - after)


def test_a_stopped_worker_takes_too_long(runner: ProcessRunner) -> None:
    before = call(runner, where)
    os.kill(before[0], signal.SIGSTOP)
    with pytest.raises(UserFunctionError, match="was ended after"):
        call(runner, where)
    assert before[0] not in call(runner, where)
    assert not psutil.pid_exists(before[0])


def test_a_stopped_worker_does_not_block_a_large_request(runner: ProcessRunner) -> None:
    before = call(runner, where)
    os.kill(before[0], signal.SIGSTOP)
    x = np.ones((TIMED_ROWS, 4_000))
    arguments = [Argument(None, (Column(x, None),))]
    function, slots = capture(lambda v: 1)[0], runner.slots([])
    with pytest.raises(UserFunctionError, match="was ended after"):
        runner.call_rows(function, slots, arguments, TIMED_ROWS, None, [INT64])


def test_tasks_with_a_time_are_short(runner: ProcessRunner) -> None:
    def slow(v: int) -> int:
        if v % TIMED_ROWS == 0:
            threading.Event().wait(0.05)
        return v

    # Together longer than the time that each of them has.
    assert call(runner, slow, 14 * TIMED_ROWS) == list(range(14 * TIMED_ROWS))


def test_the_earliest_failing_record_is_reported(runner: ProcessRunner) -> None:
    """The second half fails at once, the first one later."""

    def fails(v: int) -> int:
        if v == 30:
            raise ValueError("late in the table")
        if v == 20:
            threading.Event().wait(0.1)
            raise ValueError("early in the table")
        return v

    with pytest.raises(UserFunctionError, match="early in the table; the record is 20"):
        call(runner, fails)


def test_the_earliest_failing_task_of_a_pool_is_reported() -> None:
    late_has_failed = threading.Event()

    def task(worker: int, index: int) -> None:
        if index == 0:
            assert late_has_failed.wait(10)
            raise ValueError("first")
        late_has_failed.set()
        raise ValueError(f"not {index}")

    pool = ThreadPool(2)
    with pytest.raises(ValueError, match="first"):
        pool.run(task, 2)
    pool.close()


def test_the_failing_record_is_the_first_of_the_table_with_any_threads() -> None:
    t = so.table({"k": np.arange(1_200), "x": np.ones((1_200, 1_000))})

    def fails(r: Any) -> float:
        if r.k in (400, 900, 1_190):
            raise ValueError
        return 1.0

    for options in ({"threads": 1}, {"threads": 2}, {"threads": 3, "processes": 2}):
        with so.session(**options), pytest.raises(UserFunctionError, match="'k': 400"):
            t.map(so.udf(fails, returns=so.float64)).sum().collect()


def test_results_that_are_too_large_are_an_error(
    runner: ProcessRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalops.engine.processes.messages.MAX_BYTES", 100_000)
    arguments = [Argument(None, (Column(np.arange(3), None),))]
    function, slots = capture(lambda v: np.zeros(10_000))[0], runner.slots([])
    with pytest.raises(ExecutionError, match=r"larger than 100000.*keep large arrays out"):
        runner.call_rows(function, slots, arguments, 3, None, [FLOAT64.with_shape(10_000)])
    assert call(runner, lambda v: v) == list(range(ROWS))


def test_a_worker_that_dies_while_it_starts_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalops.engine.processes.handle._MODULE", "scalops.engine.no_such_module")
    made = ProcessRunner(1)
    with pytest.raises(WorkerLost, match="ended its worker process 3 times"):
        call(made, where)
    made.stop()


# What workers keep.


def test_a_block_is_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from scalops.engine.processes import calls as process_calls
    from scalops.engine.processes import messages as process_messages

    sent = []
    encode = process_messages.encode_arguments
    monkeypatch.setattr(
        process_calls,
        "encode_arguments",
        lambda *a: sent.append(1) or encode(*a),  # type: ignore[func-returns-value]
    )
    made = ProcessRunner(2)
    for _ in range(3):
        assert call(made, lambda v: v + 1, source="block") == list(range(1, ROWS + 1))
    assert len(sent) == 2
    assert call(made, lambda v: v + 2, source="block")[0] == 2  # for another function too
    assert len(sent) == 2
    call(made, lambda v: v if v.__class__ is int else v.str, source="block")
    assert len(sent) == 4  # in another form: strings with .str
    call(made, where)
    assert len(sent) == 6  # nobody says that it is the same
    made.stop()


def test_a_source_with_other_content_is_sent_again() -> None:
    made = ProcessRunner(1)
    function, slots = capture(lambda v: v)[0], made.slots([])
    for shift in (0, 5, 0):
        arguments = [Argument(None, (Column(np.arange(ROWS) + shift, None),))]
        ((values, _),) = made.call_rows(
            function, slots, arguments, ROWS, None, [INT64], ("b", shift)
        )
        assert values[0] == shift
    made.stop()


def test_what_does_not_fit_is_sent_again() -> None:
    made = ProcessRunner(1, cache_bytes=8_000)
    for _ in range(3):
        for block in range(4):
            assert call(made, lambda v: v, source=block) == list(range(ROWS))
    (seat,) = made._desk.seats
    assert seat.worker is not None
    assert 0 < len(seat.worker.kept) <= 4
    made.stop()


def test_a_fork_leaves_the_workers_alone() -> None:
    made = ProcessRunner(1)
    (worker,) = set(call(made, where))
    child = os.fork()
    if child == 0:
        try:
            made.stop()
            other = ProcessRunner.workers(made)
            os._exit(0 if other == (worker,) else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert set(call(made, where)) == {worker}
    made.stop()

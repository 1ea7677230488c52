"""Faults of real worker processes: the same bits or the named error, and a session that goes on.

Functions that fail are in `faults.py`. Nothing here asserts how long anything takes.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import scalops as so
from scalops.algebra.errors import OutOfMemoryError
from scalops.engine.cluster.versions import own_versions
from tests.cluster import faults
from tests.cluster.faults import (
    ROOT,
    T,
    Total,
    bits,
    embedded,
    kill,
    killing,
    nothing_left,
    once,
    work,
    workers,
    wrong_at,
)

SESSION = importlib.import_module("scalops.session")  # so.session hides it
FINE = so.table({"x": [1.0, 2.0]}).count()
ROWS_SUM = 2.0 * sum(range(faults.ROWS))


@pytest.fixture(scope="module")
def session() -> Iterator[Any]:
    """Two workers, for all tests that leave some behind."""
    with nothing_left(), so.session(workers=2, task_timeout=1.5) as made:
        yield made


def raised(made: Callable[[], Any]) -> Any:
    """The error of a collect; afterwards the session works."""
    with pytest.raises(so.ScalopsError) as caught:
        made()
    assert T.filter(lambda r: r.k == 3).count().collect() == 28571
    return caught.value


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (faults.fail, "raised ValueError: no good; the record is {'x': 150000.0, 'k': 4}"),
        (faults.leave, "raised SystemExit: 4; the record is {'x': 150000.0, 'k': 4}"),
        (faults.interrupt, "raised KeyboardInterrupt: own"),
        (faults.sleep, "was ended after 1.5 s, over records 18432 to 19455 of a block"),
    ],
)
def test_a_function_that_fails_is_named_as_without_workers(
    session: Any, act: Callable[[], None], words: str
) -> None:
    error = raised(wrong_at(act).collect)
    assert type(error) is so.UserFunctionError
    assert f"the lambda {words} (faults.py:" in str(error)
    assert ", in partition 2" in str(error)
    if act is faults.fail:
        assert isinstance(error.__cause__, ValueError)
        (note,) = error.__notes__
        assert 'raise ValueError("no good")' in note


class Unpickled:
    """Classes and functions that pickle has looked up in this process, while this is open."""

    def __init__(self) -> None:
        self.found: list[tuple[Any, ...]] = []
        self._listens = False
        sys.addaudithook(self._hear)  # which stays as long as the process

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._listens and event == "pickle.find_class":
            self.found.append(arguments)

    def __enter__(self) -> Unpickled:
        self._listens = True
        return self

    def __exit__(self, *_: object) -> None:
        self._listens = False


def test_the_driver_unpickles_nothing_that_a_worker_sent(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It calls copies of the driver's own functions, before anything runs.
    monkeypatch.setattr(SESSION, "check_traces", lambda *_: None)
    names = so.table({"k": np.arange(7), "name": [f"n{i}" for i in range(7)]})

    @so.loop({"t": names.with_columns(x=1.0), "w": np.zeros(2)}, range(2))
    def loop(env: Any) -> Any:
        return {"t": env["t"].with_columns(x=lambda r: r.x * 2), "w": env["w"] + T.mean("x")}

    few = T.filter(lambda r: r.x % 1000 == 3)
    called = few.map(so.udf(lambda r: str(r.k), returns=so.string)).filter(lambda v: v == "3")
    total = few.aggregate(so.assume_associative(Total(faults.nothing)))
    with Unpickled() as unpickled:
        found = so.collect(names.sort("name"), called, called.count(), total, loop)
        error = raised(wrong_at(faults.fail).collect)
    assert (found[0].num_rows, len(found[1]), found[2]) == (7, 29, 29)
    assert isinstance(error.__cause__, ValueError)
    assert unpickled.found == []
    with unpickled:
        pickle.loads(pickle.dumps(Path))
    assert unpickled.found == [("pathlib", "Path")]


def test_a_worker_that_is_killed_in_the_midst_changes_no_bit(session: Any, tmp_path: Path) -> None:
    dies = wrong_at(once(tmp_path / "killed"))
    before = {w.process for w in workers(session)}
    assert dies.collect() == ROWS_SUM
    assert len(before & {w.process for w in workers(session)}) == 1


@pytest.mark.long
@pytest.mark.parametrize(
    ("act", "how"), [(faults.crash, "signal 11 (SIGSEGV)"), (faults.end_the_process, "exit code 3")]
)
def test_a_partition_that_takes_workers_down_is_named(
    session: Any, act: Callable[[], None], how: str
) -> None:
    error = raised(wrong_at(act).collect)
    assert type(error) is so.WorkerLost
    assert f"ended its worker process 3 times, the last time by {how}, over records" in str(error)
    assert "(faults.py:" in str(error)
    assert ", in partition 2, stage 0; " in str(error)
    assert "memory" not in str(error)


@pytest.mark.long
def test_merges_that_crash_or_hang_are_named(session: Any) -> None:
    crashed = "3 times, the last time by signal 11"
    for act, words in ((faults.crash, crashed), (faults.sleep, "ended after 1.5 s")):
        total = T.aggregate(so.assume_associative(Total(act)))
        assert words in str(raised(total.collect))


@pytest.mark.long
def test_a_function_that_keeps_the_interpreters_lock_takes_too_long(session: Any) -> None:
    assert "was ended after 1.5 s" in str(raised(wrong_at(faults.hold_the_lock).collect))


@pytest.mark.long
def test_what_a_function_does_to_its_process_changes_no_bit(session: Any) -> None:
    mean = T.map(lambda r: r.x / (r.x - r.x)).mean()
    expected = embedded([mean])
    assert bits(so.collect(wrong_at(faults.mess), mean)) == [bits(ROWS_SUM), *expected]


@pytest.mark.long
def test_a_worker_that_dies_at_an_interior_node_changes_no_bit(
    session: Any, tmp_path: Path
) -> None:
    for number in range(3):
        total = T.aggregate(so.assume_associative(Total(once(tmp_path / f"killed {number}"))))
        assert bits(total.collect()) == embedded(
            T.aggregate(so.assume_associative(Total(faults.nothing)))
        )


@pytest.mark.long
def test_workers_that_are_killed_at_any_moment_change_no_bit() -> None:
    expected = embedded(work())
    with nothing_left(), so.session(workers=3) as session:
        assert bits(so.collect(work())) == expected
        for moment in range(0, 18, 2):
            with killing(session, {moment: 1}):
                assert bits(so.collect(work())) == expected
        for moments in ({0: 2}, {5: 2}, {9: 3}, {14: 3}, {4: 1, -1: 1}, {11: 1, -1: 2}):
            with killing(session, moments):
                assert bits(so.collect(work())) == expected
        kill(*workers(session))  # idle
        assert bits(so.collect(work())) == expected


@pytest.mark.long
def test_a_stopped_worker_is_waited_for_within_its_lease_and_replaced_beyond() -> None:
    expected = embedded(work())
    with nothing_left(), so.session(workers=2, lease=20.0) as session:
        assert bits(so.collect(work())) == expected
        before = workers(session)
        os.kill(before[0].process, signal.SIGSTOP)
        threading.Timer(2.0, os.kill, (before[0].process, signal.SIGCONT)).start()
        assert bits(so.collect(work())) == expected
        assert workers(session) == before
    with nothing_left(), so.session(workers=2, lease=1.5) as session:
        assert bits(so.collect(work())) == expected
        first, second = workers(session)
        os.kill(first.process, signal.SIGSTOP)
        assert bits(so.collect(work())) == expected
        assert first not in workers(session)
        assert second in workers(session)
        assert not psutil.pid_exists(first.process)


@pytest.mark.long
def test_an_interrupt_ends_a_run_and_what_hangs_is_replaced() -> None:
    with nothing_left(), so.session(workers=2) as session:
        for act in (faults.sleep, faults.hold_the_lock):
            FINE.collect()
            session.forget(FINE)
            before = workers(session)
            threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
            with pytest.raises(KeyboardInterrupt):
                wrong_at(act).collect()
            assert wrong_at(faults.nothing).collect() == ROWS_SUM
            after = workers(session)
            assert len(after) == 2
            assert len({w.worker for w in (*before, *after)}) == 3


@pytest.mark.long
def test_an_error_of_the_users_between_iterations_ends_nothing(session: Any) -> None:
    @so.loop({"w": 0.0}, range(5))
    def loop(env: Any) -> Any:
        return {"w": env["w"] + T.map(lambda r: r.x * env["w"] + 1).mean()}

    def stop(number: int, env: Any) -> None:
        if number == 2:
            raise KeyError("the user's own")

    T.map(lambda r: r.x + 0.5).sum().collect()  # the workers are there
    before = workers(session)
    with pytest.raises(KeyError, match="the user's own"):
        loop.run(on_iteration=stop)
    assert bits(loop.collect()) == embedded(loop)
    assert workers(session) == before


@pytest.mark.long
def test_too_little_memory_is_a_named_error() -> None:
    with nothing_left(), so.session(workers=2, memory="1MB"):
        for _ in range(2):
            with pytest.raises(OutOfMemoryError):
                T.join(T.select("x", z="k"), on="x").sort("z").map(lambda r: r.x + r.z).collect()
        assert FINE.collect() == 2


@pytest.mark.long
def test_workers_of_another_version_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {**own_versions(), "numpy": "0.1"}
    monkeypatch.setattr("scalops.engine.cluster.local_hub.own_versions", lambda: versions)
    with nothing_left(), so.session(workers=1):
        for _ in range(2):
            with pytest.raises(so.WorkerLost, match=r"no worker has come: .*numpy"):
                T.count().collect()


RESUMED = """
    import os, signal, sys
    sys.path.insert(0, {root!r})
    import numpy as np
    import scalops as so
    from tests.cluster.faults import T

    @so.loop({{"w": np.float64(0.5)}}, range(8))
    def loop(env):
        w = env["w"]
        return {{"w": w + T.map(lambda r: np.tanh(r.x * w)).mean()}}

    def die(number, env):
        if number == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    options = {options}
    with so.session(workers={workers}, processes=0):
        print(float(loop.run(**options).env["w"]).hex())
"""


def program(source: str, **values: Any) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own."""
    text = textwrap.dedent(source).format(root=str(ROOT), **values)
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)


@pytest.mark.long
def test_a_run_goes_on_in_another_process_after_its_driver_was_killed(tmp_path: Path) -> None:
    whole = program(RESUMED, options="{}", workers=0)
    given = f"checkpoint={str(tmp_path)!r}"
    killed = program(RESUMED, options=f"dict({given}, on_iteration=die)", workers=2)
    assert killed.returncode == -signal.SIGKILL
    again = program(RESUMED, options=f"dict({given}, resume={str(tmp_path)!r})", workers=3)
    assert again.stdout == whole.stdout != ""


ENDED = """
    import os, signal, sys, threading
    sys.path.insert(0, {root!r})
    import scalops as so
    from tests.cluster import faults

    def end():
        {end}

    with so.session(workers=2) as session:
        faults.T.count().collect()
        print(*[w.process for w in faults.workers(session)], flush=True)
        if {busy}:
            threading.Timer(1.0, end).start()
            faults.wrong_at(faults.hold_the_lock).collect()
        end()
"""


@pytest.mark.long
@pytest.mark.parametrize("busy", [True, False])
@pytest.mark.parametrize(
    "end",
    [
        "os.kill(os.getpid(), signal.SIGTERM)",
        "os.kill(os.getpid(), signal.SIGINT)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.fork(), os._exit(0)",
        "sys.exit(2)",
    ],
)
def test_every_worker_ends_with_its_driver(end: str, busy: bool) -> None:
    if busy and "sys.exit" in end:
        end = "signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)"
    text = textwrap.dedent(ENDED).format(root=str(ROOT), end=end, busy=busy)
    with subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as driver:
        assert driver.stdout is not None
        processes = [psutil.Process(int(p)) for p in driver.stdout.readline().split()]
        driver.wait(60)
    assert len(processes) == 2
    _, alive = psutil.wait_procs(processes, timeout=5)
    # Orphans are zombies until the system's first process looks after them.
    alive = [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    for process in alive:
        process.kill()
    assert not alive
    assert not list(Path("/tmp").glob(f"scalops-*-{driver.pid}-*"))

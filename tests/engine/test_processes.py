"""Opaque functions in worker processes: the same results, errors and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import psutil
import pyarrow as pa
import pytest

import scalops as so
from scalops.algebra.dtypes import BOOL, FLOAT64, INT64, STRING, ArrayType
from scalops.algebra.errors import ExecutionError, UserFunctionError, WorkerLost
from scalops.algebra.expressions import Captured
from scalops.capture import capture
from scalops.engine.opaque.arguments import Argument, Column, Uniform
from scalops.engine.opaque.batches import call_over
from scalops.engine.opaque.calls import Text, bind
from scalops.engine.opaque.packed import pack, unpack
from scalops.engine.processes.messages import (
    MAX_BYTES,
    Message,
    decode_results,
    receive,
    send,
    slots_of,
)
from scalops.engine.processes.runner import ATTEMPTS, ProcessRunner
from tests.quick import quick

ROWS = 50
STRINGS = ArrayType(STRING)
VECTOR = FLOAT64.with_shape(3)
Call = Callable[..., list[Column]]


def captured(function: Callable[..., Any]) -> Captured:
    """A test's function as it was when its operator was written."""
    return capture(function)[0]


@pytest.fixture(scope="module")
def runner() -> Iterator[ProcessRunner]:
    """Two workers for all tests of this file."""
    made = ProcessRunner(2)
    yield made
    made.stop()


def in_this_process(
    function: Captured,
    slots: list[Any],
    arguments: list[Argument],
    rows: int,
    names: tuple[str, ...] | None,
    kinds: list[ArrayType],
) -> list[Column]:
    """What a runner must give."""
    return call_over(function, bind(function, slots), arguments, rows, names, kinds)


@pytest.fixture(params=["in this process", "in workers"])
def call(request: pytest.FixtureRequest, runner: ProcessRunner) -> Call:
    """Two ways of calling a function for every record; both pass all tests that use this."""
    if request.param == "in this process":
        return in_this_process

    def in_workers(
        function: Captured, slots: list[Any], arguments: list[Argument], *rest: Any
    ) -> list[Column]:
        return runner.call_rows(function, runner.slots(slots), arguments, *rest)

    return in_workers


def numbers(values: Any = None, mask: Any = None) -> Argument:
    """Bare values, 0 to 49 where none are given."""
    return Argument(None, (Column(np.arange(ROWS) if values is None else values, mask),))


# The contract of both ways.


def test_records_hold_python_values(call: Call) -> None:
    times = np.datetime64("2020-02-03T04:05:06", "us") + np.arange(ROWS)
    record = Argument(
        ("i", "f", "b", "s", "x", "t", "u"),
        (
            Column(np.arange(ROWS), None),
            Column(np.arange(ROWS) / 7, np.arange(ROWS) % 3 > 0),
            Column(np.arange(ROWS) % 2 == 0, None),
            Column(pa.array(["a", None, "é", "", "\U0001f600"] * 10), None),
            Column(np.arange(3.0 * ROWS).reshape(ROWS, 3), None),
            Column(times, None),
            Uniform(2.5),
        ),
    )

    def shown(r: Any) -> str:
        kinds = [type(v).__name__ for v in r]
        x = r.x
        return f"{kinds} {r.i} {r.f} {r.b} {r.s} {x.tolist()} {x.flags.writeable} {r.t} {r[6]}"

    ((values, mask),) = call(captured(shown), [], [record], ROWS, None, [STRINGS])
    assert mask is None
    assert values[1].as_py() == (
        "['int', 'float', 'bool', 'NoneType', 'ndarray', 'datetime', 'float'] 1 "
        f"{1 / 7} False None [3.0, 4.0, 5.0] False 2020-02-03 04:05:06.000001 2.5"
    )
    assert " None True " in values[0].as_py()  # the null of f


def test_results_of_every_type(call: Call) -> None:
    def several(v: int) -> Any:
        if v % 4 == 3:
            return {"i": None, "f": None, "b": None, "s": None, "x": None, "t": None}
        day = datetime(2021, 1, 1) + timedelta(days=v)
        return {"i": v, "f": v, "b": v > 9, "s": "é" * v, "x": np.arange(3) + v, "t": day}

    kinds = [INT64, FLOAT64, BOOL, STRINGS, VECTOR, ArrayType("timestamp[us]")]
    names = ("i", "f", "b", "s", "x", "t")
    found = call(captured(several), [], [numbers()], ROWS, names, kinds)
    known = np.arange(ROWS) % 4 != 3
    for (values, mask), kind in zip(found, kinds, strict=True):
        assert mask is not None
        assert mask.tolist() == known.tolist()
        assert len(values) == ROWS
        if not kind.is_string:
            assert values.dtype == kind.numpy
            assert values.shape == (ROWS, *kind.shape)
            assert not values[~known].any() or kind.numpy.kind == "M"
    assert found[1].values[4:6].tolist() == [4.0, 5.0]
    assert found[3].values[2].as_py() == "éé"
    assert found[4].values[5].tolist() == [5.0, 6.0, 7.0]
    assert found[5].values[1] == np.datetime64("2021-01-02")


@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_few_records(call: Call, rows: int) -> None:
    def both(v: int) -> Any:
        return v + 0.5, str(v)

    names = ("_0", "_1")
    found = call(captured(both), [], [numbers(np.arange(rows))], rows, names, [FLOAT64, STRINGS])
    assert found[0].values.tolist() == [i + 0.5 for i in range(rows)]
    assert found[1].values.to_pylist() == [str(i) for i in range(rows)]
    assert found[0].values.dtype == np.float64


def test_bits_of_numbers_arrive(call: Call) -> None:
    odd = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 5e-324, 1e308] * 7 + [1 / 3])

    def same(v: Any) -> Any:
        return v

    ((values, _),) = call(captured(same), [], [numbers(odd)], ROWS, None, [FLOAT64])
    assert values.tobytes() == odd.tobytes()
    x = np.random.default_rng(0).normal(size=(ROWS, 3))
    ((values, _),) = call(captured(lambda v: v * v @ v), [], [numbers(x)], ROWS, None, [FLOAT64])
    assert values.tobytes() == np.array([v * v @ v for v in x]).tobytes()


def test_slots_are_those_of_the_call(call: Call) -> None:
    weights, scale = so.table({"v": np.arange(3)}).sum(), 2.0

    def scaled(v: int) -> Any:
        return v * scale * weights  # a Value is a slot

    function, slots = capture(scaled)
    assert len(slots) == 1
    for slot in (1, 2.5, 3.0, 2.5):
        ((values, _),) = call(function, [slot], [numbers()], ROWS, None, [FLOAT64])
        assert values.tolist() == [i * 2.0 * float(slot) for i in range(ROWS)]


def test_array_slots_are_read_only_and_as_they_were(call: Call) -> None:
    def looked_up(v: int) -> Any:
        return float(w[v]) if not w.flags.writeable else -1.0

    w = so.table({"v": np.arange(3.0)}).sum() * np.ones(ROWS)
    function, _ = capture(looked_up)
    array = np.linspace(0, 1, ROWS)
    array.setflags(write=False)
    for given in (array, array[::-1]):
        ((values, _),) = call(function, [given], [numbers()], ROWS, None, [FLOAT64])
        assert values.tolist() == given.tolist()


class OddError(KeyError):
    """A type that the driver's builtins do not have."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"odd {first} {second}")


def failing(make: Callable[[], Exception], at: int = 30) -> Captured:
    """A function that raises from one record on."""

    def fail(v: int) -> int:
        if v >= at:
            raise make()
        return v

    return captured(fail)


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda: ValueError("a\nb"), ValueError),
        (lambda: KeyError("k"), KeyError),
        (lambda: FileNotFoundError(2, "gone", "f"), FileNotFoundError),
        (lambda: UnicodeDecodeError("utf8", b"x", 0, 1, "bad"), UnicodeError),
        (lambda: OddError(1, 2), KeyError),
        (lambda: ValueError("\ud800"), ValueError),
        (lambda: OverflowError(1 << 200), OverflowError),
        (lambda: StopIteration(7), StopIteration),
    ],
)
def test_error_of_a_function_names_its_first_record(
    call: Call, make: Callable[[], Exception], cause: type[Exception]
) -> None:
    error = make()
    for at in (30, 3):
        with pytest.raises(UserFunctionError) as caught:
            call(failing(make, at), [], [numbers()], ROWS, None, [INT64])
        raised = caught.value
        assert f"fail() raised {type(error).__name__}: " in raised.found
        assert raised.found.endswith(f"the record is {at}")
        assert raised.location is not None
        assert raised.location.file == __file__
        # The error's own type where the driver knows it, else the nearest builtin one.
        assert type(raised.__cause__).__name__ in {type(error).__name__, cause.__name__}
        assert str(error) in str(raised.__cause__)


def test_result_of_another_type_is_an_error(call: Call) -> None:
    def drifting(v: int) -> Any:
        return v if v < 20 else f"{v}"

    with pytest.raises(UserFunctionError, match="the record is 20"):
        call(captured(drifting), [], [numbers()], ROWS, None, [INT64])
    with pytest.raises(UserFunctionError, match="_0"):
        call(captured(lambda v: (v, v)), [], [numbers()], ROWS, None, [INT64])


def test_unknown_column_is_an_error_of_the_record(call: Call) -> None:
    record = Argument(("price",), (Column(np.arange(ROWS), None),))
    with pytest.raises(so.SchemaError, match="did you mean 'price'"):
        call(captured(lambda r: r.prise), [], [record], ROWS, None, [INT64])


def test_two_arguments_as_a_reduce_has(call: Call) -> None:
    def longer(a: Any, b: Any) -> Any:
        return a if len(a) >= len(b) else b

    texts = pa.array(["ab", "c"] * 25), pa.array(["x", "yyy"] * 25)
    arguments = [numbers(t) for t in texts]
    ((values, _),) = call(captured(longer), [], arguments, ROWS, None, [STRINGS])
    assert values.to_pylist() == ["ab", "yyy"] * 25


# Workers.


def pid_of(v: int) -> int:
    """Where a record is worked on."""
    return os.getpid()


def pids(runner: ProcessRunner) -> list[int]:
    """Where each record is worked on."""
    slots = runner.slots([])
    ((values, _),) = runner.call_rows(captured(pid_of), slots, [numbers()], ROWS, None, [INT64])
    found: list[int] = values.tolist()
    return found


def gone(process: int) -> bool:
    """Whether a child has been ended and waited for."""
    return not psutil.pid_exists(process)


def test_records_are_spread_over_workers_in_order(runner: ProcessRunner) -> None:
    found = pids(runner)
    assert set(found) == set(runner.workers())
    assert len(set(found)) == 2
    assert os.getpid() not in found
    assert found == sorted(found, key=found.index)  # each has one run of records


def test_workers_are_fresh_interpreters(runner: ProcessRunner) -> None:
    pids(runner)
    for worker in runner.workers():
        command = psutil.Process(worker).cmdline()
        assert command[0] == sys.executable
        assert command[-2:] == ["-m", "scalops.engine.processes.worker"]


def test_no_worker_starts_before_it_is_needed() -> None:
    made = ProcessRunner(2)
    assert made.workers() == ()
    slots = made.slots([])
    made.call_rows(captured(pid_of), slots, [numbers(np.arange(1))], 1, None, [INT64])
    assert len(made.workers()) == 1
    made.stop()


def test_a_function_is_sent_once_and_slots_when_they_change(
    runner: ProcessRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[bool, bool]] = []

    def watched(file: int, message: Message, deadline: float | None = None) -> None:
        _, description, slots = message.header["function"]
        sent.append((description is not None, slots is not None))
        send(file, message, deadline)

    pids(runner)
    monkeypatch.setattr("scalops.engine.processes.handle.send", watched)
    function = captured(lambda v: v + 1)
    for slot in (1.0, 1.0, 2.0, np.ones(4), np.ones(4)):
        runner.call_rows(function, runner.slots([slot]), [numbers()], ROWS, None, [INT64])
    new, old, changed = (True, True), (False, False), (False, True)
    assert sent == [new, new, old, old, changed, changed, changed, changed, old, old]


def test_a_killed_worker_is_replaced_and_its_records_done_again(runner: ProcessRunner) -> None:
    before = set(pids(runner))
    runner.lost()
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    found = set(pids(runner))
    assert victim not in found
    assert len(found) == 2
    assert runner.lost() == (f"process {victim}",)
    assert runner.lost() == ()


def test_a_worker_killed_at_work_is_replaced(runner: ProcessRunner, tmp_path: Path) -> None:
    marker = str(tmp_path / "died")

    def dies_once(v: int) -> int:
        if v == 40:
            try:
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return v
            os.kill(os.getpid(), signal.SIGKILL)
        return v

    slots = runner.slots([])
    function = captured(dies_once)
    ((values, _),) = runner.call_rows(function, slots, [numbers()], ROWS, None, [INT64])
    assert values.tolist() == list(range(ROWS))
    assert len(runner.lost()) == 1


def test_a_function_that_always_ends_its_process_is_given_up(runner: ProcessRunner) -> None:
    def leaves(v: int) -> int:
        if v == 40:
            os._exit(3)
        return v

    runner.lost()
    with pytest.raises(WorkerLost, match=r"leaves\(\) ended its worker process 3 times.*code 3"):
        runner.call_rows(captured(leaves), runner.slots([]), [numbers()], ROWS, None, [INT64])
    assert len(runner.lost()) == ATTEMPTS
    assert pids(runner)  # and others can be called again


def test_leaving_by_exit_is_an_error_of_the_function(runner: ProcessRunner) -> None:
    def leaves(v: int) -> int:
        sys.exit(f"at {v}")

    with pytest.raises(UserFunctionError, match=r"leaves\(\) raised SystemExit: at 0"):
        runner.call_rows(captured(leaves), runner.slots([]), [numbers()], ROWS, None, [INT64])


def test_an_error_keeps_its_traceback_as_text(runner: ProcessRunner) -> None:
    with pytest.raises(UserFunctionError) as caught:
        runner.call_rows(
            failing(lambda: ValueError("here")), runner.slots([]), [numbers()], ROWS, None, [INT64]
        )
    (note,) = caught.value.__notes__
    assert "raise make()" in note
    assert "ValueError: here" in note
    assert Path(__file__).name in note


def test_an_interrupt_ends_workers_that_compute(tmp_path: Path) -> None:
    made = ProcessRunner(1)
    marker = tmp_path / "started"

    def forever(v: int) -> int:
        open(marker, "x").close()
        threading.Event().wait()
        return v

    main = threading.get_ident()

    def interrupt() -> None:
        while not marker.exists():
            os.sched_yield()
        signal.pthread_kill(main, signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        made.call_rows(captured(forever), made.slots([]), [numbers(np.arange(1))], 1, None, [INT64])
    watcher.join()
    assert made.workers() == ()
    assert len(set(pids(made))) == 1  # it goes on with a new one
    made.stop()


def test_an_abandoned_call_ends(runner: ProcessRunner, tmp_path: Path) -> None:
    marker = tmp_path / "started"

    def forever(v: int) -> int:
        open(marker, "w").close()
        threading.Event().wait()
        return v

    raised: list[BaseException] = []

    def work() -> None:
        try:
            runner.call_rows(captured(forever), runner.slots([]), [numbers()], ROWS, None, [INT64])
        except ExecutionError as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not marker.exists():
        os.sched_yield()
    runner.abandon()
    thread.join()
    assert [str(e) for e in raised] == ["forever() was given up"]
    assert pids(runner)  # and can be called again


def test_an_interrupted_plan_leaves_no_function_at_work(tmp_path: Path) -> None:
    """Two threads' functions wait for ever; the interrupt reaches only the first."""
    t = so.table({"x": np.ones((1_200, 1_000)), "k": np.arange(1_200)})
    folder = str(tmp_path)

    def forever(r: Any) -> float:
        open(f"{folder}/{os.getpid()}", "w").close()
        threading.Event().wait()
        return 1.0

    main = threading.get_ident()

    def interrupt() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            os.sched_yield()
        signal.pthread_kill(main, signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    with so.session(processes=2, threads=2), pytest.raises(KeyboardInterrupt):
        t.map(so.udf(forever, returns=so.float64)).sum().collect()
    watcher.join()
    assert all(gone(int(p.name)) for p in tmp_path.iterdir())


def test_the_terminals_interrupt_does_not_reach_workers(runner: ProcessRunner) -> None:
    pids(runner)
    for worker in runner.workers():
        assert os.getpgid(worker) != os.getpgid(0)


def test_prints_of_a_function_do_not_disturb(
    runner: ProcessRunner, capfd: pytest.CaptureFixture[str]
) -> None:
    made = ProcessRunner(1)

    def prints(v: int) -> int:
        print("printed", v)
        assert sys.stdin.read() == ""
        return v

    ((values, _),) = made.call_rows(
        captured(prints), made.slots([]), [numbers()], ROWS, None, [INT64]
    )
    made.stop()
    assert values.tolist() == list(range(ROWS))
    assert "printed 49" in capfd.readouterr().err


def test_several_threads_share_the_workers(runner: ProcessRunner) -> None:
    function, found = captured(lambda v: v * v), []

    def work(start: int) -> None:
        for i in range(start, start + 10):
            values = np.arange(i, i + ROWS)
            ((made, _),) = runner.call_rows(
                function, runner.slots([i]), [numbers(values)], ROWS, None, [INT64]
            )
            found.append(bool((made == values**2).all()))

    threads = [threading.Thread(target=work, args=(100 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 40


# Ends.


def test_stop_ends_all_workers() -> None:
    made = ProcessRunner(2)
    workers = set(pids(made))
    made.stop()
    assert all(map(gone, workers))
    assert made.workers() == ()
    with pytest.raises(ExecutionError, match="stopped"):
        pids(made)
    made.stop()


def test_a_runner_that_nobody_holds_ends_its_workers() -> None:
    made = ProcessRunner(2)
    workers = set(pids(made))
    del made
    assert all(map(gone, workers))


def ends(tmp_path: Path, last: str) -> list[int]:
    """Run a program whose workers compute, until its last line; the workers' ids."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import os, signal, sys, threading
            import numpy as np, scalops as so

            def work(r):
                return os.getpid()

            session = so.session(processes=2)
            session.__enter__()
            t = so.table({"k": np.arange(200)}).map(so.udf(work, returns=so.int64))
            print(*sorted(set(t.collect()["value"].to_pylist())), flush=True)
            """
        )
        + last,
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=False
    )
    workers = [int(p) for p in done.stdout.split()]
    assert len(workers) == 2, done.stderr
    return workers


@pytest.mark.parametrize("last", quick(["raise ValueError", ""], 1))
def test_exit_ends_all_workers(tmp_path: Path, last: str) -> None:
    assert all(map(gone, ends(tmp_path, last)))


def test_workers_notice_that_the_driver_was_killed(tmp_path: Path) -> None:
    found = ends(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    left = [psutil.Process(p) for p in found if psutil.pid_exists(p)]
    psutil.wait_procs(left, timeout=20)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in left)


# Messages.


@pytest.mark.parametrize(
    "value",
    [
        None, True, -3, 1 << 62, 2.5, "é\ud800", datetime(1901, 2, 3, 4, 5, 6, 7),
        timedelta(days=-2, microseconds=1), np.arange(6.0).reshape(2, 3), np.zeros((0, 3)),
        np.arange(4).astype("M8[ms]"), np.array([True, False]),
    ],
)  # fmt: skip
def test_values_arrive_as_they_were(value: Any) -> None:
    found = unpack(pack(value))
    if isinstance(value, np.ndarray):
        assert found.dtype == value.dtype
        assert np.array_equal(found, value)
        assert found.flags.aligned
    else:
        assert found == value
        assert type(found) is type(value)


def test_text_stays_text() -> None:
    found = unpack(pack(Text("a")))
    assert type(found) is Text


def test_other_values_are_refused() -> None:
    for value in (object(), {1, 2}, np.array([None]), 1j):
        with pytest.raises(ExecutionError, match="cannot be sent"):
            slots_of([value])


def test_slots_tell_contents_apart() -> None:
    keys = [
        slots_of(v).key
        for v in ([1], [1.0], [True], ["1"], [np.ones(2)], [np.ones((1, 2))], [1, 1], [])
    ]
    assert len(set(keys)) == len(keys)
    assert slots_of([np.ones(2)]).key == slots_of([np.ones(4)[::2]]).key


def received(data: bytes) -> Message:
    """What a reader makes of these bytes."""
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    try:
        return receive(read)
    finally:
        os.close(read)


def framed(content: Any) -> bytes:
    """A header as it is sent."""
    packed: bytes = msgpack.packb(content)
    return len(packed).to_bytes(8, "little") + packed


def test_messages_without_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="header"):
        received((MAX_BYTES + 1).to_bytes(8, "little"))
    nonsense: list[Any] = [([MAX_BYTES + 1], {}), ([-1], {}), ([], [])]
    for content in nonsense:
        with pytest.raises(ValueError, match="header"):
            received(framed(content))
    with pytest.raises(EOFError):
        received(framed(([5], {})) + b"abcd")
    with pytest.raises(EOFError):
        received(b"")


def test_results_of_another_length_or_type_are_refused() -> None:
    good = [np.zeros(16, np.uint8)]
    item = ["array", None, "<f8", [2], None, 0]
    assert decode_results([item], good, 2, [FLOAT64])[0].values.tolist() == [0, 0]
    for items, rows, kinds in (
        ([item], 3, [FLOAT64]),
        ([item], 2, [FLOAT64, FLOAT64]),
        ([item], 2, [STRINGS]),
        ([["arrow", None, 0, 0]], 2, [STRINGS]),
        ([["arrow", None, 7, 0]], 2, [STRINGS]),
        ([["same", b""]], 2, [FLOAT64]),
        ("x", 1, [FLOAT64]),
    ):
        with pytest.raises(ValueError, match=r".+"):
            decode_results(items, good, rows, kinds)


def test_too_large_a_message_is_refused_before_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalops.engine.processes.messages.MAX_BYTES", 100)
    with pytest.raises(ExecutionError, match="larger than 100"):
        send(-1, Message({}, [np.zeros(101, np.uint8)]))


# Through a session.


def by_size(r: Any) -> Any:
    """Needs truth values, so it cannot be traced."""
    if r.k % 5 == 0:
        return {"v": None, "s": "none", "x": r.x}
    return {"v": float(r.x @ r.x) if r.k % 2 else -1.0, "s": str(r.k), "x": -r.x}


RETURNS = {"v": so.float64, "s": so.string, "x": so.vector(4)}


def test_seam_session_calls_opaque_functions_in_processes() -> None:
    x = np.random.default_rng(0).normal(size=(3_000, 4))
    t = so.table({"k": np.arange(3_000), "x": x})
    found, where = [], []
    for processes in (0, 1, 3):
        with so.session(processes=processes, threads=2):
            found.append(t.map(so.udf(by_size, returns=RETURNS)).collect())
            ids = t.map(so.udf(lambda r: os.getpid(), returns=so.int64)).collect()
            where.append(set(ids["value"].to_pylist()))
    assert found[0].equals(found[1])
    assert found[0].equals(found[2])
    assert where[0] == {os.getpid()}
    assert [len(w) for w in where[1:]] == [1, 3]
    assert all(gone(p) for w in where[1:] for p in w)  # they end with their session


def test_loop_state_reaches_the_workers() -> None:
    t = so.table({"k": np.arange(200)})
    found = []
    for processes in (0, 2):
        with so.session(processes=processes):

            @so.loop({"s": 1.0, "w": np.ones(3)}, range(5))
            def model(env: Any) -> Any:
                def step(r: Any) -> Any:
                    return float(env["w"][r.k % 3]) if r.k > env["s"] else 0.5

                total = t.map(so.udf(step, returns=so.float64)).sum()
                return {"s": env["s"] + total / 100, "w": env["w"] * np.array([1.0, 1.5, 0.5])}

            found.append(model.collect())
    assert float(found[0]["s"]).hex() == float(found[1]["s"]).hex()
    assert found[0]["w"].tobytes() == found[1]["w"].tobytes()


def test_opaque_reduce_in_workers() -> None:
    t = so.table({"s": np.array([f"{i:03}" for i in range(300)], object)})
    bare = t.map(lambda r: r.s)
    found = []
    for processes in (0, 2):
        with so.session(processes=processes):
            longest = bare.reduce(lambda a, b: a if a > b else b)
            found.append(longest.collect())
    assert found == ["299", "299"]


def test_error_in_a_session_is_the_users(caplog: pytest.LogCaptureFixture) -> None:
    t = so.table({"k": np.arange(200)})

    def fails(r: Any) -> Any:
        return 1 // (150 - r.k)

    for processes in (0, 2):
        with (
            so.session(processes=processes),
            pytest.raises(UserFunctionError, match=r"ZeroDivisionError.*'k': 150") as caught,
        ):
            t.map(so.udf(fails, returns=so.int64)).sum().collect()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert caught.value.location is not None
        assert caught.value.location.file == __file__


@pytest.mark.parametrize("value", [-1, 1.5, "two", True])
def test_senseless_number_of_processes_is_refused(value: Any) -> None:
    with pytest.raises(so.ConfigError, match="processes"):
        so.session(processes=value)


def test_number_of_processes_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALOPS_PROCESSES", "3")
    assert so.session().options.processes == 3
    assert so.session(processes=1).options.processes == 1

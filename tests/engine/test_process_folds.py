"""Folds over cached tables on worker processes: the bits of threads, and nothing left behind."""

from __future__ import annotations

import array
import fcntl
import gc
import os
import signal
import subprocess
import sys
import termios
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
import scipy.sparse

import scalops as so
from scalops.engine import process_folds
from scalops.engine.passes import Pass
from scalops.engine.process_folds import ProcessFolds
from scalops.engine.processes.shared_memory import SharedTable, Tokens
from scalops.engine.value_codec import decode_value, encode_value
from scalops.session import Session

ROWS, WIDTH = 40_000, 8
OPTIONS: dict[str, Any] = {"threads": 2, "processes": 1, "jit": False}
Program = Callable[[], Any]


def numbers(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


X = numbers().normal(size=(ROWS, WIDTH))
Y = np.where(X @ np.arange(WIDTH) > 0, 1.0, -1.0)
SPARSE = scipy.sparse.random(ROWS, 500, 0.02, "csr", rng=numbers())


def dense(dtype: str = "float64") -> so.Table:
    return so.table({"x": X.astype(dtype), "y": Y.astype(dtype)})


def columns() -> so.Table:
    """Numbers of several types, some null."""
    rng = numbers(2)
    there = rng.random(ROWS) < 0.9
    when = np.datetime64("2020-01-01", "us") + rng.integers(0, 10**12, ROWS)
    return so.from_arrow(
        pa.table(
            {
                "a": pa.array(rng.normal(size=ROWS), mask=~there),
                "b": pa.array(rng.integers(-5, 6, ROWS)),
                "c": pa.array(rng.normal(size=ROWS).astype("float32")),
                "d": pa.array(rng.random(ROWS) < 0.5),
                "t": pa.array(when),
            }
        )
    )


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """One session with one worker beside this process, for all tests."""
    made = so.session(folds="processes", **OPTIONS)
    with made:
        yield made


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The stages of each pass that has run on processes."""
    found: list[tuple[int, ...]] = []
    run = ProcessFolds.run

    def watched(self: ProcessFolds, made: Pass, *rest: Any) -> bool:
        if done := run(self, made, *rest):
            found.append(made.stages)
        return done

    monkeypatch.setattr(ProcessFolds, "run", watched)
    return found


def outcome(result: Any) -> Any:
    """A result's bits."""
    if isinstance(result, so.Environment):
        return outcome(dict(result))
    if isinstance(result, dict):
        return {k: outcome(v) for k, v in result.items()}
    if isinstance(result, (list, tuple)):
        return [outcome(r) for r in result]
    return (np.asarray(result).dtype, np.asarray(result).tobytes())


def on_threads(program: Program) -> Any:
    with so.session(folds="threads", **OPTIONS):
        return outcome(program())


def worker_of(session: Session) -> int:
    runner = session.processes()
    assert runner is not None
    (pid,) = runner.workers()
    return pid


# The same bits.


def logistic(dtype: str = "float64") -> Any:
    t = dense(dtype)
    start = {"w": np.zeros(WIDTH, dtype), "loss": np.inf}

    @so.loop(start, range(4))
    def model(env: Any) -> Any:
        def margin(r: Any) -> Any:
            return r.y * (r.x @ env["w"])

        gradient = t.map(lambda r: -r.y * r.x / (1 + np.exp(margin(r)))).reduce(lambda a, b: a + b)
        loss = t.map(lambda r: np.log1p(np.exp(-margin(r)))).sum()
        return {"w": env["w"] - 0.1 / ROWS * gradient, "loss": loss}

    return model.collect()


def filtered() -> Any:
    t = dense().filter(lambda r: r.y > 0)
    return so.loop(np.zeros(WIDTH), range(3))(
        lambda w: w + t.filter(lambda r: r.x @ w < 1).map(lambda r: np.tanh(r.x - w)).mean()
    ).collect()


def several_folds() -> Any:
    t = columns()

    @so.loop({"s": 0.0, "v": 0.0, "m": -1.0, "n": 0, "any": False}, range(3))
    def model(env: Any) -> Any:
        a = t.map(lambda r: r.a * env["s"] + r.b)
        return {
            "s": env["s"] + a.mean(),
            "v": a.std(ddof=1) + t.map(lambda r: r.c * env["s"]).var(),
            "m": a.max() - t.map(lambda r: r.b - env["m"]).min(),
            "n": t.filter(lambda r: r.a > env["s"]).count() + a.count(),
            "any": t.map(lambda r: r.d & (r.b > env["m"])).any(),
        }

    return model.collect()


def chosen_records() -> Any:
    t = columns()

    @so.loop({"best": 0.0, "first": 0.0, "last": np.datetime64(0, "us")}, range(3))
    def model(env: Any) -> Any:
        near = t.filter(lambda r: abs(r.b - env["best"]) < 4)
        return {
            "best": t.argmin(lambda r: abs(r.c - env["best"])).c + env["best"] / 2.0,
            "first": near.map(lambda r: r.c + env["best"]).first(),
            "last": near.map(lambda r: r.t).last(),
        }

    return model.collect()


def nested() -> Any:
    t = dense()

    @so.loop(np.zeros(WIDTH), range(2))
    def outer(w: Any) -> Any:
        @so.loop(w, lambda v: v @ v < 0.5, max_iterations=3)
        def inner(v: Any) -> Any:
            return v + 0.1 + t.map(lambda r: r.x * np.cos(r.x @ v)).mean()

        return inner / 2

    return outer.collect()


def in_lockstep() -> Any:
    t = dense()
    loops = [
        so.loop(np.full(WIDTH, float(i)), range(2 + i))(
            lambda w: w + t.map(lambda r: np.tanh(r.x * w)).mean()
        )
        for i in range(3)
    ]
    return so.collect(*loops)


def sparse_vectors() -> Any:
    t = so.table({"x": SPARSE, "y": Y})
    return so.loop(np.zeros(500), range(3))(
        lambda w: w + t.map(lambda r: r.y * r.x / (1 + np.exp(r.x @ w))).sum() / ROWS
    ).collect()


def own_reduce() -> Any:
    t = dense()

    @so.loop(1.0, range(2))
    def model(w: Any) -> Any:
        m = t.map(lambda r: {"v": r.y * w + r.x[0], "k": r.x[1]}).reduce(
            lambda a, b: {
                "v": np.where(a["k"] < b["k"], b["v"], a["v"]),
                "k": np.maximum(a["k"], b["k"]),
            }
        )
        return m["v"] / (1 + abs(m["k"]))

    return model.collect()


class Decayed(so.Aggregate):
    """A state that is carried from record to record."""

    def __init__(self, w: Any) -> None:
        self.w = w

    def initialize(self) -> Any:
        return {"s": 0.0, "n": 0}

    def transition(self, state: Any, record: Any) -> Any:
        return {"s": state["s"] * 0.5 + record.y * self.w, "n": state["n"] + 1}

    def merge(self, a: Any, b: Any) -> Any:
        return {"s": a["s"] + b["s"], "n": a["n"] + b["n"]}

    def finalize(self, state: Any) -> Any:
        return state["s"] / state["n"]


def own_aggregate() -> Any:
    t = dense()
    return so.loop(1.0, range(2))(lambda w: w + t.aggregate(Decayed(w))).collect()


def exploded() -> Any:
    t = so.table({"x": X[:, :3].copy(), "k": np.arange(ROWS)})
    items = t.explode("x", index="j")
    return so.loop(0.0, range(2))(
        lambda w: w + items.map(lambda r: np.sin(r.x + w) * r.j).mean()
    ).collect()


PROGRAMS: dict[str, Program] = {
    "logistic": logistic,
    "float32": lambda: logistic("float32"),
    "filtered": filtered,
    "several folds": several_folds,
    "chosen records": chosen_records,
    "nested": nested,
    "in lock-step": in_lockstep,
    "sparse vectors": sparse_vectors,
    "own reduce": own_reduce,
    "own aggregate": own_aggregate,
    "exploded": exploded,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_bits_are_those_of_threads(
    name: str, session: Session, passes: list[tuple[int, ...]]
) -> None:
    expected = on_threads(PROGRAMS[name])
    assert not passes
    assert outcome(PROGRAMS[name]()) == expected
    assert passes


def test_loops_in_lockstep_share_their_passes(
    session: Session, passes: list[tuple[int, ...]]
) -> None:
    in_lockstep()
    assert [len(p) for p in passes] == [3, 3, 2, 1]


def test_a_worker_takes_what_this_process_leaves(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = on_threads(logistic)
    own: list[int] = []
    chunk, put = Pass.chunk, Tokens.put
    offered: list[Tokens] = []

    def watched(self: Tokens, count: int) -> None:
        offered[:] = [self]
        put(self, count)

    def slow(self: Pass, *rest: int) -> Any:
        left = array.array("i", [1])
        while left[0]:  # until the worker has taken all others
            fcntl.ioctl(offered[0].where[1], termios.FIONREAD, left)
        own.append(rest[1])
        return chunk(self, *rest)

    monkeypatch.setattr(Tokens, "put", watched)
    monkeypatch.setattr(Pass, "chunk", slow)
    assert outcome(logistic()) == expected
    assert len(own) <= 4  # of eight


# What may go wrong.


def test_a_worker_that_dies_in_a_pass_costs_time_alone(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = on_threads(logistic)
    logistic()
    before = worker_of(session)
    chunk = Pass.chunk

    def killing(self: Pass, *rest: int) -> Any:
        if psutil.pid_exists(before):
            os.kill(before, signal.SIGKILL)
        return chunk(self, *rest)

    monkeypatch.setattr(Pass, "chunk", killing)
    assert outcome(logistic()) == expected
    assert outcome(logistic()) == expected
    assert worker_of(session) != before


def test_a_stopped_worker_is_not_waited_for(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = on_threads(logistic)
    logistic()
    before = worker_of(session)
    monkeypatch.setattr(process_folds, "LEAST_PATIENCE", 0.05)
    monkeypatch.setattr(process_folds, "PATIENCE", 0.0)
    os.kill(before, signal.SIGSTOP)
    assert outcome(logistic()) == expected
    assert not psutil.pid_exists(before)


def test_a_worker_that_cannot_map_the_memory_is_not_asked_again(
    session: Session, monkeypatch: pytest.MonkeyPatch, passes: list[tuple[int, ...]]
) -> None:
    expected = on_threads(logistic)
    made = SharedTable.__init__

    def elsewhere(self: SharedTable, *rest: Any) -> None:
        made(self, *rest)
        self.place = replace(self.place, process=0)

    monkeypatch.setattr(SharedTable, "__init__", elsewhere)
    assert outcome(logistic()) == expected
    assert len(passes) == 1


def failing(singular: tuple[int, ...]) -> Any:
    """Inverts a matrix of each record; those of some are singular."""
    a = np.tile(np.eye(4), (ROWS, 1, 1))
    a[list(singular)] = 0.0
    t = so.table({"a": a})
    return so.loop(0.0, range(3))(
        lambda w: w + t.map(lambda r: np.linalg.inv(r.a + w)[0, 0]).sum()
    ).collect()


@pytest.mark.parametrize("rows", [(0,), (ROWS - 1,), (ROWS // 2, ROWS - 1), (5, ROWS // 2)])
def test_an_error_is_the_one_of_threads(rows: tuple[int, ...], session: Session) -> None:
    with pytest.raises(so.ExecutionError) as expected:
        on_threads(partial(failing, rows))
    with pytest.raises(so.ExecutionError) as found:
        failing(rows)
    assert str(found.value) == str(expected.value)
    assert "Singular matrix" in str(found.value)
    assert "iteration 0" in str(found.value)
    assert found.value.location == expected.value.location
    assert type(found.value.__cause__) is type(expected.value.__cause__)


def test_an_interrupt_ends_the_workers_that_are_asked(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = on_threads(logistic)
    logistic()
    before = worker_of(session)

    def interrupted(self: Pass, *rest: int) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Pass, "chunk", interrupted)
        with pytest.raises(KeyboardInterrupt):
            logistic()
    assert not psutil.pid_exists(before)
    assert outcome(logistic()) == expected


# Memory.


def shared_files() -> list[str]:
    """Files of shared memory that this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [f for f in found if "memfd:scalops" in f]


@pytest.fixture
def before() -> list[str]:
    """The files that other tests' tables hold; not those of errors that tests have caught."""
    gc.collect()
    return shared_files()


def test_nothing_is_left_after_a_plan(session: Session, before: list[str]) -> None:
    logistic()
    assert len(shared_files()) <= len(before)
    maps = Path(f"/proc/{worker_of(session)}/maps").read_text(encoding="utf-8")
    assert "memfd" not in maps


def test_nothing_is_left_of_a_driver_that_is_killed(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import os, numpy as np, scalops as so
        t = so.table({"x": np.ones((40_000, 8))})
        session = so.session(folds="processes", threads=2, processes=1, jit=False)
        def kill(number, env):
            print(*session.processes().workers(), flush=True)
            os.kill(os.getpid(), 9)
        with session:
            so.loop(np.zeros(8), range(5))(
                lambda w: w + t.map(lambda r: np.tanh(r.x - w)).mean()
            ).run(on_iteration=kill)
        """
    )
    script = tmp_path / "killed.py"
    script.write_text(program, encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (worker,) = map(int, done.stdout.split())
    if psutil.pid_exists(worker):
        psutil.Process(worker).wait(10)


def test_a_table_beyond_the_budget_stays_on_threads(
    session: Session, passes: list[tuple[int, ...]]
) -> None:
    expected = on_threads(logistic)
    size = X.nbytes + Y.nbytes
    with so.session(memory=size // 2):
        assert outcome(logistic()) == expected
    assert not passes
    with so.session(memory=2 * size):
        assert outcome(logistic()) == expected
    assert passes


def test_a_kept_table_is_shared_once(
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
    passes: list[tuple[int, ...]],
    before: list[str],
) -> None:
    made: list[int] = []
    init = SharedTable.__init__

    def counted(self: SharedTable, *rest: Any) -> None:
        init(self, *rest)
        made.append(self.bytes)

    monkeypatch.setattr(SharedTable, "__init__", counted)
    t = dense().map(lambda r: {"x": np.tanh(r.x), "y": r.y}).cache()
    assert t.count().collect() == ROWS  # it is kept, and not shared yet

    def program(scale: float) -> Any:
        return so.loop(np.zeros(WIDTH), range(3))(
            lambda w: w + t.map(lambda r: r.y * np.tanh(r.x * scale - w)).mean()
        ).collect()

    expected = [on_threads(lambda s=s: program(s)) for s in (1.0, 2.0)]  # type: ignore[misc]
    assert [outcome(program(s)) for s in (1.0, 2.0)] == expected
    assert len(passes) == 6
    assert len(made) == 1
    t.forget()
    assert len(shared_files()) <= len(before)


def test_arrays_keep_their_alignment(session: Session) -> None:
    from scalops.engine.blocks import Block

    whole = np.arange(1000.0)
    parts = [[Block(100, {"a": whole[i : i + 100]})] for i in (0, 1, 3, 101)]
    addresses = [p[0].columns["a"].ctypes.data % 64 for p in parts]
    shared = SharedTable(parts, 0)
    for i in range(4):
        shared.move(i)
    assert [p[0].columns["a"].ctypes.data % 64 for p in parts] == addresses
    assert [p[0].columns["a"][0] for p in parts] == [0.0, 1.0, 3.0, 101.0]
    mapped = shared.place.mapped()
    assert mapped[3][0].columns["a"].tobytes() == whole[101:201].tobytes()
    assert not mapped[0][0].columns["a"].flags.writeable


# What passes between processes.

PARTIALS: dict[str, Any] = {
    "nothing": None,
    "numbers": [True, 3, -(2**80), 2.5, float("inf"), 1 + 2j],
    "NumPy's numbers": (np.float32(0.1), np.int8(-3), np.bool_(True), np.datetime64(5, "us")),
    "arrays": [np.arange(6.0).reshape(2, 3), np.zeros((0, 3), "float32"), np.array(2.0)],
    "large": [np.arange(5000.0), (np.arange(4000), 7)],
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
}


@pytest.mark.parametrize("name", PARTIALS)
def test_a_partial_arrives_as_it_was(name: str) -> None:
    buffers: list[Any] = []
    given = PARTIALS[name]
    found = decode_value(encode_value(given, buffers), buffers)

    def shape(p: Any) -> Any:
        if isinstance(p, (list, tuple)):
            return type(p), [shape(i) for i in p]
        if isinstance(p, (np.ndarray, np.generic)):
            flags = p.flags
            return type(p), p.dtype, p.shape, p.tobytes(), flags.c_contiguous, flags.f_contiguous
        return type(p), p

    assert shape(found) == shape(given)


@pytest.mark.parametrize(
    "item", [["array", "O", [1], False, b"12345678"], ["what"], {}, ["number", "<f8", b"1"], b""]
)
def test_nonsense_is_refused(item: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_value(item, [])
    with pytest.raises(TypeError):
        encode_value(object(), [])

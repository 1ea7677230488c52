"""What tests of faults share: functions that go wrong in a worker, kills at a chosen moment."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import scalops as so
from scalops.engine.cluster.hub import HubEvent, Left, WorkerInfo

ROWS = 200_000
AT = 150_000.0  # the record at which functions go wrong: in partition 2 of 4
ROOT = Path(__file__).parents[2]
T = so.table({"x": np.arange(float(ROWS)), "k": np.arange(ROWS) % 7})


def nothing() -> None:
    pass


def fail() -> None:
    raise ValueError("no good")


def leave() -> None:
    sys.exit(4)


def interrupt() -> None:
    raise KeyboardInterrupt("own")


def sleep() -> None:
    time.sleep(100)


def hold_the_lock() -> None:
    sum(range(10**12))


def end_the_process() -> None:
    os._exit(3)


def crash() -> None:
    ctypes.string_at(0)


def mess() -> None:
    """What a function may do to its process without harm to others."""
    print("printed by a function")
    os.chdir("/")
    np.seterr(all="raise")
    sys.stdin.close()
    sys.stdout.close()
    if os.fork() == 0:
        return


def wrong_at(act: Callable[[], None]) -> Any:
    """A sum over a function that no plan can look into, and that goes wrong at one record."""

    def function(v: float) -> float:
        if v == AT:
            act()
        return v * 2

    return T.map(so.udf(lambda r: function(r.x), returns=so.float64)).sum()


def once(marker: Path) -> Callable[[], None]:
    """Ends the first process that calls it, as if somebody had killed it."""
    name = str(marker)

    def act() -> None:
        try:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    return act


class Total(so.Aggregate):
    """A sum that acts where two large states meet: at an interior node of the tree."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    def initialize(self) -> float:
        return 0.0

    def transition(self, state: float, record: Any) -> float:
        return float(state + record.x)

    def merge(self, a: float, b: float) -> float:
        if b > 0:
            self._act()
        return a + b


def work() -> list[Any]:
    """Loads, maps, folds in a loop, a state of tables, groups, joins and a sort."""
    x, k = T.select("x", "k").cache(), so.table({"k": np.arange(7), "z": np.arange(7.0)})

    @so.loop(np.float64(1.0), range(4))
    def w(w: Any) -> Any:
        return w + x.map(lambda r: np.tanh(r.x * w)).mean()

    grouped = T.group_by("k").agg(s=so.sum("x"))
    joined = T.join(k, on="k").map(lambda r: r.x * r.z).sum()
    last = T.filter(lambda r: r.x % 1000 == 3).sort("k").select("x")
    return [w, grouped, joined, last]


def bits(found: Any) -> Any:
    """Results as bytes that compare."""
    if isinstance(found, (list, tuple)):
        return [bits(f) for f in found]
    if isinstance(found, dict):
        return {name: bits(f) for name, f in found.items()}
    if hasattr(found, "to_pylist"):
        return repr(found.to_pylist())
    if hasattr(found, "env"):
        return bits(found.env)
    return np.asarray(found).tobytes()


def embedded(things: Any) -> Any:
    """The bits that every cluster has to give."""
    with so.session(workers=0, processes=0):
        return bits(so.collect(things))


def workers(session: Any) -> list[WorkerInfo]:
    """Those alive."""
    found: list[WorkerInfo] = session.workers().hub.workers()
    return found


def kill(*infos: WorkerInfo) -> None:
    """As the system does when memory runs out."""
    for info in infos:
        os.kill(info.process, signal.SIGKILL)


@contextmanager
def at_pump(session: Any, act: Callable[[int, list[HubEvent]], None]) -> Iterator[None]:
    """Call `act` with the number and the events of each time that the driver hears of anything."""
    hub = session.workers().hub
    pump, count = hub.pump, 0

    def pumped(timeout: float | None) -> list[HubEvent]:
        nonlocal count
        events: list[HubEvent] = pump(timeout)
        act(count, events)
        count += 1
        return events

    hub.pump = pumped
    try:
        yield
    finally:
        del hub.pump


def killing(session: Any, moments: dict[int, int]) -> Any:
    """Kill so many workers at these moments; -1: as soon as one is lost, while it is replaced."""
    left = dict(moments)

    def act(number: int, events: list[HubEvent]) -> None:
        lost = any(isinstance(e, Left) for e in events)
        for moment in [m for m in left if m == number or (m < 0 and lost)]:
            kill(*workers(session)[: left.pop(moment)])

    return at_pump(session, act)


class Held:
    """What this process holds of the machine."""

    def __init__(self) -> None:
        self.children = {p.pid for p in psutil.Process().children(recursive=True)}
        self.files = len(os.listdir("/proc/self/fd"))
        self.shared = set(os.listdir("/dev/shm"))
        self.folders = {str(p) for p in Path("/tmp").glob(f"scalops-*-{os.getpid()}-*")}


@contextmanager
def nothing_left() -> Iterator[None]:
    """Whatever is done inside gives everything back: processes, files, shared memory, folders."""
    before = Held()
    yield
    after = Held()
    assert after.children <= before.children
    assert after.files <= before.files
    assert not {n for n in after.shared - before.shared if "scalops" in n}
    assert after.folders <= before.folders

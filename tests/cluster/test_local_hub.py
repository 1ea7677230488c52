"""Worker processes of this machine: messages, ends, strangers, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import psutil
import pytest
import zmq

from scalops.algebra.errors import ExecutionError
from scalops.engine.cluster.channel import Channels, ChannelSettings, Message
from scalops.engine.cluster.hub import Arrived, HubEvent, Joined, Left, WorkerInfo
from scalops.engine.cluster.leases import Leases
from scalops.engine.cluster.local_hub import LocalHub, LocalSettings
from scalops.engine.cluster.messages import Members, Replied
from scalops.engine.cluster.private_folder import PrivateFolder, remove_stale
from tests.cluster.echo import asking

SECONDS = 30.0  # that a test waits for what must come
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def tests_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import what the driver can; pytest has loaded this package by its file."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])


def settings(**changes: Any) -> LocalSettings:
    """Of a hub whose workers echo."""
    return LocalSettings(machine=("tests.cluster.echo", "EchoMachine"), **changes)


@contextmanager
def hub_of(count: int, **changes: Any) -> Iterator[LocalHub]:
    """A hub whose workers have joined."""
    hub = LocalHub(count, settings(**changes))
    try:
        joined = until(hub, lambda _: len(hub.workers()) == count)
        assert not any(isinstance(e, Left) for e in joined)
        yield hub
    finally:
        hub.close()


def until(hub: LocalHub, is_over: Callable[[list[HubEvent]], bool]) -> list[HubEvent]:
    """What happens until something has."""
    events: list[HubEvent] = []
    deadline = monotonic() + SECONDS
    while not is_over(events):
        assert monotonic() < deadline, f"not what was expected within {SECONDS:g} s: {events}"
        events += hub.pump(deadline - monotonic())
    return events


def reply(hub: LocalHub) -> Message:
    """The next reply."""
    events = until(hub, lambda found: bool(replies(found)))
    return replies(events)[0].message


def replies(events: list[HubEvent]) -> list[Arrived]:
    """Those of the events that are replies."""
    return [e for e in events if isinstance(e, Arrived) and isinstance(e.message.body, Replied)]


def left(hub: LocalHub) -> list[Left]:
    """Who leaves, as soon as one does."""
    events = until(hub, lambda found: any(isinstance(e, Left) for e in found))
    return [e for e in events if isinstance(e, Left)]


def asked(hub: LocalHub, worker: WorkerInfo, verb: str, argument: Any = None) -> Any:
    """What a worker answers."""
    hub.channels.send(worker.worker, asking(verb, argument))
    return reply(hub).body.piece


def folder_of(hub: LocalHub) -> Path:
    """The folder of a hub's sockets."""
    return Path(hub.workers()[0].data.removeprefix("ipc://")).parent


def listening(process: int) -> list[str]:
    """The lines of /proc/net/tcp and tcp6 about sockets of a process, whatever their state."""
    own = set()
    for file in Path(f"/proc/{process}/fd").iterdir():
        target = os.readlink(file) if os.path.islink(file) else ""
        own.add(target.removeprefix("socket:[").removesuffix("]"))
    tables = [Path(f"/proc/{process}/net/{name}") for name in ("tcp", "tcp6", "udp", "udp6")]
    lines = [line for t in tables if t.exists() for line in t.read_text().splitlines()[1:]]
    return [line for line in lines if line.split()[9] in own]


def test_messages_pass_between_the_driver_and_workers() -> None:
    before = os.umask(0)
    try:
        with hub_of(2) as hub:
            assert stat.S_IMODE(folder_of(hub).stat().st_mode) == 0o700
            first, second = hub.workers()
            assert asked(hub, first, "echo", ["a", 1]) == ["a", 1]
            assert asked(hub, second, "compute", "6 * 7") == 42
            assert "ZeroDivisionError" in asked(hub, second, "compute", "1 / 0")
            assert asked(hub, second, "compute", "__import__('sys').stdin.read()") == ""
            check_large(hub, first)
            check_between_workers(hub, first, second)
            check_strangers(hub)
            for process in (os.getpid(), first.process, second.process):
                assert not listening(process)
    finally:
        os.umask(before)


def check_large(hub: LocalHub, worker: WorkerInfo) -> None:
    """20 MB there and back."""
    data = np.random.default_rng(1).integers(0, 256, 20_000_000, np.uint8)
    hub.channels.send(worker.worker, asking("echo"), [data, data[:3]])
    found = reply(hub).buffers
    assert [b.tobytes() for b in found] == [data.tobytes(), data[:3].tobytes()]
    assert hub.channels.waiting_bytes(worker.worker) < 1000  # what says that it has been read


def check_between_workers(hub: LocalHub, first: WorkerInfo, second: WorkerInfo) -> None:
    """The driver asks the one, the other answers."""
    hosts = tuple((i, w.worker, w.data, b"") for i, w in enumerate((first, second)))
    for worker in (first, second):
        hub.channels.send(worker.worker, Members(0, 0, hosts))
    for other in (second, first):  # a worker of two ranks writes to itself, too
        told = asking("pass", other.worker)
        hub.channels.send(first.worker, told, [np.arange(9, dtype=np.uint8)])
        (answer,) = replies(until(hub, lambda found: bool(replies(found))))
        assert answer.worker == other.worker
        assert answer.message.buffers[0].tolist() == list(range(9))


def check_strangers(hub: LocalHub) -> None:
    """Who reaches the sockets, and has no name of a worker or not the secret, is refused."""
    worker = hub.workers()[0].worker
    channels = Channels("stranger", ChannelSettings(), b"guessed")
    channels.send("driver", asking("echo"))
    ((_, frames),) = channels.outgoing(0.0)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(f"ipc://{folder_of(hub)}/driver")
        socket.send_multipart(frames)
        while not hub.refused["stranger"]:
            hub.pump(0.01)
    assert not hub.channels.arrived(worker, frames, 0.0)
    assert hub.channels.refused["foreign"] == 1
    assert len(hub.workers()) == 2


def test_ends_of_workers_are_told_and_nothing_is_left() -> None:
    with hub_of(2) as hub:
        killed, exiting = hub.workers()
        folder = folder_of(hub)
        os.kill(killed.process, signal.SIGKILL)
        assert left(hub) == [Left(killed.worker, "killed by signal 9 (SIGKILL)", ())]
        hub.channels.send(exiting.worker, asking("compute", "__import__('os')._exit(3)"))
        assert left(hub) == [Left(exiting.worker, "exit code 3", ())]
        assert hub.workers() == []
        hub.channels.send(killed.worker, asking("echo"))  # to nobody
        assert hub.channels.outgoing(0.0) == []
    assert not folder.exists()
    assert not any(psutil.pid_exists(w.process) for w in (killed, exiting))
    with pytest.raises(ExecutionError, match="have been ended"):
        hub.pump(0.0)
    hub.wake()
    hub.close()


@pytest.mark.long
def test_a_lost_worker_is_replaced_by_one_of_another_name() -> None:
    with hub_of(1) as hub:
        before = hub.workers()[0]
        hub.channels.send(before.worker, asking("exit", 4))
        assert left(hub) == [Left(before.worker, "as told", ())]
        hub.ask_for(1)
        (joined,) = until(hub, lambda found: any(isinstance(e, Joined) for e in found))[:1]
        assert isinstance(joined, Joined)
        assert joined.info.worker != before.worker
        assert asked(hub, joined.info, "echo", 1) == 1


@pytest.mark.long
def test_a_stopped_worker_is_lost_after_its_lease() -> None:
    with hub_of(2, lease=1.0, heartbeat=0.1) as hub:
        stopped, other = hub.workers()
        os.kill(stopped.process, signal.SIGSTOP)
        assert left(hub) == [Left(stopped.worker, "silent for 1 s", ())]
        assert not psutil.pid_exists(stopped.process)
        assert hub.workers() == [other]
        assert asked(hub, other, "echo", 1) == 1


@pytest.mark.long
def test_a_driver_that_was_away_declares_nobody_dead() -> None:
    with hub_of(2, lease=0.5, heartbeat=0.1) as hub:
        alive = hub.workers()
        os.kill(alive[0].process, signal.SIGSTOP)
        psutil.Process().cpu_percent(interval=2.0)  # neither pumps
        os.kill(alive[0].process, signal.SIGCONT)
        for worker in alive:
            assert asked(hub, worker, "echo", 1) == 1
        assert hub.workers() == alive


@pytest.mark.long
def test_a_function_that_keeps_the_interpreter_lock_is_no_silence() -> None:
    with hub_of(1, lease=0.6, heartbeat=0.1) as hub:
        (worker,) = hub.workers()
        # One call of C code, which takes about three leases and lets no other thread run.
        hub.channels.send(worker.worker, asking("compute", "len(str(sum(range(150_000_000))))"))
        assert reply(hub).body.piece == 17
        assert hub.workers() == [worker]


@pytest.mark.long
def test_workers_that_fail_to_start_leave() -> None:
    hub = LocalHub(1, LocalSettings(machine=("tests.cluster.echo", "NoSuchMachine")))
    assert [e.reason for e in left(hub)] == ["exit code 1"]
    hub.close()


@pytest.mark.long
def test_a_fork_of_the_driver_neither_uses_nor_closes_its_workers() -> None:
    with hub_of(1) as hub:
        child = os.fork()
        if child == 0:
            refused = False
            try:
                hub.pump(0.0)
            except ExecutionError:
                refused = True
            hub.close()
            os._exit(0 if refused else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert asked(hub, hub.workers()[0], "echo", 1) == 1


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_processes_of_another_user_are_refused() -> None:
    with hub_of(1) as hub:
        folder = folder_of(hub)
        folder.chmod(0o777)  # as if the folder let them through
        (folder / "driver").chmod(0o777)
        knock = """
            import os, sys, zmq
            os.setuid(int(sys.argv[2]))
            with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
                socket.linger = 500
                socket.connect(sys.argv[1])
                socket.send(b"hello")
            """
        command = [sys.executable, "-c", textwrap.dedent(knock), f"ipc://{folder}/driver"]
        subprocess.run([*command, "65534"], check=True)
        hub.pump(0.2)
        assert not hub.refused
        subprocess.run([*command, "0"], check=True)
        while not hub.refused["stranger"]:
            hub.pump(0.01)


DRIVER = """
import os, signal, sys
sys.path.insert(0, {root!r})
from scalops.engine.cluster.local_hub import LocalHub
from tests.cluster.test_local_hub import folder_of, settings

hub = LocalHub(2, settings())
while len(hub.workers()) < 2:
    hub.pump(1.0)
hub.channels.send(hub.workers()[0].worker, {asked})
hub.pump(0.0)
if {forks} and os.fork() == 0:
    signal.pause()
print(folder_of(hub), *[w.process for w in hub.workers()], flush=True)
{end}
"""
# A call that never ends, nor lets go of the interpreter's lock.
BUSY = "__import__('tests.cluster.echo').cluster.echo.asking('compute', 'any(iter(int, 1))')"


@pytest.mark.long
@pytest.mark.parametrize("forks", [False, True])
@pytest.mark.parametrize(
    "end",
    [
        "raise ValueError",
        "sys.exit(0)",
        "os._exit(0)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.kill(os.getpid(), signal.SIGTERM)",
        "os.kill(os.getpid(), signal.SIGINT)",
    ],
)
def test_nothing_outlives_the_driver(end: str, forks: bool) -> None:
    source = DRIVER.format(root=str(ROOT), end=end, asked=BUSY, forks=forks)
    command = [sys.executable, "-c", source]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, process_group=0
    ) as driver:
        assert driver.stdout is not None
        folder, *processes = driver.stdout.readline().split()
        watched = [psutil.Process(int(p)) for p in processes if psutil.pid_exists(int(p))]
        driver.wait(SECONDS)
        _, left_over = psutil.wait_procs(watched, timeout=5)
        # Orphans are zombies until the system's first process looks after them.
        alive = [p for p in left_over if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        for process in alive:
            process.kill()
        with suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)  # its fork
    assert not alive
    assert not Path(folder).exists()


# Parts without processes.


def test_a_folder_that_a_dead_driver_left_is_removed(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path_factory.mktemp("t")  # short: sockets have short paths
    monkeypatch.setattr("tempfile.tempdir", str(place))
    alive = PrivateFolder()
    dead = place / f"scalops-{os.geteuid()}-1-abcdefgh"
    starting = place / f"scalops-{os.geteuid()}-1-ijklmnop"  # has no lock yet
    other = place / "scalops-documents"
    for folder in (dead, starting, other):
        folder.mkdir(0o700)
    (dead / "lock").touch()
    remove_stale(place)
    assert sorted(place.iterdir()) == sorted([alive.path, starting, other])
    alive.remove()
    assert not alive.path.exists()


def test_a_folder_with_a_long_path_lies_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    folder = PrivateFolder()
    try:
        assert len(folder.address("worker1000")) < 108
    finally:
        folder.remove()


def test_leases_count_only_while_somebody_listens() -> None:
    leases = Leases(lease=10.0, step=1.0)
    leases.heard("a")
    leases.judge(0.0)
    leases.judge(1000.0)  # was away
    leases.heard("b")
    for now in range(1001, 1005):
        leases.judge(float(now))
    assert dict(leases.judge(1005.0)) == {"a": 6.0, "b": 5.0}
    assert not leases.is_over(9.0)
    assert leases.is_over(9.5)
    leases.forget("a")
    leases.heard("b")
    assert leases.judge(1006.0) == []

"""A broker with real sockets, workers in threads and drivers: sessions one after another."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scalops.algebra.errors import ConfigError, ExecutionError, Location, SecurityError
from scalops.engine.cluster import broker_client
from scalops.engine.cluster.cluster_watch import ClusterWatch
from scalops.engine.cluster.death_places import told_places
from scalops.engine.cluster.hub import Arrived, Joined, Left
from scalops.engine.cluster.keys import private_folder
from scalops.engine.cluster.messages import Bye, Replied
from scalops.engine.cluster.relay import Relay
from scalops.engine.cluster.remote_hub import RemoteHub, RemoteSettings
from scalops.engine.cluster.remote_worker import serve
from scalops.engine.cluster.supervisor import WorkerSettings
from scalops.engine.cluster.versions import own_versions, refusal
from scalops.engine.cluster.worker_daemon import run_workers
from scalops.engine.progress import Place
from tests.cluster.brokers import Keys, ipc_relay, made_keys, peer, tcp_relay, turned
from tests.cluster.echo import asking

QUICK = RemoteSettings(answer=10.0, line=0.2, start=10.0, pulse=0.1)


@contextmanager
def workers(relay: Relay, folder: Path, count: int, key: Path | None = None) -> Iterator[list[int]]:
    """Workers in threads, each for one session; gives the exit codes of those that have ended."""
    codes: list[int] = []
    # Not the threads' idents: these come again, and the name of one that is gone is never let in.
    names = [f"worker{number}-{secrets.token_hex(8)}" for number in range(count)]

    def run(number: int) -> None:
        data = "tcp://127.0.0.1:*" if key else f"ipc://{folder / f'w{number}' / 'data'}"
        told: dict[str, Any] = {
            "worker": names[number],
            "broker": relay.address,
            "key": None if key is None else str(key),
            "data": data,
            "machine": ["tests.cluster.echo", "EchoMachine"],
            "settings": {},
            "heartbeat": 0.1,
        }
        codes.append(serve(told))

    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(count)]
    private_folder(folder)
    for thread in threads:
        thread.start()
    try:
        while relay.membership.workers < count:
            assert all(thread.is_alive() for thread in threads), f"ended with {codes}"
            relay.socket.poll(10)
            relay.turn()
        yield codes
    finally:
        with turned(relay):
            for thread in threads:
                thread.join(20.0)


def answers(hub: RemoteHub, count: int) -> list[Arrived]:
    """What is replied, so many times."""
    found: list[Arrived] = []
    while len(found) < count:
        for event in hub.pump(10.0):
            if isinstance(event, Arrived) and isinstance(event.message.body, Replied):
                found.append(event)
    return found


def pump_for_ever(hub: RemoteHub) -> None:
    """Until it raises."""
    while True:
        hub.pump(10.0)


def _talk(hub: RemoteHub) -> None:
    """Each worker answers with the bytes that it is sent."""
    content = np.arange(300_000, dtype=np.float64).view(np.uint8)
    for info in hub.workers():
        hub.channels.send(info.worker, asking("echo", 1), [content])
    for arrived in answers(hub, len(hub.workers())):
        assert np.array_equal(arrived.message.buffers[0], content)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return made_keys(tmp_path / "keys")


def test_a_driver_and_its_workers_talk_through_the_broker_over_tcp(
    keys: Keys, tmp_path: Path
) -> None:
    with tcp_relay(keys) as relay:
        with workers(relay, tmp_path / "w", 2, keys.secret("worker")) as codes, turned(relay):
            hub = RemoteHub(relay.address, keys.secret("driver"), QUICK)
            joined = [e.info for e in hub.pump(0) if isinstance(e, Joined)]
            assert joined == hub.workers()
            assert len(joined) == 2
            assert {w.key for w in hub.workers()} == {keys.pair("worker").public}
            _talk(hub)
            hub.close()
            with pytest.raises(ExecutionError, match="has ended"):
                hub.pump(0)
        assert codes == [0, 0]  # their session is over
        assert relay.ended is None  # the cluster's is not


def test_drivers_are_served_one_after_another(tmp_path: Path) -> None:
    with ipc_relay(tmp_path / "c") as relay:
        for _ in range(2):
            with workers(relay, tmp_path / "w", 1), turned(relay):
                hub = RemoteHub(relay.address, None, QUICK)
                with pytest.raises(ConfigError, match=r"for 0.2 s: place 1 in line; it serves .*"):
                    RemoteHub(relay.address, None, QUICK)
                _talk(hub)
                hub.close()


def test_status_shows_what_workers_hold(tmp_path: Path) -> None:
    with ipc_relay(tmp_path / "c") as relay, workers(relay, tmp_path / "w", 1), turned(relay):
        (row,) = broker_client.rows(relay.address, None)
        assert set(row) == {
            "worker", "host", "partitions", "cached_bytes", "last_seen", "serves"
        }  # fmt: skip
        assert row["serves"] == ""
        RemoteHub(relay.address, None, QUICK).close()


def test_a_driver_hears_of_the_end_of_a_worker(tmp_path: Path) -> None:
    with ipc_relay(tmp_path / "c") as relay, workers(relay, tmp_path / "w", 2), turned(relay):
        hub = RemoteHub(relay.address, None, QUICK)
        gone = hub.workers()[0].worker
        hub.pump(0)
        at = Place(4, "f()", Location("own.py", 7), ", over records 0 to 9 of a block")
        bye = Bye(gone, "killed by signal 9", told_places([at]))
        broker_client.tell(relay.address, None, bye)
        left: list[Any] = []
        while not left:
            left = [event for event in hub.pump(10.0) if isinstance(event, Left)]
        assert left == [Left(gone, "killed by signal 9", (at,))]
        assert len(hub.workers()) == 1
        hub.close()


def test_a_driver_that_is_given_up_is_told(tmp_path: Path) -> None:
    with ipc_relay(tmp_path / "c") as relay, workers(relay, tmp_path / "w", 1), turned(relay):
        hub = RemoteHub(relay.address, None, QUICK)
        hub.pump(0)
        relay.note_end(hub._held.own, "it was silent for 10 s")
        with pytest.raises(ExecutionError, match="is lost: it has given this driver up"):
            pump_for_ever(hub)
        hub.close()


def test_a_driver_whose_key_is_revoked_is_told(keys: Keys, tmp_path: Path) -> None:
    key = keys.secret("worker")
    with tcp_relay(keys) as relay, workers(relay, tmp_path / "w", 1, key), turned(relay):
        hub = RemoteHub(relay.address, keys.secret("driver"), QUICK)
        keys.authorized("driver", "driver").unlink()
        with pytest.raises(SecurityError, match=r"the key .*driver.secret was revoked; its"):
            pump_for_ever(hub)
        assert hub._is_refused()
        hub.close()


def test_a_host_of_workers_speaks_for_those_that_are_busy(tmp_path: Path) -> None:
    with ipc_relay(tmp_path / "c") as relay, peer(relay) as worker:
        watch = ClusterWatch(relay.address, None, 0.0)
        worker.join()
        relay.membership.silent[worker.name] = 9.0
        watch.ask([worker.name, "unknown"])
        worker.until(lambda: watch.take(1.0) or watch.known == 1)  # type: ignore[func-returns-value]
        assert watch.heard == 1.0
        assert relay.membership.silent == {}
        watch.close()


def test_a_worker_with_a_drivers_key_is_refused_once_for_all(keys: Keys) -> None:
    with tcp_relay(keys) as relay, turned(relay):
        settings = WorkerSettings(relay.address, str(keys.secret("driver")), "tcp://127.0.0.1:*")
        with pytest.raises(ConfigError, match="refuses this: the key is a driver's"):
            run_workers(1, settings, print)


def test_a_cluster_without_workers_is_refused(tmp_path: Path) -> None:
    quick = RemoteSettings(start=0.2)
    refused = pytest.raises(ConfigError, match="has no worker for this driver; start some")
    with ipc_relay(tmp_path / "c") as relay, turned(relay), refused:
        RemoteHub(relay.address, None, quick)


def test_where_no_cluster_runs_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no cluster runs at ipc://.*: there is no such"):
        RemoteHub(f"ipc://{tmp_path / 'none'}")
    (tmp_path / "dead").touch()
    with pytest.raises(ConfigError, match=r"no cluster answers at ipc://.* within 0.1 s"):
        RemoteHub(f"ipc://{tmp_path / 'dead'}", None, RemoteSettings(answer=0.1))


def test_versions_name_what_decides_on_bits() -> None:
    own = own_versions()
    assert set(own) >= {
        "python", "scalops", "numpy", "scipy", "numba", "pyarrow", "BLAS", "processor features"
    }  # fmt: skip
    assert all(own.values())
    assert refusal(("d", 1, own), ("w", 1, dict(own))) is None
    for name in own:
        why = refusal(("d", 1, own), ("w", 1, {**own, name: "other"}))
        assert why is not None
        assert f"{name} {own[name]} on the driver, other on the worker" in why
        missing = {n: v for n, v in own.items() if n != name}
        assert refusal(("d", 1, own), ("w", 1, missing)) is not None

"""Clusters over TCP whose connections break, are slow, or end."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra.errors import ConfigError, SecurityError
from scalops.engine.cluster import broker, broker_client, remote_worker, worker_process
from scalops.engine.cluster.hub import Arrived
from scalops.engine.cluster.keys import create_keys
from scalops.engine.cluster.messages import Hello, Replied, Stop
from scalops.engine.cluster.relay import Relay
from scalops.engine.cluster.remote_hub import RemoteHub
from scalops.engine.cluster.remote_worker import MACHINE, serve
from tests.cluster.brokers import Keys, made_keys, tcp_relay, turned
from tests.cluster.echo import asking
from tests.cluster.faults import ROOT, bits, work
from tests.cluster.proxies import Link, Proxy, proxy

EXAMPLE = ROOT / "examples" / "three_hosts.py"
HAS_NAMESPACES = os.geteuid() == 0 and shutil.which("ip") is not None
ECHO = ("tests.cluster.echo", "EchoMachine")
SECONDS = 30.0  # that a test waits for what must come


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return made_keys(tmp_path / "keys")


@contextmanager
def workers(
    relay: Relay, keys: Keys, names: list[str], machine: tuple[str, str] = MACHINE, at: str = ""
) -> Iterator[None]:
    """Workers in threads, for one session, with keys of their own names; `at` is the broker's
    address as they know it.
    """

    def run(name: str) -> None:
        told: dict[str, Any] = {
            "worker": f"{name}-{threading.get_ident()}",
            "broker": at or relay.address,
            "key": str(keys.secret(name)),
            "data": "tcp://127.0.0.1:*",
            "machine": list(machine),
            "settings": {"threads": 1, "workers": len(names)},
            "heartbeat": 0.1,
        }
        serve(told)

    threads = [threading.Thread(target=run, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    try:
        while relay.membership.workers < len(names):
            relay.socket.poll(10)
            relay.turn()
        with turned(relay):
            yield
    finally:
        with turned(relay):
            for thread in threads:
                thread.join(SECONDS)


def loop(then: Callable[[int], None] = lambda i: None) -> Any:
    """The bits of a loop; `then` hears of each iteration."""
    rows = np.random.default_rng(5).normal(size=(20_000, 8))
    table = so.table({"x": rows}).repartition(6)
    made = so.loop(np.zeros(8), range(12))(lambda w: w + table.mean(lambda r: np.tanh(r.x - w)))
    return made.run(on_iteration=lambda i, env: then(i)).env.tobytes()


def here(found: Callable[[], Any]) -> Any:
    """What something gives without workers."""
    with so.session(workers=0, connect=None):
        return found()


class Losses:
    """Hears why workers were lost."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def emit(self, kind: str, **fields: Any) -> None:
        if kind == "worker_lost":
            self.reasons.append(fields["reason"])


# Connections that are reset.


def test_what_passes_a_connection_that_is_reset_arrives_once_and_in_order(keys: Keys) -> None:
    count, content = 40, np.arange(4_000, dtype=np.uint8)
    with (
        tcp_relay(keys) as relay,
        proxy(relay.address, Link(3, resets=4)) as between,
        workers(relay, keys, ["worker"], ECHO),
    ):
        hub = RemoteHub(between.address, keys.secret("driver"))
        (worker,) = hub.workers()
        for i in range(count):
            hub.channels.send(worker.worker, asking("echo", i, op=i), [content])
        found: list[Arrived] = []
        while len(found) < count:
            found += [
                event
                for event in hub.pump(SECONDS)
                if isinstance(event, Arrived) and isinstance(event.message.body, Replied)
            ]
        hub.close()
    assert between.resets == 4
    assert [event.message.body.op for event in found] == list(range(count))
    assert all(event.message.buffers[0].tobytes() == content.tobytes() for event in found)


@contextmanager
def proxied_workers(monkeypatch: pytest.MonkeyPatch, link: Link) -> Iterator[list[Proxy]]:
    """While this is open, workers are reached by others through proxies."""
    with ExitStack() as ends:
        made: list[Proxy] = []

        def hello(worker: str, data: str, key: bytes = b"") -> Hello:
            own = replace(link, seed=link.seed + len(made))
            between = ends.enter_context(proxy(data, own))
            made.append(between)
            return replace(worker_process.hello(worker, data, key), data=between.address)

        monkeypatch.setattr(remote_worker, "hello", hello)
        yield made


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
def test_connections_that_are_reset_anywhere_change_no_bit(
    keys: Keys, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Link(1000 * seed, resets=6, longest=2_000_000)
    with (
        tcp_relay(keys) as relay,
        proxy(relay.address, link) as of_driver,
        proxy(relay.address, replace(link, seed=link.seed + 1)) as of_workers,
        proxied_workers(monkeypatch, replace(link, seed=link.seed + 2, longest=50_000)) as between,
        workers(relay, keys, ["worker"] * 3, at=of_workers.address),
        so.session(of_driver.address, key=str(keys.secret("driver")), fan_in=2) as session,
    ):
        losses = session.events = Losses()
        found = [bits(so.collect(work())), loop()]
        assert session.attached == 3
    assert not losses.reasons
    assert of_driver.resets + of_workers.resets >= 6
    assert sum(p.resets for p in between) >= 1
    assert found == here(lambda: [bits(so.collect(work())), loop()])


@pytest.mark.long
def test_a_slow_link_is_no_death(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    # A connection is there after five times there and back: a third of the lease.
    link = Link(seconds=0.1, bytes_per_second=1e6)
    with (
        tcp_relay(keys, lease=3.0) as relay,
        proxy(relay.address, link) as slow,
        proxied_workers(monkeypatch, link),
        workers(relay, keys, ["worker"] * 2, at=slow.address),
        quick_pulse(monkeypatch),
        so.session(slow.address, key=str(keys.secret("driver")), fan_in=2) as session,
    ):
        losses = session.events = Losses()
        found = loop()
    assert not losses.reasons
    assert found == here(loop)


@contextmanager
def quick_pulse(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Drivers say more often that they live: leases are a fraction of what they are by default."""
    defaults = RemoteHub.__init__.__globals__["RemoteSettings"]
    monkeypatch.setitem(
        RemoteHub.__init__.__globals__, "RemoteSettings", lambda: defaults(pulse=0.6)
    )
    yield


# Keys and versions.


@pytest.mark.long
def test_a_worker_whose_key_is_revoked_is_lost_and_the_job_goes_on(
    keys: Keys,
) -> None:
    create_keys(keys.folder, "second", "worker")
    with (
        tcp_relay(keys) as relay,
        workers(relay, keys, ["worker", "second"]),
        so.session(relay.address, key=str(keys.secret("driver"))) as session,
    ):
        losses = session.events = Losses()
        found = loop(lambda i: wait_for_loss(relay, keys, "second", "worker"))
        assert session.attached == 1
    assert losses.reasons == ["its key was revoked"]
    assert found == here(loop)


def wait_for_loss(relay: Relay, keys: Keys, name: str, role: str) -> None:
    """Revoke a key, and wait until the relay has given up whoever has it."""
    public, file = keys.pair(name).public, keys.authorized(name, role)
    file.unlink(missing_ok=True)
    until = monotonic() + SECONDS
    while any(r.key == public and r.leaves is None for r in list(relay._routes.values())):
        assert monotonic() < until
        sleep(0.05)


@pytest.mark.long
def test_a_driver_whose_key_is_revoked_is_told(keys: Keys) -> None:
    with (
        tcp_relay(keys) as relay,
        workers(relay, keys, ["worker"]),
        so.session(relay.address, key=str(keys.secret("driver"))),
        pytest.raises(SecurityError, match=r"the cluster at .* is lost: the key .* was revoked"),
    ):
        loop(lambda i: wait_for_loss(relay, keys, "driver", "driver"))


@pytest.mark.long
def test_a_worker_of_other_versions_is_left_out_by_name(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hello(*arguments: Any) -> Hello:
        made = worker_process.hello(*arguments)
        return replace(made, versions={**made.versions, "numpy": "1.0"})

    monkeypatch.setattr(remote_worker, "hello", hello)
    with tcp_relay(keys) as relay, workers(relay, keys, ["worker"]):
        session = so.session(relay.address, key=str(keys.secret("driver")))
        with (
            session,
            pytest.raises(ConfigError, match=r"no worker .*1\.0 on the worker"),
        ):
            loop()
        # The worker has served nobody.
        broker_client.tell(relay.address, str(keys.secret("driver")), Stop())


# Ends.

DRIVER = """
import os, sys
import scalops as so
from tests.cluster.test_tcp_faults import loop

def pause(i):
    if i == 3:
        print("half-way", flush=True)
        sys.stdin.read()

with so.session(sys.argv[1], key=sys.argv[2]):
    loop(pause)
"""


@pytest.mark.long
def test_a_cluster_whose_driver_is_killed_serves_the_next(tmp_path: Path) -> None:
    settings = broker.BrokerSettings(tmp_path / "c", "tcp://127.0.0.1:*", workers=2, lease=5.0)
    found = broker.start(settings)
    try:
        arguments = found["uri"], str(settings.folder / "driver.secret")
        command = [sys.executable, "-c", DRIVER, *arguments]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=ROOT, **pipes) as driver:
            assert driver.stdout is not None
            assert driver.stdout.readline() == "half-way\n"
            os.kill(driver.pid, signal.SIGKILL)
        with so.session(arguments[0], key=arguments[1]) as session:
            assert loop() == here(loop)
            assert session.attached == 2
    finally:
        broker.stop(settings.folder)


# Hosts.


@pytest.mark.long
@pytest.mark.skipif(not HAS_NAMESPACES, reason="network namespaces need root and iproute2")
@pytest.mark.parametrize("how", [[], ["--cut"]], ids=["killed", "cut"])
def test_a_host_that_is_lost_changes_no_bit(how: list[str]) -> None:
    check_story(how)
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True)
    assert "scalops" not in listed.stdout


@pytest.mark.long
def test_without_namespaces_a_lost_host_changes_no_bit() -> None:
    check_story(["--processes"])


def check_story(how: list[str]) -> None:
    """The example ends as it says."""
    command = [sys.executable, str(EXAMPLE), *how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert "same bits as in one process: yes" in done.stdout
    assert "workers: 3, lost: 1, left: 2" in done.stdout


def test_without_root_the_hosts_say_what_they_lack(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().out == "network namespaces need root; --processes does without\n"

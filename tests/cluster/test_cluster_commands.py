"""`scalops cluster`, `scalops worker`, `scalops keys`."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import scalops as so
from scalops.cli.cluster_commands import _table
from scalops.cli.commands import cli
from scalops.engine.cluster import broker


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return lambda *arguments: CliRunner().invoke(cli, [str(a) for a in arguments])


def test_keys_are_made_and_let_in(invoke: Callable[..., Result], tmp_path: Path) -> None:
    done = invoke("keys", "create", "alice", "--folder", tmp_path / "k", "--role", "worker")
    secret = tmp_path / "k" / "alice.secret"
    assert done.stdout == (
        f"secret key     {secret}\n"
        f"it is let in   {tmp_path / 'k' / 'authorized' / 'alice.worker'}\n"
    )
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert done.stderr.startswith("it lacks the line `cluster`")
    again = invoke("keys", "create", "alice", "--folder", tmp_path / "k")
    assert again.exit_code == 1
    assert again.stderr.startswith("ConfigError: ")
    assert "keys are never overwritten" in again.stderr


def test_by_default_keys_are_the_clusters(invoke: Callable[..., Result], tmp_path: Path) -> None:
    assert invoke("keys", "create", "bob").exit_code == 0
    assert (tmp_path / "config" / "scalops" / "cluster" / "bob.secret").exists()


@pytest.mark.parametrize("command", ["status", "stop"])
def test_where_no_cluster_runs_commands_say_so(invoke: Callable[..., Result], command: str) -> None:
    done = invoke("cluster", command)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("ConfigError: no cluster runs in ")
    assert done.stderr.endswith("; scalops cluster start makes one\n")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["cluster", "start", "--bind", "udp://h:1"], "is no address of a cluster"),
        (["cluster", "start", "--bind", "localhost:99"], "write tcp://HOST:PORT"),
        (["cluster", "start", "--bind", "tcp://127.0.0.1"], "names no port"),
        (["cluster", "status", "--connect", "ipc:///tmp/nope/broker"], "there is no such file"),
        (["cluster", "status", "--connect", "tcp://127.0.0.1:1"], "over TCP needs keys"),
        (["worker", "--connect", "tcp://127.0.0.1:1"], "over TCP needs keys"),
        (["worker", "--connect", "tcp://h:1", "--key", "none"], "keys none cannot be read"),
        (["keys", "create", "../x"], "is no name for keys"),
        (["keys", "create", "x", "--cluster", "short"], "a public key has 40 characters"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    invoke: Callable[..., Result],
    arguments: list[str],
    error: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke(*arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    assert error in done.stderr.replace(f"{tmp_path}/", "")
    assert len(done.stderr.splitlines()) == 1


def test_the_table_aligns_its_columns() -> None:
    row = {"host": "h", "partitions": 12, "cached_bytes": 4096, "last_seen": 0.25, "serves": ""}
    assert _table([{"worker": "ab12", **row}, {"worker": "c", **row, "serves": "fit.py"}]) == [
        "worker  host  partitions  cached bytes  last seen  serves",
        "ab12    h             12         4,096  0.2 s ago  -",
        "c       h             12         4,096  0.2 s ago  fit.py",
    ]


def test_settings_survive_the_way_to_the_daemon(tmp_path: Path) -> None:
    settings = broker.BrokerSettings(tmp_path, "tcp://*:1", 3, worker={"threads": 2})
    assert broker.decode_settings(broker.encode_settings(settings)) == settings


def test_a_state_file_of_another_process_is_no_cluster(tmp_path: Path) -> None:
    broker.write_state(tmp_path, "ipc://x")
    assert broker.running(tmp_path) is not None
    state = {"uri": "ipc://x", "process": os.getpid(), "since": 1.0}
    (tmp_path / broker.STATE).write_text(json.dumps(state))
    assert broker.running(tmp_path) is None


@pytest.mark.long
def test_a_cluster_is_started_shown_and_stopped(
    invoke: Callable[..., Result], tmp_path: Path
) -> None:
    folder = tmp_path / "c"
    started = invoke("cluster", "start", "--workers", 0, "--folder", folder)
    assert started.exit_code == 0, started.stderr
    try:
        assert f"cluster  ipc://{folder}/broker, 0 workers" in started.stdout
        shown = json.loads(invoke("cluster", "status", "--folder", folder, "--json").stdout)
        assert shown == {"cluster": f"ipc://{folder}/broker", "workers": []}
    finally:
        stopped = invoke("cluster", "stop", "--folder", folder)
    assert stopped.stdout == f"stopped ipc://{folder}/broker\n"
    assert sorted(p.name for p in folder.iterdir()) == [broker.LOG]


@pytest.mark.long
@pytest.mark.parametrize("bind", [None, "tcp://127.0.0.1:*"])
def test_a_cluster_serves_sessions_one_after_another(
    invoke: Callable[..., Result], tmp_path: Path, bind: str | None
) -> None:
    rows = so.table({"x": [0.1 * i for i in range(10_000)]})
    expected: float = rows.map(lambda r: r.x * r.x).sum().collect()
    folder = tmp_path / "c"
    given = [] if bind is None else ["--bind", bind]
    started = invoke("cluster", "start", "--workers", 2, "--folder", folder, *given)
    assert started.exit_code == 0, started.stderr
    found = broker.running(folder)
    assert found is not None
    key = None if bind is None else str(folder / "driver.secret")
    try:
        for _ in range(2):
            with so.session(found["uri"], key=key):
                assert rows.map(lambda r: r.x * r.x).sum().collect() == expected
    finally:
        assert invoke("cluster", "stop", "--folder", folder).exit_code == 0

"""Where plans run: workers of this machine or a cluster, from options of several layers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import scalops as so
from tests.language.witness import line

URI = "tcp://host:5555"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a key, and no variables."""
    for variable in list(os.environ):
        if variable.startswith("SCALOPS_"):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "driver.key").touch()
    return tmp_path


def place() -> tuple[int, str | None, str | None]:
    """Workers, URI and key in force."""
    found = so.config()
    return found["workers"], found["connect"], found["key"]


def test_a_cluster_is_named_by_its_uri() -> None:
    with so.session(URI, key="driver.key"):
        assert place() == (0, URI, "driver.key")
        assert so.config().source("connect") == "session"
    with so.session(connect=URI, key=Path("driver.key")):
        assert place() == (0, URI, "driver.key")
    with so.session("ipc:///run/broker"):
        assert place() == (0, "ipc:///run/broker", None)


@pytest.mark.parametrize(
    "uri",
    [
        "tcp://a.example.org:5555",
        "tcp://127.0.0.1:1",
        "tcp://[::1]:65535",
        "ipc:///a b",
        "ipc:///a",
    ],
)
def test_uris(uri: str) -> None:
    assert so.session(uri, key="driver.key").options.connect == uri


@pytest.mark.parametrize(
    "uri",
    ["", "host", "host:5555", "tcp://host", "tcp://:1", "tcp://host:0", "tcp://host:65536",
     "tcp://host:1/x", "tcp://ho st:1", "tcp://*:x", "ipc://a", "ipc:///", "udp://h:1", 5555, True],
)  # fmt: skip
def test_what_is_no_uri(uri: Any) -> None:
    with pytest.raises(so.ConfigError, match=r"connect is .*; expected 'tcp://host:port' or"):
        so.session(uri, key="driver.key")


def test_the_network_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(so.ConfigError) as caught:
        so.session(URI)
    at = line() - 1
    assert str(caught.value) == (
        f"connect is '{URI}' (session), over the network, and there is no key"
        f' (test_places.py:{at}); so.session("{URI}", key="driver.secret"): `scalops keys create`'
        " writes keys, and the cluster's administrator has those that it accepts"
    )
    monkeypatch.setenv("SCALOPS_CONNECT", URI)
    with pytest.raises(so.ConfigError, match=r"\(SCALOPS_CONNECT\), over the network"):
        so.session()
    monkeypatch.setenv("SCALOPS_KEY", "driver.key")
    with so.session():
        assert place() == (0, URI, "driver.key")


def test_a_key_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(so.ConfigError, match=r"key is 'no\.key' \(session\): there is no such"):
        so.session(URI, key="no.key")
    with pytest.raises(so.ConfigError, match="there is no cluster to show it to"):
        so.session(key="driver.key")
    monkeypatch.setenv("SCALOPS_KEY", "no.key")  # which is asked for by nobody
    assert so.session(workers=2).options.workers == 2


def test_a_key_of_the_file_lies_beside_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "scalops.toml").write_text(f'connect = "{URI}"\nkey = "driver.key"\n')
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    with so.session():
        assert place() == (0, URI, str(folder / "driver.key"))


def test_workers_and_a_cluster_of_one_layer_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = "plans run on processes of this machine or on a cluster, not on both"
    with pytest.raises(so.ConfigError, match=says):
        so.session("ipc:///a", workers=2)
    assert so.session("ipc:///a", workers=0).options.connect == "ipc:///a"
    (folder / "scalops.toml").write_text('connect = "ipc:///a"\nworkers = 2\n')
    with pytest.raises(so.ConfigError, match=r"scalops\.toml\): " + says):
        so.session()


def test_the_nearer_of_workers_and_cluster_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "scalops.toml").write_text(f'connect = "{URI}"\nkey = "driver.key"\n')
    with so.session(workers=3):
        assert place() == (3, None, None)
        assert so.config().source("connect") == "session"
        with so.session("ipc:///a"):
            assert place() == (0, "ipc:///a", str(folder / "driver.key"))
            with so.session(threads=1):
                assert place()[:2] == (0, "ipc:///a")
            with so.session(workers=0):
                assert place() == (0, None, None)
    monkeypatch.setenv("SCALOPS_WORKERS", "2")
    with so.session():
        assert place() == (2, None, None)
        assert so.config().source("key") == "SCALOPS_WORKERS"


def test_a_session_on_a_cluster_inside_one_with_workers() -> None:
    with so.session(URI, key="driver.key"), so.session(workers=2):
        assert place() == (2, None, None)
    with so.session(workers=2), so.session(URI, key="driver.key"):
        assert place() == (0, URI, "driver.key")
        with so.session(connect=None):
            assert place() == (0, None, None)

"""Where a program runs: --workers, --connect, --key; and what ends the command."""

from __future__ import annotations

import importlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from scalops import clusters
from tests.cli.conftest import Invoke, Write

SESSION = importlib.import_module("scalops.session")  # so.session hides it
SUM = """
import numpy as np
import scalops as so

@so.program
def main(workers: int = 1, key: str = "k"):
    return so.table({"x": np.arange(10.0)}).sum("x") + workers + len(key)
"""


class NoWorkers(Exception):
    """Workers were asked for."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The options with which workers were asked for; there are none."""
    found: list[Any] = []

    def open_workers(options: Any) -> Any:
        found.append(options)
        raise NoWorkers

    monkeypatch.setattr(SESSION, "open_workers", open_workers)
    for name in ("WORKERS", "CONNECT", "KEY"):
        monkeypatch.delenv(f"SCALOPS_{name}", raising=False)
    return found


def test_workers_are_asked_for_at_the_first_run(
    write: Write, invoke: Invoke, asked: list[Any]
) -> None:
    path = write(SUM)
    for arguments in (["--workers", "4", path], [path, "--workers", "4"]):
        result = invoke("run", *arguments)
        assert result.exit_code == 1
        assert "NoWorkers" in result.stderr
    assert [(o.workers, o.connect) for o in asked] == [(4, None)] * 2


def test_a_cluster_is_asked_for_with_its_key(
    write: Write, invoke: Invoke, asked: list[Any], tmp_path: Path
) -> None:
    key = tmp_path / "driver.key"
    key.touch()
    invoke("run", write(SUM), "--connect", "tcp://host:5555", "--key", key)
    invoke("run", write(SUM), "--connect", "ipc:///run/scalops/broker")
    found = [(o.workers, o.connect, o.key) for o in asked]
    assert found == [
        (0, "tcp://host:5555", str(key)),
        (0, "ipc:///run/scalops/broker", None),
    ]


def test_without_workers_none_are_asked_for(
    write: Write, invoke: Invoke, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALOPS_WORKERS", "3")
    assert invoke("run", write(SUM), "--workers", "0").stdout == "47.0\n"
    assert not asked


def test_parameters_of_these_names_are_offered_under_others(
    write: Write, invoke: Invoke, asked: list[Any]
) -> None:
    result = invoke("run", write(SUM), "--param-workers", "2", "--param-key", "abc")
    assert (result.stdout, result.stderr) == ("50.0\n", "")
    text = invoke("explain", write(SUM), "--help").stdout
    for option in ("--workers", "--connect URI", "--key", "--param-workers", "--param-key"):
        assert option in text


def test_explain_shows_workers_and_starts_none(
    write: Write, invoke: Invoke, asked: list[Any]
) -> None:
    result = invoke("explain", write(SUM), "--workers", "3", "--stage", "physical")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "workers      3, processes of this machine: ranks 0 to 2" in result.stdout
    connected = invoke("explain", write(SUM), "--connect", "ipc:///a", "--stage", "physical").stdout
    assert "those of ipc:///a: how many is known once a session asks it" in connected
    assert not asked


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--workers", "-1"], 2, "Error: --workers is '-1'; expected an int of at least 0 and"),
        (["--workers", "5000"], 2, "Error: --workers is '5000'; expected an int of at least 0 and"),
        (["--connect", "host:1"], 2, "Error: --connect is 'host:1'; expected 'tcp://host:port'"),
        (["--connect", "tcp://h:1"], 2, "there is no key; --connect tcp://h:1 --key driver.secret"),
        (
            ["--connect", "tcp://h:1", "--key", "nowhere"],
            2,
            "Error: --key is 'nowhere' (command line): there is no such file",
        ),
        (
            ["--key", "nowhere"],
            2,
            "Error: --key is 'nowhere', and there is no cluster to show it to; give its URI, too:"
            " --connect tcp://host:5555 --key nowhere",
        ),
        (
            ["--connect", "ipc:///a", "--workers", "2"],
            2,
            "--workers is 2 and --connect is 'ipc:///a' (command line): plans run on processes of",
        ),
    ],
)
def test_places_that_make_no_sense_are_refused(
    write: Write, invoke: Invoke, asked: list[Any], arguments: list[str], code: int, says: str
) -> None:
    for command in ("run", "explain"):
        result = invoke(command, write(SUM), *arguments)
        assert result.exit_code == code
        assert says in " ".join(result.stderr.split())
        assert "Traceback" not in result.stderr
    assert not asked


def test_what_variables_say_is_no_wrong_usage(
    write: Write, invoke: Invoke, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALOPS_CONNECT", "tcp://h:1")
    result = invoke("run", write(SUM))
    assert result.exit_code == 1
    assert "ConfigError: connect is 'tcp://h:1' (SCALOPS_CONNECT)" in result.stderr
    assert invoke("run", write(SUM), "--key", "nowhere").exit_code == 1
    assert invoke("run", write(SUM), "--workers", "0").stdout == "47.0\n"


def test_term_ends_the_session_first(
    write: Write, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Any] = []
    monkeypatch.setattr(SESSION.Session, "close", lambda self: closed.append(self))
    program = """
    import os, signal
    import scalops as so

    @so.program
    def main():
        os.kill(os.getpid(), signal.SIGTERM)
        return so.table({"x": [1]}).count()
    """
    before = signal.getsignal(signal.SIGTERM)
    result = invoke("run", write(program))
    assert (result.exit_code, result.stdout, len(closed)) == (143, "", 1)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_worker_has_its_share_of_the_cores() -> None:
    from scalops.options import Options

    cores = len(os.sched_getaffinity(0))
    assert clusters.threads_of_worker(Options(workers=2, threads=3)) == 3
    assert clusters.threads_of_worker(Options(workers=1)) == cores
    assert clusters.threads_of_worker(Options(workers=4 * cores)) == 1

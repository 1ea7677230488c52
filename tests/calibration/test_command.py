"""The command `scalops calibrate`, on a runner that measures nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from typing import Any

import pytest
from click.testing import CliRunner, Result

from scalops import profiles
from scalops.algebra.errors import ExecutionError
from scalops.cli import calibrate_command
from scalops.cli.commands import cli
from scalops.engine.calibration import runner
from scalops.engine.calibration.measurement import Effort, Measured, Outcome, Probe, Unmeasured
from scalops.optimizer.costs.machine import ASSUMED, Machine, Rate

NO_WORKERS = "WorkerLost: no worker has come"
REMEDY = "scalops calibrate measures it"


@pytest.fixture(autouse=True)
def place(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and probes that give what they have always given."""
    monkeypatch.setenv(profiles.FOLDER, str(tmp_path))
    monkeypatch.setattr(runner, "PROBES", PROBES)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    profiles.forget_cached()


def gives(*outcomes: Outcome) -> Any:
    """What a probe measures."""
    return lambda effort: outcomes


PROBES = (
    Probe("memory", ("read",), gives(Measured("read", 9.87654e9, "bytes/s", 0.0251, 9))),
    Probe("overheads", ("call",), gives(Measured("call", 1.5e-6, "s", 0.25, 9))),
    Probe(
        "links",
        ("hop", "link"),
        gives(Unmeasured("hop", NO_WORKERS), Unmeasured("link", NO_WORKERS)),
    ),
)


def invoke(*arguments: str) -> Result:
    """Call the command."""
    return CliRunner().invoke(cli, ["calibrate", *arguments])


def rows(result: Result) -> dict[str, list[str]]:
    """The table's cells but the last, by rate."""
    names = {r.name for r in ASSUMED}
    lines = [line.split() for line in result.stdout.splitlines()]
    return {line[0]: line[1:] for line in lines if line and line[0] in names}


def test_measures_stores_and_shows() -> None:
    result = invoke()
    assert result.exit_code == 0
    found = rows(result)
    assert found.keys() == {r.name for r in ASSUMED}
    assert found["read"][:5] == ["9.88", "GB/s", "±2.5", "%", "measured"]
    assert found["call"][:5] == ["1.50", "µs", "±25", "%", "measured"]
    assert found["hop"][:3] == ["100", "µs", "assumed"]
    assert result.stderr == f"not measured: hop, link: {NO_WORKERS}\n"
    machine = profiles.machine()
    assert (machine["read"], machine["call"]) == (9.87654e9, 1.5e-6)
    assert rows(invoke("--show")) == found


def test_busy_machine_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (999.0, 0.0, 0.0))
    result = invoke("--only", "memory")
    assert result.stderr.startswith("this machine is busy: a load of 999.0 on ")
    assert rows(result)["read"][:2] == ["9.88", "GB/s"]


def test_every_line_fits_a_terminal_of_80_columns() -> None:
    stale = [
        Rate(r.name, 1.0 if r.unit == "s" else 4.44e11, r.unit, r.about, "measured", 1.36, True)
        for r in ASSUMED
    ]
    for machine in (Machine.of(2, 1 << 30), Machine.of(2, 1 << 30, stale)):
        lines = calibrate_command.table(machine, 80)
        assert max(map(len, lines)) <= 80
        assert len(calibrate_command.table(machine, 100)) == 1 + len(ASSUMED)


def test_only_some_are_measured_and_the_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke().exit_code == 0
    asked: list[str] = []

    def measure(
        probes: Sequence[Probe], effort: Effort | None = None, watch: Any = None
    ) -> list[Outcome]:
        asked.extend(p.kind for p in probes)
        return [Measured("read", 1e9, "bytes/s", 0.0, 9)]

    monkeypatch.setattr(runner, "measure", measure)
    result = invoke("--only", "memory, hop")
    assert asked == ["memory", "links"]
    assert rows(result)["read"][:2] == ["1.00", "GB/s"]
    assert rows(result)["call"][:2] == ["1.50", "µs"]


def test_json_has_the_whole_figures() -> None:
    found = json.loads(invoke("--json").stdout)
    assert found["machine"] == vars(profiles.own_hardware())
    assert found["file"] == str(profiles.path_of(profiles.own_hardware()))
    rates = {r.pop("name"): r for r in found["rates"]}
    assert list(rates) == [r.name for r in ASSUMED]
    at = rates["read"].pop("at")
    assert at == profiles.machine().measured_at
    assert rates["read"] == {
        "value": 9.87654e9,
        "unit": "bytes/s",
        "spread": 0.0251,
        "provenance": "measured",
        "stale": False,
        "not_measured": None,
        "about": ASSUMED[0].about,
    }
    assert (rates["hop"]["provenance"], rates["hop"]["not_measured"]) == ("assumed", NO_WORKERS)
    assert rates["hop"]["at"] is None


def test_show_and_forget_measure_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "PROBES", ())
    shown = invoke("--show")
    assert REMEDY in shown.stdout
    assert invoke("--forget").stdout == "nothing was stored\n"
    profiles.store(profiles.own_hardware(), "", [Rate("hop", 1.0, "s", "", "measured", 0.0)])
    assert "measured, stale" in invoke("--show").stdout  # no versions are those of now
    path = profiles.path_of(profiles.own_hardware())
    assert invoke("--forget").stdout == f"removed {path}\n"
    assert json.loads(invoke("--forget", "--json").stdout) == {"removed": None}
    assert REMEDY in invoke("--show").stdout


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--show", "--forget"), "--show and --forget exclude each other"),
        (("--only", "read", "--show"), "--only and --show exclude each other"),
        (("--only", "speed"), "nothing to measure that is called 'speed'; kinds of rates: memory"),
        (("--sow",), "No such option"),
    ],
)
def test_wrong_usage_stores_nothing(
    arguments: tuple[str, ...], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "KINDS", ("memory", "overheads", "links"))
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert why in " ".join(result.stderr.split())
    assert profiles.load(profiles.own_hardware()) is None


def test_options_of_the_machine_go_without_a_program() -> None:
    result = invoke("--show", "program.py")
    assert result.exit_code == 2
    assert "--show goes without a program" in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "Interrupted: nothing is stored\n"),
        (ExecutionError("no memory"), 1, "ExecutionError: no memory\n"),
    ],
)
def test_what_ends_the_measuring_stores_nothing(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def fail(*given: object, **named: object) -> list[Outcome]:
        raise error

    monkeypatch.setattr(runner, "measure", fail)
    result = invoke()
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", said)
    assert profiles.load(profiles.own_hardware()) is None


def test_folder_that_cannot_be_written_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(profiles.FOLDER, str(tmp_path / "file" / "profiles"))
    monkeypatch.setattr(runner, "measure", None)  # it is found out before anything is measured
    result = invoke()
    assert result.exit_code == 1
    assert "ConfigError: " in result.stderr
    assert "SCALOPS_PROFILES names another folder" in result.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_figures_that_can_no_longer_be_stored_are_shown(
    monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    def fail(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    result = invoke("--json") if as_json else invoke()
    assert result.exit_code == 1
    assert "cannot be written: No space left on device" in result.stderr
    if as_json:
        found = json.loads(result.stdout)
        assert (found["file"], found["rates"][0]["value"]) == (None, 9.87654e9)
        assert found["rates"][0]["provenance"] == "measured"
    else:
        assert rows(result)["read"][:2] == ["9.88", "GB/s"]
        assert "Not stored." in result.stdout
    assert profiles.load(profiles.own_hardware()) is None


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "s", "0.00 ns"),
        (1.25e-10, "s", "0.12 ns"),
        (999.7e-9, "s", "1.00 µs"),
        (12.34, "s", "12.3 s"),
        (3600.0, "s", "3600 s"),
        (9.999e8, "flops/s", "1.00 Gflop/s"),
        (12.0, "records/s", "12.0 rec/s"),
        (5e13, "bytes/s", "50000 GB/s"),
    ],
)
def test_quantities_are_readable(value: float, unit: str, text: str) -> None:
    assert calibrate_command.quantity(value, unit) == text


def test_what_is_measured_is_shown_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "memory" not in invoke().stderr.replace(NO_WORKERS, "")


def test_kinds_that_the_help_names_are_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    text = " ".join(invoke("--help").stdout.split())
    kinds: Collection[str] = runner.KINDS
    named = text.partition("kinds of rates (")[2].partition(")")[0]
    assert sorted(named.split(", ")) == sorted(kinds)

"""`scalops calibrate PROGRAM`: the symbols of its loops."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from click.testing import CliRunner, Result

from scalops import profiles, sampled_runs
from scalops.cli import program_text
from scalops.cli.commands import cli
from scalops.clusters import cores
from scalops.optimizer.costs.machine import ASSUMED, Machine, Rate
from scalops.optimizer.costs.plan_work import PlanWork
from scalops.optimizer.costs.program_rates import ProgramRates
from scalops.optimizer.costs.program_symbols import ProgramSymbols
from scalops.optimizer.costs.setting import Setting
from scalops.optimizer.costs.symbols import Symbols
from scalops.program_calibration import CalibratedLoop, ProgramCalibration

RATES = {r.name: r.value for r in ASSUMED}
FEATURES, ROWS = 20, 3000
PROGRAM = f"""
import numpy as np
import scalops as so

@so.program
def main(rows: int = {ROWS}, steps: int = 7):
    x = np.linspace(0, 1e-6, rows * {FEATURES}).reshape(rows, {FEATURES})
    table = so.table({{"x": x}})

    @so.loop(np.zeros({FEATURES}), range(steps))
    def model(w):
        return w + table.map(lambda r: r.x * np.exp(r.x @ w)).sum()

    return model

@so.program
def single():
    return so.table({{"x": [1.0, 2.0]}}).map(lambda r: r.x).sum()
"""

NEGATIVE = """
import numpy as np
import scalops as so

@so.program
def main():
    t = so.table({"x": np.linspace(-1, 1, 200_000)})
    return so.loop(0.0, range(5))(lambda s: s + t.map(lambda r: np.log(r.x)).sum())
"""


@pytest.fixture(autouse=True)
def assumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of which nothing is stored, and runs as short as may be."""
    monkeypatch.setenv(profiles.FOLDER, str(tmp_path / "profiles"))
    profiles.forget_cached()
    monkeypatch.setattr(sampled_runs, "LEAST_SECONDS", 0.0)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The file of the programs."""
    path = tmp_path / "program.py"
    path.write_text(dedent(PROGRAM))
    return path


def invoke(*arguments: object) -> Result:
    """Call the command."""
    return CliRunner().invoke(cli, ["calibrate", *map(str, arguments)])


def symbols(result: Result) -> dict[str, Any]:
    """Those of the only loop, by letter."""
    assert result.exit_code == 0, result.stderr
    (loop,) = json.loads(result.stdout)["loops"]
    assert loop["name"] == "model"
    return {s["letter"]: s for s in loop["symbols"].values()}


def test_symbols_of_a_program(program: Path) -> None:
    found = symbols(invoke(program, "--json", "--steps", 9))
    assert "".join(found) == "RPDMABLK"
    assert (found["R"]["value"], found["K"]["value"]) == (ROWS, 9)
    assert found["P"]["value"] > 0
    assert (found["R"]["provenance"], found["P"]["provenance"]) == ("exact", "measured")
    held = 8 * FEATURES  # in memory: loading was not measured
    least = held * (1 / RATES["disk_read"] + 1 / RATES["ipc"] / cores())
    assert found["D"]["value"] >= least * (1 - 1e-9)
    sent = 8 * FEATURES  # bytes of the sum, and of the weights
    passed = RATES["message"] + sent / RATES["link"]
    assert found["A"]["value"] == pytest.approx(passed + sent / RATES["add"])
    assert found["B"]["value"] == pytest.approx(passed)
    assert found["L"]["value"] == RATES["hop"]
    assert {found[n]["provenance"] for n in "ABL"} == {"assumed"}
    assert {found[n]["spread"] for n in "ABL"} == {None}


def test_links_of_this_host_say_nothing_of_a_network(program: Path) -> None:
    measured = [Rate(n, 1e-3, "s", "", "measured", 0.25) for n in ("hop", "message")]
    measured += [Rate(n, 1e6, "bytes/s", "", "measured", 0.5) for n in ("link", "add")]
    profiles.store(profiles.own_hardware(), profiles.own_software(), measured)
    result = invoke(program, "--json")
    found = symbols(result)
    assert {found[n]["provenance"] for n in "ABL"} == {"assumed"}
    sent = 8 * FEATURES
    passed = RATES["message"] + sent / RATES["link"]
    assert found["A"]["value"] == pytest.approx(passed + sent / 1e6)
    assert (found["A"]["spread"], found["L"]["value"]) == (None, RATES["hop"])
    (loop,) = json.loads(result.stdout)["loops"]
    assert "A, B, L: of an assumed network" in loop["notes"][-1]


def test_a_sample_that_fails_fails_the_program(tmp_path: Path) -> None:
    path = tmp_path / "negative.py"  # the smallest sample has positive numbers alone
    path.write_text(dedent(NEGATIVE))
    result = invoke(path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "the state has become NaN" in result.stderr


def test_a_busy_machine_is_told(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (1e3, 0.0, 0.0))
    assert "a load of 1000.0 on" in " ".join(invoke(program).stdout.split())
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    assert "busy" not in invoke(program).stdout


def test_program_without_a_loop_has_no_symbols(program: Path) -> None:
    result = invoke(f"{program}:single")
    assert (result.exit_code, result.stdout) == (1, "")
    said = "ConfigError: nothing of the program can be measured: the job has no loop"
    assert said in result.stderr


def made(**changes: Any) -> ProgramCalibration:
    """A calibration of given figures."""
    given = Symbols(1e8, 1e-6, 4e-6, 5e6, 0.5, 0.25, 1e-4, 20.0)
    known: dict[str, Any] = dict.fromkeys(vars(given), "measured")
    loop = CalibratedLoop(0, "model", ProgramSymbols(given, {"map": 0.021}), known | changes)
    rates = ProgramRates(1e8, "points.parquet", runs=6, seconds=1.5)
    work = PlanWork({}, (), ())
    return ProgramCalibration(rates, work, Setting(2, 2, 1e9), Machine.of(2, 1 << 30), (loop,))


def test_text_has_a_line_for_each_symbol_and_fits_80_columns() -> None:
    lines = list(program_text.lines(made(level="assumed")))
    assert max(map(len, lines)) <= 80
    assert [line[0] for line in lines[2:10]] == list("RPDMABLK")
    assert lines[3].split()[:5] == ["P", "1.00", "µs", "±2.1", "%"]
    assert lines[2].endswith("records, points.parquet")
    assert any(line.startswith("L: of an assumed network, 100 µs a message") for line in lines)
    assert "A machine is this process, on 2 threads. 6 short runs, 1.5 s." in lines


def test_data_has_no_infinite_number() -> None:
    given = made()
    found = given.loops[0].found
    everything = Symbols(1e8, 1e-6)  # its cache holds all
    loop = CalibratedLoop(0, "", ProgramSymbols(everything, found.spreads), given.loops[0].known)
    calibration = ProgramCalibration(given.rates, given.work, given.setting, given.machine, (loop,))
    data = json.loads(json.dumps(program_text.document(calibration), allow_nan=False))
    assert data["loops"][0]["symbols"]["cache"]["value"] is None
    assert list(program_text.lines(calibration))[5].split()[:2] == ["M", "all"]

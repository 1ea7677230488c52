"""Stored rates: kept, found again, refused where they are damaged or another machine's."""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scalops import profiles
from scalops.algebra.errors import ConfigError
from scalops.optimizer.costs.machine import ASSUMED, Rate
from scalops.profiles import STALE_SECONDS, Hardware

NOW = 2_000_000_000.0
DAY = 86_400.0
OWN = Hardware("Some Processor", 4, 16 << 30)
SOFTWARE = "scalops 1, numpy 2"
HOP = Rate("hop", 2e-4, "s", "", "measured", 0.125)
READ = Rate("read", 7e9, "bytes/s", "", "measured", 0.5)
KNOWN = {r.name: r for r in ASSUMED}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for profiles."""
    folder = tmp_path / "profiles"
    monkeypatch.setenv(profiles.FOLDER, str(folder))
    monkeypatch.setattr(profiles, "own_hardware", lambda: OWN)
    monkeypatch.setattr(profiles, "own_software", lambda: SOFTWARE)
    monkeypatch.setattr(profiles, "time", lambda: NOW)
    profiles.forget_cached()
    return folder


def test_stored_rates_are_found_again() -> None:
    profiles.store(OWN, SOFTWARE, [HOP, READ], NOW)
    machine = profiles.machine()
    assert (machine.cores, machine.memory, machine.measured_at) == (4, 16 << 30, NOW)
    assert machine.rates["hop"] == replace(HOP, about=KNOWN["hop"].about)
    assert machine["read"] == 7e9
    assert machine.rates["link"] == KNOWN["link"]
    assert machine.known("hop", "read") == "measured"
    assert machine.known("hop", "link") == "assumed"


def test_without_a_file_rates_are_assumed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "scalops"):
        machine = profiles.machine()
        assert profiles.machine() is machine
    assert dict(machine.rates) == KNOWN
    assert machine.measured_at is None
    assert caplog.messages == ["no rates of this machine are stored: they are assumed"]


def test_what_is_not_measured_again_stays() -> None:
    profiles.store(OWN, SOFTWARE, [HOP, READ], NOW - 9 * DAY)
    profiles.store(OWN, SOFTWARE, [replace(HOP, value=3e-4)], NOW)
    machine = profiles.machine()
    assert (machine["hop"], machine["read"]) == (3e-4, 7e9)
    assert machine.measured_at == NOW - 9 * DAY  # that of the oldest figure


def test_file_is_its_owners_alone_and_nothing_else_is_left(place: Path) -> None:
    path = profiles.store(OWN, SOFTWARE, [HOP], NOW)
    assert list(place.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_failed_write_leaves_the_file_that_was(
    monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    path = profiles.store(OWN, SOFTWARE, [HOP], NOW)
    before = path.read_bytes()

    def fail(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ConfigError, match="cannot be written: No space left on device"):
        profiles.store(OWN, SOFTWARE, [READ], NOW)
    assert path.read_bytes() == before
    assert list(place.iterdir()) == [path]


def test_processes_that_store_at_once_keep_all_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has read what is stored holds the others up until it has written."""
    load, rates = profiles.load, [replace(r, provenance="measured") for r in ASSUMED[:4]]
    meeting = threading.Barrier(len(rates))

    def met(hardware: Hardware, now: float | None = None) -> Any:
        found = load(hardware, now)
        with suppress(threading.BrokenBarrierError):
            meeting.wait(0.02)  # without the lock all come here with nothing found
        return found

    monkeypatch.setattr(profiles, "load", met)
    threads = [
        threading.Thread(target=profiles.store, args=(OWN, SOFTWARE, [rate], NOW)) for rate in rates
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = load(OWN, NOW)
    assert found is not None
    assert set(found.rates) == {r.name for r in rates}


def test_trial_of_the_folder_leaves_nothing(place: Path) -> None:
    profiles.require_writable(OWN)
    assert list(place.iterdir()) == []


# What makes a figure stale.


@pytest.mark.parametrize(
    ("age", "software", "stale"),
    [
        (0.0, SOFTWARE, False),
        (STALE_SECONDS, SOFTWARE, False),
        (STALE_SECONDS + 1, SOFTWARE, True),
        (0.0, "scalops 1, numpy 3", True),
    ],
)
def test_old_figures_and_those_of_other_versions_are_used_and_marked(
    age: float, software: str, stale: bool
) -> None:
    profiles.store(OWN, software, [HOP], NOW - age)
    machine = profiles.machine()
    assert machine["hop"] == 2e-4
    assert machine.rates["hop"].stale is stale
    assert machine.rates["hop"].provenance == "measured"
    assert not machine.rates["link"].stale


def test_figures_of_a_clock_that_was_ahead_do_not_count() -> None:
    profiles.store(OWN, SOFTWARE, [HOP], NOW + DAY)
    assert profiles.machine()["hop"] == KNOWN["hop"].value


# Files of no use.


def changed(path: Path, **changes: Any) -> None:
    """Rewrite fields of the stored document."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rate_changed(path: Path, **changes: Any) -> None:
    """Rewrite fields of the stored `hop`."""
    found = json.loads(path.read_text())
    found["rates"]["hop"].update(changes)
    path.write_text(json.dumps(found))


def hardware_changed(path: Path, **changes: Any) -> None:
    """Rewrite fields of the stored hardware."""
    changed(path, hardware={**json.loads(path.read_text())["hardware"], **changes})


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-30]), "it is damaged"),
        (lambda p: p.write_bytes(b""), "it is damaged"),
        (lambda p: p.write_bytes(b"\xff\xfe\x00"), "it is damaged"),
        (lambda p: p.write_bytes(b"[1]"), "it is damaged"),
        (lambda p: p.write_bytes(b"[" * 100_000), "it is damaged"),
        (lambda p: p.write_bytes(b" " * (1 << 21)), "it is damaged"),
        (lambda p: changed(p, rates=None), "it is damaged"),
        (lambda p: changed(p, rates={"hop": 3}), "it is damaged"),
        (lambda p: rate_changed(p, value=-1.0), "it is damaged"),
        (lambda p: rate_changed(p, value=True), "it is damaged"),
        (lambda p: rate_changed(p, value=float("nan")), "it is damaged"),
        (lambda p: rate_changed(p, at="yesterday"), "it is damaged"),
        (lambda p: rate_changed(p, color="red"), "it is damaged"),
        (lambda p: rate_changed(p, value=10**400), "it is damaged"),
        (lambda p: rate_changed(p, spread=10**400), "it is damaged"),
        (lambda p: rate_changed(p, at=10**400), "it is damaged"),
        (lambda p: hardware_changed(p, memory=float("inf")), "it is damaged"),
        (lambda p: hardware_changed(p, memory=10**400), "it is damaged"),
        (lambda p: hardware_changed(p, cores="4"), "it is damaged"),
        (lambda p: changed(p, format=2), "its format is 2, not 1"),
        (
            lambda p: changed(p, hardware=vars(Hardware("Another", 1, 1 << 30))),
            "it is of another machine, Another, 1 core, 1.0 GiB",
        ),
    ],
)
def test_file_of_no_use_is_told_of_in_one_line_and_renewed(
    damage: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = profiles.store(OWN, SOFTWARE, [HOP], NOW)
    damage(path)
    assert dict(profiles.machine().rates) == KNOWN
    (line,) = caplog.messages
    assert line == (f"{path} is not used, rates are assumed: {why}; scalops calibrate renews it")
    profiles.store(OWN, SOFTWARE, [READ], NOW)
    assert profiles.machine()["read"] == 7e9


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("hop", {"value": 5e-324}),
        ("hop", {"value": 1e308}),
        ("hop", {"spread": 1e308}),
        ("hop", {"at": -1e300}),
        ("read", {"value": 5e-324}),
        ("read", {"value": 10**300}),
    ],
)
def test_rates_that_no_machine_has_are_left_out_alone(
    name: str, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    path = profiles.store(OWN, SOFTWARE, [HOP, READ], NOW)
    found = json.loads(path.read_text())
    found["rates"][name].update(changes)
    path.write_text(json.dumps(found))
    rates = profiles.machine().rates
    assert rates[name] == KNOWN[name]
    assert [r.name for r in rates.values() if r.provenance == "measured"] == [
        n for n in ("read", "hop") if n != name
    ]
    assert caplog.messages == [f"the stored {name} is not used: its value or its time cannot be"]


def test_rates_that_this_version_has_not_are_left_out() -> None:
    path = profiles.store(OWN, SOFTWARE, [HOP, READ], NOW)
    found = json.loads(path.read_text())
    found["rates"]["warp"] = found["rates"]["hop"]
    found["rates"]["read"]["unit"] = "pages/s"
    path.write_text(json.dumps(found))
    machine = profiles.machine()
    assert machine["hop"] == 2e-4
    assert "warp" not in machine.rates
    assert machine.rates["read"] == KNOWN["read"]


def test_folder_that_is_none_is_a_log_line_and_an_error_when_written(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place.write_text("a file")
    assert dict(profiles.machine().rates) == KNOWN
    assert "is not used: Not a directory" in caplog.text
    with pytest.raises(ConfigError, match="SCALOPS_PROFILES names another folder"):
        profiles.store(OWN, SOFTWARE, [HOP], NOW)


# Machines and places.


def test_machines_have_files_of_their_own() -> None:
    others = [
        replace(OWN, processor="Another"),
        replace(OWN, cores=2),
        replace(OWN, memory=8 << 30),
    ]
    assert len({profiles.path_of(h) for h in [OWN, *others]}) == 4
    # A kernel may keep a little more of the same memory.
    assert profiles.path_of(replace(OWN, memory=OWN.memory - (1 << 20))) == profiles.path_of(OWN)


def test_folder_is_that_of_the_variable_then_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    monkeypatch.setenv(profiles.FOLDER, "~/rates")
    assert profiles.folder() == Path("/home/ada/rates")
    monkeypatch.setenv(profiles.FOLDER, "")
    assert profiles.folder() == Path("/caches/scalops")
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert profiles.folder() == Path("/home/ada/.cache/scalops")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert profiles.folder() == Path("/home/ada/.cache/scalops")


@pytest.mark.parametrize("given", ["", "~/rates", "~nobody-of-this-name/rates"])
def test_user_without_a_home_has_no_folder(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(profiles.FOLDER, given)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where there is no entry
    assert profiles.folder() is None
    assert dict(profiles.machine().rates) == KNOWN
    assert profiles.forget(OWN) is None
    for call in (profiles.require_writable, lambda own: profiles.store(own, SOFTWARE, [HOP])):
        with pytest.raises(ConfigError, match=r"no home folder; set SCALOPS_PROFILES"):
            call(OWN)


def test_forgotten_rates_are_assumed_again(place: Path) -> None:
    path = profiles.store(OWN, SOFTWARE, [HOP], NOW)
    assert profiles.machine()["hop"] == 2e-4
    assert profiles.forget(OWN) == path
    assert profiles.forget(OWN) is None
    assert list(place.iterdir()) == []
    assert profiles.machine()["hop"] == KNOWN["hop"].value


def test_this_machine_has_a_name_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    own = profiles.own_hardware()
    assert own.cores == len(os.sched_getaffinity(0))
    assert own.processor
    assert own.memory > 1 << 20
    software = profiles.own_software()
    for part in ("scalops ", "numpy ", "python "):
        assert part in software

"""Medians and spreads of samples, and that each probe measures what it says it does."""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from scalops.algebra.errors import ConfigError, ExecutionError
from scalops.engine.calibration import disk, memory, runner
from scalops.engine.calibration.measurement import (
    Effort,
    Measured,
    Outcome,
    Probe,
    Unmeasured,
    rate,
    rate_of_difference,
    seconds_of,
    summary,
)
from scalops.optimizer.costs.machine import ASSUMED

TINY = Effort(repetitions=2, least=2, seconds=1e-4, scale=1e-3)
# Starting processes takes longer than a test may.
SLOW = {"process_start", "worker_start"}
UNITS = {r.name: r.unit for r in ASSUMED}


def measured(outcome: Outcome) -> Measured:
    """The outcome, which must be a measurement."""
    assert isinstance(outcome, Measured)
    return outcome


# Samples.


def test_value_is_the_median_and_spread_half_the_quartiles_distance_by_it() -> None:
    samples = [9.0, 1.0, 5.0, 3.0, 7.0]
    found = measured(summary("hop", "s", samples))
    assert found == Measured("hop", median(samples), "s", (7 - 3) / 2 / 5, 5)


def test_rate_of_times_has_the_spread_of_rates() -> None:
    found = measured(rate("read", "bytes/s", 12.0, [1.0, 2.0, 3.0]))
    assert found.value == 6.0
    assert found.spread == pytest.approx(((12 + 6) / 2 - (6 + 4) / 2) / 2 / 6)


@pytest.mark.parametrize(
    "samples", [[], [math.nan], [1.0, math.inf, 2.0], [0.0, 0.0], [1.0, 1.0, 1.0, 9.0, 9.0]]
)
def test_samples_that_make_no_sense_are_no_measurement(samples: list[float]) -> None:
    assert isinstance(summary("hop", "s", samples), Unmeasured)


def test_what_small_and_large_have_in_common_drops_out() -> None:
    small, large = [1.0, 1.0, 1.0], [3.0, 3.5, 2.5]
    found = measured(rate_of_difference("link", "bytes/s", 10.0, small, large))
    assert found.value == 10.0 / 2.0
    assert found.spread == pytest.approx(0.25 / 2)


def test_large_that_takes_no_longer_is_no_measurement() -> None:
    assert isinstance(rate_of_difference("link", "bytes/s", 1.0, [2.0], [1.5]), Unmeasured)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that have passed, for `seconds_of`."""
    now = [0.0]
    monkeypatch.setattr("scalops.engine.calibration.measurement.perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds", "samples", "calls"),
    [
        (0.001, 8, 10),  # ten calls of a millisecond in each sample
        (0.02, 4, 1),  # as many as take together as long as wanted
        (5.0, 3, 1),  # never fewer than the least
    ],
)
def test_calls_of_a_sample_and_samples_follow_from_a_calls_time(
    clock: list[float], seconds: float, samples: int, calls: int
) -> None:
    count = 0

    def call() -> None:
        nonlocal count
        count += 1
        clock[0] += seconds

    found = seconds_of(call, Effort(repetitions=8, least=3, seconds=0.01))
    assert found == pytest.approx([seconds] * samples)
    assert count == 2 + samples * calls  # the first two do not count


# Probes.


def test_every_rate_has_one_probe() -> None:
    names = [name for probe in runner.PROBES for name in probe.rates]
    assert sorted(names) == sorted(UNITS)


@pytest.mark.parametrize(
    "probe",
    [
        pytest.param(p, id=p.rates[0], marks=pytest.mark.long if SLOW & {*p.rates} else ())
        for p in runner.PROBES
    ],
)
def test_probe_measures_its_rates(probe: Probe) -> None:
    found = runner.measure([probe], TINY)
    assert {o.name for o in found} == set(probe.rates)
    for outcome in found:
        # Tiny sizes may be lost in noise, and a disk may be none: but only where that may be so.
        if isinstance(outcome, Unmeasured):
            assert outcome.name in {*MAY_BE_LOST, *disk.PROBES[0].rates}, outcome.reason
            continue
        assert outcome.unit == UNITS[outcome.name]
        assert outcome.value > 0
        assert math.isfinite(outcome.value)
        assert outcome.spread >= 0
        assert outcome.samples >= 1


# Differences of two times.
MAY_BE_LOST = ("element", "call", "transcendental", "lock", "link")


def test_disk_in_memory_is_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "preadv", lambda *given: 4096)  # at once: it is in memory
    found = runner.measure(disk.PROBES, TINY)
    assert [o.name for o in found] == ["disk_write", "disk_read"]
    assert all(isinstance(o, Unmeasured) and "in memory; TMPDIR" in o.reason for o in found)


def test_disk_probe_leaves_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def fail(*given: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(disk, "_read", fail)
    monkeypatch.setattr(disk, "_out_of_memory", lambda *given: True)
    with pytest.raises(KeyboardInterrupt):
        runner.measure(disk.PROBES, TINY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("cache", "free", "bytes_"),
    [
        (32 << 20, 64 << 30, 128 << 20),  # four times the cache
        (0, 64 << 30, 64 << 20),  # a system that does not tell
        (1 << 30, 64 << 30, 512 << 20),
        (32 << 20, 1 << 30, 64 << 20),  # little is free
    ],
)
def test_far_memory_is_in_no_cache_and_takes_little(
    monkeypatch: pytest.MonkeyPatch, cache: int, free: int, bytes_: int
) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: cache)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("M", (), {"available": free}))
    assert memory.far_bytes() == bytes_


# The runner.


def fails(error: BaseException) -> Probe:
    """A probe of two rates that fails after the first one."""

    def measure(effort: Effort) -> Iterator[Outcome]:
        yield Measured("hop", 1.0, "s", 0.0, 1)
        raise error

    return Probe("links", ("hop", "link"), measure)


@pytest.mark.parametrize(
    "error", [OSError(28, "no space left"), EOFError("gone"), ExecutionError("no worker")]
)
def test_what_fails_is_the_reason_for_rates_that_it_did_not_come_to(error: Exception) -> None:
    good = Probe("memory", ("read",), lambda effort: [Measured("read", 2.0, "bytes/s", 0.0, 1)])
    first, second, third = runner.measure([fails(error), good], TINY)
    assert isinstance(first, Measured)
    assert isinstance(second, Unmeasured)
    assert (second.name, second.reason) == ("link", f"{type(error).__name__}: {error}")
    assert isinstance(third, Measured)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError("a bug")])
def test_interrupts_and_bugs_are_no_reasons(error: BaseException) -> None:
    with pytest.raises(type(error)):
        runner.measure([fails(error)], TINY)


def test_watch_is_told_of_each_probe() -> None:
    seen: list[Any] = []
    probes = [Probe("memory", (), lambda effort: ()), Probe("disk", (), lambda effort: ())]
    runner.measure(probes, TINY, lambda number, count, probe: seen.append((number, count, probe)))
    assert seen == [(0, 2, probes[0]), (1, 2, probes[1])]


def test_probes_are_chosen_by_kind_or_rate() -> None:
    assert runner.chosen() == list(runner.PROBES)
    assert {p.kind for p in runner.chosen(["links", "disk"])} == {"links", "disk"}
    (one,) = runner.chosen(["probe"])
    assert one.rates == ("build", "probe")  # which are measured together
    with pytest.raises(ConfigError, match="nothing to measure that is called 'speed'"):
        runner.chosen(["disk", "speed"])


# A worker's programs: each rank's are answered by the other's.


def test_link_programs_answer_each_other() -> None:
    from scalops.engine.calibration.link_worker import _PROGRAMS
    from scalops.engine.collective import Ranks
    from tests.cluster.lockstep import together

    pings = together([_PROGRAMS["ping"](Ranks(r, 2), [3, 8]) for r in range(2)])
    assert len(pings[0].header) == 3
    assert all(s > 0 for s in pings[0].header)
    heard = together([_PROGRAMS["hear"](Ranks(r, 2), [4]) for r in range(2)])
    assert np.isfinite(heard[0].header)


def test_documentation_says_what_each_rate_is() -> None:
    text = (Path(__file__).parents[2] / "docs" / "calibration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \|", text, re.MULTILINE)
    assert dict(rows) == UNITS

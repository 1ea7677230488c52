"""Short runs of a job: what they measure, and that nobody sees them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops import sampled_runs
from scalops.algebra.operators import Job
from scalops.optimizer.costs.program_rates import ProgramRates
from scalops.options import Options
from scalops.sampled_runs import sampled_rates
from scalops.session import current_session
from tests.cluster.simulated import Simulation

ROWS = 400_000
OPTIONS = Options(processes=0, memory=1 << 30)


def numbers(rows: int = ROWS) -> so.Table:
    """A table of some partitions."""
    return so.table({"x": np.random.default_rng(3).random(rows)})


def halving(table: so.Table, condition: Any = range(1000)) -> Any:
    """A loop over it that converges after a while."""
    return so.loop(1.0, condition)(lambda s: s / 2 + table.sum(lambda r: np.cos(r.x + s)) / ROWS)


def rates(*loops: Any, workers: Any = None, counts: Any = (1, 2)) -> ProgramRates:
    """Their rates, by little work."""
    job = Job(tuple(loop.loop_plan for loop in loops))
    return sampled_rates(job, OPTIONS, workers, most_seconds=0.3, counts=counts)


def test_rows_are_those_of_the_samples_and_of_the_whole() -> None:
    found = rates(halving(numbers()))
    assert found.reason == ""
    assert found.records == ROWS
    (loop,) = found.loops.values()
    (stage,) = loop.stages
    sizes = [x for x, _ in stage.by_threads[1].points]
    assert len(sizes) >= 1
    # Whole partitions, about half of them at most.
    assert all(0 < x <= ROWS / 2 + 65_536 and x % 65_536 in (0, ROWS % 65_536) for x in sizes)
    assert found.rows(ROWS)[stage.stage] == pytest.approx(ROWS)
    assert found.stage_seconds(stage.stage, ROWS, 1).seconds > 0  # type: ignore[union-attr]


def test_an_inner_loop_counts_in_the_outer_one() -> None:
    table = numbers()
    inner = so.loop(1.0, range(3))(
        lambda s: so.loop(s, range(2))(lambda t: t / 2 + table.sum(lambda r: r.x * t) / ROWS)
    )
    found = rates(inner)
    (loop,) = found.loops.values()
    assert [s.runs for s in loop.stages] == [2.0]


def test_nobody_sees_the_runs(caplog: pytest.LogCaptureFixture) -> None:
    table = numbers().cache()
    loop = so.loop(1.0, lambda s: s > 0, max_iterations=3)(
        lambda s: s / 2 + table.sum(lambda r: np.cos(r.x + s)) / ROWS
    )
    heard: list[str] = []

    class Log:
        def emit(self, kind: str, **fields: Any) -> None:
            heard.append(kind)

    session = current_session()
    before, session.events = session.events, Log()
    try:
        with caplog.at_level(logging.WARNING, "scalops"):
            found = rates(loop)
        assert found.loops
        assert heard == []
        assert caplog.text == ""
        assert session._tables.bytes == 0
    finally:
        session.events = before


def test_a_sample_that_fails_gives_the_reason_and_no_rates() -> None:
    table = numbers()
    loop = so.loop(1.0, range(9))(lambda s: s + np.log(table.sum(lambda r: r.x) * 0.0 - 1.0))
    found = rates(loop)
    assert not found.loops
    assert "NaN" in found.reason


def test_a_loop_that_does_not_end_on_a_sample_is_given_up() -> None:
    table = numbers()

    def until_all(s: Any) -> Any:
        few = lambda c: c < ROWS  # noqa: E731  # one iteration over all records
        return so.loop(0.0, few)(lambda c: table.filter(lambda r: r.x >= s - 1).count() * 1.0)

    job = Job((so.loop(0.0, range(3))(lambda s: s * 0 + until_all(s) * 1e-9).loop_plan,))
    found = sampled_rates(job, OPTIONS, most_seconds=0.02)
    assert not found.loops
    assert "the loops inside of an iteration have not ended in 0.06 s" in found.reason


def test_an_empty_table_gives_no_rates() -> None:
    found = rates(halving(numbers(0)))
    assert (found.loops, found.reason) == ({}, "the largest table, memory, has no records")
    with pytest.raises(so.ConfigError, match="the largest table, memory, has no records"):
        so.whatif(halving(numbers(0)))


def test_what_has_no_loop_or_no_table_has_no_rates() -> None:
    table = numbers(10)
    job = Job((table.sum("x").expression,))
    assert sampled_rates(job, OPTIONS).reason == "the job has no loop"
    nothing = so.loop(1.0, range(3))(lambda s: s / 2)
    assert rates(nothing).reason == "the job reads no table"


def test_bad_records_are_told_of_by_the_real_run_alone(tmp_path: Path) -> None:
    lines = [f"{i},{i % 7}" if i % 1000 else "bad,bad" for i in range(1, 120_000)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b", *lines]))
    table = so.read_csv(
        str(tmp_path / "t.csv"), column_types={"a": "int64", "b": "int64"}, on_error="skip"
    )
    found = rates(so.loop(0.0, range(3))(lambda s: s / 2 + table.mean("b")))
    assert found.loops
    assert table.plan.source.bad_records() is None  # type: ignore[attr-defined]


def test_caches_of_samples_have_room_whatever_the_session_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "t.parquet")
    numbers().write_parquet(path)
    table = so.read_parquet(path)
    job = Job((halving(table, range(9)).loop_plan,))
    scarce = replace(OPTIONS, memory=1000)
    found = sampled_rates(job, scarce, most_seconds=0.3)
    assert (found.reason, found.held_bytes) == ("", 8.0)
    monkeypatch.setattr(sampled_runs, "MEMORY", 0)
    found = sampled_rates(job, scarce, most_seconds=0.3)
    assert not found.loops
    assert "find no room in the caches" in found.reason


def test_runs_on_workers_are_told_apart_by_their_number() -> None:
    with Simulation(2) as simulation:
        table = numbers()
        simulation.run(_plan(table))  # they have joined
        options = replace(OPTIONS, workers=2, threads=1)
        job = Job((halving(table).loop_plan,))
        found = sampled_rates(job, options, simulation.workers, most_seconds=0.3)
    (loop,) = found.loops.values()
    assert set(loop.on_workers) == {(1, 1), (2, 1)}
    assert all(x <= ROWS / 2 for c in loop.on_workers.values() for x, _ in c.points)


def _plan(table: so.Table) -> Any:
    from scalops.planning import plan

    return plan(Job((table.sum("x").expression,)), False)


def test_loops_of_one_pass_are_each_measured() -> None:
    table = numbers()
    loops = [
        so.loop(float(i), range(100))(lambda s: s / 2 + table.sum(lambda r: r.x + s) / ROWS)
        for i in (1, 2)
    ]
    found = rates(*loops)
    assert sorted(found.loops) == [0, 1]
    assert all(loop.stages and loop.update.seconds >= 0 for loop in found.loops.values())

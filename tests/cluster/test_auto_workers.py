"""`workers="auto"`: the cost model chooses where a plan runs, this process included."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops import clusters, deciding
from scalops.deciding import decide, settings
from scalops.engine.neutral import Neutral
from scalops.optimizer.costs.choice import Choice
from scalops.optimizer.costs.machine import Machine, Rate
from scalops.options import Options
from scalops.planning import plan
from tests.cluster.simulated import simulated_sessions
from tests.cluster.simulation import SimulatedHub
from tests.engine.plans import job_of

SESSION = vars(importlib.import_module("scalops.session"))
EXPLAIN = vars(importlib.import_module("scalops.explain"))


def machine(**rates: float) -> Machine:
    """A machine of four cores with these rates, as if they were measured."""
    assumed = Machine.of(4, 1 << 34)
    made = [
        Rate(n, v, assumed.rates[n].unit, assumed.rates[n].about, "measured", 0.0)
        for n, v in rates.items()
    ]
    return Machine.of(4, 1 << 34, made)


# Threads get in each other's way, and workers are there at once.
FOR_WORKERS = {"lock": 1e-2, "worker_start": 1e-6, "command": 1e-6, "hop": 1e-6, "message": 1e-7}


def summed(rows: int = 40_000, iterations: int = 50) -> Any:
    """A loop over a table of a few partitions."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(rows, 8))
    t = so.table({"x": x})

    @so.loop(np.zeros(8), range(iterations))
    def loop(w: Any) -> Any:
        return 0.9 * w + t.map(lambda r: np.tanh(r.x) * np.exp(-((r.x @ w) ** 2))).sum() / rows

    return loop


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "cores", lambda: 4)
    monkeypatch.setattr("scalops.deciding.cores", lambda: 4)


@pytest.fixture
def hubs() -> Iterator[list[SimulatedHub]]:
    """Those of sessions that had workers."""
    made: list[SimulatedHub] = []

    def hub() -> SimulatedHub:
        made.append(SimulatedHub(1))
        return made[-1]

    with simulated_sessions(hub):
        yield made


def use(monkeypatch: pytest.MonkeyPatch, made: Machine) -> None:
    """Let sessions and explain have a machine of these rates."""
    for module in (SESSION, EXPLAIN):
        monkeypatch.setitem(module, "machine", lambda: made)


@pytest.mark.usefixtures("four_cores")
def test_small_programs_stay_in_this_process(
    hubs: list[SimulatedHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, machine())
    with so.session(workers="auto") as session:
        so.collect(so.table({"x": [1.0, 2.0]}).sum("x"))
        summed(1000, 3).collect()
        assert session.attached is None
    assert hubs == []


@pytest.mark.usefixtures("four_cores")
def test_workers_are_started_for_a_plan_that_they_are_worth(
    hubs: list[SimulatedHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = summed().collect()
    with so.session(workers="auto") as session:
        use(monkeypatch, machine())
        assert so.collect(so.table({"x": [1.0, 2.0]}).sum("x")) == 3.0
        assert hubs == []
        use(monkeypatch, machine(**FOR_WORKERS))
        found = summed().collect()
        assert len(hubs) == 1
        assert (session.attached or 0) > 1
        text = summed().explain(stage="physical")
        assert "· decided" in text
        assert "workers: " in text
        assert so.collect(so.table({"x": [3.0, 4.0]}).sum("x")) == 7.0
    assert found.tobytes() == expected.tobytes()


def test_the_objective_is_seconds_or_seconds_times_machines() -> None:
    physical = plan(job_of(summed(200_000)))
    quick = machine(**{**FOR_WORKERS, "lock": 0.0})

    def chosen(objective: str) -> Choice:
        made = decide(
            physical,
            Options(connect="tcp://h:1", workers="auto", objective=objective),
            quick,
            attached=4,
        )
        assert made.choice is not None
        return made.choice

    by_time, by_cost = chosen("time"), chosen("cost")
    times = {s.workers: t for s, t in by_time.others}
    assert set(times) == {0, 1, 2, 3, 4}
    assert by_time.seconds == min(times.values())
    assert by_time.setting.workers > 1
    assert by_cost.setting.workers <= 1
    assert by_cost.seconds == min(max(1, n) * t for n, t in times.items())
    assert "workers, by cost: " in str(by_cost.decisions[0])
    # Those of one machine are paid for once.
    here = decide(physical, Options(workers="auto", objective="cost"), quick).choice
    assert here is not None
    assert here.seconds == min(t for _, t in here.others)


@pytest.mark.parametrize(("options", "workers"), [({"workers": "auto"}, 0), ({"workers": 3}, 3)])
def test_a_plan_runs_even_where_the_cost_model_fails(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], workers: int
) -> None:
    def fails(_: Any) -> Any:
        raise KeyError("j")

    expected = summed().collect()
    monkeypatch.setattr(deciding, "plan_work", fails)
    physical = plan(job_of(summed()))
    with pytest.warns(RuntimeWarning, match=r"failed \(KeyError: 'j'\): the plan runs"):
        made = deciding.decide_to_run(physical, Options(**options, fan_in=2), machine())
    assert made.neutral == Neutral(workers, (2,) if workers else ())
    if not workers:
        with so.session(**options), pytest.warns(RuntimeWarning):
            assert summed().collect().tobytes() == expected.tobytes()
    with pytest.raises(KeyError):  # for explain nothing is hidden
        decide(physical, Options(**options), machine())


def test_links_measured_on_this_machine_are_not_those_of_a_cluster() -> None:
    physical, quick = plan(job_of(summed())), machine(**FOR_WORKERS)
    here = decide(physical, Options(workers=4), quick).meeting
    there = decide(physical, Options(connect="tcp://h:1"), quick, attached=4).meeting
    assert here is not None
    assert there is not None
    assert (here.links.hop, there.links.hop) == (1e-6, Machine.of(1, 1)["hop"])
    assert there.links.provenance == "assumed"


@pytest.mark.usefixtures("four_cores")
def test_what_may_be_chosen_follows_from_the_options() -> None:
    def counts(attached: int | None = None, **options: Any) -> list[int]:
        return [s.workers for s in settings(Options(**options), attached)]

    assert counts() == [0]
    assert counts(workers=3) == [3]
    assert counts(workers="auto") == [0, 1, 2, 3, 4]
    assert counts(connect="tcp://h:1", attached=3) == [3]
    assert counts(connect="tcp://h:1", workers="auto", attached=3) == [0, 1, 2, 3]
    many = counts(connect="tcp://h:1", workers="auto", attached=1000)
    assert (many[0], many[-1]) == (0, 1000)
    assert len(many) < 50


def test_auto_goes_with_a_cluster_and_inside_another_session() -> None:
    with so.session(workers="auto"):
        assert so.config()["workers"] == "auto"
        with so.session(workers=0):
            assert so.config()["workers"] == 0
    with so.session("ipc:///no/broker", workers="auto"):
        assert (so.config()["workers"], so.config()["connect"]) == ("auto", "ipc:///no/broker")
    with pytest.raises(so.ConfigError, match="expected an int of at least 0"):
        so.session(workers="many")


@pytest.mark.usefixtures("four_cores")
def test_a_kept_table_that_lies_with_workers_is_made_again_here(
    hubs: list[SimulatedHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = so.table({"x": np.arange(50_000.0)}).map(lambda r: np.sqrt(r.x)).cache()
    with so.session(workers="auto"):
        use(monkeypatch, machine(**FOR_WORKERS, stage=10.0))
        first = so.collect(kept.sum())
        assert len(hubs) == 1
        use(monkeypatch, machine())
        second = so.collect(kept.map(lambda v: v * 1.0).sum())
    assert first == second

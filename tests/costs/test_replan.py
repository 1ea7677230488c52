"""Neutral decisions made again in a running loop, from what was measured of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.deciding import Decided, decide, replan_or_go_on
from scalops.engine.neutral import Change, HeldPart, Measurements
from scalops.optimizer.costs.choice import Choice, runs_of
from scalops.optimizer.costs.machine import Machine
from scalops.optimizer.costs.plan_work import plan_work
from scalops.optimizer.replan import WORSE, Replanner
from scalops.options import Options
from scalops.planning import plan
from tests.cluster.simulated import plan_of
from tests.engine.plans import job_of

MACHINE = Machine.of(4, 1 << 34)


def decided(workers: int, **more: Any) -> Decided:
    """What is decided for a loop with one small reduction."""
    t = so.table({"x": np.ones((100, 3))})
    loop = so.loop(np.zeros(3), range(50))(lambda w: w + t.map(lambda r: r.x * w).sum())
    return decide(plan(job_of(loop)), Options(workers=workers, **more), MACHINE)


def replanner(made: Decided, **more: Any) -> Replanner:
    assert made.choice is not None
    return Replanner(made.choice, made.reads, **more)


def test_partials_larger_than_thought_get_another_tree() -> None:
    made = decided(10)
    (one,) = made.reductions
    again = replanner(made)
    seen = Measurements(1, {one.stage: 0.8}, {one.stage: 50e6})
    change = again(seen)
    assert change is not None
    assert change.fan_ins[0] == 2
    assert change.at_driver == frozenset()
    (why,) = change.why
    assert why.startswith(f"after iteration 1: partials of stage {one.stage} have 50 MB, not 24 B")
    assert again(replace(seen, iteration=3)) is None  # it is the best now


def test_where_thinking_again_fails_the_loop_goes_on() -> None:
    calls: list[int] = []

    def fails(seen: Measurements) -> Change | None:
        calls.append(seen.iteration)
        raise ZeroDivisionError("division by zero")

    again = replan_or_go_on(fails)
    with pytest.warns(RuntimeWarning, match="the plan goes on as it is"):
        assert again(Measurements(1, {})) is None
    assert again(Measurements(3, {})) is None
    assert calls == [1]


def test_a_plan_that_is_little_worse_stays() -> None:
    made = decided(10)
    (one,) = made.reductions
    seconds = 1000.0  # of an iteration, that another tree would hardly shorten
    assert replanner(made)(Measurements(1, {one.stage: seconds}, {one.stage: 50e6})) is None
    as_thought = Measurements(1, {one.stage: 1e-3}, {one.stage: one.partial_bytes})
    assert replanner(made)(as_thought) is None
    assert replanner(made)(Measurements(1, {one.stage: 1.0})) is None


def test_a_tree_that_was_asked_for_stays() -> None:
    made = decided(24, fan_in=24)
    (one,) = made.reductions
    seen = Measurements(1, {one.stage: 0.8}, {one.stage: 50e6})
    assert replanner(made, fan_in=24)(seen) is None


def test_what_the_driver_once_heard_of_a_stage_is_not_forgotten() -> None:
    made = decided(10)
    (one,) = made.reductions
    again = replanner(made)
    assert again(Measurements(1, {one.stage: 0.8}, {one.stage: 50e6})) is not None
    assert again(Measurements(3, {one.stage: 0.8}, {one.stage: 8.0})) is None


def of_two_caches() -> Choice:
    made = decided(2)
    assert made.choice is not None
    return made.choice


@pytest.mark.parametrize(("first", "second"), [(0.1, 8.0), (8.0, 0.1)])
def test_memory_goes_to_the_cache_that_took_longer_to_make(first: float, second: float) -> None:
    again = Replanner(of_two_caches(), {1: 1.0, 2: 1.0})
    caches = {1: HeldPart(10e6, 20e6, first), 2: HeldPart(10e6, 20e6, second)}
    iteration = (first + second) / 2 + 0.1
    change = again(Measurements(1, {0: iteration}, {}, caches))
    assert change is not None
    assert change.held == ({1: 0, 2: 10_000_000} if second > first else {1: 10_000_000, 2: 0})
    assert "of t1" in change.why[0]


def test_caches_that_fit_or_are_held_well_stay() -> None:
    again = Replanner(of_two_caches(), {1: 1.0, 2: 1.0})
    fit = {1: HeldPart(20e6, 20e6, 0.1), 2: HeldPart(20e6, 20e6, 8.0)}
    assert again(Measurements(1, {0: 1.0}, {}, fit)) is None
    well = {1: HeldPart(0, 20e6, 0.1), 2: HeldPart(20e6, 20e6, 8.0)}
    assert again(Measurements(1, {0: 1.0}, {}, well)) is None
    saved = {1: HeldPart(10e6, 20e6, 1.0), 2: HeldPart(10e6, 20e6, 2.0)}
    # 0.5 s of an iteration could be saved: too little of 1.6 s, enough of 1.4 s.
    assert 1.6 / 1.1 < WORSE < 1.4 / 0.9
    assert again(Measurements(1, {0: 1.6}, {}, saved)) is None
    assert again(Measurements(1, {0: 1.4}, {}, saved)) is not None


def two_tables(rows: int = 40_000) -> Any:
    """A loop over two computed tables: the first is cheap to make, the second is not."""
    rng = np.random.default_rng(3)
    a = so.table({"x": rng.normal(size=(rows, 8))}).with_columns(x=lambda r: r.x + 1)
    b = so.table({"x": rng.normal(size=(rows, 8))})
    for _ in range(4):
        b = b.with_columns(x=lambda r: np.log1p(np.exp(np.tanh(r.x))))

    @so.loop({"s": 0.0, "t": 0.0}, range(30))
    def both(env: Any) -> Any:
        return {
            "s": a.map(lambda r: (r.x * env["t"]).sum()).sum() / rows,
            "t": 1 + b.map(lambda r: (r.x * env["s"]).sum()).sum() / rows,
        }

    return both


def test_of_two_caches_the_dear_one_is_held_where_memory_is_short() -> None:
    loop = two_tables()
    physical = plan_of(loop)
    memory = 3_000_000  # one of them, and a little
    made = decide(physical, Options(memory=memory, threads=2), MACHINE)
    work = plan_work(physical)
    dear = max(
        (s for s in work.stages.values() if s.is_cache),
        key=lambda s: sum(o.transcendentals for o in s.operators),
    )
    assert dear.makes is not None
    held = made.neutral.held
    assert held[dear.makes] == pytest.approx(dear.held_bytes, rel=1e-6)
    assert sum(held.values()) <= memory
    assert "caches, 5.12 MB for 2.81 MB" in str(made.decisions[0])
    runs = runs_of(work)
    assert max(runs.values()) == 30
    with so.session(memory=memory):
        found = loop.collect()
    with so.session():
        assert two_tables().collect() == found

"""Neutral decisions that are changed while a loop runs: the bits stay those of one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.engine.blas import single_threaded
from scalops.engine.cached_table import CachedTable
from scalops.engine.cluster.going_back import run_again
from scalops.engine.cluster.job_settings import JobSettings
from scalops.engine.collective import Ranks, tree_steps
from scalops.engine.driver import Driver
from scalops.engine.loop_runner import LoopControl
from scalops.engine.memory import MemoryBudget
from scalops.engine.neutral import Change, Measurements, Neutral
from scalops.engine.physical_plan import CacheTable, PhysicalPlan, TreeAggregate
from tests.cluster.simulated import Simulation, blows_at, plan_of
from tests.engine.plans import Backend, bits

Replanned = Callable[[Measurements], Change | None]


def descent(iterations: int = 20) -> PhysicalPlan:
    """A loop that folds a cached table of several partitions."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(14000, 24))
    raw = so.table({"x": x, "y": np.sign(x @ rng.normal(size=24))})
    xy = raw.with_columns(x=lambda r: np.log1p(np.abs(r.x)))  # computed once, and cached

    @so.loop({"w": np.zeros(24), "loss": 0.0}, range(iterations))
    def model(env: Any) -> Any:
        def margin(r: Any) -> Any:
            return r.y * (r.x @ env["w"])

        gradient = xy.map(lambda r: r.y * r.x / (1 + np.exp(margin(r)))).sum()
        env["loss"] = xy.map(lambda r: np.log1p(np.exp(-margin(r)))).sum()
        env["w"] = env["w"] + 0.1 * gradient / xy.count()
        return env

    return plan_of(model)


def changing(plan: PhysicalPlan) -> tuple[Replanned, list[Change]]:
    """Another tree, other ways to meet and other shares of the memory each time it is asked."""
    caches = [s.sink.number for s in plan.stages if isinstance(s.sink, CacheTable)]
    folds = frozenset(s.number for s in plan.stages if isinstance(s.sink, TreeAggregate))
    made: list[Change] = []
    changes: Iterator[Change] = iter(
        [
            Change(fan_ins=(2, 3), held={c: 2_000_000 for c in caches}),
            Change(at_driver=folds),
            Change(fan_ins=(5,), at_driver=frozenset(), held={c: 10 for c in caches}),
            Change(fan_ins=(3, 2), held={c: 10**9 for c in caches}),
        ]
    )

    def again(measurements: Measurements) -> Change | None:
        assert measurements.stage_seconds
        made.append(next(changes))
        return made[-1]

    return again, made


def in_process(plan: PhysicalPlan, replan: Replanned | None = None) -> Any:
    with single_threaded():
        return bits(Driver(plan, Backend(1, None, False), None, replan).run())


@pytest.mark.parametrize(
    ("size", "kills"), [(2, "none"), (5, "none"), (7, "two"), (3, "two"), (4, "all")]
)
def test_changes_between_iterations_keep_the_bits(size: int, kills: str) -> None:
    plan = descent()
    with Simulation(size, seed=size, trouble=blows_at(size, kills)) as made:
        replan, done = changing(plan)
        settings = JobSettings(Neutral(size, (4,)))

        def once(own: LoopControl | None) -> list[Any]:
            backend = made.workers.backend(settings)
            return Driver(plan, backend, None, replan, own).run()

        with single_threaded():
            found = run_again(once, None)
    assert len(done) == 4
    assert bits(found) == in_process(plan)


def test_an_embedded_cache_gives_memory_back_and_takes_it_again() -> None:
    plan = descent()
    budget = MemoryBudget(None)
    backend = Backend(1, budget, False)
    held: list[int] = []
    last: list[Any] = []

    def watch(measurements: Measurements) -> Change | None:
        last[:] = backend._share.runtime.tables.values()
        held.append(sum(t.info().cached for t in last if isinstance(t, CachedTable)))
        return again(measurements)

    again, _ = changing(plan)
    with single_threaded():
        found = bits(Driver(plan, backend, None, watch).run())
    assert found == in_process(plan)
    all_of_them, some, same, none = held  # each before the next change
    assert all_of_them > some == same > none == 0
    (table,) = [t for t in last if isinstance(t, CachedTable)]
    assert table.info().cached == all_of_them


@pytest.mark.parametrize("fan_ins", [(2, 3, 2), (5, 2), (3, 4), (16,), (2,)])
@pytest.mark.parametrize("size", [1, 2, 6, 10, 13])
def test_a_tree_of_several_fan_ins_reaches_every_rank_once(
    size: int, fan_ins: tuple[int, ...]
) -> None:
    ranks = [Ranks(i, size) for i in range(size)]
    for rank in ranks:
        assert rank.parent is None or rank.own  # what was known of another tree is forgotten
        rank.meet_along(fan_ins)
    children = [c for r in ranks for c in r.children]
    assert sorted(children) == list(range(1, size))
    assert all(ranks[c].parent == r.own for r in ranks for c in r.children)
    steps = tree_steps(size, fan_ins)
    assert all(len(r.children) <= sum(b // a - 1 for a, b in steps) for r in ranks)

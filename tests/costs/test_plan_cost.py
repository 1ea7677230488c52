"""Seconds and bytes of plans: what grows with what, and against sums by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import scalops as so
from scalops.engine.neutral import Neutral
from scalops.optimizer.costs.curves import Curve, Measured
from scalops.optimizer.costs.machine import ASSUMED, Machine, Rate
from scalops.optimizer.costs.memory import LEFT_SHARE, held
from scalops.optimizer.costs.plan_cost import PlanCost, Times, plan_cost
from scalops.optimizer.costs.plan_work import OperatorWork, PlanWork, StageWork, plan_work
from scalops.optimizer.costs.program_rates import LoopRates, ProgramRates, StageRates
from scalops.optimizer.costs.setting import Setting
from scalops.optimizer.costs.stage_cost import copies_seconds, exchange_seconds, leaves_of_a_run
from scalops.optimizer.costs.thread_times import on_processes, on_threads, read_seconds
from scalops.optimizer.costs.trees import links_of
from scalops.planning import plan
from tests.costs.programs import NAMES, T, work_of
from tests.engine.plans import job_of

MACHINE = Machine.of(4, 8_000_000_000)
HERE = Setting(1, None, 4e9)
LINKS = links_of(MACHINE)


def on(workers: int, threads: int = 1, cores: int | None = None, memory: float = 4e9) -> Setting:
    return Setting(threads, cores, memory, Neutral(workers, (2,) if workers else ()))


def stage(elements: float = 1e9, blocks: float = 1000.0, **more: float) -> StageWork:
    """A stage over 40 MB whose fold takes so many flops."""
    scan = OperatorWork(0, "TableScan", 1e6, 4e7, 4 * blocks, 4e7)
    fold = OperatorWork(1, "TreeAggregate", 1, 8, 4 * blocks, 0.0, {"element": elements})
    made = StageWork(0, 1e6, 4e7, "stored", (scan, fold), partial_bytes=8.0, blocks=blocks)
    return replace(made, **more)  # type: ignore[arg-type]


def alone(of: StageWork) -> PlanWork:
    return PlanWork({0: of}, (), (0,))


def seconds(of: StageWork, setting: Setting = HERE, machine: Machine = MACHINE) -> Times:
    return plan_cost(alone(of), machine, setting).stages[0].steady


@pytest.mark.parametrize("workers", [0, 1, 3, 40])
@pytest.mark.parametrize("name", NAMES)
def test_parts_add_up(name: str, workers: int) -> None:
    work = work_of(name)
    cost = plan_cost(work, MACHINE, on(workers))
    once = sum(cost.stages[n].first.total for n in work.once)
    assert cost.once.total == pytest.approx(once + cost.once.update)
    loops = sum(cost.loops[i].total for i in work.outer)
    assert cost.total_seconds == pytest.approx(cost.once.total + loops)
    assert math.isfinite(cost.total_seconds)
    assert cost.total_seconds > 0
    for made in cost.stages.values():
        computed = made.steady.map + made.steady.load
        assert sum(o.steady for o in made.operators) <= computed + 1e-12
        assert made.first.total >= made.steady.total - 1e-12 or workers == 0


def test_one_thread_is_arithmetic_memory_and_calls() -> None:
    found = seconds(stage(3e9, blocks=100.0))
    read, computed, calls = 4e7 / 1e10, 3e9 / 3e9, 800 * 1e-6
    assert found.map == pytest.approx(read + computed + calls)
    assert found.load == 0


def test_the_lock_is_held_by_one_thread() -> None:
    """F = 1 s without the lock, H = 3 s with it, 1000 calls on 4 threads."""
    expected = max(3.0, 4.0 / 4) + 1000 * MACHINE["lock"] * 3 / 4
    assert on_threads(1.0, 3.0, 1000, 4, MACHINE) == pytest.approx(expected)
    assert on_threads(1.0, 3.0, 1000, 1, MACHINE) == 4.0
    assert on_threads(1.0, 3.0, 1000, 0.5, MACHINE) == 8.0
    assert on_processes(1.0, 3.0, 4, 1e9, MACHINE) == pytest.approx(1.0 + 1.0 + 2e-4)


def test_memory_is_shared_by_threads() -> None:
    assert read_seconds(1e10, 1, MACHINE) == 1.0
    assert read_seconds(1e10, 8, MACHINE) / 8 == pytest.approx(1e10 / MACHINE["read_all"])


@given(st.floats(0, 1e12), st.floats(0, 1e12))
def test_more_work_takes_longer(one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert seconds(stage(less)).total <= seconds(stage(more)).total


@given(st.sampled_from(NAMES), st.sampled_from([r.name for r in ASSUMED]), st.floats(1.0, 100.0))
def test_a_better_rate_is_never_slower(name: str, rate: str, factor: float) -> None:
    old = MACHINE.rates[rate]
    better = old.value / factor if old.unit == "s" else old.value * factor
    fast = Machine.of(4, MACHINE.memory, [Rate(rate, better, old.unit, old.about)])
    setting = on(3, cores=4)
    found = plan_cost(work_of(name), fast, setting).total_seconds
    assert found <= plan_cost(work_of(name), MACHINE, setting).total_seconds * (1 + 1e-9)


def test_heavy_work_gets_faster_by_workers_until_the_cores_are_used() -> None:
    heavy = stage(1e12)
    maps = [seconds(heavy, on(n)).map for n in (1, 2, 4, 8)]
    assert maps == sorted(maps, reverse=True)
    shared = [seconds(heavy, on(n, cores=2)).map for n in (1, 2, 4)]
    assert shared[1] == pytest.approx(shared[0] / 2)
    assert shared[2] == pytest.approx(shared[1])


def test_more_workers_than_blocks_are_of_no_use() -> None:
    few = stage(1e12, blocks=4.0)
    assert seconds(few, on(16)).map == pytest.approx(seconds(few, on(4)).map)
    assert seconds(few, on(3)).map == pytest.approx(2 * seconds(few, on(4)).map)


def test_small_stages_run_on_the_calling_thread_after_the_first_time() -> None:
    small = plan_cost(alone(stage(1e3, blocks=1.0)), MACHINE, Setting(4, None, 4e9)).stages[0]
    assert small.steady.wait == MACHINE["stage"]


@pytest.mark.parametrize("workers", [2, 5, 64])
def test_what_is_exchanged_is_heard_by_all_at_once(workers: int) -> None:
    """A worker hears (N - 1)/N of its N-th part; of a copy it hears all but its own part."""
    size, base = 1e9, LINKS.hop + (workers - 1) * LINKS.message
    part = size / workers
    by_hand = sum(part / workers for other in range(workers) if other) / LINKS.link
    assert exchange_seconds(size, workers, LINKS) == pytest.approx(base + by_hand)
    copies = sum(part for other in range(workers) if other) / LINKS.link
    assert copies_seconds(size, workers, LINKS) == pytest.approx(base + copies)
    assert exchange_seconds(size, 1, LINKS) == copies_seconds(size, 1, LINKS) == 0


def test_an_index_goes_to_everyone_up_to_the_limit() -> None:
    work = work_of("joined")
    (number,) = (s.makes for s in work.stages.values() if s.index_bytes)
    assert number is not None

    def aggregate(limit: int) -> dict[int, float]:
        neutral = Neutral(4, (2,), broadcast={number: limit})
        made = plan_cost(work, MACHINE, Setting(1, None, 4e9, neutral))
        return {n: s.steady.aggregate for n, s in made.stages.items()}

    whole, by_hash = aggregate(1 << 40), aggregate(0)
    built, probing = work.once
    assert whole[built] > by_hash[built]
    assert whole[probing] < by_hash[probing]


def test_leaves_are_a_power_of_two_within_blocks_and_bytes() -> None:
    assert leaves_of_a_run(stage(leaves=16)) == 16
    assert leaves_of_a_run(stage(blocks=100.0)) == 64
    assert leaves_of_a_run(stage(partial_bytes=4e6)) == 2
    assert leaves_of_a_run(stage(partial_bytes=0.0)) == 1


def cached(memory: float, workers: int = 0, most: Mapping[int, int] | None = None) -> PlanCost:
    neutral = Neutral(workers, (2,) if workers else (), held=most or {})
    return plan_cost(work_of("logistic"), MACHINE, Setting(1, None, memory, neutral))


def test_what_memory_does_not_hold_is_made_again() -> None:
    size = sum(s.held_bytes for s in work_of("logistic").stages.values() if s.is_cache)
    assert size == pytest.approx(40_000 * 40, rel=0.1)
    full, half = cached(4e9), cached(size / 2)
    assert full.cached[1] == 1
    kept = (1 - LEFT_SHARE) / 2  # buffers of kernels have the rest
    assert half.cached[1] == pytest.approx(kept)
    assert half.memory == pytest.approx(size / 2)
    assert half.missing[1] == pytest.approx(size * (1 - kept))
    made = half.stages[0].steady.total
    assert full.loops[0].steady.load == 0
    assert half.loops[0].steady.load == pytest.approx(made * (1 - kept))
    assert half.loops[0].total > full.loops[0].total


def test_workers_share_what_is_cached() -> None:
    work = work_of("logistic")
    buffers = sum(s.buffer_bytes for s in work.stages.values())
    shared, alone = cached(4e9, workers=4).memory, cached(4e9).memory
    assert shared - buffers == pytest.approx((alone - buffers) / 4)


def test_a_cache_takes_no_more_than_it_may() -> None:
    assert cached(4e9, most={1: 400_000}).cached[1] == pytest.approx(0.25, rel=0.1)


def test_tables_that_must_be_held_come_first() -> None:
    """Positions and the state are in memory however little there is; caches then are not."""
    work = work_of("pages")
    needed = sum(s.held_bytes for s in work.stages.values() if not (s.is_cache or s.is_view))
    room = held(work, Setting(1, None, 0.0))
    assert room.memory == 0
    assert sum(room.spilled.values()) == pytest.approx(needed)
    ample = held(work, Setting(1, None, needed))
    assert ample.memory == pytest.approx(needed)
    assert not ample.spilled
    room = held(work_of("logistic"), Setting(1, None, 0.0))
    assert (room.memory, room.cached[1]) == (0, 0)


def test_what_lies_in_memory_is_not_held_twice() -> None:
    """But by machines elsewhere, which each hold all of such columns."""
    work = work_of("pages")
    views = [s for s in work.stages.values() if s.is_view]
    assert views
    sizes = [s.held_bytes / (1 if s.held_whole else 3) for s in views]
    near, far = (held(work, on(3, cores=c)).memory for c in (4, None))
    assert far - near == pytest.approx(sum(sizes))


def test_measured_only_where_every_rate_is() -> None:
    rates = [replace(r, provenance="measured", spread=0.1) for r in ASSUMED]
    all_measured = Machine.of(4, MACHINE.memory, rates)
    assert plan_cost(work_of("groups"), all_measured, HERE).provenance == "measured"
    but_one = Machine.of(4, MACHINE.memory, [r for r in rates if r.name != "group"])
    assert plan_cost(work_of("groups"), but_one, HERE).provenance == "assumed"


def test_what_runs_of_the_program_showed_counts() -> None:
    (loop,) = work_of("logistic").loops
    (number,) = loop.stages
    points = Curve(((0.0, Measured(0.0)), (80_000.0, Measured(2.0))))
    rates = ProgramRates(
        loops={0: LoopRates(0, (StageRates(number, 1.0, {1: points}),), Measured(0.0), {})}
    )
    cost = plan_cost(work_of("logistic"), MACHINE, HERE, rates)
    assert cost.stages[number].program
    assert cost.stages[number].steady.map == pytest.approx(1.0, rel=0.01)
    assert cost.loops[0].total == pytest.approx(7.0, rel=0.01)


def loops_of(thing: Any) -> PlanWork:
    return plan_work(plan(job_of(*thing), jit=False))


def test_an_inner_loop_runs_in_each_iteration() -> None:
    """4 iterations of 3; the inner stages' first run is the first of all."""

    @so.loop(0.0, range(4))
    def outer(s: Any) -> Any:
        return so.loop(1.0, range(3))(lambda v: v + T.map(lambda r: r.v * s * v).sum())

    work = loops_of([outer])
    cost = plan_cost(work, MACHINE, HERE)
    (index,) = work.outer
    (inner,) = work.loops[index].inner
    own = sum(cost.stages[n].steady.total for n in work.loops[index].stages)
    update = cost.loops[index].steady.update - 3 * cost.loops[inner].steady.update
    by_hand = own + 3 * cost.loops[inner].steady.total + update
    assert cost.loops[index].steady.total == pytest.approx(by_hand)
    assert cost.loops[index].total == pytest.approx(
        cost.loops[index].first.total + 3 * cost.loops[index].steady.total
    )


def test_loops_in_lock_step_wait_together() -> None:
    def fitted(rate: float) -> Any:
        return so.loop(0.0, range(5))(lambda w: w - rate * T.map(lambda r: r.v * w).sum())

    work = loops_of([fitted(0.1), fitted(0.2)])
    assert [loop.together for loop in work.loops] == [(0, 1), (0, 1)]
    cost = plan_cost(work, MACHINE, HERE)
    waits = [cost.loops[i].steady.wait for i in (0, 1)]
    assert waits == [MACHINE["stage"] / 2] * 2

"""The integer planner against exhaustive search, and beside the closed form."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scalops.algebra.errors import ConfigError, PlanError
from scalops.optimizer.costs import closed_form
from scalops.optimizer.costs.catalog import Catalog, MachineType, symbols_on
from scalops.optimizer.costs.cluster_trees import Partials
from scalops.optimizer.costs.integer_plan import ClusterPlan, Point, plan
from scalops.optimizer.costs.symbols import Symbols
from scalops.optimizer.costs.trees import (
    Links,
    SparsePartial,
    best_tree,
    broadcast_seconds,
    busiest_share,
)
from tests.costs.test_trees import all_trees

LINKS = Links(hop=1e-4, message=3e-5, link=1e9, add=3e9)
PAPER = Symbols(1e8, 1e-6, 4e-6, 5e6, 0.5)


def _decades(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high).map(lambda x: 10.0**x)


SYMBOLS = st.builds(
    Symbols,
    records=_decades(4, 9),
    map=_decades(-8, -4),
    load=st.one_of(st.just(0.0), _decades(-8, -4)),
    cache=st.one_of(st.just(math.inf), _decades(3, 9)),
    aggregate=_decades(-4, 0),
    broadcast=st.one_of(st.just(0.0), _decades(-4, 0)),
    level=st.one_of(st.just(0.0), _decades(-4, 0)),
    iterations=st.sampled_from([1.0, 10.0, 37.5]),
    price=st.sampled_from([None, 0.5]),
)


def witness(
    s: Symbols,
    machines: int,
    fan_ins: tuple[int, ...],
    buffers: float,
    first_load: bool,
    partitions: int | None,
) -> float:
    """Seconds of all iterations with one tree, written down term by term."""
    records = s.records * busiest_share(machines, partitions)
    room = max(0.0, s.cache - buffers * max(fan_ins, default=1))
    spilled = max(0.0, records - room)
    blocks, up = machines, 0.0
    for fan_in in fan_ins:
        up += s.level + s.aggregate * min(fan_in, blocks)
        blocks = -(-blocks // fan_in)
    assert blocks == 1
    steady = records * s.map + spilled * s.load + up + s.broadcast * math.ceil(math.log2(machines))
    once = (records - spilled) * s.load if first_load else 0.0
    return s.iterations * steady + once


@given(
    s=SYMBOLS,
    buffers=st.sampled_from([0.0, 10.0, 1e4]),
    first_load=st.booleans(),
    partitions=st.sampled_from([None, 20, 1024]),
)
@settings(max_examples=12, deadline=None)
def test_no_machine_count_and_no_tree_is_better(
    s: Symbols, buffers: float, first_load: bool, partitions: int | None
) -> None:
    counts = range(1, 21)
    made = plan(s, counts, buffers=buffers, first_load=first_load, partitions=partitions)
    for point in made.points:
        times = [
            witness(s, point.machines, t, buffers, first_load, partitions)
            for t in all_trees(point.machines)
        ]
        assert point.total_seconds == pytest.approx(min(times), rel=2e-9)
        own = witness(s, point.machines, point.fan_ins, buffers, first_load, partitions)
        assert point.total_seconds == pytest.approx(own, rel=1e-12)
    least = min(p.total_seconds for p in made.points)
    assert made.choice.total_seconds == made.fastest.total_seconds == least
    dear = plan(s, counts, "cost", buffers=buffers, first_load=first_load, partitions=partitions)
    costs = [p.machines * p.total_seconds for p in made.points]
    assert dear.choice.machine_seconds == pytest.approx(min(costs), rel=1e-12)
    if s.price is not None:
        assert dear.choice.money == pytest.approx(0.5 / 3600 * min(costs), rel=1e-12)


@given(s=SYMBOLS)
@settings(max_examples=6, deadline=None)
def test_up_to_200_machines_nothing_is_faster(s: Symbols) -> None:
    @cache
    def up(blocks: int) -> float:
        """The least sum of levels: any fan-in at the bottom, then the best of what is left."""
        if blocks == 1:
            return 0.0
        return min(s.level + s.aggregate * f + up(-(-blocks // f)) for f in range(2, blocks + 1))

    def steady(n: int) -> float:
        spilled = max(0.0, s.records / n - s.cache)
        down = s.broadcast * math.ceil(math.log2(n))
        return s.records / n * s.map + spilled * s.load + up(n) + down

    made = plan(s, range(1, 201), first_load=False)
    times = [steady(n) for n in range(1, 201)]
    assert [p.seconds for p in made.points] == pytest.approx(times, rel=1e-11)
    assert made.choice.seconds == pytest.approx(min(times), rel=1e-11)
    assert made.cheapest.machine_seconds == pytest.approx(
        s.iterations * min(n * t for n, t in enumerate(times, 1)), rel=1e-11
    )


@given(s=SYMBOLS)
@settings(max_examples=12, deadline=None)
def test_without_levels_no_iteration_is_faster_than_the_closed_form(s: Symbols) -> None:
    s = replace(s, level=0.0)
    made = plan(s, range(1, 301), first_load=False)
    for point in made.points:
        assert point.closed_seconds == pytest.approx(
            closed_form.seconds(s, point.machines), rel=1e-12
        )
        assert point.gap >= -1e-12
    assert made.closed[0].seconds <= made.fastest.seconds * (1 + 1e-12)
    assert made.closed[0].machine_seconds * s.iterations <= made.cheapest.machine_seconds * (
        1 + 1e-12
    )


def test_of_many_machines_closed_form_and_planner_agree() -> None:
    """Threes are 0.46 % above f = e; machine counts that fill no tree cost a little more."""
    for aggregate in (0.05, 0.01):
        s = replace(PAPER, aggregate=aggregate, cache=1e9)
        made = plan(s, range(1, 5001))
        closed = made.closed[0]
        assert made.fastest.seconds == pytest.approx(closed.seconds, rel=0.015)
        assert 0.7 < made.fastest.machines / closed.fastest < 1.4
    for depth in range(1, 8):
        at = plan(replace(PAPER, map=0.0, load=0.0), [3**depth]).choice
        assert at.gap == pytest.approx(3 / math.log(3) / math.e - 1)


GOLDEN = [
    (Symbols(1e6, 1e-5, 2e-5, 2.5e5, 0.05), 81, 4),
    (Symbols(1e8, 1e-6, 4e-6, 5e6, 0.5), 81, 20),
    (Symbols(1e8, 1e-6, 4e-6, 5e6, 5), 18, 2),
    (Symbols(1e8, 1e-6, 4e-6, 1e5, 0.5), 486, 1),
]


@pytest.mark.parametrize(("s", "fastest", "cheapest"), GOLDEN)
def test_golden_rows_in_whole_machines(s: Symbols, fastest: int, cheapest: int) -> None:
    made = plan(s, range(1, 501))
    assert (made.fastest.machines, made.cheapest.machines) == (fastest, cheapest)
    assert made.fastest.seconds == pytest.approx(made.closed[0].seconds, rel=0.05)
    assert made.cheapest.machine_seconds == pytest.approx(made.closed[0].machine_seconds, rel=0.05)


@given(s=SYMBOLS, factor=st.floats(1.01, 30), first_load=st.booleans())
@settings(max_examples=12, deadline=None)
def test_what_takes_longer_never_makes_a_plan_faster(
    s: Symbols, factor: float, first_load: bool
) -> None:
    def best(own: Symbols) -> float:
        return plan(own, range(1, 41), first_load=first_load).choice.total_seconds

    before = best(s)
    for name in ("records", "map", "load", "aggregate", "broadcast", "level", "iterations"):
        assert best(replace(s, **{name: getattr(s, name) * factor})) >= before * (1 - 1e-12)
    assert best(replace(s, cache=s.cache * factor)) <= before * (1 + 1e-12)


@given(s=SYMBOLS, part=st.floats(0, 1), looser=st.floats(1, 3))
@settings(max_examples=12, deadline=None)
def test_deadlines_and_budgets(s: Symbols, part: float, looser: float) -> None:
    made = plan(s, range(1, 60))
    times, costs = [p.total_seconds for p in made.points], [p.cost for p in made.points]
    deadline = min(times) + part * (max(times) - min(times))
    budget = min(costs) + part * (max(costs) - min(costs))
    assume(deadline > 0 and budget > 0)

    def within(**limits: Any) -> Point:
        return plan(s, range(1, 60), **limits).choice

    cheapest = within(deadline=deadline)
    assert cheapest.total_seconds <= deadline
    assert cheapest.cost == min(c for t, c in zip(times, costs, strict=True) if t <= deadline)
    fastest = within(budget=budget)
    assert fastest.cost <= budget
    assert fastest.total_seconds == min(t for t, c in zip(times, costs, strict=True) if c <= budget)
    assert within(deadline=deadline * looser).cost <= cheapest.cost
    assert within(budget=budget * looser).total_seconds <= fastest.total_seconds


def test_deadline_and_budget_together() -> None:
    made = plan(PAPER, range(1, 101), deadline=12, budget=200)
    allowed = [p for p in made.points if made.allows(p)]
    assert made.choice == min(allowed, key=lambda p: p.total_seconds)
    dear = plan(PAPER, range(1, 101), "cost", deadline=12, budget=200)
    assert dear.choice == min(allowed, key=lambda p: p.cost)
    assert made.runner_up is not None
    assert made.runner_up.total_seconds >= made.choice.total_seconds


def refused(**arguments: Any) -> PlanError:
    with pytest.raises(PlanError) as caught:
        plan(PAPER, range(1, 101), **arguments)
    return caught.value


def test_what_cannot_be_kept_is_refused_with_what_can() -> None:
    late = refused(deadline=5.0)
    assert late.found == (
        "no cluster is done within the deadline of 5 s; the fastest, 81 machines, takes 7.235 s"
    )
    assert late.hint == "the least deadline that can be kept is 7.235 s"
    assert plan(PAPER, range(1, 101), deadline=7.235).choice.machines == 81
    dear = refused(budget=100.0)
    assert dear.found == (
        "no cluster keeps the budget of 100 (machine-seconds); the cheapest, 20 machines, takes 190"
    )
    assert dear.hint == "the least budget that can be kept is 190.0"
    both = refused(deadline=8.0, budget=195.0)
    assert both.found.startswith(
        "no cluster keeps the budget of 195 (machine-seconds); the cheapest within the deadline"
    )
    assert both.hint == (
        "the least budget that can be kept is 270.0, or the least deadline 9.262 s"
    )
    budget_alone = refused(deadline=5.0, budget=195.0)
    assert budget_alone.hint == (
        "the least deadline that can be kept within the budget of 195 is 9.262 s"
    )
    neither = refused(deadline=5.0, budget=100.0)
    assert neither.found.endswith(
        "; and none keeps the budget of 100 (machine-seconds): the cheapest, 20 machines, takes 190"
    )
    assert neither.hint == (
        "with a budget of 190.0 the least deadline is 9.500 s; with a deadline of 7.235 s the least"
        " budget is 586.0"
    )
    kept = plan(PAPER, range(1, 101), deadline=9.262, budget=195.0).choice
    assert kept.total_seconds <= 9.262
    assert kept.cost <= 195.0


# Several types of machines.

SMALL = MachineType("small", 4, 16e9, 2e8, 1.25e9, 0.2)
LARGE = MachineType("large", 16, 128e9, 1e9, 2.5e9, 1.1)
CATALOG = Catalog((SMALL, LARGE), "small")


def test_the_best_type_is_chosen_too() -> None:
    s = replace(PAPER, iterations=20.0)
    made = plan(s, range(1, 101), "cost", catalog=CATALOG)
    single = [
        plan(symbols_on(s, SMALL, kind), range(1, 101), "cost").choice.money for kind in CATALOG
    ]
    assert made.choice.money == min(m for m in single if m is not None)
    assert [c.machine_type for c in made.closed] == ["small", "large"]
    assert len(made.points) == 200
    fast = plan(s, range(1, 101), catalog=CATALOG)
    assert fast.choice.machine_type == "large"


def test_symbols_of_each_type_are_taken_as_they_are() -> None:
    given_symbols = {"small": replace(PAPER, price=1.0), "large": replace(PAPER, price=0.1)}
    made = plan(given_symbols, range(1, 10), "cost")
    assert made.choice.machine_type == "large"
    with pytest.raises(ConfigError, match="expected one each of"):
        plan({"small": PAPER}, range(1, 10), catalog=CATALOG)


def test_money_is_not_compared_with_machine_seconds() -> None:
    without = replace(LARGE, price=None)
    with pytest.raises(ConfigError, match=r"machines \['large'\] have no price") as caught:
        plan(PAPER, range(1, 10), catalog=Catalog((SMALL, without), "small"))
    assert caught.value.hint == "give all types a price, or none"


# Links and bytes in place of A, L and B.


@pytest.mark.parametrize("size", [80.0, 1e6, SparsePartial(1e6, 1e4)])
@pytest.mark.parametrize("leaves", [None, 64])
def test_with_links_the_trees_are_the_best_ones(size: Any, leaves: int | None) -> None:
    partials = Partials(size, LINKS, leaves, environment_bytes=1e6)
    s = Symbols(1e7, 1e-7)
    made = plan(s, range(1, 25), partials=partials, partitions=None)
    for point in made.points:
        n = point.machines
        trees = best_tree(n, size, LINKS, leaves=leaves)
        kinds = {trees.kind: trees, **{p.kind: p for p in trees.others}}
        expected = {
            kind: kinds[kind].seconds + broadcast_seconds(n, 1e6, LINKS, kinds[kind].fan_ins)
            for kind in ("tree", "flat")
        }
        moved = point.parts.aggregate + point.parts.broadcast
        assert moved == pytest.approx(min(expected.values()), rel=1e-12)
        assert moved == pytest.approx(expected[point.kind], rel=1e-12)
    one = plan(s, range(1, 25), partials=replace(partials, may_be_flat=False))
    assert {p.kind for p in one.points} == {"tree"}


def test_no_more_workers_map_at_once_than_there_are_leaves() -> None:
    made = plan(Symbols(1e7, 1e-6), [8, 16], partials=Partials(8.0, LINKS, leaves=4))
    assert [p.parts.map for p in made.points] == pytest.approx([2.5, 2.5])


def test_links_are_scaled_to_a_type() -> None:
    s = Symbols(1e7, 1e-6)
    made = plan(s, [64], catalog=CATALOG, partials=Partials(64e6, LINKS, may_be_flat=False))
    small, large = made.points
    twice = Links(1e-4, 3e-5, 2e9, 3e9)
    expected = best_tree(64, 64e6, twice, kinds=("tree",)).seconds
    assert large.parts.aggregate == pytest.approx(expected, rel=1e-12)
    assert small.parts.aggregate > large.parts.aggregate


# What a point says.


def test_the_parts_and_the_regime_of_a_point() -> None:
    s = replace(PAPER, iterations=10.0, broadcast=0.1, price=3.6)
    few, many = plan(s, [10, 20]).points
    assert (few.regime, few.dominant) == ("spilling", "load")
    assert (few.parts.map, few.parts.load) == pytest.approx((10.0, 20.0))
    assert few.parts.broadcast == pytest.approx(0.4)
    assert few.seconds == pytest.approx(few.parts.total)
    assert few.first_seconds == pytest.approx(few.seconds + 20.0)
    assert few.total_seconds == pytest.approx(10 * few.seconds + 20.0)
    assert few.money == pytest.approx(3.6 * few.machine_seconds / 3600)
    assert (many.regime, many.parts.load) == ("cached", 0.0)
    assert many.first_seconds == pytest.approx(many.seconds + 20.0)


def test_at_the_kink_all_is_cached() -> None:
    for machines in range(1, 60):
        s = replace(PAPER, cache=PAPER.records / machines)
        assert plan(s, [machines]).choice.regime == "cached"


def test_a_single_iteration_counts_as_a_steady_one() -> None:
    assert plan(PAPER, [20]).choice.first_seconds == plan(PAPER, [20]).choice.seconds
    first = plan(PAPER, [20], first_load=True).choice
    assert first.total_seconds == pytest.approx(first.seconds + 20.0)


def test_room_for_partial_results_is_taken_from_the_cache() -> None:
    s = Symbols(1e6, 1e-6, 1e-4, 1e5, 0.01, level=1.0)
    wide = plan(s, [27]).choice
    narrow = plan(replace(s, cache=4e4), [27], buffers=1e3).choice
    assert max(narrow.fan_ins) < max(wide.fan_ins)  # room for the cache is worth more levels
    assert narrow.regime == "spilling"


def test_a_loop_without_an_end_of_gains_takes_all_machines() -> None:
    made: ClusterPlan = plan(Symbols(1e8, 1e-6), range(1, 51))
    assert made.choice.machines == 50
    assert made.closed[0].fastest == math.inf
    assert made.runner_up is not None
    assert made.runner_up.machines == 49


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"machines": []}, "machines are none; expected ints from 1"),
        ({"machines": [0, 1]}, "machines are from 0 to 1"),
        ({"machines": [200_000]}, "expected ints from 1 to 100000"),
        ({"machines": range(10**15)}, "machines are more than 100000 numbers; expected"),
        ({"machines": [2, 2.5]}, "machines has 2.5; expected ints from 1 to 100000"),
        ({"objective": "money"}, "objective is 'money'; expected 'time' or 'cost'"),
        ({"deadline": 0}, "deadline is 0; expected a number, more than 0"),
        ({"budget": math.nan}, "budget is nan"),
        ({"buffers": -1}, "buffers is -1; expected a number of records"),
        ({"partitions": 0}, "partitions is 0; expected an int of at least 1"),
    ],
    ids=range(10),
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(PAPER, **{"machines": range(1, 5), **arguments})


def test_machine_counts_may_have_gaps() -> None:
    made = plan(PAPER, [64, 1, 8, 8])
    assert [p.machines for p in made.points] == [1, 8, 64]
    assert np.all(np.diff([p.machine_seconds for p in made.points]) != 0)

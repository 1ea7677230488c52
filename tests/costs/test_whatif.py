"""What if: flips against brute force, sums of trees against their search, answers against plans."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalops.algebra.errors import ConfigError, PlanError
from scalops.optimizer.costs.catalog import Catalog, MachineType
from scalops.optimizer.costs.flips import SPAN, TOLERANCE, Change, Flip, flips
from scalops.optimizer.costs.integer_plan import plan
from scalops.optimizer.costs.symbols import Symbols
from scalops.optimizer.costs.tree_levels import least_sums
from scalops.optimizer.costs.tree_search import Trees
from scalops.optimizer.costs.whatif import (
    Answer,
    Question,
    alternatives,
    answer,
    changed,
    shown_machines,
    sweep,
    without_trifles,
)
from tests.costs.test_integer_plan import PAPER, SYMBOLS

FEW = (1, 2, 3, 5, 8, 13, 20, 27, 50)
CATALOG = Catalog(
    (
        MachineType("small", 4, 16e9, 2e8, 1.25e9, 0.2),
        MachineType("large", 16, 64e9, 1e9, 2.5e9, 0.9, speed=1.2),
    ),
    "small",
)
LIMITS = st.tuples(
    st.sampled_from(["time", "cost"]),
    st.one_of(st.none(), st.floats(1.01, 4)),  # of the fastest's seconds
    st.one_of(st.none(), st.floats(1.01, 4)),  # of the cheapest's cost
    st.sampled_from([None, CATALOG]),
)


@pytest.mark.parametrize("most", [1, 2, 3, 10, 64, 700])
def test_least_sums_are_those_of_the_best_trees(most: int) -> None:
    sums = least_sums(most)
    levels = np.arange(len(sums))[:, None]
    for aggregate, level in ((0.5, 0.0), (0.5, 0.1), (0.5, 3.0), (0.001, 1.0), (1.0, 10.0)):
        lines = np.where(np.isinf(sums), math.inf, aggregate * sums + level * levels)
        lines[:, 1] = 0.0
        best = Trees(aggregate + level, np.full(most + 1, aggregate)).seconds
        assert lines.min(axis=0)[1:] == pytest.approx(best[1:], rel=1e-11)


def question(
    s: Symbols, limits: tuple[str, float | None, float | None, Catalog | None]
) -> Question:
    """A question with limits that some machine counts keep."""
    objective, time, cost, catalog = limits
    s = replace(s, price=None) if catalog else s
    free = Question(s, FEW, "cost" if objective == "cost" else "time", catalog=catalog)
    best = free.plan()
    return replace(
        free,
        deadline=None if time is None else time * best.fastest.total_seconds,
        budget=None if cost is None else cost * best.cheapest.cost,
    )


def moved(asked: Question, found: Answer, name: str, value: float) -> Question:
    """The question with another value; a price of a catalog is that of the chosen type."""
    if name != "price" or asked.catalog is None:
        return changed(asked, name, value)
    own = found.nearest.machine_type
    types = tuple(replace(t, price=value) if t.name == own else t for t in asked.catalog)
    return replace(asked, catalog=Catalog(types, asked.catalog.reference))


def is_given_up(found: Answer, name: str, value: float, tolerance: float) -> bool:
    """Whether with this value another choice has to be made, by planning anew."""
    if name == "iterations":
        value = max(value, 1 + 1e-9)  # of exactly one there is no first load
    asked = moved(found.question, found, name, value)
    own = replace(asked, machines=(found.nearest.machines,))
    name_of_type = found.nearest.machine_type
    try:
        best = asked.plan().choice
    except PlanError:
        return found.choice is not None
    if found.choice is None:
        return True
    mine = next(
        p
        for p in replace(own, deadline=None, budget=None).plan().points
        if p.machine_type == name_of_type
    )
    slack = 1 + 1e-9
    if asked.deadline is not None and mine.total_seconds > asked.deadline * slack:
        return True
    if asked.budget is not None and mine.cost > asked.budget * slack:
        return True
    return asked.cost_of(mine) > (1 + tolerance) * asked.cost_of(best)


def check(found: Answer, flip: Flip, change: Change | None, end: float, steps: int) -> None:
    """No value up to the flip gives the choice up, and the first one beyond does."""
    start = flip.value
    if math.isinf(start):  # an infinite cache: it holds all, at least
        start = found.question.symbols.records * 1e3
    if change is not None:
        away = 1.0 if change.value > start else -1.0
        near, beyond = (change.value * (1 + away * e) for e in (-1e-6, 1e-6))
        assert is_given_up(found, flip.symbol, beyond, TOLERANCE)
        if change.value == start:  # one iteration is a steady one, without a first load
            assert (flip.symbol, start) == ("iterations", 1)
            return
        end = near
    for step in range(1, steps + 1):
        value = end * step / steps if start == 0 else start * (end / start) ** (step / steps)
        assert not is_given_up(found, flip.symbol, value, TOLERANCE * (1 + 1e-6)), value


def compare(s: Symbols, limits: tuple[str, float | None, float | None, Catalog | None]) -> None:
    found = answer(question(s, limits))
    made = flips(found)
    names = {f.symbol for f in made}
    assert names == set(vars(s)) - ({"price"} if found.nearest.money is None else set())
    for flip in made:
        down = 1.0 if flip.symbol == "iterations" else flip.value / SPAN
        if 0 < flip.value < math.inf and down < flip.value:
            check(found, flip, flip.below, down, 9)
        elif math.isinf(flip.value):
            check(found, flip, flip.below, s.records / SPAN, 9)
        if 0 < flip.value < math.inf:
            check(found, flip, flip.above, flip.value * SPAN, 9)
        elif flip.value == 0 and flip.above is not None:
            check(found, flip, flip.above, math.inf, 9)


@given(s=SYMBOLS, limits=LIMITS)
@settings(max_examples=4, deadline=None)
def test_flips_are_where_planning_anew_gives_the_choice_up(
    s: Symbols, limits: tuple[str, float | None, float | None, Catalog | None]
) -> None:
    compare(s, limits)


@pytest.mark.long
@given(s=SYMBOLS, limits=LIMITS)
@settings(max_examples=150, deadline=None)
def test_flips_of_many_questions(
    s: Symbols, limits: tuple[str, float | None, float | None, Catalog | None]
) -> None:
    compare(s, limits)


def test_flips_of_the_paper() -> None:
    """By hand: between 27 = 3³ and 81 = 3⁴ machines a level of 3·A and R·P·(1/27 − 1/81) change."""
    found = answer(Question(PAPER, tuple(range(1, 501))))
    below = next(f for f in flips(found) if f.symbol == "map").below
    assert below is not None
    assert below.machines == 27
    # 1.05·(R·P/27 + 9·A) = R·P/81 + 12·A
    seconds = (12 - 1.05 * 9) * PAPER.aggregate / (1.05 / 27 - 1 / 81)
    assert below.value == pytest.approx(seconds / PAPER.records, rel=1e-12)
    assert below.factor == pytest.approx(below.value / PAPER.map)


def test_a_deadline_that_no_cluster_keeps_tells_what_would_have_to_be() -> None:
    asked = Question(PAPER, tuple(range(1, 501)), deadline=5.0)
    found = answer(asked)
    assert found.choice is found.runner_up is None
    assert "no cluster is done within the deadline of 5 s" in found.reason
    assert found.nearest == found.fastest
    for flip in flips(found):
        for change in (flip.below, flip.above):
            if change is not None:
                assert change.why == "possible"
                beyond = change.value * (1 - 1e-6 if change is flip.below else 1 + 1e-6)
                assert answer(changed(asked, flip.symbol, beyond)).choice is not None
    names = {f.symbol for f in flips(found) if f.below}
    assert names == {"records", "map", "aggregate"}  # caches and loads are no obstacle


def test_nearest_is_the_cheapest_in_time_where_the_budget_is_too_small() -> None:
    found = answer(Question(PAPER, tuple(range(1, 501)), deadline=8.0, budget=100.0))
    assert found.choice is None
    assert found.nearest == plan(PAPER, range(1, 501), deadline=8.0).choice


def test_a_sweep_is_a_plan_for_each_value() -> None:
    asked = Question(PAPER, FEW, "cost")
    made = sweep(asked, "cache", [1e6, 1e7, math.inf])
    for point in made:
        expected = plan(replace(PAPER, cache=point.value), FEW, "cost")
        assert (point.choice, point.fastest) == (expected.choice, expected.fastest)
    late, soon = sweep(asked, "deadline", [60.0, 1.0])
    assert late.choice == plan(PAPER, FEW, deadline=60.0).choice
    assert soon.choice is None
    for name, value in (("map", -1.0), ("deadline", 0.0), ("weight", 1.0)):
        with pytest.raises(ConfigError):
            sweep(asked, name, [value])
    with pytest.raises(ConfigError, match="catalog"):
        sweep(Question(PAPER, FEW, catalog=CATALOG), "price", [1.0])


@given(s=SYMBOLS, most=st.integers(1, 400))
@settings(max_examples=5, deadline=None)
def test_the_shown_machine_counts_have_the_marked_ones(s: Symbols, most: int) -> None:
    found = answer(Question(s, tuple(range(1, most + 1))))
    shown = shown_machines(found)
    assert list(shown) == sorted(set(shown))
    assert len(shown) == min(12, most)
    wanted = {1, most, found.fastest.machines, found.cheapest.machines}
    kink = math.ceil(s.records / s.cache)
    assert wanted | ({kink} if 1 <= kink <= most else set()) <= set(shown)


@given(s=SYMBOLS)
@settings(max_examples=5, deadline=None)
def test_alternatives_are_added_up_level_by_level(s: Symbols) -> None:
    found = answer(Question(s, (27,)))
    assert found.choice is not None
    tree, binary, flat, ring = alternatives(found.question, found.choice)
    assert tree.seconds == pytest.approx(found.choice.parts.aggregate, rel=1e-12)
    assert binary.seconds == pytest.approx(5 * (2 * s.aggregate + s.level))
    assert flat.seconds == pytest.approx(27 * s.aggregate + s.level)
    assert tree.seconds <= min(binary.seconds, flat.seconds) * (1 + 1e-12)
    assert not ring.is_built


def test_best_by_type_are_the_plans_of_each_type() -> None:
    asked = Question(PAPER, FEW, catalog=CATALOG, deadline=30.0)
    found = answer(asked)
    for point, (name, own) in zip(found.best_by_type, asked.by_type().items(), strict=True):
        alone = plan(own, FEW, deadline=30.0).choice
        assert point.machine_type == name
        assert (point.machines, point.money) == (alone.machines, alone.money)
    assert found.choice in found.best_by_type


def test_a_price_beside_a_catalog_is_refused() -> None:
    with pytest.raises(ConfigError, match="price is given beside a catalog"):
        Question(replace(PAPER, price=1.0), FEW, catalog=CATALOG)


def test_a_limit_that_is_met_exactly_is_what_a_flip_misses() -> None:
    """Just beyond its flip the cost is above the budget by less than rounding."""
    s = Symbols(8e11, 1.937817073857429e-08, 5e-08, 8e4, level=5.5, iterations=1, price=0.004)
    asked = Question(s, (1,))
    asked = replace(asked, budget=asked.plan().choice.cost)
    for flip in flips(answer(asked)):
        for change in (flip.below, flip.above):
            assert change is None or (change.machines, change.why) == (None, "budget")
    names = {f.symbol for f in flips(answer(asked)) if f.above}
    assert {"records", "map", "load", "price"} <= names


def test_measured_trifles_are_nought() -> None:
    made = without_trifles(replace(PAPER, load=1e-18, level=1e-30))
    assert made == replace(PAPER, load=0.0, level=0.0)

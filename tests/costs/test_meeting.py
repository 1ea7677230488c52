"""Flat or along a tree, and along which one: for all reductions of a plan together."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import scalops as so
from scalops.engine.collective import Ranks
from scalops.optimizer.costs.meeting import (
    MOST_AT_DRIVER,
    Meeting,
    Reduced,
    meeting,
    reductions_of,
    said,
)
from scalops.optimizer.costs.trees import Links
from tests.cluster.simulated import plan_of

LINKS = Links(1e-4, 3e-5, 1e9, 3e9)


def simulated(workers: int, partial_bytes: float, fan_ins: tuple[int, ...]) -> float:
    """Seconds of the tree of `Ranks`, rank by rank: a message waits until its receiver is free."""

    def done(rank: int) -> float:
        clock = 0.0
        for child in Ranks(rank, workers, fan_ins).children:
            clock = max(clock, done(child) + LINKS.hop) + LINKS.taken(partial_bytes)
        return clock

    return done(0) + LINKS.hop + LINKS.sent(partial_bytes)


def at_driver(workers: int, partial_bytes: float) -> float:
    """Seconds until the driver has taken what all workers send it."""
    return LINKS.hop + workers * LINKS.taken(partial_bytes)


def seconds(made: Meeting, one: Reduced) -> float:
    """What is decided for a reduction takes, by the simulation."""
    if one.stage in made.at_driver:
        return at_driver(made.workers, one.partial_bytes)
    return simulated(made.workers, one.partial_bytes, made.fan_ins)


@pytest.mark.parametrize("workers", [2, 3, 5, 8, 12, 24])
@pytest.mark.parametrize("size", [8.0, 1e5, 1e7])
def test_no_tree_of_two_or_three_levels_is_sooner_done(workers: int, size: float) -> None:
    one = Reduced(0, size)
    made = meeting(workers, [one], LINKS)
    trees = [t for n in (1, 2, 3) for t in product(range(2, workers + 1), repeat=n)]
    if workers > 8:
        trees = trees[:: workers * workers // 8]
    best = min(at_driver(workers, size), *(simulated(workers, size, t) for t in trees))
    # What the cost model leaves out: that of children that are done late some are heard at once.
    assert seconds(made, one) <= best * 1.1 + 2e-5


def test_a_plan_s_reductions_share_a_tree_chosen_by_all_passes() -> None:
    small, large = Reduced(0, 8.0, passes=10), Reduced(1, 64e6, passes=10)
    made = meeting(64, [small, large], LINKS)
    assert made.fan_ins[0] == 2  # the large ones take nearly all of the time
    assert 1 not in made.at_driver
    assert made.seconds <= meeting(64, [large, small], LINKS).seconds * (1 + 1e-12)
    often = meeting(64, [Reduced(0, 8.0, passes=1e9), Reduced(1, 1e6)], LINKS)
    assert often.fan_ins[0] > 2
    assert made.next_best is not None
    assert made.next_best[1] > made.seconds


def test_each_reduction_is_added_up_where_that_is_sooner_done() -> None:
    made = meeting(3, [Reduced(0, 8.0), Reduced(1, 64e6)], LINKS)
    assert made.at_driver == {0}
    for stage, ways in made.ways.items():
        assert (ways.flat < ways.tree) == (stage in made.at_driver)


def test_the_driver_is_not_given_more_than_it_may_hold() -> None:
    quick = Links(1e-9, 1e-9, 1e12, 1e12)  # nothing is gained by sharing work out
    few, many = Reduced(0, MOST_AT_DRIVER / 8), Reduced(0, MOST_AT_DRIVER / 2)
    slow_hops = Links(10.0, 1e-9, 1e12, 1e12)
    assert meeting(4, [few], slow_hops).at_driver == {0}
    assert not meeting(4, [many], slow_hops).at_driver
    assert meeting(4, [few], quick).workers == 4


def test_what_the_session_says_is_not_overruled() -> None:
    one = Reduced(0, 8.0)
    made = meeting(20, [one], LINKS, told=16)
    assert (made.fan_ins, made.at_driver) == ((16,), frozenset())
    assert said(made, one) == "along the tree: the session's fan_in"


def test_of_no_reduction_and_of_one_worker_there_is_a_tree_too() -> None:
    assert meeting(5, [], LINKS).fan_ins
    one = Reduced(0, 1e9)
    made = meeting(1, [one], LINKS)
    assert said(made, one) == "along the tree: partials of 1 GB from one worker"


@pytest.mark.parametrize(
    ("workers", "size", "reason"),
    [
        (
            8,
            1e6,
            "along the tree: partials of 1 MB from 8 workers: 11 ms at the driver, 5.52 ms by",
        ),
        (
            3,
            80.0,
            "flat, at the driver: partials of 80 B from 3 workers: 190 µs at the driver, 290",
        ),
    ],
)
def test_the_reason_says_what_was_compared(workers: int, size: float, reason: str) -> None:
    one = Reduced(0, size)
    text = said(meeting(workers, [one], LINKS), one)
    assert text.startswith(reason)
    assert text.endswith("(assumed links)")


def test_a_measured_size_replaces_that_of_the_type() -> None:
    plan = plan_of(so.table({"x": np.ones((10, 3))}).sum("x"))
    (one,) = reductions_of(plan)
    assert one.partial_bytes == 24
    (one,) = reductions_of(plan, {one.stage: 7.0}, {one.stage: 1e6})
    assert (one.partial_bytes, one.passes) == (1e6, 7.0)

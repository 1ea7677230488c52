"""Flat or along a tree, and with which fan-in."""

from __future__ import annotations

import pytest

from scalops.engine.collective import Ranks
from scalops.optimizer.aggregation_tree import (
    ADD,
    FAN_INS,
    HOP,
    LINK,
    MESSAGE,
    MOST_AT_DRIVER,
    MOST_BYTES_AT_DRIVER,
    aggregation_tree,
    common_fan_in,
    tree_levels,
    tree_seconds,
)


def simulated(workers: int, partial_bytes: float, fan_in: int) -> float:
    """Seconds of the tree of `Ranks`, rank by rank: a message waits until its receiver is free."""
    takes = MESSAGE.value + partial_bytes / LINK.value + partial_bytes / ADD.value

    def done(rank: int) -> float:
        clock = 0.0
        for child in Ranks(rank, workers, (fan_in,)).children:
            clock = max(clock, done(child) + HOP.value) + takes
        return clock

    return done(0) + HOP.value + takes


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 8, 16, 17, 64])
@pytest.mark.parametrize("fan_in", [2, 3, 4, 16])
def test_a_tree_takes_at_most_what_is_estimated(workers: int, fan_in: int) -> None:
    for size in (8.0, 1e6):
        estimated, found = tree_seconds(workers, size, fan_in), simulated(workers, size, fan_in)
        assert found <= estimated * (1 + 1e-12)
        if fan_in ** tree_levels(workers, fan_in) == workers:  # the last rank is as far as any
            assert found == pytest.approx(estimated, rel=0.35)


@pytest.mark.parametrize(
    ("workers", "fan_in", "levels"),
    [(1, 2, 0), (2, 2, 1), (3, 2, 2), (4, 4, 1), (5, 4, 2), (64, 4, 3), (65, 4, 4), (16, 16, 1)],
)
def test_levels_are_those_of_the_ranks(workers: int, fan_in: int, levels: int) -> None:
    def depth(rank: int) -> int:
        parent = Ranks(rank, workers, (fan_in,)).parent
        return 0 if parent is None else 1 + depth(parent)

    assert tree_levels(workers, fan_in) == levels
    assert max(map(depth, range(workers))) <= levels


def test_small_partials_of_few_workers_meet_at_once() -> None:
    for workers in (1, 2, 3, MOST_AT_DRIVER):
        assert aggregation_tree(workers, 800).flat
        assert aggregation_tree(workers, MOST_BYTES_AT_DRIVER).flat
        assert not aggregation_tree(workers, MOST_BYTES_AT_DRIVER + 1).flat
    assert not aggregation_tree(MOST_AT_DRIVER + 1, 8).flat


def test_many_workers_or_large_partials_make_a_tree() -> None:
    assert not aggregation_tree(256, 8).flat
    for workers in (8, 16, 64):
        for size in (1e6, 64e6):
            assert not aggregation_tree(workers, size).flat


@pytest.mark.parametrize("workers", [2, 5, 8, 33, 256])
def test_the_fan_in_is_that_of_the_least_seconds(workers: int) -> None:
    for size in (8.0, 1e5, 1e7):
        made = aggregation_tree(workers, size)
        found = {f: tree_seconds(workers, size, f) for f in (*FAN_INS, workers)}
        assert found[made.fan_in] == min(found.values())


def test_large_partials_want_a_narrow_tree() -> None:
    assert common_fan_in(64, [64e6]) == 2
    assert common_fan_in(64, [8]) > 2


def test_what_the_session_says_is_not_overruled() -> None:
    made = aggregation_tree(20, 8, fan_in=16)
    assert (made.fan_in, made.flat, made.reason) == (16, False, "the session's fan_in")
    assert not aggregation_tree(3, 8, fan_in=3).flat
    assert common_fan_in(64, [64e6], fan_in=3) == 3


def test_reductions_of_a_plan_share_a_fan_in() -> None:
    common = common_fan_in(64, [8, 64e6])
    assert common == 2  # the large ones take nearly all of the time
    small = aggregation_tree(64, 8, common=common)
    assert (small.fan_in, small.flat) == (2, False)
    assert common_fan_in(64, []) == common_fan_in(64, [0.0])


def test_one_worker_is_the_root() -> None:
    made = aggregation_tree(1, 1e9)
    assert (made.fan_in, made.flat, made.reason) == (2, False, "partials of 1 GB from one worker")


@pytest.mark.parametrize(
    ("workers", "size", "reason"),
    [
        (8, 1e6, "partials of 1 MB from 8 workers: 11.1 ms flat, 5.85 ms by a tree"),
        (8, 80, "partials of 80 B from 8 workers: 0.441 ms flat, 0.451 ms by a tree"),
    ],
)
def test_the_reason_says_what_was_compared(workers: int, size: float, reason: str) -> None:
    assert aggregation_tree(workers, size).reason == f"{reason}, with assumed links"


def test_all_is_assumed() -> None:
    assert {c.provenance for c in (HOP, MESSAGE, LINK, ADD)} == {"assumed"}

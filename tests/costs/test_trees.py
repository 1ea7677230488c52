"""Trees of workers: as the engine builds them, the best of all, and what they take."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalops.algebra.errors import ConfigError
from scalops.engine.collective import UNITS_OF_A_RANK, Ranks, Span, Spans, tree_steps
from scalops.engine.reduction import leaf_ranges
from scalops.optimizer.costs.machine import Machine
from scalops.optimizer.costs.tree_search import Trees, levels
from scalops.optimizer.costs.trees import (
    FORWARD_BYTES,
    UNITS_OF_A_WORKER,
    Links,
    PartialBytes,
    Reduction,
    SparsePartial,
    TreePlan,
    best_tree,
    binary_broadcast_seconds,
    broadcast_seconds,
    busiest_share,
    common_tree,
    leaf_bounds,
    links_of,
    pieces,
    tree_seconds,
)
from tests.quick import quick

LINKS = Links(hop=1e-4, message=3e-5, link=1e9, add=3e9)
SIZES: dict[str, PartialBytes] = {
    "a number": 8.0,
    "a megabyte": 1e6,
    "sparse": SparsePartial(1e6, 3e4),
}


@cache
def all_trees(workers: int, widest: int | None = None) -> list[tuple[int, ...]]:
    """Every sequence of fan-ins, up to those of a last level that is wider than needed."""

    def beyond(size: int) -> Iterator[tuple[int, ...]]:
        if size >= workers:
            yield ()
            return
        for fan_in in range(2, min(-(-workers // size), widest or workers) + 1):
            for rest in beyond(size * fan_in):
                yield (fan_in, *rest)

    return list(beyond(1))


def simulated(
    workers: int, fan_ins: tuple[int, ...], taken: Callable[[int, int], float], hop: float
) -> float:
    """When the root has all, rank by rank in the engine's tree: who receives is busy meanwhile.

    `taken(first, stop)`: seconds to take what the ranks first..stop-1 have.
    """

    steps = tree_steps(workers, fan_ins)

    def done(rank: int) -> float:
        clock = 0.0
        for child, end in below(rank):
            clock = max(clock, done(child) + hop) + taken(child, end)
        return clock

    @cache
    def below(rank: int) -> list[tuple[int, int]]:
        """The children, and up to where each one's own block reaches."""
        return [
            (child, min(workers, child + next(s for s, wider in steps if child % wider)))
            for child in Ranks(rank, workers, fan_ins).children
        ]

    return done(0)


def by_levels(
    workers: int, fan_ins: tuple[int, ...], taken: Callable[[int, int], float], hop: float
) -> float:
    """When the root has all if each level begins when all receivers of that below are done."""
    total = 0.0
    for step, wider in tree_steps(workers, fan_ins):
        total += hop + max(
            sum(
                taken(r, min(r + step, workers))
                for r in range(own, workers, step)[1 : wider // step]
            )
            for own in range(0, workers, wider)
        )
    return total


def taken_of(size: PartialBytes) -> Callable[[int, int], float]:
    """Seconds of one piece for all that some ranks have."""
    return lambda first, stop: LINKS.taken(size(stop - first) if callable(size) else size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "workers", quick([1, 2, 3, 7, 10, 12, 23, 32], 8) + quick(range(33, 65), 0)
)
def test_the_tree_is_the_best_of_all_that_the_engine_can_build(workers: int, size: str) -> None:
    taken, whole = taken_of(SIZES[size]), SIZES[size]
    last = LINKS.hop + LINKS.sent(whole(workers) if callable(whole) else whole)
    made = best_tree(workers, whole, LINKS, kinds=("tree",))
    least = math.inf
    for fan_ins in all_trees(workers):
        found = by_levels(workers, fan_ins, taken, LINKS.hop)
        least = min(least, found)
        own = simulated(workers, fan_ins, taken, LINKS.hop)
        # Only a second, smaller block of the last level is heard of sooner, by one hop at most.
        size_below = math.prod(fan_ins[:-1])
        is_even = workers % size_below == 0 or workers > 2 * size_below
        assert own == pytest.approx(found, rel=1e-12) if is_even else own <= found * (1 + 1e-12)
        assert own >= (found - LINKS.hop) * (1 - 1e-12)
        told = tree_seconds(workers, fan_ins, whole, LINKS)
        assert told == pytest.approx(found + last, rel=1e-12)
    assert made.seconds == pytest.approx(least + last, rel=1e-12)
    assert made.seconds == tree_seconds(workers, made.fan_ins or (2,), whole, LINKS)


@given(
    workers=st.integers(2, 40),
    hop=st.floats(-5, -1).map(lambda x: 10.0**x),
    take=st.floats(-5, -1).map(lambda x: 10.0**x),
    grows=st.floats(0, 1),
    widest=st.one_of(st.none(), st.integers(2, 9)),
)
@settings(max_examples=10, deadline=None)
def test_no_tree_is_better_whatever_hops_and_messages_take(
    workers: int, hop: float, take: float, grows: float, widest: int | None
) -> None:
    takes = np.array([take * n**grows for n in range(workers + 1)])
    made = Trees(hop, takes, widest)
    times = [
        by_levels(workers, t, lambda first, stop: float(takes[stop - first]), hop)
        for t in all_trees(workers, widest)
    ]
    assert made.seconds[workers] == pytest.approx(min(times), rel=1e-11)
    fan_ins = made.fan_ins(workers)
    assert math.prod(fan_ins) >= workers > math.prod(fan_ins[:-1])
    assert max(fan_ins) <= (widest or workers)


def test_ten_workers_meet_by_twos_and_fives() -> None:
    takes = np.ones(11)
    assert Trees(1.5, takes).fan_ins(10) == (2, 5)
    assert Trees(0.0, takes).fan_ins(10) == (2, 2, 3)
    assert Trees(100.0, takes).fan_ins(10) == (10,)


def test_with_passing_on_a_partial_of_its_own_the_tree_is_that_of_the_closed_form() -> None:
    """A level takes A for the own partial and A for each other: threes, 0.5 % above f = e."""
    for depth in range(1, 9):
        ranks = 3**depth
        made = Trees(1.0, np.ones(ranks + 1))
        assert made.seconds[ranks] == 3 * depth
        assert made.fan_ins(ranks) == (3,) * depth
        assert made.seconds[ranks] / (math.e * math.log(ranks)) == pytest.approx(1.00457, rel=1e-4)


@given(st.integers(1, 3000), st.floats(0, 50))
@settings(max_examples=15, deadline=None)
def test_no_tree_is_faster_than_with_real_fan_ins(ranks: int, level: float) -> None:
    """(f + L)/ln f · ln N at its minimum over real f is below every integer tree."""
    fan_ins = np.geomspace(1.5, 60, 2000)
    bound = float(((fan_ins + level) / np.log(fan_ins)).min()) * math.log(ranks)
    made = Trees(1.0 + level, np.ones(ranks + 1)).seconds[ranks]
    assert made >= bound * (1 - 1e-9)


def test_more_workers_never_meet_sooner() -> None:
    for size in SIZES.values():
        seconds = Trees(
            LINKS.hop, np.array([taken_of(size)(0, n) if n else 0.0 for n in range(400)])
        ).seconds
        assert np.all(np.diff(seconds[1:]) >= -1e-15)


@pytest.mark.parametrize("workers", [1, 2, 10, 23])
def test_several_reductions_share_the_tree_in_which_they_take_least(workers: int) -> None:
    reductions = [(8.0, 30.0), (64e6, 1.0), (SIZES["sparse"], 5.0)]
    made = common_tree(workers, reductions, LINKS)
    times = [
        sum(often * tree_seconds(workers, t or (2,), size, LINKS) for size, often in reductions)
        for t in all_trees(workers)
    ]
    assert made.seconds == pytest.approx(min(times), rel=1e-12)
    assert math.prod(made.fan_ins) >= workers


# Canonical pieces.


@cache
def held(workers: int, leaves: int, partitions: int) -> list[list[int]]:
    """Which leaves each rank finishes, by the engine."""
    found: list[list[int]] = [[] for _ in range(workers)]
    for leaf, (_, stop) in enumerate(leaf_ranges(partitions, leaves)):
        found[Ranks(0, workers).home(stop - 1, partitions)].append(leaf)
    return found


@cache
def held_bytes(
    workers: int, leaves: int, partitions: int, first: int, stop: int, size: str
) -> float:
    """Bytes of what the ranks first..stop-1 have together, by the engine's Spans."""
    spans = Spans([leaves], lambda tree, a, b: a + b)
    for own in held(workers, leaves, partitions)[first:stop]:
        for leaf in own:
            spans.add(Span(0, 0, leaf), 1)
    kind = SIZES[size]
    return sum(kind(n) if callable(kind) else kind for n in spans.held.values())


CUTS = [(3, 16, 16), (5, 8, 37), (6, 64, 64), (7, 16, 100), (10, 64, 1024), (12, 2, 9), (20, 8, 8)]


@pytest.mark.parametrize("size", ["a megabyte", "sparse"])
@pytest.mark.parametrize(("workers", "leaves", "partitions"), CUTS)
def test_with_pieces_the_tree_is_the_best_level_by_level(
    workers: int, leaves: int, partitions: int, size: str
) -> None:
    def taken(first: int, stop: int) -> float:
        own = held_bytes(workers, leaves, partitions, first, stop, size)
        return LINKS.message + own / LINKS.link + own / LINKS.add

    last = LINKS.hop + LINKS.sent(held_bytes(workers, leaves, partitions, 0, workers, size))
    made = best_tree(
        workers, SIZES[size], LINKS, kinds=("tree",), leaves=leaves, partitions=partitions
    )
    times = {t: by_levels(workers, t, taken, LINKS.hop) for t in all_trees(workers)}
    assert made.seconds == pytest.approx(min(times.values()) + last, rel=1e-12)
    for fan_ins, found in times.items():
        told = tree_seconds(
            workers, fan_ins, SIZES[size], LINKS, leaves=leaves, partitions=partitions
        )
        assert told == pytest.approx(found + last, rel=1e-12)
        # Where receivers differ a level begins before all are done with that below.
        assert 0.6 * found <= simulated(workers, fan_ins, taken, LINKS.hop) <= found * (1 + 1e-12)


def test_sixteen_units_over_three_workers() -> None:
    """About 2.3 pieces each, 12 % more than a third of the table for one of them."""
    bounds = leaf_bounds(3, 16, 16)
    counts = [pieces(*map(int, pair)) for pair in itertools.pairwise(bounds)]
    assert counts == [2, 3, 2]
    assert busiest_share(3, 16) == pytest.approx(1.125 / 3)
    assert UNITS_OF_A_WORKER == UNITS_OF_A_RANK


@given(st.integers(1, 70), st.integers(1, 400))
@settings(max_examples=20, deadline=None)
def test_shares_are_those_of_the_ranks(workers: int, partitions: int) -> None:
    ranges = [Ranks(0, workers).range_of(r, partitions) for r in range(workers)]
    most = max(stop - start for start, stop in ranges)
    assert busiest_share(workers, partitions) == pytest.approx(most / partitions)
    assert busiest_share(workers, None) == 1 / workers


def test_pieces_on_even_cuts_are_one_a_message() -> None:
    for workers in (2, 8, 32):
        one = best_tree(workers, 1e6, LINKS)
        cut = best_tree(workers, 1e6, LINKS, leaves=256, partitions=256)
        assert (cut.kind, cut.fan_ins) == (one.kind, one.fan_ins)
        assert cut.seconds == pytest.approx(one.seconds, rel=1e-12)


# Other kinds.


def test_the_driver_adds_one_after_the_other() -> None:
    made = Reduction(20, 1e6, LINKS)
    assert made.flat() == pytest.approx(LINKS.hop + 20 * LINKS.taken(1e6))
    few, many = best_tree(3, 80, LINKS), best_tree(64, 80, LINKS)
    assert (few.kind, few.fan_ins, many.kind) == ("flat", (), "tree")
    assert {p.kind for p in few.others} == {"tree", "ring"}
    assert min(p.seconds for p in few.others if p.is_built) >= few.seconds


def test_a_ring_moves_each_element_once() -> None:
    size, n = 64e6, 16
    made = Reduction(n, size, LINKS).ring()
    scattered = (n - 1) / n * size * (1 / LINKS.link + 1 / LINKS.add)
    gathered = size / LINKS.link
    latency = 2 * LINKS.hop + (2 * n - 1) * LINKS.message
    assert made == pytest.approx(scattered + gathered + latency)
    asked = best_tree(n, size, LINKS, kinds=("tree", "flat", "ring"))
    assert (asked.kind, asked.is_built) == ("ring", False)
    assert best_tree(n, size, LINKS).kind == "tree"  # what is not built is not chosen


def test_links_are_those_of_the_machine() -> None:
    machine = Machine.of(2, 1 << 30)
    assert links_of(machine) == Links(1e-4, 3e-5, 1e9, 3e9, "assumed")


def test_a_sparse_partial_grows_until_it_is_full() -> None:
    size = SparsePartial(dimension=1000, filled=10, item_bytes=12)
    assert size(1) == pytest.approx(120)
    assert size(2) == pytest.approx(12 * (1000 - 1000 * 0.99**2))
    assert size(100_000) == pytest.approx(12_000)
    assert SparsePartial(10, 100)(1) == 120


# The environment's way down.


def carried_down(workers: int, fan_ins: tuple[int, ...], send: float, hop: float) -> float:
    """When the last rank has it, rank by rank: each sends to its children, the last one first."""

    def last(rank: int, clock: float) -> float:
        latest = clock
        for child in reversed(Ranks(rank, workers, fan_ins).children):
            clock += send
            latest = max(latest, last(child, clock + hop))
        return latest

    return last(0, 0.0)


@pytest.mark.parametrize("workers", [3, 5, 8, 10, 17, 64, 100])
@pytest.mark.parametrize("fan_ins", [(2,), (4,), (2, 5), (3, 2, 7)])
def test_a_large_environment_goes_down_the_tree(workers: int, fan_ins: tuple[int, ...]) -> None:
    size = 10.0 * FORWARD_BYTES
    send = LINKS.sent(size)
    expected = LINKS.hop + send + carried_down(workers, fan_ins, send, LINKS.hop)
    assert broadcast_seconds(workers, size, LINKS, fan_ins) == pytest.approx(expected)


def test_a_small_environment_goes_to_each_worker() -> None:
    assert broadcast_seconds(9, 80, LINKS, (2,)) == LINKS.hop + 9 * LINKS.sent(80)
    assert broadcast_seconds(2, 1e9, LINKS, (2,)) == LINKS.hop + 2 * LINKS.sent(1e9)


def test_a_binary_broadcast_doubles_those_who_have_it() -> None:
    step = LINKS.hop + LINKS.sent(1e6)
    for workers, steps in ((1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (1024, 11)):
        assert binary_broadcast_seconds(workers, 1e6, LINKS) == pytest.approx(steps * step)


# What makes no sense.


def _falling(covered: int) -> float:
    return 1e6 / covered


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: best_tree(0, 8, LINKS), "workers is 0; expected an int of at least 1"),
        (lambda: best_tree(4, 8, LINKS, leaves=12), "leaves is 12; expected a power of two"),
        (lambda: best_tree(4, 8, LINKS, widest=1), "widest is 1; expected an int of at least 2"),
        (lambda: best_tree(4, 8, LINKS, kinds=()), "kinds is .*; expected some of"),
        (lambda: best_tree(4, _falling, LINKS), "expected that they stay or grow"),
        (lambda: tree_seconds(4, (), 8, LINKS), "fan_ins is .*; expected ints of at least 2"),
        (lambda: tree_seconds(4, (1,), 8, LINKS), "fan_ins is .*; expected ints of at least 2"),
    ],
    ids=range(7),
)
def test_what_makes_no_sense_is_refused(make: Callable[[], TreePlan], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


def test_the_last_fan_in_is_that_of_all_further_levels() -> None:
    assert levels((2, 5), 10) == [2, 5]
    assert levels((2, 5), 11) == [2, 5, 5]
    found: Sequence[float] = [tree_seconds(17, f, 8, LINKS) for f in ((4,), (4, 4, 4))]
    assert found[0] == found[1]


@pytest.mark.parametrize("workers", range(2, 9))
@pytest.mark.parametrize("leaves", [2, 4])
def test_one_partition_whose_own_edge_takes_longer_than_all_levels(
    workers: int, leaves: int
) -> None:
    """What rounding of that edge hides is no reason to find no tree."""
    links = Links(3.166904474469051e-05, 1.5248858241131026e-05, 29754886479.638935, 303998.42)
    size = 793928.4169618067
    found = best_tree(workers, size, links, leaves=leaves, partitions=1, kinds=["tree"])
    least = min(
        tree_seconds(workers, fan_ins, size, links, leaves=leaves, partitions=1)
        for fan_ins in itertools.product(range(2, workers + 1), repeat=2)
    )
    assert found.seconds <= least * (1 + 1e-9)

"""The canonical reduction: leaves and tree follow from the data alone."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalops.engine.reduction import (
    LEAF_FACTOR,
    RunningTree,
    combine_tree,
    leaf_count,
    leaf_ranges,
)

COUNTS = st.integers(1, 3_000)
BYTES = st.integers(0, 1 << 40)


def streamed(leaves: Iterable[Any], merge: Callable[[Any, Any], Any]) -> Any:
    """The tree over leaves as they come."""
    tree = RunningTree(merge)
    for leaf in leaves:
        tree.push(leaf)
    return tree.result()


def bracket(left: str, right: str) -> str:
    """A merge that shows the tree."""
    return f"({left} {right})"


@given(COUNTS, BYTES, st.integers(0, 1 << 24))
def test_leaf_count_is_a_power_of_two_within_both_limits(
    partitions: int, source: int, partial: int
) -> None:
    leaves = leaf_count(partitions, source, partial)
    assert leaves & (leaves - 1) == 0
    assert 1 <= leaves <= partitions
    fitting = min(partitions, source // max(1, LEAF_FACTOR * partial))
    assert leaves <= max(1, fitting) < 2 * leaves


@given(COUNTS, BYTES)
def test_larger_partials_make_no_more_leaves(partitions: int, source: int) -> None:
    counts = [leaf_count(partitions, source, partial) for partial in (0, 1, 8, 1_000, 10**6, 10**9)]
    assert counts == sorted(counts, reverse=True)


@given(COUNTS, st.integers(0, 10))
def test_leaf_ranges_are_contiguous_and_even(partitions: int, level: int) -> None:
    leaves = min(1 << level, leaf_count(partitions, 1 << 60, 1))
    ranges = leaf_ranges(partitions, leaves)
    assert len(ranges) == leaves
    assert [p for a, b in ranges for p in range(a, b)] == list(range(partitions))
    sizes = [b - a for a, b in ranges]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(0, 10))
def test_streaming_builds_the_tree_of_the_levels(level: int) -> None:
    leaves = [f"{i}" for i in range(1 << level)]
    assert streamed(iter(leaves), bracket) == combine_tree(leaves, bracket)


def test_tree_of_eight_leaves() -> None:
    assert combine_tree("abcdefgh", bracket) == "(((a b) (c d)) ((e f) (g h)))"


@given(st.integers(0, 9), st.data())
def test_complete_subtrees_may_be_combined_elsewhere(level: int, data: st.DataObject) -> None:
    """Whoever owns a contiguous run of leaves cut at a subtree's bounds may add it up alone."""
    leaves = [f"{i}" for i in range(1 << level)]
    inner = data.draw(st.integers(0, level))
    size = 1 << inner
    roots = [combine_tree(leaves[a : a + size], bracket) for a in range(0, len(leaves), size)]
    assert combine_tree(roots, bracket) == combine_tree(leaves, bracket)


@given(st.integers(0, 10))
def test_streaming_holds_a_partial_per_level(level: int) -> None:
    made = merged = most = 0

    def leaves() -> Iterator[int]:
        nonlocal made, most
        for _ in range(1 << level):
            made += 1
            most = max(most, made - merged)
            yield 1

    def merge(left: int, right: int) -> int:
        nonlocal merged
        merged += 1
        return left + right

    assert streamed(leaves(), merge) == 1 << level
    assert most <= level + 1


def test_tree_of_another_count_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        combine_tree("abc", bracket)

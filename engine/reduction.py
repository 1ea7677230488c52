"""The canonical reduction: which partitions make a leaf, and in which order leaves are combined.

A numeric decision. Leaves and tree follow from the number of partitions, the source's bytes
and the partial's bytes; who computes a leaf and who adds two of them is anybody's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from scalops.algebra.dtypes import SparseType
from scalops.algebra.folds import Fold

T = TypeVar("T")
LEAF_FACTOR = 4  # a leaf's input is at least this many times the partial's bytes
# Records of sparse vectors are added to a partial at random places. It is in no cache when a leaf
# begins, so that as many records more are wanted for it. With 13 million stored elements over a
# dimension of a million, 4 leaves take 1.2 times as long as 2, on one thread.
SCATTERED_FACTOR = 2


def leaf_bytes(folds: Sequence[Fold]) -> int:
    """The bytes of the folds' partials as they count in `leaf_count`."""
    return sum(f.type.bytes * (SCATTERED_FACTOR if is_scattered(f) else 1) for f in folds)


def is_scattered(fold: Fold) -> bool:
    """Whether sparse vectors are added to the fold's partial."""
    return any(isinstance(a.any_type, SparseType) for a in fold.arguments)


def leaf_count(partitions: int, source_bytes: int, partial_bytes: int) -> int:
    """The largest power of two of leaves that keeps each leaf's input above the factor."""
    most = min(partitions, source_bytes // max(1, LEAF_FACTOR * partial_bytes))
    return 1 << (max(1, most).bit_length() - 1)


def leaf_ranges(partitions: int, leaves: int) -> list[tuple[int, int]]:
    """Contiguous runs of partitions, near-equal in number, in order."""
    return [(i * partitions // leaves, (i + 1) * partitions // leaves) for i in range(leaves)]


def combine_tree(leaves: Sequence[T], merge: Callable[[T, T], T]) -> T:
    """Combine neighbours level by level; the number of leaves is a power of two."""
    level = list(leaves)
    while len(level) > 1:
        level = [merge(a, b) for a, b in zip(level[::2], level[1::2], strict=True)]
    return level[0]


class RunningTree(Generic[T]):
    """The same tree over leaves as they come: one a level is held."""

    def __init__(self, merge: Callable[[T, T], T]) -> None:
        self._merge = merge
        self._stack: list[tuple[int, T]] = []

    def push(self, leaf: T) -> None:
        """The next leaf."""
        level, partial = 0, leaf
        while self._stack and self._stack[-1][0] == level:
            partial = self._merge(self._stack.pop()[1], partial)
            level += 1
        self._stack.append((level, partial))

    def result(self) -> T:
        """What all leaves give, a power of two of them."""
        return self._stack[0][1]

"""The best fan-ins of an aggregation tree, level by level, by dynamic programming.

On level i of a tree with fan-ins f₁, f₂, … ranks stand in blocks of sᵢ = f₁·…·fᵢ neighbours; the
first rank of a block receives what the first ranks of its other sᵢ₋₁-blocks have, one after the
other. The leftmost block is whole on all levels but the last, and as late as any other; so the
seconds of a tree over N ranks are a sum over its levels,

    Σᵢ  start + (kᵢ − 2)·take(sᵢ₋₁) + take(mᵢ)

with kᵢ = ⌈min(N, sᵢ)/sᵢ₋₁⌉ blocks to a receiver, of which the last one covers mᵢ ≤ sᵢ₋₁ ranks. The
least sum up to s ranks depends on s alone: Bellman's principle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
# Of sums that differ by rounding alone the first is kept, so that plans do not flicker.
_LESS = 1 - 1e-12


class Trees:
    """The best tree of each number of ranks up to `most`.

    `seconds[N]`: until its root has all; `seconds[1]` is 0. Where `widest` trees are not allowed
    that wide, all have fan-ins of at most that.
    """

    def __init__(self, start: float, takes: Floats, widest: int | None = None) -> None:
        """`start`: seconds of a level by itself. `takes[n]`: seconds that who receives the partial
        result of n ranks can do nothing else, float64[most + 1], not decreasing; [0] is not read.
        """
        most = len(takes) - 1
        self.seconds: Floats = np.full(most + 1, np.inf)
        self._below: Integers = np.zeros(most + 1, np.int64)  # the last level's block, by N
        self._whole_below: Integers = np.zeros(most + 1, np.int64)  # of trees without a gap
        self.seconds[:2] = 0.0
        whole: Floats = np.full(most + 1, np.inf)
        whole[1:2] = 0.0
        for size in range(1, most):
            # More ranks take no less: a level that is late for most is late for all.
            if not whole[size] + start + takes[1] <= self.seconds[most]:
                continue
            stop = most if widest is None else min(most, size * widest)
            made = whole[size] + level_seconds(start, takes, size, stop)
            self._improve(self.seconds[size + 1 : stop + 1], made, self._below[size + 1 :], size)
            exact = slice(2 * size, stop + 1, size)
            self._improve(whole[exact], made[size - 1 :: size], self._whole_below[exact], size)

    @staticmethod
    def _improve(known: Floats, made: Floats, below: Integers, size: int) -> None:
        better = made < known * _LESS
        np.copyto(known, made, where=better)
        np.copyto(below[: len(better)], size, where=better)

    def fan_ins(self, ranks: int) -> tuple[int, ...]:
        """The best tree's fan-ins, the leaves' first; of one rank none."""
        if ranks == 1:
            return ()
        size = int(self._below[ranks])
        found = [-(-ranks // size)]
        while size > 1:
            below = int(self._whole_below[size])
            found.append(size // below)
            size = below
        return tuple(reversed(found))


def level_seconds(start: float, takes: Floats, size: int, stop: int) -> Floats:
    """Seconds of a level above whole blocks of `size`, for size + 1 .. `stop` ranks, float64[…]."""
    ranks = np.arange(size + 1, stop + 1)
    others = (ranks - 1) // size
    found: Floats = start + (others - 1) * takes[size] + takes[ranks - others * size]
    return found


def sum_of_levels(start: float, takes: Floats, fan_ins: Sequence[int], ranks: int) -> float:
    """Seconds of a given tree; its last fan-in is that of all further levels."""
    total, size = 0.0, 1
    for fan_in in levels(fan_ins, ranks):
        stop = min(ranks, size * fan_in)
        others = (stop - 1) // size
        total += start + (others - 1) * float(takes[size]) + float(takes[stop - others * size])
        size *= fan_in
    return total


def levels(fan_ins: Sequence[int], ranks: int) -> list[int]:
    """The fan-ins of the levels that so many ranks have; the last one is repeated."""
    found: list[int] = []
    size = 1
    while size < ranks:
        found.append(fan_ins[min(len(found), len(fan_ins) - 1)])
        size *= found[-1]
    return found


class UnevenTree:
    """The best tree where the partial results of equally large blocks differ.

    `edges(size)`: seconds to take that of each block of `size` neighbours, float64[blocks]. A
    level is as late as the latest of its receivers, and the next one begins when it is done: an
    upper bound of what a tree takes, met where all receivers take alike.
    """

    def __init__(self, ranks: int, start: float, edges: Any) -> None:
        self._ranks, self._start, self._edges = ranks, start, edges
        self._sums: dict[int, Floats] = {}

    def level(self, size: int, fan_in: int) -> float:
        """Seconds of the level that makes blocks of `size * fan_in` of those of `size`."""
        sums = self._summed(size)
        first = np.arange(0, len(sums) - 1, fan_in)
        last = np.minimum(first + fan_in, len(sums) - 1)
        return self._start + float((sums[last] - sums[first + 1]).max())

    def _summed(self, size: int) -> Floats:
        """Running sums of the seconds of blocks, from 0 on."""
        if size not in self._sums:
            self._sums[size] = np.concatenate([[0.0], np.cumsum(self._edges(size))])
        return self._sums[size]

    def seconds(self, fan_ins: Sequence[int]) -> float:
        """Of a given tree; its last fan-in is that of all further levels."""
        total, size = 0.0, 1
        for fan_in in levels(fan_ins, self._ranks):
            total += self.level(size, fan_in)
            size *= fan_in
        return total

    def best(self, widest: int | None = None) -> tuple[float, tuple[int, ...]]:
        """Seconds and fan-ins of the best tree, with fan-ins of at most `widest`."""
        ranks = self._ranks
        if ranks == 1:
            return 0.0, ()
        most = min(ranks, widest or ranks)
        tried = {(f,) for f in (2, 3, 4, 8, most) if f <= most}
        bound = min(self.seconds(fan_ins) for fan_ins in tried) / _LESS
        found: dict[int, tuple[float, tuple[int, ...]]] = {1: (0.0, ())}
        for size in range(1, ranks):
            if size in found and found[size][0] + self._start <= bound:
                bound = min(bound, self._from(size, most, found, bound))
        return found[ranks]

    def _from(
        self, size: int, most: int, found: dict[int, tuple[float, tuple[int, ...]]], bound: float
    ) -> float:
        """Add a level of each fan-in on blocks of `size`; the bound of what may be best."""
        below, fan_ins = found[size]
        sums = self._summed(size)
        blocks = len(sums) - 1
        for fan_in in range(2, min(blocks, most) + 1):
            if below + self._start + float(sums[fan_in] - sums[1]) > bound:
                break  # the first receiver alone takes longer, and more of each wider level
            made = below + self.level(size, fan_in)
            reached = self._ranks if fan_in == blocks else size * fan_in
            if reached not in found or made < found[reached][0] * _LESS:
                found[reached] = made, (*fan_ins, fan_in)
            if reached == self._ranks:
                bound = min(bound, made / _LESS)
        return bound

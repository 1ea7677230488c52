"""The best fan-ins of an aggregation tree, level by level, by dynamic programming.

On level i of a tree with fan-ins f₁, f₂, … ranks stand in blocks of sᵢ = f₁·…·fᵢ neighbours; the
first rank of a block receives what the first ranks of its other sᵢ₋₁-blocks have, one after the
other. A level is as late as its latest receiver, and the next one begins when it is done. The
leftmost receiver of a level has no fewer blocks than any other; so the seconds of a tree over N
ranks are

    Σᵢ  start + (kᵢ − 2)·take(sᵢ₋₁) + take(mᵢ)

with kᵢ = ⌈min(N, sᵢ)/sᵢ₋₁⌉ blocks, of which the last one covers mᵢ ≤ sᵢ₋₁ ranks. The least sum up
to s ranks depends on s alone: Bellman's principle. A tree takes just that, but where the root's
last level has two blocks, of which the second is smaller: that may be done, and heard of, up to
one `start` sooner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

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

    Levels follow each other here too: an upper bound of what a tree takes, met where all receivers
    of a level take alike.
    """

    def __init__(
        self, ranks: int, start: float, edges: Callable[[int], Floats], bounds: Floats
    ) -> None:
        """`edges(size)`: seconds to take what each block of `size` neighbours has, float64[blocks].
        `bounds[n]`: seconds that no tree over n blocks of any size is below, float64[>= ranks].
        """
        self._ranks, self._start, self._edges, self._bounds = ranks, start, edges, bounds
        self._sums: dict[int, Floats] = {}
        self._found: dict[int, tuple[float, tuple[int, ...]]] = {1: (0.0, ())}

    def level(self, size: int, fan_in: int) -> float:
        """Seconds of the level that makes blocks of `size * fan_in` of those of `size`."""
        sums = self._summed(size)
        own, others = sums[1::fan_in], sums[fan_in::fan_in]
        latest = float((others - own[: len(others)]).max()) if len(others) else 0.0
        if len(others) < len(own):  # the last block is smaller
            latest = max(latest, float(sums[-1] - own[-1]))
        return self._start + latest

    def _summed(self, size: int) -> Floats:
        """Running sums of the seconds of blocks, from 0 on."""
        if size not in self._sums:
            edges = self._edges(size)
            sums = self._sums[size] = np.zeros(len(edges) + 1)
            np.cumsum(edges, out=sums[1:])
        return self._sums[size]

    def seconds(self, fan_ins: Sequence[int]) -> float:
        """Of a given tree; its last fan-in is that of all further levels."""
        total, size = 0.0, 1
        for fan_in in levels(fan_ins, self._ranks):
            total += self.level(size, fan_in)
            size *= fan_in
        return total

    def best(
        self, widest: int | None = None, tried: Iterable[Sequence[int]] = ()
    ) -> tuple[float, tuple[int, ...]]:
        """Seconds and fan-ins of the best tree, with fan-ins of at most `widest`.

        Branch and bound: `tried` trees, which are no wider, bound the search.
        """
        ranks = self._ranks
        most = min(ranks, widest or ranks)
        if ranks == 1:
            return 0.0, ()
        known = [(min(2, most),), *(tuple(f) for f in tried if f)]
        first, fan_ins = min((self.seconds(one), one) for one in known)
        bound = first / _LESS
        for size in range(1, ranks):
            if size in self._found:
                bound = self._search_from(size, most, bound)
        # Sums of large numbers are rounded by more than the bound allows for: the search may have
        # left out what is as good as the tree that it began with.
        began = first, tuple(levels(fan_ins, ranks))
        return min(began, self._found.get(ranks, began), key=lambda made: made[0])

    def _search_from(self, size: int, most: int, bound: float) -> float:
        """Add a level of each fan-in on blocks of `size`; the bound of what may be best."""
        below, fan_ins = self._found[size]
        if below + self._left(size) > bound:
            return bound
        sums, found = self._summed(size), self._found
        blocks = len(sums) - 1
        for fan_in in range(2, min(blocks, most) + 1):
            # The first receiver alone, rounded as in `level`, and the levels above.
            least = below + (self._start + float(sums[fan_in] - sums[1]))
            if least + self._left(size * fan_in) > bound:
                if least > bound:
                    break
                continue
            made = below + self.level(size, fan_in)
            reached = self._ranks if fan_in == blocks else size * fan_in
            if reached not in found or made < found[reached][0] * _LESS:
                found[reached] = made, (*fan_ins, fan_in)
            if reached == self._ranks:
                bound = min(bound, made / _LESS)
        return bound

    def _left(self, size: int) -> float:
        """Seconds that no tree above blocks of `size` is below."""
        return float(self._bounds[-(-self._ranks // size)])

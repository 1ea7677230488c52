"""The least sums of fan-ins of aggregation trees, by how many levels they have.

By symbols a tree takes A·Σk + L·d seconds: Σk are the blocks that its busiest receiver sees, level
by level, and d its levels. For a number of ranks only d matters, once Σk is the least for it; so a
tree's seconds are the lower envelope of a few lines in A and in L. `tree_search.py` finds the best
tree for one A and L; these sums hold for all of them.
"""

from __future__ import annotations

import math

import numpy as np

from scalops.optimizer.costs.tree_search import Floats


def least_sums(most: int) -> Floats:
    """Σk of the best tree of at most d levels over n ranks: float64[levels + 1, most + 1].

    [0] is infinite but for one rank, which has no tree. More levels than rows lower no sum.

    >>> least_sums(10)[:, 10].tolist()  # one level of 10; two of 2 and 5; three, 2·2·3, sum up to 7
    [inf, 10.0, 7.0]
    """
    ranks = np.arange(most + 1)
    none: Floats = np.full(most + 1, np.inf)
    none[:2] = 0.0
    found, whole = [none], none
    while True:
        levels = len(found)
        bound = levels * math.ceil(most ** (1 / levels))  # no tree of so many levels need be dearer
        sums = found[-1].copy()
        for size in np.flatnonzero(whole + 2 <= bound).tolist():
            if 0 < size < most:  # a last level above whole blocks of `size`
                blocks = -(-ranks[size + 1 :] // size)
                np.minimum(sums[size + 1 :], whole[size] + blocks, out=sums[size + 1 :])
        if levels > 1 and np.array_equal(sums, found[-1]):
            return np.array(found)
        found.append(sums)
        whole = _level_more(whole, bound)


def _level_more(whole: Floats, bound: float) -> Floats:
    """Sums of trees without a gap that have a level more, by their ranks."""
    made: Floats = np.full(len(whole), np.inf)
    for size in np.flatnonzero(whole + 2 <= bound).tolist():
        if size > 0:
            above = made[2 * size :: size]
            np.minimum(above, whole[size] + np.arange(2, 2 + len(above)), out=above)
    return made

"""When the workers of a given tree have what they wait for: the seconds of uneven reductions.

A tree is found by a sum over its levels, each as late as its latest worker (`tree_search.py`): an
upper bound. Here a worker waits for those below it alone: with fewer records, or with pieces that
fit together, it is done sooner, and so is what stands above it. A simulation of the protocol
(`tests/costs/simulated_cluster.py`) bears it out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from scalops.optimizer.costs.tree_search import Floats, levels

# As of engine/cluster/rank_job.py: what takes longer is computed while messages are heard.
QUICK_SECONDS = 0.01


def seconds_up(
    fan_ins: Sequence[int],
    ready: Floats,
    hop: float,
    heard: Callable[[int], Floats],
    added: Callable[[int], Floats],
) -> float:
    """Seconds until the root of a tree has added up what all workers have.

    `ready`: when each worker has its own partial result, float64[workers]. `heard(size)`,
    `added(size)`: seconds to hear what each block of `size` neighbours has, and to add it,
    float64[blocks]. The last of the `fan_ins` is that of all further levels.

    A worker hears messages one after the other, while it computes, too; it adds them up in their
    order, in the meantime hearing others only where that takes long.
    """
    done, free, size = ready, np.zeros(len(ready)), 1
    for fan_in in levels(fan_ins, len(ready)):
        arrived, hears, adds = done + hop, heard(size), added(size)
        done, free = done[::fan_in].copy(), free[::fan_in].copy()
        for number in range(1, fan_in):
            others = slice(number, None, fan_in)
            own = slice(len(arrived[others]))
            free[own] = np.maximum(free[own], arrived[others]) + hears[others]
            is_quick = (free[own] >= done[own]) & (adds[others] < QUICK_SECONDS)
            done[own] = np.maximum(done[own], free[own]) + adds[others]
            free[own] = np.where(is_quick, done[own], free[own])
        size *= fan_in
    return float(done[0])

"""Seconds to aggregate and to broadcast on each of many machine counts, with the best trees.

From symbols, a level of fan-in f takes A·f + L: who receives passes on one partial result, its
own, and takes f − 1 others. From links and bytes a level takes a hop and f − 1 messages, and the
root's result a hop to the driver.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from scalops.algebra.errors import ConfigError
from scalops.optimizer.costs.symbols import Symbols
from scalops.optimizer.costs.tree_search import Floats, Integers, Trees
from scalops.optimizer.costs.trees import (
    Kind,
    Links,
    PartialBytes,
    Reduction,
    TreePlan,
    broadcast_seconds,
    size_of,
    takes,
    unit_bounds,
    units_of,
)


@dataclass(frozen=True)
class Partials:
    """What travels in an iteration: partial results up, the environment down.

    `bytes` and `leaves` as of `best_tree`. `environment_bytes`: None where B tells. `may_be_flat`:
    whether the driver may add up what all workers send it.
    """

    bytes: PartialBytes
    links: Links
    leaves: int | None = None
    environment_bytes: float | None = None
    may_be_flat: bool = True

    def on(self, links: Links) -> Partials:
        """The same over other links."""
        return replace(self, links=links)


@dataclass(frozen=True)
class Way:
    """How partial results meet on each machine count.

    `aggregate`, `broadcast`: seconds, float64[counts]. `widest` of the fan-ins, at least 1.
    `fan_ins(n)`: of n machines; empty where the driver adds up.
    """

    kind: Kind
    aggregate: Floats
    broadcast: Floats
    widest: Integers
    fan_ins: Callable[[int], tuple[int, ...]]


class ClusterTrees:
    """The best trees of machine counts, int64[counts] in ascending order."""

    def __init__(
        self, counts: Integers, symbols: Symbols, partials: Partials | None, partitions: int | None
    ) -> None:
        self._counts, self._symbols, self._partials = counts, symbols, partials
        self._partitions, self._most = partitions, int(counts[-1])
        self._start, self._takes = self._level()
        self._reductions = self._uneven()

    @property
    def unlimited(self) -> list[Way]:
        """The best trees of any fan-ins, and the driver alone where that may be."""
        found = [self._tree(None)]
        partials = self._partials
        if partials is not None and partials.may_be_flat:
            found.append(self._flat(partials))
        return found

    def limited(self, widest: int) -> Way:
        """The best trees of fan-ins of at most `widest`."""
        return self._tree(widest)

    def _level(self) -> tuple[float, Floats]:
        """What a level takes by itself, and for each message."""
        s, partials = self._symbols, self._partials
        if partials is None:
            takes_a = np.full(self._most + 1, s.aggregate)
            return s.aggregate + s.level, takes_a
        if partials.leaves is not None:
            return partials.links.hop, np.zeros(0)  # messages differ: see `_uneven`
        return partials.links.hop, takes(self._most, size_of(partials.bytes), partials.links)

    def _uneven(self) -> dict[int, Reduction]:
        """A reduction of canonical pieces for each count, where their number is known."""
        own = self._partials
        if own is None or own.leaves is None:
            return {}
        size = size_of(own.bytes)
        return {
            n: Reduction(n, size, own.links, own.leaves, self._partitions)
            for n in self._counts.tolist()
        }

    def _tree(self, widest: int | None) -> Way:
        if self._reductions:
            best = {n: r.best(widest) for n, r in self._reductions.items()}
            seconds = np.array([self._after_mapping(n, found) for n, found in best.items()])
            return self._way(seconds, lambda n: best[n].fan_ins)
        trees = Trees(self._start, self._takes, widest)
        return self._way(trees.seconds[self._counts] + self._to_driver(), trees.fan_ins)

    def _after_mapping(self, workers: int, found: TreePlan) -> float:
        """Seconds of a tree from when the busiest worker has mapped: the others may be sooner."""
        s, partials, partitions = self._symbols, self._partials, self._partitions
        if partitions is None or partials is None or partials.leaves is None:
            return found.seconds
        if partials.leaves < units_of(workers, partitions):
            return found.seconds  # leaves are led on: workers wait for each other as they map
        own = np.diff(unit_bounds(workers, partitions)) / units_of(workers, partitions)
        records = s.records * own
        ready: Floats = records * s.map + np.maximum(0.0, records - s.cache) * s.load
        return self._reductions[workers].after(found.fan_ins, ready)

    def _way(self, seconds: Floats, fan_ins: Callable[[int], tuple[int, ...]]) -> Way:
        known = {n: fan_ins(n) for n in self._counts.tolist()}
        widest = np.array([max(f, default=1) for f in known.values()])
        broadcast = self._broadcast([*known.values()])
        return Way("tree", seconds, broadcast, widest, known.__getitem__)

    def _to_driver(self) -> Floats | float:
        """The way from the root to the driver; symbols know of none."""
        own = self._partials
        if own is None:
            return 0.0
        size = size_of(own.bytes)
        return np.array([own.links.hop + own.links.sent(size(n)) for n in self._counts.tolist()])

    def _flat(self, own: Partials) -> Way:
        if self._reductions:
            seconds = np.array([r.flat() for r in self._reductions.values()])
        else:
            seconds = own.links.hop + self._counts * self._takes[1]
        none: list[tuple[int, ...]] = [()] * len(self._counts)
        widest = np.ones(len(self._counts), np.int64)
        return Way("flat", seconds, self._broadcast(none), widest, lambda n: ())

    def _broadcast(self, fan_ins: list[tuple[int, ...]]) -> Floats:
        own, counts = self._partials, self._counts.tolist()
        if own is None or own.environment_bytes is None:
            steps = [(n - 1).bit_length() for n in counts]  # ⌈log₂ N⌉
            return self._symbols.broadcast * np.array(steps, float)
        if own.environment_bytes < 0:
            raise ConfigError(f"environment_bytes is {own.environment_bytes}; expected at least 0")
        size, links = own.environment_bytes, own.links
        return np.array(
            [broadcast_seconds(n, size, links, f) for n, f in zip(counts, fan_ins, strict=True)]
        )

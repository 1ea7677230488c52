"""How partial results meet: along a tree of workers, at the driver, or owner by owner.

The tree is the engine's (`Ranks` in engine/collective.py): blocks of neighbouring workers, a fan-in
for each level. Which pieces a worker has to send follows from the canonical reduction: leaves are
added up in one binary tree, whoever adds them, and a worker holds the nodes of it that its own
contiguous leaves fill (engine/rank_folds.py). A neutral decision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Literal, TypeAlias

import numpy as np

from scalops.algebra.errors import ConfigError
from scalops.optimizer.cost import Provenance
from scalops.optimizer.costs.machine import Machine
from scalops.optimizer.costs.tree_search import (
    Floats,
    Integers,
    Trees,
    UnevenTree,
    levels,
    sum_of_levels,
)
from scalops.optimizer.costs.tree_timing import seconds_up

Kind = Literal["tree", "flat", "ring"]
BUILT: tuple[Kind, ...] = ("tree", "flat")  # a ring is costed only: the engine has none
UNITS_OF_A_WORKER = 4  # as UNITS_OF_A_RANK of engine/collective.py
FORWARD_BYTES = 1 << 16  # as of engine/cluster/coordinator.py
# Bytes of a partial result: one number, or by how many leaves it covers where it grows with them.
# A leaf is one of the canonical reduction where their number is given, else all that a worker has.
PartialBytes: TypeAlias = float | Callable[[int], float]


@dataclass(frozen=True)
class Links:
    """How long workers take to hear of each other.

    `hop`: seconds until a message is heard of. `message`: seconds that it takes of who hears it.
    `link`: bytes/s between two workers, one message at a time. `add`: bytes/s of partial results
    added to others.
    """

    hop: float
    message: float
    link: float
    add: float
    provenance: Provenance = "assumed"

    def sent(self, size: float) -> float:
        """Seconds to hear a message of `size` bytes."""
        return self.message + size / self.link

    def taken(self, size: float) -> float:
        """Seconds to hear a partial result of `size` bytes, and to add it to another."""
        return self.sent(size) + size / self.add


def links_of(machine: Machine) -> Links:
    """The links between workers on such machines."""
    names = ("hop", "message", "link", "add")
    hop, message, link, add = (machine[name] for name in names)
    return Links(hop, message, link, add, machine.known(*names))


@dataclass(frozen=True)
class SparsePartial:
    """Bytes of a sparse sum that grows with the leaves it covers: `partial_bytes` of a tree.

    Of `dimension` elements each leaf fills `filled` at random, so n leaves fill
    dimension·(1 − (1 − filled/dimension)ⁿ); an element takes `item_bytes`.
    """

    dimension: float
    filled: float
    item_bytes: float = 12.0

    def __call__(self, covered: int) -> float:
        share = min(1.0, self.filled / self.dimension)
        rest = 0.0 if share == 1 else math.exp(covered * math.log1p(-share))
        return self.item_bytes * self.dimension * (1 - rest)


@dataclass(frozen=True)
class TreePlan:
    """How the partial results of a reduction meet, and until when the driver has the result.

    `fan_ins`: of the levels of a tree, the leaves' first; empty for other kinds and for one worker.
    `others`: the best of each other kind, the fastest first.
    """

    kind: Kind
    fan_ins: tuple[int, ...]
    seconds: float
    others: tuple[TreePlan, ...] = field(default=(), compare=False)

    @property
    def is_built(self) -> bool:
        """Whether the engine can run it."""
        return self.kind in BUILT


def best_tree(
    workers: int,
    partial_bytes: PartialBytes,
    links: Links,
    *,
    leaves: int | None = None,
    partitions: int | None = None,
    kinds: Sequence[Kind] = BUILT,
    widest: int | None = None,
) -> TreePlan:
    """The fastest of these kinds for so many workers; the others' times stand beside it.

    `leaves` of the canonical reduction, a power of two, and `partitions` of its table tell how many
    pieces each message has; without `leaves` each worker sends one. `widest`: the most that a
    level's fan-in may be.
    """
    made = Reduction(workers, partial_bytes, links, leaves, partitions)
    plans = sorted(made.plans(widest), key=lambda p: p.seconds)
    if not any(p.kind in kinds for p in plans):
        raise ConfigError(f"kinds is {tuple(kinds)}; expected some of ('tree', 'flat', 'ring')")
    chosen = next(p for p in plans if p.kind in kinds)
    others = tuple(p for p in plans if p is not chosen)
    return TreePlan(chosen.kind, chosen.fan_ins, chosen.seconds, others)


def tree_seconds(
    workers: int,
    fan_ins: Sequence[int],
    partial_bytes: PartialBytes,
    links: Links,
    *,
    leaves: int | None = None,
    partitions: int | None = None,
) -> float:
    """Seconds until the driver has the result of a given tree.

    The last of the `fan_ins` is that of all further levels.
    """
    if any(f < 2 for f in fan_ins) or (workers > 1 and not fan_ins):
        raise ConfigError(f"fan_ins is {tuple(fan_ins)}; expected ints of at least 2")
    return Reduction(workers, partial_bytes, links, leaves, partitions).tree(fan_ins)


def common_tree(
    workers: int,
    reductions: Sequence[tuple[PartialBytes, float]],
    links: Links,
    widest: int | None = None,
) -> TreePlan:
    """The one tree in which several reductions take least together, each message of one piece.

    `reductions`: bytes of a partial result, and how often the reduction is run. The seconds are
    those of all runs, to the driver. A sum of levels' sums is one too: so this is as exact as the
    best tree of one reduction.
    """
    made = [(Reduction(workers, size, links), often) for size, often in reductions]
    together = sum((often * one.takes() for one, often in made), np.zeros(workers + 1))
    trees = Trees(links.hop * sum(often for _, often in made), together, widest)
    last = sum(often * one.to_driver() for one, often in made)
    fan_ins = trees.fan_ins(workers)
    return TreePlan("tree", fan_ins, float(trees.seconds[workers]) + last)


class Reduction:
    """One reduction on so many workers: arguments as of `best_tree`."""

    def __init__(
        self,
        workers: int,
        partial_bytes: PartialBytes,
        links: Links,
        leaves: int | None = None,
        partitions: int | None = None,
    ) -> None:
        if workers < 1:
            raise ConfigError(f"workers is {workers}; expected an int of at least 1")
        if leaves is not None and (leaves < 1 or leaves & (leaves - 1)):
            raise ConfigError(f"leaves is {leaves}; expected a power of two")
        self._workers, self._links = workers, links
        self._size = size_of(partial_bytes)
        self._bounds = None if leaves is None else leaf_bounds(workers, leaves, partitions)
        self._whole = self._size(workers if leaves is None else leaves)

    def plans(self, widest: int | None = None) -> list[TreePlan]:
        """The best tree, and the other kinds."""
        flat, ring = TreePlan("flat", (), self.flat()), TreePlan("ring", (), self.ring())
        return [self.best(widest), flat, ring]

    def best(self, widest: int | None = None) -> TreePlan:
        """The best tree with fan-ins of at most `widest`, and from its root to the driver."""
        if widest is not None and widest < 2:
            raise ConfigError(f"widest is {widest}; expected an int of at least 2")
        if self._bounds is not None:
            seconds, fan_ins = self._best_uneven(self._bounds, widest)
        else:
            trees = Trees(self._links.hop, self.takes(), widest)
            seconds, fan_ins = float(trees.seconds[self._workers]), trees.fan_ins(self._workers)
        return TreePlan("tree", fan_ins, seconds + self.to_driver())

    def tree(self, fan_ins: Sequence[int]) -> float:
        """Seconds of a given tree, and from its root to the driver."""
        if self._bounds is None:
            takes = self.takes()
            up = sum_of_levels(self._links.hop, takes, fan_ins, self._workers)
        else:
            up = self._uneven(np.zeros(0)).seconds(fan_ins)
        return up + self.to_driver()

    def after(self, fan_ins: Sequence[int], ready: Floats) -> float:
        """Seconds of a given tree from when the last worker has its own partial result.

        `ready`: when each one has, float64[workers]. At most those of `tree`: workers that are
        ready sooner are heard sooner, and nobody waits for a whole level.
        """
        links = self._links
        up = seconds_up(
            fan_ins,
            ready,
            links.hop,
            lambda size: links.message + self._bytes(size) / links.link,
            lambda size: self._bytes(size) / links.add,
        )
        return up - float(ready.max()) + self.to_driver()

    def flat(self) -> float:
        """Seconds until the driver has added what all workers send it, one after the other."""
        return self._links.hop + float(self._edges(1).sum())

    def ring(self) -> float:
        """Seconds of a reduce-scatter by ranges of elements, and until the driver has the ranges.

        Each worker owns 1/N of the elements: it hears that part of all others' pieces, adds them
        in the canonical order, and sends its sums to the driver. All links are busy at once.
        """
        n, links = self._workers, self._links
        moved = self._bytes(1)
        heard = 0.0
        if n > 1:
            others = float(moved.sum() - moved.min()) / n  # of the owner who hears most
            heard = links.hop + (n - 1) * links.message + others / links.link + others / links.add
        return heard + links.hop + n * links.message + self._whole / links.link

    def takes(self) -> Floats:
        """As the function `takes`, of up to all workers."""
        return takes(self._workers, self._size, self._links)

    def _uneven(self, bounds: Floats) -> UnevenTree:
        return UnevenTree(self._workers, self._links.hop, self._edges, bounds)

    def _best_uneven(self, bounds: Integers, widest: int | None) -> tuple[float, tuple[int, ...]]:
        """The best tree; those of single pieces bound it, those of a few each come near it."""
        most = 1 << (self._workers - 1).bit_length()  # one bound for many numbers of workers
        hop, links, piece = self._links.hop, self._links, self._size(1)
        near = [_even_trees(most, hop, links.taken(n * piece), widest) for n in (1, 2, 3)]
        tried = [even.fan_ins(self._workers) for even in near]
        least = links.taken(0.0 if np.any(bounds[1:] == bounds[:-1]) else piece)
        never_below = _even_trees(most, hop, least).seconds
        return self._uneven(never_below).best(widest, tried)

    def _edges(self, size: int) -> Floats:
        """Seconds to take what each block of `size` workers has, float64[blocks]."""
        per_byte = 1 / self._links.link + 1 / self._links.add
        return self._links.message + self._bytes(size) * per_byte

    def _bytes(self, size: int) -> Floats:
        """Bytes of what each block of `size` workers has."""
        if self._bounds is None:
            covered = np.diff(np.minimum(np.arange(0, self._workers + size, size), self._workers))
            return np.array([self._size(int(n)) for n in covered])
        return piece_bytes(self._bounds[:-1:size], int(self._bounds[-1]), self._size)

    def to_driver(self) -> float:
        """Seconds from when the root has all until the driver has it."""
        return self._links.hop + self._links.sent(self._whole)


@lru_cache(256)
def _even_trees(most: int, start: float, take: float, widest: int | None = None) -> Trees:
    """The best trees of up to `most` workers where all messages take alike."""
    return Trees(start, np.full(most + 1, take), widest)


def takes(most: int, size: Callable[[int], float], links: Links) -> Floats:
    """Seconds to take the partial result of n workers, for n = 0..`most`; 0 for none of them."""
    found = np.array([links.taken(size(n)) for n in range(1, most + 1)])
    if np.any(np.diff(found) < 0):
        raise ConfigError(
            "the bytes of a partial result fall with the leaves that it covers; expected that they"
            " stay or grow"
        )
    return np.concatenate([[0.0], found])


def size_of(partial_bytes: PartialBytes) -> Callable[[int], float]:
    """Bytes by the number of leaves that are covered."""
    if callable(partial_bytes):
        return cache(partial_bytes)
    return lambda covered: partial_bytes


# Canonical pieces: what a worker holds of the binary tree over the leaves.


def units_of(workers: int, partitions: int | None) -> int:
    """Into how many runs a table's partitions are handed out, as `Ranks.units`: a power of two.

    Where nobody knows the partitions there are enough of them.
    """
    wanted = 1 << (UNITS_OF_A_WORKER * workers - 1).bit_length()
    most = wanted if partitions is None else max(1, min(partitions, wanted))
    return 1 << (most.bit_length() - 1)


def unit_bounds(workers: int, partitions: int | None) -> Integers:
    """The first unit of each worker, and the end of the last one's: int64[workers + 1]."""
    ranks = np.arange(workers + 1)
    bounds: Integers = -(-ranks * units_of(workers, partitions) // workers)
    return bounds


def busiest_share(workers: int, partitions: int | None) -> float:
    """The largest part of a table's partitions that a worker has.

    1/N where they come out even, and where nobody knows how many there are.
    """
    if partitions is None:
        return 1 / workers
    units, bounds = units_of(workers, partitions), unit_bounds(workers, partitions)
    return float(np.diff(bounds * partitions // units).max()) / max(1, partitions)


def leaf_bounds(workers: int, leaves: int, partitions: int | None) -> Integers:
    """The first leaf that each worker finishes, and the end: int64[workers + 1].

    A leaf of several workers' partitions is led on from one to the next; the last one has it.
    """
    found: Integers = unit_bounds(workers, partitions) * leaves // units_of(workers, partitions)
    return found


def piece_bytes(first: Integers, stop: int, size: Callable[[int], float]) -> Floats:
    """Bytes of the canonical pieces of the leaves from each of `first` to the next, or `stop`."""
    left, right = _halves(first, np.append(first[1:], stop))
    found = np.zeros(len(first))
    if size(1) == size(stop):  # it does not grow, so that pieces need only be counted
        return (np.bitwise_count(left) + np.bitwise_count(right)) * size(1)
    for level in range(stop.bit_length()):
        held = (left >> level & 1) + (right >> level & 1)
        if held.any():
            found += held * size(1 << level)
    return found


def pieces(first: int, stop: int) -> int:
    """In how many nodes of a binary tree the leaves `first`..`stop - 1` are held."""
    left, right = _halves(np.array([first]), np.array([stop]))
    return int(left[0]).bit_count() + int(right[0]).bit_count()


def _halves(first: Integers, stop: Integers) -> tuple[Integers, Integers]:
    """Leaves below and above the most even number within each range.

    A range that ends, or begins, at a number that even is covered by a node for each bit of its
    length.
    """
    differ = first ^ stop
    for shift in (1, 2, 4, 8, 16, 32):
        differ = differ | differ >> shift
    middle = stop & ~(differ >> 1)
    return middle - first, stop - middle


# The environment's way down.


def broadcast_seconds(
    workers: int, environment_bytes: float, links: Links, fan_ins: Sequence[int] = ()
) -> float:
    """Seconds until the last worker has the environment.

    The driver sends a small one to each worker, one after the other; one of more than FORWARD_BYTES
    goes to the root of the tree of `fan_ins`, and down that: each worker sends it to those below
    it, the farthest ones first, as the engine does.
    """
    if workers <= 2 or environment_bytes <= FORWARD_BYTES or not fan_ins:
        return links.hop + workers * links.sent(environment_bytes)
    send = links.sent(environment_bytes)
    made = tuple(levels(fan_ins, workers))
    return links.hop + send + _down(made, workers, send, links.hop)


def binary_broadcast_seconds(workers: int, environment_bytes: float, links: Links) -> float:
    """Seconds until the last of N workers has it where all that have it send it on: ⌈log₂ N⌉ + 1
    messages one after the other.
    """
    steps = 1 + max(0, workers - 1).bit_length()
    return steps * (links.hop + links.sent(environment_bytes))


def _down(fan_ins: tuple[int, ...], workers: int, send: float, hop: float) -> float:
    """Seconds from when a block's first worker has it until its last one does."""
    latest, before = 0.0, 0
    for level in reversed(range(len(fan_ins))):
        size = math.prod(fan_ins[:level])
        stop = min(workers, size * fan_ins[level])
        others = (stop - 1) // size
        if not others:
            continue
        # The farthest block has it first, and may be smaller than the nearest, which has it last.
        below = _down(fan_ins[:level], stop - others * size, send, hop)
        latest = max(latest, (before + 1) * send + hop + below)
        if others > 1:
            below = _down(fan_ins[:level], size, send, hop)
            latest = max(latest, (before + others) * send + hop + below)
        before += others
    return latest

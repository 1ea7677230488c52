"""Programs that several ranks run together: what they ask of each other, and who does what.

A plan runs on `size` ranks. Each runs the same program, a generator over its own partitions, and
yields where it needs the others: to send a piece, to receive one, to shuffle many. Who answers is
none of its business: worker processes over a network, a simulation, or nobody, where there is one
rank only (`alone`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from scalops.algebra.errors import ExecutionError
from scalops.engine.columns import Array

T = TypeVar("T")
DRIVER = -1  # stands for the driver where a rank is asked for
DEFAULT_FAN_INS = (4,)
# Partitions are handed out in at least so many units a rank: 16 units over 3 ranks leave 12 % of
# imbalance, and every unit is a whole part of the trees that reductions combine.
UNITS_OF_A_RANK = 4
# Version 1 of a neutral constant: the held side of a join that is longer is not sent to all ranks.
BROADCAST_BYTES = 64 << 20


class Piece(NamedTuple):
    """What passes between ranks: a header that msgpack can hold, and arrays as bytes."""

    header: Any
    buffers: list[Array]


@dataclass(frozen=True)
class Send:
    """Send a piece to a rank, or to the DRIVER; who asks goes on at once."""

    to: int
    piece: Piece


@dataclass(frozen=True)
class Receive:
    """The next piece that rank `source` sends in this program; pieces of one rank keep order."""

    source: int


@dataclass(frozen=True)
class Shuffle:
    """Stream pieces to ranks, the own one included, and take what all stream to this one.

    `pieces` is asked for more as the others take them; `take(source, piece)` is called with the
    pieces of each rank in their order, those of different ranks as they come. Done when every
    rank's stream has ended. All ranks ask for it together.
    """

    pieces: Iterable[tuple[int, Piece]]
    take: Callable[[int, Piece], None]


Ask: TypeAlias = Send | Receive | Shuffle
Program: TypeAlias = Generator[Ask, Any, T]


def tree_steps(size: int, fan_ins: Sequence[int]) -> list[tuple[int, int]]:
    """Of each level of a tree over so many ranks: how far apart its ranks are, before and after.

    `fan_ins` are those of the levels, the lowest first; the last one holds for all further ones.
    """
    steps, step = list[tuple[int, int]](), 1
    while step < size:
        wider = step * fan_ins[min(len(steps), len(fan_ins) - 1)]
        steps.append((step, wider))
        step = wider
    return steps


@dataclass(eq=False)
class Ranks:
    """One rank among all: which partitions are its own, and its place in the tree.

    The tree is by blocks of neighbours, on each level as many as its fan-in (to a rank on it so
    many others minus one send), so that neighbouring parts of a reduction meet early. It may be
    another one between two programs (`meet_along`), if it is so at all ranks. More than
    `broadcast_bytes` of a table are not sent to all ranks.
    """

    own: int = 0
    size: int = 1
    fan_ins: tuple[int, ...] = DEFAULT_FAN_INS
    broadcast_bytes: int = BROADCAST_BYTES

    def meet_along(self, fan_ins: tuple[int, ...]) -> None:
        """From now on the tree is one of these fan-ins."""
        self.fan_ins = fan_ins
        for name in ("parent", "children"):
            self.__dict__.pop(name, None)

    @property
    def is_alone(self) -> bool:
        """Whether there are no others."""
        return self.size == 1

    def units(self, partitions: int) -> int:
        """Into how many runs of neighbours partitions are handed out: a power of two."""
        most = max(1, min(partitions, 1 << (UNITS_OF_A_RANK * self.size - 1).bit_length()))
        return 1 << (most.bit_length() - 1)

    def range_of(self, rank: int, partitions: int) -> tuple[int, int]:
        """The partitions start..stop-1 whose home is `rank`, of a table that has so many."""
        units = self.units(partitions)
        first, last = (-(-r * units // self.size) for r in (rank, rank + 1))
        return first * partitions // units, last * partitions // units

    def home(self, partition: int, partitions: int) -> int:
        """The rank that is home of a partition; where there are few, those are the first ranks."""
        units = self.units(partitions)
        unit = ((partition + 1) * units - 1) // max(1, partitions)
        return unit * self.size // units

    @cached_property
    def parent(self) -> int | None:
        """Where this rank's part of a reduction goes; None for the root, rank 0."""
        for _, wider in tree_steps(self.size, self.fan_ins):
            if self.own % wider:
                return self.own - self.own % wider
        return None

    @cached_property
    def children(self) -> tuple[int, ...]:
        """The ranks whose parent is this one, in order."""
        found: list[int] = []
        for step, wider in tree_steps(self.size, self.fan_ins):
            if self.own % wider:
                break
            found += range(self.own + step, min(self.own + wider, self.size), step)
        return tuple(found)


ALONE = Ranks()


def alone(program: Program[T]) -> T:
    """Run a program of the only rank there is."""
    try:
        ask = next(program)
        while True:
            if not isinstance(ask, Shuffle):
                raise AssertionError(f"nobody is there to answer {type(ask).__name__}")
            _shuffled_alone(ask)
            ask = program.send(None)
    except StopIteration as end:
        result: T = end.value
        return result


def _shuffled_alone(ask: Shuffle) -> None:
    for to, piece in ask.pieces:
        assert to == 0
        ask.take(0, piece)


def gather_all(ranks: Ranks, own: Piece) -> Program[list[Piece]]:
    """Every rank's piece, by rank, at every rank."""
    if ranks.is_alone:
        return [own]
    found: dict[int, Piece] = {}

    def take(source: int, piece: Piece) -> None:
        found[source] = piece

    yield Shuffle([(to, own) for to in range(ranks.size)], take)
    return [found[i] for i in range(ranks.size)]


def gather_array(ranks: Ranks, own: Array) -> Program[Array]:
    """The arrays of all ranks, one after the other, at every rank; of one type and item shape."""
    if ranks.is_alone:
        return own
    shown = np.ascontiguousarray(own)
    pieces = yield from gather_all(ranks, Piece(list(own.shape), [shown]))
    parts = [p.buffers[0].view(own.dtype).reshape(p.header) for p in pieces]
    return np.concatenate(parts)


# Reductions along a tree of ranks.


class Span(NamedTuple):
    """Which leaves of which reduction a partial covers: those of one node of its tree.

    Node `node` of `level` covers the leaves node * 2**level to (node + 1) * 2**level - 1.
    """

    tree: int
    level: int
    node: int


class Spans:
    """Partials by what they cover; two that are neighbours in the tree become one.

    `leaves` are the numbers of leaves of each tree, powers of two; `merge(tree, a, b)` adds two
    partials, a's leaves before b's.
    """

    def __init__(self, leaves: Sequence[int], merge: Callable[[int, Any, Any], Any]) -> None:
        self._merge, self._leaves = merge, tuple(leaves)
        # By Span; as plain tuples, which are found as Spans are and made more quickly.
        self.held: dict[tuple[int, int, int], Any] = {}

    def add(self, span: Span, partial: Any) -> None:
        """Take a partial; ExecutionError where it covers leaves that are covered already."""
        tree, level, index = span
        top = self._leaves[tree].bit_length() - 1
        self._refuse_overlap(span, top)
        while level < top:
            other = tree, level, index ^ 1
            if other not in self.held:
                break
            neighbour = self.held.pop(other)
            pair = (neighbour, partial) if index & 1 else (partial, neighbour)
            partial = self._merge(tree, *pair)
            level, index = level + 1, index >> 1
        self.held[tree, level, index] = partial

    def _refuse_overlap(self, span: Span, top: int) -> None:
        tree, level, index = span
        if not 0 <= level <= top or not 0 <= index < 1 << (top - level):
            raise ExecutionError(f"a partial result of leaves that there are not: {span}")
        for other, known, node in self.held:
            up = level - known
            if other == tree and (node >> up == index if up >= 0 else index >> -up == node):
                raise ExecutionError(f"partial results overlap at {span}")

    def whole(self) -> list[Any]:
        """What each tree gives; ExecutionError where some leaves are missing."""
        tops = [(t, n.bit_length() - 1, 0) for t, n in enumerate(self._leaves)]
        if set(tops) != self.held.keys():
            raise ExecutionError(f"partial results are missing: there are {sorted(self.held)}")
        return [self.held[top] for top in tops]


def combine(
    ranks: Ranks,
    own: Spans,
    encode: Callable[[Any, list[Array]], Any],
    decode: Callable[[Any, Sequence[Array]], Any],
) -> Program[list[Any] | None]:
    """What each tree gives, at the root (rank 0), of what every rank has; None elsewhere.

    `encode(partial, buffers)` gives what msgpack can hold, arrays going to `buffers`; `decode`
    is its inverse.
    """
    for child in ranks.children:
        piece = yield Receive(child)
        for key, item in piece.header:
            own.add(Span(*key), decode(item, piece.buffers))
    if ranks.parent is None:
        return own.whole()
    buffers: list[Array] = []
    items = [[list(span), encode(partial, buffers)] for span, partial in own.held.items()]
    yield Send(ranks.parent, Piece(items, buffers))
    return None

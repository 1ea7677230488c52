"""Partitions of a source, and what the engine asks of every source."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from scalops.algebra.operators import Source
from scalops.engine.blocks import Block


@dataclass(frozen=True)
class Partition:
    """A contiguous range of a source; its bounds depend on the data alone.

    `start` and `stop` count rows, or bytes in text formats, from the source's first one; files
    are laid end to end. `path` is the file that holds the whole range, if one does. `rows` is
    exact, None where only reading tells.
    """

    index: int
    start: int
    stop: int
    path: str | None = None
    rows: int | None = None


class ReadableSource(Source, Protocol):
    """A source as the engine sees it: immutable, read by several threads at once."""

    def partitions(self) -> list[Partition]:
        """All of the source, in order; at least one, maybe empty."""
        ...

    def read(self, partition: Partition, columns: tuple[str, ...]) -> Iterator[Block]:
        """Stream blocks of `block_rows(self.schema)` records, the last one shorter.

        The bounds follow from the whole schema: reading fewer columns moves none. No columns
        give blocks that only count.
        """
        ...

    def head(self, rows: int, columns: tuple[str, ...]) -> Block:
        """The first `rows` records, or all if there are fewer, reading little more than these."""
        ...

    def check_unchanged(self) -> None:
        """Raise DataError, naming column or file, if the data are not those of the plan."""
        ...


def pieces(offsets: Sequence[int], start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """The parts of start..stop-1 as (file, first, last + 1), counted within each file.

    File i holds offsets[i]..offsets[i + 1] - 1 of the whole.

    >>> list(pieces([0, 10, 10, 25], 5, 12))
    [(0, 5, 10), (2, 0, 2)]
    """
    index = max(0, bisect_right(offsets, start) - 1)
    while start < stop and index < len(offsets) - 1:
        end = min(stop, offsets[index + 1])
        if start < end:
            yield index, start - offsets[index], end - offsets[index]
            start = end
        index += 1

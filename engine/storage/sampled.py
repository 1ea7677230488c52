"""Some partitions of a source as a source of its own, for short runs of a plan.

Whole partitions, spread over the source, so that blocks have the shapes that they have in the
whole. The engine reads such a source like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from scalops.algebra.conditions import Condition
from scalops.engine.kept_tables import KeptSource, KeptTable
from scalops.engine.storage.file_source import FileSource
from scalops.engine.storage.memory_source import MemorySource
from scalops.engine.storage.partitions import Partition


def spread_out(count: int, share: float) -> tuple[int, ...]:
    """Which of `count` partitions make about `share` of them: at least one, at equal distances.

    >>> spread_out(16, 0.25)
    (2, 6, 10, 14)
    """
    wanted = min(count, max(1, round(share * count)))
    return tuple((2 * i + 1) * count // (2 * wanted) for i in range(wanted))


def sampled(source: Any, share: float) -> Any | None:
    """About this share of a source's records; the source itself where that is all of it.

    None for a source of which no part can be had here: a kept table whose records lie at the ranks
    of a cluster, or a source of another kind. Columns in memory are copied.
    """
    if isinstance(source, KeptSource) and source.is_away:
        return None
    parts = source.partitions()
    chosen = spread_out(len(parts), share)
    if len(chosen) == len(parts):
        return source
    if isinstance(source, MemorySource):
        return source.ranges([(parts[i].start, parts[i].stop) for i in chosen])
    if isinstance(source, FileSource):
        return _files(source, parts, chosen)
    return _kept(source, chosen) if isinstance(source, KeptSource) else None


@dataclass(frozen=True, eq=False, repr=False)
class SampledFiles(FileSource):
    """Files of which some partitions only are read: `ranges`, `share` of all."""

    ranges: tuple[Partition, ...] = ()
    share: float = 1.0

    def __repr__(self) -> str:
        return f"Sampled({super().__repr__()}, {[(p.start, p.stop) for p in self.ranges]})"

    @property
    def rows(self) -> int | None:
        """The records of the partitions, if all of these say how many they have."""
        return _sum(p.rows for p in self.ranges)

    @property
    def likely_rows(self) -> float:
        """The number of records."""
        known = self.rows
        return super().likely_rows * self.share if known is None else known

    @property
    def bytes(self) -> int:
        """Size on disk, in proportion."""
        return int(super().bytes * self.share)

    @cached_property
    def stamp(self) -> str:
        """Depends on the contents alone."""
        return f"{super().stamp} {[(p.start, p.stop) for p in self.ranges]}"

    def partitions(self) -> list[Partition]:
        """Those that were chosen."""
        return list(self.ranges)

    def pruned(self, conditions: tuple[Condition, ...]) -> None:
        """Nothing more: the ranges are those of the whole source."""


def _files(source: FileSource, parts: Sequence[Partition], chosen: Sequence[int]) -> SampledFiles:
    ranges = tuple(replace(parts[at], index=i) for i, at in enumerate(chosen))
    size = sum(p.stop - p.start for p in parts)
    share = sum(p.stop - p.start for p in ranges) / max(1, size)
    known = {f.name: getattr(source, f.name) for f in fields(FileSource)}
    return SampledFiles(**known, ranges=ranges, share=share)


def _kept(source: KeptSource, chosen: Sequence[int]) -> KeptSource:
    table = source.table
    parts = {i: list(table.blocks(at)) for i, at in enumerate(chosen)}
    rows = sum(b.rows for part in parts.values() for b in part)
    size = int(table.source_bytes * rows / max(1, source.rows))
    key = f"{table.key} {list(chosen)}"
    return KeptSource(KeptTable(key, table.schema, len(parts), size, parts))


def _sum(numbers: Iterable[int | None]) -> int | None:
    found = list(numbers)
    return None if None in found else sum(n for n in found if n is not None)

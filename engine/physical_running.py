"""The physical plan's two passes of running aggregates.

The first leaves, for each partition, what runs on into it (`SummarizeRuns`); the second goes
through the records from there (`Accumulate`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from scalops.algebra.relations import Running
from scalops.algebra.schema import Schema
from scalops.engine.physical_plan import PhysicalTable, Properties, StoreSink


@dataclass(frozen=True, eq=False, repr=False)
class SummarizeRuns(StoreSink):
    """The carry of each running aggregate into each partition, as `number`.

    Partitions are summarized side by side, then the summaries are scanned. The arguments of
    `columns` are columns of the stage's table.
    """

    columns: tuple[Running, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Accumulate(PhysicalTable):
    """The records with running aggregates as new columns, after the others.

    Each partition goes on from its carry in `number`; those of a column with `reverse` are read
    whole, and from the end.
    """

    source: PhysicalTable
    columns: tuple[Running, ...]
    number: int

    @cached_property
    def schema(self) -> Schema:
        made = tuple((c.name, c.type) for c in self.columns)
        return Schema((*self.source.schema.fields, *made))

    @property
    def delivered(self) -> Properties:
        return self.source.delivered

"""The physical plan's sinks that relate records: each leaves a stored table behind."""

from __future__ import annotations

from dataclasses import dataclass

from scalops.engine.physical_plan import StoreSink


@dataclass(frozen=True, eq=False, repr=False)
class HoldTable(StoreSink):
    """Hold the records in memory as they come, all of them."""

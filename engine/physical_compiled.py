"""Sinks whose kernels are compiled just in time, as data."""

from __future__ import annotations

from dataclasses import dataclass

from scalops.engine.physical_plan import TreeAggregate


@dataclass(frozen=True, eq=False, repr=False)
class CompiledAggregate(TreeAggregate):
    """A TreeAggregate of which each block is folded by one compiled loop.

    The same folds and the same tree; within a block the additions have another order and exp,
    log and the like are not NumPy's, so that it is another plan with another fingerprint.
    """

"""What a loop leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scalops.algebra.expressions import CONVERGED, ITERATIONS
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Block

SECONDS = "@seconds"  # a field may be called `seconds`


@dataclass(frozen=True)
class StateRows:
    """The records of a table of the state: blocks by partition, as they lay in the loop."""

    schema: Schema
    parts: list[list[Block]]

    @property
    def blocks(self) -> list[Block]:
        """All blocks, in table order."""
        return [b for part in self.parts for b in part]


@dataclass
class LoopOutcome:
    """The final state by field, how many iterations it took, and what happened in each.

    A table of the state is its StateRows.

    `history` holds one number per iteration for each scalar field, and SECONDS; `profile`
    the seconds spent by kind of work over the whole loop. `stopped` says that the user's
    `on_iteration` ended it.
    """

    state: dict[str, Any]
    iterations: int
    converged: bool
    history: dict[str, Any] = field(default_factory=dict)
    profile: dict[str, float] = field(default_factory=dict)
    stopped: bool = False

    def value(self, name: str) -> Any:
        """A field, or `iterations` or `converged`."""
        if name == ITERATIONS:
            return np.int64(self.iterations)
        if name == CONVERGED:
            return np.bool_(self.converged)
        return self.state[name]

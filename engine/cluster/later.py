"""Stages that nobody waits for yet: they go out with the next command that somebody waits for.

Each command is a round trip; the steps between two folds of a loop's body are one of them then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from scalops.engine.backends import TableInfo
from scalops.engine.cluster.coordinator import Replies
from scalops.engine.physical_plan import Stage


class LaterInfo:
    """Stands for the TableInfo of a stage that has not been run: asked for, it is."""

    def __init__(self, settle: Callable[[], None]) -> None:
        self._settle = settle
        self.found: TableInfo | None = None

    def __getattr__(self, name: str) -> Any:
        if self.found is None:
            self._settle()
        return getattr(self.found, name)


class Later:
    """Stages to be run, in their order, each with its verb and what its replies are for."""

    def __init__(self) -> None:
        self._stages: list[tuple[Stage, str, Callable[[Replies], None]]] = []
        self._reads: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._stages)

    def add(self, stage: Stage, verb: str, take: Callable[[Replies], None]) -> None:
        """Run a stage later; `take` gets its replies."""
        self._stages.append((stage, verb, take))
        self._reads.update(stage.reads)

    def reads(self, slots: Iterable[int]) -> bool:
        """Whether a value that is to be bound is read by a stage that has not been run."""
        return not self._reads.isdisjoint(slots)

    def drained(self) -> list[tuple[Stage, str, Callable[[Replies], None]]]:
        """All of them, which are somebody else's to run now."""
        found, self._stages = self._stages, []
        self._reads.clear()
        return found

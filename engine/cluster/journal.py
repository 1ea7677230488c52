"""What has made the tables that ranks hold: so that a rank that is lost can be given them again.

A table that a stage has made is made again by that stage, from the values that it had read, as
long as the tables below it are those that it had read; where one of them is another by now, it is
one that the program makes anew before it is read. A table of a loop's state comes from a rank
that holds it. Counts of records are made like tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeAlias

from scalops.algebra.tree import find
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.physical_running import Accumulate

Key: TypeAlias = tuple[str, int]  # "table" or "count" or "prefix", and its number


@dataclass(frozen=True)
class Made:
    """A stage has been run: by this verb, with these values."""

    stage: int
    verb: str
    slots: dict[int, Any]
    reads: dict[Key, int]  # the versions of what it had read


class Journal:
    """Of one job."""

    def __init__(self, plan: pp.PhysicalPlan) -> None:
        self._stages = {s.number: s for s in plan.stages}
        self._reads = {s.number: _read_by(s) for s in plan.stages}
        self._versions = count(1)
        self._version: dict[Key, int] = {}
        self._made: dict[Key, Made | None] = {}  # None: a table of a state

    def is_fold(self, stage: int) -> bool:
        """Whether a stage gives values, and leaves nothing behind."""
        return isinstance(self._stages[stage].sink, pp.TreeAggregate)

    def made(self, stage: int, verb: str, values: Mapping[int, Any]) -> None:
        """A stage that leaves something behind has been run."""
        own = self._stages[stage]
        slots = {s: values[s] for s in own.reads if s in values}
        reads = {k: self._version[k] for k in self._reads[stage] if k in self._version}
        for key in _left_by(own.sink):
            self._renew(key, Made(stage, verb, slots, reads))

    def _renew(self, key: Key, entry: Made | None) -> None:
        self._made.pop(key, None)  # what is newer stands behind what is older
        self._made[key] = entry
        self._version[key] = next(self._versions)

    def adopt(self, moves: Sequence[tuple[int, int, bool]]) -> None:
        """Tables have become those of a state."""
        states = {state for state, _, _ in moves}
        for _, source, keep in moves:
            if not keep and source not in states:
                self.release(source)
        for state in states:
            self._renew(("table", state), None)

    def put(self, table: int) -> None:
        """A table has been given to all ranks."""
        self._renew(("table", table), None)

    def release(self, table: int) -> None:
        """A table is forgotten."""
        self._made.pop(("table", table), None)
        self._version.pop(("table", table), None)

    def states(self) -> list[int]:
        """The tables that have to come from a rank that holds them."""
        return [key[1] for key, entry in self._made.items() if entry is None]

    def again(self) -> list[Made]:
        """The stages to be run again, in their order; what is stale by now is dropped.

        So is what was made of that: the program makes it anew, too, before it is read.
        """
        while stale := [k for k, entry in self._made.items() if self._is_stale(entry)]:
            for key in stale:
                del self._made[key], self._version[key]
        return [entry for entry in self._made.values() if entry is not None]

    def _is_stale(self, entry: Made | None) -> bool:
        return entry is not None and any(
            self._version.get(key) != version for key, version in entry.reads.items()
        )


def _left_by(sink: pp.Sink) -> list[Key]:
    match sink:
        case pp.CountRows(number=number):
            return [("count", number)]
        case pp.CountPrefix(number=number):
            return [("prefix", number)]
        case pp.CacheTable(number=number) | pp.StoreSink(number=number):
            return [("table", number)]
    return []


def _read_by(stage: pp.Stage) -> list[Key]:
    keys: list[Key] = [("table", number) for number in stage.sink.other_tables]
    for node in find((stage,), pp.PhysicalTable):
        match node:
            case pp.StoredTable(number=n) | pr.Probe(number=n) | Accumulate(number=n):
                keys.append(("table", n))
            case pp.TakePrefix(number=n):
                keys.append(("prefix", n))
            case pp.TakeRange(number=n) | pp.NumberRows(number=n):
                keys.append(("count", n))
    return list(dict.fromkeys(keys))

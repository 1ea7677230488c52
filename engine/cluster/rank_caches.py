"""What a rank keeps from one job of a session to the next: tables in memory, by key and partition.

Three kinds of tables: those that the user keeps by `cache()`, those that do not change in a loop,
and the driver's, sent over the network. A partition is worth the time that it saves: uses times
the seconds it took to make. When memory is short, that goes first which is worth least per byte;
what the present job reads stays, unless the driver can send it again and the room is needed for
what it cannot.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import NamedTuple

from scalops.algebra.expressions import Slot
from scalops.algebra.fingerprint import fingerprint
from scalops.algebra.schema import Schema
from scalops.algebra.tree import find
from scalops.engine import physical_plan as pp
from scalops.engine.blocks import Block
from scalops.engine.kept_tables import OWNER, KeptTable
from scalops.engine.memory import MemoryBudget

_LEAST_SECONDS = 1e-6  # of making a partition, however fast it was


class _Worth(NamedTuple):
    is_used: bool  # by the present job
    per_byte: float
    key: str
    partition: int


@dataclass
class RankTable(KeptTable):
    """A table's partitions at this rank. `uses` counts the jobs that have read it.

    `by_user` says that the user has asked for it, so that no other cache takes its room; `sent`
    that the driver can send it again.
    """

    uses: int = 0
    by_user: bool = field(default=False, kw_only=True)
    sent: bool = field(default=False, kw_only=True)

    def worth(self, partition: int) -> float:
        """Seconds that it saves, for each byte."""
        seconds = max(self.seconds.get(partition, 0.0), _LEAST_SECONDS)
        return self.uses * seconds / max(1, self.sizes.get(partition, 0))


class RankCaches:
    """The tables of one session at one rank. Threads may use it at once."""

    def __init__(self) -> None:
        self._tables: dict[str, RankTable] = {}
        self._used: frozenset[str] = frozenset()
        self._budget = MemoryBudget()
        self._keeps = False  # what the driver has sent is being kept
        self._lock = threading.RLock()

    @property
    def bytes(self) -> int:
        """Bytes of all tables."""
        with self._lock:
            return sum(t.bytes for t in self._tables.values())

    def begin(
        self, plan: pp.PhysicalPlan, budget: MemoryBudget, reads: Iterable[str] = ()
    ) -> Mapping[str, KeptTable]:
        """A job begins: the tables that it fills and reads, by the keys of its CacheTable stages.

        `budget` is the job's; what is kept counts against it from here on. `reads` are the keys
        of the driver's tables that the plan scans.
        """
        caches = {s.sink.key: s for s in plan.stages if isinstance(s.sink, pp.CacheTable)}
        caches.pop("", None)
        with self._lock:
            self._budget = budget
            self._used = frozenset((*caches, *reads))
            for key in (self._used - caches.keys()) & self._tables.keys():
                self._tables[key].uses += 1
            budget.spare = lambda size: (OWNER, self.spare(size, sent=True))
            budget.evict = lambda size: (OWNER, self._evict(size))
            self._fit(budget)
            found = {key: self._begun(key, s.source.schema) for key, s in caches.items()}
            for key, table in found.items():
                table.by_user, table.sent = not key.startswith(_INVARIANT), False
            return found

    def _fit(self, budget: MemoryBudget) -> None:
        """Count what is kept; where it is more than a job may have, drop some of it before."""
        used = self._used
        for self._used in (used, frozenset()):
            if budget.limit is not None:
                self.spare(self.bytes + budget.beside() - budget.limit)
        self._used = used
        budget.require(self.bytes, OWNER)

    def _begun(self, key: str, schema: Schema) -> RankTable:
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = RankTable(key, schema)
        table.uses += 1
        return table

    def find(self, key: str, partition: int) -> list[Block] | None:
        """The blocks of a partition; None where they are not kept."""
        with self._lock:
            table = self._tables.get(key)
            return None if table is None else table.parts.get(partition)

    def has(self, key: str, partitions: Iterable[int]) -> bool:
        """Whether all of these are kept."""
        with self._lock:
            table = self._tables.get(key)
            return table is not None and table.parts.keys() >= set(partitions)

    def keep(
        self, key: str, schema: Schema, partition: int, blocks: list[Block], seconds: float
    ) -> bool:
        """Keep a partition that it took so many seconds to get, if there is room for it."""
        size = sum(b.bytes for b in blocks)
        with self._lock:
            table = self._tables.get(key) or self._begun(key, schema)
            table.sent = True
            self._used |= {key}
            if partition in table.parts:
                return True
            self._keeps = True
            try:
                if not self._budget.reserve(size, OWNER):
                    return False
            finally:
                self._keeps = False
            table.parts[partition], table.sizes[partition] = blocks, size
            table.seconds[partition] = seconds
            return True

    def _evict(self, size: int) -> int:
        """Make room for a cache of the job, or for what the driver sends: not for each other."""
        return self.spare(size, by_user=False, sent=not self._keeps)

    def spare(self, size: int, *, by_user: bool = True, sent: bool = False) -> int:
        """Drop what is worth least, of tables that the present job does not read.

        Until `size` bytes are free, or nothing is left; the user's own only with `by_user`. With
        `sent`, at last what the job reads and the driver can send again. Returns the bytes that
        were freed.
        """
        freed = 0
        with self._lock:
            worths = sorted(
                _Worth(key in self._used, t.worth(p), key, p)
                for key, t in self._tables.items()
                if (t.sent and sent if key in self._used else by_user or not t.by_user)
                for p in t.parts
            )
            for _, _, key, partition in worths:
                if freed >= size:
                    break
                freed += self._dropped(self._tables[key], partition)
        return freed

    def _dropped(self, table: RankTable, partition: int) -> int:
        del table.parts[partition]
        table.seconds.pop(partition, None)
        return table.sizes.pop(partition, 0)

    def forget(self, keys: Iterable[str]) -> None:
        """Drop tables: the user has said so, or the driver's data are another."""
        with self._lock:
            for key in keys:
                table = self._tables.pop(key, None)
                if table is not None:
                    self._budget.release(OWNER, table.bytes)


# Keys.

_INVARIANT = "invariant "
# Tables that need nothing of other stages.
_ALONE = (
    pp.TableScan, pp.Compute, pp.Select, pp.Gate, pp.Concatenate, pp.Unnest, pp.Interleave,
    pp.CallBatches,
)  # fmt: skip


def with_keys(plan: pp.PhysicalPlan) -> pp.PhysicalPlan:
    """The plan with a key for each cache whose content no driver value has a part in.

    A key says how the records are computed, from which columns of which sources: two jobs of a
    session that compute the same table share it. What calls functions of the user's is made
    again in each job, as it is where there is one process.
    """
    stages = []
    for stage in plan.stages:
        match stage.sink:
            case pp.CacheTable(key="") as sink if (key := content_key(stage)) is not None:
                stages.append(replace(stage, sink=replace(sink, key=key)))
            case _:
                stages.append(stage)
    return replace(plan, stages=tuple(stages))


def stands_alone(table: pp.PhysicalTable) -> bool:
    """Whether a rank can compute any partition from sources alone, at any time.

    A kept table at the ranks is such a source if it can be made again itself.
    """
    tables = find((table,), pp.PhysicalTable)
    sources = [t.source for t in tables if isinstance(t, pp.TableScan)]
    lasting = all(s.origin is not None for s in sources if getattr(s, "is_away", False))
    return lasting and not find((table,), Slot) and all(isinstance(t, _ALONE) for t in tables)


def content_key(stage: pp.Stage) -> str | None:
    """What the content of a stage's table depends on; None where that is not known beforehand."""
    if stage.calls_functions or not stands_alone(stage.source):
        return None
    tables = find((stage.source,), pp.TableScan)
    # A stamp is that of a sample: a source's own text tells two of them apart for sure.
    sources = sorted(repr(t.source) for t in tables)
    text = f"{fingerprint(stage.source)} {sources}"
    return _INVARIANT + blake2b(text.encode(), digest_size=16).hexdigest()

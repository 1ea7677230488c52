"""What a plan on workers shows beyond the plan: who has what, who sends what to whom.

Read off the plan and its sources' metadata; nothing is asked of a worker. Sizes are `exact` where
metadata tell them, else `estimated`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from scalops.algebra.explain import bytes_text
from scalops.algebra.tree import find
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.collective import Ranks, tree_steps
from scalops.engine.neutral import Neutral
from scalops.engine.physical_running import SummarizeRuns
from scalops.engine.reduction import leaf_bytes, leaf_count, leaf_ranges
from scalops.engine.relations.partitioned_index import may_be_partitioned

Details = list[tuple[str, str]]
_LISTED = 6  # ranks, or edges of a tree, that are named; of more the first ones and the last

ARRAY_STATE = (
    "array state: the driver's; a lost worker's partitions of the running iteration are done again"
)
TABLE_STATE = (
    "table state ({}): a copy on every worker; all lost: back to the last checkpoint, else to the"
    " loop's start"
)


@dataclass(frozen=True)
class Workers:
    """What the display is told: `count` workers, one rank each, and what is decided for them.

    `meet` says by stage how partial results meet, and why. Values of more than `forward_bytes` go
    down the tree. Of a cluster that nobody has asked `count` is None and `where` its URI.
    """

    count: int | None
    neutral: Neutral
    meet: Mapping[int, str]
    forward_bytes: int
    where: str = "processes of this machine"


@dataclass(frozen=True)
class _Size:
    """Records of a table, and how that is known."""

    rows: float
    known: str


class ClusterNotes:
    """The details of a plan's parts when it runs on workers."""

    def __init__(self, plan: pp.PhysicalPlan, workers: Workers) -> None:
        self._plan, self._workers = plan, workers
        size = workers.count or 1
        self._ranks = [Ranks(r, size, workers.neutral.fan_ins) for r in range(size)]
        self._makers = {
            s.sink.number: s
            for s in plan.stages
            if isinstance(s.sink, (pp.CacheTable, pp.StoreSink))
        }
        # A table of a state lies as the one that the loop starts with does.
        self._starts = {t.state: t.start for loop in self._loops for t in loop.tables}

    @cached_property
    def _loops(self) -> list[pp.Iterate]:
        return find(self._plan.program, pp.Iterate)

    # The whole plan.

    def plan(self) -> Details:
        """Workers, the tree, and who is home of which partitions of each source."""
        if self._workers.count is None:
            shown = f"those of {self._workers.where}: how many is known once a session asks it"
            return [("workers", shown)]
        count = self._workers.count
        details = [("workers", f"{count}, {self._workers.where}: {_named_ranks(count)}")]
        details.append(("tree", self._tree()))
        homes = dict.fromkeys(f"{title}, {self._homes(count)}" for title, count in self._sources())
        return [*details, *(("home", h) for h in homes)]

    def _sources(self) -> list[tuple[str, int]]:
        """Title and partitions of each source that is read."""
        scans = dict.fromkeys(t for s in self._plan.stages for t in find((s.source,), pp.TableScan))
        read: dict[int, tuple[pp.TableScan, set[str]]] = {}
        for scan in scans:
            read.setdefault(id(scan.source), (scan, set()))[1].update(scan.columns)
        return [
            (_titled(s.source, columns), len(s.source.partitions())) for s, columns in read.values()
        ]

    def layout(self) -> dict[str, Any] | None:
        """The same as plain data; None where nobody has asked how many workers there are.

        `parents[r]`: the rank to which rank r sends its part of a reduction, None for the driver;
        `homes`: of each source and cached table whose partitions are known, `ranges[r]` = [start,
        stop], the partitions that rank r has.
        """
        count = self._workers.count
        if count is None:
            return None
        caches = [
            (f"t{stage.sink.number}", partitions)
            for stage in self._plan.stages
            if isinstance(stage.sink, pp.CacheTable)
            and (partitions := self._partitions(stage.source)) is not None
        ]
        homes = [
            {
                "table": title,
                "partitions": partitions,
                "ranges": [[*self._ranks[0].range_of(r, partitions)] for r in range(count)],
            }
            for title, partitions in dict.fromkeys([*self._sources(), *caches])
        ]
        parents = [rank.parent for rank in self._ranks]
        return {"count": count, "where": self._workers.where, "parents": parents, "homes": homes}

    def _tree(self) -> str:
        fan_ins = self._workers.neutral.fan_ins
        steps = tree_steps(len(self._ranks), fan_ins)
        edges: dict[tuple[int, int], list[int]] = {}
        for rank in self._ranks:
            if rank.parent is not None:
                level = sum(wider <= rank.own - rank.parent for _, wider in steps)
                edges.setdefault((level, rank.parent), []).append(rank.own)
        shown = [f"{', '.join(map(str, _some(c)))} → {to}" for (_, to), c in sorted(edges.items())]
        listed = "; ".join([*_some(shown), "0 → driver"])
        return f"{_fan_ins(fan_ins, len(steps))}: {listed}"

    def _homes(self, partitions: int) -> str:
        ranges = [self._ranks[0].range_of(r.own, partitions) for r in self._ranks]
        listed = [f"rank {i}: {_range(*own)}" for i, own in enumerate(ranges) if own[0] < own[1]]
        idle = len(ranges) - len(listed)
        shown = _some(listed)
        if idle:
            shown.append(f"{idle} of {len(ranges)} workers {'has' if idle == 1 else 'have'} none")
        return "; ".join([_count(partitions, "partition"), *shown])

    # Stages.

    def stage(self, stage: pp.Stage) -> Details:
        """What workers hold, send and call in a stage."""
        if self._workers.count is None:
            return []
        details = self._sink(stage)
        if stage.calls_functions:
            where = "in the workers, in batches: each worker for its own partitions"
            details.append(("functions", where))
        return details

    def _sink(self, stage: pp.Stage) -> Details:
        match stage.sink:
            case pp.TreeAggregate():
                return self._reduction(stage, stage.sink)
            case pp.CacheTable(number=number):
                return [("home", f"t{number}, {self._held(stage)}")]
            case pr.BuildIndex():
                return [("workers", self._index(stage, stage.sink))]
            case pr.HoldTable():
                return [("workers", self._held(stage))]
            case pr.HoldColumns():
                return [("workers", f"a copy on every worker, {self._whole(stage)}")]
        return [("workers", _MEETING[type(stage.sink)](stage.sink))]

    def _reduction(self, stage: pp.Stage, sink: pp.TreeAggregate) -> Details:
        flat = stage.number in self._workers.neutral.at_driver
        details = [("meet", self._workers.meet[stage.number])]
        leaves = self._leaves(stage, sink)
        if leaves is None:
            details.append(("leaves", "follow from the table when it is there"))
            return details
        by_rank = _counted_leaves(self._ranks[0], *leaves)
        listed = "; ".join(f"rank {i}: {n}" for i, n in enumerate(by_rank))
        if len(by_rank) > _LISTED:
            listed = f"{min(by_rank)} to {max(by_rank)} a rank"
        details.append(("leaves", f"{leaves[1]}; {listed}"))
        details.append(("pieces", self._pieces(by_rank, flat)))
        return details

    def _pieces(self, leaves: Sequence[int], flat: bool) -> str:
        """Partial results that each rank sends: parts of the tree over leaves that are whole."""
        ends = [sum(leaves[:i]) for i in range(len(leaves) + 1)]
        if flat:
            each = [f"{i} → driver: {_dyadic(*ends[i : i + 2])}" for i in range(len(leaves))]
            return "; ".join(_some(each))
        sent = [
            f"{rank.own} → {rank.parent}: {_dyadic(ends[rank.own], ends[_end_below(rank)])}"
            for rank in self._ranks
            if rank.parent is not None
        ]
        return "; ".join(_some(sent)) or "none: one rank has all leaves"

    def _leaves(self, stage: pp.Stage, sink: pp.TreeAggregate) -> tuple[int, int] | None:
        """Partitions and leaves of a reduction; None where only the run tells."""
        scan, partitions = self._source(stage.source), self._partitions(stage.source)
        if scan is None or partitions is None or find((stage.source,), pp.TakeRange):
            return None
        return partitions, leaf_count(partitions, int(scan.source.bytes), leaf_bytes(sink.folds))

    # Tables.

    def _index(self, stage: pp.Stage, sink: pr.BuildIndex) -> str:
        """Where the held side of a join lies; the run decides, by the bytes that there are."""
        most = self._workers.neutral.broadcast.get(sink.number, self._ranks[0].broadcast_bytes)
        size = self._size(stage.source)
        by_hash = f"by hash of {', '.join(sink.keys)}: each worker the records of its own keys"
        if not sink.keys or not may_be_partitioned(self._plan.stages, sink.number):
            return f"broadcast: all records to every worker, {self._whole(stage)}"
        if size is None:
            return f"broadcast up to {bytes_text(most)}, more {by_hash}"
        whole = size.rows * stage.source.schema.bytes_per_row
        if whole > most:
            return f"{by_hash}, {bytes_text(whole / len(self._ranks))} a worker (estimated)"
        return f"broadcast: all records to every worker, {self._whole(stage)}"

    def _held(self, stage: pp.Stage) -> str:
        """Where the partitions of a table lie that each rank holds its own of."""
        partitions = self._partitions(stage.source)
        if partitions is None:
            return "each worker its own partitions"
        homes = self._homes(partitions)
        size = self._size(stage.source)
        if size is None:
            return homes
        ranges = [self._ranks[0].range_of(r.own, partitions) for r in self._ranks]
        share = max(stop - start for start, stop in ranges) / max(1, partitions)
        most = bytes_text(size.rows * stage.source.schema.bytes_per_row * share)
        return f"{homes}; at most {most} a worker (estimated)"

    def _whole(self, stage: pp.Stage) -> str:
        size = self._size(stage.source)
        if size is None:
            return "of a size that the run tells"
        return f"{bytes_text(size.rows * stage.source.schema.bytes_per_row)} each ({size.known})"

    def _source(self, table: pp.PhysicalTable) -> pp.TableScan | None:
        """The one source whose partitions a table has, through caches."""
        base = pp.base(table)
        while isinstance(base, pp.StoredTable):
            made = self._makers.get(base.number)
            if made is None or not isinstance(made.sink, (pp.CacheTable, pr.HoldTable)):
                return None
            base = pp.base(made.source)
        return base if isinstance(base, pp.TableScan) else None

    def _partitions(self, table: pp.PhysicalTable) -> int | None:
        base = pp.base(table)
        made = self._makers.get(base.number) if isinstance(base, pp.StoredTable) else None
        if made is not None and isinstance(made.sink, pp.Exchange):
            return made.sink.required.partitions
        scan = self._source(table)
        return None if scan is None else len(scan.source.partitions())

    def _size(self, table: pp.PhysicalTable) -> _Size | None:
        """The records of a table, as far as metadata tell; a filter may leave fewer."""
        match table:
            case pp.TableScan(source=source):
                if source.rows is None:
                    return _Size(source.likely_rows, "estimated")
                return _Size(source.rows, "exact" if _is_plain(table) else "estimated")
            case pp.StoredTable(number=number):
                made = self._makers.get(self._starts.get(number, number))
                if made is None or not isinstance(made.sink, _AS_MANY):
                    return None
                return self._size(made.source)
            case pp.Multiply() | pp.Concatenate():
                return None
        source = getattr(table, "source", None)
        below = self._size(source) if isinstance(source, pp.PhysicalTable) else None
        exact = isinstance(table, (pp.Compute, pp.NumberRows)) and _is_plain(table)
        return below if below is None or exact else _Size(below.rows, "estimated")

    # Loops.

    def loop(self, loop: pp.Iterate) -> Details:
        """What is sent for each iteration, and what a lost worker costs."""
        stages = [self._plan.stages[i.stage] for i in find((*loop.test, *loop.body), pp.RunStage)]
        changing = {loop.counter, *loop.state, *loop.next}
        for evaluate in find((*loop.test, *loop.body), pp.Evaluate):
            changing.update(slot for slot, _ in evaluate.assignments)
        for stage in stages:
            if isinstance(stage.sink, pp.TreeAggregate):
                changing.update(stage.sink.slots)
        read = changing & {slot for stage in stages for slot in stage.reads}
        size = sum(self._plan.slots[slot][1].bytes for slot in read)
        details = []
        if read:
            how = "down the tree" if size > self._workers.forward_bytes else "from the driver"
            shown = f"{bytes_text(size)} an iteration to every worker, {how}"
            details.append(("environment", shown))
        if loop.nested:
            return details
        if loop.fields:
            details.append(("recovery", ARRAY_STATE))
        if loop.tables:
            names = ", ".join(t.name for t in loop.tables)
            details.append(("recovery", TABLE_STATE.format(names)))
        return details


_AS_MANY = (pp.CacheTable, pr.HoldTable, pr.HoldColumns, pr.BuildIndex, pp.Exchange, pp.SortRows)


def _everywhere(sink: pp.Sink) -> str:
    return "found by every worker for itself, over its copies; each reads its own partitions of it"


def _groups(sink: Any) -> str:
    few = "partial results along the tree"
    if not sink.keys:
        return few
    keys = ", ".join(sink.keys)
    return f"few groups: {few}; many: the records of a group at one worker, by hash of {keys}"


def _exchanged(sink: Any) -> str:
    required = sink.required
    by = f"by hash of {', '.join(required.keys)}" if required.layout == "hash" else "in table order"
    return f"exchanged worker to worker, {by}"


_MEETING: dict[type[pp.Sink], Callable[[pp.Sink], str]] = {
    pr.IndexJoin: _everywhere,
    pr.IndexFilter: _everywhere,
    pr.MeetIndexed: _everywhere,
    pr.GroupRows: _groups,
    pr.IndexGroup: _everywhere,
    pr.ApplyGroups: lambda _: "a group's records meet at one worker, which calls the function",
    pp.Exchange: _exchanged,
    pp.SortRows: lambda _: "exchanged worker to worker, by ranges of the keys",
    pp.DistinctRows: lambda _: "first ones of each partition, exchanged worker to worker",
    SummarizeRuns: lambda _: "summaries of all partitions to every worker",
    pp.CountPrefix: lambda _: "counts of all partitions to every worker",
    pp.CountRows: lambda _: "counts of all partitions to every worker",
    pp.Gather: lambda _: "each worker's partitions to the driver, in table order",
}


def _is_plain(table: pp.PhysicalTable) -> bool:
    """Whether each record takes as many bytes as its types say."""
    return all(kind.is_plain for _, kind in table.schema)


def _counted_leaves(ranks: Ranks, partitions: int, leaves: int) -> list[int]:
    """How many leaves each rank finishes: those whose last partition is its own."""
    found = [0] * ranks.size
    for start, stop in leaf_ranges(partitions, leaves):
        found[ranks.home(stop - 1, partitions) if stop > start else 0] += 1
    return found


def _end_below(rank: Ranks) -> int:
    """One more than the last rank whose partial results reach this one."""
    reach = 1
    for _, wider in tree_steps(rank.size, rank.fan_ins):
        if rank.own % wider:
            break
        reach = wider
    return min(rank.own + reach, rank.size)


def _dyadic(start: int, stop: int) -> int:
    """Into how few whole nodes of a binary tree the leaves start..stop-1 fall."""
    count = 0
    while start < stop:
        size = start & -start or 1 << (stop - start).bit_length() - 1
        while size > stop - start:
            size >>= 1
        start, count = start + size, count + 1
    return count


def _fan_ins(fan_ins: tuple[int, ...], levels: int) -> str:
    """The tree in words; 2·5 are the fan-ins of two levels, the lowest first."""
    own = [fan_ins[min(i, len(fan_ins) - 1)] for i in range(levels)] or [fan_ins[0]]
    word = str(own[0]) if len(set(own)) == 1 else "·".join(map(str, own))
    return f"fan-in {word}, {_count(levels, 'level')}"


def _some(listed: list[Any]) -> list[Any]:
    """All, or the first ones and the last."""
    return listed if len(listed) <= _LISTED else [*listed[: _LISTED - 2], "…", listed[-1]]


def _titled(source: Any, columns: set[str]) -> str:
    """A source's name, and which of its columns the plan reads: names may be alike."""
    read = [name for name in source.schema.names if name in columns]
    if len(read) > _LISTED:
        read = [*read[: _LISTED - 2], f"… {len(read)} columns"]
    return f"{source.title} ({', '.join(read)})" if read else str(source.title)


def _range(start: int, stop: int) -> str:
    return str(start) if stop == start + 1 else f"{start}–{stop - 1}"


def _named_ranks(count: int) -> str:
    return "rank 0" if count == 1 else f"ranks 0 to {count - 1}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"

"""The backend of several workers: every verb is a command to all ranks of the job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from scalops.algebra.tree import find
from scalops.engine import physical_plan as pp
from scalops.engine.backends import TableInfo, Take
from scalops.engine.cluster.coordinator import Coordinator, Expect, JobSettings, Replies
from scalops.engine.cluster.driver_merges import DriverMerges
from scalops.engine.cluster.file_sources import may_pass_over
from scalops.engine.cluster.later import Later, LaterInfo
from scalops.engine.cluster.rank_caches import stands_alone
from scalops.engine.cluster.sent_blocks import FromRanks, windows
from scalops.engine.cluster.verbs import replies_of
from scalops.engine.collective import Piece, Ranks
from scalops.engine.kept_tables import KeptTable
from scalops.engine.neutral import Change
from scalops.engine.recording import NO_RECORDER, Recorder
from scalops.engine.value_codec import decode_value

if TYPE_CHECKING:
    from scalops.algebra.schema import Schema
    from scalops.engine.blocks import Block
    from scalops.engine.columns import Array

Encode = Callable[[pp.PhysicalPlan], "list[Array]"]


class ClusterBackend:
    """Fulfils `backends.Backend` by the ranks of a coordinator's job."""

    def __init__(
        self,
        coordinator: Coordinator,
        settings: JobSettings,
        encode: Encode,
        keep: Mapping[str, KeptTable] | None = None,
        recorder: Recorder = NO_RECORDER,
    ) -> None:
        """`encode` gives a plan as it is sent to workers; `keep` are the session's tables, by key.

        Of these the ranks keep the records. A `recorder` hears of what they measure.
        """
        self._keep, self._recorder = keep or {}, recorder
        if recorder.meter is not None:
            settings = replace(settings, profile=True)
            recorder.placed(settings.ranks, 0)
        self._coordinator, self._settings, self._encode = coordinator, settings, encode
        self._results: dict[int, tuple[Any, ...]] = {}
        self._partial_bytes: dict[int, float] = {}
        self._gathered: dict[int, tuple[int, dict[int, list[Block]]]] = {}
        self._schemas: dict[int, Schema] = {}
        self._later = Later()
        self._may_wait = False
        self._begun = self._cancelled = False

    # Life.

    def start(self, plan: pp.PhysicalPlan) -> None:
        self._begun, self._cancelled = True, False
        self._schemas = {s.number: s.source.schema for s in plan.stages}
        self._stages = {s.number: s for s in plan.stages}
        # All ranks reply to each command where they may have something to tell beside.
        self._root: Expect = "all" if may_pass_over(plan) else "root"
        self._merges = DriverMerges(plan, self._recorder.meter)
        self._coordinator.recorder = self._recorder
        self._later.drained()
        # An error is to be raised in the loop whose stage it is.
        self._may_wait = not find(plan.program, pp.IterateTogether)
        self._coordinator.begin(plan, self._encode(plan), self._settings)

    def stop(self) -> None:
        if self._begun:
            self._begun = False
            self._gathered.clear()
            self._later.drained()
            self._coordinator.finish()

    def cancel(self) -> None:
        self._cancelled = True
        self.stop()

    def lost(self) -> tuple[str, ...]:
        return self._coordinator.lost()

    def commit(self, iteration: int) -> None:
        pass  # array state is the driver's; tables of a state are on every rank

    def change(self, change: Change) -> None:
        # Which thread runs a stage is each rank's own affair.
        neutral = self._settings.neutral
        if change.at_driver is not None:
            neutral = replace(neutral, at_driver=change.at_driver)
        if change.fan_ins or change.held:
            self._call("change", [list(change.fan_ins), [list(i) for i in change.held.items()]])
            held = {**neutral.held, **change.held}
            neutral = replace(neutral, fan_ins=change.fan_ins or neutral.fan_ins, held=held)
        self._settings = replace(self._settings, neutral=neutral)
        self._coordinator.decided(self._settings)

    def bind(self, values: Mapping[int, Any]) -> None:
        if self._later.reads(values):
            self.settle()
        self._coordinator.bind(values)
        self._gathered.clear()

    # Stages.

    def _call(self, verb: str, arguments: Any, expect: Expect = "all") -> Replies:
        """The replies to a command; what was to be run later is run before, in the same one."""
        self._require_wanted()
        later = self._later.drained()
        if not later:
            return self._coordinator.call(verb, arguments, expect)
        steps = [[v, s.number] for s, v, _ in later]
        if verb:
            steps.append([verb, arguments])
        replies = self._coordinator.call("steps", steps, "all")
        parts = {rank: replies_of(piece) for rank, piece in replies.items()}
        for i, (stage, own, take) in enumerate(later):
            self._coordinator.journal.made(stage.number, own, self._coordinator.values)
            take({rank: pieces[i] for rank, pieces in parts.items()})
        return {rank: pieces[-1] for rank, pieces in parts.items()}

    def settle(self) -> None:
        if self._later:
            self._call("", None)

    def _require_wanted(self) -> None:
        if self._cancelled:
            raise KeyboardInterrupt

    def _run_later(self, stage: int, verb: str, take: Callable[[Replies], None]) -> bool:
        """Whether a stage may be run with the next command; its replies go to `take` then."""
        self._require_wanted()
        own = self._stages[stage]
        if not self._may_wait or own.calls_functions:
            return False
        self._later.add(own, verb, take)
        return True

    def run_stage(self, stage: int) -> None:
        journal = self._coordinator.journal
        if journal.is_fold(stage):
            self.run_stages((stage,))
        elif not self._run_later(stage, "count", lambda replies: None):
            self._call("count", stage)
            journal.made(stage, "count", self._coordinator.values)

    def run_stages(self, stages: Sequence[int]) -> None:
        if self._settings.neutral.at_driver.issuperset(stages):
            self._add_up(list(stages))
            return
        found = self._call("fold", list(stages), self._root)[0]
        for stage, item in found.header:
            self._results[stage] = tuple(decode_value(item, found.buffers))
        if len(stages) == 1:
            self._partial_bytes[stages[0]] = float(sum(b.nbytes for b in found.buffers))

    def _add_up(self, stages: list[int]) -> None:
        """The same, by the driver itself."""
        replies = self._call("partials", stages)
        if len(stages) == 1:
            sizes = [sum(b.nbytes for b in piece.buffers) for piece in replies.values()]
            self._partial_bytes[stages[0]] = float(max(sizes))
        self._merges.bind(self._coordinator.values)
        self._results.update(self._merges.results([replies[r] for r in sorted(replies)]))

    def partial_bytes(self) -> Mapping[int, float]:
        return dict(self._partial_bytes)

    def combine(self, stage: int) -> tuple[Any, ...]:
        return self._results[stage]

    def load(self, stage: int) -> TableInfo:
        replies = self._made(stage, "load")
        sink = self._stages[stage].sink
        assert isinstance(sink, pp.CacheTable)
        if sink.key in self._keep:
            self._keep_away(self._keep[sink.key], stage, replies)
        return _of_all(replies)

    def _keep_away(self, table: KeptTable, stage: int, replies: Replies) -> None:
        """Note that the ranks keep a table, if each of them has all of its own partitions."""
        size, source = self._settings.ranks, self._stages[stage].source
        rows: dict[int, int] = {}
        for rank, piece in replies.items():
            count, (source_bytes, items) = piece.header[0], piece.header[6:]
            found = dict(items)
            own = range(*Ranks(rank, size).range_of(rank, count))
            rows.update({p: found[p] for p in own if p in found})
        if len(rows) == count:
            scans = [s.source for s in find((source,), pp.TableScan)]
            if any(getattr(s, "table", None) is table for s in scans):
                origin = table.origin  # it has been read, not made
            else:
                origin = source if stands_alone(source) else None
            table.lie_away([rows[p] for p in range(count)], source_bytes, origin)

    def exchange(self, stage: int) -> TableInfo:
        later = LaterInfo(self.settle)

        def take(replies: Replies) -> None:
            later.found = _of_all(replies)

        if self._run_later(stage, "exchange", take):
            return cast("TableInfo", later)
        return _of_all(self._made(stage, "exchange"))

    def _made(self, stage: int, verb: str) -> Replies:
        replies = self._call(verb, stage)
        self._coordinator.journal.made(stage, verb, self._coordinator.values)
        return replies

    def adopt(self, moves: Sequence[tuple[int, int, bool]]) -> None:
        self.settle()
        self._coordinator.tell("adopt", [list(move) for move in moves])
        self._coordinator.journal.adopt(moves)
        self._gathered.clear()

    def put(self, table: int, schema: Schema, blocks: list[Block]) -> None:
        self.settle()
        self._coordinator.call("put", [table, None], "all", (schema, blocks))
        self._coordinator.journal.put(table)

    def release(self, table: int) -> None:
        self.settle()
        self._coordinator.tell("release", table)
        self._coordinator.journal.release(table)

    def partitions(self, stage: int) -> int:
        return self._gather(stage)[0]

    def fetch(self, stage: int, partition: int) -> list[Block]:
        count, found = self._gather(stage)
        if partition == count - 1:  # whoever wants them once more has them sent once more
            del self._gathered[stage]
        return found.get(partition, [])

    def stream(self, stage: int, take: Take) -> None:
        self._require_wanted()
        self.settle()
        replies = self._coordinator.call("results", stage, "all")
        sizes = {p: own for piece in replies.values() for p, own in piece.header}
        for begin, end in windows(sizes):
            arguments = [stage, list(begin), list(end)]
            found = self._sent("send", arguments, stage)[1]
            for partition in sorted(found):
                take(iter(found.pop(partition)))

    def _gather(self, stage: int) -> tuple[int, dict[int, list[Block]]]:
        if stage not in self._gathered:
            self._require_wanted()
            self.settle()
            replies, found = self._sent("gather", stage, stage)
            self._gathered[stage] = replies[0].header, found
        return self._gathered[stage]

    def _sent(
        self, verb: str, arguments: Any, stage: int
    ) -> tuple[Replies, dict[int, list[Block]]]:
        """The replies to a command, and the blocks of the stage that ranks have sent before."""
        sent = FromRanks(self._schemas[stage])

        def again() -> Callable[[int, Piece], None]:
            nonlocal sent
            sent = FromRanks(self._schemas[stage])
            return sent.take

        replies = self._coordinator.call(verb, arguments, "all", again=again)
        return replies, sent.found


def _of_all(replies: Replies) -> TableInfo:
    """What the ranks say of their parts of a table, together."""
    infos = [TableInfo(*p.header[:4], *map(tuple, p.header[4:6])) for p in replies.values()]
    return TableInfo(
        infos[0].partitions,
        sum(i.rows for i in infos),
        sum(i.bytes for i in infos),
        sum(i.cached for i in infos),
        tuple(sorted({n for i in infos for n in i.nan})),
        tuple(sorted({n for i in infos for n in i.infinite})),
    )

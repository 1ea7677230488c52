"""Stages that send records to other partitions: repartitioned, sorted, made distinct."""

from __future__ import annotations

from scalops.engine import physical_plan as pp
from scalops.engine.blocks import Block, partition_bounds
from scalops.engine.collective import Program
from scalops.engine.columns import empty
from scalops.engine.exchanges import (
    Parts,
    distinct_block,
    distinct_bytes,
    distinct_parts,
    sorted_parts,
    sorting_bytes,
)
from scalops.engine.passes import in_partition
from scalops.engine.pipelines.base import HeldTable, Stored
from scalops.engine.relations.base import Relation, Run
from scalops.engine.relations.gathering import own_partitions
from scalops.engine.relations.rank_exchanges import exchanged_by_ranks
from scalops.engine.relations.routing import cut_to
from scalops.engine.relations.spilled_exchanges import Spilled
from scalops.engine.spill import Kept, SpilledBlocks


class Exchanged(Relation):
    """Records in other partitions, or in another order.

    What the budget has no room for lies in files. The only rank sorts and compares its records in
    memory where all of them are there; several ranks send them to each other.
    """

    def make(self, run: Run) -> Program[Stored]:
        try:
            if not self.runtime.ranks.is_alone:
                return (yield from exchanged_by_ranks(self, run))
            return self._exchanged(run)
        except BaseException:
            self.runtime.budget.release(self.owner)
            raise

    def _exchanged(self, run: Run) -> Stored:
        pipeline, sink, budget = self.pipeline, self.stage.sink, self.runtime.budget
        kept = SpilledBlocks(budget, self.owner, pipeline.schema)
        held, size = self._held(run, kept), pipeline.source_bytes
        parts = Spilled(budget, self.owner, pipeline.schema, held, kept)
        if isinstance(sink, pp.Exchange):
            count = sink.required.partitions or len(partition_bounds(0, pipeline.schema))
            return parts.repartitioned(sink.required, count, size)
        if not parts.rows:
            return HeldTable([[] for _ in held], size)
        if kept.file is None:
            made = self._in_memory([[kept.get(k) for k in part] for part in held], held)
            if made is not None:
                return HeldTable(made, size)
        if isinstance(sink, pp.SortRows):
            return parts.sorted(sink, size)
        assert isinstance(sink, pp.DistinctRows)
        return parts.distinct(sink.columns, self.runtime.room(self.owner), size)

    def _held(self, run: Run, kept: SpilledBlocks) -> list[list[Kept]]:
        """The pipeline's records by partition; those in memory that are equal, once for each."""
        pipeline, sink, budget = self.pipeline, self.stage.sink, self.runtime.budget
        parts: list[list[Kept]] = [[] for _ in range(pipeline.partitions())]
        distinct = sink if isinstance(sink, pp.DistinctRows) else None
        names = {n: n for n in pipeline.schema.names}

        def task(worker: int, index: int) -> None:
            partition = active[index]
            own = parts[partition]
            with in_partition(partition):
                for block in pipeline.blocks(partition, worker):
                    if not block.rows:
                        continue
                    made = block.chosen(names)
                    if budget.room(made.bytes, self.owner):
                        own.append(made)
                        continue
                    if distinct is not None:
                        made = distinct_block([made], pipeline.schema, distinct.columns)
                    own += kept.add_parts(list(cut_to(made)))
                whole = [k for k in own if isinstance(k, Block)]
                before = sum(b.bytes for b in whole)
                if distinct is None or len(whole) < len(own) or not whole:
                    return
                if budget.room(2 * before, self.owner):
                    made = distinct_block(whole, pipeline.schema, distinct.columns)
                    own[:] = [made]
                    budget.release(self.owner, 3 * before - made.bytes)

        active = own_partitions(pipeline, self.runtime.ranks)
        run(task, len(active))
        return parts

    def _in_memory(self, parts: Parts, held: list[list[Kept]]) -> Parts | None:
        """The table's partitions, if there is room to sort or compare all records at once.

        Nothing of `held` is left then.
        """
        sink, schema, budget = self.stage.sink, self.pipeline.schema, self.runtime.budget
        before = sum(b.bytes for part in parts for b in part)
        if isinstance(sink, pp.SortRows):
            if not budget.room(extra := sorting_bytes(parts, sink), self.owner):
                return None
            for part in held:
                part.clear()
            made = sorted_parts(parts, sink, schema)
        else:
            assert isinstance(sink, pp.DistinctRows)
            blank = Block(0, {n: empty(k) for n, k in schema})
            firsts = [p[0] if p else blank for p in parts]
            if not budget.room(extra := distinct_bytes(firsts, schema, sink.columns), self.owner):
                return None
            for part in held:
                part.clear()
            made = distinct_parts(firsts, schema, sink.columns)
        after = sum(b.bytes for part in made for b in part)
        budget.release(self.owner, extra + before - after)
        return made

"""Stages that send records to other partitions: repartitioned, sorted, made distinct."""

from __future__ import annotations

from scalops.engine import physical_plan as pp
from scalops.engine.blocks import Block
from scalops.engine.collective import Program
from scalops.engine.columns import empty
from scalops.engine.exchanges import (
    Parts,
    distinct_block,
    distinct_parts,
    repartitioned,
    sorted_parts,
)
from scalops.engine.passes import in_partition
from scalops.engine.pipelines.base import HeldTable, Stored
from scalops.engine.relations.base import Relation, Run
from scalops.engine.relations.gathering import own_partitions
from scalops.engine.relations.rank_exchanges import exchanged_by_ranks


class Exchanged(Relation):
    """Records in other partitions, or in another order.

    The only rank holds all of them, for which the budget has room. Several ranks send them to
    each other; what their budgets have no room for lies in files.
    """

    def make(self, run: Run) -> Program[Stored]:
        try:
            if not self.runtime.ranks.is_alone:
                return (yield from exchanged_by_ranks(self, run))
            return HeldTable(self._exchanged(run), self.pipeline.source_bytes)
        except BaseException:
            self.runtime.budget.release(self.owner)
            raise

    def _exchanged(self, run: Run) -> Parts:
        pipeline, sink, budget = self.pipeline, self.stage.sink, self.runtime.budget
        received: Parts = [[] for _ in range(pipeline.partitions())]
        distinct = sink if isinstance(sink, pp.DistinctRows) else None

        def task(worker: int, index: int) -> None:
            partition = active[index]
            with in_partition(partition):
                own = received[partition]
                for block in pipeline.blocks(partition, worker):
                    budget.require(block.bytes, self.owner)
                    own.append(Block(block.rows, dict(block.columns), block.valid))
                if distinct is not None and own:
                    before = sum(b.bytes for b in own)
                    own[:] = [distinct_block(own, pipeline.schema, distinct.columns)]
                    budget.release(self.owner, before - own[0].bytes)

        active = own_partitions(pipeline, self.runtime.ranks)
        run(task, len(active))
        if not isinstance(sink, pp.Exchange) and not any(b.rows for p in received for b in p):
            return [[] for _ in received]
        match sink:
            case pp.Exchange(required=required):
                blocks = [b for p in received for b in p]
                return repartitioned(blocks, required, pipeline.schema)
            case pp.SortRows():
                return sorted_parts(received, sink, pipeline.schema)
            case pp.DistinctRows(columns=columns):
                blank = Block(0, {n: empty(k) for n, k in pipeline.schema})
                firsts = [p[0] if p else blank for p in received]
                return distinct_parts(firsts, pipeline.schema, columns)
        raise TypeError(type(sink).__name__)

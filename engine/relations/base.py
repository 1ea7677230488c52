"""Relations: stages that end in a stored table, kept from one iteration to the next."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scalops.engine import physical_plan as pp
from scalops.engine.blocks import Block
from scalops.engine.collective import Program
from scalops.engine.passes import in_partition
from scalops.engine.pipelines.base import Pipeline, Runtime, Stored
from scalops.engine.relations.gathering import own_partitions
from scalops.engine.spill import Kept, SpilledBlocks
from scalops.engine.spilled_memory import Room
from scalops.engine.threads import Task

Run = Callable[[Task, int], None]


class Relation:
    """Makes the stored table of one stage.

    There is one for a stage as long as the plan runs, so that it may keep what serves the next
    iteration too. It reserves the memory of its table under `owner`, which the backend releases
    with the table. `nan` and `infinite` name columns of the last table that hold such, of those
    that its sink wants to be looked through.
    """

    nan: tuple[str, ...] = ()
    infinite: tuple[str, ...] = ()

    def __init__(self, stage: pp.Stage, pipeline: Pipeline, runtime: Runtime) -> None:
        sink = stage.sink
        assert isinstance(sink, pp.StoreSink)
        self.stage, self.pipeline, self.runtime = stage, pipeline, runtime
        self.owner = f"exchange {sink.number}"

    def make(self, run: Run) -> Program[Stored]:
        """The table, of the records that the pipeline gives now; `run` runs tasks on threads.

        Every rank runs it, over its own partitions.
        """
        raise NotImplementedError

    def new_room(self) -> Room:
        """Where what `make` keeps lies; a new one each time, so that old files can go."""
        return self.runtime.room(self.owner)

    def forget(self) -> None:
        """Drop what is kept of earlier iterations: what it spares is done again."""


class Hold(Relation):
    """The records as they come; those that the budget has no room for lie in a file."""

    def make(self, run: Run) -> Program[Stored]:
        yield from ()
        pipeline = self.pipeline
        kept = SpilledBlocks(self.runtime.budget, self.owner, pipeline.schema)
        parts: list[list[Kept]] = [[] for _ in range(pipeline.partitions())]
        active = own_partitions(pipeline, self.runtime.ranks)
        names = {n: n for n in pipeline.schema.names}

        def task(worker: int, index: int) -> None:
            partition = active[index]
            with in_partition(partition):
                for block in pipeline.blocks(partition, worker):
                    own = _without_gaps(block.chosen(names))
                    parts[partition].append(kept.add(own, pipeline.resident))

        run(task, len(active))
        made = kept.table(parts, pipeline.source_bytes)
        if not self.runtime.ranks.is_alone:
            made.homes = [pipeline.home(p) for p in range(pipeline.partitions())]
        return made


def _without_gaps(block: Block) -> Block:
    """The same records in arrays laid out as a file gives them back."""
    for name, values in block.columns.items():
        if isinstance(values, np.ndarray) and not values.flags.forc:
            block.columns[name] = values.copy(order="K")
    return block

"""Relations: stages that end in a stored table, kept from one iteration to the next."""

from __future__ import annotations

from collections.abc import Callable

from scalops.engine import physical_plan as pp
from scalops.engine.blocks import Block
from scalops.engine.collective import Program
from scalops.engine.passes import in_partition
from scalops.engine.pipelines.base import HeldTable, Pipeline, Runtime, Stored, own_bytes
from scalops.engine.relations.gathering import own_partitions
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

    def received(self, run: Run) -> list[list[Block]]:
        """The pipeline's blocks by partition, all in memory: those of the rank's own."""
        pipeline, budget = self.pipeline, self.runtime.budget
        parts: list[list[Block]] = [[] for _ in range(pipeline.partitions())]
        active = own_partitions(pipeline, self.runtime.ranks)

        def task(worker: int, index: int) -> None:
            partition = active[index]
            with in_partition(partition):
                for block in pipeline.blocks(partition, worker):
                    budget.require(own_bytes(block, pipeline.resident), self.owner)
                    parts[partition].append(Block(block.rows, dict(block.columns), block.valid))

        run(task, len(active))
        return parts


class Hold(Relation):
    """The records as they come."""

    def make(self, run: Run) -> Program[Stored]:
        yield from ()
        pipeline = self.pipeline
        made = HeldTable(self.received(run), pipeline.source_bytes)
        if not self.runtime.ranks.is_alone:
            made.homes = [pipeline.home(p) for p in range(pipeline.partitions())]
        return made

"""From a physical table to the pipeline that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalops.algebra.tree import Node
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.physical_running import Accumulate
from scalops.engine.pipelines import base as pipelines
from scalops.engine.pipelines import computed, multiplied, row_ranges
from scalops.engine.pipelines.base import Pipeline, Runtime
from scalops.engine.pipelines.probed import ProbePipeline
from scalops.engine.pipelines.running import AccumulatePipeline
from scalops.engine.stage_operators import operators_of

# What a step over another table's blocks is compiled to.
_OVER: dict[type[pp.PhysicalTable], type[Pipeline]] = {
    pp.Compute: computed.ComputePipeline,
    pp.Select: computed.SelectPipeline,
    pp.TakePrefix: row_ranges.TakePrefixPipeline,
    pp.TakeRange: row_ranges.TakeRangePipeline,
    pp.Gate: row_ranges.GatePipeline,
    pp.NumberRows: row_ranges.NumberRowsPipeline,
    pp.Unnest: multiplied.UnnestPipeline,
    pp.Interleave: multiplied.InterleavePipeline,
    pp.CallBatches: multiplied.CallBatchesPipeline,
    pr.Probe: ProbePipeline,
    Accumulate: AccumulatePipeline,
}


def build(node: pp.PhysicalTable, runtime: Runtime, stage: pp.Stage | None = None) -> Pipeline:
    """Compile a physical table, of a `stage`; the runtime's meter measures its operators."""
    numbers = {} if stage is None else {n: i for i, n in enumerate(operators_of(stage))}
    return _built(node, runtime, stage, numbers)


def _built(
    own: Any, runtime: Runtime, stage: pp.Stage | None, numbers: Mapping[Node, int]
) -> Pipeline:
    """A function of its own: one within `build` that calls itself would keep the runtime alive,
    and the memory of its tables, until the collector of cycles comes round.
    """

    def made(kind: type[Pipeline], *given: Any) -> Pipeline:
        if runtime.meter is None or stage is None:
            return kind(own, *given)
        return runtime.meter.pipeline((stage.number, numbers[own]), kind, own, *given)

    match own:
        case pp.TableScan():
            return made(pipelines.ScanPipeline, runtime)
        case pp.StoredTable():
            return made(pipelines.StoredPipeline, runtime)
        case pp.Concatenate(sources=sources):
            below = [_built(s, runtime, stage, numbers) for s in sources]
            return made(row_ranges.ConcatenatePipeline, below)
    return made(_OVER[type(own)], _built(own.source, runtime, stage, numbers), runtime)

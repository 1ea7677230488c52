"""From a physical table to the pipeline that runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.physical_running import Accumulate
from scalops.engine.pipelines import base as pipelines
from scalops.engine.pipelines import computed, multiplied, row_ranges
from scalops.engine.pipelines.base import Pipeline, Runtime
from scalops.engine.pipelines.probed import ProbePipeline
from scalops.engine.pipelines.running import AccumulatePipeline

# What a step over another table's blocks is compiled to.
_OVER: dict[type[pp.PhysicalTable], Callable[[Any, Pipeline, Runtime], Pipeline]] = {
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


def build(node: pp.PhysicalTable, runtime: Runtime) -> Pipeline:
    """Compile a physical table."""
    match node:
        case pp.TableScan():
            return pipelines.ScanPipeline(node, runtime)
        case pp.StoredTable():
            return pipelines.StoredPipeline(node, runtime)
        case pp.Concatenate(sources=sources):
            return row_ranges.ConcatenatePipeline(node, [build(s, runtime) for s in sources])
    step: Any = node
    return _OVER[type(node)](step, build(step.source, runtime), runtime)

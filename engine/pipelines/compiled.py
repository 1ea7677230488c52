"""From a physical table to the pipeline that runs it."""

from __future__ import annotations

from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.physical_running import Accumulate
from scalops.engine.pipelines import base as pipelines
from scalops.engine.pipelines import multiplied, row_ranges
from scalops.engine.pipelines.base import Pipeline, Runtime
from scalops.engine.pipelines.probed import ProbePipeline
from scalops.engine.pipelines.running import AccumulatePipeline


def build(node: pp.PhysicalTable, runtime: Runtime) -> Pipeline:
    """Compile a physical table."""
    match node:
        case pp.TableScan():
            return pipelines.ScanPipeline(node, runtime)
        case pp.StoredTable():
            return pipelines.StoredPipeline(node, runtime)
        case pp.Concatenate(sources=sources):
            return row_ranges.ConcatenatePipeline(node, [build(s, runtime) for s in sources])
        case pp.Compute(source=source):
            return pipelines.ComputePipeline(node, build(source, runtime), runtime)
        case pp.Select(source=source):
            return pipelines.SelectPipeline(node, build(source, runtime), runtime)
        case pp.TakePrefix(source=source):
            return pipelines.TakePrefixPipeline(node, build(source, runtime), runtime)
        case pp.TakeRange(source=source):
            return row_ranges.TakeRangePipeline(node, build(source, runtime), runtime)
        case pp.Gate(source=source):
            return row_ranges.GatePipeline(node, build(source, runtime), runtime)
        case pp.NumberRows(source=source):
            return row_ranges.NumberRowsPipeline(node, build(source, runtime), runtime)
        case pp.Unnest(source=source):
            return multiplied.UnnestPipeline(node, build(source, runtime), runtime)
        case pp.Interleave(source=source):
            return multiplied.InterleavePipeline(node, build(source, runtime), runtime)
        case pp.CallBatches(source=source):
            return multiplied.CallBatchesPipeline(node, build(source, runtime), runtime)
        case pr.Probe(source=source):
            return ProbePipeline(node, build(source, runtime), runtime)
        case Accumulate(source=source):
            return AccumulatePipeline(node, build(source, runtime), runtime)
    raise TypeError(type(node).__name__)

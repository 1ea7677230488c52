"""The folds of a plan that could be compiled, and how much work each of them is."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from scalops.algebra import expressions as ex
from scalops.algebra.definitions import over_source
from scalops.algebra.expressions import columns_read, within
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.blocks import block_rows
from scalops.engine.kernels.jit.accumulators import COUNTS
from scalops.engine.kernels.jit.elementwise import HEAVY, Refused, is_elementwise
from scalops.engine.kernels.jit.source import written
from scalops.engine.physical_compiled import CompileWork

ASSUMED_ITERATIONS = 20  # of a loop that runs until its condition is false
ASSUMED_ROWS = 1000.0  # of a table in a loop's environment
ASSUMED_SHARE = 0.5  # that a filter keeps


def compile_works(plan: pp.PhysicalPlan, least_records: float = 0.0) -> list[CompileWork]:
    """The folds of a plan, but for those that only count, or see fewer records in all passes."""
    stages = {
        s.sink.number: s for s in plan.stages if isinstance(s.sink, (pp.CacheTable, pp.StoreSink))
    }
    found = []
    for number, passes, known in _runs(plan.program):
        stage = plan.stages[number]
        folds = stage.sink.folds if isinstance(stage.sink, pp.TreeAggregate) else ()
        if all(f.kind in COUNTS for f in folds):
            continue
        rows = _rows(stage.source, stages)
        if rows * passes >= least_records:
            found.append(_work(stage, rows, passes, known))
    return found


def _work(stage: pp.Stage, rows: float, passes: float, known: bool) -> CompileWork:
    sink = stage.sink
    assert isinstance(sink, pp.TreeAggregate)
    folds = list(dict.fromkeys(f.computation for f in sink.folds))
    arguments = over_source(sink.map, [a for f in folds for a in f.arguments])
    lines, refused = 0, None
    try:
        lines = written(folds, arguments).text.count("\n")
    except Refused as reason:
        refused = str(reason)
    steps = [n for n in within(arguments) if isinstance(n, ex.Call) and columns_read([n])]
    elementwise = [n for n in steps if is_elementwise(n) or n.function.name in _OF_EXPONENTIALS]
    products = [n for n in steps if n.function.name == "matmul"]
    weighted = [f for f in folds if f.kind.endswith(("scaled", "outer"))]
    return CompileWork(
        stage=stage.number,
        rows=rows,
        blocks=-(-rows // block_rows(stage.source.schema)),
        passes=passes,
        known=known,
        calls=len(steps) + len(folds),
        elements=float(sum(_size(n) for n in elementwise)),
        heavy=float(sum(_size(n) for n in elementwise if _is_heavy(n))),
        multiplied=float(
            sum(max(_size(a) for a in n.arguments) for n in products)
            + sum(f.type.size for f in weighted)
        ),
        lines=lines,
        refused=refused,
    )


_OF_EXPONENTIALS = ("softmax", "logsumexp")


def _is_heavy(node: ex.Call) -> bool:
    return node.function.name in (*HEAVY, *_OF_EXPONENTIALS)


def _size(node: ex.Expression) -> int:
    if isinstance(node, ex.Call) and node.function.name in _OF_EXPONENTIALS:
        return node.arguments[0].type.size
    kind = node.any_type
    return getattr(kind, "size", 1)


def _runs(
    program: Sequence[pp.Instruction], times: float = 1.0, known: bool = True
) -> Iterator[tuple[int, float, bool]]:
    """The stages that a program runs, how often, and whether that is known."""
    for instruction in program:
        match instruction:
            case pp.RunStage(stage=stage):
                yield stage, times, known
            case pp.Iterate():
                yield from _in_loop(instruction, times, known)
            case pp.IterateTogether(loops=loops):
                for loop in loops:
                    yield from _in_loop(loop, times, known)


def _in_loop(loop: pp.Iterate, times: float, known: bool) -> Iterator[tuple[int, float, bool]]:
    elements = None if loop.range is None else loop.range.known
    most = loop.max_iterations or sys.maxsize
    many = min(ASSUMED_ITERATIONS if elements is None else len(elements), most)
    yield from _runs((*loop.test, *loop.body), times * many, known and elements is not None)


def _rows(table: pp.PhysicalTable, stages: dict[int, pp.Stage]) -> float:
    """Records, as far as the sources tell; each stage of `stages` is looked through once."""
    match table:
        case pp.TableScan(source=source):
            return float(getattr(source, "likely_rows", ASSUMED_ROWS))
        case pp.StoredTable(number=number):
            if number not in stages:
                return ASSUMED_ROWS
            others = {n: s for n, s in stages.items() if n != number}
            return _rows(stages[number].source, others)
        case pp.Select(source=source):
            return ASSUMED_SHARE * _rows(source, stages)
        case pp.Concatenate(sources=sources):
            return sum(_rows(s, stages) for s in sources)
        case pr.Probe(source=source):
            return _rows(source, stages)
    below_it = getattr(table, "source", None)
    return _rows(below_it, stages) if isinstance(below_it, pp.PhysicalTable) else ASSUMED_ROWS

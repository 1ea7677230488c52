"""What a physical plan does: records, bytes and arithmetic of every operator, stage and loop.

Amounts, not times: seconds follow from a machine's rates, see `plan_cost.py`. Rows come from the
logical plan's estimates as far as it is known which table a physical one is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from scalops.algebra import expressions as ex
from scalops.algebra.schema import Schema
from scalops.algebra.tree import Node, find
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.physical_running import SummarizeRuns
from scalops.engine.physical_work import (
    blocks_of,
    environment_bytes,
    leaves_of,
    partitions_in_group,
    times_of,
)
from scalops.engine.stage_operators import operators_of
from scalops.optimizer.cardinality import least_known
from scalops.optimizer.cost import Provenance
from scalops.optimizer.costs.amounts import Amounts
from scalops.optimizer.costs.buffer_bytes import stage_buffers
from scalops.optimizer.costs.expression_work import record_work
from scalops.optimizer.costs.operator_work import Own, is_view, table_work
from scalops.optimizer.costs.sink_work import VIEWS, WHOLE, sink_work
from scalops.optimizer.costs.sizes import (
    TableRows,
    bytes_of,
    columns_needed,
    made_by,
)


@dataclass(frozen=True)
class OperatorWork:
    """One run of an operator over all partitions; `number` as in `operators_of`.

    It delivers `rows` records of `bytes` together, known as `provenance` says. `amounts` are by the
    name of the machine's rate that they take (`machine.ASSUMED`): "element" in flops,
    "transcendental" in calls, "product" and "product_vector" in flops, "segment", "group", "build",
    "probe", "sort", "record", "opaque" in records, "gather" in elements, "parquet", "ipc", "csv" in
    bytes. `once` is what the first run takes beyond that. `calls` of NumPy are made over all
    blocks. `read_bytes` pass from memory for it: what a table only hands on is read by whoever
    computes with it.
    """

    number: int
    title: str
    rows: float
    bytes: float
    calls: float
    read_bytes: float
    amounts: Amounts = field(default_factory=dict)
    once: Amounts = field(default_factory=dict)
    provenance: Provenance = "estimated"

    @property
    def flops(self) -> float:
        """Flops of elementwise steps and of products."""
        return sum(self.amounts.get(n, 0.0) for n in ("element", "product", "product_vector"))

    @property
    def transcendentals(self) -> float:
        """Calls of exp, log and the like, one for each element."""
        return self.amounts.get("transcendental", 0.0)


@dataclass(frozen=True)
class StageWork:
    """One run of a stage over all partitions.

    `rows` and `bytes` are those of the table that it reads, from the `source`: files ("disk"), a
    table in "memory", or what other stages have left ("stored"); `cache` is the number of that
    table if it is a cache, which may hold a part only, and `reads` the numbers of all stored tables
    read; `makes` that of the table left behind. `partial_bytes` of a fold's result; `moved_bytes`
    are exchanged between workers by key or range, `replicated_bytes` are whole on every worker
    afterwards, `gathered_bytes` go to the driver. `held_bytes` are in memory afterwards: of all
    workers together, or of each of them where it is `held_whole`; where it `is_view`, they are the
    source's own, if that is in this machine's memory; where it `is_cache`, as far as
    they have room. `index_bytes` of an indexed side of a join go to every worker if they are few,
    else to the one that each key belongs to; so do the bytes of the records that an index is
    `probed` with, by the index's number. `leaves` is 0 where the run tells. `buffer_bytes` are
    those of one thread's kernels. `in_group` partitions of its source are decoded from one
    beginning on, so that threads which share them skip what others decode.
    """

    stage: int
    rows: float
    bytes: float
    source: Literal["disk", "memory", "stored"]
    operators: tuple[OperatorWork, ...]
    cache: int | None = None
    reads: tuple[int, ...] = ()
    makes: int | None = None
    partial_bytes: float = 0.0
    moved_bytes: float = 0.0
    replicated_bytes: float = 0.0
    gathered_bytes: float = 0.0
    held_bytes: float = 0.0
    held_whole: bool = False
    is_view: bool = False
    is_cache: bool = False
    index_bytes: float = 0.0
    probed: tuple[tuple[int, float], ...] = ()
    blocks: float = 1.0
    leaves: int = 0
    buffer_bytes: float = 0.0
    in_group: float = 1.0
    provenance: Provenance = "estimated"

    @property
    def calls(self) -> float:
        """Calls of NumPy over all blocks."""
        return sum(o.calls for o in self.operators)


@dataclass(frozen=True)
class LoopWork:
    """A loop: how often its iteration is run, and what that is.

    `iterations` are `known`, or assumed of a loop that runs until its condition is false. An
    iteration runs `stages`, the loops `inner` (by index), and the driver's `evaluations`, so many
    expressions' calls of NumPy; values of `environment_bytes` that changed go to every worker.
    `together` are the loops (this one's index too) that run in lock-step with it.
    """

    index: int
    iterations: float
    known: bool
    stages: tuple[int, ...]
    inner: tuple[int, ...] = ()
    evaluations: float = 0.0
    evaluation: Amounts = field(default_factory=dict)
    environment_bytes: float = 0.0
    together: tuple[int, ...] = ()


@dataclass(frozen=True)
class PlanWork:
    """All of a plan: stages by number, loops by index; `once`: stages outside of loops, in order.

    `outer` are the loops that are in no other. `evaluations` as of `LoopWork`, outside of loops.
    """

    stages: Mapping[int, StageWork]
    loops: tuple[LoopWork, ...]
    once: tuple[int, ...]
    outer: tuple[int, ...] = ()
    evaluations: float = 0.0
    evaluation: Amounts = field(default_factory=dict)


def plan_work(plan: pp.PhysicalPlan) -> PlanWork:
    """What a plan does, from its sources' metadata and the estimates of its logical plan."""
    rows = TableRows(plan)
    stages = {stage.number: stage_work(stage, rows) for stage in plan.stages}
    loops = tuple(_loop(plan, loop) for loop in plan.loops)
    together = [tuple(i.index for i in t.loops) for t in find(plan.program, pp.IterateTogether)]
    loops = tuple(
        replace(loop, together=next((t for t in together if loop.index in t), ())) for loop in loops
    )
    own = _Program.of(plan.program)
    return PlanWork(stages, loops, own.stages, own.loops, own.evaluations, own.evaluation)


@dataclass(frozen=True)
class _Program:
    """What a program of the driver runs itself: stages, loops, expressions."""

    stages: tuple[int, ...]
    loops: tuple[int, ...]
    evaluations: float
    evaluation: Amounts

    @classmethod
    def of(cls, program: Sequence[pp.Instruction], *more: ex.Expression | None) -> _Program:
        stages: list[int] = []
        loops: list[int] = []
        computed = [e for e in more if e is not None]
        for instruction in program:
            match instruction:
                case pp.RunStage(stage=number):
                    stages.append(number)
                case pp.Iterate(index=index):
                    loops.append(index)
                case pp.IterateTogether(loops=several):
                    loops.extend(loop.index for loop in several)
                case pp.Evaluate(assignments=assignments):
                    computed.extend(e for _, e in assignments)
        work = record_work(computed)
        return cls(tuple(stages), tuple(loops), float(work.uniform_calls), work.uniform)


def _loop(plan: pp.PhysicalPlan, loop: pp.Iterate) -> LoopWork:
    times, known = times_of(loop)
    own = _Program.of((*loop.test, *loop.body), loop.condition)
    return LoopWork(
        loop.index,
        times,
        known,
        own.stages,
        own.loops,
        own.evaluations,
        own.evaluation,
        float(environment_bytes(plan, loop)),
    )


def stage_work(stage: pp.Stage, rows: TableRows) -> StageWork:
    """One run of a stage, operator by operator."""
    needed = columns_needed(stage)
    operators: list[OperatorWork] = []
    blocks: dict[pp.PhysicalTable, float] = {}
    views: dict[Node, float] = {}  # bytes that whoever computes with a table will read
    tables = [t for t in operators_of(stage)[:-1] if isinstance(t, pp.PhysicalTable)]
    for number, table in enumerate(tables):
        blocks[table] = _blocks(table, rows, blocks)
        read = needed[table]
        own = table_work(table, rows, read)
        delivered, known = rows.of(table)
        size = delivered * bytes_of(table.schema, read)
        read_bytes = own.read_bytes + sum(views.get(t, 0.0) for t in table.children)
        if not own.amounts:  # it hands on what others will read
            views[table], read_bytes = read_bytes, 0.0
        operators.append(
            _operator(number, table, own, blocks[table], delivered, size, known, read_bytes)
        )
    sink = sink_work(stage, rows)
    made, known = rows.made(stage)
    size = sink.partial_bytes if isinstance(stage.sink, pp.TreeAggregate) else made * _width(stage)
    last = blocks[stage.source]
    read_bytes = views.get(stage.source, 0.0) if sink.own.amounts else 0.0
    operators.append(
        _operator(len(tables), stage.sink, sink.own, last, made, size, known, read_bytes)
    )
    bases = [(t, o) for t, o in zip(tables, operators, strict=False) if _is_base(t)]
    read_tables = [t for t, _ in bases]
    return StageWork(
        stage=stage.number,
        rows=sum(o.rows for _, o in bases),
        bytes=sum(o.bytes for _, o in bases),
        source=_source(read_tables),
        operators=tuple(operators),
        cache=_cache(read_tables, rows),
        reads=_reads(stage),
        makes=made_by(stage.sink),
        partial_bytes=sink.partial_bytes,
        moved_bytes=sink.moved_bytes,
        replicated_bytes=sink.replicated_bytes,
        gathered_bytes=sink.gathered_bytes,
        held_bytes=sink.held_bytes,
        held_whole=isinstance(stage.sink, WHOLE),
        is_view=isinstance(stage.sink, VIEWS) and is_view(stage.source),
        is_cache=isinstance(stage.sink, pp.CacheTable),
        index_bytes=sink.index_bytes,
        probed=_probed(tables, rows),
        blocks=sum(blocks[t] for t in read_tables),
        leaves=_leaves(stage, tables),
        buffer_bytes=stage_buffers(stage),
        in_group=max(
            (partitions_in_group(t) for t in tables if isinstance(t, pp.TableScan)), default=1.0
        ),
        provenance=least_known(o.provenance for o in operators),
    )


def _operator(
    number: int,
    node: Node,
    own: Own,
    blocks: float,
    rows: float,
    size: float,
    known: Provenance,
    read_bytes: float,
) -> OperatorWork:
    table = getattr(node, "number", None)
    title = type(node).__name__ + (f" t{table}" if isinstance(table, int) else "")
    calls = own.calls * blocks
    return OperatorWork(number, title, rows, size, calls, read_bytes, own.amounts, own.once, known)


def _width(stage: pp.Stage) -> float:
    """Bytes of a record that the sink leaves behind."""
    sink = stage.sink
    made = getattr(sink, "made", None)
    if isinstance(made, Schema):
        return float(made.bytes_per_row)
    if isinstance(sink, (pp.SortRows, pr.BuildIndex)):
        return bytes_of(stage.source.schema, sink.kept)
    if isinstance(sink, (pp.CountRows, pp.CountPrefix, SummarizeRuns)):
        return 0.0
    return float(stage.source.schema.bytes_per_row)


def _is_base(table: pp.PhysicalTable) -> bool:
    return isinstance(table, (pp.TableScan, pp.StoredTable))


def _blocks(
    table: pp.PhysicalTable, rows: TableRows, known: Mapping[pp.PhysicalTable, float]
) -> float:
    """Blocks that a table is read in: at least one."""
    if _is_base(table):
        return max(1.0, blocks_of(table.schema, rows.of(table)[0]))
    if isinstance(table, pp.Concatenate):
        return sum(known[s] for s in table.sources)
    below = getattr(table, "source", None)
    assert isinstance(below, pp.PhysicalTable)
    if isinstance(table, pp.Multiply):
        return max(known[below], blocks_of(table.schema, rows.of(table)[0]))
    return known[below]


def _source(bases: Sequence[pp.PhysicalTable]) -> Literal["disk", "memory", "stored"]:
    scans = [t for t in bases if isinstance(t, pp.TableScan)]
    if any(not t.source.in_memory for t in scans):
        return "disk"
    return "stored" if len(scans) < len(bases) else "memory"


def _cache(bases: Sequence[pp.PhysicalTable], rows: TableRows) -> int | None:
    """The first table read that is a cache, which may hold a part only."""
    for table in bases:
        maker = rows.maker(table.number) if isinstance(table, pp.StoredTable) else None
        if maker is not None and isinstance(maker.sink, pp.CacheTable):
            return maker.sink.number
    return None


def _reads(stage: pp.Stage) -> tuple[int, ...]:
    """Numbers of the stored tables that a stage reads."""
    own = {t.number for t in find((stage,), pp.StoredTable)}
    probed = {t.number for t in find((stage,), pr.Probe)}
    return tuple(sorted(own | probed | set(stage.sink.other_tables)))


def _probed(tables: Sequence[pp.PhysicalTable], rows: TableRows) -> tuple[tuple[int, float], ...]:
    """Indexed sides by number, and the bytes of the records that are looked up in them."""
    return tuple(
        (t.number, rows.of(t.source)[0] * t.source.schema.bytes_per_row)
        for t in tables
        if isinstance(t, pr.Probe)
    )


def _leaves(stage: pp.Stage, tables: Sequence[pp.PhysicalTable]) -> int:
    """Leaves of the reduction over one source; 0 where the run tells, or there is none."""
    base = pp.base(stage.source)
    partly = any(isinstance(t, (pp.TakeRange, pp.Gate)) for t in tables)
    if partly or not isinstance(base, pp.TableScan) or not isinstance(stage.sink, pp.TreeAggregate):
        return 0
    return leaves_of(base, stage.sink.folds)

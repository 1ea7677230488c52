"""How many records the tables of a physical plan have, and which of their columns are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from scalops.algebra.expressions import Call, Column, columns_read
from scalops.algebra.folds import Fold
from scalops.algebra.schema import Schema
from scalops.algebra.tree import Node
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.physical_running import Accumulate, SummarizeRuns
from scalops.optimizer.cardinality import DISTINCT, LIST_ITEMS, STATE_ROWS, Estimates, least_known
from scalops.optimizer.cost import SPARSE_ITEMS, Provenance
from scalops.optimizer.selectivity import SELECTIVITY

Rows = tuple[float, Provenance]


class TableRows:
    """Rows of tables and of what sinks leave behind, each found once.

    As the logical plan's estimates have them, where `plan.origins` tells which logical table it is;
    else from the source's metadata, through the operators.
    """

    def __init__(self, plan: pp.PhysicalPlan) -> None:
        self._origins = plan.origins.tables
        self._estimates = None if plan.origins.job is None else Estimates(plan.origins.job)
        self._makers = {n: s for s in plan.stages if (n := made_by(s.sink)) is not None}
        self._starts = {t.state: t.start for loop in plan.loops for t in loop.tables}
        self._stored = {
            t.number: node for t, node in self._origins.items() if isinstance(t, pp.StoredTable)
        }
        self._known: dict[object, Rows] = {}

    def of(self, table: pp.PhysicalTable) -> Rows:
        """Rows of a table, and how that is known."""
        if table not in self._known:
            self._known[table] = (0.0, "assumed")  # of a table made of itself
            self._known[table] = self._found(table)
        return self._known[table]

    def maker(self, number: int) -> pp.Stage | None:
        """The stage that leaves a stored table behind; of a loop's state, its first one."""
        return self._makers.get(self._starts.get(number, number))

    def made(self, stage: pp.Stage) -> Rows:
        """Rows of the table, or of the result, that a stage leaves behind."""
        sink = stage.sink
        if isinstance(sink, pp.TreeAggregate):
            return 1.0, "exact"
        number = made_by(sink)
        if number in self._stored and self._estimates is not None:
            found = self._estimates.of(self._stored[number])
            return found.rows, found.provenance
        rows, known = self.of(stage.source)
        match sink:
            case pp.DistinctRows() | pr.GroupRows() | pr.IndexGroup():
                keyless = isinstance(sink, (pr.GroupRows, pr.IndexGroup)) and not sink.keys
                return (1.0, "estimated") if keyless else (DISTINCT * rows, "assumed")
            case pr.IndexFilter():
                return SELECTIVITY * rows, "assumed"
            case pr.IndexJoin() | pr.MeetIndexed() | pr.ApplyGroups():
                return rows, "assumed"
        return rows, known

    def _found(self, table: pp.PhysicalTable) -> Rows:
        origin = self._origins.get(table)
        if origin is not None and self._estimates is not None:
            found = self._estimates.of(origin)
            return found.rows, found.provenance
        match table:
            case pp.TableScan(source=source):
                return (
                    (source.likely_rows, "estimated")
                    if source.rows is None
                    else (float(source.rows), "exact")
                )
            case pp.StoredTable(number=number):
                stage = self.maker(number)
                return (STATE_ROWS, "assumed") if stage is None else self.made(stage)
            case pp.Concatenate(sources=sources):
                parts = [self.of(s) for s in sources]
                return sum(rows for rows, _ in parts), least_known(known for _, known in parts)
        below = getattr(table, "source", None)
        assert isinstance(below, pp.PhysicalTable), type(table).__name__
        rows, known = self.of(below)
        match table:
            case pp.Compute() | pp.NumberRows() | Accumulate():
                return rows, known
            case pp.Interleave(records=records):
                return rows * len(records), known
            case pp.Unnest(names=names):
                return _unnested(rows, known, below.schema, names[0])
            case pp.Select():
                return rows * SELECTIVITY, "assumed"
        return rows, "assumed"


def _unnested(rows: float, known: Provenance, schema: Schema, name: str) -> Rows:
    kind = schema[name]
    if kind.is_list or kind.is_sparse:
        return rows * (LIST_ITEMS if kind.is_list else SPARSE_ITEMS), "assumed"
    return rows * kind.shape[0], known


def made_by(sink: pp.Sink) -> int | None:
    """The number of the stored table that a sink leaves behind; None for results and counts."""
    if isinstance(sink, (pp.CacheTable, pp.StoreSink)) and not isinstance(sink, SummarizeRuns):
        return sink.number
    return None


def columns_needed(stage: pp.Stage) -> Mapping[Node, frozenset[str]]:
    """Of each table of a stage, the columns that what stands above it reads."""
    found: dict[Node, frozenset[str]] = {}
    stack = [(stage.source, _read_by_sink(stage))]
    while stack:
        table, wanted = stack.pop()
        found[table] = found.get(table, frozenset()) | (wanted & set(table.schema.names))
        if isinstance(table, pp.Concatenate):
            stack.extend((s, wanted) for s in table.sources)
        elif isinstance(below := getattr(table, "source", None), pp.PhysicalTable):
            stack.append((below, _read_below(table, wanted)))
    return found


def _read_by_sink(stage: pp.Stage) -> frozenset[str]:
    sink = stage.sink
    everything = frozenset(stage.source.schema.names)
    match sink:
        case pr.HoldState(state=int(), settled=settled):
            return everything - set(settled)  # but for the first time
        case pp.TreeAggregate(folds=folds, map=mapped):
            return columns_read([*(e for _, e in mapped), *(a for f in folds for a in f.arguments)])
        case pp.CountRows() | pp.CountPrefix():
            return frozenset()
        case pr.IndexJoin() | pr.IndexFilter():
            return frozenset()  # but for the first time
        case pr.IndexGroup(folds=folds):
            return columns_read(a for f in folds if not is_product(stage, f) for a in f.arguments)
        case pr.BuildIndex(keys=keys, kept=kept) | pp.SortRows(keys=keys, kept=kept):
            return frozenset((*keys, *kept))
        case pr.MeetIndexed(keys=keys, outputs=outputs):
            return frozenset((*keys, *(c for _, side, c in outputs if side)))
        case SummarizeRuns(columns=columns):
            return columns_read(e for c in columns for e in (*c.arguments, *c.over))
    return everything


def is_product(stage: pp.Stage, fold: Fold) -> bool:
    """Whether a sum by groups that stay is a product with a sparse matrix: nothing is gathered.

    Of a column of the stage's table, or of one times another.
    """
    (first, *others) = fold.arguments or (None,)
    if fold.kind not in ("sum", "mean") or others or not isinstance(first, Column):
        return False
    computed = dict(stage.source.outputs) if isinstance(stage.source, pp.Compute) else {}
    argument = computed.get(first.name, first)
    if isinstance(argument, Call) and argument.function.name == "multiply":
        return any(isinstance(a, Column) for a in argument.arguments)
    return isinstance(argument, Column)


def _read_below(table: pp.PhysicalTable, wanted: frozenset[str]) -> frozenset[str]:
    match table:
        case pp.Compute(outputs=outputs, map=mapped):
            return columns_read([*(e for n, e in outputs if n in wanted), *(e for _, e in mapped)])
        case pp.Select(predicate=predicate):
            return wanted | columns_read([predicate])
        case pr.Probe(keys=keys, outputs=outputs):
            return frozenset((*keys, *(c for n, side, c in outputs if not side and n in wanted)))
        case Accumulate(columns=columns):
            return wanted | columns_read(e for c in columns for e in (*c.arguments, *c.over))
        case pp.Unnest(names=names, index=index):
            return (wanted - {index}) | set(names)
        case pp.Interleave(records=records):
            return columns_read(e for record in records for n, e in record if n in wanted)
        case pp.CallBatches(source=source):
            return frozenset(source.schema.names)
    return wanted


def bytes_of(schema: Schema, names: Iterable[str]) -> float:
    """Bytes of these columns of one record."""
    return float(sum(schema[n].bytes for n in names))

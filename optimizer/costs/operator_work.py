"""What each table of a physical plan takes of its records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.expressions import Column
from scalops.algebra.relations import Running
from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.physical_running import Accumulate
from scalops.engine.physical_work import blocks_of
from scalops.optimizer.cost import SPARSE_ITEMS
from scalops.optimizer.costs.amounts import Amounts, added, scaled
from scalops.optimizer.costs.expression_work import RecordWork, record_work
from scalops.optimizer.costs.sizes import TableRows, bytes_of

OF_A_BLOCK = 4  # calls that a block costs beyond its kernels': slices, iterators, checks
FORMATS = {"parquet": "parquet", "ipc": "ipc"}  # the rate of each; others are texts
_RUNNING = 3.0  # passes over a column that is accumulated
_BATCH = 10.0  # flops for each value that a function of batches gets, assumed
POSITIONS = (pr.IndexJoin, pr.IndexFilter, pr.MeetIndexed)  # whose columns are gathered when read


@dataclass(frozen=True)
class Own:
    """What an operator takes of one run: see `OperatorWork`; `calls` are those of a block."""

    amounts: Amounts = field(default_factory=dict)
    once: Amounts = field(default_factory=dict)
    calls: int = 0
    read_bytes: float = 0.0


def table_work(table: pp.PhysicalTable, rows: TableRows, needed: Iterable[str]) -> Own:
    """What a table takes to deliver the columns `needed` of all of its records."""
    own, _ = rows.of(table)
    match table:
        case pp.TableScan(source=source):
            return _scan(table, own, needed) if source.in_memory else _decoding(table, own, needed)
        case pp.StoredTable():
            return _stored(table, rows, needed)
        case pp.TakePrefix() | pp.TakeRange() | pp.Gate() | pp.Concatenate():
            return Own(calls=OF_A_BLOCK)
        case pp.NumberRows():
            return Own({"element": own}, calls=OF_A_BLOCK + 1)
    below = getattr(table, "source", None)
    assert isinstance(below, pp.PhysicalTable), type(table).__name__
    given, _ = rows.of(below)
    match table:
        case pp.Compute(outputs=outputs, map=mapped):
            wanted = [e for n, e in outputs if n in set(needed)]
            return _computed(record_work([*(e for _, e in mapped if wanted), *wanted]), given)
        case pp.Select(predicate=predicate):
            kept = {"element": given + own * values(table.schema, needed)}
            work = _computed(record_work([predicate]), given)
            return Own(added(work.amounts, kept), calls=work.calls + len(tuple(needed)))
        case Accumulate(columns=columns):
            return Own(scaled(running_work(columns), given), calls=OF_A_BLOCK + 4 * len(columns))
        case pp.Unnest(names=names, index=index):
            copied = values(below.schema, set(needed) - {*names, index})
            numbered = index is not None and index in set(needed)
            made = {"element": own * (len(names) + numbered), "gather": own * copied}
            return Own(made, calls=OF_A_BLOCK + len(below.schema))
        case pp.Interleave(records=records):
            made_of = [e for record in records for n, e in record if n in set(needed)]
            work = _computed(record_work(made_of), given)
            copied_too = {"element": own * values(table.schema, needed)}
            return Own(added(work.amounts, copied_too), calls=work.calls + len(made_of))
        case pp.CallBatches():
            handed = _BATCH * given * values(below.schema, below.schema.names)
            blocks = blocks_of(below.schema, given)
            return Own({"opaque": blocks, "element": handed}, calls=OF_A_BLOCK)
        case pr.Probe(kind=kind, outputs=outputs):
            looked = {} if kind == "cross" else {"probe": given}
            copied = values(table.schema, (n for n, _, _ in outputs if n in set(needed)))
            return Own({**looked, "gather": own * copied}, calls=OF_A_BLOCK + 4 + len(outputs))
    raise TypeError(f"nobody knows what {type(table).__name__} takes")


def is_view(table: pp.PhysicalTable) -> bool:
    """Whether its columns lie in memory as they are: chosen ones of a table there, cut or not."""
    while isinstance(table, pp.Compute):
        if any(not isinstance(e, Column) for _, e in table.outputs):
            return False
        table = table.source
    return isinstance(table, pp.StoredTable) or (
        isinstance(table, pp.TableScan)
        and table.source.in_memory
        and all(kind.is_plain for _, kind in table.schema)
    )


def _scan(table: pp.TableScan, rows: float, needed: Iterable[str]) -> Own:
    """A view of columns that are in memory."""
    return Own(calls=OF_A_BLOCK, read_bytes=rows * bytes_of(table.schema, needed))


def _decoding(table: pp.TableScan, rows: float, needed: Iterable[str]) -> Own:
    """Columns of formats with columns are decoded alone; a text is read wholly."""
    source = table.source
    rate = FORMATS.get(getattr(getattr(source, "format", None), "name", ""), "csv")
    columns = rows * bytes_of(table.schema, needed)
    share = 1.0
    if rate != "csv":
        share = bytes_of(table.schema, needed) / max(1.0, float(source.schema.bytes_per_row))
    made = {"disk_read": share * source.bytes, rate: columns if rate != "csv" else source.bytes}
    return Own({n: float(v) for n, v in made.items() if v}, calls=OF_A_BLOCK)


def _stored(table: pp.StoredTable, rows: TableRows, needed: Iterable[str]) -> Own:
    """Blocks that are in memory, or columns that are gathered at positions."""
    own, _ = rows.of(table)
    stage = rows.maker(table.number)
    if stage is not None and isinstance(stage.sink, POSITIONS):
        return Own({"gather": own * values(table.schema, needed)}, calls=OF_A_BLOCK)
    return Own(calls=OF_A_BLOCK, read_bytes=own * bytes_of(table.schema, needed))


def _computed(work: RecordWork, rows: float) -> Own:
    """A kernel over so many records, and what it computes once of the driver's values."""
    return Own(added(scaled(work.amounts, rows), work.uniform), calls=work.calls + OF_A_BLOCK)


def running_work(columns: Iterable[Running]) -> Amounts:
    """Of one record; those that start anew for each key have to find its group."""
    parts: list[Amounts] = []
    for column in columns:
        parts.append({"element": _RUNNING * max(1, column.type.size)})
        if column.over:
            parts.append({"group": float(len(column.over))})
    return added(*parts)


def values(schema: Schema, names: Iterable[str]) -> float:
    """Numbers that these columns hold for one record; a string counts as four."""
    return float(sum(_numbers(schema[n]) for n in names))


def _numbers(kind: ArrayType) -> float:
    if kind.is_sparse:
        return 2 * SPARSE_ITEMS
    return max(1.0, kind.bytes / 8) if kind.is_arrow else float(max(1, kind.size))

"""What each sink of a physical plan takes, leaves in memory and sends to other workers."""

from __future__ import annotations

from dataclasses import dataclass

from scalops.algebra.expressions import columns_read
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.physical_compiled import CompiledAggregate
from scalops.engine.physical_running import SummarizeRuns
from scalops.optimizer.costs.amounts import added, scaled
from scalops.optimizer.costs.expression_work import record_work
from scalops.optimizer.costs.fold_work import fold_work, grouped_work
from scalops.optimizer.costs.operator_work import OF_A_BLOCK, Own, is_view, running_work, values
from scalops.optimizer.costs.sizes import TableRows, bytes_of, is_product

_POSITION = 8.0  # bytes of one
_ENTRY = 16.0  # bytes of a record in the index of a join: its hash and its place
_FEW = 10.0  # times as many records of the other side: these are looked up, else they are indexed
_MANY_GROUPS = 0.25  # of the records: what all workers have of so many is not worth adding up
_COUNT = 8.0  # bytes of the count of a partition's records
# What each worker holds all of, having computed or received it.
WHOLE = (pr.HoldColumns, pr.IndexJoin, pr.IndexFilter, pr.IndexGroup, pr.MeetIndexed)
# What holds the columns of a table in memory as they lie there, without a copy.
VIEWS = (pp.CacheTable, pr.HoldTable, pr.HoldColumns, pr.HoldState)


@dataclass(frozen=True)
class SinkWork:
    """`own` work, and bytes as in `StageWork`; `index_bytes` are those of an indexed side."""

    own: Own
    partial_bytes: float = 0.0
    moved_bytes: float = 0.0
    replicated_bytes: float = 0.0
    gathered_bytes: float = 0.0
    held_bytes: float = 0.0
    index_bytes: float = 0.0


def sink_work(stage: pp.Stage, rows: TableRows) -> SinkWork:
    """What the sink of a stage takes of the records of its table."""
    sink, schema = stage.sink, stage.source.schema
    given, _ = rows.of(stage.source)
    made, _ = rows.made(stage)
    size = given * schema.bytes_per_row
    copied = Own({"element": given * values(schema, schema.names)}, calls=OF_A_BLOCK)
    if is_view(stage.source):  # held as it lies: nothing is copied
        copied = Own(calls=OF_A_BLOCK)
    match sink:
        case pp.TreeAggregate():
            return _reduction(sink, given)
        case pp.CacheTable() | pr.HoldTable():
            return SinkWork(copied, held_bytes=size)
        case pr.HoldState():
            return _state(sink, stage, copied, given)
        case pr.HoldColumns():
            return SinkWork(copied, replicated_bytes=size, held_bytes=size)
        case pp.Exchange():
            return SinkWork(copied, moved_bytes=size, held_bytes=size)
        case pp.SortRows(keys=keys, kept=kept):
            work = {"sort": given * len(keys), "gather": given * values(schema, kept)}
            held = given * bytes_of(schema, kept)
            return SinkWork(Own(work, calls=OF_A_BLOCK), moved_bytes=size, held_bytes=held)
        case pp.DistinctRows(columns=columns):
            work = {"group": given * len(columns or schema.names)}
            held = made * schema.bytes_per_row
            return SinkWork(Own(work, calls=OF_A_BLOCK), moved_bytes=size, held_bytes=held)
        case pp.CountPrefix() | pp.CountRows():
            return SinkWork(Own(calls=OF_A_BLOCK), replicated_bytes=_COUNT)
        case SummarizeRuns(columns=columns):
            work_of_runs = Own(scaled(running_work(columns), given), calls=4 * len(columns))
            carry = float(sum(c.type.bytes for c in columns))
            return SinkWork(work_of_runs, replicated_bytes=carry)
        case pp.Gather():
            return SinkWork(copied, gathered_bytes=size)
    return _related(stage, rows, given, made)


def _reduction(sink: pp.TreeAggregate, rows: float) -> SinkWork:
    """Its map and its folds; a compiled loop is one call for a block."""
    work = record_work([*(e for _, e in sink.map), *(a for f in sink.folds for a in f.arguments)])
    folds, calls = fold_work(sink.folds)
    amounts = added(scaled(added(work.amounts, folds), rows), work.uniform)
    calls = 1 if isinstance(sink, CompiledAggregate) else work.calls + calls
    return SinkWork(
        Own(amounts, calls=calls), partial_bytes=float(sum(f.type.bytes for f in sink.folds))
    )


def _state(sink: pr.HoldState, stage: pp.Stage, copied: Own, rows: float) -> SinkWork:
    """Held, and looked through for what is not finite.

    Columns that stay are those of the state before, once they have been compared.
    """
    schema = stage.source.schema
    size = rows * schema.bytes_per_row
    stays = set() if sink.state is None else set(sink.settled)
    changing = rows * values(schema, (n for n in schema.names if n not in stays))
    seen = rows * values(schema, sink.computed)
    once = {"element": 2 * rows * values(schema, stays)} if stays else {}
    work = Own({"element": changing + seen}, once, calls=copied.calls)
    return SinkWork(work, replicated_bytes=size, held_bytes=size)


def _related(stage: pp.Stage, rows: TableRows, given: float, made: float) -> SinkWork:
    """Of the sinks that relate records."""
    sink, schema = stage.sink, stage.source.schema
    match sink:
        case pr.BuildIndex(keys=keys, kept=kept):
            size = given * bytes_of(schema, {*keys, *kept})
            work = {"build": given if keys else 0.0, "element": given * values(schema, kept)}
            held = size + (given * _ENTRY if keys else 0.0)
            return SinkWork(Own(work, calls=OF_A_BLOCK), held_bytes=held, index_bytes=size)
        case pr.MeetIndexed(left=left):
            return _meeting(rows, left, given, made)
        case pr.IndexJoin(left=left, right=right):
            return _joined(rows, left, right, made)
        case pr.IndexFilter():
            computed = stage.source.outputs if isinstance(stage.source, pp.Compute) else ()
            found = scaled(record_work(e for _, e in computed).amounts, given)
            held = made * _POSITION
            return SinkWork(Own(once=added(found, {"element": given})), held_bytes=held)
        case pr.IndexGroup():
            return _indexed_group(stage, sink, given, made)
        case pr.GroupRows(keys=keys, folds=folds, made=result):
            grouped = scaled(grouped_work(folds), given)
            both = added(grouped, {"group": given * max(1, len(keys))})
            own, held = Own(both, calls=OF_A_BLOCK + 4 * len(folds)), made * result.bytes_per_row
            if made > _MANY_GROUPS * given and keys:
                return SinkWork(own, moved_bytes=given * schema.bytes_per_row, held_bytes=held)
            return SinkWork(own, partial_bytes=held, held_bytes=held)
        case pr.ApplyGroups(tables=tables, made=result):
            handed = [(rows.of(t)[0], t.schema) for t in tables]
            found = {"group": sum(n for n, _ in handed)}
            shown = sum(n * values(s, s.names) for n, s in handed)
            called = {"opaque": given, "gather": shown}
            held = made * result.bytes_per_row
            return SinkWork(Own(called, found), moved_bytes=held, held_bytes=held)
    raise TypeError(f"nobody knows what {type(sink).__name__} takes")


def _meeting(rows: TableRows, left: int, right_rows: float, made: float) -> SinkWork:
    """Few records are looked up in the index over the left ones, more are indexed."""
    stage = rows.maker(left)
    many = right_rows if stage is None else rows.made(stage)[0]
    if right_rows * _FEW <= many:
        work = {"probe": right_rows, "sort": made}
    else:
        work = {"build": right_rows, "probe": many}
    return SinkWork(Own(work), held_bytes=2 * _POSITION * made)


def _joined(rows: TableRows, left: int, right: int, made: float) -> SinkWork:
    """Which records meet is found once, while the keys stay; their columns when they are read."""
    sides = [rows.maker(n) for n in (left, right)]
    probed, indexed = (0.0 if s is None else rows.made(s)[0] for s in sides)
    return SinkWork(Own(once={"build": indexed, "probe": probed}), held_bytes=2 * _POSITION * made)


def _indexed_group(stage: pp.Stage, sink: pr.IndexGroup, given: float, made: float) -> SinkWork:
    """Groups are found once; what is computed for the keys is, too."""
    computed = dict(stage.source.outputs) if isinstance(stage.source, pp.Compute) else {}
    keys = record_work(computed[k] for k in sink.keys if k in computed)
    once = added(
        scaled(keys.amounts, given),
        {"group": given * len(sink.keys), "gather": given * len(columns_read(computed.values()))},
    )
    products = [f for f in sink.folds if is_product(stage, f)]
    others = [f for f in sink.folds if f not in products]
    work = added(
        {"gather": given * sum(max(1, f.type.size) for f in products)},
        scaled(grouped_work(others), given),
    )
    size = made * sink.made.bytes_per_row
    own = Own(work, once, calls=OF_A_BLOCK + 4 * len(others))
    return SinkWork(own, replicated_bytes=size, held_bytes=size + given * _POSITION)

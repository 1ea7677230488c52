"""The sum of a cumulative sum is one weighted sum."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.dtypes import INT64
from scalops.algebra.folds import Fold
from scalops.algebra.functions import function
from scalops.algebra.relations import Cumulate, Running
from scalops.algebra.tree import Node, substitute, walk

_ROW = "@row"  # a name that no column of a user's can have
_SAME_RECORDS = op.Filter | op.Sort | op.Limit | op.Slice | op.Repartition | op.Cache


def weigh_cumulative_sums(node: Node) -> Node | None:
    """Aggregate(Cumulate(T, c = cumsum(v)), Σc) -> Aggregate(WithRowIndex(T), Σ (n - i) v).

    i is a record's number and n their count: the value of record i is part of n - i prefixes; of
    a sum from the end it is part of i + 1. Sound for integers modulo 2^64, for floats up to
    rounding. One pass that combines partial sums instead of two that carry them on.

    Not where c has another reader, which needs it anyway, or stands in a larger expression; not
    over groups; not where v may be null (a null c counts for nothing, and the weights would be
    wrong); and not where reading T once more for the count is dear: a file or a user's function
    that no cache holds.
    """
    if not isinstance(node, op.Job):
        return None
    readers: dict[Node, int] = {}
    order = list(walk(node))
    for reader in order:
        for child in dict.fromkeys(reader.children):
            readers[child] = readers.get(child, 0) + 1
    for found in order:
        if isinstance(found, op.Aggregate) and readers.get(found.source) == 1:
            made = _weighed(found)
            if made is not None:
                return substitute(node, {found: made})
    return None


def _weighed(node: op.Aggregate) -> op.Aggregate | None:
    cumulated = node.source
    if not isinstance(cumulated, Cumulate) or _is_dear(cumulated.source):
        return None
    running = {c.name: c for c in cumulated.columns}
    folds = []
    for fold in node.folds:
        if not ex.columns_read(fold.arguments) & running.keys():
            folds.append(fold)
            continue
        made = _sum_of(fold, running, cumulated.source)
        if made is None:
            return None
        folds.append(made)
    if tuple(folds) == node.folds or _ROW in cumulated.source.schema:
        return None
    numbered = op.WithRowIndex(cumulated.source, _ROW, location=cumulated.location)
    return replace(node, source=numbered, folds=tuple(folds))


def _sum_of(fold: Fold, running: dict[str, Running], table: op.Operator) -> Fold | None:
    """The weighted sum that a sum of a cumulative sum is."""
    match fold:
        case Fold(kind="sum", arguments=(ex.Column(name=name),)) if name in running:
            column = running[name]
        case _:
            return None
    if column.kind != "cumsum" or column.over or not _known(column.arguments[0], table):
        return None
    row = ex.Column(_ROW, INT64)
    if column.reverse:
        weight = ex.call(function("add"), row, ex.constant(1))
    else:
        count = op.Aggregate(table, (Fold("count", "count", ()),), location=table.location)
        weight = ex.call(function("subtract"), ex.Subquery(count, "count"), row)
    parts = [
        e if e.type.name == column.type.name else _cast(e, column.type.name)
        for e in (weight, column.arguments[0])
    ]
    return replace(fold, arguments=(ex.call(function("multiply"), *parts),), origin=None)


def _cast(e: ex.Expression, name: str) -> ex.Expression:
    return ex.call(function("cast"), e, dtype=name)


def _known(e: ex.Expression, table: op.Operator) -> bool:
    """Whether an expression over a table is surely never null."""
    match e:
        case ex.Constant(value=value):
            return value is not None
        case ex.Call(arguments=arguments) if e.function.elementwise:
            return all(_known(a, table) for a in arguments)
        case ex.Column(name=name):
            match table:
                case op.Scan(source=source):
                    return not source.may_hold_null
                case op.Project(source=below, outputs=outputs):
                    return _known(dict(outputs)[name], below)
                case op.WithRowIndex(source=below, name=own):
                    return name == own or _known(e, below)
                case op.Union(sources=sources):
                    return all(_known(e, s) for s in sources)
                case _ if isinstance(table, _SAME_RECORDS):
                    return _known(e, table.source)
    return False


def _is_dear(table: op.Operator) -> bool:
    """Whether the records come from a file or a user's function, and no cache holds them."""
    waiting: list[Node] = [table]
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node in seen or isinstance(node, op.Cache):
            continue
        seen.add(node)
        if isinstance(node, (ex.Opaque, op.MapBatches)):
            return True
        if isinstance(node, op.Scan) and not node.source.in_memory:
            return True
        waiting.extend(node.children)
    return False

"""A sum of what follows is what the whole has beyond what came before."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.folds import Fold
from scalops.algebra.functions import function
from scalops.algebra.relations import Cumulate, Running
from scalops.algebra.tree import Node, walk
from scalops.optimizer.naming import fresh_name


def turn_suffix_sums(node: Node) -> Node | None:
    """Cumulate(T, s = cumsum(v, reverse)) -> Project(Cumulate(T, p = cumsum(v)), s = Σv - p + v).

    Sound for integers, whose sums are exact modulo 2^64: what begins at a record is all but what
    ended before it. The table then streams from its beginning, where a sum from the end needs
    whole partitions, and a prefix sum of v that is there anyway serves both. A null stays null
    and counts for nothing.

    Floats stay as they are: at the end of a long table the difference of two great sums would
    have lost the digits of the small one. So do sums over groups, which have as many totals, and
    a table that calls users' functions, which would be read once more.
    """
    if not isinstance(node, Cumulate):
        return None
    turned = [c for c in node.columns if _turns(c)]
    if not turned or any(isinstance(n, (ex.Opaque, op.MapBatches)) for n in walk(node.source)):
        return None
    columns = [c for c in node.columns if c not in turned]
    taken = {*node.schema.names}
    made: dict[str, ex.Expression] = {}
    for column in turned:
        (v,) = column.arguments
        prefix = next((c for c in columns if _forward(c) == _forward(column)), None)
        if prefix is None:
            prefix = replace(column, name=fresh_name(f"@{column.name}", taken), reverse=False)
            columns.append(prefix)
        whole = op.Aggregate(node.source, (Fold("sum", "sum", (v,)),), location=node.location)
        before = ex.Column(prefix.name, prefix.type)
        after = ex.call(function("subtract"), ex.Subquery(whole, "sum"), before)
        own = v if v.type == column.type else ex.call(function("cast"), v, dtype=column.type.name)
        made[column.name] = ex.call(function("add"), after, own)
    outputs = tuple((n, made.get(n, ex.Column(n, k))) for n, k in node.schema)
    below = replace(node, columns=tuple(columns))
    return op.Project(below, outputs, label=node.label, location=node.location)


def _turns(column: Running) -> bool:
    return (
        column.kind == "cumsum"
        and column.reverse
        and not column.over
        and column.type.numpy.kind in "iu"
    )


def _forward(column: Running) -> Running:
    """What the column is from the beginning, whatever it is called; a forward one is itself."""
    return replace(column, name="", reverse=False) if _turns(column) else replace(column, name="")

"""Lowering of groups: a stage that finds them and folds their records."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from scalops.algebra import expressions as ex
from scalops.algebra.operators import Named
from scalops.algebra.relations import GroupAggregate
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.optimizer.definitions import as_definitions
from scalops.optimizer.naming import fresh_name

if TYPE_CHECKING:
    from scalops.optimizer.lowering import Lowering


def lower_groups(lowering: Lowering, node: GroupAggregate) -> pp.PhysicalTable:
    """A stage over the keys and the folds' arguments, each computed once, by one kernel."""
    source, mapped = as_definitions(node.source)
    below = lowering.table(source)
    defined = lowering.lowered(mapped)
    columns: dict[ex.Expression, ex.Column] = {}
    outputs: list[Named] = []
    taken = {*node.source.schema.names}

    def column(e: ex.Expression, name: str) -> ex.Column:
        """The column of the stage's table that holds the expression."""
        if e not in columns:
            own = e.name if isinstance(e, ex.Column) else fresh_name(name, taken)
            columns[e] = ex.Column(own, e.type.strong())
            outputs.append((own, lowering.expression(e)))
        return columns[e]

    keys = tuple(column(e, "@key").name for _, e in node.keys)
    folds = tuple(
        replace(lowering.fold(f), arguments=tuple(column(a, "@argument") for a in f.arguments))
        for f in node.folds
    )
    table = pp.Compute(below, tuple(outputs), False, defined, location=node.location)
    number = lowering.number()
    names = tuple(n for n, _ in node.keys)
    made = node.schema
    sink = pr.GroupRows(number, keys, names, folds, made, location=node.location)
    lowering.run(node, table, sink)
    return pp.StoredTable(number, made, pp.Properties(layout="range"))

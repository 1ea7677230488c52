"""Lowering of running aggregates: a stage that summarizes partitions, then a streaming table."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.relations import Cumulate, Running
from scalops.algebra.tree import find, walk
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.physical_running import Accumulate, SummarizeRuns

if TYPE_CHECKING:
    from scalops.optimizer.lowering import Lowering


def lower_cumulate(lowering: Lowering, node: Cumulate) -> pp.PhysicalTable:
    """Two passes over one table, the first over the arguments alone."""
    below = _repeatable(lowering, node, lowering.table(node.source))
    made: dict[str, ex.Expression] = {}
    columns = tuple(_over_columns(lowering, c, made) for c in node.columns)
    if made:
        kept = tuple((n, ex.Column(n, k)) for n, k in below.schema)
        below = pp.Compute(below, (*kept, *made.items()), location=node.location)
    number = lowering.number()
    read = ex.columns_read(e for c in columns for e in (*c.arguments, *c.over))
    lowering.run(node, _only(below, read), SummarizeRuns(number, columns))
    table: pp.PhysicalTable = Accumulate(below, columns, number, location=node.location)
    if made:
        kept = tuple((n, ex.Column(n, k)) for n, k in node.schema)
        table = pp.Compute(table, kept, location=node.location)
    return lowering.keep(node, table)


def _repeatable(lowering: Lowering, node: Cumulate, below: pp.PhysicalTable) -> pp.PhysicalTable:
    """The table as both passes can read it.

    What calls users' functions is held, so that they are called once for a record; files are
    decoded once as far as the memory reaches. Anything else is cheap to make again.
    """
    if any(isinstance(n, (ex.Opaque, pp.CallBatches)) for n in walk(below)):
        number = lowering.number()
        lowering.run(node, below, pr.HoldTable(number, location=node.location))
        properties = pp.Properties(below.delivered.partitions, layout="range")
        return pp.StoredTable(number, below.schema, properties)
    if any(not scan.source.in_memory for scan in find((below,), pp.TableScan)):
        number = lowering.number()
        lowering.run(node, below, pp.CacheTable(number))
        cached = replace(below.delivered, cached=True)
        return pp.StoredTable(number, below.schema, cached)
    return below


def _over_columns(lowering: Lowering, column: Running, made: dict[str, ex.Expression]) -> Running:
    """The same with columns for arguments; what is computed for them is put into `made`."""

    def named(e: ex.Expression) -> ex.Expression:
        if isinstance(e, ex.Column):
            return e
        lowered = lowering.expression(e)
        found = [n for n, other in made.items() if other == lowered]
        name = found[0] if found else f"@{len(made)}"
        made[name] = lowered
        return ex.Column(name, e.type.strong())

    return replace(
        column,
        arguments=tuple(map(named, column.arguments)),
        over=tuple(map(named, column.over)),
    )


def _only(table: pp.PhysicalTable, names: frozenset[str]) -> pp.PhysicalTable:
    """The table with these columns, in the same partitions."""
    if isinstance(table, pp.Compute):
        outputs: tuple[op.Named, ...] = tuple((n, e) for n, e in table.outputs if n in names)
        return replace(table, outputs=outputs, bare=False)
    if isinstance(table, pp.TableScan):
        return replace(table, columns=tuple(n for n in table.columns if n in names))
    return table

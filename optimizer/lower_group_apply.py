"""Lowering of functions of a group's records: the tables held, their keys as columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.relations import GroupApply, RowsArgument
from scalops.algebra.schema import HIDDEN
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.optimizer.naming import fresh_name

if TYPE_CHECKING:
    from scalops.optimizer.lowering import Lowering


def lower_group_apply(lowering: Lowering, node: GroupApply) -> pp.PhysicalTable:
    """The table of what the function gives, group by group.

    What changes from one iteration to the next may be an argument alone: the tables are held
    where they are invariant, so that the records of each group are found once.
    """
    own: list[op.Named] = [(n, ex.Column(n, node.groups.schema[n])) for n in node.kept]
    keys = [_column_for(e, HIDDEN + "key", own, node.groups) for e in node.group_keys]
    arguments: list[ex.Expression] = []
    for e in node.arguments:
        if isinstance(e, RowsArgument):
            arguments.append(e)
        elif ex.columns([e]):
            name = _column_for(e, HIDDEN + "argument", own, node.groups)
            arguments.append(ex.Column(name, e.type.strong()))
        else:
            arguments.append(lowering.present(e, "value"))
    tables, table_keys = [], []
    for source, wanted in zip(node.sources, node.keys, strict=True):
        columns: list[op.Named] = [(n, ex.Column(n, k)) for n, k in source.schema]
        table_keys.append(tuple(_column_for(e, HIDDEN + "key", columns, source) for e in wanted))
        if len(columns) == len(source.schema):
            tables.append(_held(lowering, source))
            continue
        if _is_own_cache(source):
            _held(lowering, source)  # whose columns the keyed table shares
        keyed = op.Project(source, tuple(columns), location=node.location)
        tables.append(_held(lowering, keyed))
    below = lowering.table(node.groups)
    named = lowering.lowered(tuple(own))
    if [n for n, _ in named] != list(below.schema.names):
        below = pp.Compute(below, named, location=node.location)
    number = lowering.number()
    sink = pr.ApplyGroups(
        number, tuple(tables), tuple(keys), tuple(table_keys), node.function,
        tuple(arguments), tuple(lowering.present(e, "value") for e in node.slots),
        node.declared, node.single, node.kept, node.schema, location=node.location,
    )  # fmt: skip
    lowering.run(node, below, sink)
    return pp.StoredTable(number, node.schema, pp.Properties(layout="range"))


def _column_for(e: ex.Expression, word: str, columns: list[op.Named], source: op.Operator) -> str:
    """The column that an expression is, among `columns`, where it may be a new one."""
    known = dict(columns)
    if isinstance(e, ex.Column):
        if e.name not in known:
            columns.append((e.name, e))
        return e.name
    for name, other in columns:
        if other == e:
            return name
    columns.append((fresh_name(word, {*known, *source.schema.names}), e))
    return columns[-1][0]


def _is_own_cache(source: op.Operator) -> bool:
    """Whether it is a cache that a rule made, not the user."""
    return isinstance(source, op.Cache) and not source.key


def _held(lowering: Lowering, source: op.Operator) -> pp.StoredTable:
    """The table in memory, for every later reader."""
    # A cache may hold a part only.
    held = source.source if isinstance(source, op.Cache) and _is_own_cache(source) else source
    below = lowering.table(held)
    if not isinstance(below, pp.StoredTable) or below.delivered.cached:
        number = lowering.number()
        lowering.run(held, below, pr.HoldColumns(number))
        below = pp.StoredTable(number, below.schema, pp.Properties(layout="range"))
        lowering.keep(held, below)
    if held is not source:
        lowering.keep(source, below)
    return below

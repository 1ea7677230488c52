"""Lowering of joins: a stage that holds and indexes one side, then a table that probes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.relations import LEFT, RIGHT, Join
from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.optimizer.cardinality import estimate
from scalops.optimizer.naming import fresh_name

if TYPE_CHECKING:
    from scalops.optimizer.lowering import Lowering

# Neutral: an index of more records is built in parts of so many by hash of the key, on all
# threads; a smaller one is shared as it is.
PART_ROWS = 1 << 17
MOST_PARTS = 1 << 10

_Outputs = tuple[tuple[str, int, str], ...]


class _Side(NamedTuple):
    """One side of a join: what is read of it, with its keys as columns."""

    node: op.Operator
    keys: tuple[str, ...]
    kept: tuple[str, ...]


def lower_join(lowering: Lowering, node: Join) -> pp.PhysicalTable:
    """The left side streams past an index over the right one; in a right join, the other way.

    A full join is a left one, then the right records that an index over the left keys does not
    find, which are few or many and come last.
    """
    left = side_of(node, node.left, node.left_keys, LEFT)
    right = side_of(node, node.right, node.right_keys, RIGHT)
    if node.kind == "right":
        table = lowering.table(right.node)
        number = indexed(lowering, node, left, lowering.table(left.node), left.kept)
        return _probe(node, table, right, number, "left", _flipped(node.outputs))
    table = lowering.table(left.node)
    if node.kind != "full":
        number = indexed(lowering, node, right, lowering.table(right.node), right.kept)
        return _probe(node, table, left, number, node.kind, node.outputs)
    table = _repeatable(lowering, left, table)
    number = indexed(lowering, node, right, lowering.table(right.node), right.kept)
    matched = _probe(node, table, left, number, "left", node.outputs)
    names = dict.fromkeys((*right.kept, *right.keys))
    schema = Schema(tuple((n, right.node.schema[n]) for n in names))
    held = pp.StoredTable(number, schema, pp.Properties(layout="range"))
    keys = indexed(lowering, node, left, table, ())
    rest = _probe(node, held, right, keys, "anti", _flipped(node.outputs))
    return pp.Concatenate((matched, rest), location=node.location)


def side_of(node: Join, source: op.Operator, keys: Sequence[ex.Expression], number: int) -> _Side:
    """The side with computed keys as columns of their own."""
    kept = tuple(dict.fromkeys(c for _, side, c in node.outputs if side == number))
    computed: list[op.Named] = []
    taken = {*source.schema.names}
    names: list[str] = []
    for key in keys:
        if isinstance(key, ex.Column):
            names.append(key.name)
            continue
        names.append(fresh_name("@key", taken))
        computed.append((names[-1], key))
    if computed:
        plain = [n for n in source.schema.names if n in {*kept, *names}]
        outputs = [*((n, ex.Column(n, source.schema[n])) for n in plain), *computed]
        source = op.Project(source, tuple(outputs), location=node.location)
    return _Side(source, tuple(names), kept)


def indexed(
    lowering: Lowering, node: Join, side: _Side, table: pp.PhysicalTable, kept: tuple[str, ...]
) -> int:
    """The number under which a side is held with an index, where its own loop is."""
    number = lowering.number()
    rows = estimate(side.node).rows
    parts = 1
    while parts < MOST_PARTS and rows > 8 * PART_ROWS and parts * PART_ROWS < rows:
        parts *= 2
    sink = pr.BuildIndex(number, side.keys, kept, node.nulls_equal, parts, location=node.location)
    lowering.run(side.node, table, sink)
    return number


def _probe(
    node: Join,
    table: pp.PhysicalTable,
    side: _Side,
    number: int,
    kind: Literal["inner", "left", "semi", "anti", "cross"],
    outputs: _Outputs,
) -> pp.PhysicalTable:
    made = node.schema
    return pr.Probe(table, made, number, side.keys, kind, outputs, location=node.location)


def _flipped(outputs: _Outputs) -> _Outputs:
    return tuple((name, RIGHT if side == LEFT else LEFT, c) for name, side, c in outputs)


def _repeatable(lowering: Lowering, side: _Side, table: pp.PhysicalTable) -> pp.PhysicalTable:
    """The table as two passes may read it, from memory."""
    if isinstance(table, pp.StoredTable):
        return table
    number = lowering.number()
    lowering.run(side.node, table, pr.HoldTable(number, location=side.node.location))
    properties = pp.Properties(table.delivered.partitions, layout="range")
    return pp.StoredTable(number, table.schema, properties)

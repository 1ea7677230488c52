"""Lowering of joins, filters and groups whose keys a loop leaves as they are.

They read tables in whole columns and leave positions behind, which stay while the keys do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.relations import LEFT, RIGHT, GroupAggregate, Join
from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.optimizer.definitions import as_definitions
from scalops.optimizer.lower_joins import lower_join
from scalops.optimizer.naming import fresh_name

if TYPE_CHECKING:
    from scalops.optimizer.lowering import Lowering


def whole(lowering: Lowering, node: op.Operator) -> pp.StoredTable:
    """The table in whole columns, for all who read it from now on.

    A cache that nobody has read so far is held so from the beginning.
    """
    if isinstance(node, op.Cache) and not node.key and not lowering.is_stored(node):
        held = whole(lowering, node.source)
        lowering.keep(node, held)
        return held
    below = lowering.table(node)
    if isinstance(below, pp.StoredTable) and below.number in lowering.whole | lowering.states:
        return below
    made = _stored(lowering, node.schema)
    lowering.run(node, below, pr.HoldColumns(made.number, location=node.location))
    lowering.keep(node, made)
    return made


def _stored(lowering: Lowering, schema: Schema) -> pp.StoredTable:
    number = lowering.number()
    lowering.whole.add(number)
    return pp.StoredTable(number, schema, pp.Properties(layout="range"))


def lower_indexed_filter(lowering: Lowering, node: op.Filter) -> pp.PhysicalTable:
    """The positions of the records that stay."""
    source = whole(lowering, node.source)
    made = _stored(lowering, node.schema)
    kept = pp.Compute(source, (("@kept", lowering.expression(node.predicate)),))
    sink = pr.IndexFilter(made.number, source.number, node.schema, location=node.location)
    lowering.run(node, kept, sink)
    return made


def lower_indexed_join(lowering: Lowering, node: Join) -> pp.PhysicalTable:
    """The positions of both sides' records; a right join is a left one, the other way round.

    Not of a full join, whose last records are those of a second search.
    """
    if node.kind == "full":
        return lower_join(lowering, node)
    left, left_keys = _with_keys(lowering, node.left, node.left_keys)
    right, right_keys = _with_keys(lowering, node.right, node.right_keys)
    kind, outputs = node.kind, node.outputs
    if node.kind == "right":
        left, left_keys, right, right_keys = right, right_keys, left, left_keys
        kind = "left"
        outputs = tuple((n, RIGHT if side == LEFT else LEFT, c) for n, side, c in outputs)
    made = _stored(lowering, node.schema)
    sink = pr.IndexJoin(
        made.number, left.number, right.number, left_keys, right_keys, kind, outputs,
        node.schema, node.nulls_equal, location=node.location,
    )  # fmt: skip
    lowering.run(node, left, sink)
    return made


def _with_keys(
    lowering: Lowering, node: op.Operator, keys: Sequence[ex.Expression]
) -> tuple[pp.StoredTable, tuple[str, ...]]:
    """A side in whole columns, with a column for each key that is computed."""
    taken = {*node.schema.names}
    computed: list[op.Named] = []
    names: list[str] = []
    for key in keys:
        if isinstance(key, ex.Column):
            names.append(key.name)
        else:
            names.append(fresh_name("@key", taken))
            computed.append((names[-1], key))
    if computed:
        own = tuple((n, ex.Column(n, k)) for n, k in node.schema)
        node = op.Project(node, (*own, *computed), location=node.location)
    return whole(lowering, node), tuple(names)


def lower_indexed_group(lowering: Lowering, node: GroupAggregate) -> pp.PhysicalTable:
    """The groups, and folds over the records of each."""
    source, mapped = as_definitions(node.source)
    below = lowering.table(source)
    outputs = [(f"@key{i}", e) for i, (_, e) in enumerate(node.keys)]
    arguments: dict[ex.Expression, str] = {}
    folds = []
    for fold in node.folds:
        for e in fold.arguments:
            arguments.setdefault(e, f"@argument{len(arguments)}")
        own = tuple(ex.Column(arguments[e], e.type.strong()) for e in fold.arguments)
        folds.append(lowering.fold(replace(fold, arguments=own)))
    keys = tuple(n for n, _ in outputs)
    outputs += [(name, e) for e, name in arguments.items()]
    made = _stored(lowering, node.schema)
    defined, named = lowering.lowered(mapped), lowering.lowered(tuple(outputs))
    columns = pp.Compute(below, named, False, defined, location=node.location)
    sink = pr.IndexGroup(
        made.number, keys, tuple(n for n, _ in node.keys), tuple(folds), node.schema,
        location=node.location,
    )  # fmt: skip
    lowering.run(node, columns, sink)
    return made

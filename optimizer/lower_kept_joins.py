"""Lowering of a loop's joins whose left side stays and whose right side changes.

As in Pregel's style, where edges meet the few nodes that have changed: the left side is indexed
once, so that an iteration in which little changes costs little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalops.algebra import operators as op
from scalops.algebra.relations import LEFT, Join
from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.optimizer.lower_indexed import whole
from scalops.optimizer.lower_joins import indexed, lower_join, side_of

if TYPE_CHECKING:
    from scalops.optimizer.lowering import Lowering


def lower_any_join(lowering: Lowering, node: Join) -> pp.PhysicalTable:
    """A join that streams its left side, unless that stays in a loop around.

    Only inner and semi joins: the others give left records that meet none, of which there are
    many wherever few meet. Not of what the user keeps by `cache()`, which need not fit into
    memory, nor of files that are read anew.
    """
    left = side_of(node, node.left, node.left_keys, LEFT)
    held = lowering.stays(left.node, node) and _is_held(left.node)
    if not held or (node.kind != "inner" and node.kind != "semi"):
        return lower_join(lowering, node)
    right = side_of(node, node.right, node.right_keys, 1 - LEFT)
    number = indexed(lowering, node, left, whole(lowering, left.node), left.kept)
    made = lowering.number()
    lowering.run(
        node,
        lowering.table(right.node),
        pr.MeetIndexed(
            made, number, left.keys, right.keys, node.kind, node.outputs,
            Schema(node.schema.fields), node.nulls_equal, location=node.location,
        ),
    )  # fmt: skip
    lowering.whole.add(made)
    return pp.StoredTable(made, node.schema, pp.Properties(layout="range"))


def _is_held(node: op.Operator) -> bool:
    """Whether its records are in memory anyway."""
    while isinstance(node, op.Project):
        node = node.source
    if isinstance(node, op.Cache):
        return not node.key
    return not isinstance(node, op.Scan) or node.source.in_memory

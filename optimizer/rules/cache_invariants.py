"""Tables that a loop reads and does not change are held in memory."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra.tree import Node, transform, with_children
from scalops.optimizer.invariance import Invariance, free_tokens, is_table


def cache_invariants(node: Node) -> Node | None:
    """Loop(..T..) -> Loop(..Cache(T)..) for each largest invariant table T that the body reads.

    Sound because an invariant table has the same records in every iteration. A fold inside the
    loop over T itself reads the cache as well, so that the source is read once. A table that is
    cached already, or that only invariant folds read, stays as it is: those folds are computed
    once.
    """
    if not isinstance(node, op.Loop):
        return None
    analysis = Invariance(node)
    inputs = [t for t in analysis.invariant_inputs() if not isinstance(t, op.Cache)]
    if not inputs:
        return None
    table = inputs[0]
    cached = op.Cache(table, location=table.location)

    def read_cache(reader: Node) -> Node:
        if not isinstance(reader, op.Operator) or table not in reader.inputs:
            return reader
        varying = any(analysis.inside(t) for t in free_tokens(reader)[reader])
        if isinstance(reader, op.Aggregate) or (varying and is_table(reader)):
            # The reader's own input only: what its expressions read has been put right already.
            return with_children(reader, {c: c for c in reader.children} | {table: cached})
        return reader

    condition = None if node.condition is None else transform(node.condition, read_cache)
    return replace(node, body=transform(node.body, read_cache), condition=condition)

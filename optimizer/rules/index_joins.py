"""Joins, groups and filters of a loop whose keys it leaves as they are find their rows once."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra.tree import Node, substitute, walk, with_children
from scalops.optimizer.column_invariance import ColumnInvariance, Indexable


def index_joins(node: Node) -> Node | None:
    """Loop(..Join(L, R)..) -> Loop(..indexed Join(L, R)..); GroupAggregate and Filter likewise.

    For a join of which rows and keys of both sides are invariant, while it varies itself in other
    columns; for groups where rows and keys of the source are; for a filter where its source's
    rows and what the predicate reads are. Sound because which records meet, form a group or stay
    then follows from what no iteration changes, from the first one's output on. An iteration
    gathers by the positions and adds up by the groups that were found before. The engine compares
    the identities of the keys with those that it knows, so that a start with other keys than the
    body's costs a second search and no more.

    Likewise where rows and keys are only presumed to stay, as those of two tables that follow from
    each other: the engine compares, and keeps nothing where they change again and again.

    Not where keys or rows follow from what is computed in the loop (messages in Pregel's style, a
    filter that reads a varying column), nor a cross join, which has no keys, nor a filter that
    reads no column. What varies with a loop inside is that loop's own.
    """
    if not isinstance(node, op.Loop):
        return None
    parts: list[Node] = [node.body]
    if node.condition is not None:
        parts.append(node.condition)
    if all(n.indexed for n in walk(*parts) if isinstance(n, Indexable)):
        return None
    chosen = {n for n in ColumnInvariance(node).indexable() if not n.indexed}
    if not chosen:
        return None
    mapping: dict[Node, Node] = {}
    for inner in walk(*parts):
        made = with_children(inner, mapping)
        if inner in chosen:
            assert isinstance(made, Indexable)
            made = replace(made, indexed=True)
        mapping[inner] = made
    condition = None if node.condition is None else substitute(node.condition, mapping)
    return replace(node, body=substitute(node.body, mapping), condition=condition)

"""All folds of one table are one pass."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra.expressions import Subquery
from scalops.algebra.folds import Fold
from scalops.algebra.tree import Node, substitute, walk
from scalops.optimizer.invariance import Tokens, free_tokens


def merge_aggregates(node: Node) -> Node | None:
    """Aggregate(T, f) and Aggregate(T, g) in one loop body or job -> Aggregate(T, f ∪ g).

    Sound because each fold keeps its own state. Only folds of the very same table, and not
    where one needs the other's result first (a variance around a mean is a second pass); folds
    that vary with a loop and folds that do not stay apart, since the latter run once.
    """
    if isinstance(node, op.Update):
        scope: list[Node] = [node]
    elif isinstance(node, op.Job):
        scope = list(node.outputs)
    else:
        return None
    free = free_tokens(*scope)
    groups: dict[tuple[op.Operator, Tokens], list[op.Aggregate]] = {}
    for inner in _own_scope(node):
        if isinstance(inner, op.Aggregate):
            groups.setdefault((inner.source, free[inner]), []).append(inner)
    for members in groups.values():
        together = _independent(members)
        if len(together) > 1:
            return _merged(node, together)
    return None


def _own_scope(root: Node) -> list[Node]:
    """Nodes below a root, not entering the bodies of loops."""
    found: dict[Node, None] = {}
    stack: list[Node] = [root]
    while stack:
        node = stack.pop()
        if node in found:
            continue
        found[node] = None
        if isinstance(node, op.Loop):
            stack.extend(e for _, e in (*node.start, *node.tables))
            stack.extend(() if node.range is None else node.range.bounds)
        else:
            stack.extend(reversed(node.children))
    return list(found)


def _independent(members: list[op.Aggregate]) -> list[op.Aggregate]:
    """Members none of which reads another's result, directly or through a loop."""
    chosen: list[op.Aggregate] = []
    for member in members:
        below = set(walk(member)) - {member}
        if not any(c in below or member in set(walk(c)) for c in chosen):
            chosen.append(member)
    return chosen


def _merged(node: Node, members: list[op.Aggregate]) -> Node:
    folds: dict[Fold, Fold] = {}
    taken: set[str] = set()
    for member in members:
        for fold in member.folds:
            same = replace(fold, name="")
            if same not in folds:
                name = _fresh(fold.name, taken)
                taken.add(name)
                folds[same] = replace(fold, name=name)
    first = members[0]
    merged = op.Aggregate(first.source, tuple(folds.values()), location=first.location)
    mapping: dict[Node, Node] = {}
    for member in members:
        for fold in member.folds:
            new = folds[replace(fold, name="")].name
            mapping[Subquery(member, fold.name)] = Subquery(merged, new)
    return substitute(node, mapping)


def _fresh(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    number = 2
    while f"{name}{number}" in taken:
        number += 1
    return f"{name}{number}"

"""Rules that look at the folds of an aggregate one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra.folds import Fold
from scalops.algebra.relations import GroupAggregate
from scalops.algebra.tree import Node


def each_fold(
    node: op.Aggregate | GroupAggregate, change: Callable[[Fold], Fold | None]
) -> Node | None:
    """The node with each fold as `change` makes it; None where it leaves all as they are."""
    folds = tuple(change(f) or f for f in node.folds)
    if all(a is b for a, b in zip(folds, node.folds, strict=True)):
        return None
    return replace(node, folds=folds)

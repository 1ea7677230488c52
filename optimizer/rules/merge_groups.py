"""Group-bys of one table by the same keys are one."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra.expressions import Column, Expression
from scalops.algebra.folds import Fold
from scalops.algebra.relations import GroupAggregate
from scalops.algebra.tree import Node, find, substitute, walk
from scalops.optimizer.invariance import Tokens, free_tokens
from scalops.optimizer.naming import fresh_name

_Family = tuple[op.Operator, tuple[Expression, ...], Tokens]


def merge_groups(node: Node) -> Node | None:
    """GroupAggregate(T, k, f), GroupAggregate(T, k, g) -> Project(G, ..), Project(G, ..) with
    G = GroupAggregate(T, k, f ∪ g).

    Sound because both have the same groups in the same order, and each fold keeps its own state.
    Only of the very same table and keys, and not where one needs the other's result (a share of
    the group's total is a second pass); groups that vary with a loop and groups that do not stay
    apart, since the latter are made once.
    """
    if not isinstance(node, op.Job):
        return None
    found = find((node,), GroupAggregate)
    if len(found) < 2:
        return None
    free = free_tokens(node)
    families: dict[_Family, list[GroupAggregate]] = {}
    for groups in found:
        by = tuple(e for _, e in groups.keys)
        families.setdefault((groups.source, by, free[groups]), []).append(groups)
    for members in families.values():
        first, *others = members
        for other in others:
            if first not in walk(other) and other not in walk(first):
                return _merged(node, first, other)
    return None


def _merged(job: op.Job, first: GroupAggregate, other: GroupAggregate) -> Node:
    taken = {*first.schema.names, *other.schema.names}
    folds: dict[Fold, Fold] = {replace(f, name=""): f for f in first.folds}
    for fold in other.folds:
        same = replace(fold, name="")
        if same not in folds:
            name = fresh_name("g", taken) if fold.name in first.schema else fold.name
            folds[same] = replace(fold, name=name)
    merged = replace(first, folds=tuple(folds.values()), origin=None)
    mapping: dict[Node, Node] = {}
    for member in (first, other):
        if member == merged:
            continue
        names = {n: k for (n, _), (k, _) in zip(member.keys, merged.keys, strict=True)}
        names |= {f.name: folds[replace(f, name="")].name for f in member.folds}
        outputs = tuple((n, Column(names[n], kind)) for n, kind in member.schema)
        mapping[member] = op.Project(merged, outputs, location=member.location)
    return substitute(job, mapping)

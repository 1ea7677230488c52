"""A map over a map is one map; a fold over a map reads the map's input."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra.definitions import as_column
from scalops.algebra.expressions import Expression, columns, in_record, opaque_calls
from scalops.algebra.folds import Fold
from scalops.algebra.relations import GroupAggregate
from scalops.algebra.tree import Node, substitute


def merge_maps(node: Node) -> Node | None:
    """Project(Project(T, a), b) -> Project(T, b∘a); Aggregate(Project(T, a), f) likewise.

    GroupAggregate(Project(T, a), k, f) -> GroupAggregate(T, k∘a, f∘a), where a is not opaque.
    And Expand(Project(T, a), bs) -> Expand(T, b∘a for each b), Project(Expand(T, as), b) ->
    Expand(T, b∘a for each a) where b is not opaque.

    Sound because expressions are pure; what b reads twice is computed once, since the kernels
    share equal expressions.
    """
    match node:
        case op.Project(source=op.Project(source=source, outputs=inner), outputs=outputs):
            merged = tuple((n, inline(e, inner)) for n, e in outputs)
            return replace(node, source=source, outputs=merged, origin=None)
        case op.Aggregate(source=op.Project(source=source, outputs=inner), folds=folds):
            return replace(node, source=source, folds=tuple(inline_fold(f, inner) for f in folds))
        case GroupAggregate(source=op.Project(source=source, outputs=inner), keys=keys):
            if opaque_calls([e for _, e in inner]):
                return None  # a key and a fold that read it would each call it
            by = tuple((n, as_column(inline(e, inner))) for n, e in keys)
            folds = tuple(inline_fold(f, inner) for f in node.folds)
            return replace(node, source=source, keys=by, folds=folds)
        case op.Expand(source=op.Project(source=source, outputs=inner), records=records):
            made = tuple(tuple((n, inline(e, inner)) for n, e in r) for r in records)
            return replace(node, source=source, records=made, origin=None)
        case op.Project(source=op.Expand(records=records) as expand, outputs=outputs):
            if opaque_calls([e for _, e in outputs]):
                return None  # one call per record in the plan, not one per record of the list
            made = tuple(_strong(outputs, r) for r in records)
            return replace(expand, records=made, bare=node.bare, origin=None)
    return None


def _strong(outputs: tuple[op.Named, ...], inner: tuple[op.Named, ...]) -> tuple[op.Named, ...]:
    return tuple((n, as_column(inline(e, inner))) for n, e in outputs)


def inline(expression: Expression, outputs: tuple[op.Named, ...]) -> Expression:
    """The expression over a projection's input."""
    named = dict(outputs)
    mapping: dict[Node, Node] = {c: as_column(named[c.name]) for c in columns([expression])}
    # A subquery in it reads records of its own, whose columns may have the same names.
    return substitute(expression, mapping, in_record)


def inline_fold(fold: Fold, outputs: tuple[op.Named, ...]) -> Fold:
    """The fold over a projection's input; its `combine` reads states, not records."""
    return replace(fold, arguments=tuple(inline(a, outputs) for a in fold.arguments))

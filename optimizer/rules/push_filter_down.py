"""Filter first, compute afterwards."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.expressions import Expression, columns, opaque_calls
from scalops.algebra.relations import Cumulate
from scalops.algebra.tree import Node
from scalops.optimizer.invariance import is_uniform
from scalops.optimizer.rules.merge_filters import may_raise
from scalops.optimizer.rules.merge_maps import inline

_ANY = (
    op.Filter, op.Limit, op.Slice, op.Sort, op.Distinct, op.Explode, op.Expand, op.Repartition,
    op.WithRowIndex, op.MapBatches, Cumulate,
)  # fmt: skip


def push_filter_down(node: Node) -> Node | None:
    """Filter(Project(T, a), p) -> Project(Filter(T, p∘a), a); below a sort, a union, an explode.

    Sound because a projection keeps records one for one; a sort is stable; each record of a
    union comes from one table; the columns that an explode repeats are the same for all items.
    Below `distinct` where p reads nothing in which equal values differ, as 0.0 and -0.0 do, and
    only columns by which it tells records apart. Not
    where p∘a holds an opaque function, which would be called twice for a record, nor below an
    explode or `distinct` where p may fail: it would see other records. A filter stays above a
    limit, a slice, row numbers and running aggregates: they count the records before filtering.

    A p that reads no column keeps all records or none: it goes below whatever there is, so that
    nothing is read where it is false.
    """
    if not isinstance(node, op.Filter):
        return None
    source, p = node.source, node.predicate
    match source:
        case op.Project(source=below, outputs=outputs):
            inlined = inline(p, outputs)
            if opaque_calls([inlined]):
                return None
            return replace(source, source=_filtered(node, below, inlined), origin=None)
        case op.Union(sources=sources):
            return replace(source, sources=tuple(_filtered(node, s, p) for s in sources))
    if is_uniform(p):
        if isinstance(source, _ANY) and not (
            isinstance(source, op.Filter) and is_uniform(source.predicate)
        ):
            return replace(source, source=_filtered(node, source.source, p))
        return None
    read = columns([p])
    match source:
        case op.Sort():
            return replace(source, source=_filtered(node, source.source, p))
        case op.Distinct(columns=compared) if not may_raise(p):
            whole = not compared or {c.name for c in read} <= {*compared}
            if whole and all(is_exact(c.type) for c in read):
                return replace(source, source=_filtered(node, source.source, p))
        case op.Explode(names=names, index=index) if not may_raise(p):
            if not {c.name for c in read} & {*names, index}:
                return replace(source, source=_filtered(node, source.source, p))
    return None


def _filtered(node: op.Filter, below: op.Operator, p: Expression) -> op.Filter:
    return replace(node, source=below, predicate=p, origin=None)


def is_exact(kind: ArrayType) -> bool:
    """Whether equal values of a type are the same in all respects."""
    return kind.is_string or (not kind.is_list and kind.numpy.kind in "biumM")

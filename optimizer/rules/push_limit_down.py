"""Take the first records before computing anything of them."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra.expressions import Constant, Expression
from scalops.algebra.relations import Cumulate
from scalops.algebra.tree import Node


def push_limit_down(node: Node) -> Node | None:
    """Limit(Project(T, a), n) -> Project(Limit(T, n), a); Limit(Limit(T, m), n) -> the lesser.

    Slices likewise, and a limit below row numbers and running aggregates. Sound because a
    projection keeps records one for one, in order; an opaque function is then called for n
    records instead of all. A limit stays above a filter, which drops records, and above running
    aggregates from the end. A limit of a slice is a shorter slice where both numbers are known.
    """
    match node:
        case (
            op.Limit(source=op.Project(source=source) as project)
            | op.Slice(source=op.Project(source=source) as project)
        ):
            return replace(project, source=replace(node, source=source), origin=None)
        case op.Limit(source=op.WithRowIndex(source=source) as numbered):
            return replace(numbered, source=replace(node, source=source))
        case op.Limit(source=Cumulate(source=source, columns=columns) as cumulated):
            if not any(c.reverse for c in columns):
                return replace(cumulated, source=replace(node, source=source))
        case op.Limit(source=op.Limit(source=source, count=inner), count=outer):
            return replace(node, source=source, count=min(inner, outer))
        case op.Limit(source=op.Slice(start=Constant(), length=length) as part, count=outer):
            if length is None or isinstance(length, Constant):
                return replace(part, length=_least(length, outer))
    return None


def _least(length: Expression | None, count: int) -> Constant:
    known = length.value if isinstance(length, Constant) else count
    return Constant(min(int(known), count))

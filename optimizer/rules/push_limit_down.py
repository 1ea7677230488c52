"""Take the first records before computing anything of them."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra.tree import Node


def push_limit_down(node: Node) -> Node | None:
    """Limit(Project(T, a), n) -> Project(Limit(T, n), a); Limit(Limit(T, m), n) -> the lesser.

    Sound because a projection keeps records one for one, in order; an opaque function is then
    called for n records instead of all. A limit stays above a filter, which drops records.
    """
    match node:
        case op.Limit(source=op.Project(source=source) as project):
            return replace(project, source=replace(node, source=source), origin=None)
        case op.Limit(source=op.Limit(source=source, count=inner), count=outer):
            return replace(node, source=source, count=min(inner, outer))
    return None

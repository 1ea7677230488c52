"""Filter first, compute afterwards."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra.expressions import opaque_calls
from scalops.algebra.tree import Node
from scalops.optimizer.rules.merge_maps import inline


def push_filter_down(node: Node) -> Node | None:
    """Filter(Project(T, a), p) -> Project(Filter(T, p∘a), a).

    Sound because a projection keeps records one for one. Not where p∘a holds an opaque
    function, which would be called twice for a record. A filter stays above a limit: the
    first n records are those before filtering.
    """
    match node:
        case op.Filter(source=op.Project(source=source, outputs=outputs) as project, predicate=p):
            below = inline(p, outputs)
            if opaque_calls([below]):
                return None
            filtered = replace(node, source=source, predicate=below, origin=None)
            return replace(project, source=filtered, origin=None)
    return None

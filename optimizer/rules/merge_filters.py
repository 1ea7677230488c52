"""Two filters are one."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra.expressions import call, opaque_calls
from scalops.algebra.functions import function
from scalops.algebra.tree import Node


def merge_filters(node: Node) -> Node | None:
    """Filter(Filter(T, p), q) -> Filter(T, p & q).

    Sound because & is Kleene's: a record stays only where both are true. Not where q is
    opaque: it would be called on records that p had dropped, and might raise.
    """
    match node:
        case op.Filter(source=op.Filter(source=source, predicate=p), predicate=q) if (
            not opaque_calls([q])
        ):
            both = call(function("bitwise_and"), p, q, location=node.location)
            return replace(node, source=source, predicate=both, origin=None)
    return None

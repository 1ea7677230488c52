"""Two filters are one."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra.expressions import Call, Expression, Opaque, call
from scalops.algebra.functions import function
from scalops.algebra.tree import Node, find


def merge_filters(node: Node) -> Node | None:
    """Filter(Filter(T, p), q) -> Filter(T, p & q).

    Sound because & is Kleene's: a record stays only where both are true. Not where q is
    opaque or may fail (an index, a matrix inverse): it would be called on records that p had
    dropped, and might raise.
    """
    match node:
        case op.Filter(source=op.Filter(source=source, predicate=p), predicate=q) if not _may_raise(
            q
        ):
            both = call(function("bitwise_and"), p, q, location=node.location)
            return replace(node, source=source, predicate=both, origin=None)
    return None


def _may_raise(predicate: Expression) -> bool:
    return bool(find([predicate], Opaque)) or any(map(_can_fail, find([predicate], Call)))


def _can_fail(node: Call) -> bool:
    # NumPy refuses integers to negative integer powers.
    return node.function.can_fail or (
        node.function.name == "power" and node.type.numpy.kind in "iu"
    )

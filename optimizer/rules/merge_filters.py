"""Two filters are one."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra.expressions import Call, Expression, Opaque, call
from scalops.algebra.functions import function
from scalops.algebra.tree import Node, find
from scalops.optimizer.invariance import is_uniform


def merge_filters(node: Node) -> Node | None:
    """Filter(Filter(T, p), q) -> Filter(T, p & q).

    Sound because & is Kleene's: a record stays only where both are true. Not where q is
    opaque or may fail (an index, a matrix inverse): it would be called on records that p had
    dropped, and might raise. Nor where one of them reads no column and the other does: alone it
    decides, once, whether the table is read.
    """
    match node:
        case op.Filter(source=op.Filter(source=source, predicate=p), predicate=q) if not may_raise(
            q
        ) and is_uniform(p) == is_uniform(q):
            both = call(function("bitwise_and"), p, q, location=node.location)
            return replace(node, source=source, predicate=both, origin=None)
    return None


def may_raise(predicate: Expression) -> bool:
    """Whether it may fail for a record that another filter would have dropped."""
    return bool(find([predicate], Opaque)) or any(map(_can_fail, find([predicate], Call)))


def _can_fail(node: Call) -> bool:
    # NumPy refuses integers to negative integer powers. A text may be no number.
    name = node.function.name
    return (
        node.function.can_fail
        or (name == "power" and node.type.numpy.kind in "iu")
        or (name == "cast" and node.arguments[0].type.is_string)
    )

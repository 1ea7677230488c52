"""A loop body that is one pass becomes one operator."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.tree import Node, find, substitute
from scalops.optimizer.definitions import as_definitions
from scalops.optimizer.invariance import Invariance


def fuse_map_reduce_update(node: Node) -> Node | None:
    """Loop(Update(u(Aggregate(Project(T, a), f)))) -> Loop(MapReduceUpdate(T, a, f, u)).

    Over several projections, one above the other, a holds what they add from the lowest to the
    highest, each reading those before it. Sound because it is the same computation in one
    operator: per record the named columns a, the folds f, and the update u at the root of the
    aggregation tree. A projection that gives a column's name a new meaning stays below. Not
    where the environment holds tables, where the body needs two passes (one fold reads another's
    result, or two tables are folded), runs a loop inside, or folds nothing; folds and loops
    behind an invariant table are not the body's own.
    """
    if not isinstance(node, op.Loop) or not isinstance(node.body, op.Update):
        return None
    body = node.body
    if body.tables:
        return None
    varying = _varying(node)
    aggregates = [n for n in varying if isinstance(n, op.Aggregate)]
    if len(aggregates) != 1 or any(isinstance(n, op.Loop) for n in varying):
        return None
    (aggregate,) = aggregates
    if node.condition is not None and find((node.condition,), op.Aggregate):
        return None
    source, mapped = as_definitions(aggregate.source)
    reduced: dict[Node, Node] = {
        ex.Subquery(aggregate, f.name): ex.Reduced(f.name, f.type) for f in aggregate.folds
    }
    update = tuple((n, substitute(e, reduced)) for n, e in body.update)
    fused = op.MapReduceUpdate(source, mapped, aggregate.folds, update, location=aggregate.location)
    return replace(node, body=fused)


def _varying(loop: op.Loop) -> list[Node]:
    """What the body computes in each iteration, not entering what it leaves unchanged."""
    analysis = Invariance(loop)
    found: dict[Node, None] = {}
    stack: list[Node] = [loop.body]
    while stack:
        node = stack.pop()
        if node not in found and analysis.varies(node):
            found[node] = None
            stack.extend(node.children)
    return list(found)

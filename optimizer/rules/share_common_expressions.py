"""What several folds or columns need is computed once and has a name."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.tree import Node, substitute, walk
from scalops.optimizer.cost import flops
from scalops.optimizer.naming import fresh_name

_LEAST_FLOPS = 4.0


def share_common_expressions(node: Node) -> Node | None:
    """Aggregate(T, f(e), g(e)) -> Aggregate(Project(T, s = e), f(s), g(s)); Project likewise.

    e is read in two places or more, reads columns, and costs at least a few operations. Sound
    because expressions are pure, and an opaque function is called once per record either way.
    """
    if isinstance(node, op.Aggregate):
        roots = [a for f in node.folds for a in f.arguments]
    elif isinstance(node, op.Project):
        roots = [e for _, e in node.outputs]
    else:
        return None
    shared = _shared(roots)
    if not shared:
        return None
    taken = set(node.source.schema.names)
    names = {e: fresh_name("s", taken) for e in shared}
    mapping: dict[Node, Node] = {e: ex.Column(n, e.type.strong()) for e, n in names.items()}
    new_roots = [substitute(r, mapping, ex.in_record) for r in roots]
    read = ex.columns_read(new_roots)
    kept = [(n, ex.Column(n, k)) for n, k in node.source.schema if n in read]
    below = op.Project(node.source, (*kept, *((n, e) for e, n in names.items())))
    remaining = iter(new_roots)
    if isinstance(node, op.Aggregate):
        folds = tuple(
            replace(f, arguments=tuple(next(remaining) for _ in f.arguments)) for f in node.folds
        )
        return replace(node, source=below, folds=folds)
    outputs = tuple((n, next(remaining)) for n, _ in node.outputs)
    return replace(node, source=below, outputs=outputs, origin=None)


def _shared(roots: list[ex.Expression]) -> list[ex.Expression]:
    """Largest expressions with two readers or more, in order of appearance."""
    uses: dict[Node, int] = {}
    order: list[Node] = []
    stack: list[Node] = list(reversed(roots))
    for root in roots:
        uses[root] = uses.get(root, 0) + 1
    seen: set[Node] = set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        order.append(node)
        for child in node.children:
            if isinstance(child, ex.Expression):
                uses[child] = uses.get(child, 0) + 1
                stack.append(child)
    chosen: dict[ex.Expression, None] = {}
    covered: set[Node] = set()
    for node in order:
        if uses[node] < 2 or node in covered or not _worth_a_name(node):
            continue
        assert isinstance(node, ex.Expression)
        chosen[node] = None
        covered.update(below for below in walk(node) if below != node)
    # One that is also read outside a larger shared one is found when the rule runs again.
    return [e for e in chosen if e not in covered]


def _worth_a_name(node: Node) -> bool:
    if not isinstance(node, (ex.Call, ex.Item)) or not ex.columns([node]):
        return False
    kind = node.any_type
    if not isinstance(kind, ArrayType) or kind.weak:  # a column would be strongly typed
        return False
    return flops(node) >= _LEAST_FLOPS

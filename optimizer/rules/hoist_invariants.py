"""What a loop does not change is computed before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.relations import GroupAggregate
from scalops.algebra.tree import Node, find, substitute, walk
from scalops.optimizer.cost import compute_cost, read_cost
from scalops.optimizer.invariance import Invariance, is_table
from scalops.optimizer.naming import fresh_name

_Reader = op.Aggregate | op.Project | GroupAggregate


def hoist_invariants(node: Node) -> Node | None:
    """Loop(..e..) -> Loop(..k.., k = e once) for invariant values e; and for records:

    Aggregate(Cache(T), f(g(x), env)) -> Aggregate(Cache(Project(T, h = g(x))), f(h, env)), and
    the same for Project and for the keys and folds of a GroupAggregate.

    Sound because e and g read nothing that the loop changes. Values always move, to the
    outermost loop that they do not read (an inner loop's bindings are hoisted again by the
    outer one). A record's expression moves only where computing it costs more than reading its
    result from memory, net of the columns that are then no longer read.
    """
    if not isinstance(node, op.Loop):
        return None
    analysis = Invariance(node)
    return _hoist_values(node, analysis) or _hoist_columns(node, analysis)


def _hoist_values(loop: op.Loop, analysis: Invariance) -> op.Loop | None:
    found: dict[ex.Expression, None] = {}
    stack: list[Node] = list(reversed(analysis.parts))
    seen: set[Node] = set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if is_table(node) and not analysis.varies(node):
            continue  # an invariant table is hoisted whole, by its cache
        if isinstance(node, ex.Expression) and _is_value(node) and not analysis.varies(node):
            found[node] = None
            continue
        stack.extend(reversed(node.children))
    if not found:
        return None

    def outside_invariants(node: Node) -> bool:
        # An invariant table must not come to read the binding: it would be invariant no more.
        return not is_table(node) or analysis.varies(node)

    mapping: dict[Node, Node] = {}
    bindings = list(loop.bindings)
    # Loops inside have bindings too; a name stands for one of them in the whole plan text.
    taken = {n for inner in (loop, *find(analysis.parts, op.Loop)) for n, _ in inner.bindings}
    for e in found:
        name = fresh_name("k", taken)
        mapping[e] = ex.Bound(name, e.type, loop.token, location=e.location)
        bindings.append((name, e))
    return replace(_within(loop, mapping, outside_invariants), bindings=tuple(bindings))


def _is_value(node: ex.Expression) -> bool:
    """Worth a binding: it reads a table or a loop, or computes; and it is one array."""
    if isinstance(node, (ex.Subquery, ex.LoopOutput)):
        return True
    return isinstance(node, (ex.Call, ex.Item)) and not ex.columns([node])


def _hoist_columns(loop: op.Loop, analysis: Invariance) -> op.Loop | None:
    for node in walk(*analysis.parts):
        if isinstance(node, _Reader) and isinstance(node.source, op.Cache):
            if not analysis.varies(node) or node.source.key:
                continue  # the user's own cache holds what the user said
            made = _with_columns_below(node, node.source, analysis)
            if made is not None:
                return _within(loop, {node: made})
    return None


def _with_columns_below(node: _Reader, cache: op.Cache, analysis: Invariance) -> op.Operator | None:
    roots = _record_expressions(node)
    chosen = [e for e in _largest_invariant(roots, analysis) if _pays(e, roots)]
    if not chosen:
        return None
    taken = set(cache.schema.names)
    names = {e: fresh_name("h", taken) for e in chosen}
    kept = tuple((n, ex.Column(n, k)) for n, k in cache.schema)
    below = op.Project(
        cache.source, (*kept, *((n, e) for e, n in names.items())), location=chosen[0].location
    )
    mapping: dict[Node, Node] = {e: ex.Column(n, e.type.strong()) for e, n in names.items()}
    source = replace(cache, source=below)
    if isinstance(node, op.Project):
        outputs = tuple((n, substitute(e, mapping, ex.in_record)) for n, e in node.outputs)
        return replace(node, source=source, outputs=outputs, origin=None)
    folds = tuple(
        replace(f, arguments=tuple(substitute(a, mapping, ex.in_record) for a in f.arguments))
        for f in node.folds
    )
    if isinstance(node, op.Aggregate):
        return replace(node, source=source, folds=folds)
    keys = tuple((n, substitute(e, mapping, ex.in_record)) for n, e in node.keys)
    return replace(node, source=source, keys=keys, folds=folds)


def _record_expressions(node: _Reader) -> list[ex.Expression]:
    if isinstance(node, op.Project):
        return [e for _, e in node.outputs]
    keys = [e for _, e in node.keys] if isinstance(node, GroupAggregate) else []
    return keys + [a for f in node.folds for a in f.arguments]


def _largest_invariant(roots: list[ex.Expression], analysis: Invariance) -> list[ex.Expression]:
    """The largest computed parts of record expressions that read columns and no state."""
    found: dict[ex.Expression, None] = {}
    seen: set[Node] = set()
    stack: list[Node] = list(reversed(roots))
    while stack:
        node = stack.pop()
        if node in seen or not isinstance(node, ex.Expression):
            continue
        seen.add(node)
        computed = isinstance(node, (ex.Call, ex.Item)) and bool(ex.columns([node]))
        weak = isinstance(node.any_type, ArrayType) and node.any_type.weak
        if computed and not weak and not analysis.varies(node):
            found[node] = None
        else:
            stack.extend(reversed(node.children))
    return list(found)


def _pays(e: ex.Expression, roots: list[ex.Expression]) -> bool:
    """Whether reading the result each time costs less than computing it each time."""
    elsewhere = ex.columns_read([_without(r, e) for r in roots])
    spared = sum(c.type.bytes for c in ex.columns([e]) if c.name not in elsewhere)
    return read_cost(e.type.bytes) < compute_cost(e) + read_cost(spared)


def _without(root: ex.Expression, e: ex.Expression) -> ex.Expression:
    return substitute(root, {e: ex.Reduced("", e.type)}, ex.in_record)


def _within(
    loop: op.Loop, mapping: dict[Node, Node], enter: Callable[[Node], bool] = lambda node: True
) -> op.Loop:
    """The loop with nodes of its body and condition replaced; its start stays."""
    condition = loop.condition
    if condition is not None:
        condition = substitute(condition, mapping, enter)
    return replace(loop, body=substitute(loop.body, mapping, enter), condition=condition)

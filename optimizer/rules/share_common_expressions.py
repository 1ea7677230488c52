"""What several folds or columns need is computed once and has a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.folds import Fold
from scalops.algebra.tree import Node, substitute, walk
from scalops.optimizer.cost import flops
from scalops.optimizer.naming import fresh_name

_LEAST_FLOPS = 4.0

Levels = list[list[op.Named]]


def share_common_expressions(node: Node) -> Node | None:
    """Aggregate(T, f(e), g(e)) -> Aggregate(Project(T, s = e), f(s), g(s)); Project likewise.

    Every e that has two readers or more in the graph of all the node's expressions, reads
    columns, and costs a few operations beyond what has a name already. One that reads others,
    as f(h(e), g(h(e))) with g read twice, stands in a projection above theirs:
    Project(Project(T, s1 = h(e)), s1, s2 = g(s1)).

    A GroupAggregate likewise, with its keys; a Join with the keys of each side.

    Sound because expressions are pure, and an opaque function is called once per record either
    way; the projections are computed together with their reader, in one pass.
    """
    match node:
        case op.Aggregate(source=source, folds=folds):
            found = _shared(source, _arguments(folds))
            if found is not None:
                below, e = found
                return replace(node, source=below, folds=_over(folds, e))
        case rel.GroupAggregate(source=source, keys=keys, folds=folds):
            found = _shared(source, [e for _, e in keys] + _arguments(folds))
            if found is not None:
                below, e = found
                by = tuple((n, next(e)) for n, _ in keys)
                return replace(node, source=below, keys=by, folds=_over(folds, e))
        case op.Project(source=source, outputs=outputs):
            found = _shared(source, [e for _, e in outputs])
            if found is not None:
                below, e = found
                made = tuple((n, next(e)) for n, _ in outputs)
                return replace(node, source=below, outputs=made, origin=None)
        case rel.Join(left=left, right=right):
            read = [{c for _, side, c in node.outputs if side == i} for i in (rel.LEFT, rel.RIGHT)]
            found = _shared(left, list(node.left_keys), read[rel.LEFT])
            if found is not None:
                return replace(node, left=found[0], left_keys=tuple(found[1]))
            found = _shared(right, list(node.right_keys), read[rel.RIGHT])
            if found is not None:
                return replace(node, right=found[0], right_keys=tuple(found[1]))
    return None


def _arguments(folds: tuple[Fold, ...]) -> list[ex.Expression]:
    return [a for f in folds for a in f.arguments]


def _over(folds: tuple[Fold, ...], arguments: Iterator[ex.Expression]) -> tuple[Fold, ...]:
    return tuple(replace(f, arguments=tuple(next(arguments) for _ in f.arguments)) for f in folds)


def _shared(
    source: op.Operator, roots: list[ex.Expression], also: AbstractSet[str] = frozenset()
) -> tuple[op.Operator, Iterator[ex.Expression]] | None:
    """The table with what the roots share as columns, and the roots over it; None if nothing.

    Columns `also` are kept for others to read.
    """
    levels, made = _named(roots, set(source.schema.names))
    return (_projections(source, levels, made, also), iter(made)) if levels else None


def _named(roots: list[ex.Expression], taken: set[str]) -> tuple[Levels, list[ex.Expression]]:
    """What gets a name, by level (each reads only lower ones), and the roots over the names."""
    readers = Counter[Node](roots)
    for e in ex.within(roots):
        readers.update(c for c in e.children if isinstance(c, ex.Expression))
    mapping: dict[Node, Node] = {}
    level: dict[Node, int] = {}  # of what reads a column
    levels: Levels = []
    for node in walk(*roots, enter=ex.in_record):
        below = [level[c] + (c in mapping) for c in node.children if c in level]
        if not below and not isinstance(node, ex.Column):
            continue
        level[node] = max(below, default=0)
        if readers[node] < 2 or not isinstance(node, (ex.Call, ex.Item)):
            continue
        kind = node.any_type
        if not isinstance(kind, ArrayType) or kind.weak:  # a column would be strongly typed
            continue
        e = substitute(node, mapping, ex.in_record)
        if flops(e) < _LEAST_FLOPS:
            continue
        name = fresh_name("s", taken)
        if level[node] == len(levels):
            levels.append([])
        levels[level[node]].append((name, e))
        mapping[node] = ex.Column(name, e.type.strong())
    return levels, [substitute(root, mapping, ex.in_record) for root in roots]


def _projections(
    source: op.Operator, levels: Levels, readers: list[ex.Expression], also: AbstractSet[str]
) -> op.Operator:
    """The table with the named columns, level upon level; each keeps what is read above it."""
    read = [ex.columns_read(readers) | also]
    for named in reversed(levels):
        read.append(read[-1] | ex.columns_read(e for _, e in named))
    for named, above in zip(levels, reversed(read[:-1]), strict=True):
        kept = tuple((n, ex.Column(n, k)) for n, k in source.schema if n in above)
        source = op.Project(source, (*kept, *named))
    return source

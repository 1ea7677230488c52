"""Only the columns that are read are decoded, computed and cached."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra.expressions import Column, columns_read
from scalops.algebra.tree import Node, substitute, walk


def push_columns_into_scan(node: Node) -> Node | None:
    """Reader(T) -> Reader(T with only the columns that the reader reads), down to the Scan.

    Through filters, limits and repartitions, which keep what they need themselves. A cache has
    one form for all its readers: it keeps the columns that any of them reads, so it is
    narrowed at the root of the plan, where all are seen. One column always stays, to count by.
    """
    if isinstance(node, op.Job):
        return _narrow_caches(node)
    source = getattr(node, "source", None)
    if not isinstance(source, op.Operator) or not isinstance(
        node, (op.Project, op.Aggregate, op.MapReduceUpdate)
    ):
        return None
    if isinstance(node, op.Project) and _is_identity(node):
        # A plain choice of columns: it disappears into the scan, or moves on below.
        return _choose(source, node.schema.names)
    narrowed = _narrowed(source, _reads(node))
    return None if narrowed is None else replace(node, source=narrowed)


def _reads(node: op.Operator) -> frozenset[str]:
    match node:
        case op.Project(outputs=outputs):
            return columns_read(e for _, e in outputs)
        case op.Aggregate(folds=folds):
            return columns_read(a for f in folds for a in f.arguments)
        case op.MapReduceUpdate(map=mapped, reduce=folds, source=source):
            own = columns_read(e for _, e in mapped)
            return own | (
                columns_read(a for f in folds for a in f.arguments) & {*source.schema.names}
            )
    return frozenset(node.schema.names)


def _is_identity(node: op.Project) -> bool:
    return (
        bool(node.outputs)
        and not node.schema.bare
        and all(isinstance(e, Column) and e.name == name for name, e in node.outputs)
    )


def _narrowed(source: op.Operator, wanted: frozenset[str]) -> op.Operator | None:
    """The table with the wanted columns only, or None where it has no others."""
    names = tuple(n for n in source.schema.names if n in wanted)
    if not names and len(source.schema):
        types = source.schema.types
        names = (min(source.schema.names, key=lambda n: (types[n].is_string, types[n].bytes)),)
    if names == source.schema.names:
        return None
    return _choose(source, names)


def _choose(source: op.Operator, names: tuple[str, ...]) -> op.Operator | None:
    match source:
        case op.Scan():
            return replace(source, columns=names)
        case op.Filter(source=below, predicate=predicate):
            wanted = frozenset(names) | columns_read([predicate])
            narrowed = _narrowed(below, wanted)
            if narrowed is None:
                return None
            if narrowed.schema.names == names:
                return replace(source, source=narrowed)
            return _select(replace(source, source=narrowed), names)
        case op.Limit(source=below) | op.Repartition(source=below):
            made = _choose(below, names)
            return None if made is None else replace(source, source=made)
        case op.Project(outputs=outputs):
            named = dict(outputs)
            return replace(
                source, outputs=tuple((n, named[n]) for n in names), bare=False, origin=None
            )
    return None


def _select(source: op.Operator, names: tuple[str, ...]) -> op.Project:
    return op.Project(source, tuple((n, Column(n, source.schema[n])) for n in names))


def _narrow_caches(job: op.Job) -> Node | None:
    readers: dict[op.Cache, set[str]] = {}
    for node in walk(job):
        if not isinstance(node, op.Operator):
            continue
        for child in node.inputs:
            if isinstance(child, op.Cache):
                everything = not isinstance(node, (op.Project, op.Aggregate, op.MapReduceUpdate))
                read = set(child.schema.names) if everything else set(_reads(node))
                if isinstance(node, op.Filter):
                    read = set(child.schema.names)
                readers.setdefault(child, set()).update(read)
    for cache, read in readers.items():
        narrowed = _narrowed(cache.source, frozenset(read))
        if narrowed is None:
            continue
        new = replace(cache, source=narrowed)
        if new.schema.bare != cache.schema.bare:
            continue
        return substitute(job, {cache: new})
    return None

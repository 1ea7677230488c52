"""Only the columns that are read are decoded, computed and cached."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra.expressions import Column, columns_read
from scalops.algebra.schema import Schema
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


def _kept(schema: Schema, wanted: frozenset[str]) -> tuple[str, ...]:
    """The wanted columns in order; where there is none, the cheapest one."""
    names = tuple(n for n in schema.names if n in wanted)
    if names or not schema.names:
        return names
    types = schema.types
    return (min(schema.names, key=lambda n: (types[n].is_string, types[n].bytes)),)


def _narrowed(source: op.Operator, wanted: frozenset[str]) -> op.Operator | None:
    """The table with the wanted columns only, or None where it has no others."""
    names = _kept(source.schema, wanted)
    return None if names == source.schema.names else _choose(source, names)


def _choose(source: op.Operator, names: tuple[str, ...]) -> op.Operator | None:
    match source:
        case op.Scan():
            return replace(source, columns=names)
        case op.Filter(source=below, predicate=predicate):
            wanted = frozenset(names) | columns_read([predicate])
            narrowed = _below(below, _kept(below.schema, wanted))
            if narrowed is None:
                return None
            if narrowed.schema.names == names:
                return replace(source, source=narrowed)
            return _select(replace(source, source=narrowed), names)
        case op.Limit(source=below) | op.Repartition(source=below):
            made = _below(below, names)
            return None if made is None else replace(source, source=made)
        case op.Project(outputs=outputs):
            named = dict(outputs)
            return replace(
                source, outputs=tuple((n, named[n]) for n in names), bare=False, origin=None
            )
    return None


def _below(source: op.Operator, names: tuple[str, ...]) -> op.Operator | None:
    """The narrower input of an operator that hands records on; of a cache, a choice above it."""
    if names == source.schema.names:
        return None
    if isinstance(source, op.Cache):
        return _select(source, names)
    return _choose(source, names)


def _select(source: op.Operator, names: tuple[str, ...]) -> op.Project:
    return op.Project(source, tuple((n, Column(n, source.schema[n])) for n in names))


def _narrow_caches(job: op.Job) -> Node | None:
    readers: dict[op.Cache, set[str]] = {}
    for node in walk(job):
        if not isinstance(node, op.Operator):
            continue
        for child in node.inputs:
            if isinstance(child, op.Cache):
                # Readers that hand records on as they are need every column.
                narrow = isinstance(node, (op.Project, op.Aggregate, op.MapReduceUpdate))
                read = _reads(node) if narrow else frozenset(child.schema.names)
                readers.setdefault(child, set()).update(read)
    for cache, wanted in readers.items():
        names = _kept(cache.schema, frozenset(wanted))
        if names != cache.schema.names:
            # What only a filter below reads is not held.
            source = _choose(cache.source, names) or _select(cache.source, names)
            return substitute(job, {cache: replace(cache, source=source)})
    return None

"""Only the columns that are read are decoded, computed and cached."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra.expressions import Column, columns_read
from scalops.algebra.schema import Schema
from scalops.algebra.tree import Node, substitute, walk


def push_columns_into_scan(node: Node) -> Node | None:
    """Reader(T) -> Reader(T with only the columns that the reader reads), down to the Scan.

    Through filters, limits, slices, repartitions, sorts, row numbers, explodes and unions, which
    keep what they need themselves; not through `distinct`, which compares all columns, nor
    `map_batches`. Row numbers that nobody reads are not made. A cache has one form for all its
    readers: it keeps the columns that any of them reads, so it is narrowed at the root of the
    plan, where all are seen; not one that the user asked for. One column always stays, to count
    by.
    """
    if isinstance(node, op.Job):
        return _narrow_caches(node)
    source = getattr(node, "source", None)
    if not isinstance(source, op.Operator) or not isinstance(
        node, (op.Project, op.Aggregate, op.MapReduceUpdate, op.Expand)
    ):
        return None
    if isinstance(node, op.Project) and node.outputs == _as_they_are(source) and not node.bare:
        return None if source.schema.bare else source
    if isinstance(node, op.Project) and _is_identity(node):
        # A plain choice of columns: it disappears into the scan, or moves on below.
        return _choose(source, node.schema.names)
    narrowed = _narrowed(source, _reads(node))
    return None if narrowed is None else replace(node, source=narrowed)


def _reads(node: op.Operator) -> frozenset[str]:
    match node:
        case op.Project(outputs=outputs):
            return columns_read(e for _, e in outputs)
        case op.Expand(records=records):
            return columns_read(e for record in records for _, e in record)
        case op.Aggregate(folds=folds):
            return columns_read(a for f in folds for a in f.arguments)
        case op.MapReduceUpdate(map=mapped, reduce=folds, source=source):
            own = columns_read(e for _, e in mapped)
            read = own | columns_read(a for f in folds for a in f.arguments)
            return read & {*source.schema.names}
    return frozenset(node.schema.names)


def _is_identity(node: op.Project) -> bool:
    return (
        bool(node.outputs)
        and not node.schema.bare
        and all(isinstance(e, Column) and e.name == name for name, e in node.outputs)
    )


def _kept(schema: Schema, wanted: frozenset[str | None]) -> tuple[str, ...]:
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
            return _over(source, below, frozenset(names) | columns_read([predicate]), names)
        case op.Sort(source=below, keys=keys):
            return _over(source, below, frozenset(names) | columns_read(keys), names)
        case op.Limit(source=below) | op.Slice(source=below) | op.Repartition(source=below):
            made = _below(below, names)
            return None if made is None else replace(source, source=made)
        case op.Union(sources=sources):
            return replace(source, sources=tuple(_narrow(s, names) for s in sources))
        case op.WithRowIndex(source=below, name=name):
            if name not in names:
                return _narrow(below, names)
            return _over(source, below, frozenset(names) - {name}, names)
        case op.Explode(source=below, names=exploded, index=index):
            if index is not None and index not in names:
                source = replace(source, index=None)
                return source if source.schema.names == names else _select(source, names)
            return _over(source, below, (frozenset(names) | set(exploded)) - {index}, names)
        case op.Expand(records=records):
            chosen = tuple(tuple((n, dict(r)[n]) for n in names) for r in records)
            return replace(source, records=chosen, bare=False, origin=None)
        case op.Project(outputs=outputs):
            named = dict(outputs)
            return replace(
                source, outputs=tuple((n, named[n]) for n in names), bare=False, origin=None
            )
    return None


def _over(
    node: op.Operator, below: op.Operator, wanted: frozenset[str | None], names: tuple[str, ...]
) -> op.Operator | None:
    """An operator over a narrower input that still has what it reads itself."""
    narrowed = _below(below, _kept(below.schema, wanted))
    if narrowed is None:
        return None
    made: op.Operator = replace(node, source=narrowed)  # type: ignore[call-arg]
    return made if made.schema.names == names else _select(made, names)


def _narrow(source: op.Operator, names: tuple[str, ...]) -> op.Operator:
    """The table with these columns: narrowed below, or by a choice above it."""
    if names == source.schema.names:
        return source
    return _choose(source, names) or _select(source, names)


def _as_they_are(source: op.Operator) -> tuple[op.Named, ...]:
    return tuple((n, Column(n, k)) for n, k in source.schema)


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
                narrow = isinstance(node, (op.Project, op.Aggregate, op.MapReduceUpdate, op.Expand))
                read = _reads(node) if narrow else frozenset(child.schema.names)
                readers.setdefault(child, set()).update(read)
    for cache, wanted in readers.items():
        names = _kept(cache.schema, frozenset(wanted))
        if names != cache.schema.names and not cache.key:
            # What only a filter below reads is not held.
            source = _choose(cache.source, names) or _select(cache.source, names)
            return substitute(job, {cache: replace(cache, source=source)})
    return None

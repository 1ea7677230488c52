"""Only the columns that are read are decoded, computed and cached."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.expressions import Column, columns_read
from scalops.algebra.schema import Schema
from scalops.algebra.tree import Node, substitute, walk

_READERS = (op.Project, op.Aggregate, op.MapReduceUpdate, op.Expand, rel.GroupAggregate)
_SHARED = (op.Cache, rel.Join, rel.GroupAggregate)


def push_columns_into_scan(node: Node) -> Node | None:
    """Reader(T) -> Reader(T with only the columns that the reader reads), down to the Scan.

    Through filters, limits, slices, repartitions, sorts, row numbers, running aggregates,
    explodes and unions, which keep what they need themselves; not through `distinct`, unless it
    compares some columns alone, nor `map_batches`. Row numbers and running aggregates that nobody
    reads are not made. Of each side a join reads its keys and what it gives; groups are made of
    their keys and what is folded.

    A cache has one form for all its readers, and so have a join and groups, which are made once:
    they keep the columns that any reader reads, so they are narrowed at the root of the plan,
    where all are seen; not a cache that the user asked for, nor a table of a loop's environment,
    whose columns are declared. One column always stays, to count by.
    """
    if isinstance(node, op.Job):
        return _narrow_shared(node)
    if isinstance(node, rel.Join):
        left, right = (_narrow(s, _read_of_side(node, i)) for i, s in enumerate(node.sides))
        made = replace(node, left=left, right=right)
        return None if made == node else made
    source = getattr(node, "source", None)
    if not isinstance(source, op.Operator) or not isinstance(node, _READERS):
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
        case rel.GroupAggregate(keys=keys, folds=folds):
            own = columns_read(e for _, e in keys)
            return own | columns_read(a for f in folds for a in f.arguments)
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
        case op.Distinct(source=below, columns=compared) if compared:
            return _over(source, below, frozenset(names) | {*compared}, names)
        case op.Union(sources=sources):
            return replace(source, sources=tuple(_narrow(s, names) for s in sources))
        case op.WithRowIndex(source=below, name=name):
            if name not in names:
                return _narrow(below, names)
            return _over(source, below, frozenset(names) - {name}, names)
        case rel.Cumulate():
            return _choose_running(source, names)
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


def _choose_running(source: rel.Cumulate, names: tuple[str, ...]) -> op.Operator | None:
    """Running aggregates that nobody reads are not made, nor are their arguments."""
    columns = tuple(c for c in source.columns if c.name in names)
    if not columns:
        return _narrow(source.source, names)
    own = frozenset(c.name for c in columns)
    read = columns_read(e for c in columns for e in (*c.arguments, *c.over))
    below = _kept(source.source.schema, (frozenset(names) - own) | read)
    narrowed = _below(source.source, below)
    if narrowed is None and len(columns) == len(source.columns):
        return None
    made = replace(source, source=narrowed or source.source, columns=columns)
    return made if made.schema.names == names else _select(made, names)


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
    """The narrower input of an operator that hands records on; of a shared one, a choice above."""
    if names == source.schema.names:
        return None
    if isinstance(source, _SHARED):
        return _select(source, names)
    return _choose(source, names)


def _select(source: op.Operator, names: tuple[str, ...]) -> op.Project:
    return op.Project(source, tuple((n, Column(n, source.schema[n])) for n in names))


def _narrow_shared(job: op.Job) -> Node | None:
    """The job with a cache, join or group-by that no reader needs whole made narrower."""
    readers: dict[op.Operator, set[str]] = {}
    for node in walk(job):
        for child in dict.fromkeys(node.children):
            if isinstance(child, _SHARED):
                readers.setdefault(child, set()).update(_read_from(node, child))
    for shared, wanted in readers.items():
        names = _kept(shared.schema, frozenset(wanted))
        made = None if names == shared.schema.names else _narrower(shared, names)
        if made is not None:
            return substitute(job, {shared: made})
    return None


def _read_from(node: Node, child: op.Operator) -> frozenset[str]:
    """The columns that a node reads of a child."""
    if isinstance(node, _READERS):
        return _reads(node) if node.source == child else frozenset()
    if isinstance(node, rel.Join):
        sides = (_read_of_side(node, i) for i, s in enumerate(node.sides) if s == child)
        return frozenset(c for names in sides for c in names)
    # Readers that hand records on as they are need every column.
    return frozenset(child.schema.names)


def _read_of_side(join: rel.Join, side: int) -> tuple[str, ...]:
    """The columns that a join reads of one side, in their order there."""
    keys = (join.left_keys, join.right_keys)[side]
    given = {c for _, of, c in join.outputs if of == side}
    return _kept(join.sides[side].schema, columns_read(keys) | given)


def _narrower(shared: op.Operator, names: tuple[str, ...]) -> op.Operator | None:
    match shared:
        case op.Cache(source=source, key=""):
            # What only a filter below reads is not held.
            return replace(shared, source=_choose(source, names) or _select(source, names))
        case rel.Join(outputs=outputs):
            return replace(shared, outputs=tuple(o for o in outputs if o[0] in names))
        case rel.GroupAggregate(folds=folds):
            read = tuple(f for f in folds if f.name in names)
            return None if read == folds else replace(shared, folds=read)
    return None

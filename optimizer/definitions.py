"""A chain of projections as definitions over the table below it."""

from __future__ import annotations

from scalops.algebra import operators as op
from scalops.algebra.definitions import as_column
from scalops.algebra.expressions import Column


def as_definitions(source: op.Operator) -> tuple[op.Operator, tuple[op.Named, ...]]:
    """The table below the projections that only keep and add columns, and what they add.

    Each added column may read those before it. A projection that gives a name a new meaning
    ends the chain; so does a choice among a sorted table's columns, which says what the sort
    has to move. Filters and caches end it as well: what lies below is computed for other
    records, or once.
    """
    added: tuple[op.Named, ...] = ()
    while isinstance(source, op.Project):
        below = source.source
        own = tuple(
            (name, as_column(e))
            for name, e in source.outputs
            if not (isinstance(e, Column) and e.name == name)
        )
        names = {name for name, _ in own}
        if names & {*below.schema.names} or names & {name for name, _ in added}:
            break
        if not names and isinstance(below, op.Sort):
            break
        if any(name in below.schema for name, _ in added):
            break
        source, added = below, (*own, *added)
    return source, added

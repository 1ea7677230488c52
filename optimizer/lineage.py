"""Where the columns of a derived table come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.expressions import Column, Expression, columns_read
from scalops.optimizer.rules.merge_maps import inline

Starts = Mapping[tuple[int, str], op.Operator]
_DEEPEST = 200  # operators; a longer chain (an unrolled loop) is not followed


def from_source(
    node: op.Operator, expressions: Sequence[Expression], starts: Starts
) -> tuple[op.Scan, list[Expression]] | None:
    """The source on which expressions over a table rest, and they over its columns.

    None where they rest on several, or on what no source holds. A table of a loop's environment
    is followed to its start.
    """
    made = list(expressions)
    for _ in range(_DEEPEST):
        read = columns_read(made)
        match node:
            case op.Scan():
                return node, made
            case op.Project(source=source, outputs=outputs):
                made = [inline(e, outputs) for e in made]
            case op.Filter(source=source) | op.Sort(source=source) | op.Cache(source=source):
                pass
            case op.Limit(source=source) | op.Slice(source=source) | op.Distinct(source=source):
                pass
            case op.Repartition(source=source):
                pass
            case op.WithRowIndex(source=source) | rel.Cumulate(source=source):
                if not read <= {*source.schema.names}:
                    return None
            case op.Explode(source=source, names=names, index=index):
                if read & {*names, index}:
                    return None
            case rel.GroupAggregate(source=source, keys=keys):
                if not read <= dict(keys).keys():
                    return None
                made = [inline(e, keys) for e in made]
            case rel.Join():
                found = _through(node, made)
                if found is None:
                    return None
                source, made = found
            case rel.StateTable(loop=loop, name=name) if (loop, name) in starts:
                source = starts[loop, name]
            case rel.LoopTable(loop=loop, name=name):
                source = dict(loop.tables)[name]
            case _:
                return None
        node = source
    return None


def _through(join: rel.Join, made: list[Expression]) -> tuple[op.Operator, list[Expression]] | None:
    """One side of a join, and the expressions over it, where they read that side alone."""
    origin = {name: (side, column) for name, side, column in join.outputs}
    sides = {origin[c][0] for c in columns_read(made)}
    if len(sides) != 1:
        return None
    (side,) = sides
    source = join.sides[side]
    outputs = tuple((n, Column(c, source.schema[c])) for n, (of, c) in origin.items() if of == side)
    return source, [inline(e, outputs) for e in made]

"""Which columns of a loop's tables its body computes, and which it only passes on."""

from __future__ import annotations

from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.dtypes import ArrayType, ListType
from scalops.algebra.expressions import Call, Column, Expression
from scalops.algebra.folds import Fold
from scalops.algebra.operators import Operator
from scalops.algebra.tree import Node
from scalops.optimizer.invariance import Tokens, free_tokens

_Place = tuple[Operator, str]  # a column of a table

# Folds that give a value which was there before.
_CHOOSES = (
    "first", "last", "first_record", "last_record", "minimum", "maximum", "collect_list",
)  # fmt: skip


def computed_columns(
    tables: dict[str, Operator], token: int
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """By table, the columns of floats that the body of the loop `token` computes.

    A column that comes as it is from the state, or from a table which does not depend on the
    state, is passed on; so is one that is chosen among such, as `first` does.
    """
    free = free_tokens(*tables.values())
    found = []
    for field, table in tables.items():
        names = tuple(
            n for n, k in table.schema if _has_floats(k) and _computed(table, n, free, token)
        )
        if names:
            found.append((field, names))
    return tuple(found)


def _has_floats(kind: ArrayType) -> bool:
    while isinstance(kind, ListType):
        kind = kind.item
    return kind.is_sparse or (not kind.is_arrow and kind.numpy.kind == "f")


def _computed(table: Operator, name: str, free: dict[Node, Tokens], token: int) -> bool:
    seen: set[_Place] = set()
    waiting: list[_Place] = [(table, name)]
    while waiting:
        place = waiting.pop()
        if place in seen or token not in free[place[0]]:
            continue
        seen.add(place)
        origins = _origins(*place)
        if origins is None:
            return True
        waiting.extend(origins)
    return False


def _origins(node: Operator, name: str) -> list[_Place] | None:
    """The columns whose values a column has; None where its values are new."""
    match node:
        case op.Scan() | rel.StateTable():
            return []
        case op.Project(source=source, outputs=outputs):
            return _of(source, dict(outputs)[name])
        case op.Expand(source=source, records=records):
            found = [_of(source, dict(record)[name]) for record in records]
            return None if None in found else [place for f in found for place in f or ()]
        case op.Union(sources=sources):
            return [(s, name) for s in sources]
        case rel.Join(outputs=outputs, sides=sides):
            side, column = next((s, c) for n, s, c in outputs if n == name)
            return [(sides[side], column)]
        case rel.GroupAggregate(source=source, keys=keys, folds=folds):
            if name in dict(keys):
                return _of(source, dict(keys)[name])
            return _of_fold(source, next(f for f in folds if f.name == name))
        case rel.Cumulate(source=source, columns=columns):
            return None if name in [c.name for c in columns] else [(source, name)]
        case rel.LoopTable(loop=loop) if isinstance(loop.body, op.Update):
            begun, body = dict(loop.tables), dict(loop.body.tables)
            return [(begun[node.name], name), (body[node.name], name)]
        case (
            op.Filter(source=source)
            | op.Limit(source=source)
            | op.Slice(source=source)
            | op.Repartition(source=source)
            | op.Cache(source=source)
            | op.Sort(source=source)
            | op.Distinct(source=source)
            | op.Explode(source=source)
            | op.WithRowIndex(source=source)
        ):
            return [(source, name)] if name in source.schema else []
    return None


def _of(source: Operator, e: Expression) -> list[_Place] | None:
    if isinstance(e, Call) and e.function.name == "cast":
        e = e.arguments[0]
    return [(source, e.name)] if isinstance(e, Column) else None


def _of_fold(source: Operator, fold: Fold) -> list[_Place] | None:
    if fold.kind not in _CHOOSES:
        return None
    found = [_of(source, a) for a in fold.arguments]
    return None if None in found else [place for f in found for place in f or ()]

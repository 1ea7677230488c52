"""Tables whose columns vary with a variable, as maps over tables that do not.

A filter, a key, an order or a join that reads a variable decides which records there are: small
changes change nothing, and a gradient does not flow through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scalops.algebra import operators as op
from scalops.algebra.definitions import as_column
from scalops.algebra.errors import PlanError
from scalops.algebra.expressions import (
    Call,
    Expression,
    Opaque,
    columns,
    columns_read,
    in_record,
    within,
)
from scalops.algebra.relations import Join
from scalops.algebra.tree import Node, substitute, walk

Depends = Callable[[Node], bool]
# What the new projection has as `origin`, given the operators that it stands for.
Origins = Callable[[Sequence[op.Operator]], Any]
# Whose columns are their inputs', for fewer records or in another order.
_SAME_VALUES = (
    op.Filter, op.Limit, op.Slice, op.Sort, op.Distinct, op.Repartition, op.Cache, op.Union,
    op.WithRowIndex,
)  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """Records of `source`, and a table's columns as expressions over it."""

    source: op.Operator
    definitions: tuple[op.Named, ...] | None = None
    origin: Any = None

    def over(self, e: Expression) -> Expression:
        """An expression over the table's columns as one over the source's."""
        if self.definitions is None:
            return e
        named = dict(self.definitions)
        read: dict[Node, Node] = {c: as_column(named[c.name]) for c in columns([e])}
        return substitute(e, read, in_record)


def varying(table: op.Operator, depends: Depends) -> frozenset[str]:
    """The columns whose contents a gradient by them would have to go on from."""
    found: dict[Node, frozenset[str]] = {}
    for node in walk(table):
        if isinstance(node, op.Operator) and not isinstance(node, op.Aggregate | op.Loop):
            found[node] = _varying(node, depends, found)
    return found[table]


def _varying(
    node: op.Operator, depends: Depends, found: dict[Node, frozenset[str]]
) -> frozenset[str]:
    below = frozenset[str]().union(*(found.get(i, frozenset()) for i in node.inputs))
    if isinstance(node, op.Project):
        named = node.outputs
        return frozenset(n for n, e in named if depends(e) or columns_read([e]) & below)
    if isinstance(node, _SAME_VALUES):
        return below
    if isinstance(node, Join) and not below:
        return below
    own = [c for c in node.children if not isinstance(c, op.Operator)]
    return frozenset(node.schema.names) if below or any(map(depends, own)) else below


def rows_of(
    table: op.Operator, read: Sequence[Expression], depends: Depends, origins: Origins | None
) -> list[Rows]:
    """The table as maps over tables whose columns do not vary, as far down as they have to be."""
    chain: list[op.Operator] = []
    found = _opened(table, columns_read(read), depends, chain)
    if origins is None or not chain:
        return found
    origin = origins(chain)
    return [replace(rows, origin=origin) for rows in found]


def _opened(
    table: op.Operator, wanted: frozenset[str], depends: Depends, chain: list[op.Operator]
) -> list[Rows]:
    if not varying(table, depends) & wanted:
        return [Rows(table)]
    match table:
        case op.Project(source=source, outputs=outputs):
            chain.append(table)
            inner = columns_read([e for n, e in outputs if n in wanted])
            below = _opened(source, inner, depends, chain)
            return [
                Rows(rows.source, tuple((n, rows.over(e)) for n, e in outputs if n in wanted))
                for rows in below
            ]
        case op.Cache(source=source):
            return _opened(source, wanted, depends, chain)
        case op.Filter(source=source, predicate=predicate):
            chain.append(table)
            below = _opened(source, wanted | columns_read([predicate]), depends, chain)
            return [
                replace(r, source=replace(table, source=r.source, predicate=r.over(predicate)))
                for r in below
            ]
        case op.Union(sources=sources):
            return [rows for s in sources for rows in _opened(s, wanted, depends, chain)]
        case op.Sort(source=source, keys=keys):
            rows = _one(table, _opened(source, wanted | columns_read(keys), depends, chain))
            sort = replace(table, source=rows.source, keys=tuple(map(rows.over, keys)))
            return [replace(rows, source=sort)]
        case op.Limit(source=source) | op.Slice(source=source) | op.Repartition(source=source):
            rows = _one(table, _opened(source, wanted, depends, chain))
            return [replace(rows, source=replace(table, source=rows.source))]
    raise _refused(table)


def _one(table: op.Operator, found: list[Rows]) -> Rows:
    if len(found) > 1:
        raise _refused(table)
    return found[0]


def _refused(table: op.Operator) -> PlanError:
    word = table.label or type(table).__name__
    return PlanError(
        f"so.grad does not differentiate columns through {word}",
        location=table.location,
        hint="compute what depends on the parameters after it, by a map of its records",
    )


def no_nulls(table: op.Operator) -> bool:
    """Whether no column of the table can hold a null."""
    for node in walk(table, enter=lambda n: isinstance(n, op.Operator)):
        if isinstance(node, op.Scan):
            if node.source.may_hold_null:
                return False
        elif isinstance(node, op.Project):
            if _may_make_nulls(node):
                return False
        elif not isinstance(node, _SAME_VALUES):
            return False
    return True


def _may_make_nulls(node: op.Project) -> bool:
    return any(
        isinstance(e, Opaque)
        or (isinstance(e, Call) and e.function.name in ("only_if", "list_item"))
        for e in within([e for _, e in node.outputs])
    )

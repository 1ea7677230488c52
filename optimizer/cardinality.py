"""Row counts and sizes through the operators."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra.expressions import Constant, Expression
from scalops.algebra.relations import Cumulate, GroupApply
from scalops.algebra.tree import Node
from scalops.optimizer.cost import SPARSE_ITEMS, Estimate, Provenance
from scalops.optimizer.selectivity import selectivity

# Assumed, until tables are sampled.
DISTINCT = 0.5
LIST_ITEMS = 8.0
_ORDER: tuple[Provenance, ...] = ("exact", "measured", "estimated", "assumed")


def estimate(node: Node) -> Estimate:
    """Rows and bytes of a table; exact only where the source's metadata say so."""
    match node:
        case op.Scan(source=source):
            width = node.schema.bytes_per_row
            if source.rows is not None:
                return Estimate(source.rows, source.rows * width, "exact")
            rows = source.likely_rows
            return Estimate(rows, rows * width, "estimated")
        case op.Filter(source=source, predicate=predicate):
            inner = estimate(source)
            share, known = selectivity(predicate)
            return _times(node, share, replace(inner, provenance=_least((inner.provenance, known))))
        case op.Limit(source=source, count=count):
            inner = estimate(source)
            rows = min(inner.rows, count)
            sure = "exact" if inner.provenance == "exact" else inner.provenance
            return Estimate(rows, rows * node.schema.bytes_per_row, sure)
        case op.Slice():
            return _slice(node)
        case op.Union(sources=sources):
            return _times(node, 1, *map(estimate, sources))
        case op.Distinct(source=source):
            inner = estimate(source)
            return _times(node, DISTINCT, replace(inner, provenance="assumed"))
        case op.Explode(source=source, names=names):
            kind = source.schema[names[0]]
            inner = estimate(source)
            if kind.is_list or kind.is_sparse:
                items = LIST_ITEMS if kind.is_list else SPARSE_ITEMS
                return _times(node, items, replace(inner, provenance="assumed"))
            return _times(node, kind.shape[0], inner)
        case op.Expand(source=source, records=records):
            return _times(node, len(records), estimate(source))
        case GroupApply(groups=groups, single=True):
            return _times(node, 1, estimate(groups))
        case GroupApply(sources=sources):
            inner = _times(node, 1, *map(estimate, sources))
            return replace(inner, provenance="assumed")
        case op.MapBatches(source=source):
            return _times(node, 1, replace(estimate(source), provenance="assumed"))
        case (
            op.Project(source=source)
            | op.Cache(source=source)
            | op.Repartition(source=source)
            | op.Sort(source=source)
            | op.WithRowIndex(source=source)
            | Cumulate(source=source)
        ):
            return _times(node, 1, estimate(source))
        case op.Operator():
            return Estimate(1, node.schema.bytes_per_row, "exact")
    raise TypeError(type(node).__name__)


def _times(node: op.Operator, factor: float, *inputs: Estimate) -> Estimate:
    """The inputs' records together, `factor` for each; known as the least known of them is."""
    rows = factor * sum(i.rows for i in inputs)
    known = _least(i.provenance for i in inputs)
    return Estimate(rows, rows * node.schema.bytes_per_row, known)


def _least(known: Iterable[Provenance]) -> Provenance:
    """The least certain of them."""
    return max(known, key=_ORDER.index)


def _slice(node: op.Slice) -> Estimate:
    """At most `length`; a number that only the run knows is taken as reaching nothing less."""
    inner = estimate(node.source)
    start, length = _number(node.start), _number(node.length)
    rows = max(0.0, inner.rows - (start or 0))
    if length is not None:
        rows = min(rows, length)
    sure = start is not None and (length is not None or node.length is None)
    made = replace(inner, rows=rows) if sure else Estimate(rows, 0, "assumed")
    return _times(node, 1, made)


def _number(e: Expression | None) -> int | None:
    return int(e.value) if isinstance(e, Constant) else None

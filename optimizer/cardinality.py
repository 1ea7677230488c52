"""Row counts and sizes through the operators."""

from __future__ import annotations

from scalops.algebra import operators as op
from scalops.algebra.tree import Node
from scalops.optimizer.cost import Estimate

SELECTIVITY = 0.5  # assumed, until filters are sampled


def estimate(node: Node) -> Estimate:
    """Rows and bytes of a table; exact only where the source's metadata say so."""
    match node:
        case op.Scan(source=source):
            width = node.schema.bytes_per_row
            if source.rows is not None:
                return Estimate(source.rows, source.rows * width, "exact")
            rows = source.likely_rows
            return Estimate(rows, rows * width, "estimated")
        case op.Filter(source=source):
            inner = estimate(source)
            rows = inner.rows * SELECTIVITY
            return Estimate(rows, rows * node.schema.bytes_per_row, "assumed")
        case op.Limit(source=source, count=count):
            inner = estimate(source)
            rows = min(inner.rows, count)
            sure = "exact" if inner.provenance == "exact" else inner.provenance
            return Estimate(rows, rows * node.schema.bytes_per_row, sure)
        case op.Project(source=source) | op.Cache(source=source) | op.Repartition(source=source):
            inner = estimate(source)
            return Estimate(inner.rows, inner.rows * node.schema.bytes_per_row, inner.provenance)
        case op.Operator():
            return Estimate(1, node.schema.bytes_per_row, "exact")
    raise TypeError(type(node).__name__)

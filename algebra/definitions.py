"""Columns defined one after the other, each in terms of a table's and of those before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.expressions import Column, Constant, Expression, call, constant, in_record
from scalops.algebra.functions import function
from scalops.algebra.tree import Node, substitute


def as_column(e: Expression) -> Expression:
    """A column has a definite width, so what takes its place must not be weakly typed."""
    if not (isinstance(e.any_type, ArrayType) and e.any_type.weak):
        return e
    if isinstance(e, Constant):
        return constant(e.type.numpy.type(e.value))
    return call(function("cast"), e, dtype=e.type.name)


def over_source(
    definitions: Iterable[tuple[str, Expression]], roots: Sequence[Expression]
) -> list[Expression]:
    """The roots over the table's own columns: each defined name stands for its expression.

    One graph, as large as definitions and roots together: equal parts of it stay shared.
    """
    mapping: dict[Node, Node] = {}
    for name, e in definitions:
        mapping[Column(name, e.type.strong())] = as_column(substitute(e, mapping, in_record))
    return [substitute(root, mapping, in_record) for root in roots]

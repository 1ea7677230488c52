"""Leave out what a file's own statistics rule out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from scalops.algebra import operators as op
from scalops.algebra.conditions import COMPARISONS, Condition
from scalops.algebra.errors import DataError
from scalops.algebra.expressions import Call, Column, Constant, Expression
from scalops.algebra.printing import text
from scalops.algebra.tree import Node
from scalops.optimizer.rules.merge_filters import may_raise
from scalops.optimizer.selectivity import conjuncts

_MIRRORED = {
    "equal": "equal",
    "not_equal": "not_equal",
    "less": "greater",
    "less_equal": "greater_equal",
    "greater": "less",
    "greater_equal": "less_equal",
}
_NEGATED = {"equal": "not_equal", "not_equal": "equal", "is_null": "is_valid"}
_NEGATIONS = ("invert", "logical_not")
_MOST_ITEMS = 1000


@runtime_checkable
class PrunableSource(Protocol):
    """A source whose metadata tell where conditions cannot hold."""

    def pruned(self, conditions: tuple[Condition, ...]) -> op.Source | None:
        """Without what no record of which fulfils all; None where that is nothing."""
        ...


def prune_scan(node: Node) -> Node | None:
    """Filter(Scan(S), p) -> Filter(Scan(S without what p rules out), p).

    Of a p = p1 & p2 & ..., each pi that compares one column with constants is asked of the values
    that folders' names hold, and of the least and greatest values and numbers of nulls of Parquet's
    row groups. Sound because a record stays only where all pi are true, and p itself stays. Decided
    by the program's constants and by metadata alone, so it is the same on every machine; values of
    a loop decide nothing, nor do pi that compare columns or compute.

    Not where p may fail for a record: it would no longer be seen to.
    """
    match node:
        case op.Filter(source=op.Scan(source=source) as scan, predicate=p):
            if not isinstance(source, PrunableSource) or may_raise(p):
                return None
            found = (condition(part) for part in conjuncts(p))
            conditions = tuple(c for c in found if c is not None)
            try:
                pruned = source.pruned(conditions) if conditions else None
            except DataError:  # a file that is gone by now: the run says so
                return None
            return None if pruned is None else replace(node, source=replace(scan, source=pruned))
    return None


def condition(part: Expression) -> Condition | None:
    """The test of one column that a predicate is; None if it is none."""
    if isinstance(part, Column) and part.record == 0 and part.type.name == "bool":
        return _made(part, "equal", (True,), part)
    if not isinstance(part, Call):
        return None
    name, arguments = part.function.name, part.arguments
    if name in _NEGATIONS:
        inner = arguments[0]
        if isinstance(inner, Column):
            return _made(inner, "equal", (False,), part)
        found = condition(inner)
        if found is None or found.test not in _NEGATED:
            return None
        return replace(found, test=_NEGATED[found.test], text=text(part))
    if name == "is_null":
        return _made(arguments[0], "is_null", (), part)
    if name == "str_is_in":
        items = dict(part.parameters)["items"]
        return _made(arguments[0], "is_in", tuple(items), part)
    if name == "any":
        return _is_in(part)
    return _comparison(part) if name in COMPARISONS else None


def _comparison(part: Call) -> Condition | None:
    (left, right), name = part.arguments, part.function.name
    if isinstance(left, Constant):
        left, right, name = right, left, _MIRRORED[name]
    if not isinstance(right, Constant) or right.type.shape or right.type.is_list:
        return None
    return _made(left, name, (right.value,), part)


def _is_in(part: Call) -> Condition | None:
    """`np.isin(column, items)`, which is traced as any(column == items)."""
    (found,) = part.arguments
    if not isinstance(found, Call) or found.function.name != "equal" or len(found.type.shape) != 1:
        return None
    sides = [_unshaped(a) for a in found.arguments]
    columns = [a for a in sides if isinstance(a, Column) and not a.type.shape]
    items = [a.value for a in sides if isinstance(a, Constant)]
    if len(columns) != 1 or len(items) != 1 or not isinstance(items[0], np.ndarray):
        return None
    values = tuple(items[0].reshape(-1))
    return _made(columns[0], "is_in", values, part) if len(values) <= _MOST_ITEMS else None


def _unshaped(e: Expression) -> Expression:
    return e.arguments[0] if isinstance(e, Call) and e.function.name == "reshape" else e


def _made(
    column: Expression, test: str, values: tuple[Any, ...], part: Expression
) -> Condition | None:
    if not isinstance(column, Column) or column.record or column.type.shape:
        return None
    return Condition(column.name, test, values, text(part))

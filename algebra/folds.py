"""Folds: how the records of a table become one value.

A fold has a canonical meaning, whatever runs it: records in table order, combined by an
associative operation. The table below gives each its result type, its value over no records,
and whether nulls are skipped; the kernels are the engine's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from scalops.algebra.dtypes import BOOL, INT64, ArrayType
from scalops.algebra.errors import TraceError
from scalops.algebra.expressions import Expression
from scalops.algebra.functions.linear import promoted
from scalops.algebra.tree import Node


def _same(kind: ArrayType) -> ArrayType:
    if kind.is_string:
        raise TypeError(f"it has no meaning for {kind}")
    return kind.strong()


def _total(kind: ArrayType) -> ArrayType:
    """As np.sum: small integers and bools are added up as 64-bit integers."""
    if not kind.is_numeric:
        raise TypeError(f"it has no meaning for {kind}")
    return ArrayType(np.sum(np.ones(1, kind.numpy)).dtype.name, kind.shape)


def _mean(kind: ArrayType) -> ArrayType:
    if not kind.is_numeric:
        raise TypeError(f"it has no meaning for {kind}")
    return ArrayType(np.mean(np.ones(1, kind.numpy)).dtype.name, kind.shape)


def _ordered(kind: ArrayType) -> ArrayType:
    return kind.strong()


def _truth(kind: ArrayType) -> ArrayType:
    if not kind.is_numeric:
        raise TypeError(f"it has no meaning for {kind}")
    return ArrayType("bool", kind.shape)


def _weighted(weight: ArrayType, kind: ArrayType) -> ArrayType:
    return ArrayType(promoted(weight, kind), kind.shape)


def _products(left: ArrayType, right: ArrayType) -> ArrayType:
    return ArrayType(promoted(left, right), (*left.shape, *right.shape))


@dataclass(frozen=True)
class FoldKind:
    """An entry of the table of folds. `empty` is the value over no records, None: a DataError."""

    name: str
    infer: Callable[..., ArrayType]
    empty: float | bool | None = None


FOLDS = {
    kind.name: kind
    for kind in (
        FoldKind("sum", _total, 0),
        FoldKind("add", _same),  # reduce(a + b): the dtype of a + b, an error over no records
        FoldKind("multiply", _same),
        FoldKind("minimum", _ordered),
        FoldKind("maximum", _ordered),
        FoldKind("mean", _mean, float("nan")),
        FoldKind("any", _truth, False),
        FoldKind("all", _truth, True),
        FoldKind("logical_and", lambda kind: ArrayType("bool", kind.shape)),
        FoldKind("logical_or", lambda kind: ArrayType("bool", kind.shape)),
        FoldKind("bitwise_and", _same),
        FoldKind("bitwise_or", _same),
        FoldKind("count", lambda *_: INT64, 0),
        FoldKind("is_empty", lambda *_: BOOL, True),
        # Σ s·x as one product; made by the optimizer. `add_…` keeps reduce's error over nothing.
        FoldKind("sum_scaled", _weighted, 0),
        FoldKind("add_scaled", _weighted),
        FoldKind("sum_outer", _products, 0),
        FoldKind("add_outer", _products),
        FoldKind("mean_scaled", _weighted, float("nan")),
        FoldKind("mean_outer", _products, float("nan")),
    )
}


@dataclass(frozen=True, eq=False, repr=False)
class Fold(Node):
    """`name` = the fold `kind` of `arguments` over all records.

    A fold of the kind "reduce" combines by the user's own associative `combine`, an expression
    over `Column(..., record=0)` and `Column(..., record=1)`; one such fold gives all fields of a
    structured record, so `arguments` are the fields, `fields` their names, and `output` says
    which of them is this fold's result.
    """

    name: str
    kind: str
    arguments: tuple[Expression, ...]
    combine: tuple[Expression, ...] = ()
    fields: tuple[str, ...] = ()
    output: int = 0
    origin: Any = field(default=None, compare=False, kw_only=True)

    def check(self) -> None:
        try:
            kind = self._infer()
        except (TypeError, ValueError) as error:
            raise TraceError(f"{self.kind}: {error}", location=self.location) from None
        self.__dict__["_type"] = kind

    def _infer(self) -> ArrayType:
        if self.kind == "reduce":
            return self.combine[self.output].type.strong()
        return FOLDS[self.kind].infer(*(a.type for a in self.arguments))

    @property
    def type(self) -> ArrayType:
        """The result's type."""
        kind: ArrayType = self.__dict__["_type"]
        # A count is weak, as len() is: it takes the type of its partner.
        return replace(kind, weak=True) if self.kind == "count" else kind

    @property
    def empty(self) -> float | bool | None:
        """The value over no records; None where there is none."""
        return None if self.kind == "reduce" else FOLDS[self.kind].empty

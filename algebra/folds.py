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

from scalops.algebra.captured import Captured
from scalops.algebra.dtypes import BOOL, INT64, ArrayType, list_of
from scalops.algebra.errors import TraceError
from scalops.algebra.expressions import Expression
from scalops.algebra.functions.linear import promoted
from scalops.algebra.tree import Node

_NONE = Captured(b"", "")


def _same(kind: ArrayType) -> ArrayType:
    if kind.is_arrow:
        raise TypeError(f"it has no meaning for {kind}")
    return kind.strong().dense()


def _total(kind: ArrayType, weak: bool = False) -> ArrayType:
    """As np.sum: small integers and bools are added up as 64-bit integers.

    A `weak` sum is a count that the optimizer makes of weights.
    """
    if not kind.is_numeric:
        raise TypeError(f"it has no meaning for {kind}")
    return ArrayType(np.sum(np.ones(1, kind.numpy)).dtype.name, kind.shape, weak)


def _mean(kind: ArrayType) -> ArrayType:
    if not kind.is_numeric:
        raise TypeError(f"it has no meaning for {kind}")
    return ArrayType(np.mean(np.ones(1, kind.numpy)).dtype.name, kind.shape)


def _ordered(kind: ArrayType) -> ArrayType:
    if kind.is_list:
        raise TypeError(f"it has no meaning for {kind}")
    return kind.strong().dense()


def _kept(kind: ArrayType) -> ArrayType:
    return kind.strong()


def _listed(kind: ArrayType) -> ArrayType:
    if kind.is_sparse:
        raise TypeError("a list holds no sparse vectors; write so.dense(x)")
    return list_of(kind.strong())


def _var(kind: ArrayType, ddof: float) -> ArrayType:
    if not kind.is_numeric:
        raise TypeError(f"it has no meaning for {kind}")
    return ArrayType(np.var(np.ones(1, kind.numpy)).dtype.name, kind.shape)


def _quantile(kind: ArrayType, q: Any) -> ArrayType:
    if not kind.is_numeric:
        raise TypeError(f"it has no meaning for {kind}")
    known = np.ones(1, np.uint8 if kind.name == "bool" else kind.numpy)
    return ArrayType(np.quantile(known, 0.5).dtype.name, (*np.shape(q), *kind.shape))


def _chosen(by: ArrayType, *values: ArrayType) -> ArrayType:
    if by.shape or by.is_list or by.is_sparse:
        raise TypeError(f"it needs one value for each record to go by, not {by}")
    return _kept(values[0])


def _scattered(types: tuple[ArrayType, ...], size: int) -> ArrayType:
    index, value = types
    if index.shape or index.is_arrow or index.numpy.kind not in "iu":
        raise TypeError(f"the index is an integer for each record, not {index}")
    if not value.is_plain:
        raise TypeError(f"an array holds no {value}")
    return ArrayType(value.name, (size, *value.shape))


def _truth(kind: ArrayType) -> ArrayType:
    if not kind.is_numeric:
        raise TypeError(f"it has no meaning for {kind}")
    return ArrayType("bool", kind.shape)


def _weighted(weight: ArrayType, kind: ArrayType) -> ArrayType:
    return ArrayType(promoted(weight, kind), kind.shape)


def _gram(weight: ArrayType, kind: ArrayType) -> ArrayType:
    return ArrayType(promoted(weight, kind), (*kind.shape, *kind.shape))


def _apart(weights: ArrayType, kind: ArrayType, centres: ArrayType) -> ArrayType:
    return ArrayType(promoted(weights, kind, centres), (*weights.shape, *kind.shape))


def _products(left: ArrayType, right: ArrayType) -> ArrayType:
    return ArrayType(promoted(left, right), (*left.shape, *right.shape))


_TERMS: dict[str, Callable[..., ArrayType]] = {
    "scaled": _weighted,
    "outer": _products,
    "gram": _gram,
    "same": _same,
}


def terms(fold: Fold) -> list[tuple[str, slice]]:
    """Of a sum of terms, the form of each and which of the arguments are its own."""
    found, start = [], 0
    for form, count in dict(fold.parameters)["forms"]:
        found.append((form, slice(start, start + count)))
        start += count
    return found


def _added(*types: ArrayType, forms: tuple[tuple[str, int], ...]) -> ArrayType:
    form, count = forms[0]
    return _TERMS[form](*types[:count])


@dataclass(frozen=True)
class FoldKind:
    """An entry of the table of folds.

    `empty` is the value over no records, None: a DataError. `word` is what the user wrote.
    """

    name: str
    infer: Callable[..., ArrayType]
    empty: float | bool | None = None
    word: str = ""


FOLDS = {
    kind.name: kind
    for kind in (
        FoldKind("sum", _total, 0),
        # reduce(a + b): the dtype of a + b, an error over no records
        FoldKind("add", _same, word="reduce"),
        FoldKind("multiply", _same, word="reduce"),
        FoldKind("minimum", _ordered, word="min"),
        FoldKind("maximum", _ordered, word="max"),
        FoldKind("mean", _mean, float("nan")),
        FoldKind("any", _truth, False),
        FoldKind("all", _truth, True),
        FoldKind("logical_and", lambda kind: ArrayType("bool", kind.shape)),
        FoldKind("logical_or", lambda kind: ArrayType("bool", kind.shape)),
        FoldKind("bitwise_and", _same),
        FoldKind("bitwise_or", _same),
        FoldKind("count", lambda *_: INT64, 0),
        FoldKind("is_empty", lambda *_: BOOL, True),
        FoldKind("var", _var, float("nan")),
        FoldKind("std", _var, float("nan")),
        FoldKind("quantile", _quantile, float("nan")),
        FoldKind("n_unique", lambda _: INT64, 0),
        FoldKind("first", _kept),
        FoldKind("last", _kept),
        # The whole first or last record, whose values may be null.
        FoldKind("first_record", _kept, word="first"),
        FoldKind("last_record", _kept, word="last"),
        # (by, value): the value of the record whose `by` is greatest or least.
        FoldKind("argmax", _chosen),
        FoldKind("argmin", _chosen),
        # The known values in table order, as a list.
        FoldKind("collect_list", _listed, word="collect_list"),
        # (index, value): an array of `size` values by index, and which of them there are.
        FoldKind("to_array", lambda *types, size: _scattered(types, size), word="to_array"),
        # Σ s·x as one product; made by the optimizer. `add_…` keeps reduce's error over nothing.
        FoldKind("sum_scaled", _weighted, 0),
        FoldKind("add_scaled", _weighted),
        FoldKind("sum_outer", _products, 0),
        FoldKind("add_outer", _products),
        FoldKind("mean_scaled", _weighted, float("nan")),
        FoldKind("mean_outer", _products, float("nan")),
        # (s, x): Σ s·outer(x, x), symmetric.
        FoldKind("sum_gram", _gram, 0),
        FoldKind("add_gram", _gram),
        FoldKind("mean_gram", _gram, float("nan")),
        # (r, x, c): Σ r[:, None] * (x - c)², c being the same for all records.
        FoldKind("sum_squares", _apart, 0),
        FoldKind("add_squares", _apart),
        FoldKind("mean_squares", _apart, float("nan")),
        # Σ of several products: `forms` names each and says how many of the arguments are its own.
        FoldKind("sum_terms", _added, 0),
        FoldKind("add_terms", _added),
        FoldKind("mean_terms", _added, float("nan")),
    )
}


_NOT_OF_SPARSE = {
    "reduce", "multiply", "any", "all", "logical_and", "logical_or", "bitwise_and", "bitwise_or",
    "var", "std", "quantile",
}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Fold(Node):
    """`name` = the fold `kind` of `arguments` over all records.

    A fold of the kind "reduce" combines by the user's own associative `combine`, an expression
    over `Column(..., record=0)` and `Column(..., record=1)`; one such fold gives all fields of a
    structured record, so `arguments` are the fields, `fields` their names, and `output` says
    which of them is this fold's result. So it does for "first_record" and "last_record", and for
    "argmin" and "argmax", whose `arguments` are what they go by and the values to choose from.
    `initial`, where there is one, is the result over no records. `parameters` are those of the
    kind: `ddof`, `q`.
    """

    name: str
    kind: str
    arguments: tuple[Expression, ...]
    combine: tuple[Expression, ...] = ()
    fields: tuple[str, ...] = ()
    output: int = 0
    parameters: tuple[tuple[str, Any], ...] = ()
    initial: Any = None
    origin: Any = field(default=None, compare=False, kw_only=True)

    def check(self) -> None:
        try:
            kind = self._infer()
        except (TypeError, ValueError) as error:
            raise TraceError(f"{self.word}: {error}", location=self.location) from None
        self.__dict__["_type"] = kind

    def _infer(self) -> ArrayType:
        types = [a.type for a in self.arguments]
        if any(t.is_sparse for t in types) and self.kind in _NOT_OF_SPARSE:
            raise TypeError(
                "sparse vectors are combined by +, np.minimum and np.maximum; write so.dense(x)"
            )
        if self.combine:
            return self.combine[self.output].type.strong()
        if self.kind == "to_array" and self.output == 1:
            return ArrayType("bool", (dict(self.parameters)["size"],))
        if self.kind in ("argmin", "argmax"):
            types = [types[0], types[1 + self.output]]
        elif self.kind in ("first_record", "last_record"):
            types = [types[self.output]]
        return FOLDS[self.kind].infer(*types, **dict(self.parameters))

    @property
    def type(self) -> ArrayType:
        """The result's type."""
        kind: ArrayType = self.__dict__["_type"]
        # A count is weak, as len() is: it takes the type of its partner.
        return replace(kind, weak=True) if self.kind == "count" else kind

    @property
    def word(self) -> str:
        """What the user wrote."""
        known = FOLDS.get(self.kind)
        return self.kind if known is None else known.word or known.name

    @property
    def empty(self) -> Any:
        """The value over no records; None where there is none."""
        if self.initial is not None:
            return self.initial
        return FOLDS[self.kind].empty if self.kind in FOLDS else None

    @property
    def computation(self) -> Fold:
        """What is computed, whatever it is called and whichever part of it is the result."""
        return replace(self, name="", output=0)


@dataclass(frozen=True, eq=False, repr=False)
class Transition(Fold):
    """A state carried over the records, in their order: an aggregate of the user's, traced.

    The state has `fields`; `zero` is its start, which reads no record. `step` gives the next
    state from the state (`Column(field, record=0)`) and from what is computed of the record
    alone: the `arguments`, as `Column("0", record=1)`, `Column("1", record=1)` and so on.
    `combine` gives the state of two runs of records from their states (records 0 and 1). A
    field whose next value would be null keeps the one that it has.
    """

    zero: tuple[Expression, ...] = ()
    step: tuple[Expression, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class OpaqueAggregate(Fold):
    """An aggregate of the user's that runs as it is, record by record.

    The functions are `transition(state, record)`, `merge(a, b)`, `initialize()` and, if there
    is one, `finalize(state)`; `slots` are what each of them had closed over, in this order. A
    record has `names` and the values `arguments`; without names it is the bare value. `fields`
    are the names of the result's parts, empty for one result.
    """

    transition: Captured = _NONE
    merge: Captured = _NONE
    initialize: Captured = _NONE
    finalize: Captured | None = None
    slots: tuple[tuple[Expression, ...], ...] = ()
    names: tuple[str, ...] | None = None
    declared: ArrayType = INT64

    def _infer(self) -> ArrayType:
        return self.declared

    @property
    def computation(self) -> Fold:
        return replace(self, name="", output=0, declared=INT64)

    @property
    def functions(self) -> tuple[Captured, ...]:
        """The functions, in the order of `slots`."""
        all_of_them = (self.transition, self.merge, self.initialize, self.finalize)
        return tuple(f for f in all_of_them if f is not None)

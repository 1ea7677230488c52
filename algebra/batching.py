"""Several expressions of one form as one, over stacked values: a product of matrices instead of
several of a matrix with a vector.

k expressions have one form if they differ only in values that are the same for every record, of
equal types. A *stacked* expression stands for all of them: its value has an axis for the k members
in front,

    stacked(e_1, .., e_k)[i] = e_i   (up to rounding: products of matrices add in another order)

What is the same for every record becomes `stack(e_1, .., e_k)` where members differ, so that their
vectors are the rows of one matrix; what is the same for every member is computed once for all. How
a function is stacked is a rule of `batching_rules.py`, as in JAX's `vmap` (Frostig, Johnson, Leary:
"Compiling machine learning programs via high-level tracing", 2018), but over few members of one
record function, not over records: these have their axis from the engine's kernels. Where a
function has no rule, nothing is stacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scalops.algebra.batching_rules import NoRule, Operand, reshaped, rule_of
from scalops.algebra.definitions import over_source
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import TraceError
from scalops.algebra.expressions import (
    Call,
    Column,
    Constant,
    Expression,
    Item,
    Opaque,
    Slot,
    call,
    constant,
    within,
)
from scalops.algebra.folds import Fold, terms
from scalops.algebra.functions import function
from scalops.algebra.tree import Node

# Version 1 of a numeric constant: for a product with a matrix BLAS arranges the records anew, which
# takes as long as products with three vectors, where these have many elements.
LEAST_STACKED = 4

# Functions whose nulls depend on values or on nulls: records have one mask for all members.
_MINDS_NULLS = ("only_if", "list_item", "coalesce", "is_null")
_BY_ELEMENT = {
    "sum", "add", "multiply", "minimum", "maximum", "mean", "var", "std", "any", "all",
    "logical_and", "logical_or", "bitwise_and", "bitwise_or",
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """Where the members' results lie in a stacked fold's: along `axis`, once it has this shape.

    Without an axis all members have the same result.
    """

    shape: tuple[int, ...] = ()
    axis: int | None = None

    def of(self, value: Any, member: int) -> Any:
        """A member's result."""
        if self.axis is None:
            return value
        own = np.moveaxis(np.reshape(value, self.shape), self.axis, 0)[member]
        # With memory of its own: it may be kept for longer than the others' results.
        return own.copy() if isinstance(own, np.ndarray) else own


@dataclass(frozen=True)
class StackedFolds:
    """The folds of several aggregates as one list of folds, parallel to each of theirs.

    `products` counts the products with matrices that have taken the place of products with
    vectors. With `minds_nulls` it holds only for records without nulls: for others, a function
    would choose by member what is null.
    """

    folds: tuple[Fold, ...]
    parts: tuple[Part, ...]
    products: int
    minds_nulls: bool


def folds_over_source(
    definitions: Sequence[tuple[str, Expression]], folds: Sequence[Fold]
) -> tuple[Fold, ...]:
    """Folds that read definitions, over the columns of the table below these."""
    arguments = over_source(definitions, [a for f in folds for a in f.arguments])
    made, at = [], 0
    for fold in folds:
        own = tuple(arguments[at : at + len(fold.arguments)])
        at += len(own)
        made.append(fold if own == fold.arguments else replace(fold, arguments=own))
    return tuple(made)


def stack_folds(members: Sequence[Sequence[Fold]]) -> StackedFolds | None:
    """The members' folds as one list; None where their forms differ or a rule is missing."""
    if len({len(folds) for folds in members}) != 1:
        return None
    stacking = _Stacking(len(members))
    try:
        made = [stacking.fold(own) for own in zip(*members, strict=True)]
    except NoRule:
        return None
    if stacking.minds_nulls and stacking.makes_nulls:
        return None
    folds, parts = zip(*made, strict=True) if made else ((), ())
    return StackedFolds(folds, parts, stacking.products, stacking.minds_nulls)


def stack_expressions(members: Sequence[Expression]) -> Operand | None:
    """The members as one expression; None where their forms differ or a rule is missing."""
    try:
        return _Stacking(len(members)).expression(tuple(members))
    except NoRule:
        return None


class _Stacking:
    """Stacks expressions of `count` members; equal ones once."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._done: dict[tuple[Expression, ...], Operand] = {}
        self._per_record: dict[Node, bool] = {}
        self.products = 0
        self.minds_nulls = self.makes_nulls = False

    # Expressions.

    def expression(self, members: tuple[Expression, ...]) -> Operand:
        """The members as one expression. Raises NoRule."""
        stack = [(members, False)]
        while stack:
            own, entered = stack.pop()
            if own in self._done:
                continue
            inputs = self._inputs(own)
            if inputs and not entered:
                stack.append((own, True))
                stack.extend((i, False) for i in inputs)
                continue
            self._done[own] = self._made(own, [self._done[i] for i in inputs])
        return self._done[members]

    def _inputs(self, members: tuple[Expression, ...]) -> list[tuple[Expression, ...]]:
        """What has to be stacked before, argument by argument."""
        first = members[0]
        if _all_alike(members) or not any(map(self._reads_records, members)):
            return []
        calls = [m for m in members if isinstance(m, Call)]
        if not isinstance(first, Call) or len(calls) < len(members):
            raise NoRule
        form = first.function, first.parameters, len(first.arguments)
        if any((c.function, c.parameters, len(c.arguments)) != form for c in calls):
            raise NoRule
        return list(zip(*(c.arguments for c in calls), strict=True))

    def _made(self, members: tuple[Expression, ...], inputs: Sequence[Operand]) -> Operand:
        first, kind = members[0], members[0].any_type
        if _all_alike(members):
            return Operand(first, kind, False, self._reads_records(first))
        if not isinstance(kind, ArrayType) or not (kind.is_plain and kind.is_numeric):
            raise NoRule
        if any(m.any_type != kind for m in members):
            raise NoRule
        if not inputs:
            return self._checked(self._side_by_side(members, kind), kind, False)
        assert isinstance(first, Call)
        return self._called(first, inputs)

    def _side_by_side(self, members: Sequence[Expression], kind: ArrayType) -> Expression:
        """Values that are the same for every record, whatever they are computed of."""
        if all(isinstance(m, Constant) for m in members):
            values = [np.asarray(m.value, kind.numpy) for m in members if isinstance(m, Constant)]
            return constant(np.stack(values))
        for node in within(members):
            fails = isinstance(node, Call) and node.function.can_fail
            if fails or not isinstance(node, (Call, Item, Constant, Slot)):
                raise NoRule
        return call(function("stack"), *members, axis=0, location=members[0].location)

    def _called(self, node: Call, inputs: Sequence[Operand]) -> Operand:
        if node.function.name in _MINDS_NULLS:
            raise NoRule
        if _chooses_nulls(node, inputs):
            self.minds_nulls = True
        try:
            made = rule_of(node)(node, inputs, self._count)
        except TraceError:  # of a form that the function has not
            raise NoRule from None
        self.products += made.products
        return self._checked(made.expression, node.type, True)

    def _checked(self, made: Expression, kind: ArrayType, per_record: bool) -> Operand:
        """The operand, if it has the members' type with their axis in front."""
        if made.type.name != kind.name or made.type.shape != (self._count, *kind.shape):
            raise NoRule
        return Operand(made, kind, True, per_record)

    def _reads_records(self, root: Expression) -> bool:
        """Whether an expression has a value for each record; notes what makes nulls in it."""
        stack: list[tuple[Node, bool]] = [(root, False)]
        while stack:
            node, entered = stack.pop()
            if node in self._per_record:
                continue
            children = [c for c in node.children if isinstance(c, Expression)]
            if not entered and children:
                stack.append((node, True))
                stack.extend((c, False) for c in children)
                continue
            if isinstance(node, Call) and node.function.name in _MINDS_NULLS:
                self.makes_nulls = True
            self._per_record[node] = isinstance(node, (Column, Opaque)) or any(
                self._per_record[c] for c in children
            )
        return self._per_record[root]

    # Folds.

    def fold(self, members: tuple[Fold, ...]) -> tuple[Fold, Part]:
        """The members' folds as one, and where their results are in its. Raises NoRule."""
        first = members[0]
        if any(type(m) is not Fold or m.combine for m in members):
            raise NoRule
        if all(m.computation == first.computation and m.output == first.output for m in members):
            for argument in first.arguments:
                self._reads_records(argument)
            return first, Part()
        if not all(_alike(m, first) for m in members):
            raise NoRule
        arguments = zip(*(m.arguments for m in members), strict=True)
        operands = [self.expression(own) for own in arguments]
        return self._stacked_fold(first, operands)

    def _stacked_fold(self, fold: Fold, operands: Sequence[Operand]) -> tuple[Fold, Part]:
        count, shape = self._count, fold.type.shape
        if fold.kind in ("count", "is_empty"):  # of what is not null, the same for all members
            return replace(fold, arguments=tuple(o.expression for o in operands)), Part()
        if fold.kind in _BY_ELEMENT:
            made = replace(fold, arguments=(operands[0].expression,))
            return self._checked_fold(made, Part((count, *shape), 0), fold, (count, *shape))
        word, _, form = fold.kind.partition("_")
        if form == "terms":
            return self._stacked_terms(fold, operands)
        if form not in ("scaled", "outer") or all(o.batched for o in operands):
            raise NoRule
        (left, right) = operands
        if form == "scaled" and right.batched:
            # Σ s·X: all that is stacked is one longer array.
            made = replace(fold, arguments=(left.expression, right.expression))
            return self._checked_fold(made, Part((count, *shape), 0), fold, (count, *shape))
        if form == "outer" and (left.rank, right.rank) != (1, 1):
            raise NoRule
        # Σ s_i·x = (Σ outer(s, x))[i], and likewise of vectors, one after the other.
        (m, n) = (left.kind.size, right.kind.size)
        u, v = left.flat(count), right.flat(count)
        made = replace(fold, kind=f"{word}_outer", arguments=(u, v))
        self.products += m > 1 or n > 1
        if left.batched:
            own = Part((count, *(shape if form == "scaled" else (m, n))), 0)
            return self._checked_fold(made, own, fold, (count * m, n))
        return self._checked_fold(made, Part((m, count, n), 1), fold, (m, count * n))

    def _stacked_terms(self, fold: Fold, operands: Sequence[Operand]) -> tuple[Fold, Part]:
        """Σ (s_i·x + outer(u_i, v) + c_i), each of its terms with the members side by side."""
        count, shape = self._count, fold.type.shape
        forms: list[tuple[str, int]] = []
        arguments: list[Expression] = []
        for form, own in terms(fold):
            given = operands[own]
            if form == "same":
                size = count * shape[0] if len(shape) > 1 else count
                forms.append((form, 1))
                arguments.append(reshaped(given[0].spread(count), size, *shape[1:] or shape))
                continue
            ranks = tuple(o.rank for o in given)
            if ranks != {"scaled": (0, 1), "outer": (1, 1)}.get(form):
                raise NoRule
            if not given[0].batched or given[1].batched:
                raise NoRule
            forms.append(("outer", 2))
            arguments += [given[0].flat(count), given[1].expression]
            self.products += 1
        parameters = (("forms", tuple(forms)),)
        made = replace(fold, arguments=tuple(arguments), parameters=parameters)
        flat = (count * shape[0], *shape[1:]) if len(shape) > 1 else (count, *shape)
        return self._checked_fold(made, Part((count, *shape), 0), fold, flat)

    def _checked_fold(
        self, made: Fold, part: Part, fold: Fold, shape: tuple[int, ...]
    ) -> tuple[Fold, Part]:
        if made.type.name != fold.type.name or made.type.shape != shape:
            raise NoRule
        return made, part


def _all_alike(members: Sequence[Expression]) -> bool:
    return all(m == members[0] for m in members)


def _alike(fold: Fold, other: Fold) -> bool:
    """Whether folds differ in their arguments alone."""
    return (
        (fold.kind, fold.fields, fold.output, fold.parameters)
        == (other.kind, other.fields, other.output, other.parameters)
        and len(fold.arguments) == len(other.arguments)
        and repr(fold.initial) == repr(other.initial)
    )


def _chooses_nulls(node: Call, inputs: Sequence[Operand]) -> bool:
    """Whether which results are null may differ by member, given nulls."""
    name = node.function.name
    if name == "where":
        return inputs[0].batched
    return name in ("bitwise_and", "bitwise_or") and node.type.name == "bool"

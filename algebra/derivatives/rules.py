"""The table of derivatives: for each function how the gradient of its result reaches arguments.

A rule is a vector-Jacobian product: given g, the gradient of a number by the result y, it gives
that by an argument, gᵀ ∂y/∂a, as an expression of the table, which can be differentiated again.
Where all elements of a gradient are equal, one number may stand for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any

import numpy as np

from scalops.algebra.derivatives.terms import Term, dense, expression, fn, full
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import PlanError
from scalops.algebra.expressions import Call, Expression
from scalops.algebra.functions.table import Function

Shape = tuple[int, ...]


class Site:
    """A call whose arguments' gradients are asked for, given those of its results."""

    def __init__(
        self, made: Call, gradients: Sequence[Term | None], wanted: Callable[[Expression], bool]
    ) -> None:
        self.call = made
        self.gradients = tuple(gradients)
        self.given = dict(made.parameters)
        self.arguments = tuple(Term(a) for a in made.arguments)
        self._wanted = wanted

    def wants(self, number: int) -> bool:
        """Whether the argument depends on what the gradient is taken by."""
        return self._wanted(self.call.arguments[number])

    @property
    def g(self) -> Term:
        """The gradient by the one result."""
        (found,) = self.gradients
        assert found is not None
        return found

    @property
    def whole(self) -> Term:
        """The gradient by the one result, in its shape."""
        return full(self.g, self.call.type)

    @property
    def y(self) -> Term:
        return Term(self.call)

    def refused(self, what: str, hint: str) -> PlanError:
        return PlanError(
            f"so.grad has no derivative of {what}", location=self.call.location, hint=hint
        )


# What a rule yields: parts of the call below it, and what is added to their gradients.
Gradients = Iterable[tuple[Expression, Term]]
Rule = Callable[[Site], Gradients]

RULES: dict[str, Rule] = {}
_OF_UFUNCS: dict[np.ufunc, Rule] = {}
# Constant wherever they are differentiable, or of no numbers: gradients do not flow through.
FLAT: dict[str, str] = {}
# Without a derivative here: why, or what to write.
REFUSED: dict[str, str] = {}


def rule_of(function: Function) -> Rule | None:
    """A function's rule; None where it has none."""
    if function.name in RULES:
        return RULES[function.name]
    return None if function.ufunc is None else _OF_UFUNCS.get(function.ufunc)


def is_flat(function: Function) -> bool:
    """Whether the function's derivative is 0 wherever it has one."""
    known = function.name if function.ufunc is None else function.ufunc.__name__
    return known in FLAT


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule."""

    def registered(made: Rule) -> Rule:
        for name in names:
            RULES[name] = made
        return made

    return registered


Partial = Callable[..., Term]


def elementwise(key: Any, *partials: Partial | None, sparse: bool = False) -> None:
    """Register ∂/∂aᵢ of a universal function: `partial(g, y, *arguments)`, None for 0.

    Sparse vectors are made dense unless the derivatives leave 0 at 0.
    """

    def made(site: Site) -> Gradients:
        y, arguments = site.y, site.arguments
        if not sparse:
            y, arguments = dense(y), tuple(map(dense, arguments))
        for i, partial in enumerate(partials):
            if partial is not None and site.wants(i):
                found = partial(site.g, y, *arguments)
                target = site.call.arguments[i]
                yield target, summed_to(found, site.call.type.shape, target.type.shape)

    if isinstance(key, str):
        RULES[key] = made
    else:
        _OF_UFUNCS[key] = made


def by_definition(*names: str) -> Callable[[Callable[..., Term]], Callable[..., Term]]:
    """Register a rule by a formula of the same value: what differentiates it is the chain rule."""

    def registered(formula: Callable[..., Term]) -> Callable[..., Term]:
        def made(site: Site) -> Gradients:
            from scalops.algebra.derivatives.reverse import pull_back  # which reads the rules

            y = formula(*site.arguments, **site.given)
            targets = [a for i, a in enumerate(site.call.arguments) if site.wants(i)]
            found = pull_back([(y.e, site.whole)], list(dict.fromkeys(targets)))
            yield from ((t, g) for t, g in found.items())

        for name in names:
            RULES[name] = made
        return formula

    return registered


# Shapes.


def summed_to(term: Term, shape: Shape, target: Shape) -> Term:
    """The gradient by an argument that was broadcast to `shape`: sums over what was repeated."""
    if target == shape:
        return term if term.shape in ((), shape) else term.broadcast_to(shape)
    if not term.shape:
        return term * (prod(shape) / max(1, prod(target)))
    term = term.broadcast_to(shape)
    if not target:
        return total(term)
    lead = len(shape) - len(target)
    repeated = [i + lead for i, n in enumerate(target) if n == 1 and shape[i + lead] != 1]
    return term.sum((*range(lead), *repeated)).reshape(*target)


def total(term: Term) -> Term:
    """The sum of all elements; of a product of two vectors, their dot product."""
    e = term.e
    if isinstance(e, Call) and len(e.type.shape) == 1:
        match e.function.name, e.arguments:
            case "multiply", (a, b) if a.type.shape == b.type.shape:
                return Term(a) @ Term(b)
            case "multiply", (a, b) if not a.type.shape:
                return Term(a) * total(Term(b))
            case "negative", (a,):
                return -total(Term(a))
            case "one_hot", (i,) if not i.type.shape:
                return Term(expression(1.0))  # the index is that of an element
    return term.sum()


def axes_of(kind: ArrayType, axis: Any) -> tuple[int, ...]:
    """The axes that a fold runs over."""
    if axis is None:
        return tuple(range(len(kind.shape)))
    return axis if isinstance(axis, tuple) else (axis,)


def kept_shape(kind: ArrayType, axis: Any) -> Shape:
    """The shape of a fold's result with folded axes of length 1."""
    folded = axes_of(kind, axis)
    return tuple(1 if i in folded else n for i, n in enumerate(kind.shape))


def spread(term: Term, kind: ArrayType, axis: Any) -> Term:
    """A fold's result, or its gradient, beside each element that it folds."""
    if not term.shape and len(axes_of(kind, axis)) == len(kind.shape):
        return term
    if not term.shape:  # equal for all
        return term
    return term.reshape(*kept_shape(kind, axis)).broadcast_to(kind.shape)


def folded(kind: ArrayType, axis: Any) -> int:
    """How many elements are folded to one."""
    return prod(kind.shape[i] for i in axes_of(kind, axis))


def sliced(term: Term, axis: int, start: int | None, stop: int | None) -> Term:
    """term[..., start:stop, ...] along an axis."""
    everything = ("slice", None, None, None)
    key = (*[everything] * axis, ("slice", start, stop, None))
    return fn("index", term, key=key)


def eye(kind: ArrayType, n: int, m: int | None = None, k: int = 0) -> Any:
    """A constant matrix with ones on a diagonal, of the type's numbers."""
    return np.eye(n, m, k, dtype=kind.numpy)

"""Outer products of two vectors of a record, however they are written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.expressions import Call, Expression, call, columns
from scalops.algebra.folds import Fold
from scalops.algebra.functions import function
from scalops.algebra.relations import GroupAggregate
from scalops.algebra.tree import Node, substitute
from scalops.optimizer.quadratics import FULL
from scalops.optimizer.rules.contract_products import contract_products
from scalops.optimizer.rules.contract_terms import contract_terms

_FLOATS = ("float32", "float64")
_KINDS = ("sum", "add", "mean")


def recognize_outers(node: Node) -> Node | None:
    """Σ s[:, None] * x  ->  Σ outer(s, x), likewise s[:, None] @ x[None, :] and einsum("i,j->ij").

    s [k] and x [d] are vectors of the record, as a column [k, 1] and as x or a row [1, d] of any
    making: an index, a reshape, `expand_dims`, a transpose. Each number is the same product of
    the same two, so it is exact. Only in a sum or mean that is then a product of matrices, by
    `contract_products` or as terms of `contract_terms`: elsewhere the product of two views is
    as good as an outer product. So both vectors read columns, and are of the sum's type,
    float32 or float64.
    """
    if not isinstance(node, op.Aggregate | GroupAggregate):
        return None
    folds = tuple(_recognized(node, f) or f for f in node.folds)
    if all(a is b for a, b in zip(folds, node.folds, strict=True)):
        return None
    return replace(node, folds=folds)


def _recognized(node: op.Aggregate | GroupAggregate, fold: Fold) -> Fold | None:
    if fold.kind not in _KINDS or len(fold.arguments[0].type.shape) != 2:
        return None
    (argument,) = fold.arguments
    outers: dict[Node, Node] = {e: o for e in _factors(argument) if (o := _outer(e)) is not None}
    if not outers:
        return None
    made = replace(fold, arguments=(substitute(argument, outers),))
    alone = replace(node, folds=(made,))
    return made if contract_products(alone) or contract_terms(alone) else None


def _factors(e: Expression) -> Iterator[Call]:
    """What may be an outer product among the terms of a sum, without signs and scalar factors."""
    seen: set[Expression] = set()
    stack = [e]
    while stack:
        e = stack.pop()
        if e in seen or not isinstance(e, Call) or len(e.type.shape) != 2:
            continue
        seen.add(e)
        match e.function.name, e.arguments:
            case "add" | "subtract", (a, b):
                stack += [b, a]
            case "negative", (a,):
                stack.append(a)
            case "multiply", (a, b) if not (a.type.shape and b.type.shape):
                stack += [b, a]
            case "divide", (a, b) if not b.type.shape:
                stack.append(a)
            case _:
                yield e


def _outer(e: Call) -> Call | None:
    sides = _sides(e)
    if sides is None or e.type.name not in _FLOATS:
        return None
    for side in sides:
        if not side.type.is_plain or side.type.name != e.type.name or not columns([side]):
            return None
    made = call(function("outer"), *(_vector(s) for s in sides), location=e.location)
    return made if made.type == e.type else None


def _sides(e: Expression) -> tuple[Expression, Expression] | None:
    """The vector that goes down and the one that goes across, as they are written."""
    if not isinstance(e, Call) or len(e.type.shape) != 2:
        return None
    parameters = dict(e.parameters)
    match e.function.name, e.arguments:
        case "multiply", (a, b):
            for down, across in ((a, b), (b, a)):
                if _is_column(down, e) and _is_row(across, e):
                    return down, across
        case "matmul", (a, b) if _is_column(a, e) and b.type.shape == (1, e.type.shape[1]):
            return a, b
        case "einsum", (a, b) if len(a.type.shape) == len(b.type.shape) == 1:
            one, _, other = str(parameters["subscripts"]).partition("->")[0].partition(",")
            into = str(parameters["subscripts"]).partition("->")[2]
            if one != other and into in (one + other, other + one):
                return (a, b) if into == one + other else (b, a)
        case "transpose", (a,) if parameters["axes"] in (None, (1, 0)):
            turned = _sides(a)
            return None if turned is None else (turned[1], turned[0])
    return None


def _is_column(side: Expression, e: Expression) -> bool:
    return side.type.shape == (e.type.shape[0], 1)


def _is_row(side: Expression, e: Expression) -> bool:
    return side.type.shape in ((e.type.shape[1],), (1, e.type.shape[1]))


def _vector(e: Expression) -> Expression:
    """The vector of which a column or a row is a view, scaled or mapped as the view is."""
    if len(e.type.shape) == 1:
        return e
    if isinstance(e, Call):
        if _is_view(e):
            return _vector(e.arguments[0])
        wide = [a for a in e.arguments if a.type.shape]
        if e.function.elementwise and len(wide) == 1 and wide[0].type.shape == e.type.shape:
            given = [_vector(a) if a.type.shape else a for a in e.arguments]
            return call(e.function, *given, location=e.location, **dict(e.parameters))
    return call(function("reshape"), e, shape=(e.type.size,), location=e.location)


def _is_view(e: Call) -> bool:
    """Whether it has the numbers of a vector in their order, along another axis."""
    name, parameters = e.function.name, dict(e.parameters)
    if name not in ("index", "reshape", "transpose"):
        return False
    if name == "index" and any(k is not None and k != FULL for k in parameters["key"]):
        return False
    inner = e.arguments[0].type
    return isinstance(inner, ArrayType) and sum(n != 1 for n in inner.shape) <= 1 <= len(
        inner.shape
    )

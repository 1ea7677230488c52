"""Sums of products over records are products of matrices."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra.expressions import Call, Expression, call, columns
from scalops.algebra.folds import Fold
from scalops.algebra.functions import function
from scalops.algebra.products import Product, factors, in_type
from scalops.algebra.relations import GroupAggregate
from scalops.algebra.tree import Node
from scalops.optimizer.each_fold import each_fold

_FLOATS = ("float32", "float64")
_FORMS = {
    "sum": ("sum_scaled", "sum_outer"),
    "add": ("add_scaled", "add_outer"),
    "mean": ("mean_scaled", "mean_outer"),
}


def contract_products(node: Node) -> Node | None:
    """Σ s·x -> s @ X and Σ s·outer(u, v) -> (s·u).T @ V, for sums and means.

    s collects the scalar factors of the summand (products, quotients, signs) in a normal form
    (`algebra/products.py`), so that Σ -y·x / (1 + e^m) becomes (-y / (1 + e^m)) @ X, however it
    is written, and no records × features array is made.
    Sound by associativity and commutativity of multiplication, up to rounding: a numeric
    decision, taken from the program alone (factors so large that their product overflows before it
    meets a small one give another result). Floating point only, and only where the vector
    already has the sum's type; factors that met the vector one after the other meet each other
    in that type, so that no narrow integer overflows that did not before.

    Of sparse vectors likewise: Σ dense(x) -> Σ x, and outer(u, x) is contracted even where u is
    the same for all records, since its matrices would be dense. Sums of groups likewise: each
    group's is a product of its own records.
    """
    if not isinstance(node, op.Aggregate | GroupAggregate):
        return None
    return each_fold(node, _contracted)


def _contracted(fold: Fold) -> Fold | None:
    if fold.kind not in _FORMS:
        return None
    (argument,) = fold.arguments
    if not argument.type.shape or argument.type.name not in _FLOATS:
        return None
    dtype = argument.type.name
    scalars, vector = _factor(argument, dtype)
    scale = None if scalars == Product() else in_type(scalars.in_order.expression, dtype)
    if isinstance(vector, Call) and vector.function.name == "dense":
        (vector,) = vector.arguments
    if scale is None and vector is not None and vector.type.is_sparse and vector != argument:
        return replace(fold, arguments=(vector,))
    if vector is None or vector.type.name != argument.type.name:
        return None
    if not columns([vector]) or vector.type.shape != argument.type.shape:
        return None
    scaled, outer = _FORMS[fold.kind]
    if isinstance(vector, Call) and vector.function.name == "outer":
        left, right = vector.arguments
        sparse = left.type.is_sparse or right.type.is_sparse
        if not sparse and not (columns([left]) and columns([right])):
            return None
        if scale is not None and left.type.is_sparse:
            right = call(function("multiply"), scale, right)
        elif scale is not None:
            left = call(function("multiply"), scale, left)
        if left.type.name != right.type.name and not sparse:
            return None
        if len(left.type.shape) != 1 or len(right.type.shape) != 1:
            return None
        return replace(fold, kind=outer, arguments=(left, right))
    if scale is None or not columns([scale]) or vector.type.shape == ():
        return None
    return replace(fold, kind=scaled, arguments=(scale, vector))


_Factors = tuple[Product, Expression | None]


def _factor(e: Expression, dtype: str) -> _Factors:
    """(scalars, rest) with e = scalars · rest, the scalars being `dtype`s; no rest is None."""
    if not e.type.shape:
        return factors(e, dtype), None
    if isinstance(e, Call):
        match e.function.name, e.arguments:
            case "multiply", (a, b):
                (s, x), (t, z) = _factor(a, dtype), _factor(b, dtype)
                if x is None or z is None:
                    return s * t, x if z is None else z
            case "divide", (a, b) if not b.type.shape:
                s, x = _factor(a, dtype)
                return s / factors(b, dtype), x
            case "negative", (a,) if a.type.name == dtype:
                s, x = _factor(a, dtype)
                return -s, x
    return Product(), e

"""Weighted sums of outer products of a vector with itself are symmetric."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra.expressions import Call, Expression, call
from scalops.algebra.folds import Fold
from scalops.algebra.functions import function
from scalops.algebra.tree import Node
from scalops.optimizer.each_fold import each_fold

_FORMS = {"sum_outer": "sum_gram", "add_outer": "add_gram", "mean_outer": "mean_gram"}


def contract_grams(node: Node) -> Node | None:
    """Σ outer(s·x, t·x) -> Xᵀ diag(s·t) X, of which one triangle is computed.

    Half the work of Uᵀ V, and the result is exactly symmetric, as Newton's method and weighted
    least squares want it. s is one number a record of x's type, x a dense vector. Sound up to
    rounding: each product s·xᵢ·xⱼ is the same from both sides. Groups keep Uᵀ V.
    """
    if not isinstance(node, op.Aggregate):
        return None
    return each_fold(node, _contracted)


def _contracted(fold: Fold) -> Fold | None:
    if fold.kind not in _FORMS:
        return None
    (left, one), (right, other) = (_factored(a) for a in fold.arguments)
    if one != other or one.type.is_sparse or len(one.type.shape) != 1:
        return None
    if left is None or right is None:
        scale = left or right
    else:
        scale = call(function("multiply"), left, right)
    if scale is None or scale.type.name != one.type.name:
        return None
    return replace(fold, kind=_FORMS[fold.kind], arguments=(scale, one))


def _factored(e: Expression) -> tuple[Expression | None, Expression]:
    """(s, x) with e = s·x, x a vector; s may be missing."""
    if isinstance(e, Call) and e.function.name == "multiply":
        a, b = e.arguments
        for scale, vector in ((a, b), (b, a)):
            if not scale.type.shape and vector.type.shape:
                return scale, vector
    return None, e

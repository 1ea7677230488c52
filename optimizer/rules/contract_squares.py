"""Sums over records of shares times squared differences, vector by vector."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra.expressions import Call, Expression, columns
from scalops.algebra.folds import Fold
from scalops.algebra.tree import Node
from scalops.optimizer.each_fold import each_fold
from scalops.optimizer.quadratics import FULL, Quadratic, squares

_FORMS = {"sum": "sum_squares", "add": "add_squares", "mean": "mean_squares"}
_FLOATS = ("float32", "float64")


def contract_squares(node: Node) -> Node | None:
    """Σ r[:, None] * (x - c)² -> Rᵀ Y² - 2 e ∘ (Rᵀ Y) + e² ∘ Σ r, with y = x - m and e = c - m.

    r [k] and x [d] are of each record, c [k, d] is the same for all, as in the variances of a
    mixture's components: no array of records × k × d is made. A numeric decision; where the
    terms cancel, the kernel (`engine/kernels/squares.py`) computes a vector's sum directly.
    Floats of one type only, and no groups.
    """
    if not isinstance(node, op.Aggregate):
        return None
    return each_fold(node, _contracted)


def _contracted(fold: Fold) -> Fold | None:
    if fold.kind not in _FORMS:
        return None
    (argument,) = fold.arguments
    if not isinstance(argument, Call) or argument.function.name != "multiply":
        return None
    a, b = argument.arguments
    for shares, other in ((a, b), (b, a)):
        r, found = _vector(shares), squares(other)
        if r is not None and found is not None and _fits(r, found, argument):
            return replace(fold, kind=_FORMS[fold.kind], arguments=(r, found.x, found.c))
    return None


def _fits(r: Expression, found: Quadratic, argument: Expression) -> bool:
    if found.weights or found.factors or found.negative or not found.several:
        return False
    kinds = {r.type.name, found.x.type.name, found.c.type.name, argument.type.name}
    plain = r.type.is_plain and found.x.type.is_plain
    same = r.type.shape == found.c.type.shape[:1] and argument.type.shape == found.c.type.shape
    return plain and same and len(kinds) == 1 and kinds <= {*_FLOATS}


def _vector(e: Expression) -> Expression | None:
    """r of r[:, None] or of r.reshape(k, 1), a vector of each record."""
    if not isinstance(e, Call) or len(e.type.shape) != 2 or not e.arguments:
        return None
    inner, parameters = e.arguments[0], dict(e.parameters)
    if inner.type.shape != e.type.shape[:1] or e.type.shape[1] != 1 or not columns([inner]):
        return None
    match e.function.name:
        case "index" if tuple(parameters["key"]) == (FULL, None):
            return inner
        case "reshape":
            return inner
    return None

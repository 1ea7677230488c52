"""Sums of one-hot vectors are folds by the key that they stand for."""

from __future__ import annotations

from typing import TypeGuard

from scalops.algebra import operators as op
from scalops.algebra.definitions import as_column
from scalops.algebra.expressions import Call, Expression, call, columns
from scalops.algebra.folds import Fold
from scalops.algebra.functions import function
from scalops.algebra.segment_folds import PREFIX, Segment
from scalops.algebra.tree import Node
from scalops.optimizer.each_fold import each_fold
from scalops.optimizer.rules.contract_groups import fits

_OVER = ("sum", "add", "mean")
_Parts = tuple[Call, tuple[Expression, ...]]


def contract_one_hots(node: Node) -> Node | None:
    """Σ s·outer(one_hot(k, n), x) -> an array whose entry i is Σ s·x where k = i.

    Σ one_hot(k, n) is a count for each k, Σ s·one_hot(k, n) a sum; for sums and means. What is
    contracted is a product already (`contract_products`), so that the factors of a scaled one are
    known. Sound because a one-hot vector picks one row; each record is added to its own, and not
    n - 1 zeros to the others. What is not finite meets these zeros as in the product: 0·∞ is NaN
    in every entry. (A sum that overflows counts as such.) An index outside is one_hot's error.

    Not where the one-hot vector is part of a sum (softmax regression's `p - one_hot(y)`): its
    matrix of residuals is multiplied as a whole. Not on the right side of an outer product, nor
    for one-hot vectors of several indices a record, nor beyond `SEGMENT_KEYS` and `SEGMENT_BYTES`.
    """
    if not isinstance(node, op.Aggregate):
        return None
    return each_fold(node, _contracted)


def _contracted(fold: Fold) -> Fold | None:
    over, _, form = fold.kind.partition("_")
    if type(fold) is not Fold or over not in _OVER or fold.initial is not None:
        return None
    found = _parts(form, fold.arguments)
    if found is None:
        return None
    one_hot, values = found
    (key,), size = one_hot.arguments, dict(one_hot.parameters)["size"]
    if key.type.shape or not columns([key]):
        return None
    of = ("count", "sum", "sum_scaled")[len(values)]
    values = tuple(_float64(v) for v in values)
    made = Segment(
        fold.name,
        f"{PREFIX}{of}",
        (as_column(key), *values),
        size=size,
        over=over,
        location=fold.location,
        key_location=one_hot.location,
    )
    return made if made.type == fold.type and fits(size, made.type.bytes) else None


def _parts(form: str, arguments: tuple[Expression, ...]) -> _Parts | None:
    """The one-hot vector of a fold's arguments, and the factors (), (s,), (x,) or (s, x)."""
    if form == "":
        return _scaled(arguments[0])
    if form not in ("scaled", "outer"):
        return None
    first, second = arguments
    if form == "scaled":
        return (second, (first,)) if _is_one_hot(second) else None
    found = _scaled(first)
    if found is None:
        return None
    one_hot, factors = found
    return one_hot, (*factors, second)


def _scaled(e: Expression) -> _Parts | None:
    """(one_hot, ()) of one_hot, (one_hot, (s,)) of s·one_hot, however s is made up."""
    if _is_one_hot(e):
        return e, ()
    if not isinstance(e, Call) or e.function.name != "multiply":
        return None
    for scale, rest in (e.arguments, e.arguments[::-1]):
        found = None if scale.type.shape else _scaled(rest)
        if found is not None:
            one_hot, factors = found
            own = [_float64(f) for f in (*factors, scale)]  # where they met the vector
            return one_hot, (call(e.function, *own) if factors else scale,)
    return None


def _is_one_hot(e: Expression) -> TypeGuard[Call]:
    return isinstance(e, Call) and e.function.name == "one_hot"


def _float64(e: Expression) -> Expression:
    """The factor as the product of it and a one-hot vector has it."""
    if e.type.name == "float64":
        return as_column(e)
    return call(function("cast"), e, dtype="float64")

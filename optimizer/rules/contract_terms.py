"""A sum of sums of products is a sum of products of matrices."""

from __future__ import annotations

from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra.expressions import Call, Expression, call, columns
from scalops.algebra.folds import Fold
from scalops.algebra.functions import function
from scalops.algebra.tree import Node
from scalops.optimizer.each_fold import each_fold
from scalops.optimizer.rules.contract_grams import contract_grams
from scalops.optimizer.rules.contract_products import contract_products

_KINDS = {"sum": "sum_terms", "add": "add_terms", "mean": "mean_terms"}
_PRODUCTS = ("scaled", "outer", "gram")


def contract_terms(node: Node) -> Node | None:
    """Σ (s·x + outer(u, v) − c) -> s @ X + Uᵀ V − n·c, where s, x, u, v are of the record.

    Each term is a product that `contract_products` or `contract_grams` contracts, or the same
    for all records, such as a regulariser that was written into the record's loss. One fold with
    one mask, so that a record with a null in any term counts in none. Sound up to rounding: a
    product s·x is rounded before it is added up, in either plan. That is why it refuses terms
    that are no products: of Σ (x − c), with x near c, the difference is exact, while Σ x − n·c
    cancels. It also refuses groups, sparse vectors, and terms of another shape or type than the
    sum.
    """
    if not isinstance(node, op.Aggregate):
        return None
    return each_fold(node, lambda fold: _contracted(node, fold))


def _contracted(node: op.Aggregate, fold: Fold) -> Fold | None:
    if fold.kind not in _KINDS or not fold.arguments[0].type.shape:
        return None
    (argument,) = fold.arguments
    terms = _terms(argument)
    if len(terms) < 2:
        return None
    forms: list[tuple[str, int]] = []
    arguments: list[Expression] = []
    for term, negative in terms:
        if term.type != argument.type:  # bools among them, which have no sign
            return None
        if negative:
            term = call(function("negative"), term)
        if not columns([term]):
            form, given = "same", [term]
        else:
            made = _product(node, replace(fold, arguments=(term,)))
            if made is None:
                return None
            form, given = made.kind.split("_")[1], list(made.arguments)
        forms.append((form, len(given)))
        arguments.extend(given)
    if all(form == "same" for form, _ in forms):
        return None
    parameters = (("forms", tuple(forms)),)
    return replace(fold, kind=_KINDS[fold.kind], arguments=tuple(arguments), parameters=parameters)


def _product(node: op.Aggregate, fold: Fold) -> Fold | None:
    """The fold of one term as a product of matrices."""
    alone: Node = replace(node, folds=(fold,))
    for rule in (contract_products, contract_grams):
        alone = rule(alone) or alone
    assert isinstance(alone, op.Aggregate)
    (made,) = alone.folds
    if not made.kind.endswith(_PRODUCTS) or any(a.type.is_sparse for a in made.arguments):
        return None
    return made


def _terms(e: Expression, negative: bool = False) -> list[tuple[Expression, bool]]:
    """What is added up, with whether it is subtracted."""
    if isinstance(e, Call) and e.type.shape:
        match e.function.name, e.arguments:
            case "add", (a, b):
                return _terms(a, negative) + _terms(b, negative)
            case "subtract", (a, b):
                return _terms(a, negative) + _terms(b, not negative)
            case "negative", (a,):
                return _terms(a, not negative)
    return [(e, negative)]

"""What folds take of each record: over a whole table, and by group."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.folds import Fold, OpaqueAggregate, Transition, terms
from scalops.algebra.segment_folds import Segment
from scalops.optimizer.cost import SPARSE_ITEMS
from scalops.optimizer.costs.amounts import NOTHING, Amounts, added
from scalops.optimizer.costs.expression_work import record_work

# Folds whose partial results grow with the records.
KEEPING = frozenset(("quantile", "n_unique", "collect_list", "to_array"))
_KERNEL_CALLS = 2  # of a fold over a block: its partial, and adding it
_PASSES = {"var": 4, "std": 4, "argmin": 2, "argmax": 2}  # over the column, where it is not one
_PAIRWISE = 16  # halvings of a block until one record is left


def fold_work(folds: Sequence[Fold]) -> tuple[Amounts, int]:
    """Amounts of one record, and calls of NumPy for a block; folds of one computation are one.

    What the arguments take is not counted.
    """
    distinct = {fold.computation: fold for fold in folds}
    calls = _KERNEL_CALLS * len(distinct)
    for fold in distinct.values():
        if fold.kind == "reduce":
            calls += _PAIRWISE * record_work(fold.combine).calls
        elif fold.kind.endswith("_terms"):
            calls += 2 * len(terms(fold))
    return added(*map(_own, distinct.values())), calls


def grouped_work(folds: Sequence[Fold]) -> Amounts:
    """Amounts of one record that is folded with those of its group."""
    return added(*map(_grouped, folds))


def _own(fold: Fold) -> Amounts:
    kinds = [a.type for a in fold.arguments]
    if isinstance(fold, Transition):
        return {"record": 1.0}
    if isinstance(fold, OpaqueAggregate):
        return {"opaque": 1.0}
    if isinstance(fold, Segment):
        return {"segment": _items(kinds[-1]) if len(kinds) > 1 else 1.0}
    if any(k.is_sparse for k in kinds):
        dense = prod(_items(k) for k in kinds if not k.is_sparse)
        return {"gather": SPARSE_ITEMS * dense}
    if fold.kind == "reduce":
        return record_work(fold.combine).amounts
    if fold.kind.endswith("_terms"):
        return added(*(_product(form, kinds[own]) for form, own in terms(fold)))
    if "_" in fold.kind and (form := fold.kind.split("_")[1]) in _FORMS:
        return _product(form, kinds)
    match fold.kind:
        case "count" | "is_empty" | "first" | "last" | "first_record" | "last_record":
            return NOTHING
        case "quantile":
            return {"sort": _items(kinds[0])}
        case "n_unique":
            return {"group": 1.0}
        case "to_array":
            return {"gather": _items(kinds[-1])}
    return {"element": _PASSES.get(fold.kind, 1) * _items(kinds[0])}


_FORMS = ("scaled", "outer", "gram", "squares", "same")


def _product(form: str, kinds: Sequence[ArrayType]) -> Amounts:
    """Flops of one record's part in a product of matrices.

    scaled: Σ s·x, 2d · outer: Uᵀ V, 2·|u|·|v| · gram: Xᵀ diag(s) X, one triangle of it, d² and
    what scaling takes · squares: Σ w·(x - c)² for k weights, as products with x² and x, 4kd · same:
    nothing.
    """
    match form:
        case "scaled":
            return {"product_vector": 2.0 * _items(kinds[1])}
        case "outer":
            return {"product": 2.0 * _items(kinds[0]) * _items(kinds[1])}
        case "gram":
            size = _items(kinds[1])
            return {"product": size * size, "element": size}
        case "squares":
            return {"product": 4.0 * _items(kinds[0]) * _items(kinds[1])}
    return NOTHING


def _grouped(fold: Fold) -> Amounts:
    if isinstance(fold, (Transition, OpaqueAggregate)):
        return _own(fold)
    size = _items(fold.arguments[0].type) if fold.arguments else 1.0
    match fold.kind:
        case "n_unique":
            return {"group": 1.0}
        case "quantile":
            return {"sort": size}
        case "reduce":
            return added({"gather": size}, record_work(fold.combine).amounts)
    return {"segment": _PASSES.get(fold.kind, 1) * size}


def _items(kind: ArrayType) -> float:
    """Numbers that are stored of one record's value."""
    return SPARSE_ITEMS if kind.is_sparse else float(max(1, kind.size))

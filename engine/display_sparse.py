"""Sums of sparse vectors for readers of a plan: what partials are, and in which steps they form."""

from __future__ import annotations

from collections.abc import Sequence

from scalops.algebra.dtypes import SparseType
from scalops.algebra.explain import bytes_text
from scalops.algebra.folds import Fold
from scalops.engine.kernels.sparse_folds import SPARSE_FORMS, Added
from scalops.engine.reduction import SCATTERED_FACTOR, is_scattered


def sparse_details(folds: Sequence[Fold]) -> list[tuple[str, str]]:
    """A line for each fold to whose partial sparse vectors are added."""
    return [("sparse", _text(f)) for f in folds if is_scattered(f) and f.kind in SPARSE_FORMS]


def _text(fold: Fold) -> str:
    dense = f"{fold.name}: dense partials of {bytes_text(fold.type.bytes)}"
    counted = f"counted {SCATTERED_FACTOR} times for leaves"
    if SPARSE_FORMS[fold.kind] is not Added or len(fold.arguments) == 1:
        return f"{dense}, {counted}, added to in place"
    first = next(a for a in fold.arguments if not isinstance(a.any_type, SparseType))
    what = "vectors" if first.type.shape else "scalars"
    return f"{dense}, {counted}; in memory: {what} of a leaf, then its sum"

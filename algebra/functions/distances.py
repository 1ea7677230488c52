"""Squared distances of one record's vector from vectors that all records share.

Their meaning for one record is the direct form. `form` says how blocks are computed: "expanded"
as products of matrices, or "direct" with the reason.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scalops.algebra.distance_bounds import WEIGHTS, direct
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.functions.table import Function, infer_by_example, register

EXPANDED = "expanded"


def squared_distances(x: Any, c: Any, form: str = EXPANDED) -> Any:
    """Σ_j (x_j - c_kj)², for each row of c [k, d], or for c [d] alone; x [d]."""
    return direct(x, c)


def weighted_squared_distances(
    x: Any, c: Any, a: Any, weight: str = "times", form: str = EXPANDED
) -> Any:
    """Σ_j a_kj (x_j - c_kj)²; `weight` says how a enters: a·d², d²/a, (a·d)² or (d/a)²."""
    return direct(x, c, a, weight)


def nearest(x: Any, c: Any, root: bool = False, form: str = EXPANDED) -> Any:
    """The first k with the least squared distance, or with the least distance (`root`)."""
    return np.argmin(_rooted(direct(x, c), root))


def weighted_nearest(
    x: Any, c: Any, a: Any, weight: str = "times", root: bool = False, form: str = EXPANDED
) -> Any:
    """`nearest` by weighted distances."""
    return np.argmin(_rooted(direct(x, c, a, weight), root))


def _rooted(distances: Any, root: bool) -> Any:
    return np.sqrt(distances) if root else distances


def _checked(name: str, evaluate: Any) -> Any:
    by_example = infer_by_example(name, evaluate)

    def infer(x: ArrayType, c: ArrayType, *a: ArrayType, **parameters: Any) -> ArrayType:
        if len(x.shape) != 1 or len(c.shape) not in (1, 2) or c.shape[-1:] != x.shape:
            raise ValueError(f"{name} needs a vector and one or several like it, not {x} and {c}")
        if parameters.get("weight", "times") not in WEIGHTS:
            raise ValueError(f"{name} knows no weight {parameters['weight']!r}")
        if a and np.broadcast_shapes(a[0].shape, c.shape) != c.shape:
            raise ValueError(f"{name} cannot weigh {c} by {a[0]}")
        made = by_example(x, c, *a, **parameters)
        assert isinstance(made, ArrayType)
        return made

    return infer


def _flops(x: ArrayType, c: ArrayType, *a: ArrayType, **_: Any) -> float:
    return (4.0 if a else 2.0) * c.size


SQUARED_DISTANCES, WEIGHTED_SQUARED_DISTANCES, NEAREST, WEIGHTED_NEAREST = (
    register(Function(e.__name__, _checked(e.__name__, e), e, flops_of=_flops))
    for e in (squared_distances, weighted_squared_distances, nearest, weighted_nearest)
)

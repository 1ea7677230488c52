"""Squared distances as products of matrices, and how far rounding takes them.

With a common centre m, y = x - m and e_k = c_k - m,

    D_k = Σ_j a_kj (x_j - c_kj)²  =  Σ_j a_kj y_j²  -  2 Σ_j a_kj e_kj y_j  +  Σ_j a_kj e_kj²,

so that the distances of many records are one product of [y², y, 1] with a matrix that c and a
make once; without weights, of [y, 1, |y|²]. Where D is small beside its terms, they cancel.

The bound. Let u be the unit roundoff, n the length of the inner products, g = γ_(n+16) with
γ_i = i·u / (1 - i·u). Whatever the order of summation, an inner product's error is at most γ_n
times the sum of its terms' absolute values (N. J. Higham, "Accuracy and Stability of Numerical
Algorithms", 2nd edition, section 3.1). The rest of the 16 covers the rounding of m's differences,
of the weights and of the factors. With weights that are not negative, |v|² = Σ_j a_kj v_j² and
r_k = |e_k|, Minkowski's inequality gives

    |computed - D_k|  <=  g (|y| + r_k)²  <=  g (√D_k + 2 r_k)²,

for |y| <= √D_k + r_k. The second form needs no norm of y: what is at risk shows in the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Version 1 of numeric constants. Relative errors that a distance may have from its expansion;
# sums of float32 squares have so many digits in the direct form too.
TOLERANCE = {"float64": 1e-10, "float32": 1e-4}
_MULTIPLE = 32.0  # of the bound, where that is more than the tolerance (very long float32 vectors)
_CONSTANT = 16

# How a weight enters: a·d², d²/a, (a·d)², (d/a)².
WEIGHTS = ("times", "over", "times_squared", "over_squared")


def gamma(terms: int, dtype: np.dtype[Any]) -> float:
    """γ_(n+16) of a float type: the relative error of an expansion whose sums have n terms."""
    u = float(np.finfo(dtype).eps) / 2
    many = (terms + _CONSTANT) * u
    return many / (1 - many) if many < 1 else float("inf")


def direct(x: Any, c: Any, a: Any = None, weight: str = "times") -> Any:
    """Σ_j a_kj (x_j - c_kj)², as it is written; the arguments broadcast, j is the last axis."""
    apart = x - c
    if weight == "times_squared" and a is not None:
        apart = apart * a
    elif weight == "over_squared" and a is not None:
        apart = apart / a
    squares = np.square(apart)
    if a is not None and weight == "times":
        squares = squares * a
    elif a is not None and weight == "over":
        squares = squares / a
    return squares.sum(axis=-1)


@dataclass(frozen=True)
class Expansion:
    """What c [k, d] and weights make once.

    `factors` [k, d + 1 or 2d + 1] meet [y, 1] or [y², y, 1]; `squares` says which. Without
    weights, |y|² is left to whoever needs the distance itself. `centre` is None where 0 is as
    good. `radius` is the greatest r_k, `least` [k] the distances from which on the tolerance holds.
    """

    centre: Array | None
    factors: Array
    squares: bool
    gamma: float
    radius: float
    least: Array

    def margins(self, norms: Array | None, best: Array) -> Array:
        """By how much a score must exceed the best of its record to be no candidate.

        Scores are D, or D - |y|² without weights, where `norms` holds |y|². A score that exceeds
        the best by more belongs to a distance whose direct form, with its own error of at most
        g·D, exceeds that of the best too, and so does its root: both expansions and both direct
        forms are wrong by 4g (|y| + R)² <= 8g (|y|² + R²) together. With weights, by
        3g (D + D') + 16g R², since (√D + 2r)² <= 2D + 8r²; D' = D + margin, so that 32g (D + R²)
        is enough where 64g < 1. What products below the least normal number may lose is added.
        Sums of terms beyond a 64th of the greatest number may have overflowed: these margins
        overflow as well.
        """
        g, floor = self.gamma, _floor(self.factors.dtype, self.factors.shape[1])
        if norms is not None:
            made = norms + (self.radius**2 + floor / (8 * g))
            made *= 8 * g
            return made
        made = np.maximum(best, 0)
        made *= 64
        made += 64 * (self.radius**2 + floor / (32 * g))
        made *= g / 2
        return made


def expand(c: Any, a: Any, weight: str, dtype: np.dtype[Any]) -> Expansion | None:
    """The expansion for these c and weights.

    None where there is none: what is not finite, negative weights, or more terms than digits.
    """
    with np.errstate(all="ignore"):
        return _expanded(np.asarray(c, dtype), a, weight, dtype)


def _expanded(c: Array, a: Any, weight: str, dtype: np.dtype[Any]) -> Expansion | None:
    k, d = c.shape
    if not k or not d:
        return None
    weights: Array | None = None
    if a is not None:
        weights = np.broadcast_to(_weights(np.asarray(a, dtype), weight), (k, d))
        if not (weights >= 0).all():
            return None
    centre: Array | None = c.mean(axis=0)
    e = c - centre
    squared, as_they_are = _norms(e, weights), _norms(c, weights)
    # Where 0 is as good a centre, but for two bits of the error, nothing is subtracted.
    if as_they_are.max() <= 4 * squared.max():
        centre, e, squared = None, c, as_they_are
    if weights is None:
        factors: Array = np.empty((k, d + 1), dtype)
        np.multiply(e, -2, out=factors[:, :d])
    else:
        factors = np.empty((k, 2 * d + 1), dtype)
        factors[:, :d] = weights
        np.multiply(weights, -2 * e, out=factors[:, d : 2 * d])
    factors[:, -1] = squared
    g = gamma(factors.shape[1] + 1, dtype)
    largest = float(squared.max())
    if not np.isfinite(factors).all() or not 64 * g < 1 or largest > np.finfo(dtype).max / 64:
        return None
    tolerance = max(TOLERANCE[dtype.name], _MULTIPLE * g)
    # 1.01 for the rounding of these numbers themselves, and for 1 + tolerance.
    share = 1.01 * 4 * (1 + tolerance) / (np.sqrt(tolerance / g) - 1) ** 2
    least = share * squared + _floor(dtype, factors.shape[1]) / tolerance
    radius = 1.01 * float(np.sqrt(largest))
    return Expansion(centre, factors, a is not None, g, radius, least.astype(dtype))


def _norms(e: Array, weights: Array | None) -> Array:
    squares = np.square(e)
    made: Array = (squares if weights is None else weights * squares).sum(axis=1)
    return made


def _weights(a: Array, weight: str) -> Array:
    match weight:
        case "times":
            return a
        case "over":
            return 1 / a
        case "times_squared":
            return np.square(a)
    return 1 / np.square(a)


def _floor(dtype: np.dtype[Any], terms: int) -> float:
    """What products below the least normal number may lose in a sum of so many terms, and more."""
    return 8 * terms * float(np.finfo(dtype).tiny)


def at_risk(x: Array, c: Any, a: Any, weight: str, deciding: bool) -> float:
    """The share of records (of distances, unless the nearest is asked for) of x [n, d] that the
    expansion would leave to the direct form."""
    dtype = np.result_type(x.dtype, np.asarray(c).dtype)
    if a is not None:
        dtype = np.result_type(dtype, np.asarray(a).dtype)
    expansion = expand(c, a, weight, dtype)
    if expansion is None or not len(x):
        return 1.0 if expansion is None else 0.0
    with np.errstate(all="ignore"):
        y = x if expansion.centre is None else x - expansion.centre
        norms = None if expansion.squares else np.square(y).sum(axis=1)
        one = np.ones((len(y), 1), dtype)
        parts = (np.square(y), y, one) if expansion.squares else (y, one)
        scores = np.concatenate(parts, axis=1) @ expansion.factors.T
        if deciding:
            best = scores.min(axis=1)
            near = scores <= (best + expansion.margins(norms, best))[:, None]
            return float((near.sum(axis=1) != 1).mean())
        distances = scores if norms is None else scores + norms[:, None]
        return float((~(distances >= expansion.least)).mean())

"""Derivatives of functions that rearrange, repeat and interpolate, and of products by letters."""

from __future__ import annotations

from math import prod
from string import ascii_letters
from typing import Any

import numpy as np

from scalops.algebra.derivatives.rules import (
    FLAT,
    REFUSED,
    Gradients,
    Site,
    axes_of,
    by_definition,
    eye,
    rule,
    sliced,
)
from scalops.algebra.derivatives.terms import Term, fn, where
from scalops.algebra.expressions import constant


@rule("roll")
def _roll(site: Site) -> Gradients:
    shift = site.given["shift"]
    back = tuple(-s for s in shift) if isinstance(shift, tuple) else -shift
    yield site.call.arguments[0], fn("roll", site.whole, shift=back, axis=site.given["axis"])


@rule("tril", "triu")
def _triangle(site: Site) -> Gradients:
    yield site.call.arguments[0], fn(site.call.function.name, site.whole, **site.given)


@rule("repeat")
def _repeat(site: Site) -> Gradients:
    (a,) = site.arguments
    repeats, axis, g = site.given["repeats"], site.given["axis"], site.whole
    n = a.shape[axis]
    if isinstance(repeats, tuple) and len(repeats) == 1:
        (repeats,) = repeats
    if isinstance(repeats, int):
        shape = (*a.shape[:axis], n, repeats, *a.shape[axis + 1 :])
        yield a.e, g.reshape(*shape).sum(axis + 1)
        return
    # Rows of ones where an element was repeated.
    before, after = prod(a.shape[:axis]), prod(a.shape[axis + 1 :])
    hot = np.repeat(eye(a.type, n), repeats, axis=0).T
    yield a.e, (Term(constant(hot)) @ g.reshape(before, sum(repeats), after)).reshape(*a.shape)


@rule("tile")
def _tile(site: Site) -> Gradients:
    (a,) = site.arguments
    reps = site.given["reps"]
    rank = max(len(reps), a.ndim)
    times = (*[1] * (rank - len(reps)), *reps)
    own = (*[1] * (rank - a.ndim), *a.shape)
    pairs = [n for pair in zip(times, own, strict=True) for n in pair]
    summed = site.whole.reshape(*pairs).sum(tuple(range(0, 2 * rank, 2)))
    yield a.e, summed.reshape(*a.shape)


@by_definition("diff")
def _diff(a: Term, n: int, axis: int) -> Term:
    axis %= a.ndim
    for _ in range(n):
        a = sliced(a, axis, 1, None) - sliced(a, axis, 0, a.shape[axis] - 1)
    return a


@by_definition("kron")
def _kron(a: Term, b: Term) -> Term:
    rank = max(a.ndim, b.ndim)
    left = (*[1] * (rank - a.ndim), *a.shape)
    right = (*[1] * (rank - b.ndim), *b.shape)
    split = [n for n in left for n in (n, 1)], [n for n in right for n in (1, n)]
    product = a.reshape(*split[0]) * b.reshape(*split[1])
    return product.reshape(*(n * m for n, m in zip(left, right, strict=True)))


@by_definition("cross")
def _cross(a: Term, b: Term) -> Term:
    def part(v: Term, i: int) -> Term:
        return fn("index", v, key=(*[("slice", None, None, None)] * (v.ndim - 1), i))

    (a0, a1, a2), (b0, b1, b2) = ([part(v, i) for i in range(3)] for v in (a, b))
    sides = (a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0)
    return fn("stack", *sides, axis=sides[0].ndim)


@by_definition("interp")
def _interp(x: Term, xp: Term, fp: Term) -> Term:
    """Linear between the points on either side, constant beyond the ends."""
    n = xp.shape[0]
    above = fn("searchsorted", xp, x, side="right")
    right = fn("minimum", fn("maximum", above, 1), n - 1)
    left = fn("subtract", right, 1)
    x0, x1, f0, f1 = (fn("take", v, i, axis=0) for v in (xp, fp) for i in (left, right))
    inside = f0 + (x - x0) * ((f1 - f0) / (x1 - x0))
    first, last = (fn("index", v, key=(0,)) for v in (xp, fp)), (
        fn("index", v, key=(-1,)) for v in (xp, fp)
    )  # fmt: skip
    (x_first, f_first), (x_last, f_last) = first, last
    return where(x < x_first, f_first, where(x > x_last, f_last, inside))


@by_definition("median")
def _median(a: Term, axis: Any = None, keepdims: bool = False) -> Term:
    return _quantile(a, 0.5, axis, keepdims)


@by_definition("quantile")
def _quantile(
    a: Term, q: Any, axis: Any = None, keepdims: bool = False, method: str = "linear"
) -> Term:
    """Between the two elements in order on either side of (n - 1) q, by linear interpolation."""
    axes = axes_of(a.type, axis)
    rest = tuple(i for i in range(a.ndim) if i not in axes)
    n = prod(a.shape[i] for i in axes)
    shape = tuple(a.shape[i] for i in rest)
    ordered = fn("sort", a.transpose(*rest, *axes).reshape(*shape, n), axis=len(rest))
    if keepdims:
        shape = tuple(1 if i in axes else a.shape[i] for i in range(a.ndim))
    levels = [_between(ordered, n, level).reshape(*shape) for level in np.ravel(q)]
    return levels[0] if np.ndim(q) == 0 else fn("stack", *levels, axis=0)


def _between(ordered: Term, n: int, level: float) -> Term:
    at = (n - 1) * float(level)
    low = min(int(at), n - 1)
    high = min(low + 1, n - 1)
    before = (("slice", None, None, None),) * (ordered.ndim - 1)
    left = fn("index", ordered, key=(*before, low))
    right = fn("index", ordered, key=(*before, high))
    return left * (1 - (at - low)) + right * (at - low)


@rule("einsum")
def _einsum(site: Site) -> Gradients:
    """With an operand's letters and the result's exchanged; letters alone in it are repeated."""
    sources, _, result = site.given["subscripts"].partition("->")
    letters = sources.split(",")
    for i, a in enumerate(site.arguments):
        if not site.wants(i):
            continue
        target, more = list(letters[i]), []
        fresh = iter(c for c in ascii_letters if c not in site.given["subscripts"])
        for place, letter in enumerate(target):
            if letter in target[:place]:  # a diagonal: its second index is the first one
                target[place] = next(fresh)
                ones = constant(eye(a.type, a.shape[place]))
                more.append((letter + target[place], Term(ones)))
        known = set(result).union(*(letters[:i] + letters[i + 1 :]), *(m for m, _ in more))
        for place, letter in enumerate(target):
            if letter not in known:
                ones = constant(np.ones(a.shape[place], a.type.numpy))
                more.append((letter, Term(ones)))
        operands = list(zip(letters, site.arguments, strict=True))
        others = operands[:i] + operands[i + 1 :]
        inputs = [(result, site.whole), *others, *more]
        subscripts = ",".join(s for s, _ in inputs) + "->" + "".join(target)
        yield a.e, fn("einsum", *(t for _, t in inputs), subscripts=subscripts)


FLAT |= dict.fromkeys(
    ("searchsorted", "digitize", "count_nonzero", "isclose"), "constant between its steps"
)
REFUSED |= {
    "nanmedian": "replace the NaNs first, and use np.median",
}

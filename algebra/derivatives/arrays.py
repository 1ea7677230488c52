"""Derivatives of functions that reshape, index, join and fold the axes of an array."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from scalops.algebra.derivatives.elementwise import zero
from scalops.algebra.derivatives.rules import (
    FLAT,
    REFUSED,
    Gradients,
    Site,
    eye,
    folded,
    rule,
    sliced,
    spread,
    summed_to,
    total,
)
from scalops.algebra.derivatives.terms import Term, dense, fn, full, where, zeros
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.expressions import Call, constant
from scalops.algebra.functions.scatter import ARGUMENT

# Shapes.


@rule("reshape")
def _reshape(site: Site) -> Gradients:
    (a,) = site.arguments
    yield a.e, site.g.reshape(*a.shape) if site.g.shape else site.g


@rule("transpose")
def _transpose(site: Site) -> Gradients:
    (a,) = site.arguments
    back = tuple(int(i) for i in np.argsort(site.given["axes"]))
    yield a.e, site.g.transpose(*back) if site.g.shape else site.g


@rule("broadcast_to")
def _broadcast_to(site: Site) -> Gradients:
    (a,) = site.arguments
    yield a.e, summed_to(site.g, site.call.type.shape, a.shape)


@rule("stack")
def _stack(site: Site) -> Gradients:
    axis, g = site.given["axis"], site.g
    for i, a in enumerate(site.arguments):
        if site.wants(i):
            key = (*[("slice", None, None, None)] * axis, i)
            yield a.e, fn("index", g, key=key) if g.shape else g


@rule("assemble")
def _assemble(site: Site) -> Gradients:
    for i, a in enumerate(site.arguments):
        if site.wants(i):
            yield a.e, fn("index", site.g, key=(i,)) if site.g.shape else site.g


@rule("concatenate")
def _concatenate(site: Site) -> Gradients:
    axis, at = site.given["axis"], 0
    for i, a in enumerate(site.arguments):
        if site.wants(i):
            yield a.e, sliced(site.g, axis, at, at + a.shape[axis]) if site.g.shape else site.g
        at += a.shape[axis]


@rule("dense")
def _dense(site: Site) -> Gradients:
    yield site.call.arguments[0], site.g


# Elements.


@rule("index", "take")
def _elements(site: Site) -> Gradients:
    yield site.call.arguments[0], scattered(site.g, site.call)


def scattered(g: Term, made: Call) -> Term:
    """The gradient by an array of one by elements of it: g where they were, else 0.

    Elements that were taken twice get both. Of one element along the first axis this is
    g · one_hot(i), the form in which a classifier's gradient is written; of one row of a matrix
    outer(one_hot(i), g), whose sum over records is one by segments.
    """
    source = made.arguments[0].type.dense()
    given = dict(made.parameters)
    if made.function.name == "index":
        return fn("put", zeros(source), full(g, made.type), key=given["key"])
    indices, axis = Term(made.arguments[1]), given.get("axis", 0)
    count, m = source.shape[axis], indices.type.size
    hot = fn("one_hot", indices, size=count)
    if source.name != "float64":
        hot = hot.cast(source.name)
    if not indices.shape and len(source.shape) == 1:
        return g * hot
    if not indices.shape and axis == 0 and prod(source.shape):
        picked = full(g, made.type)
        return fn("outer", hot, picked.reshape(picked.type.size)).reshape(*source.shape)
    before, after = prod(source.shape[:axis]), prod(source.shape[axis + 1 :])
    picked = full(g, made.type).reshape(before, m, after)
    return (hot.reshape(m, count).transpose() @ picked).reshape(*source.shape)


@rule("put")
def _put(site: Site) -> Gradients:
    array, value, *given = site.arguments
    key = site.given["key"]
    g = site.whole
    if site.wants(0):
        cleared = fn("put", g, zero(g), *given, key=key)
        yield array.e, cleared
    if site.wants(1):
        taken = _taken(site, g, tuple(given), key)
        yield value.e, summed_to(taken, taken.shape, value.shape)


def _taken(site: Site, g: Term, given: tuple[Term, ...], key: tuple[Any, ...]) -> Term:
    """g[key], 0 where another element was put in the same place later."""
    if not given:
        return fn("index", g, key=key)
    if any(k is None or isinstance(k, tuple) for k in key):
        raise site.refused(
            "so.put at positions together with slices", "put each row by itself, or use so.where"
        )
    waiting, flat = iter(given), Term(constant(0))
    for k, n in zip(key, g.shape, strict=False):
        at = next(waiting) if k == ARGUMENT else Term(constant(k % n))
        at = where(at < 0, fn("add", at, n), at) if k == ARGUMENT else at
        flat = fn("add", fn("multiply", flat, n), at)
    rest = g.shape[len(key) :]
    rows = prod(g.shape[: len(key)])
    taken = fn("take", g.reshape(rows, *rest), flat, axis=0)
    if not flat.shape:
        return taken
    turns = constant(np.arange(flat.type.size).reshape(flat.shape))
    none = constant(np.zeros(rows, np.int64))
    last = fn("take", fn("put", none, turns, flat, key=(ARGUMENT,)), flat, axis=0)
    kept = (last == Term(turns)).reshape(*flat.shape, *[1] * len(rest))
    return where(kept, taken, zero(g))


# Folds of axes.


@rule("sum")
def _sum(site: Site) -> Gradients:
    (a,) = site.arguments
    yield a.e, spread(site.g, a.type, site.given.get("axis"))


@rule("mean")
def _mean(site: Site) -> Gradients:
    (a,) = site.arguments
    axis = site.given.get("axis")
    yield a.e, spread(site.g / float(folded(a.type, axis)), a.type, axis)


@rule("max", "min", "nanmax", "nanmin")
def _extreme(site: Site) -> Gradients:
    """Equal elements share it."""
    (given,) = site.arguments
    a, axis = dense(given), site.given.get("axis")
    best = a == spread(site.y, a.type, axis)
    count = fn("sum", best, axis=axis, keepdims=True).reshape(*site.call.type.shape)
    share = site.whole / count.cast(a.type.name)
    yield given.e, where(best, spread(share, a.type, axis), zero(a))


@rule("ptp")
def _ptp(site: Site) -> Gradients:
    (a,) = site.arguments
    for name, g in (("max", site.whole), ("min", -site.whole)):
        made = fn(name, a, **site.given)
        assert isinstance(made.e, Call)
        yield from _extreme(Site(made.e, (g,), lambda _: True))


@rule("prod", "nanprod")
def _prod(site: Site) -> Gradients:
    """The product of the others: with one 0 among the elements, only that one has any."""
    (a,) = site.arguments
    axis = site.given.get("axis")
    known = where(fn("isnan", a), 1.0, a) if site.call.function.name == "nanprod" else a
    is_zero = known == 0
    others = fn("prod", where(is_zero, 1.0, known), axis=axis, keepdims=True)
    zeros_there = fn("sum", is_zero, axis=axis, keepdims=True)
    own = where(
        zeros_there == 0,
        others / where(is_zero, 1.0, known),
        where(fn("logical_and", is_zero, zeros_there == 1), others, 0.0),
    )
    g = spread(site.whole, a.type, axis)
    yield a.e, g * (where(fn("isnan", a), zero(a), own) if known is not a else own)


@rule("nansum", "nanmean")
def _nansum(site: Site) -> Gradients:
    (a,) = site.arguments
    axis = site.given.get("axis")
    absent, g = fn("isnan", a), site.whole
    if site.call.function.name == "nanmean":
        known = fn("sum", fn("logical_not", absent), axis=axis, keepdims=True)
        g = g / known.reshape(*g.shape).cast(a.type.name)
    yield a.e, where(absent, zero(a), spread(g, a.type, axis))


@rule("var", "std")
def _var(site: Site) -> Gradients:
    """2 (a - mean) / (n - ddof); of the root, over twice the root."""
    (a,) = site.arguments
    axis = site.given.get("axis")
    g, ddof = site.whole, site.given.get("ddof", 0)
    if site.call.function.name == "std":
        g = g / (2.0 * site.y)
    centre = fn("mean", a, axis=axis, keepdims=True)
    scale = 2.0 / (folded(a.type, axis) - ddof)
    yield a.e, spread(g, a.type, axis) * (a - centre) * scale


@rule("softmax")
def _softmax(site: Site) -> Gradients:
    (a,) = site.arguments
    axis = site.given["axis"]
    through = site.whole * site.y
    if a.ndim == 1 or axis is None:
        yield a.e, through - site.y * total(through)
    else:
        yield a.e, through - site.y * through.sum(axis, keepdims=True)


@rule("logsumexp")
def _logsumexp(site: Site) -> Gradients:
    (a,) = site.arguments
    axis = site.given.get("axis")
    along = 0 if a.ndim == 1 else axis  # as so.softmax has it
    yield a.e, spread(site.g, a.type, axis) * fn("softmax", a, axis=along)


@rule("cumsum", "add_accumulate")
def _cumsum(site: Site) -> Gradients:
    (a,) = site.arguments
    yield a.e, _suffix_sums(site.whole, a.type, site.given.get("axis"))


def _suffix_sums(g: Term, kind: ArrayType, axis: int | None) -> Term:
    if axis is None:
        g, axis = g.reshape(kind.size), 0
    summed = fn("flip", fn("cumsum", fn("flip", g, axis=axis), axis=axis), axis=axis)
    return summed.reshape(*kind.shape)


@rule("cumprod", "multiply_accumulate")
def _cumprod(site: Site) -> Gradients:
    """Σ over i ≥ j of gᵢ yᵢ / aⱼ: NaN where an element is 0."""
    (a,) = site.arguments
    axis = site.given.get("axis")
    yield a.e, _suffix_sums(site.whole * site.y, a.type, axis) / a


@rule("logaddexp_reduce")
def _logaddexp_reduce(site: Site) -> Gradients:
    (a,) = site.arguments
    axis = site.given["axis"]
    yield a.e, spread(site.g, a.type, axis) * fn("softmax", a, axis=axis)


@rule("hypot_reduce")
def _hypot_reduce(site: Site) -> Gradients:
    (a,) = site.arguments
    axis = site.given["axis"]
    yield a.e, spread(site.whole / site.y, a.type, axis) * a


# Order.


@rule("sort")
def _sort(site: Site) -> Gradients:
    (a,) = site.arguments
    axis = site.given["axis"] % a.ndim
    order = fn("argsort", a, axis=axis)
    yield a.e, unsorted(site.whole, order, axis)


def unsorted(g: Term, order: Term, axis: int) -> Term:
    """The gradient by an array of one by its elements in the order `order`."""
    if g.ndim == 1:
        return fn("take", g, fn("argsort", order, axis=0), axis=0)
    last = (*(i for i in range(g.ndim) if i != axis), axis)
    back = tuple(int(i) for i in np.argsort(last))
    n = g.shape[axis]
    hot = fn("one_hot", order.transpose(*last), size=n).cast(g.type.name)
    moved = g.transpose(*last)
    flat = moved.reshape(*moved.shape[:-1], 1, n) @ hot
    return flat.reshape(*moved.shape).transpose(*back)


@rule("diag")
def _diag(site: Site) -> Gradients:
    (a,) = site.arguments
    k, g = site.given["k"], site.whole
    if a.ndim == 1:
        yield a.e, fn("diagonal", g, offset=k)
    else:
        yield a.e, _on_diagonal(g, a.type, k)


@rule("diagonal")
def _diagonal(site: Site) -> Gradients:
    (a,) = site.arguments
    yield a.e, _on_diagonal(site.whole, a.type, site.given["offset"])


def _on_diagonal(g: Term, kind: ArrayType, k: int) -> Term:
    """An array of zeros with g, whose last axis runs along the diagonal of the first two."""
    rows, columns = np.nonzero(np.eye(kind.shape[0], kind.shape[1], k))
    first = g.transpose(g.ndim - 1, *range(g.ndim - 1))
    return fn("put", zeros(kind), first, constant(rows), constant(columns), key=(ARGUMENT,) * 2)


@rule("trace")
def _trace(site: Site) -> Gradients:
    (a,) = site.arguments
    ones = eye(a.type, a.shape[0], a.shape[1], site.given["offset"])
    rest = [1] * (a.ndim - 2)
    yield a.e, site.g * Term(constant(ones.reshape(*ones.shape, *rest)))


@rule("flip")
def _flip(site: Site) -> Gradients:
    yield site.call.arguments[0], fn("flip", site.g, **site.given) if site.g.shape else site.g


FLAT |= dict.fromkeys(
    ("any", "all", "argmax", "argmin", "argsort", "round", "is_null", "one_hot", "hash"),
    "constant between its steps",
)
REFUSED |= {
    "list_item": "a list's items have no gradient; make it a vector column",
}

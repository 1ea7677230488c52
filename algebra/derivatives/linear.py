"""Derivatives of linear algebra (Giles: Collected matrix derivative results, 2008).

Of a function that reads one triangle of a symmetric matrix (`eigh`, `cholesky`) the gradient is
symmetric: that by changes which keep the matrix symmetric.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scalops.algebra.derivatives.rules import (
    FLAT,
    Gradients,
    Site,
    by_definition,
    eye,
    rule,
    spread,
    summed_to,
)
from scalops.algebra.derivatives.terms import Term, dense, fn, where
from scalops.algebra.expressions import Item, constant
from scalops.algebra.functions.table import function


@rule("matmul")
def _matmul(site: Site) -> Gradients:
    a, b = site.arguments
    g = site.whole
    for i, (own, rank) in enumerate(((a, a.ndim), (b, b.ndim))):
        if site.wants(i):
            assert rank
            yield own.e, (_left if i == 0 else _right)(a, b, g)


def _left(a: Term, b: Term, g: Term) -> Term:
    """By a of a @ b."""
    match min(a.ndim, 3), min(b.ndim, 3):
        case 1, 1:
            return g * b
        case 2, 1:
            return fn("outer", g, b)
        case 1, 2:
            return b @ g
        case 2, 2:
            return g @ b.transpose()
        case 1, _:
            return summed_to((b @ g.reshape(*g.shape, 1)).reshape(*b.shape[:-1]),
                             b.shape[:-1], a.shape)  # fmt: skip
        case _, 1:
            made = g.reshape(*g.shape, 1) * b
    made = g @ b.swap_last() if b.ndim > 1 else made
    return summed_to(made, made.shape, a.shape)


def _right(a: Term, b: Term, g: Term) -> Term:
    """By b of a @ b."""
    match min(a.ndim, 3), min(b.ndim, 3):
        case 1, 1:
            return g * a
        case 2, 1:
            return g @ a
        case 1, 2:
            return fn("outer", a, g)
        case 2, 2:
            return a.transpose() @ g
        case _, 1:
            made = g.reshape(*g.shape[:-1], 1, g.shape[-1]) @ a
            made = made.reshape(*made.shape[:-2], made.shape[-1])
            return summed_to(made, made.shape, b.shape)
        case 1, _:
            made = a.reshape(a.shape[0], 1) * g.reshape(*g.shape[:-1], 1, g.shape[-1])
            return summed_to(made, made.shape, b.shape)
    made = a.swap_last() @ g
    return summed_to(made, made.shape, b.shape)


@rule("outer")
def _outer(site: Site) -> Gradients:
    a, b = site.arguments
    g = site.whole
    if site.wants(0):
        yield a.e, _vector(g, b).reshape(*a.shape)
    if site.wants(1):
        other = a if a.type.is_sparse else a.reshape(a.type.size)
        yield b.e, (other @ g).reshape(*b.shape)


def _vector(g: Term, b: Term) -> Term:
    return g @ (b if b.type.is_sparse else b.reshape(b.type.size))


@rule("norm")
def _norm(site: Site) -> Gradients:
    """a / ‖a‖ for the Euclidean norm, NaN at 0; the others by their definitions."""
    (given,) = site.arguments
    a = dense(given)
    order, axis = site.given.get("ord"), site.given.get("axis")
    axes = tuple(range(a.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    euclidean = order is None or order == "fro" or (order == 2 and len(axes) == 1)
    if euclidean:
        yield given.e, spread(site.g / site.y, a.type, axes) * a
        return
    from scalops.algebra.derivatives.reverse import pull_back

    defined = _other_norm(site, a, order, axes).reshape(*site.call.type.shape)
    yield given.e, pull_back([(defined.e, site.whole)], [a.e])[a.e]


def _other_norm(site: Site, a: Term, order: Any, axes: tuple[int, ...]) -> Term:
    size = fn("absolute", a)
    if len(axes) == 1:
        match order:
            case 1:
                return size.sum(axes[0])
            case _ if order == np.inf:
                return fn("max", size, axis=axes[0])
            case _ if order == -np.inf:
                return fn("min", size, axis=axes[0])
            case _ if order:
                powers: Term = (size ** float(order)).sum(axes[0])
                return powers ** (1.0 / float(order))
    elif a.ndim == 2:
        match order:
            case 1 | -1:
                return fn("max" if order == 1 else "min", size.sum(axes[0]))
            case _ if order in (np.inf, -np.inf):
                return fn("max" if order > 0 else "min", size.sum(axes[1]))
            case 2 | -2:
                return fn("max" if order == 2 else "min", fn("svdvals", a))
            case "nuc":
                return fn("svdvals", a).sum()
    raise site.refused(f"the norm of order {order!r}", "write it with np.abs, sums and powers")


@rule("inv")
def _inv(site: Site) -> Gradients:
    turned = site.y.swap_last()
    yield site.call.arguments[0], -(turned @ site.whole @ turned)


@rule("solve")
def _solve(site: Site) -> Gradients:
    a, b = site.arguments
    one = b.ndim == 1
    g, y = site.whole, site.y
    if one:
        g, y = g.reshape(*g.shape, 1), y.reshape(*y.shape, 1)
    back = fn("solve", a.swap_last(), g)
    if site.wants(0):
        made = -(back @ y.swap_last())
        yield a.e, summed_to(made, made.shape, a.shape)
    if site.wants(1):
        back = back.reshape(*back.shape[:-1]) if one else back
        yield b.e, summed_to(back, back.shape, b.shape)


@rule("det")
def _det(site: Site) -> Gradients:
    (a,) = site.arguments
    scale = (site.whole * site.y).reshape(*site.call.type.shape, 1, 1) if a.ndim > 2 else (
        site.whole * site.y
    )  # fmt: skip
    yield a.e, scale * fn("inv", a).swap_last()


@rule("slogdet")
def _slogdet(site: Site) -> Gradients:
    """Of the logarithm; the sign is constant."""
    (a,) = site.arguments
    _, g = site.gradients
    if g is not None:
        scale = g.broadcast_to(a.shape[:-2]).reshape(*a.shape[:-2], 1, 1) if a.ndim > 2 else g
        yield a.e, scale * fn("inv", a).swap_last()


@rule("cholesky")
def _cholesky(site: Site) -> Gradients:
    """L⁻ᵀ Φ(Lᵀ g) L⁻¹, made symmetric; Φ takes the lower triangle, of the diagonal half."""
    (a,) = site.arguments
    lower = site.y
    n = a.shape[-1]
    half = constant(np.tril(np.ones((n, n), a.type.numpy)) - 0.5 * eye(a.type, n))
    inner = (lower.swap_last() @ site.whole) * Term(half)
    inverse = fn("inv", lower)
    yield a.e, _symmetric(inverse.swap_last() @ inner @ inverse)


def _symmetric(a: Term) -> Term:
    return (a + a.swap_last()) * 0.5


def _scaled_columns(matrix: Term, scale: Term) -> Term:
    """matrix @ diag(scale)."""
    return matrix * scale.reshape(*scale.shape[:-1], 1, scale.shape[-1])


@rule("eigh")
def _eigh(site: Site) -> Gradients:
    """V (diag g + F ∘ Vᵀ h) Vᵀ with Fᵢⱼ = 1 / (wⱼ - wᵢ); equal eigenvalues have no mixed part."""
    (a,) = site.arguments
    values, vectors = (Term(Item(site.call, i)) for i in range(2))
    g, h = site.gradients
    n = a.shape[-1]
    inner = None
    if h is not None:
        rows = values.reshape(*values.shape[:-1], n, 1)
        gap = values.reshape(*values.shape[:-1], 1, n) - rows
        mixed = vectors.swap_last() @ h.broadcast_to(a.shape)
        inner = where(gap == 0, 0.0, mixed / where(gap == 0, 1.0, gap))
    if g is not None:
        diagonal = Term(constant(eye(a.type, n))) * g.broadcast_to(values.shape).reshape(
            *values.shape[:-1], n, 1
        )
        inner = diagonal if inner is None else inner + diagonal
    assert inner is not None
    yield a.e, _symmetric(vectors @ inner @ vectors.swap_last())


@rule("eigvalsh")
def _eigvalsh(site: Site) -> Gradients:
    (a,) = site.arguments
    vectors = Term(Item(fn("eigh", a).e, 1))
    yield a.e, _scaled_columns(vectors, site.whole) @ vectors.swap_last()


@rule("svdvals")
def _svdvals(site: Site) -> Gradients:
    (a,) = site.arguments
    yield a.e, _of_singular_values(a, site.whole)


def _of_singular_values(a: Term, g: Term) -> Term:
    made = fn("svd", a, full_matrices=False).e
    left, right = Term(Item(made, 0)), Term(Item(made, 2))
    return _scaled_columns(left, g) @ right


@rule("svd")
def _svd(site: Site) -> Gradients:
    (a,) = site.arguments
    left, values, right = site.gradients
    if left is not None or right is not None:
        raise site.refused(
            "singular vectors", "take them from np.linalg.eigh(a.T @ a), where that will do"
        )
    if values is not None:
        yield a.e, _of_singular_values(a, values.broadcast_to(site_values(a)))


def site_values(a: Term) -> tuple[int, ...]:
    """The shape of a matrix' singular values."""
    return (*a.shape[:-2], min(a.shape[-2:]))


@rule("qr")
def _qr(site: Site) -> Gradients:
    """(gQ + Q sym(M)) R⁻ᵀ with M = R gRᵀ - gQᵀ Q, whose lower triangle is mirrored."""
    (a,) = site.arguments
    rows, columns = a.shape[-2:]
    if rows < columns:
        raise site.refused("qr of a matrix with more columns than rows", "take that of its square")
    q, r = (Term(Item(site.call, i)) for i in range(2))
    of_q, of_r = site.gradients
    lead = a.shape[:-2]
    inner = None
    if of_r is not None:
        inner = r @ of_r.broadcast_to((*lead, columns, columns)).swap_last()
    if of_q is not None:
        of_q = of_q.broadcast_to((*lead, rows, columns))
        less = of_q.swap_last() @ q
        inner = -less if inner is None else inner - less
    assert inner is not None
    mirrored = fn("tril", inner, k=0) + fn("tril", inner, k=-1).swap_last()
    made = q @ mirrored if of_q is None else of_q + q @ mirrored
    yield a.e, fn("solve", r, made.swap_last()).swap_last()


@by_definition("pinv")
def _pinv(a: Term) -> Term:
    """Of a matrix of full rank."""
    turned = a.swap_last()
    if a.shape[-2] >= a.shape[-1]:
        return fn("inv", turned @ a) @ turned
    return turned @ fn("inv", a @ turned)


@by_definition("matrix_power")
def _matrix_power(a: Term, n: int) -> Term:
    base = fn("inv", a) if n < 0 else a
    made: Term | None = None
    for bit in bin(abs(n))[2:]:  # by squaring, the highest bit first
        made = None if made is None else made @ made
        if bit == "1":
            made = base if made is None else made @ base
    return a * 0.0 + Term(constant(eye(a.type, a.shape[-1]))) if made is None else made


@by_definition("stored")
def _stored(x: Term, ufunc: str, constant: Any, side: int) -> Term:
    """A function of a sparse vector and a number, as one of a dense one."""
    whole = dense(x)
    name = function(ufunc).name
    return fn(name, whole, constant) if side == 0 else fn(name, constant, whole)


@by_definition("squared_distances")
def _squared_distances(x: Term, c: Term, form: str = "") -> Term:
    apart = x - c
    return (apart * apart).sum(c.ndim - 1)


@by_definition("weighted_squared_distances")
def _weighted(x: Term, c: Term, a: Term, weight: str = "times", form: str = "") -> Term:
    apart, by_weight = x - c, a
    if weight.endswith("squared"):
        by_weight = a * a
    square = apart * apart
    scaled = square * by_weight if weight.startswith("times") else square / by_weight
    return scaled.sum(c.ndim - 1)


@rule("sparse_vector")
def _sparse_vector(site: Site) -> Gradients:
    indices, values = site.arguments
    if not (indices.type.is_plain and values.type.is_plain):
        raise site.refused("so.sparse_vector of lists", "give it vectors of a fixed length")
    yield values.e, fn("take", site.whole, indices, axis=0)


FLAT |= dict.fromkeys(("matrix_rank", "nearest", "weighted_nearest"), "constant between its steps")
FLAT |= dict.fromkeys(
    ("hashed_counts", "list_length", "random_bits", "random_uniform", "random_normal",
     "random_integers", "random_integer_bits", "random_within"),
    "of whole numbers or texts",
)  # fmt: skip
FLAT |= dict.fromkeys(
    ("str_lower", "str_upper", "str_strip", "str_length", "str_split", "str_contains",
     "str_is_in", "str_replace", "str_concatenate"),
    "of texts",
)  # fmt: skip

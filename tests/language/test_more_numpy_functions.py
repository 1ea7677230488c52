"""More of NumPy's functions on Values and on records: NumPy's own answer is the witness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import special

import scalops as so
from scalops.numpy_functions import MORE_FUNCTIONS
from tests.language.test_numpy_functions import (
    ROWS,
    check,
    numbers,
    over_records,
)
from tests.language.witness import assert_same, records, value

V, M, T = (4,), (3, 4), (2, 3, 4)
BINS = np.array([0.2, 0.4, 0.7])
Case = tuple[Callable[..., Any], tuple[tuple[int, ...], ...]]
CASES: dict[str, Case] = {
    "ptp": (np.ptp, (V,)),
    "ptp, axis": (lambda a: np.ptp(a, axis=1), (M,)),
    "count_nonzero": (lambda a: np.count_nonzero(a > 0.5), (M,)),
    "count_nonzero, axis": (lambda a: np.count_nonzero(a > 0.5, axis=0), (M,)),
    "median": (np.median, (M,)),
    "median, axis": (lambda a: np.median(a, axis=-1, keepdims=True), (M,)),
    "quantile": (lambda a: np.quantile(a, 0.3), (V,)),
    "quantiles, axis": (lambda a: np.quantile(a, [0.1, 0.5], axis=1), (M,)),
    "quantiles, axes": (lambda a: np.quantile(a, [0.1, 0.5], axis=(0, 2), keepdims=True), (T,)),
    "percentile": (lambda a: np.percentile(a, 30, method="lower"), (V,)),
    "average": (np.average, (M,)),
    "average, weights": (lambda a, w: np.average(a, weights=w), (V, V)),
    "average, weights of an axis": (lambda a, w: np.average(a, axis=0, weights=w), (M, (3,))),
    "nansum": (lambda a: np.nansum(np.where(a > 0.5, a, np.nan), axis=0), (M,)),
    "nanprod": (lambda a: np.nanprod(np.where(a > 0.5, a, np.nan)), (M,)),
    "nanmean": (lambda a: np.nanmean(np.where(a > 0.3, a, np.nan)), (M,)),
    "nanmin": (lambda a: np.nanmin(np.where(a > 0.3, a, np.nan)), (M,)),
    "nanmax": (lambda a: np.nanmax(np.where(a < 0.6, a, np.nan)), (M,)),
    "nanmedian": (lambda a: np.nanmedian(np.where(a > 0.3, a, np.nan)), (M,)),
    "tile": (lambda a: np.tile(a, 3), (V,)),
    "tile to more axes": (lambda a: np.tile(a, (2, 1, 3)), (M,)),
    "tile fewer axes": (lambda a: np.tile(a, 2), (M,)),
    "repeat": (lambda a: np.repeat(a, 2), (M,)),
    "repeat, axis": (lambda a: np.repeat(a, [1, 0, 2], axis=0), (M,)),
    "roll": (lambda a: np.roll(a, 2), (M,)),
    "roll, axis": (lambda a: np.roll(a, -1, axis=1), (M,)),
    "roll, axes": (lambda a: np.roll(a, (1, 2), axis=(0, 1)), (M,)),
    "diff": (np.diff, (V,)),
    "diff, twice": (lambda a: np.diff(a, n=2, axis=0), (M,)),
    "tril": (lambda a: np.tril(a, -1), (M,)),
    "triu": (np.triu, (T,)),
    "moveaxis": (lambda a: np.moveaxis(a, 0, -1), (T,)),
    "moveaxes": (lambda a: np.moveaxis(a, [0, 1], [2, 0]), (T,)),
    "atleast_1d": (np.atleast_1d, ((),)),
    "atleast_2d": (np.atleast_2d, (V,)),
    "atleast_3d": (np.atleast_3d, (M,)),
    "column_stack": (lambda a, b: np.column_stack([a, b]), ((3,), M)),
    "dstack": (lambda a, b: np.dstack([a, b]), (M, M)),
    "append": (np.append, (V, M)),
    "append, axis": (lambda a, b: np.append(a, b, axis=0), (M, M)),
    "split": (lambda a: np.split(a, 2, axis=1)[1], (M,)),
    "split at": (lambda a: np.split(a, [1, 3])[1], (V,)),
    "flipud": (np.flipud, (M,)),
    "fliplr": (np.fliplr, (M,)),
    "isclose": (lambda a, b: np.isclose(a, b, atol=0.2), (M, V)),
    "allclose": (lambda a, b: np.allclose(a, b, 0.1, 0.6), (V, V)),
    "array_equal": (np.array_equal, (V, V)),
    "array_equal, other shapes": (lambda a: np.array_equal(a, a), (V,)),
    "isin": (lambda a: np.isin(np.round(a, 1), [0.1, 0.5]), (M,)),
    "isin, inverted": (lambda a: np.isin(np.round(a), [1.0], invert=True), (M,)),
    "select": (lambda a: np.select([a < 0.3, a < 0.6], [a, -a], 9.0), (M,)),
    "interp": (lambda x: np.interp(x, BINS, [1.0, 5.0, 2.0]), (M,)),
    "interp, own points": (lambda x, y: np.interp(x, np.sort(y), y), (V, V)),
    "searchsorted": (lambda a: np.searchsorted(BINS, a, side="right"), (M,)),
    "searchsorted in a record": (lambda a, v: np.searchsorted(np.sort(a), v), (V, ())),
    "digitize": (lambda a: np.digitize(a, BINS), (M,)),
    "kron": (np.kron, (M, (2, 2))),
    "cross": (np.cross, ((3,), (3,))),
    "cross, many": (np.cross, ((4, 3), (3,))),
    "einsum": (lambda a, b: np.einsum("ij,kj->ik", a, b), (M, M)),
    "einsum, implicit": (lambda a, b: np.einsum("ij, j", a, b), (M, V)),
    "einsum, trace": (lambda a: np.einsum("ii", a), ((3, 3),)),
    "multi_dot": (lambda a, b: np.linalg.multi_dot([a, b.T, a]), (M, M)),
    "matrix_power": (lambda a: np.linalg.matrix_power(a, 3), ((3, 3),)),
    "matrix_power, inverse": (
        lambda a: np.linalg.matrix_power(a + 3 * np.eye(3), -2),
        ((3, 3),),
    ),
    "pinv": (np.linalg.pinv, (M,)),
    "eigvalsh": (lambda a: np.linalg.eigvalsh(a + a.T), ((3, 3),)),
    "matrix_rank": (np.linalg.matrix_rank, (M,)),
    "svdvals": (np.linalg.svdvals, (M,)),
    "svd, values": (lambda a: np.linalg.svd(a, compute_uv=False), (M,)),
    "svd": (lambda a: _rebuilt(np.linalg.svd(a, full_matrices=False)), (M,)),
    "svd, full": (lambda a: np.abs(np.linalg.svd(a).Vh), (M,)),
    "qr": (lambda a: np.linalg.qr(a).Q @ np.linalg.qr(a).R, (M,)),
    "accumulate": (np.maximum.accumulate, (V,)),
    "accumulate, axis": (lambda a: np.logaddexp.accumulate(a, axis=1), (M,)),
    "reduce": (np.logaddexp.reduce, (V,)),
    "reduce, axis": (lambda a: np.hypot.reduce(a, axis=1, keepdims=True), (M,)),
    "reduce of one axis, all": (lambda a: np.logaddexp.reduce(a, axis=None), (V,)),
    "sort": (lambda a: np.sort(a, axis=0), (M,)),
    "argsort": (np.argsort, (M,)),
    "flip, axis": (lambda a: np.flip(a, axis=1), (M,)),
    "flip": (np.flip, (M,)),
}  # fmt: skip


def _rebuilt(parts: Any) -> Any:
    u, s, vh = parts
    return (u * s) @ vh


@pytest.mark.parametrize("name", CASES)
def test_a_function_is_numpys(name: str) -> None:
    function, shapes = CASES[name]
    check(function, *shapes)


@pytest.mark.parametrize("name", ["median", "tile", "diff", "einsum", "sort", "cross", "roll"])
@pytest.mark.parametrize("dtype", ["float32", "int64", "int8"])
def test_a_function_is_numpys_for_other_types(name: str, dtype: str) -> None:
    function, shapes = CASES[name]
    check(function, *shapes, dtype=dtype)


def test_every_function_is_tested() -> None:
    tested = {n.partition(",")[0].split()[0] for n in CASES}
    assert {f.__name__ for f in MORE_FUNCTIONS} <= tested


@pytest.mark.parametrize(
    "ufunc",
    [special.erf, special.gammaln, special.expit, special.logit, special.xlogy, special.ndtri],
    ids=lambda u: u.__name__,
)
def test_scipys_universal_functions_are_scipys(ufunc: np.ufunc) -> None:
    check(ufunc, *([V] * ufunc.nin))


# Softmax, logsumexp: SciPy is the witness.

SOFT: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "softmax": (so.softmax, lambda a: special.softmax(a, axis=-1)),
    "softmax, axis": (lambda a: so.softmax(a, axis=0), lambda a: special.softmax(a, axis=0)),
    "softmax of all": (lambda a: so.softmax(a, axis=None), special.softmax),
    "logsumexp": (so.logsumexp, special.logsumexp),
    "logsumexp, axis": (
        lambda a: so.logsumexp(a, axis=1, keepdims=True),
        lambda a: special.logsumexp(a, axis=1, keepdims=True),
    ),
}


@pytest.mark.parametrize("name", SOFT)
@pytest.mark.parametrize("dtype", ["float64", "float32", "int64"])
def test_softmax_and_logsumexp_are_scipys(name: str, dtype: str) -> None:
    ours, theirs = SOFT[name]
    arrays = numbers(dtype, ROWS, *M)
    table = so.table({"a": arrays})
    expected = over_records(theirs, [arrays])
    if dtype == "float32":  # SciPy keeps it for softmax and not for logsumexp
        expected = expected.astype(np.float32)
    assert_same(records(table.map(lambda r: ours(r.a))), expected)
    assert_same(ours(value(arrays[0])).collect(), expected[0])
    assert_same(ours(arrays[0]), expected[0])


def test_softmax_and_logsumexp_bear_large_and_infinite_numbers() -> None:
    inf = np.inf
    arrays = np.array([[1e4, 1e4, -1e4], [-inf, -inf, -inf], [inf, 0, 1], [np.nan, 0, 1]])
    table = so.table({"a": arrays})
    with np.errstate(all="ignore"):
        assert_same(
            records(table.map(lambda r: so.logsumexp(r.a))), special.logsumexp(arrays, axis=1)
        )
        assert_same(records(table.map(lambda r: so.softmax(r.a))), special.softmax(arrays, axis=1))


# Parameters.


def test_what_shapes_depend_on_must_be_known() -> None:
    n = so.table({"a": [1]}).count()
    for program in (
        lambda: np.tile(n, n),
        lambda: np.repeat(so.lit(BINS), n),
        lambda: np.quantile(so.lit(BINS), n),
    ):
        with pytest.raises(so.TraceError, match="must be known when the plan is written"):
            program()


def test_wrong_arguments_are_refused() -> None:
    v = so.lit(np.ones((2, 3)))
    with pytest.raises(so.TraceError, match="qr with these arguments"):
        np.linalg.qr(v, mode="r")
    with pytest.raises(so.TraceError, match="matrix_power needs a square matrix"):
        np.linalg.matrix_power(v, 2)
    with pytest.raises(so.TraceError, match="without an ellipsis"):
        np.einsum("...i->...", v)
    with pytest.raises(so.TraceError, match=r"add\.reduceat"):
        np.add.reduceat(v, [0, 1])

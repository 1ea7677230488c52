"""More of NumPy's functions on Values: those that rearrange, order, compare and decompose."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from scalops.algebra.errors import TraceError, user_location
from scalops.algebra.expressions import call
from scalops.algebra.functions import arrangements, decompositions, strings
from scalops.value import Value, apply, expression_of, holds_value, results


def _value(x: Any) -> Value:
    return Value(expression_of(x, "an argument"))


def _axis(axis: Any, ndim: int) -> Any:
    from scalops.numpy_protocol import positive_axis

    return positive_axis(axis, ndim)


def _known(what: str, value: Any) -> Any:
    """A parameter that makes shapes or plans, and so is no Value: ints, floats, tuples of them."""
    if holds_value(value):
        raise TraceError(
            f"{what} must be known when the plan is written, and is a Value",
            location=user_location(),
            hint="give a Python number",
        )
    if isinstance(value, (list, tuple, np.ndarray)):
        return tuple(_known(what, v) for v in value)
    return value.item() if isinstance(value, np.generic) else value


def _fold(entry: Any) -> Callable[..., Value]:
    def adapter(a: Any, axis: Any = None, *, keepdims: bool = False) -> Value:
        value = _value(a)
        return apply(entry, value, axis=_axis(axis, value.ndim), keepdims=bool(keepdims))

    return adapter


def _quantile(scale: float) -> Callable[..., Value]:
    def adapter(
        a: Any, q: Any, axis: Any = None, *, method: str = "linear", keepdims: bool = False
    ) -> Value:
        value = _value(a)
        given = _known("q", q)
        q = tuple(v / scale for v in given) if isinstance(given, tuple) else given / scale
        axes = _axis(axis, value.ndim)
        return apply(
            arrangements.QUANTILE, value, q=q, axis=axes, method=method, keepdims=bool(keepdims)
        )

    return adapter


def _average(a: Any, axis: Any = None, weights: Any = None, *, keepdims: bool = False) -> Any:
    value = _value(a)
    if weights is None:
        return np.mean(value, axis=axis, keepdims=keepdims)
    weight = _value(weights)
    if weight.shape != value.shape:
        if not isinstance(axis, int) or weight.shape != (value.shape[axis],):
            raise TraceError(
                f"average's weights are {weight.type}; its array is {value.type}",
                location=user_location(),
            )
        ones = [1] * (value.ndim - 1 - axis % value.ndim)
        weight = weight.reshape(len(weight), *ones)
    scale = np.sum(np.broadcast_to(weight, value.shape), axis=axis, keepdims=keepdims)
    return np.sum(value * weight, axis=axis, keepdims=keepdims) / scale


# Arrangements.


def _tile(a: Any, reps: Any) -> Value:
    given = _known("the number of repetitions", reps)
    return apply(arrangements.TILE, a, reps=given if isinstance(given, tuple) else (given,))


def _repeat(a: Any, repeats: Any, axis: Any = None) -> Value:
    value = _value(a)
    if axis is None:
        value, axis = value.ravel(), 0
    times = _known("the number of repetitions", repeats)
    return apply(arrangements.REPEAT, value, repeats=times, axis=_axis(axis, value.ndim))


def _roll(a: Any, shift: Any, axis: Any = None) -> Value:
    value = _value(a)
    steps = _known("the number of places", shift)
    if axis is None:
        flat = apply(arrangements.ROLL, value.ravel(), shift=steps, axis=0)
        return flat.reshape(value.shape)
    return apply(arrangements.ROLL, value, shift=steps, axis=_axis(axis, value.ndim))


def _diff(a: Any, n: int = 1, axis: int = -1) -> Value:
    value = _value(a)
    return apply(arrangements.DIFF, value, n=_known("n", n), axis=_axis(axis, value.ndim))


def _triangle(entry: Any) -> Callable[..., Value]:
    return lambda m, k=0: apply(entry, m, k=_known("k", k))


def _moveaxis(a: Any, source: Any, destination: Any) -> Value:
    value = _value(a)
    # NumPy's own order, by an array whose axes are told by their lengths.
    example = np.broadcast_to(np.empty(()), tuple(range(1, 1 + value.ndim)))
    order = np.moveaxis(example, source, destination).shape
    return value.transpose(*(s - 1 for s in order)) if value.ndim else value


def _at_least(ndim: int) -> Callable[..., Any]:
    def adapter(*arrays: Any) -> Any:
        made = []
        for array in arrays:
            value = _value(array)
            example = np.broadcast_to(np.empty(()), value.shape)
            to = (np.atleast_1d, np.atleast_2d, np.atleast_3d)[ndim - 1]
            made.append(value.reshape(to(example).shape))
        return made[0] if len(made) == 1 else tuple(made)

    return adapter


def _column_stack(items: Any) -> Any:
    values = [_value(v) for v in items]
    columns = [v.reshape(v.size, 1) if v.ndim < 2 else v for v in values]
    return np.concatenate(columns, axis=1)


def _dstack(items: Any) -> Any:
    lifted = _at_least(3)(*items)
    return np.concatenate(lifted if isinstance(lifted, tuple) else (lifted,), axis=2)


def _append(a: Any, values: Any, axis: Any = None) -> Any:
    if axis is None:
        return np.concatenate([_value(a).ravel(), _value(values).ravel()])
    return np.concatenate([_value(a), _value(values)], axis=axis)


def _split(a: Any, parts: Any, axis: int = 0) -> list[Value]:
    value = _value(a)
    at = _axis(axis, value.ndim)
    places = np.split(np.arange(value.shape[at]), _known("where to split", parts))
    before = (slice(None),) * at
    return [value[(*before, slice(int(p[0]), int(p[-1]) + 1))] if len(p) else
            value[(*before, slice(0, 0))] for p in places]  # fmt: skip


def _flipped(axis: int) -> Callable[[Any], Any]:
    return lambda m: np.flip(_value(m), axis)


# Comparisons and choices.


def _isclose(
    a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Value:
    given = {"rtol": _known("rtol", rtol), "atol": _known("atol", atol), "equal_nan": equal_nan}
    return apply(arrangements.ISCLOSE, a, b, **given)


def _allclose(a: Any, b: Any, *args: Any, **kwargs: Any) -> Any:
    return np.all(_isclose(a, b, *args, **kwargs))


def _array_equal(a1: Any, a2: Any) -> Any:
    left, right = _value(a1), _value(a2)
    if left.shape != right.shape:
        return np.bool_(False)
    return np.all(left == right)


def _isin(element: Any, test_elements: Any, *, invert: bool = False) -> Any:
    if isinstance(element, Value) and element.type.is_string and not element.shape:
        found = apply(strings.IS_IN, element, items=_known_strings(test_elements))
        return ~found if invert else found
    value, tests = _value(element), _value(test_elements).ravel()
    found = np.any(value.reshape(*value.shape, 1) == tests, axis=-1)
    return ~found if invert else found


def _known_strings(given: Any) -> tuple[str, ...]:
    items = given.ravel().tolist() if isinstance(given, np.ndarray) else given
    plain = isinstance(items, (list, tuple)) and all(isinstance(i, str) for i in items)
    if not plain:
        raise TraceError(
            f"isin of a string needs a list of Python strings; it got {given!r}",
            location=user_location(),
            hint="write it as (s == a) | (s == b) where they are Values; so.is_null finds nulls",
        )
    return tuple(str(i) for i in items)


def _select(condlist: Any, choicelist: Any, default: Any = 0) -> Any:
    if len(condlist) != len(choicelist) or not len(condlist):
        raise TraceError("select needs a choice for each condition", location=user_location())
    made = default
    for condition, choice in zip(reversed(condlist), reversed(choicelist), strict=True):
        made = np.where(condition, choice, made)
    return made


def _interp(x: Any, xp: Any, fp: Any) -> Value:
    return apply(arrangements.INTERP, x, xp, fp)


def _searchsorted(a: Any, v: Any, side: str = "left") -> Value:
    return apply(arrangements.SEARCHSORTED, a, v, side=side)


def _digitize(x: Any, bins: Any, right: bool = False) -> Value:
    return apply(arrangements.DIGITIZE, x, bins, right=bool(right))


# Products and decompositions.


def _einsum(subscripts: Any, *operands: Any) -> Value:
    if not isinstance(subscripts, str) or "." in subscripts:
        raise TraceError(
            "einsum needs its subscripts as text, without an ellipsis", location=user_location()
        )
    text = subscripts.replace(" ", "")
    if "->" not in text:  # letters that occur once, in their order
        letters = text.replace(",", "")
        text += "->" + "".join(sorted(c for c in letters if letters.count(c) == 1))
    return apply(arrangements.EINSUM, *operands, subscripts=text)


def _multi_dot(arrays: Any) -> Any:
    return reduce(operator.matmul, [_value(a) for a in arrays])


def _matrix(entry: Any, **fixed: Any) -> Callable[..., Any]:
    def adapter(a: Any) -> Any:
        return results(call(entry, expression_of(a, "a matrix"), location=user_location(), **fixed))

    return adapter


def _qr(a: Any, mode: str = "reduced") -> Any:
    if mode != "reduced":
        raise TypeError("unexpected keyword argument 'mode'")
    return np.linalg._linalg.QRResult(*_matrix(decompositions.QR)(a))


def _svd(a: Any, full_matrices: bool = True, compute_uv: bool = True) -> Any:
    if not compute_uv:
        return _matrix(decompositions.SVDVALS)(a)
    made = _matrix(decompositions.SVD, full_matrices=bool(full_matrices))(a)
    return np.linalg._linalg.SVDResult(*made)


def _matrix_power(a: Any, n: Any) -> Value:
    return apply(decompositions.MATRIX_POWER, a, n=operator.index(_known("the power", n)))


MORE_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.ptp: _fold(arrangements.PTP),
    np.count_nonzero: _fold(arrangements.COUNT_NONZERO),
    np.median: _fold(arrangements.MEDIAN),
    np.nansum: _fold(arrangements.NANSUM),
    np.nanprod: _fold(arrangements.NANPROD),
    np.nanmean: _fold(arrangements.NANMEAN),
    np.nanmin: _fold(arrangements.NANMIN),
    np.nanmax: _fold(arrangements.NANMAX),
    np.nanmedian: _fold(arrangements.NANMEDIAN),
    np.quantile: _quantile(1.0),
    np.percentile: _quantile(100.0),
    np.average: _average,
    np.tile: _tile,
    np.repeat: _repeat,
    np.roll: _roll,
    np.diff: _diff,
    np.tril: _triangle(arrangements.TRIL),
    np.triu: _triangle(arrangements.TRIU),
    np.moveaxis: _moveaxis,
    np.atleast_1d: _at_least(1),
    np.atleast_2d: _at_least(2),
    np.atleast_3d: _at_least(3),
    np.column_stack: _column_stack,
    np.dstack: _dstack,
    np.append: _append,
    np.split: _split,
    np.flipud: _flipped(0),
    np.fliplr: _flipped(1),
    np.isclose: _isclose,
    np.allclose: _allclose,
    np.array_equal: _array_equal,
    np.isin: _isin,
    np.select: _select,
    np.interp: _interp,
    np.searchsorted: _searchsorted,
    np.digitize: _digitize,
    np.kron: lambda a, b: apply(arrangements.KRON, a, b),
    np.cross: lambda a, b: apply(arrangements.CROSS, a, b),
    np.einsum: _einsum,
    np.linalg.multi_dot: _multi_dot,
    np.linalg.matrix_power: _matrix_power,
    np.linalg.pinv: _matrix(decompositions.PINV),
    np.linalg.eigvalsh: _matrix(decompositions.EIGVALSH),
    np.linalg.matrix_rank: _matrix(decompositions.MATRIX_RANK),
    np.linalg.svdvals: _matrix(decompositions.SVDVALS),
    np.linalg.svd: _svd,
    np.linalg.qr: _qr,
}

"""NumPy's functions applied to Values: which entry of the function table each of them is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from scalops.algebra.errors import TraceError, user_location
from scalops.algebra.expressions import call, constant
from scalops.algebra.functions import (
    arrangements,
    arrays,
    elementwise,
    function,
    linear,
    lists,
    ufunc_function,
)
from scalops.algebra.sparse_calls import elementwise_call
from scalops.numpy_functions import MORE_FUNCTIONS
from scalops.strings import METHODS as STRING_METHODS
from scalops.tracing import refuse
from scalops.value import Value, apply, expression_of, for_strings, results

_REDUCTIONS = {
    np.add: arrays.SUM, np.multiply: arrays.PROD, np.maximum: arrays.MAX, np.minimum: arrays.MIN,
    np.logical_and: arrays.ALL, np.logical_or: arrays.ANY,
}  # fmt: skip


def _unsupported(what: str) -> NoReturn:
    hint = "write it with other NumPy functions"
    refuse(what, hint)
    raise TraceError(f"{what} is not in the function table", location=user_location(), hint=hint)


def ufunc_call(
    ufunc: np.ufunc, method: str, inputs: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """A universal function with a Value among its inputs."""
    if "out" in kwargs:
        raise TraceError(
            f"{ufunc.__name__} cannot write a Value into an array (out=, or += on an array)",
            location=user_location(),
            hint="write a = a + v",
        )
    if method == "reduce" and ufunc in _REDUCTIONS:
        axis = kwargs.pop("axis", 0)
        keepdims = bool(kwargs.pop("keepdims", False))
        if not kwargs and len(inputs) == 1:
            value = Value(expression_of(inputs[0], ufunc.__name__))
            axes = positive_axis(axis, value.ndim)
            return apply(_REDUCTIONS[ufunc], value, axis=axes, keepdims=keepdims)
    if method in ("accumulate", "reduce") and len(inputs) == 1:
        return _along(ufunc, method, inputs[0], **kwargs)
    if method == "outer" and not kwargs and len(inputs) == 2:
        left, right = (Value(expression_of(v, ufunc.__name__)) for v in inputs)
        return ufunc(left.reshape(*left.shape, *[1] * right.ndim), right)
    if method != "__call__" or kwargs:
        _unsupported(f"np.{ufunc.__name__}.{method} with {sorted(kwargs)}")
    if ufunc in (np.matmul, np.vecdot):
        return apply(linear.MATMUL, *inputs)
    if ufunc.signature is not None:
        _unsupported(f"np.{ufunc.__name__}")
    arguments = [expression_of(v, f"an argument of np.{ufunc.__name__}") for v in inputs]
    entry = for_strings(ufunc_function(ufunc), *arguments)
    return results(elementwise_call(entry, *arguments, location=user_location()))


def _along(
    ufunc: np.ufunc, method: str, array: Any, axis: Any = 0, keepdims: Any = False, **more: Any
) -> Value:
    value = Value(expression_of(array, ufunc.__name__))
    axis = value.ndim - 1 if axis is None and value.ndim < 2 else axis
    if more or not isinstance(axis, int) or ufunc.nin != 2 or ufunc.nout != 1:
        _unsupported(f"np.{ufunc.__name__}.{method} with {sorted(more) or f'axis={axis!r}'}")
    given = {"keepdims": True} if keepdims else {}
    entry = arrangements.ufunc_method(ufunc, method)
    return apply(entry, value, axis=positive_axis(axis, value.ndim), **given)


def function_call(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A NumPy function with a Value among its arguments."""
    adapter = _FUNCTIONS.get(func) or MORE_FUNCTIONS.get(func)
    name = getattr(func, "__name__", "function")
    if adapter is None:
        _unsupported(f"np.{name}")
    try:
        return adapter(*args, **kwargs)
    except TypeError as error:
        if "unexpected keyword" not in str(error) and "positional argument" not in str(error):
            raise
        _unsupported(f"np.{name} with these arguments")


def positive_axis(axis: Any, ndim: int) -> Any:
    """Axes counted from the front, so that a block axis can be put before them."""
    if axis is None:
        return None
    axes = axis if isinstance(axis, tuple) else (axis,)
    for a in axes:
        if not isinstance(a, (int, np.integer)):
            raise TraceError(
                f"axis is a {type(a).__name__}; expected an int, a tuple of ints or None",
                location=user_location(),
            )
        if not -ndim <= a < ndim:
            raise TraceError(
                f"axis {a} is out of bounds for an array of {ndim} axes", location=user_location()
            )
    positive = tuple(a % ndim for a in axes)
    return positive if isinstance(axis, tuple) else positive[0]


def index(value: Value, key: Any) -> Value:
    """NumPy's basic indexing; of the first axis also by an integer Value or array.

    Beside a Value of one integer others may follow it.
    """
    keys = key if isinstance(key, tuple) else (key,)
    if value.type.is_list:
        return _list_item(value, key)
    indexes = any(k is not None and k is not Ellipsis for k in keys)
    if value.type.is_string and not value.shape and indexes:
        raise TraceError(
            "a string cannot be indexed or sliced in an expression",
            location=user_location(),
            hint="so.udf(f) runs the function as it is, on Python strings;"
            f" `.str` has {STRING_METHODS}",
        )
    if len(keys) == 1 and isinstance(keys[0], (Value, np.ndarray, list)):
        indices = expression_of(keys[0], "an index")
        if indices.type.name == "bool":
            _unsupported("a boolean mask, whose result has no fixed shape")
        taken = call(arrays.TAKE, value.expression, indices, axis=0, location=user_location())
        return Value(taken)
    if keys and _is_integer(keys[0]) and value.ndim and not any(map(_is_lookup, keys[1:])):
        return index(index(value, keys[0]), keys[1:])  # P[u, 0] is P[u][0]
    plain: list[Any] = []
    for k in keys:
        if isinstance(k, slice):
            parts = (k.start, k.stop, k.step)
            if any(isinstance(p, Value) for p in parts):
                _unsupported("a slice with Values as bounds, whose size is not known")
            plain.append(("slice", *(None if p is None else int(p) for p in parts)))
        elif k is None or k is Ellipsis:
            plain.append(k)
        elif isinstance(k, (int, np.integer)) and not isinstance(k, bool):
            plain.append(int(k))
        elif isinstance(k, Value):
            _unsupported("an index that is a Value together with others")
        else:
            _unsupported(f"an index of type {type(k).__name__}")
    return apply(arrays.INDEX, value, key=_without_ellipsis(tuple(plain), value.ndim))


def _is_integer(key: Any) -> bool:
    return isinstance(key, Value) and not key.shape and key.dtype.kind in "iu"


def _is_lookup(key: Any) -> bool:
    return isinstance(key, (Value, np.ndarray, list))


def _list_item(value: Value, key: Any) -> Value:
    if isinstance(key, (tuple, slice)) or key is None or key is Ellipsis:
        raise TraceError(
            f"a list is indexed by one integer, not by {key!r}",
            location=user_location(),
            hint="explode makes its items rows; so.udf(f) gets it as a Python list",
        )
    return apply(lists.ITEM, value, key)


def _without_ellipsis(key: tuple[Any, ...], ndim: int) -> tuple[Any, ...]:
    used = sum(1 for k in key if k is not None and k is not Ellipsis)
    fill = (("slice", None, None, None),) * max(0, ndim - used)
    if Ellipsis not in [k for k in key if not isinstance(k, tuple)]:
        return key
    at = next(i for i, k in enumerate(key) if k is Ellipsis)
    return (*key[:at], *fill, *key[at + 1 :])


def _value(x: Any) -> Value:
    return Value(expression_of(x, "an argument"))


def _dot(a: Any, b: Any) -> Value:
    left, right = _value(a), _value(b)
    if left.ndim == 0 or right.ndim == 0:
        product: Value = np.multiply(left, right)  # type: ignore[assignment]
        return product
    return apply(linear.MATMUL, left, right)


def _fold(entry: Any) -> Callable[..., Value]:
    own = {"ddof"} if entry in (arrays.VAR, arrays.STD) else set()

    def adapter(a: Any, axis: Any = None, *, keepdims: bool = False, **more: Any) -> Value:
        if more.keys() - own:
            _unsupported(f"np.{entry.name} with {sorted(more.keys() - own)}")
        value = _value(a)
        axes = positive_axis(axis, value.ndim)
        return apply(entry, value, axis=axes, keepdims=bool(keepdims), **more)

    return adapter


def _joined(entry: Any, extra_axis: int) -> Callable[..., Value]:
    def adapter(items: Any, axis: int = 0) -> Value:
        values = [_value(v) for v in items]
        if axis is None:  # np.concatenate alone takes it
            values, axis = [v.ravel() for v in values], 0
        return apply(entry, *values, axis=positive_axis(axis, values[0].ndim + extra_axis))

    return adapter


def _hstack(items: Any) -> Value:
    values = [_at_least(_value(v), 1) for v in items]
    return _joined(arrays.CONCATENATE, 0)(values, 0 if values[0].ndim == 1 else 1)


def _vstack(items: Any) -> Value:
    return _joined(arrays.CONCATENATE, 0)([_at_least(_value(v), 2) for v in items], 0)


def _at_least(value: Value, ndim: int) -> Value:
    """With axes of length 1 in front, as numpy.atleast_1d and atleast_2d."""
    if value.ndim >= ndim:
        return value
    return value.reshape(*[1] * (ndim - value.ndim), *value.shape)


def _take(a: Any, indices: Any, axis: Any = None) -> Value:
    value = _value(a)
    if axis is None:
        return apply(arrays.TAKE, value.ravel(), indices, axis=0)
    return apply(arrays.TAKE, value, indices, axis=positive_axis(axis, value.ndim))


def _clip(a: Any, a_min: Any = None, a_max: Any = None, min: Any = None, max: Any = None) -> Any:
    low = a_min if min is None else min
    high = a_max if max is None else max
    kind = _value(a).type
    if kind.is_plain and kind.numpy.kind in "iu":
        # As NumPy: a bound that a small integer type cannot hold is none.
        limits = np.iinfo(kind.name)
        low = None if type(low) is int and low <= limits.min else low
        high = None if type(high) is int and high >= limits.max else high
        if low is None and high is None:
            return a
    lifted = a if low is None else np.maximum(a, low)
    return lifted if high is None else np.minimum(lifted, high)


def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Value:
    value = _value(x)
    return apply(
        linear.NORM, value, ord=ord, axis=positive_axis(axis, value.ndim), keepdims=keepdims
    )


def _eigh(a: Any) -> Any:
    made = call(linear.EIGH, expression_of(a, "a matrix"), location=user_location())
    return np.linalg._linalg.EighResult(*results(made))


def _slogdet(a: Any) -> Any:
    made = call(linear.SLOGDET, expression_of(a, "a matrix"), location=user_location())
    return np.linalg._linalg.SlogdetResult(*results(made))


def _like(fill: Callable[..., Any]) -> Callable[..., Value]:
    def adapter(a: Any, dtype: Any = None, shape: Any = None) -> Value:
        value = _value(a)
        return Value(constant(fill(value.shape if shape is None else shape, dtype or value.dtype)))

    return adapter


def _full_like(a: Any, fill_value: Any, dtype: Any = None) -> Value:
    value = _value(a)
    filled = apply(arrays.BROADCAST_TO, fill_value, shape=value.shape)
    return filled.astype(dtype or value.dtype)


def _reshape(a: Any, shape: Any) -> Value:
    return _value(a).reshape(shape)


def _expand_dims(a: Any, axis: int) -> Value:
    value = _value(a)
    at = positive_axis(axis, value.ndim + 1)
    return value.reshape(*value.shape[:at], 1, *value.shape[at:])


def _squeeze(a: Any, axis: Any = None) -> Value:
    value = _value(a)
    shape = np.squeeze(np.broadcast_to(np.empty(()), value.shape), axis).shape
    return value.reshape(shape)


def _swapaxes(a: Any, axis1: int, axis2: int) -> Value:
    value = _value(a)
    order = list(range(value.ndim))
    i, j = positive_axis((axis1, axis2), value.ndim)
    order[i], order[j] = order[j], order[i]
    return value.transpose(*order)


def _array(a: Any, dtype: Any = None, **_: Any) -> Value:
    value = _value(a)
    return value if dtype is None else value.astype(dtype)


def _ravel(a: Any) -> Value:
    return _value(a).ravel()


def _transpose(a: Any, axes: Any = None) -> Value:
    return _value(a).transpose(*([axes] if axes is not None else []))


def _einsum_free_inner(a: Any, b: Any) -> Value:
    left, right = _value(a), _value(b)
    if left.ndim == 1 and right.ndim == 1:
        return apply(linear.MATMUL, left, right)
    return _dot(left, right.transpose()) if right.ndim == 2 else _dot(left, right)


def _linear(entry: Any) -> Callable[..., Value]:
    return lambda *matrices: apply(entry, *matrices)


def _parameter(entry: Any, name: str, default: Any) -> Callable[..., Value]:
    def adapter(a: Any, *args: Any, **kwargs: Any) -> Value:
        given = args[0] if args else kwargs.pop(name, default)
        if kwargs or len(args) > 1:
            _unsupported(f"np.{entry.name} with {sorted(kwargs)}")
        if name == "axis":
            given = positive_axis(given, _value(a).ndim)
        return apply(entry, a, **{name: given})

    return adapter


def _where(condition: Any, x: Any, y: Any) -> Value:
    return apply(elementwise.WHERE, condition, x, y)


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.where: _where,
    np.dot: _dot,
    np.vdot: lambda a, b: _dot(_value(a).ravel(), _value(b).ravel()),
    np.inner: _einsum_free_inner,
    np.outer: lambda a, b: apply(linear.OUTER, a, b),
    np.linalg.outer: lambda a, b: apply(linear.OUTER, a, b),
    np.linalg.norm: _norm,
    np.linalg.solve: _linear(linear.SOLVE),
    np.linalg.inv: _linear(linear.INV),
    np.linalg.cholesky: _linear(linear.CHOLESKY),
    np.linalg.det: _linear(linear.DET),
    np.linalg.slogdet: _slogdet,
    np.linalg.eigh: _eigh,
    np.linalg.matmul: _linear(linear.MATMUL),
    np.sum: _fold(arrays.SUM),
    np.prod: _fold(arrays.PROD),
    np.mean: _fold(arrays.MEAN),
    np.max: _fold(arrays.MAX),
    np.min: _fold(arrays.MIN),
    np.amax: _fold(arrays.MAX),
    np.amin: _fold(arrays.MIN),
    np.any: _fold(arrays.ANY),
    np.all: _fold(arrays.ALL),
    np.argmax: _fold(arrays.ARGMAX),
    np.argmin: _fold(arrays.ARGMIN),
    np.var: _fold(arrays.VAR),
    np.std: _fold(arrays.STD),
    np.cumsum: _parameter(arrays.CUMSUM, "axis", None),
    np.cumprod: _parameter(arrays.CUMPROD, "axis", None),
    np.sort: _parameter(arrays.SORT, "axis", -1),
    np.argsort: _parameter(arrays.ARGSORT, "axis", -1),
    np.flip: _parameter(arrays.FLIP, "axis", None),
    np.diag: _parameter(arrays.DIAG, "k", 0),
    np.diagonal: _parameter(arrays.DIAGONAL, "offset", 0),
    np.trace: _parameter(arrays.TRACE, "offset", 0),
    np.round: _parameter(arrays.ROUND, "decimals", 0),
    np.around: _parameter(arrays.ROUND, "decimals", 0),
    np.nan_to_num: lambda a: apply(arrays.NAN_TO_NUM, a),
    np.stack: _joined(arrays.STACK, 1),
    np.concatenate: _joined(arrays.CONCATENATE, 0),
    np.hstack: _hstack,
    np.vstack: _vstack,
    np.clip: _clip,
    np.reshape: _reshape,
    np.ravel: _ravel,
    np.transpose: _transpose,
    np.swapaxes: _swapaxes,
    np.expand_dims: _expand_dims,
    np.squeeze: _squeeze,
    np.broadcast_to: lambda a, shape: apply(arrays.BROADCAST_TO, a, shape=tuple(shape)),
    np.zeros_like: _like(np.zeros),
    np.ones_like: _like(np.ones),
    np.full_like: _full_like,
    np.take: _take,
    np.copy: _array,
    np.shape: lambda a: _value(a).shape,
    np.ndim: lambda a: _value(a).ndim,
    np.size: lambda a: _value(a).size,
}


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)), without overflow; SciPy's `expit`."""
    if isinstance(x, (int, float, np.ndarray, np.generic)):
        return function("sigmoid").evaluate(x)
    return apply(function("sigmoid"), x)

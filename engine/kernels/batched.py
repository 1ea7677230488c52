"""Functions of the table over a block: one NumPy call for all its records.

An argument is batched when it has the block axis in front. `batched(call, ...)` gives a
callable over the arguments' arrays; where no form is known here, the function is called record
by record, which is always right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.expressions import Call, Column
from scalops.algebra.functions import softmax
from scalops.engine.blocks import Array
from scalops.engine.kernels import arrangements, distances, scatter
from scalops.engine.kernels.buffers import into
from scalops.engine.kernels.sparse import sparse_step

Step = Callable[..., Any]
Batched = Sequence[bool]


def batched(call: Call, flags: Batched) -> Step:
    """The function over blocks; `flags` tell which arguments are batched (at least one is)."""
    entry = call.function
    if (sparse := sparse_step(call, flags)) is not None:
        return sparse
    if entry.ufunc is not None and entry.ufunc.nout == 1:
        return elementwise(entry.ufunc, call, flags)
    maker = _FORMS.get(entry.name)
    if entry.name.endswith(("_accumulate", "_reduce")):
        maker = arrangements.along_axis(entry.evaluate)
    made = None if maker is None else maker(call, flags, dict(call.parameters))
    return made or _by_record(call, flags)


def elementwise(function: Callable[..., Any], call: Call, flags: Batched) -> Step:
    """A function that broadcasts: batched arguments of lower rank get axes after the block axis.

    It takes `out=` where `function` is a ufunc.
    """
    rank = max(len(a.type.shape) for a in call.arguments)
    expand = [
        b and rank - len(a.type.shape) > 0 for a, b in zip(call.arguments, flags, strict=True)
    ]
    if not any(expand):
        return function
    shapes = [_aligned(a.type, rank) for a in call.arguments]

    def step(*arrays: Any, **out: Any) -> Any:
        lifted = [
            a.reshape(len(a), *s) if e else a
            for a, s, e in zip(arrays, shapes, expand, strict=True)
        ]
        return function(*lifted, **out)

    return into(step) if isinstance(function, np.ufunc) else step


def _aligned(kind: ArrayType, rank: int) -> tuple[int, ...]:
    return (1,) * (rank - len(kind.shape)) + kind.shape


def _by_record(call: Call, flags: Batched) -> Step:
    evaluate, parameters = call.function.evaluate, dict(call.parameters)

    def step(*arrays: Any) -> Any:
        rows = len(next(a for a, b in zip(arrays, flags, strict=True) if b))
        results = [
            evaluate(*(a[i] if b else a for a, b in zip(arrays, flags, strict=True)), **parameters)
            for i in range(rows)
        ]
        if isinstance(call.any_type, ArrayType):
            kind = call.any_type
            if not results:
                return np.empty((0, *kind.shape), kind.numpy)
            return np.asarray(results, dtype=kind.numpy).reshape(rows, *kind.shape)
        kinds = call.any_type.items  # type: ignore[attr-defined]
        return tuple(
            np.asarray([r[i] for r in results], dtype=k.numpy).reshape(rows, *k.shape)
            for i, k in enumerate(kinds)
        )

    return step


# Linear algebra.


def _matmul(call: Call, flags: Batched, _: Any) -> Step | None:
    left, right = (len(a.type.shape) for a in call.arguments)
    match flags[0], flags[1], left, right:
        case True, False, 1, 1:
            # From memory, vecdot streams; gemv does not (12 against 20 GB/s here). What another
            # step has just made is in cache, where gemv is the faster.
            return np.vecdot if isinstance(call.arguments[0], Column) else np.matmul
        case False, True, 1, 1:
            product = np.vecdot if isinstance(call.arguments[1], Column) else np.matmul
            return into(lambda w, x, **out: product(x, w, **out))
        case True, True, 1, 1:
            return np.vecdot
        case True, False, 1, 2:
            return np.matmul
        case False, True, 2, 1:
            return into(lambda a, x, **out: np.matmul(x, a.T, **out))
        case True, False, 2, 1:
            return np.matmul
        case True, True, 2, 1:
            return np.matvec
        case True, True, 1, 2:
            return np.vecmat
        case False, True, 1, 2:
            return lambda w, a: np.vecmat(np.broadcast_to(w, (len(a), *w.shape)), a)
        case _ if left == right:
            return np.matmul
        case _ if left >= 2 and right >= 2:
            return elementwise(np.matmul, call, flags)
    return None


def _outer(call: Call, flags: Batched, _: Any) -> Step:
    sizes = [a.type.size for a in call.arguments]

    def step(a: Any, b: Any) -> Any:
        u = a.reshape(-1, sizes[0], 1) if flags[0] else a.reshape(sizes[0], 1)
        v = b.reshape(-1, 1, sizes[1]) if flags[1] else b.reshape(1, sizes[1])
        return u * v

    return step


def _solve(call: Call, flags: Batched, _: Any) -> Step | None:
    left, right = (a.type.shape for a in call.arguments)
    if not flags[0] and len(left) == len(right) and left[:-2] == right[:-2]:
        # The matrices of all records are factored once: a record's right sides are columns.
        def together(a: Any, b: Any) -> Any:
            sides = np.moveaxis(b, 0, -2)
            made = np.linalg.solve(a, sides.reshape(*right[:-1], len(b) * right[-1]))
            return np.moveaxis(made.reshape(*right[:-1], len(b), right[-1]), -2, 0)

        return together
    if len(left) != 2 or len(right) != 1:
        return None
    if not flags[0]:
        return lambda a, b: np.linalg.solve(a, b.T).T
    return lambda a, b: np.linalg.solve(a, b[..., None])[..., 0]


def _stacked(function: Callable[..., Any]) -> Callable[..., Step]:
    return lambda call, flags, _: function


def _norm(call: Call, flags: Batched, parameters: Any) -> Step | None:
    if parameters.get("ord") is not None or parameters.get("keepdims"):
        return None
    axis = parameters.get("axis")
    if axis is None:
        size, dtype = call.arguments[0].type.size, call.type.numpy

        def step(x: Any) -> Any:
            flat = x.reshape(len(x), size).astype(dtype, copy=False)  # squares of int8 overflow
            return np.sqrt(np.vecdot(flat, flat))

        return step
    return None if isinstance(axis, tuple) else lambda x: np.linalg.norm(x, axis=axis + 1)


# Shapes.


def _index(call: Call, flags: Batched, parameters: Any) -> Step:
    key = tuple(slice(*k[1:]) if isinstance(k, tuple) else k for k in parameters["key"])
    whole = (slice(None), *key)
    return lambda a: a[whole]


def _take(call: Call, flags: Batched, parameters: Any) -> Step | None:
    axis = parameters.get("axis", 0)
    size = call.arguments[0].type.shape[axis]
    if flags[0] and not flags[1]:
        return lambda a, i: np.take(a, i, axis=axis + 1)
    if not flags[0] and axis == 0:
        return lambda a, i: np.take(a, i, axis=0)
    if size and axis == 0 and not call.arguments[1].type.shape:
        return lambda a, i: a[np.arange(len(a)), i]
    return None


def _reshape(call: Call, flags: Batched, parameters: Any) -> Step:
    shape = parameters["shape"]
    return lambda a: a.reshape(len(a), *shape)


def _transpose(call: Call, flags: Batched, parameters: Any) -> Step:
    axes = (0, *(a + 1 for a in parameters["axes"]))
    return lambda a: np.transpose(a, axes)


def _broadcast_to(call: Call, flags: Batched, parameters: Any) -> Step:
    shape = parameters["shape"]
    own = _aligned(call.arguments[0].type, len(shape))
    return lambda a: np.broadcast_to(a.reshape(len(a), *own), (len(a), *shape))


def _joined(function: Callable[..., Any]) -> Callable[..., Step | None]:
    def maker(call: Call, flags: Batched, parameters: Any) -> Step:
        axis = parameters["axis"] + 1

        def step(*arrays: Any) -> Any:
            rows = len(next(a for a, b in zip(arrays, flags, strict=True) if b))
            lifted = [
                a if b else np.broadcast_to(a, (rows, *np.shape(a)))
                for a, b in zip(arrays, flags, strict=True)
            ]
            return function(lifted, axis=axis)

        return step

    return maker


def _fold(function: Callable[..., Any], flat: bool = False) -> Callable[..., Step | None]:
    def maker(call: Call, flags: Batched, parameters: Any) -> Step | None:
        given = dict(parameters)
        axis = given.pop("axis", None)
        rank = len(call.arguments[0].type.shape)
        if rank == 0:
            return None
        if axis is None and flat:
            size = call.arguments[0].type.size
            if given.get("keepdims"):
                return None
            return lambda a: function(a.reshape(len(a), size), axis=1)
        if axis is None:
            axes: Any = tuple(range(1, rank + 1))
        else:
            axes = tuple(a + 1 for a in axis) if isinstance(axis, tuple) else axis + 1
        return lambda a: function(a, axis=axes, **given)

    return maker


def _softmax(call: Call, flags: Batched, parameters: Any) -> Step | None:
    """Four passes over a block in cache, in place where there is a buffer."""
    axis, shape = parameters.get("axis", -1), call.arguments[0].type.shape
    if axis not in (-1, len(shape) - 1) or not shape:
        return _fold(softmax.softmax)(call, flags, parameters)

    def step(x: Any, out: Array | None = None) -> Any:
        greatest = np.maximum.reduce(x, axis=-1, keepdims=True)
        made = np.subtract(x, greatest, out=out, dtype=call.type.numpy)
        np.exp(made, out=made)
        made /= np.add.reduce(made, axis=-1, keepdims=True)
        return made

    return into(step)


def _where(call: Call, flags: Batched, _: Any) -> Step:
    def choice(condition: Any, left: Any, right: Any, out: Array | None = None) -> Any:
        if out is None:
            return np.where(condition, left, right)
        # What is the same for all records may be a plain bool, or an integer that wraps around.
        np.copyto(out, np.asarray(right), casting="unsafe")
        np.copyto(out, np.asarray(left), casting="unsafe", where=np.asarray(condition, bool))
        return out

    return into(elementwise(choice, call, flags))


def _coalesce(call: Call, flags: Batched, _: Any) -> Step:
    """Its first argument is of the engine's making: bool[rows], whether the left one is known."""
    shape = call.type.shape
    own = [_aligned(a.type, len(shape)) for a in call.arguments]

    def step(known: Any, *sides: Any) -> Any:
        lifted = [
            s.reshape(len(s), *o) if b else s for s, o, b in zip(sides, own, flags, strict=True)
        ]
        made = np.where(known.reshape(-1, *[1] * len(shape)), *lifted)
        return made.astype(call.type.numpy, copy=False)

    return step


def _cast(call: Call, flags: Batched, parameters: Any) -> Step:
    dtype = call.type.numpy

    def step(a: Any, out: Array | None = None) -> Any:
        if out is None:
            return a.astype(dtype)
        np.copyto(out, a, casting="unsafe")
        return out

    return into(step)


def _isclose(call: Call, flags: Batched, parameters: Any) -> Step:
    return elementwise(partial(np.isclose, **parameters), call, flags)


def _broadcasting(call: Call, flags: Batched, parameters: Any) -> Step:
    """A function whose own meaning takes columns as it takes numbers."""
    evaluate = call.function.evaluate
    return lambda *arrays: evaluate(*arrays, **parameters)


def _random_within(call: Call, flags: Batched, _: Any) -> Step:
    return elementwise(call.function.evaluate, call, flags)


def _assemble(call: Call, flags: Batched, _: Any) -> Step:
    def step(*columns: Any) -> Any:
        rows = len(next(c for c, b in zip(columns, flags, strict=True) if b))
        out: Array = np.empty((rows, len(columns)))
        for i, column in enumerate(columns):
            out[:, i] = column
        return out

    return step


_FORMS: dict[str, Callable[..., Step | None]] = {
    "matmul": _matmul,
    "outer": _outer,
    "norm": _norm,
    "solve": _solve,
    "inv": _stacked(np.linalg.inv),
    "cholesky": _stacked(np.linalg.cholesky),
    "det": _stacked(np.linalg.det),
    "slogdet": _stacked(np.linalg.slogdet),
    "eigh": _stacked(np.linalg.eigh),
    "where": _where,
    "cast": _cast,
    "coalesce": _coalesce,
    "random_within": _random_within,
    "hash": _broadcasting,
    "one_hot": scatter.one_hot,
    "put": scatter.put,
    "softmax": _softmax,
    "logsumexp": _fold(softmax.logsumexp),
    "random_bits": _broadcasting,
    "random_uniform": _broadcasting,
    "random_normal": _broadcasting,
    "random_integers": _broadcasting,
    "random_integer_bits": _broadcasting,
    "index": _index,
    "take": _take,
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast_to": _broadcast_to,
    "stack": _joined(np.stack),
    "concatenate": _joined(np.concatenate),
    "sum": _fold(np.sum),
    "prod": _fold(np.prod),
    "mean": _fold(np.mean),
    "max": _fold(np.max),
    "min": _fold(np.min),
    "any": _fold(np.any),
    "all": _fold(np.all),
    "var": _fold(np.var),
    "std": _fold(np.std),
    "argmax": _fold(np.argmax, flat=True),
    "argmin": _fold(np.argmin, flat=True),
    "cumsum": _fold(np.cumsum, flat=True),
    "cumprod": _fold(np.cumprod, flat=True),
    "sort": arrangements.along_axis(np.sort),
    "argsort": arrangements.along_axis(partial(np.argsort, kind="stable")),
    "flip": arrangements.along_axis(np.flip),
    "roll": arrangements.along_axis(np.roll),
    "diff": arrangements.along_axis(np.diff),
    "repeat": arrangements.along_axis(np.repeat),
    "tile": arrangements.tile,
    "tril": arrangements.of_last_axes(np.tril),
    "triu": arrangements.of_last_axes(np.triu),
    "cross": lambda call, flags, _: elementwise(np.cross, call, flags),
    "einsum": arrangements.einsum,
    "interp": arrangements.of_any_shape(1, 2),
    "searchsorted": arrangements.of_any_shape(0),
    "digitize": arrangements.of_any_shape(1),
    "isclose": _isclose,
    "ptp": _fold(np.ptp),
    "count_nonzero": _fold(np.count_nonzero),
    "median": _fold(np.median),
    "nansum": _fold(np.nansum),
    "nanprod": _fold(np.nanprod),
    "nanmean": _fold(np.nanmean),
    "nanmin": _fold(np.nanmin),
    "nanmax": _fold(np.nanmax),
    "nanmedian": _fold(np.nanmedian),
    "quantile": arrangements.quantile,
    "pinv": _stacked(np.linalg.pinv),
    "qr": _stacked(np.linalg.qr),
    "svd": arrangements.of_last_axes(np.linalg.svd),
    "svdvals": _stacked(np.linalg.svdvals),
    "eigvalsh": _stacked(np.linalg.eigvalsh),
    "matrix_rank": _stacked(np.linalg.matrix_rank),
    "matrix_power": arrangements.of_last_axes(np.linalg.matrix_power),
    "assemble": _assemble,
    "squared_distances": distances.distances,
    "weighted_squared_distances": distances.distances,
    "nearest": distances.nearest,
    "weighted_nearest": distances.nearest,
}

"""One sparse vector: what a sparse column holds for one record.

It follows NumPy's operators and functions under the rules of `sparse_rules.py`, so that a row
function means the same traced, called plainly, and inside an opaque function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from scalops.algebra import sparse_rules as rules
from scalops.algebra.dtypes import ArrayType, SparseType, type_of

Array = np.ndarray[Any, np.dtype[Any]]


def _operator(ufunc: np.ufunc, swapped: bool = False) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        return _applied(ufunc, (other, self) if swapped else (self, other))

    return method


def _unary(ufunc: np.ufunc) -> Callable[[Any], Any]:
    return lambda self: _applied(ufunc, (self,))


class SparseVector:
    """float64 numbers at ascending, unique indices; what is not stored is 0.

    `indices`: int32, `values`: float64, both read-only; `shape`: (dimension,).
    `scalops.sparse_vector` makes one from indices in any order.
    """

    __slots__ = ("_dimension", "indices", "values")
    __hash__ = None  # type: ignore[assignment]
    __array_priority__ = 100

    def __init__(self, indices: Any, values: Any, dimension: int) -> None:
        self.indices = _read_only(indices, np.int32)
        self.values = _read_only(values, np.float64)
        self._dimension = int(dimension)

    @property
    def shape(self) -> tuple[int]:
        return (self._dimension,)

    @property
    def type(self) -> SparseType:
        """The type in a plan."""
        return SparseType(shape=self.shape)

    @property
    def dtype(self) -> np.dtype[np.float64]:
        return self.values.dtype

    @property
    def ndim(self) -> int:
        return 1

    @property
    def size(self) -> int:
        return self._dimension

    @property
    def nbytes(self) -> int:
        """Bytes of what is stored."""
        return int(self.indices.nbytes + self.values.nbytes)

    def __len__(self) -> int:
        return self._dimension

    def __repr__(self) -> str:
        shown = 6
        more = ", ..." if len(self.indices) > shown else ""
        pairs = zip(self.indices[:shown].tolist(), self.values[:shown].tolist(), strict=True)
        stored = ", ".join(f"{i}: {v!r}" for i, v in pairs)
        return f"SparseVector({{{stored}{more}}}, dimension={self._dimension})"

    def __reduce__(self) -> tuple[Any, ...]:
        return SparseVector, (self.indices, self.values, self._dimension)

    def toarray(self) -> Array:
        """The same numbers with every element stored: float64[dimension]."""
        dense: Array = np.zeros(self._dimension)
        dense[self.indices] = self.values
        return dense

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a sparse vector becomes an array by a copy")
        dense = self.toarray()
        return dense if dtype is None else dense.astype(dtype)

    def equals(self, other: Any) -> bool:
        """Whether the other is a sparse vector of the same numbers, stored or not; NaN is NaN."""
        if not isinstance(other, SparseVector) or other.shape != self.shape:
            return False
        _, left, right = united(self, other)
        return bool(np.array_equal(left, right, equal_nan=True))

    def with_values(self, values: Array) -> SparseVector:
        """Other numbers in the same places."""
        return SparseVector(self.indices, values, self._dimension)

    # NumPy's protocols.

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__" or kwargs:
            raise rules.needs_dense(
                f"np.{ufunc.__name__}.{method} with {sorted(kwargs)}", self.type
            )
        return _applied(ufunc, inputs)

    def __array_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if any(t not in (SparseVector, np.ndarray) for t in types):
            return NotImplemented
        meaning = _FUNCTIONS.get(func)
        if meaning is None:
            raise rules.needs_dense(f"np.{func.__name__}", self.type)
        return meaning(*args, **kwargs)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, np.ndarray) and key.ndim == 0:
            key = key[()]
        if isinstance(key, tuple) and len(key) == 1:
            (key,) = key
        if not isinstance(key, (int, np.integer)) or isinstance(key, bool):
            raise rules.needs_dense("indexing by anything but one integer", self.type)
        rules.index_type(self.type, (int(key),))
        at = int(np.searchsorted(self.indices, int(key) % self._dimension))
        found = at < len(self.indices) and self.indices[at] == int(key) % self._dimension
        return self.values[at] if found else np.float64(0)

    __add__, __radd__ = _operator(np.add), _operator(np.add, True)
    __sub__, __rsub__ = _operator(np.subtract), _operator(np.subtract, True)
    __mul__, __rmul__ = _operator(np.multiply), _operator(np.multiply, True)
    __truediv__, __rtruediv__ = _operator(np.divide), _operator(np.divide, True)
    __floordiv__, __rfloordiv__ = _operator(np.floor_divide), _operator(np.floor_divide, True)
    __mod__, __rmod__ = _operator(np.remainder), _operator(np.remainder, True)
    __pow__, __rpow__ = _operator(np.power), _operator(np.power, True)
    __and__, __rand__ = _operator(np.bitwise_and), _operator(np.bitwise_and, True)
    __or__, __ror__ = _operator(np.bitwise_or), _operator(np.bitwise_or, True)
    __xor__, __rxor__ = _operator(np.bitwise_xor), _operator(np.bitwise_xor, True)
    __matmul__, __rmatmul__ = _operator(np.matmul), _operator(np.matmul, True)
    __eq__: Any = _operator(np.equal)
    __ne__: Any = _operator(np.not_equal)
    __lt__, __le__ = _operator(np.less), _operator(np.less_equal)
    __gt__, __ge__ = _operator(np.greater), _operator(np.greater_equal)
    __neg__, __pos__ = _unary(np.negative), _unary(np.positive)
    __abs__, __invert__ = _unary(np.absolute), _unary(np.invert)

    def dot(self, other: Any) -> Any:
        """As numpy.dot."""
        return _dot(self, other)

    def copy(self) -> SparseVector:
        """Sparse vectors are immutable: itself."""
        return self

    @property
    def T(self) -> SparseVector:
        """Itself, which has one axis."""
        return self

    ravel = flatten = copy

    def sum(self, axis: Any = None, keepdims: bool = False) -> Any:
        """Of all elements, as the folds below."""
        return _folded("sum", self, axis, keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Any:
        return _folded("mean", self, axis, keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> Any:
        return _folded("max", self, axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Any:
        return _folded("min", self, axis, keepdims)

    def any(self, axis: Any = None, keepdims: bool = False) -> Any:
        return _folded("any", self, axis, keepdims)

    def all(self, axis: Any = None, keepdims: bool = False) -> Any:
        return _folded("all", self, axis, keepdims)

    def round(self, decimals: int = 0) -> SparseVector:
        """As numpy.round."""
        return self.with_values(np.round(self.values, decimals))

    def clip(self, min: Any = None, max: Any = None) -> Any:
        """As numpy.clip."""
        return _clip(self, min, max)


def _read_only(values: Any, dtype: Any) -> Array:
    array: Array = np.asarray(values, dtype)
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array


def united(a: SparseVector, b: SparseVector) -> tuple[Array, Array, Array]:
    """The indices of either, with the numbers of both there."""
    indices = np.union1d(a.indices, b.indices)
    left, right = np.zeros(len(indices)), np.zeros(len(indices))
    left[np.searchsorted(indices, a.indices)] = a.values
    right[np.searchsorted(indices, b.indices)] = b.values
    return indices, left, right


# Elementwise functions and products.


def _applied(ufunc: np.ufunc, inputs: tuple[Any, ...]) -> Any:
    """A universal function; NotImplemented where an argument is no array of ours."""
    given = [np.asarray(i) if isinstance(i, (list, tuple)) else i for i in inputs]
    types: list[ArrayType] = []
    for item in given:
        kind = type_of(item)
        if kind is None:
            return NotImplemented
        types.append(kind)
    if ufunc in (np.matmul, np.vecdot):
        return _product(given, types)
    constants = [None if t.shape else i for t, i in zip(types, given, strict=True)]
    kind = rules.elementwise_type(ufunc, types, constants)
    vectors = [i for i in given if isinstance(i, SparseVector)]
    first = vectors[0]
    if len(vectors) == 2:
        return _of_both(ufunc, *vectors)
    if not kind.is_sparse:
        return ufunc(*(np.asarray(i) for i in given))
    at = [
        i.values if isinstance(i, SparseVector) else np.asarray(i)[first.indices] if t.shape else i
        for i, t in zip(given, types, strict=True)
    ]
    return first.with_values(ufunc(*at))


def _of_both(ufunc: np.ufunc, a: SparseVector, b: SparseVector) -> SparseVector:
    if ufunc is np.multiply:
        indices, left, right = np.intersect1d(a.indices, b.indices, True, True)
        return SparseVector(indices, a.values[left] * b.values[right], a.size)
    indices, x, y = united(a, b)
    return SparseVector(indices, ufunc(x, y), a.size)


def _product(given: list[Any], types: list[ArrayType]) -> Any:
    rules.matmul_type(*types)
    a, b = given
    if isinstance(a, SparseVector) and isinstance(b, SparseVector):
        return np.sum(_of_both(np.multiply, a, b).values)
    if isinstance(a, SparseVector):
        return np.matmul(a.values, np.asarray(b)[a.indices])
    return np.matmul(np.asarray(a)[..., b.indices], b.values)


# NumPy's functions.


def _folded(name: str, x: SparseVector, axis: Any = None, keepdims: bool = False) -> Any:
    rules.fold_type(name)(x.type, axis, keepdims)
    values, whole = x.values, len(x.values) == x.size
    match name:
        case "sum":
            return np.sum(values)
        case "mean":
            return np.sum(values) / x.size
        case "max" | "min":
            extreme = np.maximum if name == "max" else np.minimum
            return extreme.reduce(values if whole else np.append(values, 0.0))
        case "any":
            return np.any(values)
        case _:
            return np.bool_(whole and np.all(values))


def _fold(name: str) -> Callable[..., Any]:
    return lambda a, axis=None, keepdims=False: _folded(name, a, axis, keepdims)


def _dot(a: Any, b: Any) -> Any:
    scalar = np.ndim(a) == 0 or np.ndim(b) == 0
    return _applied(np.multiply if scalar else np.matmul, (a, b))


def _outer(a: Any, b: Any) -> Array:
    kinds = [type_of(v if isinstance(v, SparseVector) else np.asarray(v)) for v in (a, b)]
    rules.outer_type(*(k for k in kinds if k is not None))
    return np.outer(np.asarray(a), np.asarray(b))


def _norm(x: SparseVector, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    rules.norm_type(x.type, ord, axis, keepdims)
    return np.linalg.norm(x.values, ord) if len(x.values) else np.float64(0)


def _take(a: SparseVector, indices: Any, axis: Any = None) -> Any:
    return a[indices]


def _round(a: SparseVector, decimals: int = 0) -> SparseVector:
    return a.round(decimals)


def _clip(a: Any, a_min: Any = None, a_max: Any = None, min: Any = None, max: Any = None) -> Any:
    low = a_min if min is None else min
    high = a_max if max is None else max
    lifted = a if low is None else np.maximum(a, low)
    return lifted if high is None else np.minimum(lifted, high)


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.dot: _dot,
    np.vdot: _dot,
    np.inner: _dot,
    np.outer: _outer,
    np.linalg.outer: _outer,
    np.linalg.norm: _norm,
    np.sum: _fold("sum"),
    np.mean: _fold("mean"),
    np.max: _fold("max"),
    np.min: _fold("min"),
    np.amax: _fold("max"),
    np.amin: _fold("min"),
    np.any: _fold("any"),
    np.all: _fold("all"),
    np.take: _take,
    np.round: _round,
    np.around: _round,
    np.nan_to_num: lambda x: x.with_values(np.nan_to_num(x.values)),
    np.clip: _clip,
    np.copy: lambda a: a,
    np.ravel: lambda a: a,
    np.transpose: lambda a: a,
    np.shape: lambda a: a.shape,
    np.ndim: lambda a: 1,
    np.size: lambda a: a.size,
}

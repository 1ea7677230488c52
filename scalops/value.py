"""Values: lazy scalars and arrays, and the symbols that stand for a record's columns."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np

from scalops.algebra.dtypes import ArrayType, TupleType
from scalops.algebra.errors import ConfigError, TraceError, user_location
from scalops.algebra.expressions import Call, Expression, Item, call, columns, constant
from scalops.algebra.functions import arrays, function, linear, ufunc_function
from scalops.tracing import current, refuse

log = logging.getLogger("scalops")
_WHERE = "use np.where, or a loop condition"
_LARGEST_OBJECT_ARRAY = 256


class Value:
    """One scalar or array that a plan will compute; NumPy's operators and functions work on it.

    Inside a row function the same class stands for one record's column. `shape`, `dtype` and
    `ndim` are known at once; the number is not, until `collect()`.
    """

    __slots__ = ("__weakref__", "expression")
    __hash__ = None  # type: ignore[assignment]
    __array_priority__ = 1000

    def __init__(self, expression: Expression) -> None:
        self.expression = expression

    # What is known without running anything.

    @property
    def type(self) -> ArrayType:
        """Scalar type and single-record shape."""
        return self.expression.type

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def ndim(self) -> int:
        return len(self.type.shape)

    @property
    def size(self) -> int:
        return self.type.size

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.type.numpy

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError(f"len() of a scalar ({self.type})")
        return self.shape[0]

    def __iter__(self) -> Iterator[Value]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Value({self.type})"

    # What only a run can tell.

    def collect(self) -> Any:
        """Run the plan; a NumPy scalar or array."""
        from scalops.session import collect

        refuse("its value", _WHERE)
        return collect(self)

    def explain(self, stage: str = "optimized", format: str = "text", trace: bool = False) -> str:
        """The plan that would compute it."""
        from scalops.explain import explain

        return explain(self, stage, format, trace)

    def forget(self) -> None:
        """Drop a result kept from an earlier `collect()`."""
        from scalops.session import current_session

        current_session().forget(self)

    def _implicit(self, what: str) -> Any:
        refuse(what, _WHERE)
        from scalops.session import current_session

        where = user_location()
        if not current_session().options.implicit_collect:
            raise ConfigError(
                f"{what} of a Value would collect it, and implicit_collect is off",
                location=where,
                hint="call collect()",
            )
        log.info("%s collects a Value (%s)", what, where)
        return self.collect()

    def __bool__(self) -> bool:
        return bool(self._implicit("a truth value"))

    def __float__(self) -> float:
        return float(self._implicit("a float"))

    def __int__(self) -> int:
        return int(self._implicit("an int"))

    def __index__(self) -> int:
        return operator.index(self._implicit("an index"))

    def __complex__(self) -> complex:
        return complex(self._implicit("a complex number"))

    def __str__(self) -> str:
        refuse("a string", _WHERE)
        return repr(self)

    def __format__(self, spec: str) -> str:
        return format(self._implicit("a formatted number"), spec) if spec else str(self)

    def __contains__(self, item: object) -> bool:
        return bool(np.any(self._implicit("membership (in)") == item))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        trace = current()
        if trace is not None and self.size <= _LARGEST_OBJECT_ARRAY:
            # np.array([r.a, r.b]) becomes an array of symbols, which `lift` takes for np.stack.
            symbols = np.empty(self.shape, dtype=object)
            for position in np.ndindex(self.shape):
                symbols[position] = self[position] if position else self
            return symbols
        return np.asarray(self._implicit("a NumPy array"), dtype=dtype)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Value is part of a plan and cannot be pickled; collect() it")

    # NumPy's protocols.

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if ufunc is np.matmul and method == "__call__" and not kwargs:
            return _binary(linear.MATMUL, *inputs)
        from scalops.numpy_protocol import ufunc_call

        return ufunc_call(ufunc, method, inputs, kwargs)

    def __array_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        from scalops.numpy_protocol import function_call

        return function_call(func, args, kwargs)

    # Indexing and NumPy's methods.

    def __getitem__(self, key: Any) -> Value:
        from scalops.numpy_protocol import index

        return index(self, key)

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        raise TraceError(
            "a Value is immutable: v[i] = x has no effect on a plan",
            location=user_location(),
            hint="write v = so.put(v, i, x)",
        )

    def __matmul__(self, other: Any) -> Any:
        return _binary(linear.MATMUL, self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return _binary(linear.MATMUL, other, self)

    def __divmod__(self, other: Any) -> tuple[Any, Any]:
        return self // other, self % other

    def __round__(self, ndigits: int | None = None) -> Value:
        return apply(arrays.ROUND, self, decimals=ndigits or 0)

    @property
    def T(self) -> Value:
        """The transposed array."""
        return self.transpose()

    def transpose(self, *axes: Any) -> Value:
        """As numpy.ndarray.transpose."""
        if len(axes) == 1 and not isinstance(axes[0], int):
            axes = tuple(axes[0]) if axes[0] is not None else ()
        order = axes or tuple(reversed(range(self.ndim)))
        return apply(arrays.TRANSPOSE, self, axes=tuple(a % max(1, self.ndim) for a in order))

    def reshape(self, *shape: Any) -> Value:
        """As numpy.ndarray.reshape; sizes are Python ints."""
        target = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        known = np.broadcast_to(np.empty(()), self.shape)
        try:
            result = known.reshape(tuple(target)).shape
        except ValueError as error:
            raise TraceError(str(error), location=user_location()) from None
        return apply(arrays.RESHAPE, self, shape=result)

    def ravel(self) -> Value:
        """One axis."""
        return apply(arrays.RESHAPE, self, shape=(self.size,))

    flatten = ravel

    def copy(self) -> Value:
        """Values are immutable: itself."""
        return self

    def dot(self, other: Any) -> Any:
        """As numpy.dot."""
        return np.dot(self, other)

    def astype(self, dtype: Any) -> Value:
        """Another scalar type."""
        return apply(function("cast"), self, dtype=cast_name(dtype))

    def clip(self, min: Any = None, max: Any = None) -> Any:
        """As numpy.clip."""
        return np.clip(self, min, max)

    def round(self, decimals: int = 0) -> Value:
        """As numpy.round."""
        return apply(arrays.ROUND, self, decimals=decimals)


_CASTS = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
)  # fmt: skip


def cast_name(dtype: Any) -> str:
    """The name of a scalar type to cast to, given as a name, a type of ours or NumPy's."""
    try:
        name = dtype.name if isinstance(dtype, ArrayType) else np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in _CASTS:
        raise TraceError(
            f"cast to {name!r}; expected one of {', '.join(_CASTS)}", location=user_location()
        )
    return name


def lift(value: Any) -> Expression | None:
    """The expression that stands for a value, or None where it is no value of ours."""
    if isinstance(value, Value):
        return value.expression
    as_value = getattr(type(value), "_as_value", None)
    if as_value is not None:
        lifted: Value = as_value(value)
        return lifted.expression
    if isinstance(value, np.ndarray) and value.dtype == object:
        if value.ndim == 0:
            return lift(value.item())
        items = [lift(item) for item in value]
        if not items or any(item is None for item in items):
            return None
        known = [item for item in items if item is not None]
        whole = _whole(known)
        return call(arrays.STACK, *known, axis=0) if whole is None else whole
    if isinstance(value, (list, tuple)) and value:
        return lift_sequence(value)
    if isinstance(value, (bool, int, float, str, np.ndarray, np.generic)):
        try:
            return constant(value)
        except TypeError:
            return None
    return None


def _whole(items: list[Expression]) -> Expression | None:
    """The array of which these are all the elements, in order."""
    first = items[0]
    if not isinstance(first, Call) or first.function is not arrays.INDEX:
        return None
    array = first.arguments[0]
    before = dict(first.parameters)["key"][:-1]
    shape = array.type.shape
    if shape[len(before) :] != (len(items),):
        return None
    wanted = [call(arrays.INDEX, array, key=(*before, i)) for i in range(len(items))]
    if wanted != items:
        return None
    return call(arrays.INDEX, array, key=before) if before else array


def lift_sequence(value: Any) -> Expression | None:
    """A list: of numbers, an array; with Values among them, np.stack."""
    if not holds_value(value):
        try:
            array = np.asarray(value)
        except ValueError:
            return None
        return None if array.dtype == object else lift(array)
    items = [lift(item) for item in value]
    if any(item is None for item in items):
        return None
    location = user_location()
    return call(arrays.STACK, *[i for i in items if i is not None], axis=0, location=location)


def holds_value(value: Any) -> bool:
    """Whether it is lazy, or a nesting with something lazy in it."""
    if isinstance(value, (list, tuple)):
        return any(holds_value(item) for item in value)
    return isinstance(value, Value) or hasattr(type(value), "_as_value")


def expression_of(value: Any, what: str) -> Expression:
    """The expression of a value, or a TraceError that says what it was wanted for."""
    lifted = lift(value)
    if lifted is None:
        raise TraceError(
            f"{what} is a {type(value).__name__}; expected a number, an array or a Value",
            location=user_location(),
        )
    return lifted


def apply(entry: Any, *values: Any, **parameters: Any) -> Value:
    """A Value of one function of the table."""
    location = user_location()
    arguments = [expression_of(v, f"an argument of {entry.name}") for v in values]
    return Value(call(entry, *arguments, location=location, **parameters))


def results(made: Call) -> Any:
    """The Value, or the tuple of Values, of a call."""
    kind = made.any_type
    if isinstance(kind, TupleType):
        return tuple(Value(Item(made, i)) for i in range(len(kind.items)))
    return Value(made)


def is_record_symbol(value: Value) -> bool:
    """Whether it stands for one record's column and so has no value of its own."""
    return bool(columns([value.expression]))


def _binary(entry: Any, left: Any, right: Any) -> Any:
    a, b = lift(left), lift(right)
    if a is None or b is None:
        if left is None or right is None:
            # Python would answer `x == None` with False, whatever x will be.
            refuse("a comparison with None", "compare with a number; NaN has np.isnan")
        return NotImplemented
    return Value(call(entry, a, b, location=user_location()))


def _operator(ufunc: np.ufunc, swapped: bool = False) -> Callable[[Value, Any], Any]:
    entry = ufunc_function(ufunc)

    def method(self: Value, other: Any) -> Any:
        return _binary(entry, other, self) if swapped else _binary(entry, self, other)

    return method


def _unary(ufunc: np.ufunc) -> Callable[[Value], Value]:
    entry = ufunc_function(ufunc)

    def method(self: Value) -> Value:
        return apply(entry, self)

    return method


_BINARY: dict[str, np.ufunc] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide,
    "floordiv": np.floor_divide, "mod": np.remainder, "pow": np.power, "and": np.bitwise_and,
    "or": np.bitwise_or, "xor": np.bitwise_xor, "lshift": np.left_shift, "rshift": np.right_shift,
}  # fmt: skip
_COMPARISONS: dict[str, np.ufunc] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
    "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip
_UNARY: dict[str, np.ufunc] = {
    "neg": np.negative, "pos": np.positive, "abs": np.absolute, "invert": np.invert,
}  # fmt: skip
for _name, _ufunc in _BINARY.items():
    setattr(Value, f"__{_name}__", _operator(_ufunc))
    setattr(Value, f"__r{_name}__", _operator(_ufunc, swapped=True))
for _name, _ufunc in _COMPARISONS.items():
    setattr(Value, f"__{_name}__", _operator(_ufunc))
for _name, _ufunc in _UNARY.items():
    setattr(Value, f"__{_name}__", _unary(_ufunc))


def _fold_method(entry: Any) -> Callable[..., Value]:
    def method(self: Value, axis: Any = None, keepdims: bool = False, **more: Any) -> Value:
        from scalops.numpy_protocol import positive_axis

        axes = positive_axis(axis, self.ndim)
        return apply(entry, self, axis=axes, keepdims=keepdims, **more)

    method.__doc__ = f"As numpy.{entry.name}, over the axes of one record's array."
    return method


for _entry in (
    arrays.SUM, arrays.PROD, arrays.MEAN, arrays.MAX, arrays.MIN, arrays.ANY, arrays.ALL,
    arrays.ARGMAX, arrays.ARGMIN, arrays.VAR, arrays.STD,
):  # fmt: skip
    setattr(Value, _entry.name, _fold_method(_entry))

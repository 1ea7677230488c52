"""Values: lazy scalars and arrays, and the symbols that stand for a record's columns."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from scalops.algebra.dtypes import ArrayType, TupleType, name_of
from scalops.algebra.errors import ConfigError, TraceError, user_location
from scalops.algebra.expressions import Call, Expression, Item, call, columns, constant
from scalops.algebra.functions import arrays, function, linear, strings, ufunc_function
from scalops.algebra.sparse import SparseVector
from scalops.algebra.sparse_calls import elementwise_call
from scalops.differentiating import is_differentiated, refuse_number
from scalops.lazy import Lazy
from scalops.tracing import current, refuse

if TYPE_CHECKING:
    from scalops.strings import ListMethods, StringMethods

log = logging.getLogger("scalops")
_INT64 = 2**63

_ADD = ufunc_function(np.add)

# What to write in a loop, by what was asked for.
_HINTS = {
    "a truth value": "use & | ~ on booleans, np.where(...) for a choice, or the loop condition",
    "a float": "use NumPy's function (np.sqrt, not math.sqrt), or the Value itself",
    "an int": 'use NumPy\'s function (np.floor), or so.cast(v, "int64")',
    "a complex number": "use the Value itself",
    "a string": "look at the result: run().history, or collect() it",
    "a formatted number": "look at the result: run().history, or collect() it",
    "an index": "index through so.lit(array)[i]",
    "membership (in)": "use np.any(v == x)",
    "a NumPy array": "use the Value itself, or index through so.lit(array)[i]; a routine such as"
    " SciPy's minimize takes so.call(f, v, like=...)",
    "its value": "collect() runs nothing here: use the Value itself",
}


def _operator(ufunc: np.ufunc, swapped: bool = False) -> Callable[[Any, Any], Any]:
    entry = ufunc_function(ufunc)

    def method(self: Any, other: Any) -> Any:
        if type(other) is int and not -_INT64 <= other < _INT64 and self.dtype.kind == "f":
            other = float(other)  # as NumPy takes it beside floats
        return _binary(entry, other, self) if swapped else _binary(entry, self, other)

    return method


def _swapped(ufunc: np.ufunc) -> Callable[[Any, Any], Any]:
    return _operator(ufunc, swapped=True)


def _unary(ufunc: np.ufunc) -> Callable[[Any], Any]:
    entry = ufunc_function(ufunc)

    def method(self: Any) -> Any:
        return apply(entry, self)

    return method


def _fold(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        from scalops.numpy_protocol import function_call

        return function_call(getattr(np, name), (self, *args), kwargs)

    method.__doc__ = f"As numpy.{name}, over the axes of one record's array."
    return method


class Value(Lazy):
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

        refuse("its value", _HINTS["its value"])
        return collect(self)

    def forget(self) -> None:
        """Drop a result kept from an earlier `collect()`."""
        from scalops.session import current_session

        current_session().forget(self)

    def _implicit(self, what: str) -> Any:
        refuse(what, _HINTS[what])
        refuse_number([self.expression], what)
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
        refuse("a string", _HINTS["a string"])
        return repr(self)

    def __format__(self, spec: str) -> str:
        return format(self._implicit("a formatted number"), spec) if spec else str(self)

    def __contains__(self, item: object) -> bool:
        return bool(np.any(self._implicit("membership (in)") == item))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if not self.shape and (current() is not None or is_differentiated(self.expression)):
            # np.array([r.a, r.b]) becomes an array of symbols, which `lift` takes for np.stack.
            symbols = np.empty((), dtype=object)
            symbols[()] = self
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

    # Strings and lists.

    @property
    def str(self) -> StringMethods:
        """Methods of strings."""
        from scalops.strings import StringMethods

        return StringMethods(self)

    @property
    def list(self) -> ListMethods:
        """Methods of lists."""
        from scalops.strings import ListMethods

        return ListMethods(self)

    # Indexing and NumPy's methods.

    def __getitem__(self, key: Any) -> Value:
        from scalops.numpy_protocol import index

        return index(self, key)

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        raise TraceError(
            "a Value is immutable: v[i] = x has no effect on a plan",
            location=user_location(),
            hint=_instead_of_assignment(self, key),
        )

    # Operators and folds, as NumPy's.

    __add__, __radd__ = _operator(np.add), _swapped(np.add)
    __sub__, __rsub__ = _operator(np.subtract), _swapped(np.subtract)
    __mul__, __rmul__ = _operator(np.multiply), _swapped(np.multiply)
    __truediv__, __rtruediv__ = _operator(np.divide), _swapped(np.divide)
    __floordiv__, __rfloordiv__ = _operator(np.floor_divide), _swapped(np.floor_divide)
    __mod__, __rmod__ = _operator(np.remainder), _swapped(np.remainder)
    __pow__, __rpow__ = _operator(np.power), _swapped(np.power)
    __and__, __rand__ = _operator(np.bitwise_and), _swapped(np.bitwise_and)
    __or__, __ror__ = _operator(np.bitwise_or), _swapped(np.bitwise_or)
    __xor__, __rxor__ = _operator(np.bitwise_xor), _swapped(np.bitwise_xor)
    __lshift__, __rlshift__ = _operator(np.left_shift), _swapped(np.left_shift)
    __rshift__, __rrshift__ = _operator(np.right_shift), _swapped(np.right_shift)
    __eq__: Any = _operator(np.equal)
    __ne__: Any = _operator(np.not_equal)
    __lt__, __le__ = _operator(np.less), _operator(np.less_equal)
    __gt__, __ge__ = _operator(np.greater), _operator(np.greater_equal)
    __neg__, __pos__ = _unary(np.negative), _unary(np.positive)
    __abs__, __invert__ = _unary(np.absolute), _unary(np.invert)

    sum, prod, mean = _fold("sum"), _fold("prod"), _fold("mean")
    max, min, any, all = _fold("max"), _fold("min"), _fold("any"), _fold("all")
    argmax, argmin = _fold("argmax"), _fold("argmin")
    var, std = _fold("var"), _fold("std")

    def __matmul__(self, other: Any) -> Any:
        return _binary(linear.MATMUL, self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return _binary(linear.MATMUL, other, self)

    def __divmod__(self, other: Any) -> tuple[Any, Any]:
        return self // other, self % other

    def __round__(self, ndigits: int | None = None) -> Value:
        rounded = apply(arrays.ROUND, self, decimals=ndigits or 0)
        # As Python: to an int, unless told how many digits.
        return rounded.astype("int64") if ndigits is None and not self.shape else rounded

    @property
    def T(self) -> Value:
        """The transposed array."""
        return self.transpose()

    def transpose(self, *axes: Any) -> Value:
        """As numpy.ndarray.transpose."""
        if self.type.is_sparse:  # one axis
            return self
        if len(axes) == 1 and (axes[0] is None or isinstance(axes[0], (tuple, list))):
            axes = tuple(axes[0] or ())
        order = axes or tuple(reversed(range(self.ndim)))
        if not all(isinstance(a, (int, np.integer)) for a in order):
            raise TraceError("axes are Python ints", location=user_location())
        return apply(arrays.TRANSPOSE, self, axes=tuple(a % max(1, self.ndim) for a in order))

    def reshape(self, *shape: Any) -> Value:
        """As numpy.ndarray.reshape; sizes are Python ints."""
        target = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        known = np.broadcast_to(np.empty(()), self.shape)
        try:
            result = known.reshape(tuple(target)).shape
        except (ValueError, TypeError, OverflowError) as error:
            raise TraceError(
                f"reshape of {self.type}: {error}",
                location=user_location(),
                hint="sizes that make shapes are Python ints",
            ) from None
        return apply(arrays.RESHAPE, self, shape=result)

    def ravel(self) -> Value:
        """One axis."""
        if self.type.is_sparse:
            return self
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


def _instead_of_assignment(value: Value, key: Any) -> str:
    if isinstance(key, Value) and key.type.name == "bool":
        return "write v = so.where(mask, x, v)"
    at = key if isinstance(key, int) else "i"
    return f"write v = so.put(v, {at}, x)"


_CASTS = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "string",
    *(f"{what}[{unit}]" for what in ("timestamp", "duration") for unit in ("s", "ms", "us", "ns")),
)  # fmt: skip


def cast_name(dtype: Any) -> str:
    """The name of a scalar type to cast to, given as a name, a type of ours or NumPy's."""
    try:
        own = dtype.name if isinstance(dtype, ArrayType) else name_of(np.dtype(dtype))
        name = own or str(dtype)
    except (TypeError, ValueError):
        name = str(dtype)
    if name not in _CASTS or (isinstance(dtype, ArrayType) and dtype.shape):
        raise TraceError(
            f"cast to {str(dtype)!r}; expected one of {', '.join(_CASTS)}",
            location=user_location(),
        )
    return name


def _in_our_units(value: Any) -> Any:
    """Times as NumPy's, and days, hours and minutes as seconds."""
    if isinstance(value, (date, timedelta)):
        if getattr(value, "tzinfo", None) is not None:
            raise TypeError("a time of another zone")
        value = np.timedelta64(value) if isinstance(value, timedelta) else np.datetime64(value)
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "mM":
        unit, multiple = np.datetime_data(value.dtype)  # type: ignore[arg-type]
        if unit in ("W", "D", "h", "m") or multiple != 1:
            unit = "s" if unit in ("W", "D", "h", "m") else unit
            return value.astype(f"{value.dtype.kind}8[{unit}]")
    return value


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
        known = [i for i in items if i is not None]
        return call(arrays.STACK, *known, axis=0, location=user_location())
    if isinstance(value, (list, tuple)) and value:
        return lift_sequence(value)
    if isinstance(value, SparseVector):
        return constant(value)
    if type(value) is int and not -_INT64 <= value < _INT64:
        raise TraceError(
            f"the number {value if abs(value) < 10**20 else f'{value:.3g}'} does not fit int64",
            location=user_location(),
            hint="write it as a float: 1e30",
        )
    if isinstance(value, (bool, int, float, str, np.ndarray, np.generic, date, timedelta)):
        try:
            return constant(_in_our_units(value))
        except TypeError:
            return None
    return None


def lift_sequence(value: Any) -> Expression | None:
    """A list: of numbers, an array; with Values among them, np.stack."""
    if not holds_value(value):
        try:
            array = np.asarray(value)
        except (TypeError, ValueError):  # of Tables, say
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
            hint=getattr(type(value), "_value_hint", None),
        )
    return lifted


def apply(entry: Any, *values: Any, **parameters: Any) -> Value:
    """A Value of one function of the table."""
    location = user_location()
    arguments = [expression_of(v, f"an argument of {entry.name}") for v in values]
    return Value(call(for_strings(entry, *arguments), *arguments, location=location, **parameters))


def for_strings(entry: Any, *arguments: Expression) -> Any:
    """The function itself, or for the sum of strings their concatenation."""
    if entry is _ADD and all(a.type.is_string and not a.type.shape for a in arguments):
        return strings.CONCATENATE
    return entry


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
    return Value(elementwise_call(for_strings(entry, a, b), a, b, location=user_location()))

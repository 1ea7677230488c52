"""Functions of Values beside NumPy's, types for `returns=`, and `udf`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import TraceError, user_location
from scalops.algebra.functions import elementwise
from scalops.not_yet import refuse
from scalops.rows import Udf
from scalops.value import Value, apply

float64 = ArrayType("float64")
float32 = ArrayType("float32")
int64 = ArrayType("int64")
int32 = ArrayType("int32")
bool_ = ArrayType("bool")
string = ArrayType("string")
timestamp = ArrayType("timestamp[us]")


def vector(n: int) -> ArrayType:
    """The type of a vector of n float64."""
    return ArrayType("float64", (n,))


def where(condition: Any, x: Any, y: Any) -> Value:
    """x where the condition holds, else y; null counts as false."""
    return apply(elementwise.WHERE, condition, x, y)


def cast(a: Any, dtype: Any) -> Value:
    """`a` in another scalar type, given as a name or a type: `so.cast(r.n, "float32")`."""
    name = dtype.name if isinstance(dtype, ArrayType) else str(dtype)
    if name not in _CASTS:
        raise TraceError(
            f"cast to {name!r}; expected one of {sorted(_CASTS)}", location=user_location()
        )
    return apply(elementwise.CAST, a, dtype=name)


_CASTS = {
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
}  # fmt: skip


def lit(value: Any) -> Value:
    """A constant; a string needs it where a name would be taken for a column."""
    from scalops.value import expression_of

    return Value(expression_of(value, "lit"))


def udf(f: Callable[..., Any] | None = None, *, returns: Any = None, batch: bool = False) -> Any:
    """Mark a row function that runs as it is, record by record.

    `returns` declares its result: a type, a tuple of types or a dict of them; without it the
    type is found by running the first records.
    """
    if batch:
        refuse("so.udf(batch=True)")
    if f is None:
        return lambda g: Udf(g, returns)
    return Udf(f, returns)

"""Functions of Values beside NumPy's, types for `returns=`, and `udf`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.functions import elementwise
from scalops.environment import Environment
from scalops.not_yet import refuse
from scalops.rows import Associative, Udf
from scalops.structured import StructuredValue
from scalops.table import Table
from scalops.value import Value, apply, cast_name, holds_value

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


def where(condition: Any, x: Any, y: Any) -> Any:
    """x where the condition holds, else y; null counts as false."""
    if any(isinstance(v, (Table, StructuredValue, Environment)) for v in (x, y)):
        refuse("so.where of tables, structures and environments")
    if not _any_symbols(condition, x, y):
        return np.where(condition, x, y)[()]
    return apply(elementwise.WHERE, condition, x, y)


def cast(a: Any, dtype: Any) -> Any:
    """`a` in another scalar type, given as a name or a type: `so.cast(r.n, "float32")`."""
    name = cast_name(dtype)
    if not _any_symbols(a):
        return None if a is None else elementwise.CAST.evaluate(a, dtype=name)
    return apply(elementwise.CAST, a, dtype=name)


def _any_symbols(*values: Any) -> bool:
    """Whether one of them is lazy; else the function is NumPy's, as in an opaque function."""
    return any(isinstance(v, Value) or holds_value(v) for v in values)


def lit(value: Any) -> Value:
    """A constant; a string needs it where a name would be taken for a column."""
    from scalops.value import expression_of

    return Value(expression_of(value, "lit"))


def assume_associative(f: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function for `reduce` whose associativity is not to be tested."""
    return Associative(f)


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

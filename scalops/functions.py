"""Functions of Values beside NumPy's, types for `returns=`, and `udf`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from scalops.algebra.dtypes import ArrayType, list_of
from scalops.algebra.errors import DataError, TraceError, user_location
from scalops.algebra.functions import casts, elementwise
from scalops.rows import Associative, Udf
from scalops.structured_choice import choose_structure, is_structured
from scalops.table import Table
from scalops.table_operators import choose_table
from scalops.value import Value, apply, cast_name, holds_value
from scalops.written_types import EXPECTED, readable, written_type

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


def list_(item: Any) -> ArrayType:
    """The type of lists of `item`, of any length: `so.list_(so.int64)`."""
    kind = written_type(item)
    if kind is None or kind.is_sparse:
        raise TraceError(
            f"so.list_ needs the type of the items; it got {readable(item)}",
            location=user_location(),
            hint=EXPECTED,
        )
    return list_of(kind)


def where(condition: Any, x: Any, y: Any) -> Any:
    """x where the condition holds, else y; null counts as false."""
    if isinstance(x, Table) or isinstance(y, Table):
        return choose_table(condition, x, y)
    if is_structured(x) or is_structured(y):
        return choose_structure(condition, x, y)
    if not _any_symbols(condition, x, y):
        chosen = elementwise.WHERE.evaluate(condition, x, y)
        return chosen[()] if isinstance(chosen, np.ndarray) else chosen
    return apply(elementwise.WHERE, condition, x, y)


def cast(a: Any, dtype: Any) -> Any:
    """`a` in another scalar type, given as a name or a type: `so.cast(r.n, "float32")`."""
    name = cast_name(dtype)
    if not _any_symbols(a):
        try:
            return None if a is None else casts.CAST.evaluate(a, dtype=name)
        except DataError as error:
            error.location = error.location or user_location()
            raise
    return apply(casts.CAST, a, dtype=name)


def _any_symbols(*values: Any) -> bool:
    """Whether one of them is lazy; else the function is NumPy's, as in an opaque function."""
    return any(isinstance(v, Value) or holds_value(v) for v in values)


def lit(value: Any) -> Value:
    """A constant; a string needs it where a name would be taken for a column."""
    from scalops.value import expression_of

    return Value(expression_of(value, "lit"))


def assume_associative(f: Any) -> Any:
    """Mark a function for `reduce`, an aggregate, or its `merge`: its laws are not tested."""
    return Associative(f)


def udf(f: Callable[..., Any] | None = None, *, returns: Any = None, batch: bool = False) -> Any:
    """Mark a row function that runs as it is, record by record.

    `returns` declares its result: a type, a tuple of types or a dict of them; without it the
    type is found by running the first records. With `batch` the function is called with a
    record whose columns are arrays of several records, and returns arrays as long.
    """
    if f is None:
        return lambda g: udf(g, returns=returns, batch=batch)
    if not callable(f):
        raise TraceError(
            f"so.udf needs a function; it got a {type(f).__name__}", location=user_location()
        )
    return Udf(f, returns, batch)

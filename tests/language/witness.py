"""Results as NumPy arrays, and their comparison with NumPy's own answer."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import scalops as so

Array = np.ndarray[Any, np.dtype[Any]]


def column(table: pa.Table, name: str = "value") -> Array:
    """A column without nulls as an array with the records in front."""
    values = table.column(name).combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = values.chunk(0) if values.num_chunks else pa.array([], values.type)
    assert values.null_count == 0
    if isinstance(values.type, pa.FixedShapeTensorType):
        flat = values.storage.flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat).reshape(len(values), *values.type.shape)
    if pa.types.is_fixed_size_list(values.type):
        flat = values.flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat).reshape(len(values), values.type.list_size)
    if pa.types.is_boolean(values.type):
        return np.asarray(values.to_numpy(zero_copy_only=False))
    return np.asarray(values)


def records(table: so.Table, name: str = "value") -> Array:
    """Run the plan; one column as an array."""
    return column(table.collect(), name)


def listed(table: so.Table, name: str = "value") -> list[Any]:
    """Run the plan; one column as Python values, None for null."""
    made: list[Any] = table.collect().column(name).to_pylist()
    return made


def ordered(table: so.Table) -> dict[str, list[Any]]:
    """Run the plan; all columns as Python values, in order."""
    made: dict[str, list[Any]] = table.collect().to_pydict()
    return made


def assert_same(found: Any, expected: Any, rtol: float = 1e-12) -> None:
    """Same type, same shape, same numbers but for rounding."""
    a, b = np.asarray(found), np.asarray(expected)
    assert a.dtype == b.dtype, f"{a.dtype} is not {b.dtype}"
    assert a.shape == b.shape, f"{a.shape} is not {b.shape}"
    if b.dtype.kind == "f":
        rtol = max(rtol, {2: 2e-3, 4: 2e-6}.get(b.dtype.itemsize, 0.0))
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)
    else:
        np.testing.assert_array_equal(a, b)


def value(array: Any) -> Any:
    """A Value of a plan that gives this array: it takes a run to know it."""
    return so.table({"x": np.asarray(array)[None]}).max("x")


def is_opaque(thing: Any) -> bool:
    """Whether a function of the plan runs record by record."""
    return "opaque" in thing.explain(stage="logical")


def line() -> int:
    """The line that calls."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def nulls(values: list[Any], kind: Any = None) -> pa.Array:
    """A column of Python values with None among them."""
    return pa.array(values, kind)


def least(values: Any) -> Any:
    """Arrow's answer to the least value."""
    return pc.min(values).as_py()

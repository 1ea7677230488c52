"""The type of an opaque function's results, from a few of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scalops.algebra.captured import Captured
from scalops.algebra.dtypes import ArrayType, list_of, name_of, sparse
from scalops.algebra.errors import TraceError
from scalops.engine.opaque.results import as_array


def common_type(values: Sequence[Any], captured: Captured, hint: str) -> ArrayType:
    """The type of which all values are, None being null. Raises TraceError."""
    known = [v[()] if isinstance(v, np.ndarray) else v for v in values if v is not None]
    if not known:
        raise TraceError(
            f"{captured.name} gives None for every sampled record",
            location=captured.location,
            hint=hint,
        )
    try:
        return _type_of(known, captured, hint)
    except (TypeError, ValueError) as error:
        raise TraceError(
            f"{captured.name} gives {error}, which is no column",
            location=captured.location,
            hint="return scalars, strings, arrays of one shape, lists, tuples or dicts of these",
        ) from None


def _same_shape(known: list[Any]) -> bool:
    """Whether lists are arrays of one shape: as many numbers in each, as in a traced `[a, b]`."""
    arrays = [as_array(v) for v in known]
    return all(a.dtype.kind in "biuf" and a.size for a in arrays) and (
        len({a.shape for a in arrays}) == 1
    )


def _type_of(known: list[Any], captured: Captured, hint: str) -> ArrayType:
    if any(isinstance(v, list) for v in known) and not _same_shape(known):
        if not all(isinstance(v, list) for v in known):
            raise TypeError("lists and other values")
        items = [i for v in known for i in v if i is not None]
        if not items:
            raise TraceError(
                f"{captured.name} gives lists without items for every sampled record",
                location=captured.location,
                hint=hint,
            )
        return list_of(_type_of(items, captured, hint))
    if any(type(v).__module__ == "scalops.algebra.sparse" for v in known):
        dimensions = {v.shape for v in known}
        if len(dimensions) > 1:
            raise TypeError(f"sparse vectors of the shapes {sorted(dimensions)}")
        return sparse(dimensions.pop()[0])
    arrays = [as_array(v) for v in known]
    shapes = {a.shape for a in arrays}
    if len(shapes) > 1:
        raise TypeError(f"arrays of the shapes {sorted(shapes)}")
    dtype = np.result_type(*{a.dtype for a in arrays})
    if any(isinstance(v, str) for v in known) and not all(isinstance(v, str) for v in known):
        raise TypeError("strings and other values")
    name = name_of(dtype)
    if name is None or (name == "string" and not all(isinstance(v, str) for v in known)):
        raise TypeError(f"a {type(known[0]).__name__}")
    return ArrayType(name, shapes.pop())

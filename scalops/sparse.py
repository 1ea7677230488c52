"""Sparse vectors: made of indices and values, of tokens, and made dense."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np

from scalops.algebra.errors import DataError, TraceError, user_location
from scalops.algebra.functions.sparse import (
    DENSE,
    HASHED_COUNTS,
    SPARSE_VECTOR,
    require_dimension,
)
from scalops.algebra.functions.table import Function
from scalops.algebra.sparse import SparseVector
from scalops.value import Value, apply, holds_value


def sparse_vector(indices: Any, values: Any, dimension: int) -> Any:
    """A sparse vector with these values at these indices; those of equal indices are added up.

    Both are lists or vectors, expressions of a record or plain ones. An index outside
    0..dimension-1, a null, and unequal lengths are a DataError.
    """
    if holds_value(indices) or holds_value(values):
        return apply(SPARSE_VECTOR, indices, values, dimension=dimension)
    at, numbers = _items(indices), _items(values)
    for items, kinds, what in ((at, "iu", "integers"), (numbers, "biuf", "numbers")):
        if items.ndim != 1 or (len(items) and items.dtype.kind not in kinds):
            _refused(f"sparse_vector needs a list of {what}, not {items.tolist()!r:.80}")
    return _evaluated(SPARSE_VECTOR, (at, numbers), dimension)


def hashed_counts(tokens: Any, dimension: int) -> Any:
    """How often each string of a list occurs, as a sparse vector: feature hashing.

    A string counts at its hash modulo `dimension`. The hash is the same on every machine and
    in every session; strings with the same one are counted together.
    """
    if isinstance(tokens, Value):
        return apply(HASHED_COUNTS, tokens, dimension=dimension)
    if isinstance(tokens, (str, bytes)) or not isinstance(tokens, Iterable):
        _refused(f"hashed_counts needs a list of strings, not {tokens!r:.80}")
    items = list(tokens)
    if not all(t is None or isinstance(t, str) for t in items):
        _refused(f"hashed_counts needs a list of strings, not {items!r:.80}")
    return _evaluated(HASHED_COUNTS, (items,), dimension)


def dense(x: Any) -> Any:
    """The same vector with every element stored; what is not sparse stays as it is."""
    if isinstance(x, Value):
        return x if x.type.is_numeric and not x.type.is_sparse else apply(DENSE, x)
    if isinstance(x, SparseVector):
        return x.toarray()
    return apply(DENSE, x) if holds_value(x) else np.asarray(x)[()]


def _items(items: Any) -> Any:
    if isinstance(items, (list, tuple)) and any(i is None for i in items):
        raise DataError(
            "a sparse vector has a null among its items",
            location=user_location(),
            hint="drop it first",
        )
    try:
        return np.asarray(items)
    except ValueError:
        _refused(f"sparse_vector needs a list of numbers, not {items!r:.80}")


def _evaluated(entry: Function, arguments: tuple[Any, ...], dimension: int) -> Any:
    """The function's meaning for plain values, with the user's line in its errors."""
    try:
        return entry.evaluate(*arguments, dimension=require_dimension(dimension))
    except (TypeError, ValueError) as error:
        _refused(str(error))
    except DataError as error:
        error.location = error.location or user_location()
        raise


def _refused(message: str) -> NoReturn:
    raise TraceError(message, location=user_location())

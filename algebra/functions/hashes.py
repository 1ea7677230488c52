"""Buckets of values by their hash, the same on every machine and in every session."""

from __future__ import annotations

from typing import Any

import numpy as np

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.functions.hashing import hash_numbers, hash_string
from scalops.algebra.functions.table import Function, register


def bucketed(hashes: Any, buckets: int | None = None) -> Any:
    """uint64 hashes as numbers of buckets, int64 in 0..buckets-1; without buckets themselves."""
    return hashes if buckets is None else (hashes % np.uint64(buckets)).astype(np.int64)


def _hash(value: Any, buckets: int | None = None) -> Any:
    if isinstance(value, str):
        hashes = np.asarray(hash_string(value), np.uint64)
    else:
        numbers = np.asarray(value)
        # Not of a scalar, whose products would warn that they wrap around.
        hashes = hash_numbers(np.atleast_1d(numbers)).reshape(numbers.shape)
    return bucketed(hashes, buckets)[()]


def _hash_type(kind: ArrayType, buckets: int | None = None) -> ArrayType:
    if kind.is_list or kind.is_sparse or (kind.is_string and kind.shape):
        raise TypeError(f"hash has no meaning for {kind}")
    return ArrayType("uint64" if buckets is None else "int64", kind.shape)


HASH = register(Function("hash", _hash_type, _hash, flops=20.0))

"""Checksums of a few elements of a column: enough to notice that an array was written to."""

from __future__ import annotations

import hashlib
from math import gcd, prod

import numpy as np
import pyarrow as pa

from scalops.algebra.dtypes import ArrayType
from scalops.engine.blocks import Array
from scalops.engine.columns import SparseColumn
from scalops.engine.storage.arrow import to_column

SAMPLED_ELEMENTS = 4_096
SAMPLED_RECORDS = 256
SAMPLED_TEXT_BYTES = 65_536


def checksum(column: Array | pa.ChunkedArray | SparseColumn, kind: ArrayType) -> str:
    """A digest of at most 4,096 elements at fixed strides, the first and the last.

    Of sparse vectors, as many stored ones with their places. Of Arrow data at most 256 records.
    It depends on the contents alone, not on where they lie in memory or in which process.
    """
    state = hashlib.blake2b(digest_size=16)
    if isinstance(column, np.ndarray):
        state.update(_sample(column).tobytes())
        return state.hexdigest()
    if isinstance(column, SparseColumn):
        for part in (column.indptr, column.indices, column.values):
            state.update(_sample(part).tobytes())
        return state.hexdigest()
    values, valid = to_column(_sampled_records(column, kind), kind, "a column")
    if isinstance(values, np.ndarray):
        state.update(values.tobytes())
    else:
        state.update(repr(values.to_pylist()).encode())
    if valid is not None:
        state.update(valid.tobytes())
    return state.hexdigest()


def _sample(array: Array) -> Array:
    if array.size == 0:
        return array
    step = _step(array.size, prod(array.shape[1:]))
    if array.flags.c_contiguous:
        flat = array.reshape(-1)
        return np.append(flat[::step], flat[-1])
    places = np.append(np.arange(0, array.size, step), array.size - 1)
    sampled: Array = array[np.unravel_index(places, array.shape)]
    return sampled


def _step(size: int, row: int) -> int:
    """A stride that visits every position of a row, not the same few columns again and again."""
    step = max(1, -(-size // (SAMPLED_ELEMENTS - 1)))
    while row > 1 and gcd(step, row) > 1:
        step += 1
    return step


def _sampled_records(column: pa.ChunkedArray, kind: ArrayType) -> list[pa.Array]:
    """Records at fixed strides and the last, chunk by chunk: `take` on all would copy all."""
    rows = len(column)
    wanted = min(SAMPLED_RECORDS, SAMPLED_ELEMENTS // max(1, kind.size))
    if kind.is_arrow:
        wanted = min(wanted, SAMPLED_TEXT_BYTES * rows // max(1, column.nbytes))
    step = max(1, -(-rows // max(1, wanted - 1)))
    places = np.append(np.arange(0, rows, step), rows - 1)
    ends = np.cumsum([len(chunk) for chunk in column.chunks])
    which = np.searchsorted(ends, places, side="right")
    sampled = []
    for index in dict.fromkeys(which[places >= 0].tolist()):
        chunk = column.chunk(index)
        inside = places[which == index] - (ends[index] - len(chunk))
        sampled.append(chunk.take(pa.array(inside)))
    return sampled
